"""The daily comparison of three books: the merchant's bill, our payments and refunds, the hospital's statement (对账)."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, delete, func, select, tuple_

from booking.store.engine import Store, Tx
from booking.store.tables import merchant_lines, payments, refunds
from mappings.canonical import StatementLine


class Entry(msgspec.Struct, frozen=True):
    """One movement of money in one of the books; `amount_fen` is negative for a refund. `by_his`: settled at the hospital."""

    trade_no: str
    channel: str | None
    amount_fen: int


class Mismatch(msgspec.Struct, frozen=True, kw_only=True):
    """A trade number whose books differ; None where a book does not have it (or is not there at all)."""

    kind: str
    trade_no: str
    channel: str | None
    merchant_fen: int | None
    ours_fen: int | None
    his_fen: int | None


def compare(merchant: Iterable[Entry], ours: Iterable[Entry], his: Iterable[Entry] | None) -> list[Mismatch]:
    """Net every trade number in each book and name what differs. Pure.

    long 长款: the merchant has money that we do not know; short 短款: we count on money that the merchant does not have;
    amount: both have it, differently; his_missing, his_only: the hospital's side differs from ours (单边账).
    A payment and its refund of the same day cancel out in each book.
    """
    channels: dict[str, str | None] = {}

    def net(entries: Iterable[Entry]) -> dict[str, int]:
        sums: defaultdict[str, int] = defaultdict(int)
        for entry in entries:
            sums[entry.trade_no] += entry.amount_fen
            channels.setdefault(entry.trade_no, entry.channel)
        return sums

    m, o = net(merchant), net(ours)
    h = None if his is None else net(his)
    found = []
    for trade_no in sorted(m.keys() | o.keys() | (h.keys() if h is not None else set())):
        theirs, mine = m.get(trade_no, 0), o.get(trade_no, 0)
        hospital = None if h is None else h.get(trade_no, 0)
        kind = _kind(theirs, mine, hospital)
        if kind is not None:
            found.append(
                Mismatch(
                    kind=kind,
                    trade_no=trade_no,
                    channel=channels.get(trade_no),
                    merchant_fen=m.get(trade_no),
                    ours_fen=o.get(trade_no),
                    his_fen=None if h is None else h.get(trade_no),
                )
            )
    return found


def _kind(merchant: int, ours: int, his: int | None) -> str | None:
    if merchant != ours:
        if ours == 0:
            return "long"
        return "short" if merchant == 0 else "amount"
    if his is not None and his != ours:
        if his == 0:
            return "his_missing"
        return "his_only" if ours == 0 else "amount"
    return None


def day_bounds_ms(date: dt.date, zone: dt.tzinfo) -> tuple[int, int]:
    """The first millisecond of a local day and of the next one; a day may have 23 or 25 hours."""
    starts = dt.datetime.combine(date, dt.time(), zone)
    ends = dt.datetime.combine(date + dt.timedelta(days=1), dt.time(), zone)
    return round(starts.timestamp() * 1000), round(ends.timestamp() * 1000)


CHUNK = 500  # lines written or deleted in one transaction: a bill of 100,000 must not hold up a booking
_BEGUN = -1  # the line that is written first, and takes the revision's number
_WHOLE = 0  # the line that is written last: a revision that has it is whole, and the newest whole one is the bill


async def put_merchant_bill(
    store: Store, hospital_id: str, date: dt.date, lines: Sequence[tuple[str, str, str, int, int | None]]
) -> None:
    """Replace the merchant's bill of a day. A line is (kind, channel, trade_no, amount_fen, at_ms).

    Until the last line is stored the bill before it stands; of two that are sent at once, the one that began later wins.
    """
    day = date.isoformat()
    revision = await _begin_revision(store, hospital_id, day)
    for start in range(0, len(lines), CHUNK):
        rows = [
            _line(hospital_id, day, revision, n, *line)
            for n, line in enumerate(lines[start : start + CHUNK], start + 1)
        ]
        async with store.write(hospital_id) as tx:
            await tx.insert(merchant_lines, *rows)
    async with store.write(hospital_id) as tx:
        await tx.insert(merchant_lines, _line(hospital_id, day, revision, _WHOLE, "whole", "", "", 0, tx.now_ms))
    while await _forget_lines(store, hospital_id, merchant_lines.c.date == day, merchant_lines.c.revision < revision):
        pass


def _line(
    hospital_id: str,
    day: str,
    revision: int,
    line: int,
    kind: str,
    channel: str,
    trade_no: str,
    amount_fen: int,
    at_ms: int | None,
) -> dict[str, Any]:
    return {
        "hospital_id": hospital_id,
        "date": day,
        "revision": revision,
        "line": line,
        "kind": kind,
        "channel": channel,
        "trade_no": trade_no,
        "amount_fen": amount_fen,
        "at_ms": at_ms,
    }


async def _begin_revision(store: Store, hospital_id: str, day: str) -> int:
    """Take the next number; a line below the first keeps it from being taken twice."""
    async with store.write(hospital_id) as tx:
        newest = await tx.first(
            select(func.coalesce(func.max(merchant_lines.c.revision), 0).label("n")).where(
                merchant_lines.c.hospital_id == hospital_id, merchant_lines.c.date == day
            )
        )
        revision = 1 if newest is None else int(newest["n"]) + 1
        await tx.insert(merchant_lines, _line(hospital_id, day, revision, _BEGUN, "begun", "", "", 0, tx.now_ms))
    return revision


async def _forget_lines(store: Store, hospital_id: str, *which: ColumnElement[bool]) -> int:
    """Delete some lines of merchants' bills, a chunk at a time; returns how many."""
    key = (merchant_lines.c.date, merchant_lines.c.revision, merchant_lines.c.line)
    async with store.write(hospital_id) as tx:
        rows = await tx.all(select(*key).where(merchant_lines.c.hospital_id == hospital_id, *which).limit(CHUNK))
        if not rows:
            return 0
        return await tx.run(
            delete(merchant_lines).where(
                merchant_lines.c.hospital_id == hospital_id,
                tuple_(*key).in_([(r["date"], r["revision"], r["line"]) for r in rows]),
            )
        )


