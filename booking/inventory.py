"""Holding a seat. A hold costs no HIS call: the store decides, the lock at the HIS follows through the outbox."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from sqlalchemy import select

from booking import seats
from booking.commands import RANKS, hurry, queue_command
from booking.errors import Refusal
from booking.lifecycle import Command, CommandStatus, HisState, State
from booking.moves import insert_booking, save_seats
from booking.people import load_person
from booking.records import Booking
from booking.settings import Hospital
from booking.store.engine import Tx
from booking.store.ids import new_id, new_order_no
from booking.store.tables import bookings, patients, persons, schedules, slots


class HoldRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a portal asks for. `fee_fen` is the price that the patient was shown, if the portal wants it checked."""

    client_id: str
    user_ref: str
    slot_id: str
    patient_id: str
    fee_fen: int | None = None


class HoldFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the decision looks at, read in the hospital's transaction."""

    now_ms: int
    mode: str
    offered: bool = True
    slot_known: bool = True
    patient_known: bool = True
    stopped: bool = False
    starts_at_ms: int = 0
    opens_at_ms: int | None = None
    fee_fen: int | None = 0
    shown_fee_fen: int | None = None
    live_booking_id: str | None = None
    patient_rejected: str | None = None
    seats: seats.Seats = seats.Seats(0, 0)


def decide_hold(facts: HoldFacts) -> seats.Seats | str:
    """The verdict on one hold: the slot's new figures, or the code of the refusal. Pure."""
    if facts.mode == "observe":
        return "hospital_observe_only"
    if facts.mode == "paused":
        return "hospital_paused"
    if not facts.offered:
        return "not_offered_by_hospital"
    if not facts.slot_known:
        return "slot_unknown"
    if not facts.patient_known:
        return "patient_unknown"
    if facts.patient_rejected is not None:
        return "patient_rejected"
    if facts.stopped:
        return "schedule_stopped"
    if facts.starts_at_ms <= facts.now_ms:
        return "slot_in_past"
    if facts.opens_at_ms is not None and facts.now_ms < facts.opens_at_ms:
        return "slot_not_released"
    if facts.live_booking_id is not None:
        return "duplicate_booking"
    if facts.fee_fen is None:
        return "fee_unknown"
    if facts.shown_fee_fen is not None and facts.shown_fee_fen != facts.fee_fen:
        return "price_changed"
    return seats.hold(facts.seats) or "slot_sold_out"


def lock_verb(hospital: Hospital) -> str:
    """The verb by which this hospital holds a seat."""
    return "lock_slot" if hospital.reserve_by == "lock" else "book"


async def hold_slot(tx: Tx, hospital: Hospital, request: HoldRequest, *, offered: bool = True) -> Booking:
    """Take a seat and queue its lock. `offered` says whether the hospital can lock at all.

    Raises Refusal; nothing is written then.
    """
    slot = await _slot(tx, request.slot_id)
    patient = await _patient(tx, request)
    facts = HoldFacts(
        now_ms=tx.now_ms,
        mode=hospital.mode,
        offered=offered,
        slot_known=slot is not None,
        patient_known=patient is not None,
        shown_fee_fen=request.fee_fen,
    )
    live: dict[str, Any] | None = None
    if slot is not None and patient is not None:
        live = await _live_booking(tx, patient["person_id"], slot["schedule_id"])
        facts = msgspec.structs.replace(
            facts,
            stopped=slot["status"] == "stopped" or slot["schedule_status"] == "stopped",
            starts_at_ms=slot["starts_at_ms"],
            opens_at_ms=slot["opens_at_ms"],
            fee_fen=slot["fee_fen"],
            live_booking_id=live["id"] if live is not None else None,
            patient_rejected=patient["reject_code"] if patient["his_state"] == "rejected" else None,
            seats=seats.Seats(slot["his_left"], slot["unreflected"]),
        )
    verdict = decide_hold(facts)
    if isinstance(verdict, str):
        raise _refusal(verdict, request, facts, slot, live)
    if slot is None or patient is None or facts.fee_fen is None:
        raise LookupError("a hold was granted without a slot, a patient or a fee")
    booking = _new_booking(tx, hospital, request, slot, patient, facts.fee_fen)
    await save_seats(tx, request.slot_id, verdict)
    verb, person_line = lock_verb(hospital), f"person:{booking.person_id}"
    waits = patient["his_state"] == "pending"
    if waits:
        await hurry(tx, person_line, RANKS[verb])
    await queue_command(
        tx, line=booking.line, verb=verb, subject_id=booking.id, waits_for=person_line if waits else None
    )
    await insert_booking(tx, booking)
    return booking


