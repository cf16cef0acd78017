"""Taking a message in: whether it is known, its storing, and what became of the ones before it, in one commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from booking.store.engine import Store, Tx
from booking.store.here import raw_of
from connectors.port import Inbound
from scheduler_sync.messages.store import (
    DUPLICATE_MS,
    Mark,
    find_duplicate,
    mark_messages,
    message_row,
    store_message,
)
from scheduler_sync.messages.tables import messages

LONG_BYTES = 65_536  # sealing and writing this much takes over a millisecond: not on the event loop

_DUPLICATE = (
    "select id, state from messages where hospital_id = ? and dedup_key = ? and received_ms >= ?"
    " order by received_ms limit 1"
)
_MARK = (
    "update messages set state = ?, reason = ?, updated_ms = ? where hospital_id = ? and id = ? and state = 'received'"
)
_COLUMNS = tuple(str(c.name) for c in messages.columns)
_INSERT = f"insert into messages ({', '.join(_COLUMNS)}) values ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 - names


class Taken(msgspec.Struct, frozen=True):
    """The id under which a message stands, and its state if it stood there before."""

    id: str
    known_as: str | None = None


async def take_message(store: Store, hospital_id: str, inbound: Inbound, marks: Sequence[Mark]) -> Taken:
    """Store a message unless it is known, and note what became of earlier ones. Raises StoreUnavailable."""
    async with store.write(hospital_id, here=len(inbound.raw) <= LONG_BYTES) as tx:
        connection = raw_of(tx.conn)
        if connection is not None:
            return _take_raw(tx, connection, inbound, marks)
        await mark_messages(tx, marks)
        known = await find_duplicate(tx, inbound)
        return Taken(await store_message(tx, inbound)) if known is None else Taken(known.id, known.state)


def _take_raw(tx: Tx, connection: sqlite3.Connection, inbound: Inbound, marks: Sequence[Mark]) -> Taken:
    """The same in SQLite's own words: for each message of a stream, a third of the time."""
    connection.executemany(_MARK, [(state, why, tx.now_ms, tx.hospital_id, i) for i, state, why in marks])
    row = message_row(tx.vault, tx.hospital_id, inbound, tx.now_ms)
    since_ms = tx.now_ms - DUPLICATE_MS
    known = connection.execute(_DUPLICATE, (tx.hospital_id, row["dedup_key"], since_ms)).fetchone()
    if known is not None:
        return Taken(*known)
    connection.execute(_INSERT, [row[name] for name in _COLUMNS])
    return Taken(row["id"])
