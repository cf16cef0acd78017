"""Whether a hold may be made: one pure function over one list of rules, for new holds and for money that comes late.

`RULES` is the table of docs/rules.md in its order: the first rule that says no is the answer. What only a person, the hospital or
another booking can change has no time at which it would be allowed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from booking import seats
from booking.inventory.requests import LiveFacts, PatientFacts, Refused, SlotFacts
from booking.lifecycle import State
from booking.rules.facts import COUNTED, MOST_LOOKED_AT, UNKNOWN, Past, Seat, Visit, age_on
from booking.rules.settings import NO_RULES, After, Block, BookingRules, By, Counts, Eligibility, Limit, Of, Per
from booking.rules.spans import add_span, begins_ms, date_at, next_period_ms, period_of


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One hold to judge, at `now_ms` of the store's clock. `shown_fen` is the fee that the patient saw, if it is to be compared.

    `closed_until_ms`: the hospital takes no holds until then. `live` is the booking that the person has on the schedule. `past`
    is there where `rules` want it. `seat_needed` False: the seat is ours already. `set_aside`: one is kept for this very hold.
    """

    now_ms: int
    zone: dt.tzinfo
    slot: SlotFacts
    patient: PatientFacts
    client_id: str
    user_ref: str
    patient_id: str
    rules: BookingRules = NO_RULES
    past: Past | None = None
    live: LiveFacts | None = None
    shown_fen: int | None = None
    closed_until_ms: int | None = None
    seat_needed: bool = True
    set_aside: bool = False


def judge(case: Case) -> Refused | None:
    """The first rule that says no, with `extra.allowed_at` where time alone would allow it; None: the hold may be made."""
    for rule in _FEW if case.rules is NO_RULES else _ALL:
        refused = rule(case)
        if refused is not None:
            return refused
    return None


def _of_patient(case: Case) -> Refused | None:
    if case.patient.his_state != "rejected":
        return None
    why = case.patient.reject_code
    return Refused("patient_rejected", f"The hospital has refused this patient's record: {why}.", {"reason": why})


def _of_schedule(case: Case) -> Refused | None:
    slot = case.slot
    return Refused("schedule_stopped", f"Slot {slot.id}.") if slot.stopped or slot.schedule.stopped else None


def _of_begin(case: Case) -> Refused | None:
    return Refused("slot_in_past", f"Slot {case.slot.id}.") if case.slot.starts_at_ms <= case.now_ms else None


def _of_release(case: Case) -> Refused | None:
    opens_at_ms = case.slot.schedule.opens_at_ms
    return (
        None
        if opens_at_ms is None or case.now_ms >= opens_at_ms
        else not_released(case.slot.id, opens_at_ms, case.zone)
    )


def _of_closed_hours(case: Case) -> Refused | None:
    if case.closed_until_ms is None:
        return None
    until = instant(case.closed_until_ms, case.zone)
    return Refused("hospital_closed", f"Slot {case.slot.id}.", {"opens_at": until, "allowed_at": until})


def _of_clinic(case: Case) -> Refused | None:
    """Who may book here, on the day of the visit. What is not known of the patient does not fit."""
    schedule = case.slot.schedule
    for rule in case.rules.eligibility:
        if not rule.fits(schedule.department_id, schedule.clinic_type):
            continue
        who = UNKNOWN if case.past is None else case.past.people.get(case.patient.person_id, UNKNOWN)
        if rule.sex is not None and who.sex != rule.sex:
            return _not_eligible("sex", who.sex, {"sex": rule.sex})
        if rule.min_age is None and rule.max_age is None:
            continue
        if who.birth_date is None or not _is_aged(rule, age_on(who.birth_date, dt.date.fromisoformat(schedule.date))):
            ages = {"min_age": rule.min_age, "max_age": rule.max_age}
            return _not_eligible("age", who.birth_date, {name: age for name, age in ages.items() if age is not None})
    return None


def _is_aged(rule: Eligibility, age: int) -> bool:
    return (rule.min_age is None or age >= rule.min_age) and (rule.max_age is None or age <= rule.max_age)


def _not_eligible(what: str, known: object, extra: dict[str, Any]) -> Refused:
    why = (
        f"The clinic is not for patients of this {what}."
        if known is not None
        else f"The patient's {what} is not known."
    )
    return Refused("patient_not_eligible", why, {"rule": what, **extra})


