"""The release rule: when visits open, and at which times of day no hold is taken."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booking.release import ReleaseRule, closed_until, opens_at, rule_problems

SHANGHAI = ZoneInfo("Asia/Shanghai")
NEW_YORK = ZoneInfo("America/New_York")  # 2031: forward on 9 March at 02:00, back on 2 November at 02:00
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")  # by half an hour: forward on 5 October 2031 at 02:00
CAIRO = ZoneInfo("Africa/Cairo")  # at midnight: forward on 25 April 2031 at 00:00
MINUTES = [f"{n // 60:02}:{n % 60:02}" for n in range(24 * 60)]


def at(text: str, zone: ZoneInfo = SHANGHAI) -> dt.datetime:
    """A wall time without an offset in `zone`; with one as it says."""
    instant = dt.datetime.fromisoformat(text)
    return instant if instant.tzinfo else instant.replace(tzinfo=zone)


@pytest.mark.parametrize(
    ("time", "days_ahead", "visit", "opens"),
    [
        ("07:00", 7, "2031-03-10", "2031-03-03T07:00+08:00"),
        ("05:00", 28, "2031-03-10", "2031-02-10T05:00+08:00"),
        ("00:00", 1, "2031-03-01", "2031-02-28T00:00+08:00"),
        ("24:00", 1, "2032-03-01", "2032-03-01T00:00+08:00"),  # midnight at the end of 29 February
        ("06:30", 0, "2031-03-10", "2031-03-10T06:30+08:00"),
    ],
)
def test_visit_opens_so_many_days_before_at_the_hospitals_time(
    time: str, days_ahead: int, visit: str, opens: str
) -> None:
    rule = ReleaseRule(time=time, days_ahead=days_ahead)
    found = opens_at(rule, dt.date.fromisoformat(visit), SHANGHAI)
    assert found == at(opens)


def test_no_opening_is_known_when_there_is_no_rule() -> None:
    assert opens_at(ReleaseRule(), dt.date(2031, 3, 10), SHANGHAI) is None


@pytest.mark.parametrize(
    ("zone", "time", "day", "opens"),
    [
        (NEW_YORK, "02:30", "2031-03-09", "2031-03-09T03:00-04:00"),  # skipped: when the clock is set
        (NEW_YORK, "02:00", "2031-03-09", "2031-03-09T03:00-04:00"),
        (NEW_YORK, "01:59", "2031-03-09", "2031-03-09T01:59-05:00"),
        (NEW_YORK, "03:00", "2031-03-09", "2031-03-09T03:00-04:00"),
        (NEW_YORK, "01:30", "2031-11-02", "2031-11-02T01:30-04:00"),  # twice: the first
        (NEW_YORK, "07:00", "2031-11-02", "2031-11-02T07:00-05:00"),
        (LORD_HOWE, "02:15", "2031-10-05", "2031-10-05T02:30+11:00"),
        (CAIRO, "00:00", "2031-04-25", "2031-04-25T01:00+03:00"),
        (CAIRO, "24:00", "2031-04-24", "2031-04-25T01:00+03:00"),
    ],
)
def test_opening_is_the_first_moment_of_its_time_when_the_clock_is_set(
    zone: ZoneInfo, time: str, day: str, opens: str
) -> None:
    assert opens_at(ReleaseRule(time=time, days_ahead=0), dt.date.fromisoformat(day), zone) == at(opens)


@given(
    zone=st.sampled_from([SHANGHAI, NEW_YORK, LORD_HOWE, CAIRO]),
    time=st.sampled_from(MINUTES),
    day=st.dates(dt.date(2031, 1, 1), dt.date(2031, 12, 31)),
)
def test_clock_shows_the_time_at_the_opening_and_not_a_second_before(zone: ZoneInfo, time: str, day: dt.date) -> None:
    opens = opens_at(ReleaseRule(time=time, days_ahead=0), day, zone)
    assert opens is not None
    wall = dt.datetime.combine(day, dt.time.fromisoformat(time))
    shown = [(opens - dt.timedelta(seconds=s)).astimezone(zone).replace(tzinfo=None) for s in (0, 1)]
    assert shown[0] >= wall
    assert shown[1] < wall


# --- closed hours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("closed", "now", "until"),
    [
        (["22:00-06:30"], "2031-03-10T21:59:59.999", None),
        (["22:00-06:30"], "2031-03-10T22:00", "2031-03-11T06:30"),
        (["22:00-06:30"], "2031-03-10T23:59:59", "2031-03-11T06:30"),
        (["22:00-06:30"], "2031-03-11T00:00", "2031-03-11T06:30"),
        (["22:00-06:30"], "2031-03-11T06:29:59.999", "2031-03-11T06:30"),
        (["22:00-06:30"], "2031-03-11T06:30", None),
        (["00:00-06:30"], "2031-03-10T23:59", None),
        (["00:00-06:30"], "2031-03-11T00:00", "2031-03-11T06:30"),
        (["22:00-24:00"], "2031-12-31T23:00", "2032-01-01T00:00"),
        (["22:00-24:00", "00:00-06:30"], "2031-03-10T23:00", "2031-03-11T06:30"),  # one touches the other
        (["12:00-13:00", "12:30-14:00"], "2031-03-10T12:10", "2031-03-10T14:00"),
        (["12:00-13:00", "22:00-06:30"], "2031-03-10T12:10", "2031-03-10T13:00"),
        ([], "2031-03-10T12:10", None),
    ],
)
def test_holds_are_taken_again_at_the_end_of_the_closed_hours(closed: list[str], now: str, until: str | None) -> None:
    found = closed_until(ReleaseRule(closed=tuple(closed)), at(now), SHANGHAI)
    assert found == (None if until is None else at(until))


def test_closed_hours_are_the_hospitals_when_now_is_told_in_another_zone() -> None:
    rule = ReleaseRule(closed=("00:00-06:30",))
    assert closed_until(rule, at("2031-03-10T22:00+00:00"), SHANGHAI) == at("2031-03-11T06:30+08:00")


@pytest.mark.parametrize(
    ("closed", "now", "until"),
    [
        ("01:00-02:30", "2031-03-09T01:30-05:00", "2031-03-09T03:00-04:00"),  # its end is skipped
        ("00:00-01:30", "2031-11-02T01:10-04:00", "2031-11-02T01:30-04:00"),
        ("00:00-01:30", "2031-11-02T01:10-05:00", None),  # the second 01:10: the night was over at the first 01:30
    ],
)
def test_closed_hours_end_once_when_the_clock_is_set(closed: str, now: str, until: str | None) -> None:
    found = closed_until(ReleaseRule(closed=(closed,)), at(now), NEW_YORK)
    assert found == (None if until is None else at(until))


@given(
    spans=st.lists(
        st.tuples(st.sampled_from(MINUTES), st.sampled_from([*MINUTES[1:], "24:00"])), min_size=1, max_size=4
    ),
    minute=st.integers(0, 24 * 60 - 1),
)
def test_hospital_is_closed_until_the_first_minute_that_no_span_covers(
    spans: list[tuple[str, str]], minute: int
) -> None:
    rule = ReleaseRule(time=None, closed=tuple(f"{a}-{b}" for a, b in spans))
    if rule_problems(rule, 7):
        return

    def number(text: str) -> int:
        return int(text[:2]) * 60 + int(text[3:])

    def covered(n: int) -> bool:
        return any(
            number(a) <= n < number(b) if number(a) < number(b) else n >= number(a) or n < number(b) for a, b in spans
        )

    now = at("2031-03-10T00:00") + dt.timedelta(minutes=minute)
    expected = now
    while covered((expected.hour * 60) + expected.minute):
        expected += dt.timedelta(minutes=1)
    assert (closed_until(rule, now, SHANGHAI) or now) == expected


# --- what cannot be meant ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "setting"),
    [
        (ReleaseRule(time="7:00"), "time"),
        (ReleaseRule(time="24:01"), "time"),
        (ReleaseRule(time="24:00", days_ahead=0), "time"),
        (ReleaseRule(time="07:00", days_ahead=15), "days_ahead"),
        (ReleaseRule(closed=("22:00",)), "closed"),
        (ReleaseRule(closed=("22:00-25:00",)), "closed"),
        (ReleaseRule(closed=("22:00-22:00",)), "closed"),
        (ReleaseRule(closed=("00:00-24:00",)), "closed"),
        (ReleaseRule(closed=("06:00-18:00", "18:00-06:00")), "closed"),
    ],
)
def test_rule_is_refused_when_it_cannot_be_meant(rule: ReleaseRule, setting: str) -> None:
    assert [key for key, _ in rule_problems(rule, 14)] == [setting]


@pytest.mark.parametrize(
    "rule",
    [
        ReleaseRule(),
        ReleaseRule(time="24:00", days_ahead=14),
        ReleaseRule(time="00:00", days_ahead=0),
        ReleaseRule(days_ahead=90),  # without a time it says nothing
        ReleaseRule(closed=("00:00-23:59",)),
    ],
)
def test_rule_is_taken_when_it_can_be_meant(rule: ReleaseRule) -> None:
    assert rule_problems(rule, 14) == []
