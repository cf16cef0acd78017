"""The answers to new bookings, cast from moulds: those of one slot differ in whose booking it is and in when it was made.

A crowd books one slot after another within seconds. Making each answer as a record, a resource and JSON takes five times what
it takes to put five texts where they belong.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

from booking.api.fhir.holds import Row
from booking.api.fhir.outcomes import FHIR_JSON
from booking.api.fhir.resources.appointment import appointment_resource, appointment_status
from booking.api.fhir.resources.elements import instant
from booking.api.fhir.serving import add_version, render_unversioned
from booking.api.wire import Ready, join_head, render_head
from booking.inventory.moulds import could_be_cut, hole, text_mould
from booking.inventory.requests import Answer
from booking.lifecycle import State
from booking.records import Booking
from booking.settings import Hospital

MOST_MOULDS = 2_000
_VALUES = ("id", "order_no", "patient_id", "updated", "created")
_encode = msgspec.json.Encoder().encode
_FIELDS = {"Content-Type": FHIR_JSON, "Cache-Control": "no-store"}
_HEADS = {
    True: render_head(200, _FIELDS),
    False: render_head(200, {**_FIELDS, "Idempotent-Replayed": "true"}),
}


class _Made(msgspec.Struct, frozen=True):
    """What of the answer in `/v1` the Appointment tells; the rest is alike for all new bookings that these have in common."""

    id: str
    order_no: str
    patient_id: str
    state: str
    payment_state: str
    fee_fen: int
    created_at: str
    updated_at: str


class _Moulds(msgspec.Struct, frozen=True):
    """For new bookings of one slot as it is in `row`."""

    row: Row
    kind: tuple[str, str, int]
    appointment: Callable[[tuple[bytes, ...]], bytes]
    bundle: Callable[[tuple[bytes, ...]], bytes]


_made = msgspec.json.Decoder(_Made)


class NewBookings:
    """Makes the answers to new bookings at one process's hospitals."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], _Moulds] = {}

    def answer(
        self, hospital: Hospital, base: str, operation: str, slot: Row, answer: Answer, booking: Callable[[], Booking]
    ) -> Ready | None:
        """The answer to `operation` (`$book`), the same as that of `seat_bundle`. `booking` is what `answer` shows.

        None: of this slot no mould can be made.
        """
        made, place = _made.decode(answer.body), (base, operation, slot["id"])
        kind = (made.state, made.payment_state, made.fee_fen)
        moulds = self._known.get(place)
        if moulds is None or moulds.row is not slot or moulds.kind != kind:
            if could_be_cut(slot):
                return None
            if len(self._known) >= MOST_MOULDS:
                self._known.clear()
            moulds = self._known[place] = _moulds(hospital, base, operation, slot, kind, booking())
        values = (
            made.id.encode(),
            made.order_no.encode(),
            made.patient_id.encode(),
            _instant(made.updated_at, hospital.zone),
            _instant(made.created_at, hospital.zone),
        )
        return bundle_ready(moulds.bundle((*values, add_version(moulds.appointment(values)))), is_new=True)


def _moulds(
    hospital: Hospital, base: str, operation: str, slot: Row, kind: tuple[str, str, int], booking: Booking
) -> _Moulds:
    holes = {name: hole(name) for name in ("id", "order_no", "patient_id")}
    sample = msgspec.structs.replace(booking, **holes)
    resource = appointment_resource(hospital, sample, slot)
    resource["meta"]["lastUpdated"], resource["created"] = hole("updated"), hole("created")
    bundle = seat_bundle(hospital, base, operation, sample, hole("resource").encode())
    return _Moulds(
        slot, kind, text_mould(render_unversioned(resource), _VALUES), text_mould(bundle, (*_VALUES, "resource"))
    )


@lru_cache(maxsize=1024)  # a batch of holds has one instant, and shows it for every booking
def _instant(text: str, zone: dt.tzinfo) -> bytes:
    return instant(round(dt.datetime.fromisoformat(text).timestamp() * 1000), zone).encode()


def bundle_ready(body: bytes, *, is_new: bool) -> Ready:
    """The answer of `$hold` or `$book`; one that was given before says so."""
    return join_head(_HEADS[is_new], 200, body)


def seat_bundle(hospital: Hospital, base: str, operation: str, booking: Booking, resource: bytes) -> bytes:
    """A searchset of one Appointment, and of what the caller should know beside it (ITI-116, 2:3.116.4.2.2)."""
    return (
        b'{"resourceType":"Bundle","type":"searchset","total":1,"link":[{"relation":"self","url":%b}],'
        b'"entry":[{"fullUrl":%b,"resource":%b,"search":{"mode":"match"}}%b]}'
    ) % (
        _encode(f"{base}/Appointment/{operation}"),
        _encode(f"{base}/Appointment/{booking.id}"),
        resource,
        _outcome(hospital.id, booking),
    )


def _outcome(hospital_id: str, booking: Booking) -> bytes:
    """What the caller should know beside the Appointment, as another entry; nothing where its status says all."""
    text = None
    if booking.state == State.CANCELLING:
        text = "The cancellation has begun; the hospital has not confirmed it yet."
    elif booking.payment_state == "due":
        payments = f"/v1/hospitals/{hospital_id}/bookings/{booking.id}/payments"
        text = f"Unpaid. Read {payments.removesuffix('/payments')} until it is payable, and report the payment at {payments}."
    elif appointment_status(booking) == "pending":
        text = "The hospital has not confirmed it yet."
    if text is None:
        return b""
    issue: dict[str, Any] = {"severity": "information", "code": "informational", "details": {"text": text}}
    return b',{"resource":%b,"search":{"mode":"outcome"}}' % _encode(
        {"resourceType": "OperationOutcome", "issue": [issue]}
    )
