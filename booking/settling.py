"""Paid but not settled: money that the HIS has not booked yet, by its age. What goes back is not among it."""

from __future__ import annotations

import msgspec
from sqlalchemy import case, func, select, text

from booking.money import PaymentRow
from booking.store.engine import Tx
from booking.store.tables import UNSETTLED, payments

MOST_LISTED = 200


class Unsettled(msgspec.Struct, frozen=True):
    """How many payments, and how long the oldest has waited since it was reported."""

    count: int
    oldest_s: float


async def unsettled_bills(tx: Tx) -> Unsettled:
    """Those of bills; those of bookings wait for their registration, and are told as such."""
    row = await tx.first(
        # Bills among what is chosen, not a condition: SQLite would walk all that were ever paid, by the index of bills.
        select(
            func.count(payments.c.bill_id).label("n"),
            func.min(case((payments.c.bill_id.is_not(None), payments.c.created_ms))).label("oldest"),
        ).where(payments.c.hospital_id == tx.hospital_id, text(UNSETTLED))
    )
    if row is None or row["oldest"] is None:
        return Unsettled(0, 0.0)
    return Unsettled(row["n"], max(0.0, (tx.now_ms - row["oldest"]) / 1000))


async def unsettled_of(tx: Tx, client_id: str) -> list[PaymentRow]:
    """An API client's payments that are not settled, of bookings and bills, oldest first; MOST_LISTED at the most."""
    rows = await tx.all(
        select(payments)
        .where(payments.c.hospital_id == tx.hospital_id, text(UNSETTLED), payments.c.client_id == client_id)
        .order_by(payments.c.created_ms)
        .limit(MOST_LISTED)
    )
    return [msgspec.convert(row, PaymentRow) for row in rows]
