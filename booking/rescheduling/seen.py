"""Changes that a fetch shows: another practitioner or room of a session, another time of a segment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from booking.rescheduling.marks import Mark, Was, has_moved, is_elsewhere, read_mark
from booking.store.engine import Tx
from mappings.canonical import ScheduleStopped, StopScope

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
