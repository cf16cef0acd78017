"""Refunds as the portal carries them out: it moves the money and reports back."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update

from booking.errors import Refusal
from booking.ledger import post_refunded
from booking.money import payment_sum, purse_of
from booking.moves import load_booking, save_booking
from booking.news import tell
from booking.store.engine import Tx
from booking.store.tables import refunds

# A time-out at the payment channel is unknown, never failed: only a later word may settle it.
_AFTER: dict[str, frozenset[str]] = {
    "refund_due": frozenset({"refunding", "refunded", "refund_unknown", "refund_failed"}),
    "refunding": frozenset({"refunded", "refund_unknown", "refund_failed"}),
    "refund_unknown": frozenset({"refunding", "refunded", "refund_failed"}),
    "refund_failed": frozenset({"refunding", "refunded", "refund_unknown"}),
    "refunded": frozenset(),
}
_WORDS = {"refunding": "refunding", "refunded": "refunded", "unknown": "refund_unknown", "failed": "refund_failed"}


async def own_refund(tx: Tx, client_id: str, refund_id: str) -> dict[str, Any]:
    """A refund of this API client. Raises Refusal(refund_unknown)."""
    row = await tx.first(
        select(refunds).where(
            refunds.c.hospital_id == tx.hospital_id, refunds.c.id == refund_id, refunds.c.client_id == client_id
        )
    )
    if row is None:
        raise Refusal("refund_unknown", f"There is no refund {refund_id} of yours at this hospital.")
    return row


async def report_refund(tx: Tx, row: dict[str, Any], *, word: str, refund_trade_no: str | None) -> dict[str, Any]:
    """Take over the portal's word on a refund; the same word again changes nothing.

    Raises Refusal(refund_conflict) for a word that would undo a finished refund.
    """
    status = _WORDS[word]
    known_no = row["refund_trade_no"]
    if status == row["status"] and refund_trade_no in (None, known_no):
        return row
    if status not in _AFTER[row["status"]]:
        raise Refusal("refund_conflict", f"Refund {row['id']} is {row['status']}.")
    values = {"status": status, "refund_trade_no": refund_trade_no or known_no, "updated_ms": tx.now_ms}
    await tx.run(
        update(refunds).where(refunds.c.hospital_id == tx.hospital_id, refunds.c.id == row["id"]).values(**values)
    )
    if status == "refunded":
        await post_refunded(tx, row["channel"], row["trade_no"], row["amount_fen"], refund_id=row["id"])
    row = {**row, **values}
    await tell(
        tx,
        row["client_id"],
        "refund.changed",
        {
            "refund_id": row["id"],
            "booking_id": row["booking_id"],
            "bill_id": row["bill_id"],
            "amount_fen": row["amount_fen"],
            "status": status,
        },
    )
    if row["booking_id"] is not None and (booking := await load_booking(tx, row["booking_id"])) is not None:
        shown = payment_sum(booking, *await purse_of(tx, booking.id))
        if shown != booking.payment_state:
            await save_booking(tx, booking)
    return row
