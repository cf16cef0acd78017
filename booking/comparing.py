"""Reading the three books of a day, some lines at a time, and looking again at what differs before it is reported."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import islice
from typing import Any

import msgspec
from sqlalchemy import or_, select, tuple_

from booking.asking_again import AskAgain, without_what_the_his_has
from booking.merchant_bills import READ, bill_pages, whole_revisions
from booking.moved_fees import with_moved_fees
from booking.reconciliation import (
    Books,
    Entry,
    Extra,
    Mismatch,
    Name,
    day_bounds_ms,
    explained,
    his_entry,
    in_order,
    with_his,
)
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import payments, refunds
from mappings.canonical import StatementLine

NEAR_MS = 2 * 3600 * 1000  # what the other book has so near to midnight may be the other half
_LOOK_UP = 200

StatementOf = Callable[[dt.date], Awaitable[Sequence[StatementLine] | None]]
"""The hospital's statement of a day; None where it offers none. Raises what a live read does."""


class Compared(msgspec.Struct, kw_only=True):
    """What a comparison has found; `his_lines` None: the hospital gives no statement."""

    merchant_lines: int
    our_lines: int
    his_lines: int | None
    differences: list[Mismatch]


async def compare_day(
    store: Store, hospital: Hospital, date: dt.date, *, statement: StatementOf, ask_again: AskAgain
) -> Compared | None:
    """Compare a day's books; None where no merchant's bill was sent for it."""
    async with store.read(hospital.id) as tx:
        revisions = await whole_revisions(tx, date)
    if not revisions:
        return None
    his = await statement(date)
    books = Books(his_known=his is not None)
    async for page in bill_pages(store, hospital.id, date, revisions):
        for row in page:
            books.add_merchant(_of_bill(row), done=row["status"] == "done", foreign=row["of_others"])
    async for entries in _our_pages(store, hospital.id, *day_bounds_ms(date, hospital.zone)):
        for entry in entries:
            books.add_ours(entry)
    his_known = his is not None
    if his is not None:
        await asyncio.to_thread(_add_statement, books, his)
        his = None  # 100,000 lines: not kept beside those that are read again
    merchant_lines, our_lines, his_lines = books.lines
    found = await asyncio.to_thread(lambda: in_order(books.differing()))
    if found:
        found = await _look_again(store, hospital, date, books, found, statement, ask_again, his_known=his_known)
    return Compared(
        merchant_lines=merchant_lines,
        our_lines=our_lines,
        his_lines=his_lines if his_known else None,
        differences=found,
    )


def _add_statement(books: Books, lines: Sequence[StatementLine]) -> None:
    for line in lines:
        books.add_his(his_entry(line))


def _of_bill(row: dict[str, Any]) -> Entry:
    fen = row["amount_fen"]
    return Entry(row["trade_no"], row["channel"], fen if row["kind"] == "payment" else -fen)


async def _our_pages(store: Store, hospital_id: str, starts_ms: int, ends_ms: int) -> AsyncIterator[list[Entry]]:
    """What was paid to us and what the portal reported as refunded within these instants, some at a time."""
    async for rows in _pages(store, hospital_id, payments, payments.c.paid_at_ms, starts_ms, ends_ms):
        yield [Entry(r["trade_no"], r["channel"], r["amount_fen"]) for r in rows]
    done = refunds.c.status == "refunded"
    async for rows in _pages(store, hospital_id, refunds, refunds.c.updated_ms, starts_ms, ends_ms, done):
        yield [Entry(r["trade_no"], r["channel"], -r["amount_fen"]) for r in rows]


async def _pages(
    store: Store, hospital_id: str, table: Any, at: Any, starts_ms: int, ends_ms: int, *more: Any
) -> AsyncIterator[list[dict[str, Any]]]:
    """Rows in the order of their instants; of one instant, in the order of their keys."""
    keys = [c for c in table.primary_key.columns if c.name != "hospital_id"]
    columns = list({c.name: c for c in (*keys, table.c.channel, table.c.trade_no, table.c.amount_fen, at)}.values())
    last: tuple[int, ...] = (starts_ms,)
    after: Any = at >= starts_ms
    while True:
        async with store.read(hospital_id) as tx:
            rows = await tx.all(
                select(*columns)
                .where(table.c.hospital_id == hospital_id, at >= last[0], at < ends_ms, after, *more)
                .order_by(at, *keys)
                .limit(READ)
            )
        if rows:
            yield rows
        if len(rows) < READ:
            return
        row = rows[-1]
        last = (row[at.name],)
        after = or_(at > last[0], tuple_(*keys) > tuple_(*(row[c.name] for c in keys)))


