"""Money that comes after its hold has ended: whether the booking can be taken up again, by all the rules of a new hold."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import select

from booking.gathering import write_now
from booking.inventory.histories import Histories
from booking.inventory.requests import LiveFacts, PatientFacts, Refused, ScheduleFacts, SlotFacts
from booking.lifecycle import TABLE, Event, State
from booking.moves import is_lock_over
from booking.people import is_unbound, load_person
from booking.records import Booking
from booking.returned_seats import is_held_back
from booking.rules.facts import Past
from booking.rules.hours import closed_until_ms
from booking.rules.judging import Case, judge
from booking.rules.settings import NO_RULES, wanted_by
from booking.settings import Hospital, Mode
from booking.store.engine import Tx
from booking.store.tables import bookings, schedules, slots


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked at, in the transaction that records the money. `refused`: what a new hold would be told (None: granted)."""

    mode: str
    foreseen: bool
    refused: Refused | None
    lock_over: bool
    seat_needed: bool


def may_take_up(now: Circumstances) -> bool:
    """Whether money that came late still buys its seat. Pure.

    A seat that the HIS still locks for us is used as it is; else a new one must be free, as for any other patient.
    """
    if now.mode != Mode.LIVE or not now.foreseen or now.refused is not None:
        return False
    return now.seat_needed or not now.lock_over


async def can_be_taken_up(tx: Tx, hospital: Hospital, booking: Booking) -> bool:
    """Whether a hold that has run out, or expired, can go on now that its money is there."""
    await write_now(tx)  # others of this transaction may have taken the last seat of the quota, or given one back
    slot = await _slot(tx, booking)
    person = await load_person(tx, booking.person_id)
    if slot is None or person is None or await is_unbound(tx, booking.patient_id):
        return False
    event = Event.MONEY_USABLE if booking.state == State.HELD else Event.LATE_MONEY_USABLE
    case = Case(
        now_ms=tx.now_ms,
        zone=hospital.zone,
        slot=slot,
        patient=PatientFacts(person.id, person.his_state, person.reject_code, booking.user_ref),
        client_id=booking.client_id,
        user_ref=booking.user_ref,
        patient_id=booking.patient_id,
        rules=hospital.rules if hospital.rules.is_used else NO_RULES,
        past=await _past(tx, hospital, booking, person.id),
        live=await _other_booking(tx, booking),
        shown_fen=booking.fee_fen,
        closed_until_ms=closed_until_ms(hospital, tx.now_ms),
        seat_needed=not booking.occupies,
    )
    return may_take_up(
        Circumstances(
            mode=hospital.mode,
            foreseen=(event, booking.axes) in TABLE,
            refused=judge(case),
            lock_over=is_lock_over(hospital, booking, tx.now_ms),
            seat_needed=not booking.occupies,
        )
    )


async def _slot(tx: Tx, booking: Booking) -> SlotFacts | None:
    of_schedule = ("department_id", "opens_at_ms", "fee_fen", "quota", "taken", "clinic_type", "waiting")
    row = await tx.first(
        select(
            slots,
            *(schedules.c[name] for name in of_schedule),
            schedules.c.status.label("of_schedule"),
            schedules.c.held_back.label("held_back_of_schedule"),
        )
        .select_from(
            slots.join(
                schedules, (schedules.c.hospital_id == slots.c.hospital_id) & (schedules.c.id == slots.c.schedule_id)
            )
        )
        .where(slots.c.hospital_id == tx.hospital_id, slots.c.id == booking.slot_id)
    )
    if row is None:
        return None
    # What the booking has given back itself may wait for others, not for it.
    return _facts(row, own=int(await is_held_back(tx, booking)))


def _facts(row: dict[str, Any], own: int) -> SlotFacts:
    """`own`: how many of the seats that are held back are for this booking; those that are free are for who waits in line."""
    left, quota = row["his_left"] - row["held_back"] + own, row["quota"]
    if quota is not None:
        quota += own - row["held_back_of_schedule"]
    schedule = ScheduleFacts(
        row["schedule_id"], row["date"], row["department_id"], row["opens_at_ms"], row["of_schedule"] == "stopped",
        row["fee_fen"], quota, row["taken"], row["clinic_type"], 0 if own else row["waiting"],
    )  # fmt: skip
    return SlotFacts(row["id"], schedule, row["starts_at_ms"], row["status"] == "stopped", left, row["unreflected"])


async def _other_booking(tx: Tx, booking: Booking) -> LiveFacts | None:
    row = await tx.first(
        select(bookings.c.id, bookings.c.client_id).where(
            bookings.c.hospital_id == tx.hospital_id,
            bookings.c.person_id == booking.person_id,
            bookings.c.schedule_id == booking.schedule_id,
            bookings.c.live,
            bookings.c.id != booking.id,
        )
    )
    return None if row is None else LiveFacts(row["id"], row["client_id"])


async def _past(tx: Tx, hospital: Hospital, booking: Booking, person_id: str) -> Past | None:
    """Earlier bookings, where the rules look at them; the one that is to be taken up does not stand in its own way."""
    wanted = wanted_by(hospital.rules)
    if wanted is None:
        return None
    user = (booking.client_id, booking.user_ref)
    asked = Histories(
        tx.dialect, tx.hospital_id, wanted, tx.now_ms, [person_id], [user], [booking.schedule_id],
        lambda sealed: tx.unseal(sealed, "persons", "record"),
    )  # fmt: skip
    for (statement, values), take in asked.questions():
        take([tuple(row.values()) for row in await tx.all(statement, values)])
    return asked.past.without(booking.id)
