"""Forgetting what nobody asks for any more, a few rows at a time, so that no deletion holds up a booking."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import ColumnElement, Table, select, tuple_

from booking.store.engine import Store, Tx
from booking.store.ids import first_id
from booking.store.tables import (
    fragments,
    outbox,
    schedules,
    slots,
    waiting_rooms,
    waiting_steps,
    waiting_tickets,
    waitlist,
)

CHUNK = 200
KEEP_COMMANDS_DAYS = 30
KEEP_CATALOGUE_DAYS = 30
KEEP_MERCHANT_BILLS_DAYS = 400
KEEP_ROOMS_DAYS = 30  # who asks why they were so far behind can be shown
KEEP_WAITLIST_DAYS = 30  # as long as the events that told of it
_DAY_MS = 24 * 3600 * 1000


async def forget_commands(store: Store, hospital_id: str, *, limit: int = CHUNK) -> int:
    """Delete settled commands past their days; returns how many. Open ones and dead letters stay, however old."""
    async with store.read(hospital_id) as tx:
        before_ms = tx.now_ms - KEEP_COMMANDS_DAYS * _DAY_MS
    old = [
        outbox.c.hospital_id == hospital_id,
        outbox.c.id < first_id(before_ms),  # ids begin with their time: the key's own index finds the old ones
        outbox.c.status.in_(("done", "dropped")),
        outbox.c.updated_ms < before_ms,
    ]
    return await _forget(store, hospital_id, outbox, old, limit)


async def forget_slots(
    store: Store, hospital_id: str, *, before: dt.date, since: dt.date | None = None, limit: int = CHUNK
) -> int:
    """Delete slots of days before this one, then schedules that have none left, then what readers keep of such days.

    What was ever booked stays.

    `since` leaves out earlier days that were done before: what is left of them stays for good. Returns how many rows went.
    """
    slot = [slots.c.hospital_id == hospital_id, slots.c.date < before.isoformat(), ~slots.c.booked]
    schedule = [
        schedules.c.hospital_id == hospital_id,
        schedules.c.date < before.isoformat(),
        ~schedules.c.booked,
        ~select(slots.c.id).where(slots.c.hospital_id == hospital_id, slots.c.schedule_id == schedules.c.id).exists(),
    ]
    fragment = [
        fragments.c.hospital_id == hospital_id,
        fragments.c.date < before.isoformat(),
        fragments.c.date > "",  # departments and practitioners belong to no day
        ~select(schedules.c.id)
        .where(
            schedules.c.hospital_id == hospital_id,
            schedules.c.date == fragments.c.date,
            schedules.c.department_id == fragments.c.department_id,
        )
        .exists(),
    ]
    if since is not None:
        slot.append(slots.c.date >= since.isoformat())
        schedule.append(schedules.c.date >= since.isoformat())
        fragment.append(fragments.c.date >= since.isoformat())
    return (
        await _forget(store, hospital_id, slots, slot, limit, tell=_days_of_slots)
        or await _forget(store, hospital_id, schedules, schedule, limit)
        or await _forget(store, hospital_id, fragments, fragment, limit)
    )


async def forget_rooms(store: Store, hospital_id: str, *, limit: int = CHUNK) -> int:
    """Delete closed waiting rooms past their days: their places, their steps, then themselves. Returns how many rows went."""
    async with store.read(hospital_id) as tx:
        before_ms = tx.now_ms - KEEP_ROOMS_DAYS * _DAY_MS
        room = await tx.first(
            select(waiting_rooms.c.release_ms)
            .where(
                waiting_rooms.c.hospital_id == hospital_id,
                waiting_rooms.c.release_ms < before_ms,
                waiting_rooms.c.closed_ms.is_not(None),
            )
            .order_by(waiting_rooms.c.release_ms)
            .limit(1)
        )
    if room is None:
        return 0
    for table in (waiting_tickets, waiting_steps, waiting_rooms):
        of_room = [table.c.hospital_id == hospital_id, table.c.release_ms == room["release_ms"]]
        if forgotten := await _forget(store, hospital_id, table, of_room, limit):
            return forgotten
    return 0


async def forget_waitlist(store: Store, hospital_id: str, *, limit: int = CHUNK) -> int:
    """Delete entries of the waitlist that have been over for their days; returns how many."""
    async with store.read(hospital_id) as tx:
        before_ms = tx.now_ms - KEEP_WAITLIST_DAYS * _DAY_MS
    old = [
        waitlist.c.hospital_id == hospital_id,
        waitlist.c.id < first_id(before_ms),
        waitlist.c.due_ms.is_(None),
        waitlist.c.updated_ms < before_ms,
    ]
    return await _forget(store, hospital_id, waitlist, old, limit)


async def oldest_day(
    store: Store, hospital_id: str, *, before: dt.date, since: dt.date | None = None
) -> dt.date | None:
    """The first day from `since` on that `forget_slots` may find something of; None where there is none before `before`."""
    found: list[str] = []
    async with store.read(hospital_id) as tx:
        for table in (slots, schedules, fragments):
            days = table.c.date
            row = await tx.first(
                select(days)
                .where(table.c.hospital_id == hospital_id, days < before.isoformat())
                .where(days > "" if since is None else days >= since.isoformat())  # departments belong to no day
                .order_by(days)
                .limit(1)
            )
            found += [row["date"]] if row is not None else []
    return dt.date.fromisoformat(min(found)) if found else None


Tell = Callable[[Tx, Sequence[tuple[str, ...]]], Awaitable[None]]


async def _days_of_slots(tx: Tx, keys: Sequence[tuple[str, ...]]) -> None:
    """Readers may still show them."""
    days = await tx.all(
        select(schedules.c.date, schedules.c.department_id)
        .distinct()
        .select_from(
            slots.join(
                schedules, (schedules.c.hospital_id == slots.c.hospital_id) & (schedules.c.id == slots.c.schedule_id)
            )
        )
        .where(slots.c.hospital_id == tx.hospital_id, slots.c.id.in_([key[0] for key in keys]))
    )
    for day in days:
        tx.touch(day["date"], day["department_id"])


async def _forget(
    store: Store,
    hospital_id: str,
    table: Table,
    which: Sequence[ColumnElement[bool]],
    limit: int,
    *,
    tell: Tell | None = None,
) -> int:
    """Find some rows without the lock, and delete under it those that still fit."""
    names = [c for c in table.primary_key.columns if c.name != "hospital_id"]
    async with store.read(hospital_id) as tx:
        rows = await tx.all(select(*names).where(*which).limit(limit))
    keys = [tuple(row.values()) for row in rows]
    if not keys:
        return 0
    async with store.write(hospital_id) as tx:
        if tell is not None:
            await tell(tx, keys)
        these = names[0].in_([key[0] for key in keys]) if len(names) == 1 else tuple_(*names).in_(keys)
        return await tx.run(table.delete().where(*which, these))
