"""Where a booking is: its slot and schedule in one, as portals are told of them and as new ones are found."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Select, bindparam, select

from booking.catalog import HELD_BY, HELD_BY_NAME
from booking.store.engine import Tx
from booking.store.fixed import Fixed, is_one_of
from booking.store.tables import schedules, slots
from mappings.canonical import NewPlace


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A slot with what its schedule says. `slot_his_id` and `schedule_his_id` are the HIS's own ids of them.

    `stand_in`: who holds this segment, where that is not (or was not always) the schedule's own practitioner.
    """

    slot_id: str
    schedule_id: str
    slot_his_id: str
    schedule_his_id: str
    date: str
    session: str
    starts_at_ms: int
    ends_at_ms: int
    department_id: str
    department_name: str | None = None
    practitioner_id: str | None = None
    practitioner_name: str | None = None
    location: str | None = None
    stand_in: str | None = None

    def covers(self, at_ms: int) -> bool:
        """Whether an instant lies in the segment."""
        return self.starts_at_ms <= at_ms < self.ends_at_ms


_PLACES = select(
    slots.c.id.label("slot_id"),
    slots.c.schedule_id,
    slots.c.his_id.label("slot_his_id"),
    schedules.c.his_id.label("schedule_his_id"),
    schedules.c.date,
    schedules.c.session,
    slots.c.starts_at_ms,
    slots.c.ends_at_ms,
    schedules.c.department_id,
    schedules.c.department_name,
    HELD_BY.label("practitioner_id"),
    HELD_BY_NAME.label("practitioner_name"),
    schedules.c.location,
    slots.c.practitioner_id.label("stand_in"),
).select_from(
    slots.join(schedules, (schedules.c.hospital_id == slots.c.hospital_id) & (schedules.c.id == slots.c.schedule_id))
)
_BY_SLOT = Fixed(_PLACES.where(slots.c.hospital_id == bindparam("of_hospital"), is_one_of(slots.c.id, "ids")))
_BY_SCHEDULE = Fixed(
    _PLACES.where(slots.c.hospital_id == bindparam("of_hospital"), is_one_of(slots.c.schedule_id, "ids"))
)


async def places_of(tx: Tx, slot_ids: Iterable[str]) -> dict[str, Place]:
    """The places of these slots (our ids), by slot; a slot that is gone is left out."""
    ids = sorted(set(slot_ids))
    rows = await tx.all(_BY_SLOT, {"of_hospital": tx.hospital_id, "ids": ids}) if ids else []
    return {row["slot_id"]: _place(row) for row in rows}


async def segments_of(tx: Tx, schedule_ids: Iterable[str]) -> list[Place]:
    """All segments of these schedules (our ids), in the order of their start."""
    ids = sorted(set(schedule_ids))
    rows = await tx.all(_BY_SCHEDULE, {"of_hospital": tx.hospital_id, "ids": ids}) if ids else []
    return sorted(map(_place, rows), key=lambda place: (place.starts_at_ms, place.slot_id))


async def segments_on(tx: Tx, date: str, department_id: str) -> list[Place]:
    """All segments of a department's day, in the order of their start."""
    query: Select[Any] = _PLACES.where(
        schedules.c.hospital_id == tx.hospital_id,
        schedules.c.date == date,
        schedules.c.department_id == department_id,
    )
    rows = await tx.all(query)
    return sorted(map(_place, rows), key=lambda place: (place.starts_at_ms, place.slot_id))


def _place(row: dict[str, Any]) -> Place:
    return msgspec.convert(row, Place)


def payload_of(place: Place, zone: dt.tzinfo) -> dict[str, Any]:
    """What an event tells of a place."""
    return {
        "slot_id": place.slot_id,
        "schedule_id": place.schedule_id,
        "starts_at": dt.datetime.fromtimestamp(place.starts_at_ms / 1000, zone),
        "ends_at": dt.datetime.fromtimestamp(place.ends_at_ms / 1000, zone),
        "department_id": place.department_id,
        "practitioner_id": place.practitioner_id,
        "practitioner_name": place.practitioner_name,
        "location": place.location,
    }


# --- finding the new one ---------------------------------------------------------------------------------------------


def partner_of(
    source: Place, sources: list[Place], targets: list[Place], to: NewPlace, zone: dt.tzinfo
) -> Place | None:
    """The segment to which a whole session's segment moves; None where there is none that it can be. Pure.

    By the slot that is named, else the n-th for the n-th where there are as many, else the one at the same time of day, else the
    one as far from the session's beginning.
    """
    if to.slot_id is not None:
        return next((t for t in targets if t.slot_his_id == to.slot_id), None)
    if not targets or source not in sources:
        return None
    if len(sources) == len(targets):
        return targets[sources.index(source)]
    by_clock = [t for t in targets if _time(t, zone) == _time(source, zone)]
    if by_clock and to.starts_at is None:
        return by_clock[0]
    begins_ms = targets[0].starts_at_ms if to.starts_at is None else round(to.starts_at.timestamp() * 1000)
    at_ms = begins_ms + source.starts_at_ms - sources[0].starts_at_ms
    return next((t for t in targets if t.covers(at_ms)), None)


def segment_at(source: Place, targets: list[Place], to: NewPlace, zone: dt.tzinfo) -> Place | None:
    """The segment to which one segment or order moves; None where there is none. Pure."""
    if to.slot_id is not None:
        return next((t for t in targets if t.slot_his_id == to.slot_id), None)
    if to.starts_at is not None:
        at_ms = round(to.starts_at.timestamp() * 1000)
        return next((t for t in targets if t.covers(at_ms)), None)
    return next((t for t in targets if _time(t, zone) == _time(source, zone)), None)


def _time(place: Place, zone: dt.tzinfo) -> dt.time:
    return dt.datetime.fromtimestamp(place.starts_at_ms / 1000, zone).time()
