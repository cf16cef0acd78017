"""Spans of the calendar, such as "3 months", and where days and months of a hospital begin. Pure."""

from __future__ import annotations

import calendar
import datetime as dt
import re
from enum import StrEnum

from booking.release import instant_at

SPAN = r"^([1-9][0-9]{0,2}) (days?|months?)$"


class Within(StrEnum):
    """What is counted together: the bookings of one day, or of one month, of the hospital's calendar."""

    DAY = "day"
    MONTH = "month"


def add_span(date: dt.date, span: str) -> dt.date:
    """The date so many days or calendar months later; a day that the month lacks is its last one (31 January + 1 month)."""
    found = re.match(SPAN, span)
    if found is None:
        raise ValueError(f"{span} is not a number of days or months")
    number = int(found[1])
    if found[2].startswith("day"):
        return date + dt.timedelta(days=number)
    months = date.year * 12 + date.month - 1 + number
    year, month = divmod(months, 12)
    return dt.date(year, month + 1, min(date.day, calendar.monthrange(year, month + 1)[1]))


def most_days(span: str) -> int:
    """The days that a span has at the most."""
    found = re.match(SPAN, span)
    return 0 if found is None else int(found[1]) * (1 if found[2].startswith("day") else 31)


def date_at(ms: int, zone: dt.tzinfo) -> dt.date:
    """The hospital's date at an instant."""
    return dt.datetime.fromtimestamp(ms / 1000, zone).date()


def begins_ms(date: dt.date, zone: dt.tzinfo) -> int:
    """The first instant of a day at the hospital."""
    return round(instant_at(date, 0, zone).timestamp() * 1000)


def period_of(date: dt.date, within: Within) -> str:
    """The day or month that a date lies in, as the beginning of its ISO text."""
    return date.isoformat()[: 10 if within == Within.DAY else 7]


def next_period_ms(date: dt.date, within: Within, zone: dt.tzinfo) -> int:
    """The first instant of the day or month after that of a date."""
    first = date if within == Within.DAY else date.replace(day=1)
    return begins_ms(add_span(first, f"1 {within.value}"), zone)