async def _look_again(
    store: Store,
    hospital: Hospital,
    date: dt.date,
    books: Books,
    found: list[Mismatch],
    statement: StatementOf,
    ask_again: AskAgain,
    *,
    his_known: bool,
) -> list[Mismatch]:
    """Explain what can be: over midnight, by a refund under way, or because the hospital's statement lags.

    Of what is left the hospital is asked again: its statement of the day anew, then by payment and refund.
    """
    extras = {one.name: Extra() for one in found}
    await _add_neighbours(store, hospital, date, extras)
    moved = any(extra.merchant_fen or extra.ours_fen for extra in extras.values())
    if his_known and (moved or any((one.his_fen or 0) != (one.ours_fen or 0) for one in found)):
        for day in (-1, 1):
            for line in await statement(date + dt.timedelta(days=day)) or ():
                entry = his_entry(line)
                name = books.place(entry)
                if name is not None and (extra := extras.get(name)) is not None:
                    extra.his_fen += entry.amount_fen
    await _add_refunds(store, hospital, date, found, extras)
    if his_known:
        await _add_payments(store, hospital, date, found, extras)
    seen = [explained(one, extras[one.name], his_known=his_known) for one in found]
    if his_known and any(one.kind != "timing" for one in seen):
        found = await _with_statement_again(date, books, found, statement)
        seen = [explained(one, extras[one.name], his_known=True) for one in found]
    left = await without_what_the_his_has(
        store, hospital.id, seen, ask_again, day_ms=day_bounds_ms(date, hospital.zone)
    )
    return await with_moved_fees(store, hospital.id, left, books.channels) if his_known else left


async def _with_statement_again(
    date: dt.date, books: Books, found: list[Mismatch], statement: StatementOf
) -> list[Mismatch]:
    """What differs by the hospital's word as it is now; one that it no longer gives changes nothing.

    Nor does it change a number of several channels where it does not say which it means.
    """
    lines = await statement(date)
    if lines is None:
        return found
    told: dict[Name, int | None] = {one.name: None for one in found}
    unsaid: set[str] = set()
    for line in lines:
        entry = his_entry(line)
        name = books.place(entry)
        if name is None:
            unsaid.add(entry.trade_no)
        elif name in told:
            told[name] = (told[name] or 0) + entry.amount_fen
    again = (one if one.trade_no in unsaid else with_his(one, told[one.name]) for one in found)
    return [one for one in again if one is not None]


async def _add_neighbours(store: Store, hospital: Hospital, date: dt.date, extras: dict[Name, Extra]) -> None:
    starts_ms, ends_ms = day_bounds_ms(date, hospital.zone)
    for begin_ms, end_ms in ((starts_ms - NEAR_MS, starts_ms), (ends_ms, ends_ms + NEAR_MS)):
        async for entries in _our_pages(store, hospital.id, begin_ms, end_ms):
            for entry in entries:
                if (extra := extras.get((entry.channel, entry.trade_no))) is not None:
                    extra.ours_fen += entry.amount_fen
    for day in (date - dt.timedelta(days=1), date + dt.timedelta(days=1)):
        async with store.read(hospital.id) as tx:
            revisions = await whole_revisions(tx, day)
        async for page in bill_pages(store, hospital.id, day, revisions):
            for row in page:
                if row["status"] == "done" and (extra := extras.get(_name(row))) is not None:
                    extra.merchant_fen += _of_bill(row).amount_fen


def _name(row: dict[str, Any]) -> Name:
    return row["channel"], row["trade_no"]


async def _add_refunds(
    store: Store, hospital: Hospital, date: dt.date, found: list[Mismatch], extras: dict[Name, Extra]
) -> None:
    """Refunds that are not done, and those that were done on the day before or on any later one: what the HIS took back
    today may be returned tomorrow."""
    starts_ms, ends_ms = day_bounds_ms(date, hospital.zone)
    before_ms, _ = day_bounds_ms(date - dt.timedelta(days=1), hospital.zone)
    columns = (refunds.c.channel, refunds.c.trade_no, refunds.c.amount_fen, refunds.c.status, refunds.c.updated_ms)
    async for row in _named(store, hospital.id, refunds, columns, found):
        if row["status"] != "refunded":
            extras[_name(row)].not_done_fen -= row["amount_fen"]
        elif row["updated_ms"] >= ends_ms or before_ms <= row["updated_ms"] < starts_ms:
            extras[_name(row)].around_fen -= row["amount_fen"]


async def _add_payments(
    store: Store, hospital: Hospital, date: dt.date, found: list[Mismatch], extras: dict[Name, Extra]
) -> None:
    """What was paid on the days before and after: their statements are at hand as well."""
    starts_ms, ends_ms = day_bounds_ms(date, hospital.zone)
    begin_ms, _ = day_bounds_ms(date - dt.timedelta(days=1), hospital.zone)
    _, end_ms = day_bounds_ms(date + dt.timedelta(days=1), hospital.zone)
    columns = (payments.c.channel, payments.c.trade_no, payments.c.amount_fen, payments.c.paid_at_ms)
    async for row in _named(store, hospital.id, payments, columns, found):
        if begin_ms <= row["paid_at_ms"] < starts_ms or ends_ms <= row["paid_at_ms"] < end_ms:
            extras[_name(row)].around_fen += row["amount_fen"]


async def _named(
    store: Store, hospital_id: str, table: Any, columns: Sequence[Any], found: list[Mismatch]
) -> AsyncIterator[dict[str, Any]]:
    """The rows under the numbers that differ, some numbers at a time."""
    for channel in {one.channel for one in found if one.channel is not None}:
        numbers = (one.trade_no for one in found if one.channel == channel)
        while some := list(islice(numbers, _LOOK_UP)):
            async with store.read(hospital_id) as tx:
                rows = await tx.all(
                    select(*columns).where(
                        table.c.hospital_id == hospital_id, table.c.channel == channel, table.c.trade_no.in_(some)
                    )
                )
            for row in rows:
                yield row
