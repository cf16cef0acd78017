"""From single FHIR Slots to what can be booked. One seat is one Slot: several with equal schedule and start are one segment.

Nearly everything here is canonical records in, canonical records out.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from connectors.fhir.documents import Json, without_history
from mappings.canonical import Schedule, ScheduleStatus, ScheduleStopped, Slot, StopScope

# How many free Slots of a segment are remembered for a booking; it asks again when they are gone.
MAX_FREE = 20
FREE, SLOT = "free", "slot"


def _at_once() -> None:
    """No pause: there is little to do."""


def merge_slots(slots: Iterable[Slot], pause: Callable[[], None] = _at_once) -> list[Slot]:
    """One Slot per schedule and start, in order of first appearance; seats are added up.

    Its id is made of both, so that it stays the same whichever Slots are free. `his_refs` holds the ids of free ones
    (`free`, separated by spaces). It is stopped only when all of its Slots are. `pause` is called now and then.
    """
    return list(merging_slots(slots, pause))


def merging_slots(slots: Iterable[Slot], pause: Callable[[], None]) -> Iterator[Slot]:
    """The same, as they are merged. What they were merged of is let go of one by one.

    To let go of all at once would take the interpreter for a while.
    """
    groups: dict[tuple[str, dt.datetime], Slot | list[Slot]] = {}
    for slot in slots:
        key = (slot.schedule_id, slot.starts_at)
        before = groups.setdefault(
            key, slot
        )  # most have one Slot: a hundred thousand lists would be work for the collector
        if before is not slot:
            groups[key] = [*before, slot] if isinstance(before, list) else [before, slot]
        pause()
    for key in list(groups):
        same = groups.pop(key)
        yield _merged(same if isinstance(same, list) else [same])
        pause()


def _merged(same: Sequence[Slot]) -> Slot:
    first = same[0]
    free = [slot.id for slot in same if slot.seats_left > 0]
    stopped = all(slot.status is ScheduleStatus.STOPPED for slot in same)
    return msgspec.structs.replace(
        first,
        id=f"{first.schedule_id}@{first.starts_at.astimezone(dt.UTC):%Y%m%dT%H%M%SZ}",
        seats_left=sum(slot.seats_left for slot in same),
        status=ScheduleStatus.STOPPED if stopped else ScheduleStatus.OPEN,
        his_refs={FREE: " ".join(free[:MAX_FREE])} if free else {},
    )


def free_slots(slots: Iterable[Slot]) -> list[str]:
    """The ids of the free ones."""
    return [slot.id for slot in slots if slot.seats_left > 0]


def merge_schedules(schedules: Iterable[Schedule], pause: Callable[[], None] = _at_once) -> list[Schedule]:
    """One Schedule per id, day and session (the natural key), in order; stopped only when every one of them is."""
    groups: dict[Any, Schedule] = {}
    for schedule in schedules:
        pause()
        key = (schedule.id, schedule.date, schedule.session)
        known = groups.get(key)
        if known is None or (known.status is ScheduleStatus.STOPPED and schedule.status is ScheduleStatus.OPEN):
            groups[key] = schedule
    return list(groups.values())


def schedule_of(slot: Json) -> str | None:
    """The id of the Schedule that a Slot resource, good or flawed, refers to; None where it does not say."""
    schedule = slot.get("schedule")
    reference = schedule.get("reference") if isinstance(schedule, dict) else None
    return without_history(reference).rpartition("/")[2] or None if isinstance(reference, str) else None


def without_stops(records: Iterable[Any]) -> list[Any]:
    """Slots or schedules none of which counts as stopped; their seats stay as they are."""
    return [msgspec.structs.replace(record, status=ScheduleStatus.OPEN) for record in records]


def stops_of(slots: Iterable[Slot], pause: Callable[[], None] = _at_once) -> list[ScheduleStopped]:
    """停诊 as merged slots show it: a session whose segments are all stopped, else the segments that are."""
    sessions: dict[Any, list[Slot]] = {}
    for slot in slots:
        pause()
        sessions.setdefault((slot.schedule_id, slot.date, slot.session), []).append(slot)
    stops: list[ScheduleStopped] = []
    for schedule_id, date, session in list(sessions):
        pause()
        segments = sessions.pop((schedule_id, date, session))
        stopped = [slot for slot in segments if slot.status is ScheduleStatus.STOPPED]
        if len(stopped) == len(segments):
            stops.append(ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id=schedule_id, date=date, session=session))
            continue
        stops.extend(
            ScheduleStopped(
                scope=StopScope.SEGMENT,
                schedule_id=schedule_id,
                date=date,
                session=session,
                starts_at=slot.starts_at,
            )
            for slot in stopped
        )
    return stops
