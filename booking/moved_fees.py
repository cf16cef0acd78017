"""改诊差额: the hospital has the fee of the session to which a booking was moved, the merchant and we what was paid before.

A booking that is moved keeps its fee (ADR-0037). A hospital whose new session costs more or less may have that in its statement:
under the payment, or as a movement of the difference on another day.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, or_, select

from booking.reconciliation import Mismatch
from booking.store.engine import Store
from booking.store.tables import bookings, payments, schedules

MOVED_FEE = "moved_fee"
_LOOK_UP = 200


async def with_moved_fees(
    store: Store, hospital_id: str, found: Sequence[Mismatch], channels: Collection[str | None]
) -> list[Mismatch]:
    """The same differences, those that are the fee of a moved booking told as such.

    `channels`: under which the number of one that only the hospital has may have been paid.
    """
    candidates = {one.trade_no for one in found if _may_be(one)}
    fees = await _fees(store, hospital_id, candidates, {c for c in channels if c is not None}) if candidates else {}
    return [
        msgspec.structs.replace(one, kind=MOVED_FEE) if is_moved_fee(one, fees.get(one.trade_no, ())) else one
        for one in found
    ]


def _may_be(one: Mismatch) -> bool:
    """Whether merchant and we agree, and the hospital has something else."""
    return (
        one.kind in ("amount", "his_only")
        and (one.merchant_fen or 0) == (one.ours_fen or 0)
        and one.his_fen is not None
    )


def is_moved_fee(one: Mismatch, fees: Collection[tuple[str, int]]) -> bool:
    """Whether the hospital has more, or less, by just what the new session costs more, or less. Pure.

    `fees`: by channel, how much the fee of the session is above what was paid, of bookings paid under the number.
    """
    if not _may_be(one):
        return False
    more_fen = (one.his_fen or 0) - (one.ours_fen or 0)
    return any(fen == more_fen for channel, fen in fees if one.ours_fen is None or channel == one.channel)


async def _fees(
    store: Store, hospital_id: str, numbers: Collection[str], channels: Collection[str]
) -> dict[str, set[tuple[str, int]]]:
    """By trade number (or order number, under which a hospital may write it), of bookings that were moved."""
    fees: dict[str, set[tuple[str, int]]] = {}
    left = iter(sorted(numbers))
    while some := list(islice(left, _LOOK_UP)):
        for which in (
            (payments.c.channel.in_(sorted(channels)), payments.c.trade_no.in_(some)),
            (bookings.c.order_no.in_(some),),
        ):
            async with store.read(hospital_id) as tx:
                rows = await tx.all(_moved(hospital_id, *which))
            for row in rows:
                fee = (row["channel"], row["new_fen"] - row["amount_fen"])
                for number in (row["trade_no"], row["order_no"]):
                    fees.setdefault(number, set()).add(fee)
    return fees


def _moved(hospital_id: str, *which: ColumnElement[bool]) -> Any:
    return (
        select(
            payments.c.channel,
            payments.c.trade_no,
            payments.c.amount_fen,
            bookings.c.order_no,
            schedules.c.fee_fen.label("new_fen"),
        )
        .select_from(
            payments.join(
                bookings, (bookings.c.hospital_id == payments.c.hospital_id) & (bookings.c.id == payments.c.booking_id)
            ).join(
                schedules,
                (schedules.c.hospital_id == bookings.c.hospital_id) & (schedules.c.id == bookings.c.schedule_id),
            )
        )
        .where(
            payments.c.hospital_id == hospital_id,
            payments.c.kept,
            bookings.c.hospital_id == hospital_id,
            bookings.c.moved_ms.is_not(None),
            schedules.c.fee_fen.is_not(None),
            or_(schedules.c.fee_fen < payments.c.amount_fen, schedules.c.fee_fen > payments.c.amount_fen),
            *which,
        )
    )
