"""FHIR dates and instants as spans of time: `2031-03` is the whole month, `2031-03-04T08:00:00+08:00` one instant."""

from __future__ import annotations

import calendar
import datetime as dt
import re

from booking.api.views.base import FIRST_YEAR, LAST_YEAR

_DATE = re.compile(r"(?P<year>\d{4})(?:-(?P<month>\d{2})(?:-(?P<day>\d{2}))?)?", re.ASCII)
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:\d{2})?", re.ASCII)
_ONE_DAY = dt.timedelta(days=1)


def span_of(text: str, zone: dt.tzinfo) -> tuple[dt.datetime, dt.datetime]:
    """First and last instant of what was written; without an offset in `zone`. Raises ValueError."""
    date = _DATE.fullmatch(text)
    if date is not None:
        year, month, day = int(date["year"]), int(date["month"] or 0), int(date["day"] or 0)
        if not FIRST_YEAR <= year <= LAST_YEAR:
            raise ValueError("a year that is not of our calendars")
        last_month = month or 12
        first = dt.date(year, month or 1, day or 1)
        last = dt.date(year, last_month, day or calendar.monthrange(year, last_month)[1])
        ends = dt.datetime.combine(last + _ONE_DAY, dt.time(), zone)
        return dt.datetime.combine(first, dt.time(), zone), ends - dt.timedelta(milliseconds=1)
    if _INSTANT.fullmatch(text) is None:
        raise ValueError("neither a date nor an instant of FHIR")
    at = dt.datetime.fromisoformat(text)
    if not FIRST_YEAR <= at.year <= LAST_YEAR:
        raise ValueError("a year that is not of our calendars")
    at = at if at.tzinfo is not None else at.replace(tzinfo=zone)
    return at, at
