"""A hold against which nothing speaks, at one of two hospitals, and what can be changed of it."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from booking.inventory.requests import LiveFacts, PatientFacts, ScheduleFacts, SlotFacts
from booking.rules.facts import Past, Someone, Visit
from booking.rules.judging import Case
from booking.rules.settings import BookingRules

SHANGHAI = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")
NOW = "2031-03-01 09:00"
DAY = "2031-03-04"


def ms(wall: str, zone: ZoneInfo = SHANGHAI) -> int:
    """The instant of a wall time such as 2031-03-04 08:00, also with seconds."""
    return round(dt.datetime.fromisoformat(wall).replace(tzinfo=zone).timestamp() * 1000)


def visit(date: str = DAY, **changes: Any) -> Visit:
    """An earlier booking for a day; `made` and `cancelled` are wall times."""
    made, cancelled = changes.pop("made", "2031-02-25 10:00"), changes.pop("cancelled", None)
    zone = changes.pop("zone", SHANGHAI)
    fields: dict[str, Any] = {
        "booking_id": "b0",
        "patient_id": "p1",
        "department_id": "D1",
        "state": "booked",
        **changes,
    }
    cancelled_ms = None if cancelled is None else ms(cancelled, zone)
    return Visit(date=date, created_ms=ms(made, zone), cancelled_ms=cancelled_ms, **fields)


def case(rules: dict[str, Any] | None = None, **changes: Any) -> Case:
    """A hold on 2031-03-04 08:00 in D1 at 1500 fen, asked for at `now`, a wall time.

    `mine`, `users` and `phones` are earlier bookings of the person, the user and the phone; `who` says who the person is.
    """
    zone = changes.get("zone", SHANGHAI)
    day = changes.get("day", DAY)
    schedule = ScheduleFacts("sc1", day, "D1", None, False, 1500, None, 0, changes.get("clinic_type"))
    slot = SlotFacts("sl1", schedule, ms(f"{day} 08:00", zone), False, 3, 1)
    for name in ("opens_at_ms", "fee_fen", "quota", "taken", "department_id"):
        if name in changes:
            setattr(schedule, name, changes[name])
    schedule.stopped = changes.get("session_stopped", False)
    for name in ("stopped", "his_left", "unreflected"):
        if name in changes:
            setattr(slot, name, changes[name])
    past = Past(people={"ps1": changes.get("who", Someone(phone="13800001111"))})
    past.persons["ps1"] += changes.get("mine", ())
    past.users["portal", "u1"] += changes.get("users", ())
    past.phones["13800001111"] += changes.get("phones", ())
    past.seats["sc1"].update(changes.get("seats", {}))
    return Case(
        now_ms=ms(changes.get("now", NOW), zone),
        zone=zone,
        slot=slot,
        patient=PatientFacts("ps1", changes.get("his_state", "linked"), "patient_mismatch"),
        client_id="portal",
        user_ref="u1",
        patient_id="p1",
        rules=msgspec.convert(rules or {}, BookingRules),
        past=past,
        live=LiveFacts("b0", changes["live_of"]) if "live_of" in changes else None,
        shown_fen=changes.get("shown_fen"),
        closed_until_ms=changes.get("closed_until_ms"),
        seat_needed=changes.get("seat_needed", True),
    )
