"""The transition table: every pair is walked, nothing forbidden can be reached, and the promises of the design hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import product

import pytest

from booking.lifecycle import (
    LIVE_STATES,
    RULES,
    TABLE,
    Axes,
    Command,
    CommandStatus,
    Effect,
    Event,
    HisState,
    IllegalMove,
    State,
    move,
    must_not_be,
    occupies,
)

S, H, C, Q = State, HisState, Command, CommandStatus
HELD = Axes(S.HELD, H.NONE, C.LOCK, Q.QUEUED)
LOCKED = Axes(S.HELD, H.LOCKED, C.NONE)
BOOKED = Axes(S.BOOKED, H.REGISTERED, C.NONE)
FLYING = (Q.SENT, Q.UNKNOWN)
ANSWERS = {
    C.LOCK: (Event.LOCK_ACCEPTED, Event.LOCK_REJECTED),
    C.REGISTER: (Event.REGISTER_ACCEPTED, Event.REGISTER_REJECTED),
    C.UNLOCK: (Event.RELEASE_ACCEPTED, Event.RELEASE_REJECTED),
    C.CANCEL: (Event.RELEASE_ACCEPTED, Event.RELEASE_REJECTED),
}
# What a patient may owe or have paid where the booking stands; the table must be safe for all of them.
PAYMENTS = ("not_required", "due", "paid", "paid_at_window", "refund_due", "refunded", "void")


def every_place() -> Iterator[Axes]:
    for state, his_state, command, status in product(S, H, C, Q):
        yield Axes(state, his_state, command, status)


def foreseen() -> dict[tuple[Event, Axes], tuple[Axes, tuple[Effect, ...]]]:
    """The rules written out by hand, apart from the product's own expansion."""
    table = {}
    for event, states, his_states, command, to, effects in RULES:
        places = [(C.NONE, Q.NONE)] if command is None else [(command[0], status) for status in command[1]]
        for state, his_state, (kind, status) in product(states, his_states, places):
            now = (state.value, his_state.value, kind.value)
            then = tuple(old if new == "=" else str(new) for old, new in zip(now, to, strict=True))
            fresh = Q.NONE if then[2] == "none" else Q.QUEUED
            after = status if to[2] == "=" else fresh
            table[event, Axes(state, his_state, kind, status)] = (
                Axes(S(then[0]), H(then[1]), C(then[2]), after),
                effects,
            )
    return table


def worker_moves(at: Axes) -> list[Axes]:
    """What the outbox does to the command's status. It requeues a lock or a registration only for a booking still held."""
    if at.command == C.NONE:
        return []
    after = {Q.QUEUED: [Q.SENT], Q.SENT: [Q.UNKNOWN], Q.UNKNOWN: []}[at.status]
    if at.status in FLYING and (at.command in (C.UNLOCK, C.CANCEL) or at.state == S.HELD):
        after = [*after, Q.QUEUED]
    return [Axes(at.state, at.his_state, at.command, status) for status in after]


def reachable() -> dict[Axes, list[Axes]]:
    """Every place that a new hold can come to, with where it can go from there."""
    graph: dict[Axes, list[Axes]] = {}
    todo = deque([HELD])
    while todo:
        at = todo.popleft()
        if at in graph:
            continue
        graph[at] = [TABLE[event, at].to for event in Event if (event, at) in TABLE] + worker_moves(at)
        todo.extend(graph[at])
    return graph


GRAPH = reachable()


def test_move_is_the_rules_or_refused_when_any_event_meets_any_place() -> None:
    expected = foreseen()
    assert len(expected) == len(TABLE)
    refused = 0
    for event, at in product(Event, every_place()):
        if (event, at) in expected:
            step = move(event, at)
            assert (step.to, step.effects) == expected[event, at]
            continue
        refused += 1
        with pytest.raises(IllegalMove) as raised:
            move(event, at)
        assert (raised.value.event, raised.value.axes) == (event, at)
    assert refused == len(Event) * 10 * 5 * 5 * 4 - len(expected)


