"""The rate of admission: bounded, never negative, and near what an engine of constant speed can serve."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booking.waiting_room.rate import CUT, LEAST_PER_S, Delay, Rate

TARGET_S = 0.2
TICKS = st.lists(st.tuples(st.floats(0, 30), st.floats(0, 5), st.booleans()), max_size=200)


@given(st.floats(0, 1e6), st.floats(0.1, 1e5), TICKS)
def test_rate_stays_within_its_bounds_when_anything_happens(
    first: float, most: float, ticks: list[tuple[float, float, bool]]
) -> None:
    rate = Rate(first, most, TARGET_S)
    for delay_s, dt_s, is_limit in ticks:
        rate.follow(delay_s, dt_s, is_limit=is_limit, fair_per_s=rate.per_s)
        assert LEAST_PER_S <= rate.per_s <= max(most, LEAST_PER_S)
        assert 0 <= rate.take(dt_s) <= rate.per_s * 2 + 1


@given(TICKS)
def test_rate_does_not_grow_when_nobody_waits_for_it(ticks: list[tuple[float, float, bool]]) -> None:
    rate = Rate(50, 1_000, TARGET_S)
    for delay_s, dt_s, _ in ticks:
        before = rate.per_s
        rate.follow(delay_s, dt_s, is_limit=False, fair_per_s=1e9)
        assert rate.per_s <= before


def test_rate_is_cut_once_when_what_was_admitted_before_is_still_on_its_way() -> None:
    rate = Rate(100, 1_000, TARGET_S)
    for _ in range(3):
        rate.follow(0.9, 1.0, is_limit=True, fair_per_s=100)
    assert rate.per_s == pytest.approx(100 * CUT)
    rate.follow(0.9, 1.0, is_limit=True, fair_per_s=100)
    assert rate.per_s == pytest.approx(100 * CUT * CUT)


@pytest.mark.parametrize("served_per_s", [2.0, 20.0, 300.0])
@pytest.mark.parametrize("begins_at", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("lag_s", [0, 2])
def test_rate_comes_near_what_is_served_when_that_is_constant(
    served_per_s: float, begins_at: float, lag_s: int
) -> None:
    """A queue that is served at a constant rate, and people who come back `lag_s` after they were admitted."""
    rate, backlog, on_their_way, served = Rate(begins_at * served_per_s, 2_000, TARGET_S), 0.0, [0.0] * lag_s, 0.0
    seconds, warm_up, rates = 900, 400, []
    for second in range(seconds):
        on_their_way.append(rate.take(1.0))
        backlog += on_their_way.pop(0)
        done = min(backlog, served_per_s)
        backlog -= done
        served += done if second >= warm_up else 0
        rate.follow(backlog / served_per_s, 1.0, is_limit=True, fair_per_s=rate.per_s)
        rates += [rate.per_s] if second >= warm_up else []
    # The most is served_per_s; a sawtooth between CUT and 1 of it serves 85 %, less what settling costs.
    assert served / (seconds - warm_up) >= 0.7 * served_per_s
    assert backlog / served_per_s < 10
    assert 0.7 * served_per_s < sum(rates) / len(rates) < 1.15 * served_per_s
    assert max(rates) < 1.7 * served_per_s


def test_two_processes_share_when_one_engine_serves_both() -> None:
    first, second, backlog = Rate(5, 1_000, TARGET_S), Rate(80, 1_000, TARGET_S), 0.0
    totals = [0, 0]
    for at in range(4_000):
        counts = first.take(1.0), second.take(1.0)
        backlog = max(0.0, backlog + sum(counts) - 100)
        for rate in (first, second):
            rate.follow(backlog / 100, 1.0, is_limit=True, fair_per_s=sum(counts) / 2)
        if at >= 2_000:
            totals = [total + count for total, count in zip(totals, counts, strict=True)]
    assert 0.75 * 100 < sum(totals) / 2_000 <= 101
    assert min(totals) > 0.2 * max(totals)


def test_nobody_is_let_in_when_holds_wait_far_too_long() -> None:
    rate = Rate(50, 1_000, TARGET_S)
    rate.follow(1.1, 1.0, is_limit=True, fair_per_s=50)
    assert rate.take(1.0) == 0
    rate.follow(0.0, 1.0, is_limit=True, fair_per_s=50)
    assert rate.take(1.0) == int(50 * CUT)


def test_rate_is_not_lost_when_nothing_is_served_for_a_minute() -> None:
    rate = Rate(50, 1_000, TARGET_S)
    for _ in range(60):
        rate.follow(float("inf"), 1.0, is_limit=True, fair_per_s=50)
        assert rate.take(1.0) == 0
    rate.follow(0.0, 1.0, is_limit=True, fair_per_s=50)
    assert rate.take(1.0) >= int(50 * CUT)


def test_nothing_is_saved_up_when_nobody_was_there() -> None:
    rate = Rate(50, 1_000, TARGET_S)
    for _ in range(10):
        rate.take(2.0)
        rate.forgo()
    assert rate.take(0.0) <= 1


def test_people_are_let_in_one_by_one_when_the_rate_is_below_one_a_second() -> None:
    rate = Rate(0.25, 10, TARGET_S)
    assert [rate.take(1.0) for _ in range(8)] == [0, 0, 0, 1, 0, 0, 0, 1]


def test_delay_is_the_standing_one_when_a_burst_was_served_meanwhile() -> None:
    delay = Delay()
    assert delay.take_s() == 0.0
    for seen_s in (0.9, 0.0, 0.7):
        delay.note(seen_s)
    assert delay.peak_s == 0.9
    assert delay.take_s() == 0.0
    for seen_s in (0.9, 0.4, 0.7):
        delay.note(seen_s)
    assert delay.take_s() == 0.4
    assert delay.peak_s == 0.0
