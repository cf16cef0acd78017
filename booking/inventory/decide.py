"""Who gets a seat: one pure function, the same for both stores."""

from __future__ import annotations

from collections.abc import Sequence

from booking.inventory.requests import (
    Decision,
    Facts,
    Granted,
    HoldRequest,
    KeyFacts,
    LiveFacts,
    OfferFacts,
    Refused,
    Replayed,
    RoomTerms,
    SlotFacts,
    Terms,
)
from booking.lifecycle import State
from booking.rules.facts import Past, Visit
from booking.rules.judging import Case, judge
from booking.waiting_room.gate import turn_away
from booking.waitlist.accepting import accepted, refuse

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
            if decision.offer is not None:
                _use(decision.offer, decision.slot)
            decision.slot.unreflected += 1
            decision.slot.schedule.taken += 1
            decision.slot.sold += 1
            if (place := facts.passes.get(decision.patient.person_id)) is not None:
                place.holds, place.taken = place.holds + 1, True
            facts.live[decision.patient.person_id, decision.slot.schedule.id] = LiveFacts(
                booking_ids[index], request.client_id
            )
            if facts.past is not None:
                _count(facts.past, request, booking_ids[index], decision, facts.now_ms)
        decisions.append(decision)
    return decisions


def _use(offer: OfferFacts, slot: SlotFacts) -> None:
    """The seat that was set aside is no longer held back: the others have as many as before."""
    accepted(offer)
    slot.his_left += 1
    if slot.schedule.quota is not None:
        slot.schedule.quota += 1


def _count(past: Past, request: HoldRequest, booking_id: str, granted: Granted, now_ms: int) -> None:
    """What was granted counts for the later items."""
    schedule, patient = granted.slot.schedule, granted.patient
    visit = Visit(booking_id, request.patient_id, schedule.date, schedule.department_id, State.HELD, now_ms)
    user_ref = patient.user_ref if request.user_ref is None else request.user_ref
    past.add(
        visit,
        person_id=patient.person_id,
        user=(request.client_id, user_ref),
        schedule_id=schedule.id,
        slot_id=granted.slot.id,
    )


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
    offer = None
    if request.offer is not None:
        offer = facts.offers.get(request.offer)
        if (refused := refuse(request, offer, facts.now_ms)) is not None:
            return refused
    case = Case(
        now_ms=facts.now_ms,
        zone=terms.zone,
        slot=slot,
        patient=patient,
        client_id=request.client_id,
        user_ref=patient.user_ref if request.user_ref is None else request.user_ref,
        patient_id=request.patient_id,
        rules=terms.rules,
        past=facts.past,
        live=facts.live.get((patient.person_id, slot.schedule.id)),
        shown_fen=request.fee_fen,
        closed_until_ms=terms.closed_until_ms,
        set_aside=offer is not None,
    )
    return judge(case) or Granted(index, slot, patient, slot.schedule.fee_fen or 0, offer)


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
