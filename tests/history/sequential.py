"""Histories that are true by construction: one thing after the other at slots, written down as concurrent clients would.

Every effect has an instant of its own. Clients ask before it and are answered after it, by up to `spread_ms`; a refusal may come
from memory up to 200 ms later; some answers are lost, and some requests that were never answered were never carried out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from tests.history.checker import STALE_MS
from tests.history.operations import NEVER, History, Kind, Operation, Outcome


@dataclass
class Truth:
    """A run of the truth, with its history: seats left by slot, live bookings by patient and schedule, states by booking."""

    rng: random.Random
    spread_ms: float
    lossy: bool
    history: History
    left: dict[str, int]
    now_ms: float = 0.0
    live: dict[tuple[str, str], str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    places: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    keys: int = 0

    def write(self, kind: Kind, outcome: Outcome, *, late_ms: float = 0.0, **fields: Any) -> None:
        """Write down what happened now, or was true `late_ms` before it was asked for."""
        asked = self.now_ms - self.rng.uniform(0, self.spread_ms) if not late_ms else self.now_ms + late_ms
        answered = max(asked, self.now_ms) + self.rng.uniform(0, self.spread_ms)
        if outcome == Outcome.UNKNOWN:
            answered = NEVER
        op = Operation(kind=kind, asked_ms=asked, answered_ms=answered, outcome=outcome, **fields)
        self.history.operations.append(op)

    def answer(self) -> Outcome:
        """Whether the answer to something that was done arrives."""
        return Outcome.UNKNOWN if self.lossy and self.rng.random() < 0.1 else Outcome.OK


def run(rng: random.Random, *, slots: int, length: int, spread_ms: float = 50.0, lossy: bool = True) -> Truth:
    """A random run of so many events."""
    seats = {f"s{n}": rng.randint(0, 4) for n in range(slots)}
    truth = Truth(rng, spread_ms, lossy, History(dict(seats)), dict(seats))
    for _ in range(length):
        truth.now_ms += rng.uniform(0.5, 40.0)
        rng.choice((_hold, _hold, _hold, _pay, _cancel, _expire, _over, _change, _ask_twice))(truth)
    return truth


def _hold(truth: Truth) -> None:
    rng, slot = truth.rng, truth.rng.choice(list(truth.left))
    schedule, patient = f"of-{slot}", f"p{truth.rng.randrange(12)}"
    truth.keys += 1
    fields: dict[str, Any] = {
        "slot": slot,
        "schedule": schedule,
        "patient": patient,
        "key": f"k{truth.keys}",
        "digest": f"d{truth.keys}",
    }
    if (patient, schedule) in truth.live:
        truth.write(Kind.HOLD, Outcome.FAIL, code="duplicate_booking", **fields)
    elif truth.left[slot] <= 0:
        late_ms = rng.choice((0.0, rng.uniform(0, STALE_MS)))
        truth.write(Kind.HOLD, Outcome.FAIL, code="slot_sold_out", late_ms=late_ms, **fields)
    elif truth.lossy and rng.random() < 0.1:
        truth.write(Kind.HOLD, Outcome.UNKNOWN, **fields)  # never carried out
    else:
        booking = f"b{truth.keys}"
        truth.left[slot] -= 1
        truth.live[patient, schedule] = booking
        truth.states[booking] = "held"
        truth.places[booking] = (slot, patient, schedule)
        outcome = truth.answer()
        known = booking if outcome == Outcome.OK else ""
        truth.write(Kind.HOLD, outcome, booking=known, body=f"body of {known}", **fields)
        if outcome == Outcome.UNKNOWN and rng.random() < 0.7:
            _again(truth, booking, fields)


def _again(truth: Truth, booking: str, fields: dict[str, Any]) -> None:
    """Ask again under the same key: the first success again."""
    truth.now_ms += truth.rng.uniform(0.5, 5.0)
    truth.write(Kind.HOLD, Outcome.OK, booking=booking, body=f"body of {booking}", **fields)


def _ask_twice(truth: Truth) -> None:
    won = [op for op in truth.history.operations if op.kind == Kind.HOLD and op.outcome == Outcome.OK]
    if won:
        op = truth.rng.choice(won)
        fields = {name: str(getattr(op, name)) for name in ("slot", "schedule", "patient", "key", "digest")}
        _again(truth, op.booking, fields)


def _pick(truth: Truth, *states: str) -> str | None:
    found = [booking for booking, state in truth.states.items() if state in states]
    return truth.rng.choice(found) if found else None


def _pay(truth: Truth) -> None:
    if (booking := _pick(truth, "held")) is not None:
        truth.states[booking] = "paid"
        truth.write(Kind.PAY, truth.answer(), booking=booking)
    elif (booking := _pick(truth, "paid", "cancelled", "expired")) is not None:
        truth.write(Kind.PAY, Outcome.OK, booking=booking, code="second_payment")


def _end(truth: Truth, booking: str, kind: Kind, state: str) -> None:
    slot, patient, schedule = truth.places[booking]
    truth.states[booking] = state
    del truth.live[patient, schedule]
    truth.left[slot] += 1
    fields: dict[str, Any] = {"booking": booking, "slot": slot, "patient": patient, "schedule": schedule}
    truth.write(kind, truth.answer(), delta=1, ended=True, **fields)


def _cancel(truth: Truth) -> None:
    if (booking := _pick(truth, "held", "paid")) is not None:
        _end(truth, booking, Kind.CANCEL, "cancelled")
    elif (booking := _pick(truth, "expired")) is not None:
        truth.write(Kind.CANCEL, Outcome.FAIL, booking=booking, code="not_cancellable")


def _expire(truth: Truth) -> None:
    if (booking := _pick(truth, "held")) is not None:
        _end(truth, booking, Kind.EXPIRE, "expired")


def _over(truth: Truth) -> None:
    if (booking := _pick(truth, "held", "paid")) is not None:
        _end(truth, booking, Kind.OVER, "over")


def _change(truth: Truth) -> None:
    slot, delta = truth.rng.choice(list(truth.left)), truth.rng.choice((-2, -1, 1, 2))
    truth.left[slot] += delta
    truth.write(Kind.CHANGE, Outcome.OK, slot=slot, delta=delta)
