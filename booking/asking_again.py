"""What the hospital is asked again before a difference with its statement is reported: by the payment and by the refunds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import select

from booking.reconciliation import Mismatch
from booking.store.engine import Store
from booking.store.tables import payments, refunds

MOST_ASKED = 100  # questions to the HIS in one comparison: it has other work too


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the HIS has booked the payment of a booking or a bill (one of the two ids), or a refund.

    `amount_fen`: it must also say so of this amount, where its statement has another.
    """

    booking_id: str | None = None
    bill_id: str | None = None
    refund_id: str | None = None
    amount_fen: int | None = None


AskAgain = Callable[[Question], Awaitable[bool]]
"""The HIS's word on a question. False where it says no, cannot be asked, or does not answer."""


async def without_what_the_his_has(
    store: Store, hospital_id: str, found: Sequence[Mismatch], ask_again: AskAgain, *, day_ms: tuple[int, int]
) -> list[Mismatch]:
    """Leave out what the hospital confirms, asked by what its statement lacks; at most MOST_ASKED questions.

    Only where the merchant and we agree: otherwise nothing that it says could settle the difference.
    """
    left, rest = MOST_ASKED, []
    for one in found:
        questions: list[Question] = []
        if left and _could_be_settled(one):
            questions = await _questions(store, hospital_id, one, day_ms)
        if len(questions) > left:
            questions = []  # some of the answers would settle nothing
        left -= len(questions)
        answers = [await ask_again(question) for question in questions]
        if not answers or not all(answers):
            rest.append(one)
    return rest


def _could_be_settled(one: Mismatch) -> bool:
    return (
        one.kind in ("his_missing", "his_only", "amount")
        and one.ours_fen is not None
        and one.merchant_fen == one.ours_fen
    )


async def _questions(store: Store, hospital_id: str, one: Mismatch, day_ms: tuple[int, int]) -> list[Question]:
    async with store.read(hospital_id) as tx:
        of = (one.channel, one.trade_no)
        paid = await tx.all(_paid(hospital_id, *of))
        returned = await tx.all(_returned(hospital_id, *of, day_ms))
    return [] if not paid else questions_of(one, paid, returned)


def questions_of(one: Mismatch, paid: Sequence[dict[str, Any]], returned: Sequence[dict[str, Any]]) -> list[Question]:
    """What of ours would explain the difference if the hospital had it after all. Pure.

    The payment (each piece of it, where it was for several bills), one refund of the day, or all of them together; where its
    statement has another amount, the payment with its amount.
    """
    lacks_fen = (one.ours_fen or 0) - (one.his_fen or 0)
    if lacks_fen == sum(row["amount_fen"] for row in paid):
        return [Question(booking_id=row["booking_id"], bill_id=row["bill_id"]) for row in paid]
    if lacks_fen < 0:
        for row in returned:
            if row["amount_fen"] == -lacks_fen:
                return [Question(refund_id=row["id"])]
        if returned and sum(row["amount_fen"] for row in returned) == -lacks_fen:
            return [Question(refund_id=row["id"]) for row in returned]
    if one.kind != "amount":
        return []
    return [
        Question(booking_id=row["booking_id"], bill_id=row["bill_id"], amount_fen=row["amount_fen"]) for row in paid
    ]


def _paid(hospital_id: str, channel: str | None, trade_no: str) -> Any:
    return select(payments.c.booking_id, payments.c.bill_id, payments.c.amount_fen).where(
        payments.c.hospital_id == hospital_id,
        payments.c.channel == channel,
        payments.c.trade_no == trade_no,
        payments.c.kept,
    )


def _returned(hospital_id: str, channel: str | None, trade_no: str, day_ms: tuple[int, int]) -> Any:
    return (
        select(refunds.c.id, refunds.c.amount_fen)
        .where(
            refunds.c.hospital_id == hospital_id,
            refunds.c.channel == channel,
            refunds.c.trade_no == trade_no,
            refunds.c.status == "refunded",
            refunds.c.updated_ms >= day_ms[0],
            refunds.c.updated_ms < day_ms[1],
        )
        .order_by(refunds.c.created_ms, refunds.c.id)
    )
