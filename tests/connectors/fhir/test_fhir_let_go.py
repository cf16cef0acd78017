"""A hundred thousand records are let go of in turns: all at once would hold the interpreter for tens of milliseconds."""

from __future__ import annotations

import datetime as dt
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from connectors.fhir.inventory import merge_slots, merging_slots, stops_of
from mappings.canonical import ScheduleStatus, ScheduleStopped, Session, Slot

DAYS, A_DAY = 20, 10
NINE = dt.datetime(2031, 3, 4, 9, tzinfo=dt.UTC)


class Instant(dt.datetime):
    """Can be watched: every record carries its own on, and merged ones carry that of their first."""


def slots(alive: weakref.WeakSet[Instant]) -> Iterator[Slot]:
    """Stopped ones."""
    for day in range(DAYS):
        for segment in range(A_DAY):
            at = NINE + dt.timedelta(days=day, minutes=10 * segment)
            starts_at = Instant.fromisoformat(at.isoformat())
            alive.add(starts_at)
            yield Slot(
                id=f"{day}-{segment}",
                schedule_id="S",
                date=at.date(),
                session=Session.AM,
                starts_at=starts_at,
                ends_at=at + dt.timedelta(minutes=10),
                seats_left=0,
                status=ScheduleStatus.STOPPED,
            )


def _stops(records: Iterator[Slot], pause: Callable[[], None]) -> list[ScheduleStopped]:
    return stops_of(merging_slots(records, pause), pause)


@pytest.mark.parametrize(("finish", "kept"), [(merge_slots, DAYS * A_DAY), (_stops, 0)], ids=["slots", "stops"])
def test_records_are_let_go_in_turns_when_they_are_merged(
    finish: Callable[[Iterator[Slot], Callable[[], None]], list[object]], kept: int
) -> None:
    alive = weakref.WeakSet[Instant]()
    there = [0]
    found = finish(slots(alive), lambda: there.append(len(alive)))
    there.append(len(alive))
    assert max(there) == DAYS * A_DAY
    assert len(alive) == kept
    assert len(found) == (kept or DAYS)
    drops = [before - after for before, after in pairwise(there)]
    assert max(drops) <= 2 * A_DAY  # a session's segments, beside those of the one before
