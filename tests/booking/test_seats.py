"""The seat rule: its arithmetic, and every interleaving of holds, locks, unlocks and fetches at one slot.

The search drives the product's own functions against a linearizable HIS at which nobody else sells. Its clock ticks only
where it must, so that events fall into the same millisecond as often as they can: ties are part of every walk.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import pytest

from booking import seats
from booking.seats import Charge, Seats

# --- arithmetic -----------------------------------------------------------------------------------------------------


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


# --- every interleaving -----------------------------------------------------------------------------------------------


class Held(NamedTuple):
    """One booking: free F -> queued Q -> sent S -> locked at the HIS L -> reply seen K -> unlock queued X -> sent U ->
    unlocked at the HIS V -> gone R. Times are ranks of the walk's own clock."""

    phase: str = "F"
    charged: bool = False
    reply_at: int | None = None
    unlock_at: int | None = None


class Place(NamedTuple):
    """Where the whole world stands. `fetch` is None, (begun at,) or (begun at, figure read at the HIS)."""

    now: int
    free: int
    figures: Seats
    fetch_ended: int
    fetch: tuple[int, ...] | None
    bookings: tuple[Held, ...]
    fetches: int


AT_HIS = "LKXU"  # what really holds a seat at the HIS
OURS = "QSLKXU"  # what has been promised: each must have a seat of its own
OCCUPIES = "QSLKXUV"  # what the store counts, because the answer to the unlock is not in yet


class Rule:
    """The product's rule."""

    def credit(self, place: Place, held: Held) -> Seats:
        figures, _ = seats.released(
            place.figures, charged=held.charged, unlock_sent_ms=held.unlock_at, fetch_ended_ms=place.fetch_ended
        )
        return figures

    def recount(self, place: Place, begun: int, read: int) -> tuple[Seats, list[bool]]:
        occupying = [b for b in place.bookings if b.phase in OCCUPIES]
        figures, charged = seats.apply_fetch(
            read, [Charge(b.reply_at) for b in occupying], fetch_started_ms=begun, his_cache_ms=0
        )
        marks = iter(charged)
        return figures, [next(marks) if b.phase in OCCUPIES else False for b in place.bookings]


class NaiveRule(Rule):
    """What looks right: credit a seat whenever its unlock is accepted, count only bookings that are alive."""

    def credit(self, place: Place, held: Held) -> Seats:
        if held.charged:
            return Seats(place.figures.his_left, place.figures.unreflected - 1)
        return Seats(place.figures.his_left + 1, place.figures.unreflected)

    def recount(self, place: Place, begun: int, read: int) -> tuple[Seats, list[bool]]:
        marks = [
            b.phase in "QSLK" and seats.is_charged(b.reply_at, fetch_started_ms=begun, his_cache_ms=0)
            for b in place.bookings
        ]
        return Seats(read, sum(marks)), marks


class StaleRule(Rule):
    """The product's rule with ties decided the other way: equal milliseconds count as seen."""

    def recount(self, place: Place, begun: int, read: int) -> tuple[Seats, list[bool]]:
        marks = [b.phase in OCCUPIES and (b.reply_at is None or b.reply_at > begun) for b in place.bookings]
        return Seats(read, sum(marks)), marks

    def credit(self, place: Place, held: Held) -> Seats:
        figures, _ = seats.released(
            place.figures,
            charged=held.charged,
            unlock_sent_ms=None if held.unlock_at is None else held.unlock_at + 1,
            fetch_ended_ms=place.fetch_ended,
        )
        return figures


NOW, JUST_NOW, BEGUN, ENDED, LONG_AGO = 5, 4, 3, 2, 1


def normal(place: Place, max_fetches: int) -> Place:
    """The same place, told by all that can still matter of its times.

    A reply is only ever compared with the start of a fetch (the one that runs, or one that starts now or later), an unlock
    only with the end of the last fetch. Which booking is which is all the same.
    """
    now, begun = place.now, place.fetch[0] if place.fetch else None
    new_begun = None if begun is None else (NOW if begun == now else BEGUN)
    new_ended = NOW if place.fetch_ended == now else ENDED

    def reply(at: int | None) -> int | None:
        if at is None:
            return None
        if begun is not None and at >= begun:
            return new_begun if at == begun else (NOW if at == now else JUST_NOW)
        return NOW if at == now and place.fetches < max_fetches else LONG_AGO

    def unlock(at: int | None) -> int | None:
        if at is None or at < place.fetch_ended:
            return None if at is None else LONG_AGO
        return new_ended if at == place.fetch_ended else NOW

    bookings = [b._replace(reply_at=reply(b.reply_at), unlock_at=unlock(b.unlock_at)) for b in place.bookings]
    fetch = None if place.fetch is None or new_begun is None else (new_begun, *place.fetch[1:])
    return place._replace(now=NOW, fetch_ended=new_ended, fetch=fetch, bookings=tuple(sorted(bookings, key=_order)))


