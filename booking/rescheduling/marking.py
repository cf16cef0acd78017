"""A move or a substitution that the HIS tells of whole sessions and segments: what readers see changes, and a mark is left.

`booking.rescheduling.carrying` then brings it to the bookings.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from sqlalchemy import Table, select, update

from booking.fetches import stop_slots
from booking.rescheduling.marks import Mark, Was, is_elsewhere, put_mark, read_mark
from booking.rescheduling.named import instant_of, schedules_meant, segments_meant
from booking.store.engine import Tx
from booking.store.tables import schedules, slots
from mappings.canonical import NewPlace, ScheduleStopped, StopScope

_Row = dict[str, Any]


async def mark_change(tx: Tx, stop: ScheduleStopped, *, pushed: bool) -> list[str]:
    """Mark the schedules or segments that a change is about; returns our ids of the schedules. Twice changes nothing.

    What goes elsewhere is off sale from here on. A word that is older than the one that stands is dropped.
    """
    meant = await schedules_meant(tx, stop)
    for schedule_id in meant:
        if stop.scope == StopScope.SCHEDULE:
            await _mark_row(tx, stop, schedules, schedule_id, schedule_id, pushed=pushed)
            continue
        for slot_id, starts_at_ms in (await segments_meant(tx, schedule_id, stop)).items():
            await _mark_row(tx, _of_one(stop, starts_at_ms), slots, slot_id, schedule_id, pushed=pushed)
    return meant


def _of_one(stop: ScheduleStopped, starts_at_ms: int) -> ScheduleStopped:
    """A move of several segments as that of one of them: where the first begins anew, the others follow as far behind it."""
    to, begins = stop.moved_to, stop.starts_at
    if to is None or to.starts_at is None or begins is None:
        return stop
    at = instant_of(starts_at_ms)
    there = msgspec.structs.replace(to, starts_at=to.starts_at + (at - begins))
    return msgspec.structs.replace(stop, starts_at=at, moved_to=there)


async def _mark_row(
    tx: Tx,
    stop: ScheduleStopped,
    table: Table,
    row_id: str,
    schedule_id: str,
    *,
    pushed: bool,
) -> None:
    to = stop.moved_to
    row = await tx.first(select(table).where(table.c.hospital_id == tx.hospital_id, table.c.id == row_id))
    if row is None or to is None:
        return
    known = read_mark(row["moved"])
    mark = Mark(at_ms=tx.now_ms, occurred_ms=_ms(stop.occurred_at), pushed=pushed)
    if known is not None and _is_older(mark, known):
        return
    if is_elsewhere(stop):
        await stop_slots(tx, schedule_id, slot_ids=None if table is schedules else [row_id], pushed=pushed)
        same = known is not None and known.to == to
        await put_mark(tx, table, row_id, known if known is not None and same else msgspec.structs.replace(mark, to=to))
        return
    was = await _replace(tx, table, row, schedule_id, to)
    if was is not None and (known is None or known.to is None):  # what has moved away stays so
        await put_mark(tx, table, row_id, msgspec.structs.replace(mark, was=was))


def _is_older(told: Mark, known: Mark) -> bool:
    return told.occurred_ms is not None and known.occurred_ms is not None and told.occurred_ms < known.occurred_ms


async def _replace(tx: Tx, table: Table, row: _Row, schedule_id: str, to: NewPlace) -> Was | None:
    """Show another practitioner, and for a whole session another room; what they were, None where nothing differs."""
    of = row if table is schedules else await _schedule(tx, schedule_id)
    names = ("practitioner_id", "practitioner_name") + (("location",) if table is schedules else ())
    before = {name: row[name] if row[name] is not None else of[name] for name in names}
    after = {name: value for name in names if (value := getattr(to, name)) is not None and value != before[name]}
    if not after:
        return None
    if "practitioner_id" in after:
        after.setdefault("practitioner_name", to.practitioner_name)  # not the other one's
    await tx.run(update(table).where(table.c.hospital_id == tx.hospital_id, table.c.id == row["id"]).values(**after))
    tx.touch(of["date"], of["department_id"])
    return Was(**{name: before[name] for name in after})


async def _schedule(tx: Tx, schedule_id: str) -> _Row:
    row = await tx.first(
        select(schedules).where(schedules.c.hospital_id == tx.hospital_id, schedules.c.id == schedule_id)
    )
    if row is None:
        raise LookupError("a segment's schedule is gone")
    return row


def _ms(instant: dt.datetime | None) -> int | None:
    return None if instant is None else round(instant.timestamp() * 1000)
