"""The HIS's clock: how far it is off by the times in its replies, and when the log says so."""

from __future__ import annotations

import datetime as dt
import json
import random
from collections.abc import Iterator
from email.utils import format_datetime
from zoneinfo import ZoneInfo

import pytest

from connectors.clock import ENOUGH, SAMPLES, HisClock
from connectors.config import HospitalContext
from monitoring import metrics
from monitoring.logs import configure_logging

BEGIN = 1_900_000_000.0  # any time of day will do


def make_clock(hospital: str = "clock", warn_s: float = 5) -> HisClock:
    return HisClock(HospitalContext(id=hospital, zone=ZoneInfo("Asia/Shanghai"), clock_warn_s=warn_s), "his")


def reply(clock: HisClock, ahead_s: float, *, began: float, took_s: float, written: float = 0.5) -> None:
    """One call to a HIS that is so far ahead and writes whole seconds, at `written` of the call."""
    told = int(began + took_s * written + ahead_s)
    clock.note(dt.datetime.fromtimestamp(told, dt.UTC), began=began, ended=began + took_s)


@pytest.mark.parametrize("ahead_s", [-3600.0, -7.3, -1.0, 0.0, 0.4, 12.6, 86_400.0])
@pytest.mark.parametrize("seed", range(5))
def test_offset_is_known_to_a_second_when_replies_tell_whole_seconds(ahead_s: float, seed: int) -> None:
    chance, clock, began = random.Random(seed), make_clock(), BEGIN
    for _ in range(SAMPLES):
        began += 10 + chance.random()
        reply(clock, ahead_s, began=began, took_s=chance.uniform(0.05, 0.4), written=chance.random())
    assert clock.offset_s == pytest.approx(ahead_s, abs=0.5)


def test_slow_calls_say_little_when_there_are_quick_ones() -> None:
    clock = make_clock()
    for n in range(SAMPLES):
        slow = n % 2 == 1
        reply(clock, 0, began=BEGIN + 20 * n + n / SAMPLES, took_s=8 if slow else 0.1, written=1.0 if slow else 0.5)
    assert clock.offset_s == pytest.approx(0, abs=0.5)


def test_half_of_a_millisecond_is_added_when_the_peer_tells_milliseconds() -> None:
    clock = make_clock()
    clock.note(dt.datetime.fromtimestamp(BEGIN, dt.UTC), began=BEGIN - 1, ended=BEGIN + 1, resolution_s=0.001)
    assert clock.offset_s == pytest.approx(0.0005, abs=1e-6)


def test_nothing_is_learned_when_our_own_clock_was_set_back_in_a_call() -> None:
    clock = make_clock()
    clock.note(dt.datetime.fromtimestamp(BEGIN, dt.UTC), began=BEGIN, ended=BEGIN - 60)
    assert clock.offset_s is None


@pytest.mark.parametrize(
    ("date", "age", "offset_s"),
    [
        (format_datetime(dt.datetime.fromtimestamp(BEGIN + 30, dt.UTC), usegmt=True), None, 30.5),
        (format_datetime(dt.datetime.fromtimestamp(BEGIN + 30, dt.UTC), usegmt=True), "12", None),
        ("yesterday", None, None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None, None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_date_header_is_read_when_it_is_the_servers_own(
    date: str | None, age: str | None, offset_s: float | None
) -> None:
    clock = make_clock()
    ended = BEGIN
    clock.note_http(date, age, began=BEGIN, ended=ended)
    assert clock.offset_s == (None if offset_s is None else pytest.approx(offset_s))


def test_gauge_shows_the_offset_when_a_reply_came() -> None:
    reply(make_clock("clock-gauge"), 40, began=BEGIN, took_s=0.2)
    labels = {"hospital": "clock-gauge", "connector": "his"}
    shown = metrics.REGISTRY.get_sample_value("hisbridge_his_clock_offset_seconds", labels)
    assert shown == pytest.approx(40, abs=0.7)


def events(captured: str) -> Iterator[tuple[str, float]]:
    for line in captured.splitlines():
        if '"his_clock' in line:
            event = json.loads(line)
            yield event["event"], event["offset_s"]


def test_log_says_it_once_when_the_clock_is_off_and_once_when_it_is_well_again(
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure_logging()  # to this test's stderr, wherever an earlier test sent it
    clock, began = make_clock(warn_s=5), BEGIN
    told = []
    for ahead_s in [20.0] * 40 + [4.0] * 40 + [0.0] * 40 + [4.0] * 40 + [-20.0] * 40:
        began += 10
        reply(clock, ahead_s, began=began, took_s=0.2)
        told += list(events(capfd.readouterr().err))
    assert [event for event, _ in told] == ["his_clock_off", "his_clock_well", "his_clock_off"]
    assert told[0][1] == pytest.approx(20, abs=1)
    assert ENOUGH <= SAMPLES
