"""What each thing may do, one after the other: a slot's seats, a patient's place on a schedule, a booking."""

from __future__ import annotations

from typing import Any


def slot_step(left: int, what: tuple[str, int]) -> int | None:
    """A slot that has `left` seats to sell; below 0 when the HIS says less than what is under way."""
    match what:
        case "hold", delta:
            return left - 1 + delta if left > 0 else None
        case "sold_out", _:
            return left if left <= 0 else None
        case _, delta:
            return left + delta
    raise AssertionError(what)


def place_step(bookings: frozenset[str], what: tuple[str, str]) -> frozenset[str] | None:
    """The live booking of a patient on a schedule: at most one. "" is one whose name nobody has heard."""
    match what:
        case "hold", booking:
            return None if bookings else frozenset({booking})
        case "duplicate", _:
            return bookings or None
        case _, booking:
            return bookings - {booking if booking in bookings else ""}
    raise AssertionError(what)


_VISIT = {
    "pay": {"held": "paid", "expired": "paid"},
    "unusable": {state: state for state in ("paid", "cancelled", "expired", "over")},
    "expire": {"held": "expired"},
    "cancel": {"held": "cancelled", "paid": "cancelled", "cancelled": "cancelled"},
    "not_cancellable": {"expired": "expired", "over": "over"},
    "over": {"held": "over", "paid": "over", "cancelled": "cancelled", "expired": "expired"},
}
"""By what happens: from which state of a booking to which. Money keeps a hold alive, and may take up one that has expired."""


def visit_step(state: str, what: Any) -> str | None:
    """One booking, from its hold on."""
    return _VISIT[what].get(state)
