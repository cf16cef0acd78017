"""Who gets a seat: one pure function, the same for both stores."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from booking import seats
from booking.inventory.requests import (
    Decision,
    Facts,
    Granted,
    HoldRequest,
    KeyFacts,
    LiveFacts,
    PatientFacts,
    Refused,
    Replayed,
    RoomTerms,
    SlotFacts,
    Terms,
)
from booking.waiting_room.gate import turn_away

KEEP_KEYS_MS = 24 * 3600 * 1000


def decide(requests: Sequence[HoldRequest], booking_ids: Sequence[str], facts: Facts, terms: Terms) -> list[Decision]:
    """Decide a batch in arrival order; each item sees what the earlier ones have taken, which `facts` then shows.

    `booking_ids` are the ids that the bookings will have, should they be made.
    """
    winners: dict[tuple[str, str], tuple[int, str]] = {}
    decisions: list[Decision] = []
    for index, request in enumerate(requests):
        bound = (request.client_id, request.key)
        won = winners.get(bound)
        if won is not None:
            decisions.append(Replayed(of=won[0]) if won[1] == request.digest else _REUSED)
            continue
        stored = facts.keys.get(bound)
        if stored is not None:
            decisions.append(_recall(stored, request))
            continue
        decision = _decide(index, request, facts, terms)
        if isinstance(decision, Granted):
            winners[bound] = (index, request.digest)
            decision.slot.unreflected += 1
            decision.slot.schedule.taken += 1
            decision.slot.sold += 1
            if (place := facts.passes.get(decision.patient.person_id)) is not None:
                place.holds, place.taken = place.holds + 1, True
            facts.live[decision.patient.person_id, decision.slot.schedule.id] = LiveFacts(
                booking_ids[index], request.client_id
            )
        decisions.append(decision)
    return decisions


_REUSED = Refused("idempotency_key_reused", "This Idempotency-Key was used for another request.")


def _recall(stored: KeyFacts, request: HoldRequest) -> Decision:
    return Replayed(stored=stored) if stored.digest == request.digest else _REUSED


def _decide(index: int, request: HoldRequest, facts: Facts, terms: Terms) -> Decision:
    """One item whose key is new. The order of the questions is the order in which a portal should hear the answers."""
    if terms.mode != "live":
        return Refused("hospital_observe_only" if terms.mode == "observe" else "hospital_paused", "")
    if not terms.offered:
        return Refused("not_offered_by_hospital", "")
    if facts.room_ms and terms.room is not None and (refused := _of_room(request, facts, terms.room)) is not None:
        return refused
    slot = facts.slots.get(request.slot_id)
    if slot is None:
        return Refused("slot_unknown", f"There is no slot {request.slot_id} at this hospital.")
    patient = facts.patients.get((request.client_id, request.patient_id))
    if patient is None:
        return Refused("patient_unknown", f"There is no patient {request.patient_id} of yours at this hospital.")
    return (
        _of_patient(patient)
        or _of_time(slot, facts.now_ms, terms)
        or _of_seat(request, slot, patient, facts)
        or Granted(index, slot, patient, slot.schedule.fee_fen or 0)
    )


def _of_room(request: HoldRequest, facts: Facts, terms: RoomTerms) -> Refused | None:
    """Whether the ticket of this very patient's person, as it stands in the store, was let in; there is no other way in."""
    if not facts.is_room_open or facts.now_ms >= facts.room_ms + terms.lasts_ms:
        return None
    patient = facts.patients.get((request.client_id, request.patient_id))
    place = None if patient is None else facts.passes.get(patient.person_id)
    if place is None or request.room_ms != facts.room_ms or request.rank != place.rank:
        return turn_away(terms.hospital_id, "none")
    if place.admitted_ms is None:
        return turn_away(terms.hospital_id, "waiting")
    if facts.now_ms >= place.admitted_ms + terms.admitted_ms:
        return turn_away(terms.hospital_id, "expired")
    return turn_away(terms.hospital_id, "used") if place.holds >= terms.holds else None


def _of_patient(patient: PatientFacts) -> Refused | None:
    if patient.his_state != "rejected":
        return None
    detail = f"The hospital has refused this patient's record: {patient.reject_code}."
    return Refused("patient_rejected", detail, {"reason": patient.reject_code})


def _of_time(slot: SlotFacts, now_ms: int, terms: Terms) -> Refused | None:
    detail = f"Slot {slot.id}."
    opens_at_ms = slot.schedule.opens_at_ms
    if slot.stopped or slot.schedule.stopped:
        return Refused("schedule_stopped", detail)
    if slot.starts_at_ms <= now_ms:
        return Refused("slot_in_past", detail)
    if opens_at_ms is not None and now_ms < opens_at_ms:
        return not_released(slot.id, opens_at_ms)
    if terms.closed_until_ms is not None:
        return Refused("hospital_closed", detail, {"opens_at": _instant(terms.closed_until_ms)})
    return None


def _of_seat(request: HoldRequest, slot: SlotFacts, patient: PatientFacts, facts: Facts) -> Refused | None:
    detail, fee_fen = f"Slot {slot.id}.", slot.schedule.fee_fen
    live = facts.live.get((patient.person_id, slot.schedule.id))
    if live is not None:
        return Refused(
            "duplicate_booking", detail, {"booking_id": live.booking_id} if live.client_id == request.client_id else {}
        )
    if fee_fen is None:
        return Refused("fee_unknown", detail)
    if request.fee_fen is not None and request.fee_fen != fee_fen:
        return Refused(
            "price_changed", f"The fee is {fee_fen} fen now; {request.fee_fen} was shown.", {"fee_fen": fee_fen}
        )
    if not has_seat(slot):
        return sold_out(slot.id)
    return None


def has_seat(slot: SlotFacts) -> bool:
    """Whether every counter that the slot draws on is above 0: its own seats, and its schedule's quota if it has one."""
    if seats.hold(seats.Seats(slot.his_left, slot.unreflected)) is None:
        return False
    quota = slot.schedule.quota
    return quota is None or slot.schedule.taken < quota


def sold_out(slot_id: str) -> Refused:
    """The refusal for want of a seat."""
    return Refused("slot_sold_out", f"Slot {slot_id}.")


def not_released(slot_id: str, opens_at_ms: int) -> Refused:
    """The refusal for a slot that is not yet on sale."""
    return Refused("slot_not_released", f"Slot {slot_id}.", {"opens_at": _instant(opens_at_ms)})


def _instant(ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC)
