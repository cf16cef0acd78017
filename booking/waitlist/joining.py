"""Who may join the line of a session: whoever could book there, were there a seat."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import select

from booking.errors import Refusal
from booking.inventory.histories import Histories
from booking.inventory.requests import LiveFacts, PatientFacts, Refused, ScheduleFacts, SlotFacts, Terms
from booking.people import own_patient
from booking.records import Person
from booking.release import time_of_day_at
from booking.rules.facts import Past
from booking.rules.judging import Case, has_seat, instant, judge
from booking.rules.settings import WaitlistRule, wanted_by
from booking.settings import Hospital
from booking.store.engine import Tx
from booking.store.ids import new_id
from booking.store.tables import bookings, schedules, slots, waitlist
from booking.waitlist.lifecycle import Event, State
from booking.waitlist.records import Entry, Placed, add_entry, change_entry, own_entry


async def join(
    tx: Tx, hospital: Hospital, terms: Terms, *, client_id: str, user_ref: str | None, patient_id: str, schedule_id: str
) -> Placed:
    """A place at the end of the session's line. Raises Refusal: of a hold there, but for its seat, or of the line itself."""
    rule = _open_rule(hospital, terms)
    handle, person = await own_patient(tx, client_id, patient_id)
    schedule, parts = await _session(tx, schedule_id)
    _raise(
        judge(
            Case(
                now_ms=tx.now_ms,
                zone=terms.zone,
                slot=_last(parts, tx.now_ms),
                patient=PatientFacts(person.id, person.his_state, person.reject_code, handle["user_ref"]),
                client_id=client_id,
                user_ref=user_ref or handle["user_ref"],
                patient_id=patient_id,
                rules=terms.rules,
                past=await _past(tx, hospital, person, (client_id, user_ref or handle["user_ref"]), schedule_id),
                live=await _live_booking(tx, person, schedule_id),
                closed_until_ms=terms.closed_until_ms,
                seat_needed=False,
            )
        )
    )
    clears_ms = clears_at(rule, schedule.date, terms.zone)
    _raise(_of_line(tx.now_ms, clears_ms, parts, hospital.zone))
    await _of_places(tx, rule, client_id, person, schedule)
    entry = Entry(
        hospital_id=tx.hospital_id,
        id=new_id(),
        number=tx.seq,  # of the write: nobody else has it, and who came later has a higher one
        client_id=client_id,
        user_ref=user_ref or handle["user_ref"],
        patient_id=patient_id,
        person_id=person.id,
        schedule_id=schedule_id,
        version=1,
        state=State.WAITING,
        live=True,
        clears_ms=clears_ms,
        due_ms=clears_ms,
        slot_id=None,
        booking_id=None,
        reason=None,
        created_ms=tx.now_ms,
        updated_ms=tx.now_ms,
    )
    await add_entry(tx, hospital, entry)
    return entry, schedule.waiting + 1


async def leave(tx: Tx, hospital: Hospital, client_id: str, entry_id: str) -> Placed:
    """Give up a place, and with it the seat that is offered. Asking twice is harmless; one that is over stays as it is."""
    entry, position = await own_entry(tx, client_id, entry_id)
    if not entry.live:
        return entry, position
    await change_entry(tx, hospital, entry, Event.LEAVE)
    return entry, None


def clears_at(rule: WaitlistRule, date: str, zone: dt.tzinfo) -> int:
    """When the line of a session on a date is cleared: on the evening before, by the hospital's clock."""
    eve = dt.date.fromisoformat(date) - dt.timedelta(days=1)
    return round(time_of_day_at(eve, rule.cleared_at, zone).timestamp() * 1000)


def _open_rule(hospital: Hospital, terms: Terms) -> WaitlistRule:
    if terms.mode != "live":
        raise Refusal("hospital_observe_only" if terms.mode == "observe" else "hospital_paused")
    if hospital.rules.waitlist is None or not terms.offered:
        raise Refusal("not_offered_by_hospital", "This hospital has no waitlist.")
    return hospital.rules.waitlist


def _raise(refused: Refused | None) -> None:
    if refused is not None:
        raise Refusal(refused.code, refused.detail, **refused.extra)