def _new_booking(
    tx: Tx, hospital: Hospital, request: HoldRequest, slot: dict[str, Any], patient: dict[str, Any], fee_fen: int
) -> Booking:
    lock_by_ms = tx.now_ms + int(hospital.lock_wait_s * 1000)
    return Booking(
        hospital_id=tx.hospital_id,
        id=new_id(),
        order_no=new_order_no(tx.now_ms),
        client_id=request.client_id,
        user_ref=request.user_ref,
        patient_id=request.patient_id,
        person_id=patient["person_id"],
        slot_id=request.slot_id,
        schedule_id=slot["schedule_id"],
        version=1,
        state=State.HELD,
        his_state=HisState.NONE,
        his_command=Command.LOCK,
        his_command_status=CommandStatus.QUEUED,
        payment_state="due" if fee_fen else "not_required",
        fee_fen=fee_fen,
        live=True,
        occupies=True,
        charged=True,
        created_ms=tx.now_ms,
        updated_ms=tx.now_ms,
        lock_by_ms=lock_by_ms,
        expires_at_ms=lock_by_ms,
    )


def _refusal(
    code: str, request: HoldRequest, facts: HoldFacts, slot: dict[str, Any] | None, live: dict[str, Any] | None
) -> Refusal:
    detail = {
        "slot_unknown": f"There is no slot {request.slot_id} at this hospital.",
        "patient_unknown": f"There is no patient {request.patient_id} of yours at this hospital.",
        "price_changed": f"The fee is {facts.fee_fen} fen now; {request.fee_fen} was shown.",
        "patient_rejected": f"The hospital has refused this patient's record: {facts.patient_rejected}.",
    }.get(code, f"Slot {request.slot_id}.")
    extra: dict[str, object] = {}
    if code == "slot_not_released" and slot is not None and slot["opens_at_ms"] is not None:
        extra["opens_at"] = dt.datetime.fromtimestamp(slot["opens_at_ms"] / 1000, dt.UTC)
    if code == "duplicate_booking" and live is not None and live["client_id"] == request.client_id:
        extra["booking_id"] = live["id"]
    if code == "price_changed":
        extra["fee_fen"] = facts.fee_fen
    return Refusal(code, detail, **extra)


async def _slot(tx: Tx, slot_id: str) -> dict[str, Any] | None:
    joined = slots.join(
        schedules, (schedules.c.hospital_id == slots.c.hospital_id) & (schedules.c.id == slots.c.schedule_id)
    )
    return await tx.first(
        select(
            slots.c.schedule_id,
            slots.c.starts_at_ms,
            slots.c.status,
            slots.c.his_left,
            slots.c.unreflected,
            schedules.c.status.label("schedule_status"),
            schedules.c.opens_at_ms,
            schedules.c.fee_fen,
        )
        .select_from(joined)
        .where(slots.c.hospital_id == tx.hospital_id, slots.c.id == slot_id)
    )


async def _patient(tx: Tx, request: HoldRequest) -> dict[str, Any] | None:
    joined = patients.join(
        persons, (persons.c.hospital_id == patients.c.hospital_id) & (persons.c.id == patients.c.person_id)
    )
    row = await tx.first(
        select(patients.c.person_id, persons.c.his_state, persons.c.reject_code, persons.c.merged_into)
        .select_from(joined)
        .where(
            patients.c.hospital_id == tx.hospital_id,
            patients.c.id == request.patient_id,
            patients.c.client_id == request.client_id,
        )
    )
    if row is not None and row["merged_into"] is not None and (survivor := await load_person(tx, row["person_id"])):
        row |= {"person_id": survivor.id, "his_state": survivor.his_state, "reject_code": survivor.reject_code}
    return row


async def _live_booking(tx: Tx, person_id: str, schedule_id: str) -> dict[str, Any] | None:
    return await tx.first(
        select(bookings.c.id, bookings.c.client_id).where(
            bookings.c.hospital_id == tx.hospital_id,
            bookings.c.person_id == person_id,
            bookings.c.schedule_id == schedule_id,
            bookings.c.live,
        )
    )
