"""Refunds: who asks for one, and how the portal carries it out. It moves the money and reports back."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update

from booking.billing import (
    BILL_CANCELLED,
    BillRow,
    SetAside,
    bill_key,
    cancel_bill,
    is_all_of,
    is_same_person,
    load_bill,
)
from booking.bookings import find_by_visit
from booking.commands import queue_command, wake_topic
from booking.errors import Refusal
from booking.ledger import post_refunded
from booking.money import (
    PaymentRow,
    TooMuchReturned,
    find_payment,
    kept_payment,
    owe_refund,
    payment_sum,
    purse_of,
    refund_id,
    refunds_of,
    tell_refund,
)
from booking.moves import load_booking, save_booking
from booking.store.engine import Tx
from booking.store.tables import refunds
from mappings.canonical import RefundAsked, Registration, RegistrationStatus

# A time-out at the payment channel is unknown, never failed: only a later word may settle it.
_AFTER: dict[str, frozenset[str]] = {
    "refund_due": frozenset({"refunding", "refunded", "refund_unknown", "refund_failed"}),
    "refunding": frozenset({"refunded", "refund_unknown", "refund_failed"}),
    "refund_unknown": frozenset({"refunding", "refunded", "refund_failed"}),
    "refund_failed": frozenset({"refunding", "refunded", "refund_unknown"}),
    "refunded": frozenset(),
}
TAKEN_BACK = "taken_back_by_his"
NOT_OFFERED = "not_offered_by_hospital"
_BY_HIS = frozenset({BILL_CANCELLED, TAKEN_BACK})
_WORDS = {"refunding": "refunding", "refunded": "refunded", "unknown": "refund_unknown", "failed": "refund_failed"}


async def load_refund(tx: Tx, refund_id: str) -> dict[str, Any] | None:
    """A refund of this hospital."""
    return await tx.first(select(refunds).where(refunds.c.hospital_id == tx.hospital_id, refunds.c.id == refund_id))


async def own_refund(tx: Tx, client_id: str, refund_id: str) -> dict[str, Any]:
    """A refund of this API client. Raises Refusal(refund_unknown)."""
    row = await load_refund(tx, refund_id)
    if row is None or row["client_id"] != client_id:
        raise Refusal("refund_unknown", f"There is no refund {refund_id} of yours at this hospital.")
    return row


async def report_refund(
    tx: Tx, row: dict[str, Any], *, word: str, refund_trade_no: str | None, tells_his: bool = False
) -> dict[str, Any]:
    """Take over the portal's word on a refund; the same word again changes nothing.

    `tells_his` says whether the hospital can be told that money went back: it is told of what it had booked, once. Of a bill
    at a hospital that cannot be told, a person has to tell its window: `his` is rejected, `his_code` NOT_OFFERED. Raises
    Refusal(refund_conflict) for a word that would undo a finished refund.
    """
    status = _WORDS[word]
    known_no = row["refund_trade_no"]
    if status == row["status"] and refund_trade_no in (None, known_no):
        return row
    if status == row["status"] == "refunded" and known_no is None:
        return await _add_number(tx, row, refund_trade_no)
    if status not in _AFTER[row["status"]]:
        under = " under another refund_trade_no" if status == row["status"] else ""
        raise Refusal("refund_conflict", f"Refund {row['id']} is {row['status']}{under}.")
    values = {"status": status, "refund_trade_no": refund_trade_no or known_no, "updated_ms": tx.now_ms}
    await tx.run(
        update(refunds).where(refunds.c.hospital_id == tx.hospital_id, refunds.c.id == row["id"]).values(**values)
    )
    if status == "refunded":
        named, fen = (row["channel"], row["trade_no"]), row["amount_fen"]
        await post_refunded(tx, *named, fen, refund_id=row["id"], piece=row["piece"])
    row = {**row, **values}
    if status == "refunded" and await _concerns_his(tx, row):
        row |= await _tell_his(tx, row, tells_his=tells_his)
    await tell_refund(tx, row)
    await _show(tx, row["booking_id"])
    return row


async def _add_number(tx: Tx, row: dict[str, Any], refund_trade_no: str | None) -> dict[str, Any]:
    """The channel's number of a refund that was reported without one; when it was done stays as it was told."""
    of = (refunds.c.hospital_id == tx.hospital_id, refunds.c.id == row["id"])
    await tx.run(update(refunds).where(*of).values(refund_trade_no=refund_trade_no))
    row = {**row, "refund_trade_no": refund_trade_no}
    await tell_refund(tx, row)
    return row


