"""Whether a patient may still cancel: one pure function, over the second table of docs/rules.md."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import msgspec

from booking.inventory.requests import Refused
from booking.lifecycle import State
from booking.release import time_of_day_at
from booking.rules.judging import instant
from booking.rules.settings import BookingRules, CancelCutoff


class Cancelling(msgspec.Struct, frozen=True, kw_only=True):
    """One cancellation to judge, at `now_ms` of the store's clock: the booking's state, and the clinic and time of its visit.

    `moved`: the hospital has moved it, or given it another practitioner.
    """

    now_ms: int
    zone: dt.tzinfo
    rules: BookingRules
    state: str
    paid: bool
    date: str
    starts_at_ms: int
    department_id: str
    clinic_type: str | None = None
    moved: bool = False


def judge_cancellation(case: Cancelling) -> Refused | None:
    """The first rule that says no; None: the patient may cancel. What is too late stays so: there is no `allowed_at`."""
    for _, rule in CANCEL_RULES:
        refused = rule(case)
        if refused is not None:
            return refused
    return None


def _of_visit(case: Cancelling) -> Refused | None:
    """Who has checked in can cancel at the window only."""
    if case.state in (State.HELD, State.BOOKED):
        return None
    return Refused("not_cancellable", f"A booking that is {case.state} cannot be cancelled.")


def _of_cutoff(case: Cancelling) -> Refused | None:
    """A hold that is not paid may be given up at any time, and so may what the hospital has moved (改诊, 替诊)."""
    if case.moved or (case.state == State.HELD and not case.paid):
        return None
    fits = (rule for rule in case.rules.cancel_cutoffs if rule.fits(case.department_id, case.clinic_type))
    rule = next(fits, None)
    until_ms = None if rule is None else cancel_until_ms(rule, case.date, case.starts_at_ms, case.zone)
    if until_ms is None or case.now_ms < until_ms:
        return None
    return Refused(
        "cancel_too_late", "The hospital's time to cancel is over.", {"cancel_until": instant(until_ms, case.zone)}
    )


def cancel_until_ms(rule: CancelCutoff, date: str, starts_at_ms: int, zone: dt.tzinfo) -> int:
    """The first instant at which it is too late."""
    if rule.at is None:
        return starts_at_ms - round((rule.before_s or 0) * 1000)
    day = dt.date.fromisoformat(date) - dt.timedelta(days=rule.days_before)
    return round(time_of_day_at(day, rule.at, zone).timestamp() * 1000)


CancelRule = Callable[[Cancelling], Refused | None]
CANCEL_RULES: tuple[tuple[str, CancelRule], ...] = (("not_cancellable", _of_visit), ("cancel_too_late", _of_cutoff))
"""The code of each rule, and the rule, in the order in which a portal should hear the answers."""