def test_no_move_leads_to_what_must_not_be_when_money_is_seen_as_each_state_shows_it() -> None:
    for (event, at), step in TABLE.items():
        # Without money a booking that is over shows void, one that is not shows due; expiry is only for the unpaid.
        over = step.to.state not in LIVE_STATES
        shown = "void" if over else "paid_at_window" if step.to.his_state == H.REGISTERED else "due"
        assert must_not_be(step.to, shown) == [], (event, at)
        if step.to.state != S.EXPIRED:
            money = "refund_due" if over and step.to.his_state != H.REGISTERED else "paid"
            assert must_not_be(step.to, money) == [], (event, at)


def test_forbidden_combinations_are_named_when_they_are_asked_about() -> None:
    assert must_not_be(Axes(S.BOOKED, H.LOCKED, C.NONE), "paid") == ["booked_is_registered"]
    assert must_not_be(Axes(S.HELD, H.LOCKED, C.UNLOCK, Q.SENT), "due") == ["command_state"]
    assert must_not_be(Axes(S.HELD, H.LOCKED, C.LOCK, Q.SENT), "due") == ["command_needs"]
    assert must_not_be(Axes(S.HELD, H.RELEASED, C.NONE), "due") == ["held_waits_or_locked"]
    assert must_not_be(Axes(S.CANCELLING, H.LOCKED, C.NONE), "due") == ["cancelling_waits"]
    assert must_not_be(Axes(S.REJECTED, H.NONE, C.NONE), "void") == ["rejected_was_asked"]
    assert must_not_be(BOOKED, "due") == ["registered_owes_nothing"]
    assert must_not_be(Axes(S.EXPIRED, H.NONE, C.NONE), "due") == ["nothing_due_when_over"]
    assert must_not_be(Axes(S.EXPIRED, H.NONE, C.NONE), "paid") == ["no_expiry_with_money"]
    assert must_not_be(Axes(S.EXPIRED, H.NONE, C.NONE), "paid_at_window") == ["no_expiry_with_money"]
    assert must_not_be(Axes(S.HELD, H.NONE, C.LOCK), "due") == ["command_status"]
    assert must_not_be(Axes(S.HELD, H.LOCKED, C.NONE, Q.SENT), "due") == ["command_status"]
    for payment in PAYMENTS:
        assert must_not_be(HELD, payment) == []


def test_every_reachable_place_has_an_exit_when_it_is_not_final() -> None:
    final = {
        # Where the HIS has given nothing back it may still turn out to hold something: a command that it carried out late.
        # What has expired may be taken up again by money that comes late.
        (S.CANCELLED, H.RELEASED), (S.REJECTED, H.RELEASED), (S.STOPPED, H.RELEASED),
        # Who did not come may turn out to have come late.
        (S.FULFILLED, H.REGISTERED),
    }  # fmt: skip
    dead_ends = {at for at, ways in GRAPH.items() if not ways}
    assert {(at.state, at.his_state) for at in dead_ends} == final
    assert all(at.command == C.NONE for at in dead_ends)


def test_every_reachable_place_can_still_end_when_it_is_live() -> None:
    ends = {at for at, ways in GRAPH.items() if not ways}
    came_from: dict[Axes, set[Axes]] = {}
    for at, ways in GRAPH.items():
        for to in ways:
            came_from.setdefault(to, set()).add(at)
    todo, good = deque(ends), set(ends)
    while todo:
        for before in came_from.get(todo.popleft(), ()):
            if before not in good:
                good.add(before)
                todo.append(before)
    assert good == set(GRAPH)


def test_both_answers_of_the_his_are_foreseen_when_a_command_is_under_way() -> None:
    for at in GRAPH:
        for event in ANSWERS.get(at.command, ()):
            assert (event, at) in TABLE, f"{event} at {at}"


def test_every_state_and_his_state_is_reached_when_walking_from_a_hold() -> None:
    assert {at.state for at in GRAPH} == set(S)
    assert {at.his_state for at in GRAPH} == set(H)


