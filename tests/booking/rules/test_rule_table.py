"""Every rule of `RULES` at its edges: what is allowed, what is not, and when it would be."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from booking.rules.facts import MOST_LOOKED_AT, Someone
from booking.rules.judging import RULES, judge
from tests.booking.rules.cases import BERLIN, SHANGHAI, case, ms, visit

A_DAY = {"limits": [{"per": "patient", "within": "day", "most": 1}]}
DEPARTMENT = {"limits": [{"per": "patient", "within": "day", "most": 1, "in_department": True}]}
USERS_DAY = {"limits": [{"per": "user", "within": "day", "by": "booking", "most": 4}]}
USERS_PATIENTS = {"limits": [{"per": "user", "within": "month", "by": "booking", "counts": "patients", "most": 2}]}
PHONES_MONTH = {"limits": [{"per": "phone", "within": "month", "most": 2}]}
MADE_IN_MONTH = {"limits": [{"per": "patient", "within": "month", "by": "booking", "most": 1}]}
NO_SHOWS = {"blocks": [{"after": "no_shows", "count": 3, "within": "3 months", "lasts": "3 months"}]}
YEARLY = {"blocks": [{"after": "no_shows", "count": 3, "within": "365 days", "lasts": "1 month"}]}
CANCELLATIONS = {"blocks": [{"after": "cancellations", "count": 3, "within": "1 month", "lasts": "30 days"}]}
TWO_HOURS = {"wait_after_cancel_s": 7200}
CHILDREN = {"eligibility": [{"departments": ["D1"], "max_age": 13}]}
ADULTS = {"eligibility": [{"clinic_types": ["专家"], "min_age": 14}]}
WOMEN = {"eligibility": [{"sex": "female"}]}

TWO_PORTALS = {"channel_quotas": [{"clients": ["portal", "app"], "most": 3}]}
A_SEGMENT = {"channel_quotas": [{"clients": ["portal"], "of": "slot", "most": 1, "clinic_types": ["专家"]}]}
NONE = {"channel_quotas": [{"clients": ["portal"], "most": 0}]}


def missed(*dates: str) -> list[Any]:
    return [visit(date, state="no_show") for date in dates]


def cancelled(*walls: str) -> list[Any]:
    return [visit(cancelled=wall, state="cancelled") for wall in walls]


Row = tuple[str, dict[str, Any], dict[str, Any], str | None]
"""The code, or "" where it is allowed; the rules; what is different; the wall time at which it would be allowed."""

TABLE: list[Row] = [
    ("", {}, {}, None),
    ("patient_rejected", {}, {"his_state": "rejected"}, None),
    ("schedule_stopped", {}, {"stopped": True}, None),
    ("schedule_stopped", {}, {"session_stopped": True}, None),
    ("", {}, {"now": "2031-03-04 07:59:59.999"}, None),
    ("slot_in_past", {}, {"now": "2031-03-04 08:00"}, None),
    ("slot_in_past", {}, {"now": "2031-03-04 08:01"}, None),
    ("slot_not_released", {}, {"opens_at_ms": ms("2031-03-02 07:00"), "now": "2031-03-02 06:59"}, "2031-03-02 07:00"),
    ("", {}, {"opens_at_ms": ms("2031-03-02 07:00"), "now": "2031-03-02 07:00"}, None),
    ("hospital_closed", {}, {"closed_until_ms": ms("2031-03-01 06:30")}, "2031-03-01 06:30"),
    ("duplicate_booking", {}, {"live_of": "portal"}, None),
    ("fee_unknown", {}, {"fee_fen": None}, None),
    ("price_changed", {}, {"shown_fen": 1499}, None),
    ("", {}, {"shown_fen": 1500}, None),
    ("price_changed", {}, {"shown_fen": 1501}, None),
    ("slot_sold_out", {}, {"his_left": 1}, None),
    ("", {}, {"his_left": 2}, None),
    ("slot_sold_out", {}, {"quota": 5, "taken": 5}, None),
    ("", {}, {"quota": 5, "taken": 4}, None),
    # One of a patient a day, by the day of the visit: the day before and the day after are other days.
    ("limit_reached", A_DAY, {"mine": [visit()]}, None),
    ("", A_DAY, {"mine": [visit("2031-03-03"), visit("2031-03-05")]}, None),
    ("", A_DAY, {"mine": [visit(state="cancelled"), visit(state="expired"), visit(state="stopped")]}, None),
    ("", A_DAY, {"mine": [visit(state="rejected")]}, None),
    ("limit_reached", A_DAY, {"mine": [visit(state="cancelling")]}, None),
    ("limit_reached", A_DAY, {"mine": [visit(state="no_show")]}, None),
    ("", A_DAY, {"users": [visit()], "phones": [visit()]}, None),
    ("limit_reached", DEPARTMENT, {"mine": [visit()]}, None),
    ("", DEPARTMENT, {"mine": [visit(department_id="D2")]}, None),
    # Four of a user a day, by the day on which they are made: the day ends at the hospital's midnight.
    ("limit_reached", USERS_DAY, {"users": [visit(made="2031-03-01 00:00")] * 4}, "2031-03-02 00:00"),
    ("limit_reached", USERS_DAY, {"users": [visit(made="2031-03-01 00:00")] * 4, "now": "2031-03-01 23:59:59.999"},
     "2031-03-02 00:00"),
    ("", USERS_DAY, {"users": [visit(made="2031-03-01 00:00")] * 4, "now": "2031-03-02 00:00"}, None),
    ("", USERS_DAY, {"users": [visit(made="2031-03-01 00:00")] * 3}, None),
    ("", USERS_DAY, {"users": [*[visit(made="2031-03-01 00:00")] * 3, visit(made="2031-02-28 23:59:59.999")]}, None),
    # The same instants at a hospital where the clock is set forward that night: its day has 23 hours.
    ("limit_reached", USERS_DAY, {"zone": BERLIN, "day": "2031-04-01", "now": "2031-03-30 23:59",
     "users": [visit(made="2031-03-30 00:00", zone=BERLIN)] * 4}, "2031-03-31 00:00"),
    ("", USERS_DAY, {"zone": BERLIN, "day": "2031-04-01", "now": "2031-03-30 00:00",
     "users": [visit(made="2031-03-29 23:59", zone=BERLIN)] * 4}, None),
    # Another instant of UTC's day is another day at the hospital: 2031-02-28 16:00 UTC is its midnight.
    ("limit_reached", MADE_IN_MONTH, {"mine": [visit(made="2031-03-01 00:00")]}, "2031-04-01 00:00"),
    ("", MADE_IN_MONTH, {"mine": [visit(made="2031-02-28 23:59")]}, None),
    ("limit_reached", USERS_PATIENTS, {"users": [visit(patient_id="p2", made="2031-03-01 08:00"),
     visit(patient_id="p3", made="2031-03-01 08:00")]}, "2031-04-01 00:00"),
    ("", USERS_PATIENTS, {"users": [visit(patient_id="p2", made="2031-03-01 08:00"),
     visit(patient_id="p1", made="2031-03-01 08:00")]}, None),
    # Two of a phone a month, by the month of the visit.
    ("limit_reached", PHONES_MONTH, {"phones": [visit("2031-03-01"), visit("2031-03-31")]}, None),
    ("", PHONES_MONTH, {"phones": [visit("2031-02-28"), visit("2031-03-31"), visit("2031-04-01")]}, None),
    ("", PHONES_MONTH, {"phones": [visit(), visit()], "who": Someone()}, None),
    ("limit_reached", A_DAY, {"mine": [visit("2031-01-01", state="cancelled")] * MOST_LOOKED_AT}, None),
    # Three missed visits in three months: blocked for three months from the day of the last.
    ("patient_blocked", NO_SHOWS, {"mine": missed("2030-12-05", "2031-01-10", "2031-02-28")}, "2031-05-28 00:00"),
    ("patient_blocked", NO_SHOWS, {"mine": missed("2030-12-01", "2031-01-10", "2031-02-28")}, "2031-05-28 00:00"),
    ("", NO_SHOWS, {"mine": missed("2030-11-30", "2031-01-10", "2031-02-28")}, None),
    ("", NO_SHOWS, {"mine": missed("2031-01-10", "2031-02-28")}, None),
    ("patient_blocked", NO_SHOWS, {"mine": missed("2030-12-01", "2030-12-01", "2030-12-02"),
     "now": "2031-03-01 23:59:59.999"}, "2031-03-02 00:00"),
    ("", NO_SHOWS, {"mine": missed("2030-12-01", "2030-12-01", "2030-12-02"), "now": "2031-03-02 00:00"}, None),
    # The last of the windows that hold counts; a window that is over does not hide one that is not.
    ("patient_blocked", NO_SHOWS, {"mine": missed("2030-12-01", "2031-01-01", "2031-01-02", "2031-02-01")},
     "2031-05-01 00:00"),
    ("patient_blocked", YEARLY, {"mine": missed("2030-03-01", "2030-08-01", "2031-02-28")}, "2031-03-28 00:00"),
    ("", YEARLY, {"mine": missed("2030-02-28", "2030-08-01", "2031-02-28")}, None),
    # A month after 31 January is the last day of February.
    ("", YEARLY, {"mine": missed("2031-01-29", "2031-01-30", "2031-01-31"), "now": "2031-02-28 00:00"}, None),
    ("patient_blocked", CANCELLATIONS, {"mine": cancelled("2031-02-01 10:00", "2031-02-15 10:00", "2031-02-28 23:59")},
     "2031-03-30 00:00"),
    ("", CANCELLATIONS, {"mine": cancelled("2031-02-01 10:00", "2031-02-15 10:00", "2031-03-01 00:00")}, None),
    # Two hours' wait after a cancellation.
    ("wait_after_cancellation", TWO_HOURS, {"mine": cancelled("2031-03-01 07:01")}, "2031-03-01 09:01"),
    ("", TWO_HOURS, {"mine": cancelled("2031-03-01 07:00")}, None),
    ("wait_after_cancellation", TWO_HOURS, {"mine": cancelled("2031-03-01 08:30", "2031-03-01 06:00")},
     "2031-03-01 10:30"),
    ("wait_after_cancellation", TWO_HOURS, {"mine": cancelled("2031-02-28 23:00"), "now": "2031-03-01 00:59"},
     "2031-03-01 01:00"),
    # Who may book: the age on the day of the visit, 2031-03-04.
    ("", CHILDREN, {"who": Someone(dt.date(2017, 3, 5))}, None),
    ("patient_not_eligible", CHILDREN, {"who": Someone(dt.date(2017, 3, 4))}, None),
    ("patient_not_eligible", CHILDREN, {"who": Someone()}, None),
    ("", CHILDREN, {"who": Someone(dt.date(1990, 3, 4)), "department_id": "D2"}, None),
    ("", ADULTS, {"who": Someone(dt.date(2017, 3, 4)), "clinic_type": "专家"}, None),
    ("patient_not_eligible", ADULTS, {"who": Someone(dt.date(2017, 3, 5)), "clinic_type": "专家"}, None),
    ("", ADULTS, {"who": Someone(dt.date(2017, 3, 5)), "clinic_type": "普通"}, None),
    ("", ADULTS, {"who": Someone(dt.date(2017, 3, 5))}, None),
    ("", WOMEN, {"who": Someone(sex="female")}, None),
    ("patient_not_eligible", WOMEN, {"who": Someone(sex="male")}, None),
    ("patient_not_eligible", WOMEN, {"who": Someone()}, None),
    # Of each session three seats are for two portals together; of each segment of an expert's one.
    ("", TWO_PORTALS, {"seats": {("sl1", "portal"): 1, ("sl2", "app"): 1, ("sl1", "other"): 9}}, None),
    ("channel_quota_reached", TWO_PORTALS, {"seats": {("sl1", "portal"): 1, ("sl2", "app"): 2}}, None),
    ("", TWO_PORTALS, {"seats": {("sl1", "portal"): 3}, "seat_needed": False}, None),
    ("slot_sold_out", TWO_PORTALS, {"seats": {("sl1", "portal"): 3}, "his_left": 1}, None),
    ("", A_SEGMENT, {"seats": {("sl2", "portal"): 5}, "clinic_type": "专家"}, None),
    ("channel_quota_reached", A_SEGMENT, {"seats": {("sl1", "portal"): 1}, "clinic_type": "专家"}, None),
    ("", A_SEGMENT, {"seats": {("sl1", "portal"): 1}, "clinic_type": "普通"}, None),
    ("channel_quota_reached", NONE, {}, None),
    # Born on 29 February: a year older on 1 March of a common year.
    ("", CHILDREN, {"who": Someone(dt.date(2016, 2, 29)), "day": "2030-02-28", "now": "2030-02-20 09:00"}, None),
    ("patient_not_eligible", CHILDREN, {"who": Someone(dt.date(2016, 2, 29)), "day": "2030-03-01",
     "now": "2030-02-20 09:00"}, None),
]  # fmt: skip


@pytest.mark.parametrize(("code", "rules", "changes", "allowed_at"), TABLE)
def test_rule_says_what_the_table_says_when_asked_at_its_edge(
    code: str, rules: dict[str, Any], changes: dict[str, Any], allowed_at: str | None
) -> None:
    refused = judge(case(rules, **changes))
    assert (refused.code if refused else "") == code
    if refused is not None:
        told = refused.extra.get("allowed_at")
        expected = None if allowed_at is None else ms(allowed_at, changes.get("zone", SHANGHAI))
        assert (None if told is None else round(told.timestamp() * 1000)) == expected
        assert told is None or told.tzinfo == changes.get("zone", SHANGHAI)  # as all times of the hospital are told


def test_table_has_a_refusal_and_its_opposite_of_every_rule() -> None:
    assert {code for code, *_ in TABLE} - {""} == {code for code, _ in RULES}


def test_hold_is_granted_at_the_very_instant_that_was_told_when_time_alone_forbids_it() -> None:
    """What `allowed_at` promises: one millisecond earlier the same rule still says no."""
    promised = 0
    for code, rules, changes, allowed_at in TABLE:
        if allowed_at is None or code in ("hospital_closed",):
            continue  # closed hours are computed from the clock, by `booking.release`
        zone = changes.get("zone", SHANGHAI)
        early, then = (dt.datetime.fromtimestamp((ms(allowed_at, zone) - d) / 1000, zone) for d in (1, 0))
        # A day on which there is a visit to book for, whenever that is.
        later = {**changes, "day": (then.date() + dt.timedelta(days=40)).isoformat()}
        refused = judge(case(rules, **{**later, "now": early.replace(tzinfo=None).isoformat()}))
        assert refused is not None
        assert refused.code == code
        assert judge(case(rules, **{**later, "now": then.replace(tzinfo=None).isoformat()})) is None
        promised += 1
    assert promised > 10


def test_limit_says_which_one_it_is_when_it_is_reached() -> None:
    refused = judge(case(DEPARTMENT, mine=[visit()]))
    assert refused is not None
    assert refused.extra == {
        "limit": {
            "per": "patient", "within": "day", "most": 1, "by": "visit", "counts": "bookings", "in_department": True,
        }
    }  # fmt: skip
