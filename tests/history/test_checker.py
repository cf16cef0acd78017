"""The checker itself: what it must let pass, and what it must find."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.history.checker import STALE_MS, check
from tests.history.operations import NEVER, History, Kind, Operation, Outcome
from tests.history.sequential import Truth, run

OK, FAIL, UNKNOWN = Outcome.OK, Outcome.FAIL, Outcome.UNKNOWN


def op(kind: Kind, asked: float, answered: float, outcome: Outcome = OK, **fields: Any) -> Operation:
    fields.setdefault("slot", "s")
    return Operation(kind=kind, asked_ms=asked, answered_ms=answered, outcome=outcome, **fields)


def hold(who: str, asked: float, answered: float, outcome: Outcome = OK, **fields: Any) -> Operation:
    """A hold of patient `who` under a key and for a booking of that name."""
    known = {"patient": who, "key": who, "schedule": "sch", "digest": "d", **fields}
    if outcome == OK:
        known = {"booking": f"b-{who}", "body": f"body-{who}"} | known
    return op(Kind.HOLD, asked, answered, outcome, **known)


def sold_out(who: str, asked: float, answered: float) -> Operation:
    return hold(who, asked, answered, FAIL, code="slot_sold_out")


def cancel(who: str, asked: float, answered: float, outcome: Outcome = OK, **fields: Any) -> Operation:
    known = {"booking": f"b-{who}", "delta": 1, "ended": True, **fields}
    return op(Kind.CANCEL, asked, answered, outcome, **known)


PASS: dict[str, tuple[int, list[Operation]]] = {
    "nothing": (0, []),
    "two seats, two holds": (2, [hold("a", 0, 10), hold("b", 5, 15)]),
    "a repeat where nobody has heard yet that the seat came back and this key took it": (
        1,
        [hold("b", 0, 1), cancel("b", 10, 11), hold("a", 12, 13), sold_out("a", 14, 15)],
    ),
    "refused while the last seat goes": (1, [hold("a", 0, 10), sold_out("b", 1, 2)]),
    "refused from memory after the seat came back": (
        1,
        [hold("a", 0, 10), cancel("a", 20, 21), sold_out("b", 21 + STALE_MS - 1, 21 + STALE_MS)],
    ),
    "one seat, again after its cancellation": (1, [hold("a", 0, 10), cancel("a", 20, 30), hold("b", 25, 40)]),
    "the second hold is explained by a cancellation whose answer was lost": (
        1,
        [hold("a", 0, 10), cancel("a", 20, NEVER, UNKNOWN), hold("b", 500, 510)],
    ),
    "a hold whose answer was lost took the seat": (1, [hold("a", 0, NEVER, UNKNOWN), sold_out("b", 1000, 1001)]),
    "a hold whose answer was lost took nothing": (1, [hold("a", 0, NEVER, UNKNOWN), hold("b", 1000, 1001)]),
    "a lost hold, found again under its key": (
        1,
        [hold("a", 0, NEVER, UNKNOWN), hold("a", 900, 901), sold_out("b", 400, 401)],
    ),
    "refused, and accepted later under the same key": (
        1,
        [hold("a", 0, 1), sold_out("b", 5, 6), cancel("a", 10, 11), hold("b", 20, 21)],
    ),
    "the HIS adds a seat": (0, [sold_out("a", 0, 1), op(Kind.CHANGE, 2, 9, delta=1), hold("b", 3, 4)]),
    "below nothing": (
        1,
        [op(Kind.CHANGE, 0, 1, delta=-3), sold_out("a", 2, 3), op(Kind.CHANGE, 4, 5, delta=3), hold("b", 6, 7)],
    ),
    "money twice, the second one goes back": (
        1,
        [hold("a", 0, 1), op(Kind.PAY, 2, 9, booking="b-a"), op(Kind.PAY, 2, 9, booking="b-a", code="second_payment")],
    ),
    "late money takes an expired hold up again": (
        1,
        [
            hold("a", 0, 1),
            op(Kind.EXPIRE, 2, 3, booking="b-a", delta=1, ended=True),
            op(Kind.PAY, 6, 7, booking="b-a"),
            op(Kind.CHANGE, 6, 7, booking="b-a", delta=-1, resumed=True),
            sold_out("b", 8, 9),
        ],
    ),
    "duplicate refused": (9, [hold("a", 0, 9), hold("a", 5, 8, FAIL, key="a2", code="duplicate_booking")]),
    "same patient again after the end": (
        9,
        [hold("a", 0, 1), cancel("a", 2, 9), hold("a", 3, 8, key="a2", booking="b2")],
    ),
}

MUST_FAIL: dict[str, tuple[int, list[Operation], str]] = {
    "one seat, two holds": (1, [hold("a", 0, 10), hold("b", 5, 15)], "slot s"),
    "the seat came back too late": (1, [hold("a", 0, 10), cancel("a", 20, 30), hold("b", 11, 19)], "slot s"),
    "an unknown hold cannot have given a seat back": (
        1,
        [hold("a", 0, 10), hold("c", 11, NEVER, UNKNOWN), hold("b", 20, 30)],
        "slot s",
    ),
    "the lost cancellation was asked for after the second hold": (
        1,
        [hold("a", 0, 10), hold("b", 20, 30), cancel("a", 31, NEVER, UNKNOWN)],
        "slot s",
    ),
    "refused although a seat was free all the time": (1, [sold_out("a", 500, 501)], "slot s"),
    "a refusal of 500 ms ago": (
        1,
        [hold("a", 0, 1), cancel("a", 10, 11), sold_out("b", 511, 512)],
        "slot s",
    ),
    "a refusal just too old": (
        1,
        [hold("a", 0, 1), cancel("a", 10, 11), sold_out("b", 11 + STALE_MS + 1, 11 + STALE_MS + 2)],
        "slot s",
    ),
    "one patient twice": (9, [hold("a", 0, 1), hold("a", 2, 3, key="a2", booking="b2")], "patient a"),
    "one patient twice, at once": (9, [hold("a", 0, 9), hold("a", 0, 9, key="a2", booking="b2")], "patient a"),
    "refused as a duplicate of nothing": (9, [hold("a", 5, 8, FAIL, code="duplicate_booking")], "patient a"),
    "one key, two bookings": (9, [hold("a", 0, 1), hold("a", 2, 3, booking="b2")], "key a has made 2"),
    "one key, two bodies": (9, [hold("a", 0, 1), hold("a", 2, 3, body="other")], "different bodies"),
    "one key, two requests": (9, [hold("a", 0, 1), hold("a", 2, 3, digest="e")], "different requests"),
    "a key that was forgotten though no seat came back": (
        1,
        [hold("a", 0, 1), sold_out("a", 2, 3)],
        "refused (slot_sold_out) after its success",
    ),
    "a key that was forgotten for too long": (
        1,
        [hold("b", 0, 1), cancel("b", 10, 11), hold("a", 12, 13), sold_out("a", 12 + STALE_MS, 13 + STALE_MS)],
        "refused (slot_sold_out) after its success",
    ),
    "a key that was forgotten": (
        9,
        [hold("a", 0, 1), sold_out("a", 2, 3)],
        "refused (slot_sold_out) after its success",
    ),
    "one booking for two": (9, [hold("a", 0, 1), hold("b", 0, 1, booking="b-a")], "given to 2 keys"),
    "money kept twice": (9, [op(Kind.PAY, 0, 1, booking="b"), op(Kind.PAY, 0, 1, booking="b")], "booking b"),
    "expired with money": (9, [op(Kind.PAY, 0, 1, booking="b"), op(Kind.EXPIRE, 2, 3, booking="b")], "booking b"),
    "money kept after the end": (9, [op(Kind.CANCEL, 0, 1, booking="b"), op(Kind.PAY, 2, 3, booking="b")], "booking b"),
    "late money takes a seat that is not there": (
        1,
        [
            hold("a", 0, 1),
            op(Kind.EXPIRE, 2, 3, booking="b-a", delta=1, ended=True),
            hold("b", 4, 5),
            op(Kind.CHANGE, 6, 7, booking="b-a", delta=-1, resumed=True),
        ],
        "slot s",
    ),
    "late money takes up a hold whose patient has another": (
        9,
        [
            hold("a", 0, 1),
            op(Kind.EXPIRE, 2, 3, booking="b-a", delta=1, ended=True),
            hold("a", 4, 5, key="a2", booking="b2"),
            op(Kind.CHANGE, 6, 7, booking="b-a", delta=-1, resumed=True),
        ],
        "patient a",
    ),
    "cancelled after it expired": (
        9,
        [op(Kind.EXPIRE, 0, 1, booking="b"), op(Kind.CANCEL, 2, 3, booking="b")],
        "booking b",
    ),
    "money refused for no reason": (9, [op(Kind.PAY, 0, 1, booking="b", code="second_payment")], "booking b"),
}


@pytest.mark.parametrize("name", PASS)
def test_history_passes_when_some_order_explains_it(name: str) -> None:
    seats, operations = PASS[name]
    assert check(History({"s": seats}, operations)) == []
    assert check(History({"s": seats}, operations[::-1])) == []


@pytest.mark.parametrize("name", MUST_FAIL)
def test_history_fails_when_no_order_explains_it(name: str) -> None:
    seats, operations, fault = MUST_FAIL[name]
    faults = check(History({"s": seats}, operations))
    assert any(fault in found for found in faults), faults
    assert any(fault in found for found in check(History({"s": seats}, operations[::-1])))


def test_history_is_the_same_when_it_was_saved(tmp_path: Path) -> None:
    seats, operations, _ = MUST_FAIL["the lost cancellation was asked for after the second hold"]
    history = History({"s": seats}, operations)
    history.save(tmp_path / "history")
    assert History.load(tmp_path / "history") == history


SEEDS = st.integers(0, 2**32)
WITHOUT_HASTE = settings(deadline=None, max_examples=60)


@WITHOUT_HASTE
@given(seed=SEEDS, spread_ms=st.sampled_from([0.0, 20.0, 150.0]))
def test_history_passes_when_it_was_one_thing_after_the_other(seed: int, spread_ms: float) -> None:
    truth = run(random.Random(seed), slots=3, length=80, spread_ms=spread_ms)
    assert check(truth.history) == []


def sharp(seed: int) -> Truth:
    """A run whose instants are all known: nothing overlaps, nothing was lost."""
    truth = run(random.Random(seed), slots=2, length=60, spread_ms=0.0, lossy=False)
    truth.now_ms += 1
    assert check(truth.history) == []
    return truth


@WITHOUT_HASTE
@given(seed=SEEDS)
def test_history_fails_when_a_seat_is_given_twice(seed: int) -> None:
    truth = sharp(seed)
    slot = next((slot for slot, left in truth.left.items() if left <= 0), None)
    assume(slot is not None)
    extra = hold("new", truth.now_ms, truth.now_ms, slot=slot, schedule="elsewhere")
    truth.history.operations.append(extra)
    assert [fault.partition(":")[0] for fault in check(truth.history)] == [f"slot {slot}"]


@WITHOUT_HASTE
@given(seed=SEEDS)
def test_history_fails_when_a_patient_holds_twice_on_one_schedule(seed: int) -> None:
    truth = sharp(seed)
    assume(truth.live)
    patient, schedule = next(iter(truth.live))
    truth.history.seats["roomy"] = 99
    extra = hold(patient, truth.now_ms, truth.now_ms, slot="roomy", schedule=schedule, key="new")
    truth.history.operations.append(extra)
    assert [fault.partition(":")[0] for fault in check(truth.history)] == [f"patient {patient} on {schedule}"]


@WITHOUT_HASTE
@given(seed=SEEDS)
def test_history_fails_when_a_key_makes_two_bookings(seed: int) -> None:
    truth = sharp(seed)
    won = [op for op in truth.history.operations if op.kind == Kind.HOLD and op.outcome == OK]
    assume(won)
    truth.history.seats["roomy"] = 99
    extra = hold("nobody", truth.now_ms, truth.now_ms, slot="roomy", key=won[0].key, digest=won[0].digest)
    truth.history.operations.append(extra)
    assert any("has made 2 bookings" in fault for fault in check(truth.history))


@WITHOUT_HASTE
@given(seed=SEEDS, answered_after_ms=st.floats(0, 50))
def test_history_fails_when_a_refusal_is_older_than_memory_may_be(seed: int, answered_after_ms: float) -> None:
    """A seat was free all the time: a refusal is true for another 200 ms, and not for 500."""
    truth = sharp(seed)
    slot = next((slot for slot, left in truth.left.items() if left > 0), None)
    assume(slot is not None)
    truth.now_ms += STALE_MS + 300
    asked_ms = truth.now_ms
    refused = hold("new", asked_ms, asked_ms + answered_after_ms, FAIL, slot=slot, code="slot_sold_out")
    truth.history.operations.append(refused)
    assert [fault.partition(":")[0] for fault in check(truth.history)] == [f"slot {slot}"]
    assert check(truth.history, trust_refusals=False) == []


def test_checker_is_quick_when_a_history_is_long() -> None:
    """Some thousand operations, many at once: a search that is not cut would not end."""
    for slots, seed in ((40, 7), (1, 8)):
        truth = run(random.Random(seed), slots=slots, length=5_000, spread_ms=400.0)
        assert len(truth.history.operations) > 4_000
        assert check(truth.history) == []
