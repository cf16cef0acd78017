"""Comparisons as they are asked for, made and kept: whoever works the hospital makes them, anybody may ask and read."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from sqlalchemy import func, select, update

from booking.comparing import Compared
from booking.reconciliation import Mismatch
from booking.store.engine import Store, Tx
from booking.store.tables import differences, reconciliations

CHUNK = 500
KEPT_RUNS = 2  # of a day; the one before may still be being read, page by page


def done_topic(hospital_id: str, date: str) -> str:
    """Rung when one of a day was made."""
    return f"reconciled:{hospital_id}:{date}"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison of a day. `done_ms` None: it was asked for and is not made yet; `failed` says why it could not be."""

    date: str
    run: int
    asked_ms: int
    done_ms: int | None
    failed: str | None
    merchant_lines: int
    our_lines: int
    his_lines: int | None
    differences: int


_COLUMNS = [reconciliations.c[name] for name in Run.__struct_fields__]


async def next_asked(tx: Tx) -> Run | None:
    """The comparison that has waited longest."""
    row = await tx.first(
        select(*_COLUMNS)
        .where(reconciliations.c.hospital_id == tx.hospital_id, reconciliations.c.done_ms.is_(None))
        .order_by(reconciliations.c.asked_ms)
        .limit(1)
    )
    return None if row is None else msgspec.convert(row, Run)


async def finish_run(store: Store, hospital_id: str, date: str, run: int, compared: Compared) -> None:
    """Keep what was found. One that breaks off in between is made anew: its rows are written over."""
    key = {"hospital_id": hospital_id, "date": date, "run": run}
    for start in range(0, len(compared.differences), CHUNK):
        some = compared.differences[start : start + CHUNK]
        rows = [{**key, "number": n, **msgspec.structs.asdict(one)} for n, one in enumerate(some, start + 1)]
        async with store.write(hospital_id) as tx:
            await tx.upsert(differences, rows)
    await _end(
        store,
        hospital_id,
        date,
        run,
        {
            "failed": None,
            "merchant_lines": compared.merchant_lines,
            "our_lines": compared.our_lines,
            "his_lines": compared.his_lines,
            "differences": len(compared.differences),
        },
    )


async def fail_run(store: Store, hospital_id: str, date: str, run: int, code: str) -> None:
    """It could not be made; `code` is an API code."""
    await _end(store, hospital_id, date, run, {"failed": code})


async def _end(store: Store, hospital_id: str, date: str, run: int, values: dict[str, Any]) -> None:
    async with store.write(hospital_id) as tx:
        await tx.run(
            update(reconciliations)
            .where(
                reconciliations.c.hospital_id == hospital_id,
                reconciliations.c.date == date,
                reconciliations.c.run == run,
            )
            .values(done_ms=tx.now_ms, **values)
        )
        tx.ring(done_topic(hospital_id, date))
    older = (reconciliations.c.date == date, reconciliations.c.run <= run - KEPT_RUNS)
    while await _forget_runs(store, hospital_id, *older):
        pass


async def load_run(tx: Tx, date: dt.date, run: int) -> Run | None:
    """A comparison of a day by its number."""
    row = await tx.first(
        select(*_COLUMNS).where(
            reconciliations.c.hospital_id == tx.hospital_id,
            reconciliations.c.date == date.isoformat(),
            reconciliations.c.run == run,
        )
    )
    return None if row is None else msgspec.convert(row, Run)


async def page_of(tx: Tx, run: Run, *, after: int = 0, limit: int = CHUNK) -> list[tuple[int, Mismatch]]:
    """The differences of a comparison after a number, each with its own."""
    columns = [differences.c[name] for name in Mismatch.__struct_fields__]
    rows = await tx.all(
        select(differences.c.number, *columns)
        .where(
            differences.c.hospital_id == tx.hospital_id,
            differences.c.date == run.date,
            differences.c.run == run.run,
            differences.c.number > after,
            differences.c.number <= run.differences,
        )
        .order_by(differences.c.number)
        .limit(limit)
    )
    return [(row.pop("number"), msgspec.convert(row, Mismatch)) for row in rows]


async def _forget_runs(store: Store, hospital_id: str, *which: Any) -> int:
    """Delete one comparison of those, its differences first, a chunk at a time; returns how many rows went."""
    async with store.read(hospital_id) as tx:
        row = await tx.first(
            select(reconciliations.c.date, reconciliations.c.run)
            .where(reconciliations.c.hospital_id == hospital_id, *which)
            .order_by(reconciliations.c.date, reconciliations.c.run)
            .limit(1)
        )
    if row is None:
        return 0
    gone = 0
    for table, column in ((differences, differences.c.number), (reconciliations, reconciliations.c.run)):
        of = (table.c.hospital_id == hospital_id, table.c.date == row["date"], table.c.run == row["run"])
        while True:
            async with store.write(hospital_id) as tx:
                last = await tx.first(select(func.max(column).label("n")).where(*of))
                if last is None or last["n"] is None:
                    break
                gone += await tx.run(table.delete().where(*of, column > last["n"] - CHUNK))
    return gone


async def forget_reconciliations(store: Store, hospital_id: str, *, before: dt.date) -> int:
    """Delete a comparison of a day before this one; returns how many rows went."""
    return await _forget_runs(store, hospital_id, reconciliations.c.date < before.isoformat())
