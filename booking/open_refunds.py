"""Refunds that are not at their end: money that has not gone back yet, and money gone back of which the HIS does not know."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import ColumnElement, case, func, select, text

from booking.refunds import load_refund, note_his
from booking.store.engine import Tx
from booking.store.tables import OPEN_REFUND, refunds

MOST_LISTED = 200
UNTOLD = ("pending", "unknown", "rejected")

_OPEN = text(f"({OPEN_REFUND})")


class OpenRefunds(msgspec.Struct, frozen=True):
    """How many have not gone back, since when the oldest is due, and those gone back by what the HIS knows of them."""

    owed: int
    oldest_s: float
    untold: dict[str, int]


async def count_open(tx: Tx) -> OpenRefunds:
    """Of one hospital."""
    owed = refunds.c.status != "refunded"
    row = await tx.first(
        select(
            func.count(case((owed, 1))).label("owed"),
            func.min(case((owed, refunds.c.created_ms))).label("oldest"),
            *(func.count(case((refunds.c.his == his, 1))).label(his) for his in UNTOLD),
        ).where(refunds.c.hospital_id == tx.hospital_id, _OPEN)
    )
    if row is None:
        return OpenRefunds(0, 0.0, dict.fromkeys(UNTOLD, 0))
    oldest_s = 0.0 if row["oldest"] is None else max(0.0, (tx.now_ms - row["oldest"]) / 1000)
    return OpenRefunds(row["owed"], oldest_s, {his: row[his] for his in UNTOLD})


async def open_refunds(tx: Tx, *, client_id: str | None = None, his: str | None = None) -> list[dict[str, Any]]:
    """Those of one API client or of all, of one word of the HIS or of any, oldest first; MOST_LISTED at the most."""
    chosen: list[ColumnElement[bool]] = [refunds.c.hospital_id == tx.hospital_id]
    if client_id is not None:
        chosen.append(refunds.c.client_id == client_id)
    if his is not None:
        chosen.append(refunds.c.his == his)
    return await tx.all(select(refunds).where(_OPEN, *chosen).order_by(refunds.c.created_ms).limit(MOST_LISTED))


async def book_by_hand(tx: Tx, refund_id: str) -> bool:
    """Take a person's word that the hospital has booked a refund of which it refused to hear; False if there is none such."""
    row = await load_refund(tx, refund_id)
    if row is None or row["his"] != "rejected":
        return False
    await note_his(tx, refund_id, "told", row["his_code"])
    return True
