"""Asking for comparisons of a day's books, and for new ones where a bill has come late."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import func, select

from booking.store.engine import Tx
from booking.store.tables import merchant_lines, reconciliations


def asked_topic(hospital_id: str) -> str:
    """Rung when a comparison was asked for."""
    return f"reconcile:{hospital_id}"


async def ask_run(tx: Tx, date: dt.date) -> int:
    """Ask for a comparison of a day; one that waits already is as good. Returns its number."""
    newest = await _newest_run(tx, date)
    if newest is not None and newest[1] is None:
        return newest[0]
    run = 1 if newest is None else newest[0] + 1
    await tx.insert(
        reconciliations,
        {"hospital_id": tx.hospital_id, "date": date.isoformat(), "run": run, "asked_ms": tx.now_ms},
    )
    tx.ring(asked_topic(tx.hospital_id))
    return run


async def reopen(tx: Tx, date: dt.date) -> None:
    """A bill of this day has come: where there is one of a later day, nobody would look at this one again by himself.

    The days beside it, if they were compared, are compared again as well: what went over midnight has its other half here.
    """
    newest = await tx.first(
        select(func.max(merchant_lines.c.date).label("day")).where(merchant_lines.c.hospital_id == tx.hospital_id)
    )
    if newest is None or newest["day"] is None or newest["day"] <= date.isoformat():
        return
    await ask_run(tx, date)
    for days in (-1, 1):
        beside = date + dt.timedelta(days=days)
        if await _newest_run(tx, beside) is not None:
            await ask_run(tx, beside)


async def _newest_run(tx: Tx, date: dt.date) -> tuple[int, int | None] | None:
    row = await tx.first(
        select(reconciliations.c.run, reconciliations.c.done_ms)
        .where(reconciliations.c.hospital_id == tx.hospital_id, reconciliations.c.date == date.isoformat())
        .order_by(reconciliations.c.run.desc())
        .limit(1)
    )
    return None if row is None else (int(row["run"]), row["done_ms"])