async def _concerns_his(tx: Tx, row: dict[str, Any]) -> bool:
    """Whether the HIS has booked what has gone back, and did not take it back itself.

    Of a registration's fee only the whole: the message for it says nothing of parts, and many a HIS gives the seat back by it.
    """
    payment = await find_payment(tx, row["channel"], row["trade_no"], row["piece"])
    if payment is None or not payment.kept or payment.settlement != "settled" or row["reason"] in _BY_HIS:
        return False
    return payment.bill_id is not None or row["amount_fen"] == payment.amount_fen


async def _tell_his(tx: Tx, row: dict[str, Any], *, tells_his: bool) -> dict[str, str | None]:
    """Queue the message for it. Without one, a registration has given its fee back with the visit; a bill needs the window."""
    if row["his_refund_no"] is not None:
        return await _note_his(tx, row["id"], "told")  # it has told us itself
    if not tells_his:
        return {} if row["bill_id"] is None else await _note_his(tx, row["id"], "rejected", NOT_OFFERED)
    after = None if row["booking_id"] is None else f"booking:{row['booking_id']}"  # its cancellation may be under way
    await queue_command(tx, line=f"refund:{row['id']}", verb="refund", subject_id=row["id"], waits_for=after)
    tx.ring(wake_topic(tx.hospital_id))
    return await _note_his(tx, row["id"], "pending")


async def note_his(tx: Tx, refund_id: str, his: str, code: str | None = None) -> None:
    """How far the HIS has been told of a refund, and why it is not; the portal hears of it."""
    row = await load_refund(tx, refund_id)
    if row is not None and (row["his"], row["his_code"]) != (his, code):
        await tell_refund(tx, row | await _note_his(tx, refund_id, his, code))


async def _note_his(tx: Tx, refund_id: str, his: str, code: str | None = None) -> dict[str, str | None]:
    values = {"his": his, "his_code": code}
    await tx.run(
        update(refunds).where(refunds.c.hospital_id == tx.hospital_id, refunds.c.id == refund_id).values(**values)
    )
    return values


async def _show(tx: Tx, booking_id: str | None) -> None:
    """Let a booking show what its refunds have made of its money."""
    if booking_id is not None and (booking := await load_booking(tx, booking_id)) is not None:
        shown = payment_sum(booking, *await purse_of(tx, booking.id))
        if shown != booking.payment_state:
            await save_booking(tx, booking)


async def ask_refund(tx: Tx, payment: PaymentRow | None, *, amount_fen: int, reason: str, part: str) -> dict[str, Any]:
    """A portal wants a part of what pays for a booking or a bill to go back, or all of it; the same `part` again is the same one.

    Raises Refusal(nothing_to_refund) without money that the HIS has booked, refund_too_large.
    """
    if payment is None or payment.settlement != "settled":
        raise Refusal("nothing_to_refund")
    try:
        row_id = await owe_refund(
            tx, payment, client_id=payment.client_id, reason=reason, amount_fen=amount_fen, part=part
        )
    except TooMuchReturned:
        raise Refusal("refund_too_large", left_fen=payment.left_fen) from None
    await _show(tx, payment.booking_id)
    return await own_refund(tx, payment.client_id, str(row_id))


async def take_back(tx: Tx, asked: RefundAsked) -> None:
    """The HIS has taken back a payment, or a part of it: where it is ours that falls due to go back, once.

    Raises SetAside where it does not say enough, names a payment that we do not know, or takes back more than is left.
    """
    bill = None if asked.bill_id is None else await load_bill(tx, bill_key(tx.hospital_id, asked.bill_id))
    if bill is not None and not await _is_of(tx, bill, asked.mrn):
        raise SetAside(f"bill {bill.id} is known as another patient's")
    payment = await (_of_booking(tx, asked) if bill is None else kept_payment(tx, bill_id=bill.id))
    whole = _is_whole(bill, payment, asked.amount_fen)
    if asked.trade_no is not None and (payment is None or asked.trade_no != payment.trade_no):
        raise SetAside("a payment that we have not reported for this is taken back")
    if payment is not None:
        await _owe_taken_back(tx, payment, asked, whole=whole)
    if whole and bill is not None:
        await cancel_bill(tx, bill)


