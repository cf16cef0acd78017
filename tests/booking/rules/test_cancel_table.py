"""Every rule of `CANCEL_RULES` at its edges, for each kind of clinic."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from booking.errors import Refusal
from booking.rules.cancelling import CANCEL_RULES, Cancelling, judge_cancellation
from booking.rules.settings import BookingRules
from booking.store.engine import Store
from tests.booking.rules.cases import BERLIN, SHANGHAI, ms
from tests.booking.world import booked, cancel, hold, make_hospital, make_schedule, put_patient, put_slot
from tests.stores import Wall

MIDNIGHT = {"cancel_cutoffs": [{"at": "00:00"}]}
HALF_A_DAY = {"cancel_cutoffs": [{"before_s": 43_200}]}
HALF_AN_HOUR = {"cancel_cutoffs": [{"before_s": 1_800}]}
EVENING = {"cancel_cutoffs": [{"at": "17:30", "days_before": 1}]}
END_OF_DAY = {"cancel_cutoffs": [{"at": "24:00", "days_before": 2}]}
BY_TYPE = {"cancel_cutoffs": [{"clinic_types": ["专家"], "at": "00:00"}, {"departments": ["D2"], "before_s": 43_200},
                              {"clinic_types": ["普通"], "before_s": 1_800}]}  # fmt: skip


def asked(rules: dict[str, Any], now: str, **changes: Any) -> Cancelling:
    """A cancellation of a booked visit on 2031-03-04 14:00 in D1."""
    zone = changes.pop("zone", SHANGHAI)
    date = changes.pop("date", "2031-03-04")
    fields: dict[str, Any] = {"state": "booked", "paid": True, "department_id": "D1", **changes}
    return Cancelling(
        now_ms=ms(now, zone), zone=zone, rules=msgspec.convert(rules, BookingRules), date=date,
        starts_at_ms=ms(f"{date} 14:00", zone), **fields,
    )  # fmt: skip


# The code, or "" where it is allowed; the rules; the wall time; what is different; until when it was allowed.
TABLE: list[tuple[str, dict[str, Any], str, dict[str, Any], str | None]] = [
    ("", {}, "2031-03-04 13:59", {}, None),
    ("", MIDNIGHT, "2031-03-03 23:59", {}, None),
    ("", MIDNIGHT, "2031-03-03 23:59:59.999", {}, None),
    ("cancel_too_late", MIDNIGHT, "2031-03-04 00:00", {}, "2031-03-04 00:00"),
    ("cancel_too_late", MIDNIGHT, "2031-03-04 00:01", {}, "2031-03-04 00:00"),
    ("", HALF_A_DAY, "2031-03-04 01:59", {}, None),
    ("cancel_too_late", HALF_A_DAY, "2031-03-04 02:00", {}, "2031-03-04 02:00"),
    ("", HALF_AN_HOUR, "2031-03-04 13:29", {}, None),
    ("", HALF_AN_HOUR, "2031-03-04 13:29:59.999", {}, None),
    ("cancel_too_late", HALF_AN_HOUR, "2031-03-04 13:30", {}, "2031-03-04 13:30"),
    ("", EVENING, "2031-03-03 17:29", {}, None),
    ("cancel_too_late", EVENING, "2031-03-03 17:30", {}, "2031-03-03 17:30"),
    ("", END_OF_DAY, "2031-03-02 23:59", {}, None),
    ("cancel_too_late", END_OF_DAY, "2031-03-03 00:00", {}, "2031-03-03 00:00"),
    # Half a day is twelve hours, also in the night in which the clock is set forward (02:00 to 03:00).
    ("", HALF_A_DAY, "2031-03-30 00:59", {"zone": BERLIN, "date": "2031-03-30"}, None),
    ("cancel_too_late", HALF_A_DAY, "2031-03-30 01:00", {"zone": BERLIN, "date": "2031-03-30"}, "2031-03-30 01:00"),
    ("", MIDNIGHT, "2031-03-29 23:59", {"zone": BERLIN, "date": "2031-03-30"}, None),
    ("cancel_too_late", MIDNIGHT, "2031-03-30 00:00", {"zone": BERLIN, "date": "2031-03-30"}, "2031-03-30 00:00"),
    # The first that fits the clinic; none fits: no cutoff.
    ("cancel_too_late", BY_TYPE, "2031-03-04 00:00", {"clinic_type": "专家"}, "2031-03-04 00:00"),
    ("cancel_too_late", BY_TYPE, "2031-03-04 00:00", {"clinic_type": "专家", "department_id": "D2"}, "2031-03-04 00:00"),
    ("", BY_TYPE, "2031-03-04 00:00", {"clinic_type": "普通", "department_id": "D2"}, None),
    ("cancel_too_late", BY_TYPE, "2031-03-04 02:00", {"clinic_type": "普通", "department_id": "D2"}, "2031-03-04 02:00"),
    ("", BY_TYPE, "2031-03-04 13:29", {"clinic_type": "普通"}, None),
    ("cancel_too_late", BY_TYPE, "2031-03-04 13:30", {"clinic_type": "普通"}, "2031-03-04 13:30"),
    ("", BY_TYPE, "2031-03-04 13:59", {}, None),
    # What is not paid may be given up at any time; what is paid is on its way to be booked.
    ("", MIDNIGHT, "2031-03-04 13:00", {"state": "held", "paid": False}, None),
    ("cancel_too_late", MIDNIGHT, "2031-03-04 13:00", {"state": "held"}, "2031-03-04 00:00"),
    # After the check-in at the window only, however early it is.
    ("not_cancellable", MIDNIGHT, "2031-03-01 09:00", {"state": "checked_in"}, None),
    ("not_cancellable", {}, "2031-03-04 13:00", {"state": "fulfilled"}, None),
    ("not_cancellable", {}, "2031-03-04 13:00", {"state": "no_show"}, None),
]  # fmt: skip


@pytest.mark.parametrize(("code", "rules", "now", "changes", "until"), TABLE)
def test_cancellation_is_judged_as_the_table_says_when_asked_at_an_edge(
    code: str, rules: dict[str, Any], now: str, changes: dict[str, Any], until: str | None
) -> None:
    refused = judge_cancellation(asked(rules, now, **changes))
    assert (refused.code if refused else "") == code
    if refused is not None:
        told = refused.extra.get("cancel_until")
        expected = None if until is None else ms(until, changes.get("zone", SHANGHAI))
        assert (None if told is None else round(told.timestamp() * 1000)) == expected
        assert told is None or told.tzinfo == changes.get("zone", SHANGHAI)  # as all times of the hospital are told


def test_table_has_a_refusal_of_every_rule() -> None:
    assert {code for code, *_ in TABLE} - {""} == {code for code, _ in CANCEL_RULES}


async def test_booking_stays_when_its_cutoff_has_passed_and_a_hold_goes(store: Store, wall: Wall) -> None:
    rules = {"cancel_cutoffs": [{"clinic_types": ["专家"], "at": "00:00"}], "wait_after_cancel_s": 7200}
    hospital = make_hospital(rules=msgspec.convert(rules, BookingRules))
    patient_id = await put_patient(store)
    expert = await put_slot(store, schedule=make_schedule("S1", clinic_type="专家"))
    plain = await put_slot(store, schedule=make_schedule("S2", clinic_type="普通"))
    first = await booked(store, hospital, expert, patient_id)
    second = await booked(store, hospital, plain, patient_id)
    wall.now_ms = ms("2031-03-04 00:00")
    with pytest.raises(Refusal, match="cancel_too_late"):
        await cancel(store, hospital, first)
    third = await put_slot(store, schedule=make_schedule("S3", clinic_type="专家"))
    held = await hold(store, hospital, third, patient_id)  # a refused cancellation is none: nothing to wait for
    assert (await cancel(store, hospital, held.id)).state == "cancelled"
    assert (await cancel(store, hospital, second)).state == "cancelling"
