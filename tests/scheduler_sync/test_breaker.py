"""The circuit breaker: when it opens, what it lets through, and how long it waits."""

from __future__ import annotations

import pytest

from scheduler_sync.breaker import Admission, Breaker, BreakerState


def make_breaker(**options: float) -> Breaker:
    """One whose pauses are exactly what they are said to be."""
    return Breaker(trip_after=int(options.pop("trip_after", 1)), chance=lambda: 0.5, **options)


def tripped() -> Breaker:
    breaker = make_breaker(open_s=2, longest_s=10)
    breaker.record(answered=False, now=0)
    return breaker


def test_breaker_stays_closed_when_failures_are_not_in_a_row() -> None:
    breaker = make_breaker(trip_after=3)
    for n in range(10):
        breaker.record(answered=n % 3 == 2, now=n)
    assert breaker.admit(10) is Admission.CALL
    assert breaker.status == "degraded"
    assert breaker.state(10) is BreakerState.CLOSED


def test_breaker_opens_when_enough_calls_in_a_row_found_no_his() -> None:
    breaker = make_breaker(trip_after=3, open_s=2)
    for n in range(3):
        assert breaker.admit(n) is Admission.CALL
        breaker.record(answered=False, now=n)
    assert breaker.status == "down"
    for now, state in ((2, BreakerState.OPEN), (3.999, BreakerState.OPEN), (4, BreakerState.HALF_OPEN)):
        assert breaker.state(now) is state
    assert breaker.admit(3.999) is Admission.REFUSED


def test_one_call_may_try_when_the_breaker_is_half_open() -> None:
    breaker = tripped()
    assert breaker.admit(2) is Admission.PROBE
    assert breaker.admit(2) is Admission.REFUSED
    assert breaker.admit(100) is Admission.REFUSED
    breaker.record(answered=True, now=3, probe=True)
    assert breaker.status == "up"
    assert breaker.admit(3) is Admission.CALL
    assert breaker.admit(3) is Admission.CALL


def test_pause_doubles_up_to_its_longest_when_probes_fail() -> None:
    breaker, now = tripped(), 0.0
    for pause in (2, 4, 8, 10, 10):
        assert breaker.admit(now + pause - 0.001) is Admission.REFUSED
        now += pause
        assert breaker.admit(now) is Admission.PROBE
        breaker.record(answered=False, now=now, probe=True)
    breaker.record(answered=True, now=now)
    breaker.record(answered=False, now=now)
    assert breaker.admit(now + 1.999) is Admission.REFUSED  # the pause begins anew
    assert breaker.admit(now + 2) is Admission.PROBE


def test_pause_is_not_drawn_out_when_calls_that_were_in_flight_fail_after_it_has_opened() -> None:
    breaker = tripped()
    for _ in range(20):
        breaker.record(answered=False, now=1.9)
    assert breaker.admit(2) is Admission.PROBE
    breaker.record(answered=False, now=2.1)  # another late one: the probe is still out
    assert breaker.admit(2.2) is Admission.REFUSED


def test_breaker_closes_when_a_call_that_was_in_flight_is_answered_after_all() -> None:
    breaker = tripped()
    breaker.record(answered=True, now=1)
    assert breaker.admit(1) is Admission.CALL


@pytest.mark.parametrize(("chance", "pause_s"), [(0.0, 1.5), (0.5, 2.0), (1.0, 2.5)])
def test_pause_is_a_quarter_shorter_to_a_quarter_longer_by_chance(chance: float, pause_s: float) -> None:
    breaker = Breaker(trip_after=1, open_s=2, chance=lambda: chance)
    breaker.record(answered=False, now=10)
    assert breaker.admit(10 + pause_s - 0.001) is Admission.REFUSED
    assert breaker.admit(10 + pause_s) is Admission.PROBE


def test_next_call_may_try_when_a_probe_told_nothing() -> None:
    breaker = tripped()
    assert breaker.admit(2) is Admission.PROBE
    breaker.forget(probe=False)  # some other call that was cancelled
    assert breaker.admit(2) is Admission.REFUSED
    breaker.forget(probe=True)
    assert breaker.status == "down"
    assert breaker.admit(2) is Admission.PROBE
