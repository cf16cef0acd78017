"""An offer of the waitlist as the writer of holds sees it: read, used and written in the transaction of the hold itself.

Only asked where a request names an entry. The statements are for the drivers' own connections, as those of `booking.inventory`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from booking.inventory.requests import HoldRequest, OfferFacts, Refused
from booking.store.ids import new_ids_at
from booking.waitlist.lifecycle import Event, State, move

CHANGED = "waitlist.changed"

_OFFER = "w.id, w.client_id, w.patient_id, w.slot_id, w.state, w.due_ms, w.version, w.schedule_id"
SQLITE_OFFERS = f"select {_OFFER} from json_each(?2) i cross join waitlist w on w.hospital_id = ?1 and w.id = i.value"  # noqa: S608
POSTGRES_OFFERS = (
    f"select {_OFFER} from unnest($2::text::text[]) as i(id) cross join lateral"  # noqa: S608 - words of ours
    " (select * from waitlist x where x.hospital_id = $1 and x.id = i.id limit 1) w"
)
# What an accepted offer writes, with its values as `taken_values` gives them.
_TAKEN = (
    (
        "update waitlist set state = 'accepted', live = {3}, due_ms = null, version = version + 1, updated_ms = {2},"
        " booking_id = {4} where hospital_id = {0} and id = {1}"
    ),
    "update slots set held_back = held_back - 1 where hospital_id = {0} and id = {1}",
    "update schedules set held_back = held_back - 1 where hospital_id = {0} and id = {1}",
    "insert into events (hospital_id, id, client_id, type, payload, created_ms) values ({0}, {1}, {2}, {3}, {4}, {5})",
)
SQLITE_TAKEN = tuple(sql.format(*(f"?{n}" for n in range(1, 7))) for sql in _TAKEN)
POSTGRES_TAKEN = tuple(sql.format(*(f"${n}" for n in range(1, 7))) for sql in _TAKEN)


class Taken(msgspec.Struct, frozen=True):
    """An offer that a batch has used, and the booking that it has become."""

    offer: OfferFacts
    booking_id: str


def refuse(request: HoldRequest, offer: OfferFacts | None, now_ms: int) -> Refused | None:
    """Why a hold may not use the offer that it names; None: the seat that is set aside is for it. Pure."""
    if offer is None or (offer.client_id, offer.patient_id) != (request.client_id, request.patient_id):
        return Refused("waitlist_entry_unknown", f"There is no entry {request.offer} of this patient of yours.")
    if offer.state != State.OFFERED or now_ms >= (offer.until_ms or 0):
        state = State.LAPSED if offer.state == State.OFFERED else offer.state
        return Refused("offer_over", f"Entry {offer.id} has no offer that is open.", {"state": str(state)})
    if offer.slot_id != request.slot_id:
        return Refused("offer_over", f"Entry {offer.id} is offered another slot.", {"slot_id": offer.slot_id})
    return None


def accepted(offer: OfferFacts) -> None:
    """Later items of the same batch find it used."""
    offer.state = move(Event.ACCEPT, State(offer.state))


def taken_values(hospital_id: str, taken: Taken, now_ms: int, seq: int) -> tuple[tuple[Any, ...], ...]:
    """The values of the statements of `SQLITE_TAKEN` and `POSTGRES_TAKEN`; `seq` is the number of the write."""
    offer = taken.offer
    payload = payload_of(offer.id, offer.patient_id, offer.schedule_id, offer.version + 1, State.ACCEPTED)
    payload |= {"slot_id": offer.slot_id, "booking_id": taken.booking_id}
    (event_id,) = new_ids_at(now_ms, seq=seq)
    told = msgspec.json.encode(payload).decode()
    return (
        (hospital_id, offer.id, now_ms, False, taken.booking_id),
        (hospital_id, offer.slot_id),
        (hospital_id, offer.schedule_id),
        (hospital_id, event_id, offer.client_id, CHANGED, told, now_ms),
    )


def payload_of(entry_id: str, patient_id: str, schedule_id: str, version: int, state: str) -> dict[str, Any]:
    """What every `waitlist.changed` tells."""
    return {
        "entry_id": entry_id,
        "patient_id": patient_id,
        "schedule_id": schedule_id,
        "version": version,
        "state": state,
    }
