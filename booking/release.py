"""The release rule: when a hospital's visits open for booking, and at which times of day no hold is taken. Pure.

Times of day are the hospital's own wall clock. Where it is set forward, a time that it skips is the moment at which it is set;
where it is set back, a time that comes twice is the first of the two. 24:00 is the next midnight. Instants are given back in
UTC: within one zone Python compares wall times, which is wrong where the clock is set back.
"""

from __future__ import annotations

import datetime as dt
import re
from functools import lru_cache
from typing import Annotated

import msgspec
from msgspec import Meta

DAY_MIN = 24 * 60
TIME_OF_DAY = r"^(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]|24:00"
_SPAN = re.compile(rf"({_TIME})-({_TIME})")


class ReleaseRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[hospital.<id>.release]`. A visit on day D opens at `time` on D - `days_ahead`; None: the HIS says so or it is open.

    `closed` are spans such as 22:00-06:30, which may go over midnight. `sync_before_s` and `sync_after_s` say when schedules
    are fetched around each opening.
    """

    time: str | None = None
    days_ahead: Annotated[int, Meta(ge=0, le=90)] = 7
    closed: tuple[str, ...] = ()
    sync_before_s: Annotated[float, Meta(ge=0, le=3_600)] = 120
    sync_after_s: Annotated[float, Meta(ge=0, le=3_600)] = 5


def opens_at(rule: ReleaseRule, visit_date: dt.date, zone: dt.tzinfo) -> dt.datetime | None:
    """When visits on a day open for booking, in UTC; None without a rule."""
    if rule.time is None:
        return None
    return instant_at(visit_date - dt.timedelta(days=rule.days_ahead), _minutes(rule.time), zone)


def release_near(rule: ReleaseRule, now: dt.datetime, zone: dt.tzinfo, *, lasts_s: float) -> dt.datetime | None:
    """The opening that was at most `lasts_s` ago, or else the next one, in UTC; None without a rule."""
    if rule.time is None:
        return None
    ended = now.astimezone(dt.UTC) - dt.timedelta(seconds=lasts_s)
    day = ended.astimezone(zone).date() - dt.timedelta(days=1)  # 24:00 of the day before is today
    while True:
        opening = instant_at(day, _minutes(rule.time), zone)
        if opening > ended:
            return opening
        day += dt.timedelta(days=1)


def openings(rule: ReleaseRule, zone: dt.tzinfo, from_ms: int, to_ms: int) -> list[tuple[int, dt.date]]:
    """The openings between two instants, both included, in order: when, and of which day's visits."""
    days = [dt.datetime.fromtimestamp(ms / 1000, zone).date() for ms in (from_ms, to_ms)]
    found = []
    # 24:00 opens a day later than its date says: one day more on either side.
    for n in range((days[1] - days[0]).days + 3):
        date = days[0] + dt.timedelta(days=rule.days_ahead + n - 1)
        at = opens_at(rule, date, zone)
        if at is not None and from_ms <= (at_ms := round(at.timestamp() * 1000)) <= to_ms:
            found.append((at_ms, date))
    return sorted(found)


def closed_until(rule: ReleaseRule, now: dt.datetime, zone: dt.tzinfo) -> dt.datetime | None:
    """When holds are taken again, in UTC; None while they are taken now. Spans that touch count as one."""
    if not rule.closed:
        return None
    until = at = now.astimezone(dt.UTC)
    for _ in range(len(rule.closed) + 1):
        wall = at.astimezone(zone)
        # An end in the past: the clock has been set back, and this is the second time that it shows this time of day.
        ends = [end for span in rule.closed if (end := _end_of(span, wall, zone)) is not None and end > at]
        if not ends:
            break
        until = at = max(ends)
    return None if until == now else until


def rule_problems(rule: ReleaseRule, horizon_days: int) -> list[tuple[str, str]]:
    """What cannot be read or meant: (setting, what is expected). The other functions take a rule without problems."""
    if rule.time is not None and re.fullmatch(_TIME, rule.time) is None:
        return [("time", "expected a time of day, HH:MM from 00:00 to 24:00")]
    if not all(_SPAN.fullmatch(span) for span in rule.closed):
        return [("closed", 'expected spans of the day, HH:MM-HH:MM, for example ["22:00-06:30"]')]
    problems = []
    if rule.time == "24:00" and rule.days_ahead == 0:
        problems.append(("time", "expected an opening before the visit; 24:00 of its own day is after it"))
    if rule.time is not None and rule.days_ahead > horizon_days:
        problems.append(("days_ahead", f"expected at most horizon_days ({horizon_days}): later days are not fetched"))
    if any(_bounds(span)[0] == _bounds(span)[1] for span in rule.closed):
        problems.append(("closed", "expected spans that end at another time than they begin"))
    elif len({m for span in rule.closed for m in _covered(span)}) == DAY_MIN:
        problems.append(("closed", "expected a time of day at which holds are taken; mode = observe takes none"))
    return problems


def _end_of(span: str, wall: dt.datetime, zone: dt.tzinfo) -> dt.datetime | None:
    """When the span that this wall time lies in ends; None when it lies outside."""
    begins, ends = _bounds(span)
    minute = wall.hour * 60 + wall.minute
    if begins < ends:
        return instant_at(wall.date(), ends, zone) if begins <= minute < ends else None
    if minute >= begins:
        return instant_at(wall.date() + dt.timedelta(days=1), ends, zone)
    return instant_at(wall.date(), ends, zone) if minute < ends else None


def _covered(span: str) -> range | list[int]:
    begins, ends = _bounds(span)
    return range(begins, ends) if begins < ends else [*range(begins, DAY_MIN), *range(ends)]


@lru_cache(maxsize=1024)
def _bounds(span: str) -> tuple[int, int]:
    found = _SPAN.fullmatch(span)
    if found is None:
        raise ValueError(f"{span} is not HH:MM-HH:MM")
    return _minutes(found[1]), _minutes(found[2])


def time_of_day_at(date: dt.date, time: str, zone: dt.tzinfo) -> dt.datetime:
    """The instant of a time of day such as 24:00, in UTC."""
    return instant_at(date, _minutes(time), zone)


def _minutes(time: str) -> int:
    return int(time[:2]) * 60 + int(time[3:])


def instant_at(date: dt.date, minutes: int, zone: dt.tzinfo) -> dt.datetime:
    """The first moment at which the clock of `zone` shows this time of this day, or a later one."""
    wall = dt.datetime.combine(date, dt.time(), zone) + dt.timedelta(minutes=minutes)
    instant = wall.astimezone(dt.UTC)
    if instant.astimezone(zone).replace(tzinfo=None) == wall.replace(tzinfo=None):
        return instant
    # The clock skips this time: between these two it is set forward.
    before, after = sorted(wall.replace(fold=fold).astimezone(dt.UTC) for fold in (0, 1))
    offset = before.astimezone(zone).utcoffset()
    while after - before > dt.timedelta(seconds=1):
        middle = before + (after - before) / 2
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after.replace(microsecond=0)
