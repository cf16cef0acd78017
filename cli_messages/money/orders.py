"""Which booking or bill a trade number is of, for the person who looks a difference up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from booking.reconciliation import Mismatch
    from booking.store.engine import Tx

_AT_ONCE = 200


async def orders_of(tx: Tx, found: Sequence[Mismatch]) -> dict[tuple[str | None, str], str]:
    """By channel and trade number: the order number of the booking, or the ids of the bills, paid with it."""
    from sqlalchemy import func, select

    from booking.store.tables import bookings, payments

    of: dict[tuple[str | None, str], str] = {}
    for channel in {one.channel for one in found if one.channel is not None}:
        numbers = [one.trade_no for one in found if one.channel == channel]
        for start in range(0, len(numbers), _AT_ONCE):
            booking = (bookings.c.hospital_id == payments.c.hospital_id) & (bookings.c.id == payments.c.booking_id)
            rows = await tx.all(
                select(payments.c.trade_no, func.coalesce(bookings.c.order_no, payments.c.bill_id).label("of"))
                .select_from(payments.outerjoin(bookings, booking))
                .where(
                    payments.c.hospital_id == tx.hospital_id,
                    payments.c.channel == channel,
                    payments.c.trade_no.in_(numbers[start : start + _AT_ONCE]),
                )
            )
            for row in rows:
                name = (channel, row["trade_no"])
                of[name] = " ".join(filter(None, (of.get(name), row["of"])))
    return of