async def forget_merchant_bills(store: Store, hospital_id: str, *, before: dt.date) -> int:
    """Delete lines of bills of days before this one, a chunk at a time; returns how many."""
    return await _forget_lines(store, hospital_id, merchant_lines.c.date < before.isoformat())


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
        day, bill = found["day"], (of, merchant_lines.c.date == found["day"])
        top = await tx.first(select(func.max(merchant_lines.c.revision).label("n")).where(*bill))
        for revision in range(0 if top is None else top["n"], 0, -1):
            key = (merchant_lines.c.revision == revision, merchant_lines.c.line == _WHOLE)
            if await tx.first(select(merchant_lines.c.line).where(*bill, *key)) is not None:
                return day, revision


async def merchant_entries(tx: Tx, date: dt.date) -> list[Entry] | None:
    """The merchant's bill of a day, None when none was sent."""
    day = (merchant_lines.c.hospital_id == tx.hospital_id) & (merchant_lines.c.date == date.isoformat())
    newest = select(func.max(merchant_lines.c.revision)).where(day, merchant_lines.c.line == _WHOLE).scalar_subquery()
    rows = await tx.all(
        select(
            merchant_lines.c.line,
            merchant_lines.c.kind,
            merchant_lines.c.trade_no,
            merchant_lines.c.channel,
            merchant_lines.c.amount_fen,
        )
        .where(day, merchant_lines.c.revision == newest, merchant_lines.c.line >= _WHOLE)
        .order_by(merchant_lines.c.line)
    )
    if not rows:
        return None
    return [
        Entry(r["trade_no"], r["channel"], r["amount_fen"] * (-1 if r["kind"] == "refund" else 1)) for r in rows[1:]
    ]


async def our_entries(tx: Tx, starts_ms: int, ends_ms: int) -> list[Entry]:
    """What was paid to us, and what the portal reported as refunded, within these instants."""
    paid = await tx.all(
        select(payments.c.trade_no, payments.c.channel, payments.c.amount_fen).where(
            payments.c.hospital_id == tx.hospital_id,
            payments.c.paid_at_ms >= starts_ms,
            payments.c.paid_at_ms < ends_ms,
        )
    )
    returned = await tx.all(
        select(refunds.c.trade_no, refunds.c.channel, refunds.c.amount_fen).where(
            refunds.c.hospital_id == tx.hospital_id,
            refunds.c.status == "refunded",
            refunds.c.updated_ms >= starts_ms,
            refunds.c.updated_ms < ends_ms,
        )
    )
    return [Entry(r["trade_no"], r["channel"], r["amount_fen"]) for r in paid] + [
        Entry(r["trade_no"], r["channel"], -r["amount_fen"]) for r in returned
    ]


def his_entries(lines: Iterable[StatementLine]) -> list[Entry]:
    """The hospital's statement as entries; a line without a trade number stands under its order number."""
    return [
        Entry(
            line.trade_no or line.order_no or "?",
            line.channel,
            line.amount_fen if line.kind == "payment" else -line.amount_fen,
        )
        for line in lines
    ]