def test_booked_is_said_only_by_a_registration_when_a_booking_becomes_booked() -> None:
    entering = {event for (event, at), step in TABLE.items() if step.to.state == S.BOOKED and at.state != S.BOOKED}
    assert entering == {Event.REGISTER_ACCEPTED, Event.HIS_REGISTERED, Event.RELEASE_REJECTED}
    assert all(at.his_state == H.REGISTERED for at in GRAPH if at.state in (S.BOOKED, S.CHECKED_IN, S.FULFILLED))


def test_booking_goes_back_to_booked_when_its_cancel_is_refused() -> None:
    asked = move(Event.CANCEL_REQUESTED, BOOKED).to
    assert asked == Axes(S.CANCELLING, H.REGISTERED, C.CANCEL, Q.QUEUED)
    refused = move(Event.RELEASE_REJECTED, asked)
    assert refused.to == BOOKED
    assert Effect.REFUND_IF_PAID not in refused.effects


def test_refund_falls_due_only_on_stop_rejection_or_confirmed_release_when_money_was_taken() -> None:
    causes = {event for (event, _), step in TABLE.items() if Effect.REFUND_IF_PAID in step.effects}
    assert causes == {
        Event.STOPPED, Event.STOPPED_AND_RELEASED, Event.LOCK_REJECTED, Event.REGISTER_REJECTED, Event.RELEASE_ACCEPTED,
        Event.HIS_RELEASED, Event.CANCEL_REQUESTED, Event.RELEASE_REJECTED,
    }  # fmt: skip
    # A request alone lets money go only where nothing ever left us; a refused unlock only where nothing was registered.
    for (event, at), step in TABLE.items():
        if Effect.REFUND_IF_PAID in step.effects and event == Event.CANCEL_REQUESTED:
            assert (at.his_state, at.status) == (H.NONE, Q.QUEUED)
        if Effect.REFUND_IF_PAID in step.effects and event == Event.RELEASE_REJECTED:
            assert (at.his_state, step.to.state) == (H.LOCKED, S.CANCELLED)


_NOT_WITH_MONEY = (Event.MONEY_USABLE, Event.LATE_MONEY_USABLE, Event.EXPIRED)


def purse_steps(at: Axes, paid: bool) -> Iterator[tuple[Axes, bool, bool]]:
    """(where to, paid then, refund due by this step). Money can be taken once; a hold that has it is not expired."""
    for to in worker_moves(at):
        yield to, paid, False
    for event in Event:
        if (event, at) not in TABLE or (paid and event in _NOT_WITH_MONEY):
            continue
        step = TABLE[event, at]
        pays = event in (Event.MONEY_USABLE, Event.LATE_MONEY_USABLE)
        yield step.to, paid or pays, paid and Effect.REFUND_IF_PAID in step.effects


def test_money_is_owed_back_when_a_paid_booking_ends_without_a_registration() -> None:
    seen = {(HELD, False, False)}
    todo = deque(seen)
    while todo:
        at, paid, back = todo.popleft()
        for to, then_paid, due in purse_steps(at, paid):
            new = (to, then_paid, back or due)
            if new not in seen:
                seen.add(new)
                todo.append(new)
    ended = [(at, back) for at, paid, back in seen if paid and not GRAPH[at]]
    assert len(ended) >= 4
    for at, back in ended:
        assert back or at.his_state == H.REGISTERED, at
    assert not any(back for at, _, back in seen if at.state in (S.HELD, S.BOOKED, S.CHECKED_IN, S.FULFILLED))


@pytest.mark.parametrize("event", [Event.STOPPED, Event.STOPPED_AND_RELEASED])
def test_stop_reaches_every_live_booking_when_its_schedule_stops(event: Event) -> None:
    for at in GRAPH:
        if at.state in LIVE_STATES:
            step = move(event, at)
            assert step.to.state == S.STOPPED
            assert Effect.REFUND_IF_PAID in step.effects


