"""Merchants' bills as stored: the parts of a day, each of its own source, whole or not there at all."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select

from booking.merchant_files.lines import BillLine
from booking.reopening import reopen
from booking.store.engine import Store, Tx
from booking.store.tables import merchant_lines

CHUNK = 500  # lines written or deleted in one transaction: a bill of 100,000 must not hold up a booking
READ = 1_000  # lines read in one go
_BEGUN = -1  # the line that is written first, and takes the revision's number
_WHOLE = 0  # the line that is written last: a revision that has it is whole, and the newest whole one is the bill
Line = tuple[str, str, str, int, int | None]
"""(kind, channel, trade_no, amount_fen, at_ms)"""


async def put_merchant_bill(
    store: Store, hospital_id: str, date: dt.date, lines: Sequence[Line], *, source: str = "lines"
) -> int:
    """Replace what one source has told of a day; returns its revision.

    Until the last line is stored what it told before stands; of two that are sent at once, the one that began later wins.
    """
    revision = await _begin_revision(store, hospital_id, date, source)
    for start in range(0, len(lines), CHUNK):
        rows = [BillLine(*line) for line in lines[start : start + CHUNK]]
        await _add(store, hospital_id, date, revision, source, start + 1, [(row, False) for row in rows])
    await _end_revision(store, hospital_id, date, revision, source)
    return revision


async def put_bill_file(
    store: Store, hospital_id: str, date: dt.date, lines: Iterator[tuple[BillLine, bool]], *, source: str
) -> tuple[int, int, int]:
    """The same from a file that is read on the way; (lines, those of others, sum of what is ours in fen).

    A line comes with whether it is of another business under the merchant's number. What the iterator raises is raised, and
    nothing of the file stays.
    """
    revision = await _begin_revision(store, hospital_id, date, source)
    count = foreign = total_fen = 0
    try:
        while chunk := await asyncio.to_thread(_some, lines):
            await _add(store, hospital_id, date, revision, source, count + 1, chunk)
            count += len(chunk)
            for line, of_others in chunk:
                foreign += of_others
                if not of_others and line.status == "done":
                    total_fen += line.amount_fen if line.kind == "payment" else -line.amount_fen
    except BaseException:
        await _forget_revision(store, hospital_id, date, revision)
        raise
    await _end_revision(store, hospital_id, date, revision, source)
    return count, foreign, total_fen


def _some(lines: Iterator[tuple[BillLine, bool]]) -> list[tuple[BillLine, bool]]:
    return list(islice(lines, CHUNK))


async def _add(
    store: Store,
    hospital_id: str,
    date: dt.date,
    revision: int,
    source: str,
    first: int,
    lines: Sequence[tuple[BillLine, bool]],
) -> None:
    rows = [
        _row(hospital_id, date, revision, source, n, line, of_others=of_others)
        for n, (line, of_others) in enumerate(lines, first)
    ]
    async with store.write(hospital_id) as tx:
        await tx.insert(merchant_lines, *rows)


def _row(
    hospital_id: str, date: dt.date, revision: int, source: str, n: int, line: BillLine, *, of_others: bool = False
) -> dict[str, Any]:
    return {
        "hospital_id": hospital_id,
        "date": date.isoformat(),
        "revision": revision,
        "line": n,
        "kind": line.kind,
        "channel": line.channel,
        "trade_no": line.trade_no,
        "amount_fen": line.amount_fen,
        "at_ms": line.at_ms,
        "source": source,
        "status": line.status,
        "order_no": line.order_no or None,
        "of_others": of_others,
    }


async def _begin_revision(store: Store, hospital_id: str, date: dt.date, source: str) -> int:
    """Take the next number; a line below the first keeps it from being taken twice."""
    async with store.write(hospital_id) as tx:
        newest = await tx.first(
            select(func.coalesce(func.max(merchant_lines.c.revision), 0).label("n")).where(
                merchant_lines.c.hospital_id == hospital_id, merchant_lines.c.date == date.isoformat()
            )
        )
        revision = 1 if newest is None else int(newest["n"]) + 1
        mark = BillLine("begun", "", "", 0, tx.now_ms)
        await tx.insert(merchant_lines, _row(hospital_id, date, revision, source, _BEGUN, mark))
    return revision


async def _end_revision(store: Store, hospital_id: str, date: dt.date, revision: int, source: str) -> None:
    async with store.write(hospital_id) as tx:
        mark = BillLine("whole", "", "", 0, tx.now_ms)
        await tx.insert(merchant_lines, _row(hospital_id, date, revision, source, _WHOLE, mark))
        await reopen(tx, date)
    for older in range(revision - 1, 0, -1):
        async with store.read(hospital_id) as tx:
            begun = await tx.first(select(merchant_lines.c.source).where(*_key(hospital_id, date, older, _BEGUN)))
        if begun is not None and begun["source"] == source:
            await _forget_revision(store, hospital_id, date, older)


def _key(hospital_id: str, date: dt.date, revision: int, line: int) -> tuple[ColumnElement[bool], ...]:
    return (*_of_revision(hospital_id, date, revision), merchant_lines.c.line == line)


def _of_revision(hospital_id: str, date: dt.date, revision: int) -> tuple[ColumnElement[bool], ...]:
    return (
        merchant_lines.c.hospital_id == hospital_id,
        merchant_lines.c.date == date.isoformat(),
        merchant_lines.c.revision == revision,
    )


async def _forget_revision(store: Store, hospital_id: str, date: dt.date, revision: int) -> None:
    while await _forget_some(store, hospital_id, date, revision):
        pass


async def _forget_some(store: Store, hospital_id: str, date: dt.date, revision: int) -> int:
    """Delete some lines, the last ones; that which says that it was begun goes last, so that the rest is found again."""
    of = _of_revision(hospital_id, date, revision)
    async with store.write(hospital_id) as tx:
        last = await tx.first(select(func.max(merchant_lines.c.line).label("n")).where(*of))
        if last is None or last["n"] is None:
            return 0
        return await tx.run(delete(merchant_lines).where(*of, merchant_lines.c.line > last["n"] - CHUNK))


async def forget_merchant_bills(store: Store, hospital_id: str, *, before: dt.date) -> int:
    """Delete lines of bills of days before this one, a chunk at a time; returns how many."""
    async with store.read(hospital_id) as tx:
        oldest = await tx.first(
            select(merchant_lines.c.date, merchant_lines.c.revision)
            .where(merchant_lines.c.hospital_id == hospital_id, merchant_lines.c.date < before.isoformat())
            .order_by(merchant_lines.c.date, merchant_lines.c.revision)
            .limit(1)
        )
    if oldest is None:
        return 0
    return await _forget_some(store, hospital_id, dt.date.fromisoformat(oldest["date"]), oldest["revision"])


async def newest_bill(tx: Tx) -> tuple[str, int] | None:
    """Day (ISO) and revision of the newest merchant's bill that is whole, None where there is none."""
    of, day = merchant_lines.c.hospital_id == tx.hospital_id, "9999"
    while True:
        # Each of these is found at one place of the key, however long the bills are.
        found = await tx.first(
            select(func.max(merchant_lines.c.date).label("day")).where(of, merchant_lines.c.date < day)
        )
        if found is None or found["day"] is None:
            return None
        day = found["day"]
        if whole := await whole_revisions(tx, dt.date.fromisoformat(day)):
            return day, max(whole)