def _of_line(now_ms: int, clears_ms: int, parts: list[SlotFacts], zone: dt.tzinfo) -> Refused | None:
    if now_ms >= clears_ms:
        return Refused("waitlist_closed", "The line was cleared.", {"closed_at": instant(clears_ms, zone)})
    free = [part.id for part in parts if not part.stopped and part.starts_at_ms > now_ms and has_seat(part)]
    if free:
        return Refused("not_sold_out", f"Slot {free[0]} has a seat.", {"slot_id": free[0]})
    return None


async def _of_places(tx: Tx, rule: WaitlistRule, client_id: str, person: Person, schedule: ScheduleFacts) -> None:
    mine = await tx.all(
        select(waitlist.c.id, waitlist.c.schedule_id, waitlist.c.client_id).where(
            waitlist.c.hospital_id == tx.hospital_id, waitlist.c.person_id == person.id, waitlist.c.live
        )
    )
    for row in mine:
        if row["schedule_id"] == schedule.id:
            known = {"entry_id": row["id"]} if row["client_id"] == client_id else {}
            raise Refusal("already_waiting", f"Schedule {schedule.id}.", **known)
    if len(mine) >= rule.per_patient:
        raise Refusal(
            "waitlist_full", "The patient waits in as many lines as may be.", most=rule.per_patient, of="patient"
        )
    if schedule.waiting >= rule.most:
        raise Refusal("waitlist_full", "As many wait for this session as may.", most=rule.most, of="schedule")


async def _session(tx: Tx, schedule_id: str) -> tuple[ScheduleFacts, list[SlotFacts]]:
    """A session and its segments as a hold would find them. Raises Refusal(schedule_unknown)."""
    row = await tx.first(
        select(schedules).where(schedules.c.hospital_id == tx.hospital_id, schedules.c.id == schedule_id)
    )
    segments = await tx.all(
        select(slots).where(slots.c.hospital_id == tx.hospital_id, slots.c.schedule_id == schedule_id)
    )
    if row is None or not segments:
        raise Refusal("schedule_unknown", f"There is no schedule {schedule_id} at this hospital.")
    schedule = facts_of(row)
    return schedule, [segment_of(segment, schedule) for segment in segments]


def facts_of(row: dict[str, Any]) -> ScheduleFacts:
    """A row of `schedules` as the rules see it."""
    quota = None if row["quota"] is None else row["quota"] - row["held_back"]
    return ScheduleFacts(
        row["id"], row["date"], row["department_id"], row["opens_at_ms"], row["status"] == "stopped", row["fee_fen"], quota,
        row["taken"], row["clinic_type"], row["waiting"],
    )  # fmt: skip


def segment_of(row: dict[str, Any], schedule: ScheduleFacts) -> SlotFacts:
    """A row of `slots` as the rules see it."""
    left = row["his_left"] - row["held_back"]
    return SlotFacts(row["id"], schedule, row["starts_at_ms"], row["status"] == "stopped", left, row["unreflected"])


def _last(parts: list[SlotFacts], now_ms: int) -> SlotFacts:
    """The segment by which a session is judged: the last that is still to come and not stopped, else the last."""
    return max(parts, key=lambda part: (not part.stopped and part.starts_at_ms > now_ms, part.starts_at_ms))


async def _live_booking(tx: Tx, person: Person, schedule_id: str) -> LiveFacts | None:
    row = await tx.first(
        select(bookings.c.id, bookings.c.client_id).where(
            bookings.c.hospital_id == tx.hospital_id,
            bookings.c.person_id == person.id,
            bookings.c.schedule_id == schedule_id,
            bookings.c.live,
        )
    )
    return None if row is None else LiveFacts(row["id"], row["client_id"])


async def _past(tx: Tx, hospital: Hospital, person: Person, user: tuple[str, str], schedule_id: str) -> Past | None:
    """Earlier bookings, where the rules look at them."""
    wanted = wanted_by(hospital.rules)
    if wanted is None:
        return None
    asked = Histories(
        tx.dialect, tx.hospital_id, wanted, tx.now_ms, [person.id], [user], [schedule_id],
        lambda sealed: tx.unseal(sealed, "persons", "record"),
    )  # fmt: skip
    for (statement, values), take in asked.questions():
        take([tuple(row.values()) for row in await tx.all(statement, values)])
    return asked.past