def _of_blocks(case: Case) -> Refused | None:
    found = [(until_ms, rule) for rule in case.rules.blocks if (until_ms := _blocked_until(case, rule)) is not None]
    if not found:
        return None
    until_ms, rule = max(found, key=lambda one: one[0])
    why = f"{rule.count} {rule.after.value.replace('_', '-')} within {rule.within}."
    return Refused("patient_blocked", why, {"rule": rule.after.value, "allowed_at": instant(until_ms, case.zone)})


def _blocked_until(case: Case, rule: Block) -> int | None:
    """When a block ends that holds now: the first instant of the day on which its span after the last of them is over."""
    dates = sorted(_dates(case, rule.after))
    for first, last in zip(dates[::-1][rule.count - 1 :], dates[::-1], strict=False):  # the newest first
        until_ms = begins_ms(add_span(last, rule.lasts), case.zone)
        if last < add_span(first, rule.within) and case.now_ms < until_ms:
            return until_ms
    return None


def _dates(case: Case, after: After) -> list[dt.date]:
    visits = _of_person(case)
    if after == After.NO_SHOWS:
        return [dt.date.fromisoformat(visit.date) for visit in visits if visit.state == State.NO_SHOW]
    return [date_at(visit.cancelled_ms, case.zone) for visit in visits if visit.cancelled_ms is not None]


def _of_waiting(case: Case) -> Refused | None:
    if not case.rules.wait_after_cancel_s:
        return None
    last_ms = max((visit.cancelled_ms for visit in _of_person(case) if visit.cancelled_ms is not None), default=None)
    until_ms = None if last_ms is None else last_ms + round(case.rules.wait_after_cancel_s * 1000)
    if until_ms is None or case.now_ms >= until_ms:
        return None
    why = f"The patient has cancelled a booking; {case.rules.wait_after_cancel_s:g} s must pass."
    return Refused("wait_after_cancellation", why, {"allowed_at": instant(until_ms, case.zone)})


def _of_duplicate(case: Case) -> Refused | None:
    if case.live is None:
        return None
    known = {"booking_id": case.live.booking_id} if case.live.client_id == case.client_id else {}
    return Refused("duplicate_booking", f"Slot {case.slot.id}.", known)


def _of_limits(case: Case) -> Refused | None:
    for limit in case.rules.limits:
        visits = _subject(case, limit.per)
        if len(visits) >= MOST_LOOKED_AT or _is_reached(case, limit, visits):
            return _limit_reached(case, limit)
    return None


def _is_reached(case: Case, limit: Limit, visits: Sequence[Visit]) -> bool:
    if len(visits) < limit.most:
        return False
    if limit.by == By.VISIT:
        period = period_of(dt.date.fromisoformat(case.slot.schedule.date), limit.within)
    else:
        period = period_of(date_at(case.now_ms, case.zone), limit.within)
    counted = [
        visit
        for visit in visits
        if visit.state in COUNTED
        and (not limit.in_department or visit.department_id == case.slot.schedule.department_id)
        and _day(visit, limit.by, case.zone).startswith(period)
    ]
    if limit.counts == Counts.BOOKINGS:
        return len(counted) >= limit.most
    return len({case.patient_id, *(visit.patient_id for visit in counted)}) > limit.most


def _day(visit: Visit, by: By, zone: dt.tzinfo) -> str:
    return visit.date if by == By.VISIT else date_at(visit.created_ms, zone).isoformat()


def _limit_reached(case: Case, limit: Limit) -> Refused:
    """What is counted by the day of the booking is allowed again on the next one, or in the next month."""
    words = {"patient": "the patient", "user": "the user", "phone": "the phone number"}
    place = " in this department" if limit.in_department else ""
    why = (
        f"{limit.most} {limit.counts.value} of {words[limit.per]} within one {limit.within}{place}, by {limit.by} date."
    )
    extra: dict[str, Any] = {"limit": msgspec.to_builtins(limit)}
    if limit.by == By.BOOKING:
        extra["allowed_at"] = instant(
            next_period_ms(date_at(case.now_ms, case.zone), limit.within, case.zone), case.zone
        )
    return Refused("limit_reached", why, extra)


def _of_person(case: Case) -> Sequence[Visit]:
    return () if case.past is None else case.past.persons.get(case.patient.person_id, ())


