"""Merchants' bills as tests look at them."""

from __future__ import annotations

import datetime as dt

from booking.merchant_bills import bill_pages, whole_revisions
from booking.reconciliation import Entry
from booking.store.engine import Store
from tests.booking.world import HOSPITAL


async def merchant_entries(store: Store, date: dt.date) -> list[Entry] | None:
    """Every line of a day's bill, None when none was sent."""
    async with store.read(HOSPITAL) as tx:
        revisions = await whole_revisions(tx, date)
    if not revisions:
        return None
    return [
        Entry(row["trade_no"], row["channel"], row["amount_fen"] * (-1 if row["kind"] == "refund" else 1))
        async for page in bill_pages(store, HOSPITAL, date, revisions)
        for row in page
    ]
