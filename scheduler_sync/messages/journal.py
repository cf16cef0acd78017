"""Taking messages in: whether they are known, their storing, and what became of the ones before them, in one commit."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy.exc import OperationalError

from booking.store.engine import WRITER_TIMEOUT_S, Store, StoreBusy, StoreUnavailable, Tx
from connectors.port import Inbound
from scheduler_sync.messages.ledger import Ledger
from scheduler_sync.messages.series import Place, pass_number
from scheduler_sync.messages.store import (
    DUPLICATE_MS,
    Mark,
    find_duplicate,
    has_other_of_id,
    mark_messages,
    message_row,
    same_id_range,
    set_apart,
    size_of,
)
from scheduler_sync.messages.tables import messages

LONG_BYTES = 65_536  # sealing and writing this much takes over a millisecond: not on the event loop

_KNOWN = "from messages where hospital_id = ? and dedup_key = ? and received_ms >= ?"
_DUPLICATE = f"select id, state {_KNOWN} order by received_ms limit 1"
_MARK = (
    "update messages set state = ?, reason = ?, updated_ms = ? where hospital_id = ? and id = ? and state = 'received'"
)
_OTHER_OF_ID = (
    "select 1 from messages where hospital_id = ? and dedup_key >= ? and dedup_key < ? and dedup_key <> ? and received_ms >= ?"
    " limit 1"
)
_COLUMNS = ", ".join(str(c.name) for c in messages.columns)
_INSERT = (
    f"insert into messages ({_COLUMNS}) select {', '.join('?' * len(messages.columns))}"
    f" where not exists (select 1 {_KNOWN})"
)


Row = dict[str, Any]


class Taken(msgspec.Struct, frozen=True):
    """The id under which a message stands, and its state if it stood there before; else how much of the disk it takes.

    `same_id`: another message has its control id. `problem`: why it was set aside at once, where it was. `place`: what became of
    its number, where it has one; `id` is "" where the message was not to be taken.
    """

    id: str
    known_as: str | None = None
    size_bytes: int = 0
    same_id: bool = False
    problem: str | None = None
    place: Place | None = None


async def take_messages(ledger: Ledger, inbounds: Sequence[Inbound], marks: Sequence[Mark]) -> list[Taken]:
    """Store messages in their order, each unless it is known, and note what became of earlier ones: all of it, or nothing.

    Raises StoreUnavailable: stored all the same if the answer of the commit was lost. A cancellation leaves that open as well.
    """
    store = ledger.messages
    size = sum(len(inbound.raw) for inbound in inbounds)
    quick = size <= LONG_BYTES and all(inbound.series is None for inbound in inbounds)
    if quick and store.dialect == "sqlite" and not ledger.shared:
        return await _take_here(store, ledger.hospital_id, inbounds, marks)
    rows: list[Row | None] = [None] * len(inbounds)
    if size > LONG_BYTES:
        rows = [await asyncio.to_thread(message_row, store.vault, ledger.hospital_id, one, 0) for one in inbounds]
    async with ledger.write() as tx:
        await mark_messages(tx, marks)
        return [await _store(tx, inbound, row) for inbound, row in zip(inbounds, rows, strict=True)]


async def _store(tx: Tx, inbound: Inbound, sealed: Row | None) -> Taken:
    """`sealed` is the message's row where that takes long to make; it has no time yet."""
    alone = inbound.series is not None and inbound.series.alone
    known = None if alone else await find_duplicate(tx, inbound)
    place = None
    if inbound.series is not None:
        place = await pass_number(tx, inbound.series, known=known is not None)
    if known is not None:
        return Taken(known.id, known.state, place=place)
    if alone or (place is not None and place.refused):
        return Taken("", place=place)
    if sealed is None:
        row = message_row(tx.vault, tx.hospital_id, inbound, tx.now_ms)
    else:
        row = {**sealed, "received_ms": tx.now_ms, "updated_ms": tx.now_ms}
    same_id = inbound.same_id_key is not None and await has_other_of_id(tx, row["dedup_key"])
    problem = set_apart(inbound, row) if same_id else inbound.problem
    await tx.insert(messages, row)
    return Taken(row["id"], size_bytes=size_of(row), same_id=same_id, problem=problem, place=place)


async def _take_here(store: Store, hospital_id: str, inbounds: Sequence[Inbound], marks: Sequence[Mark]) -> list[Taken]:
    """The same in SQLite's own words and with nothing around it: every message of a stream waits for it.

    The time is that of the clock, unlike that of other writes: nothing here is put in an order by it.
    """
    turn = store.turn(hospital_id)
    try:
        await turn.acquire(timeout_s=WRITER_TIMEOUT_S)
    except TimeoutError:
        raise StoreBusy("no turn to write in time") from None
    try:
        async with store.on_loop.begin() as lent:
            now_ms = store.wall_ms()
            if marks:
                lent.raw.executemany(_MARK, [(state, why, now_ms, hospital_id, i) for i, state, why in marks])
            taken = [_take(lent.raw, store, hospital_id, inbound, now_ms) for inbound in inbounds]
    except (OSError, OperationalError, sqlite3.OperationalError) as e:
        origin = getattr(e, "orig", e)
        away = StoreUnavailable(f"{type(origin).__name__}: {str(origin)[:200]}")
        store.note_write(away)
        raise away from e
    finally:
        turn.release()
    store.note_write(None)
    return taken


def _take(connection: sqlite3.Connection, store: Store, hospital_id: str, inbound: Inbound, now_ms: int) -> Taken:
    row = message_row(store.vault, hospital_id, inbound, now_ms)
    same_id = False
    if inbound.same_id_key is not None:
        mine = row["dedup_key"]
        bounds = (hospital_id, *same_id_range(mine), mine, now_ms - DUPLICATE_MS)
        same_id = connection.execute(_OTHER_OF_ID, bounds).fetchone() is not None
    problem = set_apart(inbound, row) if same_id else inbound.problem
    known = (hospital_id, row["dedup_key"], now_ms - DUPLICATE_MS)
    if connection.execute(_INSERT, (*row.values(), *known)).rowcount:
        return Taken(row["id"], size_bytes=size_of(row), same_id=same_id, problem=problem)
    return Taken(*connection.execute(_DUPLICATE, known).fetchone())