def _is_whole(bill: BillRow | None, payment: PaymentRow | None, amount_fen: int | None) -> bool:
    """Whether so much (None: as much as there is) is all that was paid, or all that a bill is over which was not paid here."""
    if bill is None:
        return payment is not None and amount_fen in (None, payment.amount_fen)
    if payment is None:
        return amount_fen in (None, bill.amount_fen)
    return amount_fen is None or is_all_of(bill, payment, amount_fen)


async def _is_of(tx: Tx, bill: BillRow, mrn: str | None) -> bool:
    return mrn is None or await is_same_person(tx, bill.mrn_digest, tx.digest("mrn", mrn))


async def _of_booking(tx: Tx, asked: RefundAsked) -> PaymentRow | None:
    # Its status says nothing here: a visit is found by its numbers.
    named = Registration(status=RegistrationStatus.REGISTERED, order_no=asked.order_no, his_id=asked.his_id)
    booking = await find_by_visit(tx, named)
    return None if booking is None else await kept_payment(tx, booking_id=booking.id)


async def _is_ours(tx: Tx, payment: PaymentRow, asked: RefundAsked, amount_fen: int | None) -> bool:
    """Whether the HIS tells of a refund that a portal began: it has booked that one, and another must not fall due for it.

    Of several of one amount the oldest that it has not told of; so that a call that is repeated is the same, its number is kept.
    """
    theirs = await refunds_of(tx, booking_id=payment.booking_id, bill_id=payment.bill_id)
    of_payment = [row for row in theirs if (row["channel"], row["trade_no"]) == (payment.channel, payment.trade_no)]
    number = asked.his_refund_no
    if number is not None and any(row["his_refund_no"] == number for row in of_payment):
        return True
    named = refund_id(tx.hospital_id, payment.channel, payment.trade_no, f"his {number}", piece=payment.piece)
    if any(row["id"] == named for row in of_payment):
        return True
    row = next((row for row in of_payment if row["amount_fen"] == amount_fen and _may_be_told(row)), None)
    if row is None:
        return False
    of = (refunds.c.hospital_id == tx.hospital_id, refunds.c.id == row["id"])
    await tx.run(update(refunds).where(*of).values(his_refund_no=number))
    if row["his"] in ("rejected", "unknown"):
        await note_his(tx, row["id"], "told", row["his_code"])
    return True


def _may_be_told(row: dict[str, Any]) -> bool:
    """Whether a HIS's word on a refund may be about this one: not its own, and not one that it was told of by a message."""
    by_message = row["his"] == "told" and row["his_code"] is None
    return row["reason"] not in _BY_HIS and row["his_refund_no"] is None and not by_message


async def _owe_taken_back(tx: Tx, payment: PaymentRow, asked: RefundAsked, *, whole: bool) -> None:
    if payment.settlement != "settled":
        raise SetAside("a payment is taken back of which we do not know yet that it was booked: apply it again later")
    if not whole and asked.his_refund_no is None:
        raise SetAside("a part is taken back under no number: another call could not be told from another part")
    if await _is_ours(tx, payment, asked, payment.amount_fen if whole else asked.amount_fen):
        return
    try:
        await owe_refund(
            tx,
            payment,
            client_id=payment.client_id,
            reason=BILL_CANCELLED if whole and payment.bill_id is not None else TAKEN_BACK,
            amount_fen=payment.amount_fen if whole and asked.amount_fen is not None else asked.amount_fen,
            part=None if whole else f"his {asked.his_refund_no}",
        )
    except TooMuchReturned as e:
        raise SetAside(f"more is taken back than is left: {e}") from None
    await _show(tx, payment.booking_id)
