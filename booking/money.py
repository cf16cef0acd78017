"""Payments and refunds of a booking or a bill. Reported money is always recorded; what cannot be used goes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import BindParameter, ColumnElement, Table, bindparam, select, update

from booking.ledger import post_received, post_refund_due, post_settled
from booking.lifecycle import HisState, State
from booking.news import tell
from booking.records import Booking
from booking.store.engine import Tx
from booking.store.fixed import Fixed, is_one_of
from booking.store.ids import derived_id
from booking.store.tables import payments, refunds
from mappings.canonical import Payment

_OVER = (State.CANCELLED, State.EXPIRED, State.REJECTED, State.STOPPED)


class PaymentRow(msgspec.Struct, kw_only=True):
    """A row of `payments`; `kept` is the one that pays for its purpose, `unusable` says why another does not.

    `piece`: where one payment was for several bills (合并支付) each is a row, and this is its bill; empty for all others.
    """

    hospital_id: str
    channel: str
    trade_no: str
    client_id: str
    amount_fen: int
    paid_at_ms: int
    kept: bool
    settlement: str
    created_ms: int
    booking_id: str | None = None
    bill_id: str | None = None
    unusable: str | None = None
    returned_fen: int = 0
    piece: str = ""

    @property
    def left_fen(self) -> int:
        """What of it neither has gone back nor is to."""
        return self.amount_fen - self.returned_fen


class TooMuchReturned(Exception):
    """More of a payment is to go back than is left of it. Nothing was changed."""


_NAMED = (
    payments.c.hospital_id == bindparam("of_hospital"),
    payments.c.channel == bindparam("of_channel"),
    payments.c.trade_no == bindparam("of_trade_no"),
)
_ONE = (*_NAMED, payments.c.piece == bindparam("of_piece"))
_FIND = Fixed(select(payments).where(*_NAMED))
_SETTLE = Fixed(update(payments).where(*_ONE).values(settlement=bindparam("new_settlement")))
_RETURN = Fixed(update(payments).where(*_ONE).values(returned_fen=payments.c.returned_fen + bindparam("more_fen")))
_REJECT = Fixed(update(payments).where(*_ONE).values(settlement="rejected", kept=False))


def _one(tx: Tx, row: PaymentRow) -> dict[str, str]:
    return {
        "of_hospital": tx.hospital_id,
        "of_channel": row.channel,
        "of_trade_no": row.trade_no,
        "of_piece": row.piece,
    }


async def find_payments(tx: Tx, channel: str, trade_no: str) -> list[PaymentRow]:
    """What was reported under this name, for whatever it was: one payment, or the pieces of one that was for several bills."""
    named = {"of_hospital": tx.hospital_id, "of_channel": channel, "of_trade_no": trade_no}
    return [msgspec.convert(row, PaymentRow) for row in await tx.all(_FIND, named)]


async def find_payment(tx: Tx, channel: str, trade_no: str, piece: str = "") -> PaymentRow | None:
    """The payment of this name, or this piece of it."""
    return next((row for row in await find_payments(tx, channel, trade_no) if row.piece == piece), None)


def _about(table: Table, subject: ColumnElement[str]) -> Fixed:
    """What a table has of one booking or bill: read with every look at it."""
    of_hospital: BindParameter[str] = bindparam("of_hospital")
    of_subject: BindParameter[str] = bindparam("of_subject")
    return Fixed(
        select(table).where(table.c.hospital_id == of_hospital, subject == of_subject).order_by(table.c.created_ms)
    )


_PAYMENTS_OF_BOOKING = _about(payments, payments.c.booking_id)
_PAYMENTS_OF_BILL = _about(payments, payments.c.bill_id)
_REFUNDS_OF_BOOKING = _about(refunds, refunds.c.booking_id)
_REFUNDS_OF_BILL = _about(refunds, refunds.c.bill_id)


async def payments_of(tx: Tx, *, booking_id: str | None = None, bill_id: str | None = None) -> list[PaymentRow]:
    """All payments reported for one booking or bill, oldest first."""
    statement = _PAYMENTS_OF_BOOKING if booking_id is not None else _PAYMENTS_OF_BILL
    rows = await tx.all(statement, {"of_hospital": tx.hospital_id, "of_subject": booking_id or bill_id})
    return [msgspec.convert(r, PaymentRow) for r in rows]


Purse = tuple[list[PaymentRow], list[dict[str, Any]]]
"""The payments of a booking and its refunds, oldest first."""


def _of_bookings(table: Table) -> Fixed:
    of_hospital: BindParameter[str] = bindparam("of_hospital")
    return Fixed(
        select(table)
        .where(table.c.hospital_id == of_hospital, is_one_of(table.c.booking_id, "ids"))
        .order_by(table.c.created_ms)
    )


_PAYMENTS_OF_BOOKINGS, _REFUNDS_OF_BOOKINGS = _of_bookings(payments), _of_bookings(refunds)


async def purse_of(tx: Tx, booking_id: str) -> Purse:
    """The purse of one booking, as `payment_sum` takes it."""
    paid = await payments_of(tx, booking_id=booking_id)
    return paid, await refunds_of(tx, booking_id=booking_id) if paid else []


async def purses_of(tx: Tx, booking_ids: Sequence[str]) -> dict[str, Purse]:
    """The purses of several bookings. Only of a payment is there a refund: most bookings that are looked at have neither."""
    purses: dict[str, Purse] = {booking_id: ([], []) for booking_id in booking_ids}
    of = {"of_hospital": tx.hospital_id, "ids": list(booking_ids)}
    paid = await tx.all(_PAYMENTS_OF_BOOKINGS, of) if booking_ids else []
    for row in paid:
        purses[row["booking_id"]][0].append(msgspec.convert(row, PaymentRow))
    for row in await tx.all(_REFUNDS_OF_BOOKINGS, of) if paid else ():
        purses[row["booking_id"]][1].append(row)
    return purses


async def kept_payment(tx: Tx, *, booking_id: str | None = None, bill_id: str | None = None) -> PaymentRow | None:
    """The payment that pays for this booking or bill, if there is one."""
    rows = await payments_of(tx, booking_id=booking_id, bill_id=bill_id)
    return next((p for p in rows if p.kept), None)


async def record_payment(
    tx: Tx,
    payment: Payment,
    *,
    client_id: str,
    booking_id: str | None = None,
    bill_id: str | None = None,
    unusable: str | None,
    piece: str = "",
) -> PaymentRow:
    """Store reported money, or a `piece` of it. With `unusable` its refund falls due at once."""
    row = PaymentRow(
        hospital_id=tx.hospital_id,
        channel=payment.channel,
        trade_no=payment.trade_no,
        client_id=client_id,
        amount_fen=payment.amount_fen,
        paid_at_ms=int(payment.paid_at.timestamp() * 1000),
        kept=unusable is None,
        settlement="pending" if unusable is None else "none",
        created_ms=tx.now_ms,
        booking_id=booking_id,
        bill_id=bill_id,
        unusable=unusable,
        piece=piece,
    )
    await tx.add(payments, msgspec.to_builtins(row))
    await post_received(tx, row.channel, row.trade_no, row.amount_fen, piece=piece)
    await tell_payment(tx, row)
    if unusable is not None:
        await owe_refund(tx, row, client_id=client_id, reason=unusable)
    return row


async def set_settlement(tx: Tx, payment: PaymentRow, settlement: str) -> None:
    """How far the HIS has settled a payment; `payment` is changed as well."""
    if payment.settlement == settlement:
        return
    payment.settlement = settlement
    await tx.later(_SETTLE, {**_one(tx, payment), "new_settlement": settlement})
    if settlement == "settled":
        await post_settled(tx, payment.channel, payment.trade_no, piece=payment.piece)
    await tell_payment(tx, payment)


async def reject_settlement(tx: Tx, payment: PaymentRow) -> None:
    """The HIS refuses a payment: it pays for nothing any more, and makes room for another; `payment` is changed as well."""
    payment.settlement, payment.kept = "rejected", False
    await tx.later(_REJECT, _one(tx, payment))
    await tell_payment(tx, payment)


def refund_id(hospital_id: str, channel: str, trade_no: str, part: str | None = None, *, piece: str = "") -> str:
    """Each refund has its id from the payment's name and, where only a part goes back, from the name of the part.

    So that whatever asks for it again asks for the same one.
    """
    named = (channel, trade_no, *((f"piece {piece}",) if piece else ()), *(() if part is None else (part,)))
    return derived_id("rf_", hospital_id, *named)


async def owe_refund(
    tx: Tx,
    payment: PaymentRow,
    *,
    client_id: str,
    reason: str,
    amount_fen: int | None = None,
    part: str | None = None,
) -> str | None:
    """Let what is left of a payment fall due to go back, or `amount_fen` of it under the name of a `part`; its id.

    A second call for the same changes nothing; None where nothing is left. `payment` is changed as well. Raises
    TooMuchReturned.
    """
    row_id = refund_id(tx.hospital_id, payment.channel, payment.trade_no, part, piece=payment.piece)
    if await tx.first(select(refunds.c.id).where(refunds.c.hospital_id == tx.hospital_id, refunds.c.id == row_id)):
        return row_id
    amount = payment.left_fen if amount_fen is None else amount_fen
    if amount > payment.left_fen:
        raise TooMuchReturned(f"{amount} fen of a payment of which {payment.left_fen} fen are left")
    if amount == 0:
        return None
    payment.returned_fen += amount
    await tx.later(_RETURN, {**_one(tx, payment), "more_fen": amount})
    row = {
        "hospital_id": tx.hospital_id,
        "id": row_id,
        "channel": payment.channel,
        "trade_no": payment.trade_no,
        "client_id": client_id,
        "booking_id": payment.booking_id,
        "bill_id": payment.bill_id,
        "amount_fen": amount,
        "status": "refund_due",
        "reason": reason,
        "refund_trade_no": None,
        "created_ms": tx.now_ms,
        "updated_ms": tx.now_ms,
        "his": "none",
        "his_code": None,
        "his_refund_no": None,
        "piece": payment.piece,
    }
    await tx.add(refunds, row)
    settled, piece = payment.settlement == "settled", payment.piece
    await post_refund_due(tx, payment.channel, payment.trade_no, amount, refund_id=row_id, settled=settled, piece=piece)
    await tell_refund(tx, row)
    return row_id


_TOLD_OF_PAYMENTS = ("channel", "trade_no", "booking_id", "bill_id", "amount_fen", "settlement", "unusable")
_TOLD_OF_REFUNDS = (
    "booking_id", "bill_id", "channel", "trade_no", "amount_fen", "status", "reason", "refund_trade_no", "his", "his_code",
)  # fmt: skip


async def tell_payment(tx: Tx, payment: PaymentRow) -> None:
    """Tell the portal that reported it how a payment stands."""
    told = {name: getattr(payment, name) for name in _TOLD_OF_PAYMENTS}
    await tell(tx, payment.client_id, "payment.changed", told)


async def tell_refund(tx: Tx, row: dict[str, Any]) -> None:
    """Tell the portal that owes it how a refund stands."""
    told = {name: row[name] for name in _TOLD_OF_REFUNDS}
    await tell(tx, row["client_id"], "refund.changed", {"refund_id": row["id"], **told})


async def refunds_of(tx: Tx, *, booking_id: str | None = None, bill_id: str | None = None) -> list[dict[str, Any]]:
    """The refunds of one booking or bill, oldest first."""
    statement = _REFUNDS_OF_BOOKING if booking_id is not None else _REFUNDS_OF_BILL
    return await tx.all(statement, {"of_hospital": tx.hospital_id, "of_subject": booking_id or bill_id})


def payment_sum(booking: Booking, paid: list[PaymentRow], owed: list[dict[str, Any]]) -> str:
    """What a booking shows of its money (DESIGN section 4). A surplus payment shows in its refund only."""
    kept = next((p for p in paid if p.kept), None)
    of_kept = [r for r in owed if kept is not None and (r["channel"], r["trade_no"]) == (kept.channel, kept.trade_no)]
    # While a booking lives, money that could not pay for it does not make it paid, nor refunded: the fee is still due.
    relevant = of_kept if kept is not None or booking.state not in _OVER else owed
    if relevant:
        if any(r["status"] != "refunded" for r in relevant):
            return "refund_due"
        in_part = kept is not None and sum(r["amount_fen"] for r in relevant) < kept.amount_fen
        return "part_refunded" if in_part else "refunded"
    if kept is not None:
        return "paid"
    if booking.fee_fen == 0:
        return "not_required"
    if booking.his_state == HisState.REGISTERED and booking.state != State.EXPIRED:  # there, it is being given back
        return "paid_at_window"
    return "void" if booking.state in _OVER else "due"
