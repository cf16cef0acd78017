"""What those who wait are told: their place, an honest estimate, and when to ask again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from booking.waiting_room.ranks import late_rank
from booking.waiting_room.room import LATEST_S, SOONEST_S, Phase, Room, Standing, TicketState, wait_of, waiting_poll_s
from booking.waiting_room.rules import WaitingRoomRule

RELEASE_MS = 1_930_000_000_000
RULE = WaitingRoomRule(opens_before_s=600, admitted_s=300, lasts_s=3_600)


def room_of(ranks: list[int], *steps: tuple[int, int, int]) -> Room:
    room = Room("h1", RELEASE_MS)
    room.ranks.add(ranks)
    room.note_steps(steps)
    return room


def told(room: Room, rank: int, at_s: float, chance: float = 0.5) -> Standing:
    """What a rank hears so many seconds after the release."""
    return room.standing(
        rank, RULE, now_ms=RELEASE_MS + int(at_s * 1000), expires_ms=RELEASE_MS + 3_600_000, chance=lambda: chance
    )


@given(st.lists(st.integers(0, 1 << 62), min_size=2, max_size=50, unique=True), st.floats(-600, -0.01), st.floats(0, 1))
def test_all_hear_the_same_when_they_ask_before_the_release(ranks: list[int], at_s: float, chance: float) -> None:
    """Nothing that is said before the release depends on the rank."""
    room = room_of(ranks)
    said = [told(room, rank, at_s, chance) for rank in ranks]
    assert set(said) == {said[0]}
    assert (said[0].state, said[0].position, said[0].wait) == (TicketState.GATHERING, None, None)


def test_a_ticket_goes_from_waiting_to_admitted_to_expired() -> None:
    room = room_of([10, 20, 30], (20, RELEASE_MS + 1_000, 2))
    assert told(room, 30, 2).position == 0
    assert told(room, 30, 2).state == TicketState.WAITING
    until_ms = RELEASE_MS + 1_000 + 300_000
    assert [(s.state, s.admitted_until_ms) for s in (told(room, 10, 2), told(room, 20, 300.9))] == [
        (TicketState.ADMITTED, until_ms)
    ] * 2
    assert told(room, 20, 301).state == TicketState.EXPIRED
    assert told(room, 30, 3_600).state == TicketState.EXPIRED
    room.is_open = False
    assert told(room, 30, 5).state == TicketState.CLOSED


def test_phase_changes_with_the_clock_alone() -> None:
    room = room_of([])
    assert room.phase(RELEASE_MS - 1) is Phase.GATHERING
    assert room.phase(RELEASE_MS) is Phase.OPEN


def test_estimate_is_a_range_of_what_was_measured() -> None:
    """100 in the first ten seconds, 50 in the next: the 300th waits from 300/10 to 300/5 seconds."""
    people = [late_rank(n + 1) for n in range(1_000)]
    room = room_of([], *((people[n * 10 - 1], RELEASE_MS + n * 1_000, n * 10) for n in range(1, 11)))
    room.ranks.arrivals = 1_000
    assert told(room, people[400], 9).wait is None  # not yet measured
    room.note_steps((people[99 + n * 5], RELEASE_MS + 10_000 + n * 1_000, 100 + n * 5) for n in range(1, 11))
    standing = told(room, people[449], 20)
    assert standing.position == 299
    assert standing.wait is not None
    assert (standing.wait.from_s, standing.wait.to_s) == (30, 60)


def test_estimate_has_no_end_when_of_late_nobody_was_let_in() -> None:
    assert wait_of(9, []) is None
    assert wait_of(9, [0.0, 0.0]) is None
    found = wait_of(9, [0.0, 2.0])
    assert found is not None
    assert (found.from_s, found.to_s) == (5, None)


@given(st.integers(0, 10**6), st.floats(0.1, 1_000), st.floats(0, 1))
def test_pause_between_questions_is_bounded_and_longer_far_from_the_front(
    position: int, rate: float, chance: float
) -> None:
    pause_s = waiting_poll_s(position, rate, lambda: chance)
    assert 0.7 * SOONEST_S <= pause_s <= 1.3 * LATEST_S
    assert waiting_poll_s(position + 1_000, rate, lambda: chance) >= pause_s


def test_questions_of_all_who_wait_are_a_few_for_each_admission() -> None:
    """100 are admitted a second. A crowd that is four times as large adds those far from the front, at the longest pause."""
    questions_per_s = [
        sum(1 / waiting_poll_s(n, 100.0, lambda: 0.5) for n in range(crowd)) for crowd in (20_000, 80_000)
    ]
    assert questions_per_s[0] <= 12 * 100
    assert questions_per_s[1] <= questions_per_s[0] + 80_000 / LATEST_S


def test_questions_of_a_crowd_do_not_come_in_one_second_when_it_opens() -> None:
    room = room_of(list(range(50_000)))
    answers = [told(room, 1, -5, chance / 100).poll_after_s for chance in range(101)]
    assert min(answers) >= 5  # not before the release
    assert max(answers) - min(answers) >= 50  # 50,000 over 50 seconds


def test_only_those_far_from_the_front_are_refused_without_the_store() -> None:
    people = list(range(1_000))
    room = room_of(people, (99, RELEASE_MS, 100))
    room.rate_milli = 10_000
    assert room.may_be_admitted(50)
    assert room.may_be_admitted(99 + 70)  # 50 and two seconds' worth
    assert not room.may_be_admitted(99 + 72)
