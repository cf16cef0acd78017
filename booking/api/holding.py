"""What the API adds to the writer of holds: what a hospital allows now, and the body of a success."""

from __future__ import annotations

import msgspec

from booking.api.present import booking_view
from booking.inventory.requests import RoomTerms, Terms
from booking.inventory.rows import Render
from booking.inventory.writer import TermsOf
from booking.openings import lock_verb
from booking.ports import LiveHis
from booking.records import Booking
from booking.rules.hours import closed_until_ms
from booking.rules.settings import NO_RULES
from booking.settings import Hospital

_encode = msgspec.json.Encoder().encode


def terms_by(live: LiveHis) -> TermsOf:
    """A hospital's terms, its capabilities asked of `live`."""

    def terms(hospital: Hospital, now_ms: int) -> Terms:
        offered = live.capabilities(hospital.id)[lock_verb(hospital)] == "native"
        return Terms(
            mode=hospital.mode.value,
            offered=offered,
            closed_until_ms=closed_until_ms(hospital, now_ms),
            room=_room_terms(hospital),
            rules=hospital.rules if hospital.rules.is_used else NO_RULES,
            zone=hospital.zone,
        )

    return terms


def _room_terms(hospital: Hospital) -> RoomTerms | None:
    rule = hospital.waiting_room
    if not rule.is_used:
        return None
    return RoomTerms(
        hospital_id=hospital.id,
        holds=rule.holds,
        admitted_ms=int(rule.admitted_s * 1000),
        lasts_ms=int(rule.lasts_s * 1000),
    )


def renderer(hospital: Hospital) -> Render:
    """The body of the answer to a new booking of this hospital."""
    zone = hospital.zone

    def render(booking: Booking, now_ms: int) -> bytes:
        return _encode(booking_view(booking, now_ms, zone))

    return render