async def whole_revisions(tx: Tx, date: dt.date) -> list[int]:
    """The newest whole revision of each source of a day: together they are the day's bill. Empty where none was sent."""
    bill = (merchant_lines.c.hospital_id == tx.hospital_id, merchant_lines.c.date == date.isoformat())
    top = await tx.first(select(func.max(merchant_lines.c.revision).label("n")).where(*bill))
    newest: dict[str, int] = {}
    for revision in range(0 if top is None or top["n"] is None else top["n"], 0, -1):
        key = (merchant_lines.c.revision == revision, merchant_lines.c.line == _WHOLE)
        row = await tx.first(select(merchant_lines.c.source).where(*bill, *key))
        if row is not None:
            newest.setdefault(row["source"], revision)
    return sorted(newest.values())


async def bill_pages(
    store: Store, hospital_id: str, date: dt.date, revisions: Sequence[int]
) -> AsyncIterator[list[dict[str, Any]]]:
    """The lines of these revisions, some at a time: kind, channel, trade_no, amount_fen, status, of_others."""
    columns = ("line", "kind", "channel", "trade_no", "amount_fen", "status", "of_others")
    for revision in revisions:
        last = _WHOLE
        while True:
            async with store.read(hospital_id) as tx:
                rows = await tx.all(
                    select(*(merchant_lines.c[name] for name in columns))
                    .where(
                        merchant_lines.c.hospital_id == hospital_id,
                        merchant_lines.c.date == date.isoformat(),
                        merchant_lines.c.revision == revision,
                        merchant_lines.c.line > last,
                    )
                    .order_by(merchant_lines.c.line)
                    .limit(READ)
                )
            if rows:
                yield rows
                last = rows[-1]["line"]
            if len(rows) < READ:
                break
