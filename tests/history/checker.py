"""Whether a history can be true: some order explains every success, no seat is given twice, one live booking per patient and
schedule, one booking per idempotency key, and a refusal was true at most 200 ms before it was asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from tests.history.linear import Action, explain
from tests.history.objects import place_step, slot_step, visit_step
from tests.history.operations import NEVER, History, Kind, Operation, Outcome

STALE_MS = 200.0
"""How old a refusal from memory may be (DESIGN section 4, The hot path)."""

_UNUSABLE_ANYWAY = frozenset({"wrong_amount", "nothing_due", "too_late"})


def check(history: History, *, stale_ms: float = STALE_MS, trust_refusals: bool = True) -> list[str]:
    """Every fault of a history, in words; [] when it can be true.

    `trust_refusals` False leaves "sold out" unchecked: from outside one cannot see when a fetch undersold.
    """
    holds = _holds(history.operations)
    faults = [*_key_faults(history.operations, stale_ms), *_twice(holds)]
    for slot, seats in history.seats.items():
        actions = _slot_actions(history, holds, slot, stale_ms if trust_refusals else None)
        if (stuck := explain(actions, seats, slot_step)) is not None:
            faults.append(f"slot {slot}: {stuck}")
    for (patient, schedule), actions in _places(history, holds).items():
        if (stuck := explain(actions, frozenset(), place_step)) is not None:
            faults.append(f"patient {patient} on {schedule}: {stuck}")
    for booking, actions in _visits(history).items():
        if (stuck := explain(actions, "held", visit_step)) is not None:
            faults.append(f"booking {booking}: {stuck}")
    return faults


# --- keys -------------------------------------------------------------------------------------------------------------


def _holds(operations: Iterable[Operation]) -> list[Operation]:
    """One hold per key: several attempts under one key take one seat, at the latest when the first of them is answered."""
    groups: defaultdict[str, list[Operation]] = defaultdict(list)
    for op in operations:
        if op.kind == Kind.HOLD and op.outcome != Outcome.FAIL:
            groups[op.key].append(op)
    return [_joined(group) for group in groups.values()]


def _joined(group: Sequence[Operation]) -> Operation:
    answered = min(group, key=lambda op: op.until_ms)
    asked_ms = min(op.asked_ms for op in group)
    return Operation(**{**answered.__dict__, "asked_ms": asked_ms})


def _key_faults(operations: Sequence[Operation], stale_ms: float) -> Iterator[str]:
    groups: defaultdict[str, list[Operation]] = defaultdict(list)
    for op in operations:
        if op.kind == Kind.HOLD:
            groups[op.key].append(op)
    for key, group in groups.items():
        won = [op for op in group if op.outcome == Outcome.OK]
        if len({op.booking for op in won}) > 1:
            yield f"key {key} has made {len({op.booking for op in won})} bookings"
        elif len({op.body for op in won}) > 1:
            yield f"key {key} was answered with different bodies"
        elif len({op.digest for op in won}) > 1:
            yield f"key {key} was accepted for different requests"
        for op in group:
            first = min((w for w in won if w.digest == op.digest), key=lambda w: w.answered_ms, default=None)
            late = op.outcome == Outcome.FAIL and first is not None and op.asked_ms > first.answered_ms
            if late and not _may_not_know(op, operations, stale_ms):
                yield f"key {key} was refused ({op.code}) after its success"


def _may_not_know(refused: Operation, operations: Iterable[Operation], stale_ms: float) -> bool:
    """Whether this may be the word of a process that had seen the slot sold out, before a seat came back and this key took it.

    It then knows neither, for as long as a refusal from memory may be old.
    """
    return refused.code == "slot_sold_out" and any(
        op.delta > 0
        and op.outcome != Outcome.FAIL
        and op.slot in ("", refused.slot)
        and op.asked_ms <= refused.asked_ms
        and op.until_ms >= refused.asked_ms - stale_ms
        for op in operations
    )


def _twice(holds: Iterable[Operation]) -> Iterator[str]:
    keys: defaultdict[str, set[str]] = defaultdict(set)
    for op in holds:
        if op.outcome == Outcome.OK:
            keys[op.booking].add(op.key)
    for booking, used in keys.items():
        if len(used) > 1:
            yield f"booking {booking} was given to {len(used)} keys"


# --- seats ------------------------------------------------------------------------------------------------------------


def _slot_actions(history: History, holds: Sequence[Operation], slot: str, stale_ms: float | None) -> list[Action]:
    found = [_action(op, ("hold", op.delta)) for op in holds if op.slot == slot]
    for op in history.operations:
        if op.slot != slot or (op.kind == Kind.HOLD and op.outcome != Outcome.FAIL):
            continue
        if op.kind == Kind.HOLD:
            if op.code == "slot_sold_out" and stale_ms is not None:
                begin_ms = op.asked_ms - stale_ms
                found.append(Action(begin_ms, op.answered_ms, ("sold_out", 0), reads=True, label=_label(op)))
        elif op.delta and op.outcome != Outcome.FAIL:
            takes_a_seat = op.resumed and op.delta < 0
            found.append(_action(op, ("hold", op.delta + 1) if takes_a_seat else ("change", op.delta)))
    return found


# --- patients and bookings --------------------------------------------------------------------------------------------


def _places(history: History, holds: Sequence[Operation]) -> dict[tuple[str, str], list[Action]]:
    places: defaultdict[tuple[str, str], list[Action]] = defaultdict(list)
    where: dict[str, tuple[str, str]] = {}
    for op in holds:
        if op.booking:
            where[op.booking] = (op.patient, op.schedule)
        places[op.patient, op.schedule].append(_action(op, ("hold", op.booking)))
    for op in history.operations:
        if op.kind == Kind.HOLD and op.code == "duplicate_booking":
            place = (op.patient, op.schedule)
            places[place].append(Action(op.asked_ms, op.answered_ms, ("duplicate", ""), reads=True, label=_label(op)))
        elif (op.ended or op.resumed) and op.outcome != Outcome.FAIL:
            where_it_was = (op.patient, op.schedule) if op.patient else where.get(op.booking)
            if where_it_was is not None:
                places[where_it_was].append(_action(op, ("end" if op.ended else "hold", op.booking)))
    return places


def _visits(history: History) -> dict[str, list[Action]]:
    visits: defaultdict[str, list[Action]] = defaultdict(list)
    for op in history.operations:
        what = _visit_what(op)
        if what is not None and op.booking:
            reads = what in ("unusable", "not_cancellable")
            visits[op.booking].append(
                Action(op.asked_ms, op.until_ms, what, op.outcome != Outcome.UNKNOWN, reads, _label(op))
            )
    return visits


def _visit_what(op: Operation) -> str | None:
    match op.kind, op.outcome, op.code:
        case (Kind.PAY, Outcome.OK | Outcome.UNKNOWN, ""):
            return "pay"
        case (Kind.PAY, Outcome.OK, code):
            return None if code in _UNUSABLE_ANYWAY else "unusable"
        case (Kind.CANCEL, Outcome.OK | Outcome.UNKNOWN, _):
            return "cancel"
        case (Kind.CANCEL, Outcome.FAIL, "not_cancellable"):
            return "not_cancellable"
        case (Kind.EXPIRE, Outcome.OK | Outcome.UNKNOWN, _):
            return "expire"
        case (Kind.OVER, Outcome.OK | Outcome.UNKNOWN, _):
            return "over"
    return None


def _action(op: Operation, what: tuple[str, int] | tuple[str, str]) -> Action:
    return Action(op.asked_ms, op.until_ms, what, certain=op.outcome != Outcome.UNKNOWN, label=_label(op))


def _label(op: Operation) -> str:
    until = "?" if op.until_ms == NEVER else f"{op.answered_ms:.1f}"
    who = " ".join(part for part in (op.key, op.booking, op.patient, op.code) if part)
    return f"{op.kind} {op.outcome} [{op.asked_ms:.1f}, {until}] {who}".strip()
