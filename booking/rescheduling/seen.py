"""Changes that a fetch shows: another practitioner or room of a session, another time or practitioner of a segment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from booking.rescheduling.marks import Mark, Was, has_moved, is_elsewhere, read_mark
from booking.store.engine import Tx
from mappings.canonical import ScheduleStopped, Slot, StopScope

_Row = dict[str, Any]


def changed_in_place(tx: Tx, row: _Row, before: _Row, stops: Sequence[ScheduleStopped]) -> Mark | None:
    """The mark of a schedule that a fetch shows under another practitioner or in another room; None where there is none.

    `row` is what will be written: a list of substitutes, fetched beside the schedules, wins over them, and a substitute whom the
    HIS has pushed stands until the schedules show somebody new.
    """
    _substitute(row, stops)
    known = read_mark(before["moved"])
    if known is not None and known.pushed and known.was is not None:
        for name, was in known.was.fields.items():
            if name in row and row[name] == was:
                row[name] = before[name]
    if not before["booked"] or (known is not None and known.to is not None):
        return None
    changed = {
        name: before[name]
        for name in ("practitioner_id", "location")
        if before[name] is not None and row[name] is not None and row[name] != before[name]
    }
    if "practitioner_id" in changed:
        changed["practitioner_name"] = before["practitioner_name"]
    return Mark(at_ms=tx.now_ms, was=Was(**changed)) if changed else None


def changed_time(tx: Tx, row: _Row, before: _Row) -> Mark | None:
    """The mark of a slot that a fetch shows at another time."""
    if row["starts_at_ms"] == before["starts_at_ms"] or read_mark(before["moved"]) is not None:
        return None
    return Mark(at_ms=tx.now_ms, was=Was(starts_at_ms=before["starts_at_ms"], ends_at_ms=before["ends_at_ms"]))


def changed_holder(tx: Tx, row: _Row, told: Slot, before: _Row | None, schedule: _Row) -> Mark | None:
    """Write into a slot's row who holds it, where that is not its schedule's practitioner; the mark where it was somebody else.

    A substitute whom the HIS has pushed stands until the list names somebody new. Where the whole schedule has another one, its
    own mark tells of it.
    """
    known = None if before is None else read_mark(before["moved"])
    if told.practitioner_id is None or (
        known is not None
        and known.pushed
        and known.was is not None
        and known.was.practitioner_id == told.practitioner_id
    ):
        return None
    if before is not None and before["practitioner_id"] == told.practitioner_id:
        return None
    alone = told.practitioner_id != schedule["practitioner_id"]
    row["practitioner_id"] = told.practitioner_id if alone else None
    row["practitioner_name"] = told.practitioner_name if alone else None
    if before is None or (known is not None and known.to is not None):
        return None
    if not alone and before["practitioner_id"] is None:
        return None
    was = _holder_before(before, schedule)
    if was.practitioner_id is None or was.practitioner_id == told.practitioner_id:
        return None
    return Mark(at_ms=tx.now_ms, was=was)


def _holder_before(before: _Row, schedule: _Row) -> Was:
    """Who held a slot when it was fetched last: its schedule's practitioner may have become another since."""
    if before["practitioner_id"] is not None:
        return Was(practitioner_id=before["practitioner_id"], practitioner_name=before["practitioner_name"])
    mark = read_mark(schedule["moved"])
    was = None if mark is None or mark.at_ms <= before["fetch_ended_ms"] else mark.was
    if was is not None and was.practitioner_id is not None:
        return Was(practitioner_id=was.practitioner_id, practitioner_name=was.practitioner_name)
    return Was(practitioner_id=schedule["practitioner_id"], practitioner_name=schedule["practitioner_name"])


def together(one: Mark | None, other: Mark | None) -> Mark | None:
    """Two marks of one change in its place, as one."""
    if one is None or other is None or one.was is None or other.was is None:
        return one or other
    return msgspec.structs.replace(one, was=msgspec.structs.replace(one.was, **other.was.fields))


def _substitute(row: _Row, stops: Sequence[ScheduleStopped]) -> None:
    for stop in stops:
        if (
            (to := stop.moved_to) is None
            or not has_moved(stop)
            or stop.scope != StopScope.SCHEDULE
            or is_elsewhere(stop)
            or stop.schedule_id != row["his_id"]
            or (stop.date is not None and stop.date.isoformat() != row["date"])
            or (stop.session is not None and stop.session.value != row["session"])
        ):
            continue
        if to.practitioner_id is not None:
            row["practitioner_id"], row["practitioner_name"] = to.practitioner_id, to.practitioner_name
        if to.location is not None:
            row["location"] = to.location