def _order(held: Held) -> tuple[str, bool, int, int]:
    return held.phase, held.charged, held.reply_at or 0, held.unlock_at or 0


def steps(rule: Rule, place: Place, max_fetches: int) -> list[Place]:
    """Every next place: something happens in this millisecond, or the clock ticks first."""
    found: list[Place] = []
    now = place.now
    if any(t == now for t in _recent(place)):
        found.append(place._replace(now=now + 1))
    if place.fetch is None and place.fetches < max_fetches:
        found.append(place._replace(fetch=(now,), fetches=place.fetches + 1))
    elif place.fetch is not None and len(place.fetch) == 1:
        found.append(place._replace(fetch=(place.fetch[0], place.free)))
    elif place.fetch is not None:
        begun, read = place.fetch
        figures, marks = rule.recount(place, begun, read)
        bookings = tuple(b._replace(charged=m) for b, m in zip(place.bookings, marks, strict=True))
        found.append(place._replace(figures=figures, fetch_ended=now, fetch=None, bookings=bookings))
    for n, held in enumerate(place.bookings):
        found += _booking_steps(rule, place, n, held)
    return found


def _recent(place: Place) -> list[int | None]:
    """The instants that later ones are compared with: only these make a tick worth taking."""
    compared = [place.fetch_ended, *(place.fetch[:1] if place.fetch else ())]
    return [*compared, *(t for b in place.bookings for t in (b.reply_at, b.unlock_at))]


def _booking_steps(rule: Rule, place: Place, n: int, held: Held) -> list[Place]:
    def to(new: Held, figures: Seats | None = None, free: int = 0) -> Place:
        bookings = (*place.bookings[:n], new, *place.bookings[n + 1 :])
        return place._replace(bookings=bookings, figures=figures or place.figures, free=place.free + free)

    match held.phase:
        case "F":
            figures = seats.hold(place.figures)
            return [] if figures is None else [to(Held("Q", charged=True), figures)]
        case "Q":
            back = seats.give_back_unsent(place.figures, charged=held.charged)
            return [to(held._replace(phase="S")), to(Held("R"), back)]
        case "S":
            return [to(held._replace(phase="L"), free=-1)] if place.free else []
        case "L":
            return [to(held._replace(phase="K", reply_at=place.now))]
        case "K":
            return [to(held._replace(phase="X"))]
        case "X":
            return [to(held._replace(phase="U", unlock_at=place.now))]
        case "U":
            return [to(held._replace(phase="V"), free=1)]
        case "V":
            return [to(Held("R"), rule.credit(place, held))]
    return []


def search(rule: Rule, capacity: int, bookings: int, fetches: int) -> int | None:
    """How many places were walked, None when one of them has promised more seats than there are."""
    start = Place(1, capacity, Seats(capacity, 0), 0, None, (Held(),) * bookings, 0)
    seen = {normal(start, fetches)}
    todo = deque(seen)
    while todo:
        place = todo.popleft()
        if sum(b.phase in OURS for b in place.bookings) > capacity:
            return None
        for after in steps(rule, place, fetches):
            new = normal(after, fetches)
            if new not in seen:
                seen.add(new)
                todo.append(new)
    return len(seen)


SIZES = [(1, 2, 1), (1, 3, 2), (2, 4, 2)]


@pytest.mark.parametrize(("capacity", "bookings", "fetches"), SIZES)
def test_no_seat_is_promised_twice_when_every_interleaving_is_walked(
    capacity: int, bookings: int, fetches: int
) -> None:
    walked = search(Rule(), capacity, bookings, fetches)
    assert walked is not None, "oversold"
    assert walked > 200  # a walk that went nowhere would prove nothing


@pytest.mark.parametrize(("capacity", "bookings", "fetches"), SIZES)
def test_search_finds_the_oversell_when_the_rule_is_the_one_that_looks_right(
    capacity: int, bookings: int, fetches: int
) -> None:
    assert search(NaiveRule(), capacity, bookings, fetches) is None


@pytest.mark.parametrize(("capacity", "bookings", "fetches"), SIZES)
def test_search_finds_the_oversell_when_equal_milliseconds_count_as_seen(
    capacity: int, bookings: int, fetches: int
) -> None:
    assert search(StaleRule(), capacity, bookings, fetches) is None
