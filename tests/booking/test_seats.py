"""The seat rule: its arithmetic. What it comes to when everything happens at once is in tests/model."""

from __future__ import annotations

import pytest

from booking import seats
from booking.seats import Charge, Seats


@pytest.mark.parametrize(
    ("his_left", "unreflected", "remaining"), [(5, 0, 5), (5, 2, 3), (2, 2, 0), (2, 5, 0), (0, 0, 0)]
)
def test_remaining_is_the_difference_but_never_negative(his_left: int, unreflected: int, remaining: int) -> None:
    assert Seats(his_left, unreflected).remaining == remaining


def test_seat_is_sold_only_when_the_difference_is_above_zero() -> None:
    assert seats.hold(Seats(3, 2)) == Seats(3, 3)
    assert seats.hold(Seats(3, 3)) is None
    assert seats.hold(Seats(2, 5)) is None


def test_unsent_hold_gives_its_charge_back_when_it_was_charged() -> None:
    assert seats.give_back_unsent(Seats(3, 2), charged=True) == Seats(3, 1)
    assert seats.give_back_unsent(Seats(3, 2), charged=False) == Seats(3, 2)


def test_refusal_lowers_the_his_figure_when_somebody_else_has_the_seat() -> None:
    assert seats.refused(Seats(3, 1), charged=True, seat_gone=False) == Seats(3, 0)
    assert seats.refused(Seats(3, 1), charged=True, seat_gone=True) == Seats(2, 0)
    assert seats.refused(Seats(3, 1), charged=False, seat_gone=True) == Seats(2, 1)


def test_released_seat_comes_back_when_it_was_charged() -> None:
    assert seats.released(Seats(3, 1), charged=True, unlock_sent_ms=50, fetch_ended_ms=90) == (Seats(3, 0), False)


@pytest.mark.parametrize(
    ("unlock_sent_ms", "expected"),
    [
        (91, (Seats(4, 1), False)),
        (90, (Seats(3, 1), True)),  # the same millisecond: the fetch may have seen it free
        (89, (Seats(3, 1), True)),
        (None, (Seats(3, 1), True)),
    ],
)
def test_uncharged_seat_comes_back_only_when_its_unlock_left_after_the_fetch(
    unlock_sent_ms: int | None, expected: tuple[Seats, bool]
) -> None:
    assert seats.released(Seats(3, 1), charged=False, unlock_sent_ms=unlock_sent_ms, fetch_ended_ms=90) == expected


@pytest.mark.parametrize(
    ("reply_ms", "his_cache_ms", "charged"),
    [(None, 0, True), (99, 0, False), (100, 0, True), (101, 0, True), (89, 10, False), (90, 10, True), (99, 10, True)],
)
def test_booking_is_charged_unless_the_his_had_confirmed_it_long_enough_before_the_fetch(
    reply_ms: int | None, his_cache_ms: int, charged: bool
) -> None:
    assert seats.is_charged(reply_ms, fetch_started_ms=100, his_cache_ms=his_cache_ms) is charged


def test_fetch_recounts_all_bookings_when_it_is_applied() -> None:
    known = [Charge(None), Charge(50), Charge(100), Charge(99)]
    assert seats.apply_fetch(7, known, fetch_started_ms=100, his_cache_ms=0) == (
        Seats(7, 2),
        [True, False, True, False],
    )


def test_fetch_counts_as_empty_when_the_his_says_less_than_nothing() -> None:
    assert seats.apply_fetch(-1, [], fetch_started_ms=100, his_cache_ms=0) == (Seats(0, 0), [])
