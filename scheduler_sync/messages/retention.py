"""What goes from the message store, a few rows at a time: by age, and by size where a hospital's share of the disk has a bound.

| | by age | by size |
|---|---|---|
| messages `applied` | after `keep_messages_days` | the oldest, none younger than 7 days: repeats are known by them |
| messages `received`, `quarantined` | never: they wait | never |
| exchanges `done` | after `keep_messages_days` | the oldest |
| exchanges `failed`, `unknown` | after FAILED_LONGER times as long | never |
| `refused`, `duplicate` | after KEEP_REFUSED_DAYS | all but the newest MOST_REFUSED |
| documents | see `old_documents` | see `room` |

Each looks only at what it may delete, by an index and a few at a time: neither memory nor a lock is held for long.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Table, delete, select

from booking.store.engine import Store, Tx
from booking.store.ids import first_id
from monitoring.logs import get_logger
from scheduler_sync.messages.groups import add_to_totals, read_totals
from scheduler_sync.messages.tables import APPLIED, exchanges, message_links, message_notes, messages

log = get_logger("retention")

CHUNK = 100
DAY_MS = 24 * 3600 * 1000
YOUNGEST_DAYS = 7  # a message that comes again within a week is known by the one that is kept
FAILED_LONGER = 4
KEEP_REFUSED_DAYS = 30
MOST_REFUSED = 10_000
MB = 1_000_000


async def forget_messages(store: Store, hospital_id: str, *, keep_days: int, limit: int = CHUNK) -> int:
    """Delete applied messages past their days; returns how many. What waits, for us or for a person, stays."""
    async with store.write(hospital_id) as tx:
        return await _drop_messages(tx, await _applied(tx, tx.now_ms - keep_days * DAY_MS, limit))


async def forget_exchanges(store: Store, hospital_id: str, *, keep_days: int, limit: int = CHUNK) -> int:
    """Delete exchanges past their days, each state by its own; returns how many."""
    async with store.read(hospital_id) as tx:
        now_ms = tx.now_ms
    few = min(KEEP_REFUSED_DAYS, keep_days)
    for state, days in (
        ("done", keep_days),
        ("failed", FAILED_LONGER * keep_days),
        ("unknown", FAILED_LONGER * keep_days),
        ("refused", few),
        ("duplicate", few),
    ):
        before = first_id(max(0, now_ms - days * DAY_MS))
        if forgotten := await _forget_state(store, hospital_id, state, [exchanges.c.id < before], limit):
            return forgotten
    return 0


async def forget_refused(store: Store, hospital_id: str, *, most: int = MOST_REFUSED, limit: int = CHUNK) -> int:
    """Delete all but the newest of what was not taken; returns how many."""
    for state in ("refused", "duplicate"):
        async with store.read(hospital_id, clock=False) as tx:
            last = await tx.first(
                select(exchanges.c.id)
                .where(exchanges.c.hospital_id == hospital_id, exchanges.c.state == state)
                .order_by(exchanges.c.id.desc())
                .limit(1)
                .offset(most)
            )
        if last is None:
            continue
        if forgotten := await _forget_state(store, hospital_id, state, [exchanges.c.id <= last["id"]], limit):
            return forgotten
    return 0


async def forget_for_size(store: Store, hospital_id: str, *, most_bytes: int, limit: int = CHUNK) -> int:
    """Delete the oldest of what may go while there is more than `most_bytes`; returns how many. 0 bytes: no bound."""
    if most_bytes <= 0:
        return 0
    async with store.read(hospital_id) as tx:
        totals = await read_totals(tx, hospital_id)
        if sum(totals.values()) <= most_bytes:
            return 0
        applied = await _applied(tx, tx.now_ms - YOUNGEST_DAYS * DAY_MS, limit)
        done = await _exchanges(tx, "done", [], limit)
    if not applied and not done:
        log.warning(
            "message_store_over_its_size",
            hospital=hospital_id,
            most_mb=most_bytes // MB,
            **{f"{kind}_mb": size_bytes // MB for kind, size_bytes in totals.items()},
            do="give it more room",
        )
        return 0
    async with store.write(hospital_id) as tx:
        if applied and (not done or applied[0] < done[0]):
            return await _drop_messages(tx, applied)
        return await _drop_exchanges(tx, done)


async def _applied(tx: Tx, before_ms: int, limit: int) -> list[str]:
    """The oldest applied messages that came before then."""
    rows = await tx.all(
        select(messages.c.id)
        .where(messages.c.hospital_id == tx.hospital_id, APPLIED, messages.c.received_ms < before_ms)
        .order_by(messages.c.received_ms)
        .limit(limit)
    )
    return [row["id"] for row in rows]


async def _exchanges(tx: Tx, state: str, which: Sequence[ColumnElement[bool]], limit: int) -> list[str]:
    rows = await tx.all(
        select(exchanges.c.id)
        .where(exchanges.c.hospital_id == tx.hospital_id, exchanges.c.state == state, *which)
        .order_by(exchanges.c.id)
        .limit(limit)
    )
    return [row["id"] for row in rows]


async def _forget_state(
    store: Store, hospital_id: str, state: str, which: Sequence[ColumnElement[bool]], limit: int
) -> int:
    async with store.read(hospital_id, clock=False) as tx:
        ids = await _exchanges(tx, state, which, limit)
    if not ids:
        return 0
    async with store.write(hospital_id) as tx:
        return await _drop_exchanges(tx, ids)


async def _drop_messages(tx: Tx, ids: Sequence[str]) -> int:
    """Those of them that are applied still: somebody may have had one applied once more."""
    size = await _size(tx, message_notes, message_notes.c.message_id, ids)
    return await _drop(tx, messages, ids, [APPLIED], "messages", size)


async def _drop_exchanges(tx: Tx, ids: Sequence[str]) -> int:
    size = await _size(tx, exchanges, exchanges.c.id, ids)
    return await _drop(tx, exchanges, ids, [], "exchanges", size)


async def _size(tx: Tx, table: Table, key: ColumnElement[str], ids: Sequence[str]) -> int:
    rows = await tx.all(select(table.c.size_bytes).where(table.c.hospital_id == tx.hospital_id, key.in_(ids)))
    return sum(int(row["size_bytes"]) for row in rows)


async def _drop(tx: Tx, table: Table, ids: Sequence[str], which: Sequence[object], kind: str, size_bytes: int) -> int:
    if not ids:
        return 0
    h = tx.hospital_id
    dropped = await tx.run(delete(table).where(table.c.hospital_id == h, table.c.id.in_(ids), *which))  # type: ignore[arg-type]
    for of in (message_notes, message_links):
        await tx.run(delete(of).where(of.c.hospital_id == h, of.c.message_id.in_(ids)))
    await add_to_totals(tx, h, kind, -dropped, -size_bytes)
    return dropped
