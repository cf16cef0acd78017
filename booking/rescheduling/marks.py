"""What stands on a schedule or slot that was moved: written with the change, in one transaction, and carried out afterwards.

The mark outlives a crash between the change and the bookings, and a new place that is not known yet. It says where the bookings
go (`to`), or, where the schedule or slot has stayed and is another, what it was (`was`): then they only have to be told.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Table, select, update

from booking.rescheduling.places import Place
from booking.store.engine import Tx
from booking.store.tables import schedules, slots
from mappings.canonical import NewPlace, ScheduleStopped


class Was(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a schedule or slot was before it changed in its place; None is what has not changed."""

    practitioner_id: str | None = None
    practitioner_name: str | None = None
    location: str | None = None
    starts_at_ms: int | None = None
    ends_at_ms: int | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """What has changed."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}

    def before(self, now: Place) -> Place:
        """The place as it was."""
        return msgspec.structs.replace(now, **self.fields)


class Mark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change. `at_ms`: when we heard of it; `occurred_ms`: the HIS's own time. `pushed`: the HIS told us unasked."""

    at_ms: int
    occurred_ms: int | None = None
    pushed: bool = False
    to: NewPlace | None = None
    was: Was | None = None


class Marked(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule, or one of its slots, that carries a mark."""

    schedule_id: str
    slot_id: str | None
    mark: Mark


def encode_mark(mark: Mark) -> str:
    """As it is stored."""
    return msgspec.json.encode(mark).decode()


def read_mark(text: str | None) -> Mark | None:
    """A stored mark; None for none."""
    return None if text is None else msgspec.json.decode(text, type=Mark)


def goes_elsewhere(text: str | None) -> bool:
    """Whether a stored mark moves bookings to another place."""
    mark = read_mark(text)
    return mark is not None and mark.to is not None


def has_moved(stop: ScheduleStopped) -> bool:
    """Whether a word says where it is instead, or who holds it: one that names nothing is a stop."""
    return stop.moved_to is not None and stop.moved_to != NewPlace()


def is_elsewhere(stop: ScheduleStopped) -> bool:
    """Whether a change names another place, and not only another practitioner or room for the one that it is about."""
    to = stop.moved_to
    if to is None:
        return False
    return (
        to.slot_id is not None
        or to.schedule_id not in (None, stop.schedule_id)
        or (to.date is not None and to.date != stop.date)
        or (to.session is not None and to.session != stop.session)
        or (to.starts_at is not None and to.starts_at != stop.starts_at)
    )


async def marked(
    tx: Tx, *, since: dt.date | None = None, schedule_ids: Iterable[str] | None = None, elsewhere: bool | None = None
) -> list[Marked]:
    """The marks of these schedules and their slots, or of all days from `since` on."""
    found: list[Marked] = []
    for table, of, slot in ((schedules, schedules.c.id, None), (slots, slots.c.schedule_id, slots.c.id)):
        columns = [of.label("schedule_id"), table.c.moved]
        query = select(*columns, *([] if slot is None else [slot.label("slot_id")])).where(
            table.c.hospital_id == tx.hospital_id, table.c.moved.is_not(None)
        )
        if since is not None:
            query = query.where(table.c.date >= since.isoformat())
        if schedule_ids is not None:
            query = query.where(of.in_(sorted(set(schedule_ids))))
        for row in await tx.all(query):
            mark = read_mark(row["moved"])
            if mark is not None and elsewhere in (None, mark.to is not None):
                found.append(Marked(schedule_id=row["schedule_id"], slot_id=row.get("slot_id"), mark=mark))
    return found


async def put_mark(tx: Tx, table: Table, row_id: str, mark: Mark) -> None:
    """Write a mark; of `schedules` or `slots`."""
    await tx.run(
        update(table).where(table.c.hospital_id == tx.hospital_id, table.c.id == row_id).values(moved=encode_mark(mark))
    )