def test_stop_changes_nothing_when_the_booking_is_over() -> None:
    for at in GRAPH:
        if at.state not in LIVE_STATES:
            assert (Event.STOPPED, at) not in TABLE
            assert (Event.STOPPED_AND_RELEASED, at) not in TABLE


def test_stop_asks_the_his_to_cancel_when_the_seat_is_held_there() -> None:
    assert move(Event.STOPPED, BOOKED).to == Axes(S.STOPPED, H.REGISTERED, C.CANCEL, Q.QUEUED)
    assert move(Event.STOPPED, LOCKED).to == Axes(S.STOPPED, H.LOCKED, C.UNLOCK, Q.QUEUED)
    assert move(Event.STOPPED_AND_RELEASED, BOOKED).to == Axes(S.STOPPED, H.RELEASED, C.NONE)


def test_nothing_is_dropped_when_it_may_have_left() -> None:
    for (_, at), step in TABLE.items():
        if Effect.DROP_COMMAND in step.effects or Effect.SEAT_UNSENT in step.effects:
            assert at.status == Q.QUEUED
        if at.status in FLYING and step.to.command != at.command:
            assert Effect.DROP_COMMAND not in step.effects


def test_command_is_replaced_only_by_its_own_answer_when_it_is_flying() -> None:
    for (event, at), step in TABLE.items():
        if at.status in FLYING and step.to.command != at.command:
            assert event in ANSWERS[at.command]


def test_expiry_waits_for_no_registration_when_one_is_under_way() -> None:
    assert not [at for event, at in TABLE if event == Event.EXPIRED and at.command == C.REGISTER]
    assert {at.state for event, at in TABLE if event == Event.EXPIRED} == {S.HELD}


def test_late_lock_is_given_back_when_the_hold_is_over() -> None:
    for state in (S.CANCELLING, S.EXPIRED, S.STOPPED):
        step = move(Event.LOCK_ACCEPTED, Axes(state, H.NONE, C.LOCK, Q.UNKNOWN))
        assert step.to == Axes(state, H.LOCKED, C.UNLOCK, Q.QUEUED)
        assert step.effects == (Effect.QUEUE_UNLOCK,)


def test_queued_command_is_the_one_that_the_effects_queue_when_a_move_names_one() -> None:
    queues = {
        Effect.QUEUE_LOCK: C.LOCK,
        Effect.QUEUE_REGISTER: C.REGISTER,
        Effect.QUEUE_UNLOCK: C.UNLOCK,
        Effect.QUEUE_CANCEL: C.CANCEL,
    }
    for (event, at), step in TABLE.items():
        queued = [queues[e] for e in step.effects if e in queues]
        if queued:
            assert [step.to.command] == queued
            assert step.to.status == Q.QUEUED
        elif step.to.command not in (C.NONE, at.command):
            pytest.fail(f"{event} at {at} names a command that nobody queues")


def test_seat_is_settled_once_when_the_his_state_ends() -> None:
    seat = {Effect.SEAT_UNSENT, Effect.SEAT_REFUSED, Effect.SEAT_RELEASED}
    for (event, at), step in TABLE.items():
        settles = [e for e in step.effects if e in seat]
        assert len(settles) == (1 if occupies(at) and not occupies(step.to) else 0), (event, at)


def test_booking_occupies_its_seat_when_it_may_hold_one_at_the_his() -> None:
    assert occupies(HELD)
    assert occupies(LOCKED)
    assert occupies(BOOKED)
    assert occupies(Axes(S.EXPIRED, H.NONE, C.LOCK, Q.UNKNOWN))
    assert occupies(Axes(S.CANCELLED, H.LOCKED, C.NONE))
    assert not occupies(Axes(S.CANCELLED, H.RELEASED, C.NONE))
    assert not occupies(Axes(S.EXPIRED, H.NONE, C.NONE))
    assert not occupies(Axes(S.REJECTED, H.REJECTED, C.NONE))
