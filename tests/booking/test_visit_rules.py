"""When a visit counts as missed by the hospital's rule: a table."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest

from booking.visit_rules import VisitRule, missed_from_ms

CASES = [
    # Hours, zone, day, from when on. The day of the visit ends with its last hour in the hospital's zone.
    (None, "Asia/Shanghai", "2031-03-04", None),
    (1, "Asia/Shanghai", "2031-03-04", "2031-03-05T01:00:00+08:00"),
    (24, "Asia/Shanghai", "2031-03-04", "2031-03-06T00:00:00+08:00"),
    (24, "Asia/Shanghai", "2030-12-31", "2031-01-02T00:00:00+08:00"),
    # Berlin sets its clock forward on 2031-03-30: that day has 23 hours.
    (1, "Europe/Berlin", "2031-03-30", "2031-03-31T01:00:00+02:00"),
    (24, "Europe/Berlin", "2031-03-29", "2031-03-31T01:00:00+02:00"),
]


@pytest.mark.parametrize(("hours", "zone", "date", "expected"), CASES)
def test_visit_counts_as_missed_when_the_hours_after_its_day_are_over(
    hours: int | None, zone: str, date: str, expected: str | None
) -> None:
    found = missed_from_ms(VisitRule(no_show_after_h=hours), dt.date.fromisoformat(date), ZoneInfo(zone))
    assert found == (None if expected is None else dt.datetime.fromisoformat(expected).timestamp() * 1000)


@pytest.mark.parametrize(("ask", "hours", "days"), [(2, None, 2), (0, None, 0), (0, 1, 2), (5, 24, 5), (1, 336, 16)])
def test_days_reach_back_to_what_may_be_missed_when_there_is_a_rule(ask: int, hours: int | None, days: int) -> None:
    assert VisitRule(ask_days=ask, no_show_after_h=hours).days == days
