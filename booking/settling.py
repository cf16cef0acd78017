"""Paid but not settled: money that the HIS has not booked yet, by its age. What goes back is not among it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import case, func, select, text

from booking.money import PaymentRow
from booking.store.engine import Tx
from booking.store.tables import UNSETTLED, bookings, payments

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


async def unsettled_of(tx: Tx, client_id: str | None = None) -> list[PaymentRow]:
    """Payments that are not settled, of one API client or of all, oldest first; MOST_LISTED at the most."""
    mine = [] if client_id is None else [payments.c.client_id == client_id]
    rows = await tx.all(
        select(payments)
        .where(payments.c.hospital_id == tx.hospital_id, text(UNSETTLED), *mine)
        .order_by(payments.c.created_ms)
        .limit(MOST_LISTED)
    )
    return [msgspec.convert(row, PaymentRow) for row in rows]


async def count_unsettled(tx: Tx) -> int:
    """How many there are, of all API clients."""
    row = await tx.first(
        select(func.count().label("n")).where(payments.c.hospital_id == tx.hospital_id, text(UNSETTLED))
    )
    return 0 if row is None else int(row["n"])


async def order_numbers(tx: Tx, booking_ids: Sequence[str]) -> dict[str, str]:
    """Under which numbers the hospital knows these bookings."""
    rows = await tx.all(
        select(bookings.c.id, bookings.c.order_no).where(
            bookings.c.hospital_id == tx.hospital_id, bookings.c.id.in_(booking_ids)
        )
    )
    return {row["id"]: row["order_no"] for row in rows}
