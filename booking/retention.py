"""Forgetting what nobody asks for any more, a few rows at a time, so that no deletion holds up a booking."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Table, select

from booking.store.engine import Store
from booking.store.tables import bookings, outbox, schedules, slots

CHUNK = 200
KEEP_COMMANDS_DAYS = 30
KEEP_CATALOGUE_DAYS = 30
KEEP_MERCHANT_BILLS_DAYS = 400
_DAY_MS = 24 * 3600 * 1000


async def forget_commands(store: Store, hospital_id: str, *, limit: int = CHUNK) -> int:
    """Delete settled commands past their days; returns how many. Open ones and dead letters stay, however old."""
    async with store.read(hospital_id) as tx:
        before_ms = tx.now_ms - KEEP_COMMANDS_DAYS * _DAY_MS
    old = [
        outbox.c.hospital_id == hospital_id,
        outbox.c.id < _first_id(before_ms),  # ids begin with their time: the key's own index finds the old ones
        outbox.c.status.in_(("done", "dropped")),
        outbox.c.updated_ms < before_ms,
    ]
    return await _forget(store, hospital_id, outbox, old, limit)


def _first_id(ms: int) -> str:
    """The smallest UUIDv7 of an instant (RFC 9562, 5.7: 48 bits of milliseconds come first)."""
    text = f"{ms:012x}"
    return f"{text[:8]}-{text[8:]}"


async def forget_slots(
    store: Store, hospital_id: str, *, before: dt.date, since: dt.date | None = None, limit: int = CHUNK
) -> int:
    """Delete slots of days before this one, then schedules that have none left; what was ever booked stays.

    `since` leaves out earlier days that were done before: what is left of them stays for good. Returns how many rows went.
    """
    booked = bookings.c.hospital_id == hospital_id
    slot = [
        slots.c.hospital_id == hospital_id,
        slots.c.date < before.isoformat(),
        # By schedule first: that is what bookings have an index for.
        ~select(bookings.c.id)
        .where(booked, bookings.c.schedule_id == slots.c.schedule_id, bookings.c.slot_id == slots.c.id)
        .exists(),
    ]
    schedule = [
        schedules.c.hospital_id == hospital_id,
        schedules.c.date < before.isoformat(),
        ~select(bookings.c.id).where(booked, bookings.c.schedule_id == schedules.c.id).exists(),
        ~select(slots.c.id).where(slots.c.hospital_id == hospital_id, slots.c.schedule_id == schedules.c.id).exists(),
    ]
    if since is not None:
        slot.append(slots.c.date >= since.isoformat())
        schedule.append(schedules.c.date >= since.isoformat())
    return await _forget(store, hospital_id, slots, slot, limit) or await _forget(
        store, hospital_id, schedules, schedule, limit
    )


async def _forget(
    store: Store, hospital_id: str, table: Table, which: Sequence[ColumnElement[bool]], limit: int
) -> int:
    """Find some rows without the lock, and delete under it those that still fit."""
    async with store.read(hospital_id) as tx:
        ids = [r["id"] for r in await tx.all(select(table.c.id).where(*which).limit(limit))]
    if not ids:
        return 0
    async with store.write(hospital_id) as tx:
        return await tx.run(table.delete().where(*which, table.c.id.in_(ids)))