def _subject(case: Case, per: Per) -> Sequence[Visit]:
    if case.past is None:
        return ()
    if per == Per.PATIENT:
        return _of_person(case)
    if per == Per.USER:
        return case.past.users.get((case.client_id, case.user_ref), ())
    phone = case.past.people.get(case.patient.person_id, UNKNOWN).phone
    return () if phone is None else case.past.phones.get(phone, ())


def _of_fee(case: Case) -> Refused | None:
    return Refused("fee_unknown", f"Slot {case.slot.id}.") if case.slot.schedule.fee_fen is None else None


def _of_price(case: Case) -> Refused | None:
    fee_fen, shown_fen = case.slot.schedule.fee_fen, case.shown_fen
    if shown_fen is None or shown_fen == fee_fen:
        return None
    return Refused("price_changed", f"The fee is {fee_fen} fen now; {shown_fen} was shown.", {"fee_fen": fee_fen})


def _of_seat(case: Case) -> Refused | None:
    return sold_out(case.slot.id) if case.seat_needed and not has_seat(case.slot, set_aside=case.set_aside) else None


def _of_channel(case: Case) -> Refused | None:
    """The share of the asking client. A seat that is its own already does not count again."""
    schedule = case.slot.schedule
    for rule in case.rules.channel_quotas:
        if case.client_id not in rule.clients or not rule.fits(schedule.department_id, schedule.clinic_type):
            continue
        held: Mapping[Seat, int] = {} if case.past is None else case.past.seats.get(schedule.id, {})
        taken = sum(
            count
            for (slot_id, client_id), count in held.items()
            if client_id in rule.clients and (rule.of == Of.SCHEDULE or slot_id == case.slot.id)
        )
        if case.seat_needed and taken >= rule.most:
            why = f"{rule.most} seats of one {rule.of} are for this channel."
            return Refused("channel_quota_reached", why, {"most": rule.most, "of": rule.of.value})
    return None


def has_seat(slot: SlotFacts, *, set_aside: bool = False) -> bool:
    """Whether every counter that the slot draws on is above 0: its own seats, and its schedule's quota if it has one.

    While people wait for the schedule there is a seat only for whom one is `set_aside`, which is held back from all others.
    """
    if slot.schedule.waiting and not set_aside:
        return False
    if seats.hold(seats.Seats(slot.his_left + set_aside, slot.unreflected)) is None:
        return False
    quota = slot.schedule.quota
    return quota is None or slot.schedule.taken < quota + set_aside


def sold_out(slot_id: str) -> Refused:
    """The refusal for want of a seat."""
    return Refused("slot_sold_out", f"Slot {slot_id}.")


def not_released(slot_id: str, opens_at_ms: int, zone: dt.tzinfo) -> Refused:
    """The refusal for a slot that is not yet on sale."""
    opens_at = instant(opens_at_ms, zone)
    return Refused("slot_not_released", f"Slot {slot_id}.", {"opens_at": opens_at, "allowed_at": opens_at})


def instant(ms: int, zone: dt.tzinfo) -> dt.datetime:
    """An instant of the store's clock, as every time of a hospital is told: with the hospital's offset."""
    return dt.datetime.fromtimestamp(ms / 1000, zone)


Rule = Callable[[Case], Refused | None]
RULES: tuple[tuple[str, Rule], ...] = (
    ("patient_rejected", _of_patient),
    ("schedule_stopped", _of_schedule),
    ("slot_in_past", _of_begin),
    ("slot_not_released", _of_release),
    ("hospital_closed", _of_closed_hours),
    ("patient_not_eligible", _of_clinic),
    ("patient_blocked", _of_blocks),
    ("wait_after_cancellation", _of_waiting),
    ("duplicate_booking", _of_duplicate),
    ("limit_reached", _of_limits),
    ("fee_unknown", _of_fee),
    ("price_changed", _of_price),
    ("slot_sold_out", _of_seat),
    ("channel_quota_reached", _of_channel),
)
"""The code of each rule, and the rule, in the order in which a portal should hear the answers."""

_OPTIONAL = (_of_clinic, _of_blocks, _of_waiting, _of_limits, _of_channel)
_ALL = tuple(rule for _, rule in RULES)
_FEW = tuple(rule for rule in _ALL if rule not in _OPTIONAL)
