"""`Appointment/$hold`, `Appointment/$book` (IHE ITI Scheduling 1.0.1, ITI-116 and ITI-117) and PUT. They decide nothing.

An Appointment's id is its slot's while it is proposed, and its booking's from the hold on. To the engine a hold and a booking are
the same: `pending` until the hospital has registered it, which follows the payment in `/v1` where there is a fee. So `$book` of a
held Appointment answers how it stands. To modify is to hold the new slot, and only then to cancel what was there before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import Any, NoReturn

import msgspec

from booking import bookings as rules
from booking.api.auth import require_access
from booking.api.context import Context
from booking.api.fhir.bases import Bases, bases_of
from booking.api.fhir.holds import BOOK, HOLD, TAKEN, Holds, Seat, made_by
from booking.api.fhir.ids import row_id_of
from booking.api.fhir.new_bookings import NewBookings, bundle_ready, seat_bundle
from booking.api.fhir.new_patients import new_patient
from booking.api.fhir.outcomes import FHIR_JSON, NotAvailable
from booking.api.fhir.parameters import AppointmentIn, Given, ParametersIn, PatientIn, id_in
from booking.api.fhir.resources.appointment import appointment_resource
from booking.api.fhir.serving import base_of, check_if_match, etag_of, invalid, prefers, render_resource, versioned
from booking.api.patient_routes import adding
from booking.api.problems import ApiProblem
from booking.api.routing import Call, Pending, Ready, make_ready
from booking.errors import Refusal
from booking.inventory.requests import Answer, HoldRequest
from booking.inventory.writer import Outcome
from booking.lifecycle import State
from booking.people import user_of
from booking.records import Booking
from booking.settings import Hospital
from booking.steps import Step, Steps
from booking.store.engine import Tx
from booking.store.turns import Of

OF_HOLD = {"appointment-reference": 1, "patient-reference": 1, "patient-resource": 1}
"""What `$hold` takes. The standard's has no patient: to us a seat is somebody's, and these two are ours."""
OF_BOOK = {**OF_HOLD, "appointment-resource": 1, "comment": 1}
NOT_THERE = frozenset(
    {
        "slot_unknown", "slot_sold_out", "channel_quota_reached",
        "slot_not_released", "slot_in_past", "schedule_stopped", "hospital_closed",
        "fee_unknown", "duplicate_booking", "booking_unknown", "booking_over", "not_cancellable", "cancel_too_late",
        "not_offered_by_hospital",
        "hospital_observe_only",
    }
)  # fmt: skip
"""Codes that mean: this Appointment is not available. ITI-116 wants them told as fatal, not-found."""
MOST_REASON_CHARS = 200
_REFERENCES = {"appointment-reference": "Appointment", "patient-reference": "Patient"}
MODIFIED = "modified"  # why the old one was cancelled
NOT_MODIFIED = "not_modified"  # why the new one was, where the old one could not be
_encode = msgspec.json.Encoder().encode


class Scheduling:
    """Answers `$hold` and `$book`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._holds = Holds(context)
        self._steps = Steps(context.store)
        self._new = NewBookings()

    def hold_at_once(self, call: Call[str, ParametersIn]) -> Pending:
        """As `hold`; where nothing has to be looked up first, it waits for nothing but the decision."""
        given = Given(call.body.parameter, OF_HOLD, bases_of(call, self._context.public_url))
        return self._soon(call, HOLD, given) or _in_task(self._told(call, self._referred(call, given, None, HOLD)))

    def book_at_once(self, call: Call[str, ParametersIn]) -> Pending:
        given = Given(call.body.parameter, OF_BOOK, bases_of(call, self._context.public_url))
        return self._soon(call, BOOK, given) or _in_task(self._told(call, self._booked(call, given)))

    def _soon(self, call: Call[str, Any], operation: str, given: Given) -> Pending | None:
        """The decision about a slot and a patient that are named by their references; None for whatever else is asked."""
        meant = _named_in(given)
        request = None if meant is None else self._holds.request_at_once(call, operation, *meant)
        if request is None:
            return None
        try:
            asked = self._holds.ask(call, request)
        except Refusal:  # told as every refusal is, or an earlier booking instead
            return _in_task(self._told(call, self._holds.settle(call, operation, request)))
        return Pending(asked, partial(self._decided, call, operation, request))

    def _decided(self, call: Call[str, Any], operation: str, request: HoldRequest, outcome: Outcome) -> Ready | Pending:
        slot = self._holds.known_slot(call.hospital_id, request.slot_id)
        told = None
        if slot is not None and isinstance(outcome, Answer) and not outcome.replayed:
            told = self._new.answer(*self._where(call), slot, outcome, partial(made_by, call, outcome))
        return told or _in_task(self._told(call, self._holds.settle(call, operation, request, outcome)))

    async def hold(self, call: Call[str, ParametersIn]) -> Ready:
        """Hold a proposed Appointment for a patient of the caller's; one that is held already is answered as it stands."""
        given = Given(call.body.parameter, OF_HOLD, bases_of(call, self._context.public_url))
        return await self._told(call, self._referred(call, given, None, HOLD))

    async def book(self, call: Call[str, ParametersIn]) -> Ready:
        """Book, modify or cancel, by the status of `appointment-resource`; with `appointment-reference` alone it books."""
        given = Given(call.body.parameter, OF_BOOK, bases_of(call, self._context.public_url))
        return await self._told(call, self._booked(call, given))

    async def update(self, call: Call[str, AppointmentIn]) -> Ready:
        """PUT of an Appointment that is `cancelled` cancels it, as `$book` does (R4 http.html#update). Nothing else is put: a
        move makes another Appointment, which `$book` answers.
        """
        told = call.body
        if told.id != call.path["id"]:
            raise invalid("$.id", "the id of the address")
        if told.status != "cancelled":
            raise invalid("$.status", "cancelled: whatever else is to change goes by $book")
        seat = await self._cancel(call, call.path["id"], _reason_of(told, told.comment))
        whole = versioned(appointment_resource(self._context.hospital(call), seat.booking, seat.slot))
        fields = {"ETag": etag_of(whole["meta"]["versionId"]), "Cache-Control": "no-store"}
        if prefers(call.request.headers, "return", ("minimal", "representation")) == "minimal":
            return make_ready(headers=fields)
        return make_ready(_encode(whole), headers={"Content-Type": FHIR_JSON, **fields})

    async def _booked(self, call: Call[str, Any], given: Given) -> Seat:
        told = given.appointment()
        if told is None or told.status in ("proposed", "pending"):
            return await self._referred(call, given, told, BOOK)
        reference = given.reference("appointment-reference", "Appointment")
        if told.id is None or reference not in (None, told.id):
            raise invalid("$.parameter", "`appointment-resource` with the id of an existing Appointment")
        if told.status == "booked":
            return await self._modify(call, told, given.bases)
        if told.status == "cancelled":
            comment = next(iter(given.texts("comment")), None)
            return await self._cancel(call, told.id, _reason_of(told, comment))
        raise invalid("$.parameter", "an Appointment that is pending (to book), booked (to modify) or cancelled")

    async def _referred(self, call: Call[str, Any], given: Given, told: AppointmentIn | None, operation: str) -> Seat:
        """The seat that a reference means: of a slot, or a booking that exists."""
        fhir_id = _referred_id(given, told)
        patient_id = await self._patient_of(call, given, told)
        row_id = row_id_of(fhir_id)
        if row_id.startswith("sl_"):
            if patient_id is None:
                raise invalid("$.parameter", "a patient: `patient-reference`, `patient-resource`, or a participant")
            return await self._holds.take(call, operation, row_id, patient_id)
        seat = await self._holds.look(call, fhir_id)
        if patient_id not in (None, seat.booking.patient_id):
            raise rules.unknown_booking(seat.booking.id)
        if seat.booking.state not in (*TAKEN, State.FULFILLED):
            raise Refusal("booking_over", f"The booking is {seat.booking.state}.")
        return seat

    async def _modify(self, call: Call[str, Any], told: AppointmentIn, bases: Bases) -> Seat:
        seat = await self._holds.look(call, told.id or "")
        booking = seat.booking
        slots = [row_id_of(slot_id) for slot_id in _slots_in(told, bases)]
        if len(slots) > 1 or not set(_patients_in(told, bases)) <= {booking.patient_id}:
            raise invalid("$.parameter", "one slot, and the booking's own patient")
        moves = slots not in ([], [booking.slot_id])
        is_repeat = moves and booking.reason == MODIFIED
        if not is_repeat:
            self._check_version(call, seat)
            if booking.state not in TAKEN:
                raise Refusal("booking_over", f"The booking is {booking.state}.")
        if not moves:
            return seat
        operation = f"{BOOK} instead of {booking.id}"
        new = await self._holds.take(call, operation, slots[0], booking.patient_id, renew=False)
        if new.booking.state not in TAKEN:
            raise Refusal("booking_over", f"The new booking {new.booking.id} is {new.booking.state}.")
        try:
            await self._cancelled(call, booking.id, MODIFIED, None)
        except Refusal:
            if new.is_new:
                await self._cancelled(call, new.booking.id, NOT_MODIFIED, None)
            raise
        return new

    async def _cancel(self, call: Call[str, Any], booking_id: str, reason: str) -> Seat:
        if call.admit_as is not None:
            call.admit_as("booking_id", booking_id)
        seat = await self._holds.look(call, booking_id)
        return Seat(await self._cancelled(call, booking_id, reason, seat.slot), seat.slot)

    async def _cancelled(
        self, call: Call[str, Any], booking_id: str, reason: str, slot: dict[str, Any] | None
    ) -> Booking:
        """The booking, once its cancellation has begun. With `slot`, If-Match is heeded within the same transaction."""
        hospital = self._context.hospital(call)

        async def work(tx: Tx, booking: Booking) -> Booking:
            if slot is not None:
                self._check_version(call, Seat(booking, slot))
            await rules.cancel_booking(
                tx, hospital, booking, reason, by_patient=slot is not None or reason != NOT_MODIFIED
            )
            return booking

        booking: Booking = await self._steps.take(call.hospital_id, Step(call.caller.id, booking_id, work))
        return booking

    def _check_version(self, call: Call[str, Any], seat: Seat) -> None:
        try:
            hospital = self._context.hospital(call)
            check_if_match(call.request.headers, appointment_resource(hospital, seat.booking, seat.slot))
        except ApiProblem as problem:
            raise Refusal(problem.code, problem.detail or "") from None

    async def _patient_of(self, call: Call[str, Any], given: Given, told: AppointmentIn | None) -> str | None:
        """The one patient whom the call names, made known where it brings the resource; None where it names nobody."""
        named = {*given.references("patient-reference", "Patient"), *(_patients_in(told, given.bases) if told else ())}
        brought = given.patient()
        if brought is not None and brought.id is not None and not brought.identifier:
            named.add(brought.id)
            brought = None
        if brought is not None and not (named or await self._is_own(call, brought)):
            named.add(await self._make_known(call, brought))
        elif brought is not None and brought.id is not None and not named:
            named.add(brought.id)
        if len(named) > 1:
            raise invalid("$.parameter", "one patient: a booking is one person's")
        return next(iter(named), None)

    async def _is_own(self, call: Call[str, Any], brought: PatientIn) -> bool:
        """Whether the resource's id is one of ours for a patient of the caller's; else it is the caller's own affair."""
        if brought.id is None:
            return False
        try:
            async with self._context.store.read(call.hospital_id, here=True) as tx:
                await user_of(tx, call.caller.id, brought.id)
        except Refusal:
            return False
        return True

    async def _make_known(self, call: Call[str, Any], brought: PatientIn) -> str:
        """By the rules, and with the scope, of `POST /v1/.../patients`."""
        require_access(call.caller, scopes=frozenset({"patients"}), hospital_id=call.hospital_id)
        body = new_patient(brought, "$.parameter")
        if call.admit_as is not None:
            call.admit_as("user_ref", body.user_ref)
        add = adding(self._context, call, body)
        async with self._context.store.write(call.hospital_id, here=True, of=Of.BINDS) as tx:
            patient_id, _, _ = await add(tx)
        return patient_id

    async def _told(self, call: Call[str, Any], asked: Awaitable[Seat]) -> Ready:
        try:
            seat = await asked
        except Refusal as refusal:
            _raise_as_told(refusal)
        hospital, base, operation = self._where(call)
        resource = render_resource(appointment_resource(hospital, seat.booking, seat.slot))
        return bundle_ready(seat_bundle(hospital, base, operation, seat.booking, resource), is_new=seat.is_new)

    def _where(self, call: Call[str, Any]) -> tuple[Hospital, str, str]:
        """The hospital, the base that was asked, and the operation as its address names it."""
        base = base_of(call, self._context.public_url)
        return self._context.hospital(call), base, call.address.rpartition("/")[2]


def _in_task(asked: Coroutine[Any, Any, Ready]) -> Pending:
    """In a task of its own, but not in one of the connection's."""
    return Pending(asyncio.ensure_future(asked), _as_it_is)


def _as_it_is(answer: Ready) -> Ready:
    return answer


def _named_in(given: Given) -> tuple[str, str] | None:
    """Slot and patient, where one reference to each is all that is given. Raises ApiProblem."""
    if given.names != _REFERENCES.keys():
        return None
    fhir_id, patient_id = (given.reference(*one) for one in _REFERENCES.items())
    row_id = "" if fhir_id is None else row_id_of(fhir_id)
    return (row_id, patient_id) if row_id.startswith("sl_") and patient_id is not None else None


def _referred_id(given: Given, told: AppointmentIn | None) -> str:
    """The id that the call means: of the reference, or of what the resource would take up."""
    reference = given.reference("appointment-reference", "Appointment")
    meant = {reference} if reference is not None else set()
    if told is not None:
        meant |= set(_slots_in(told, given.bases)) or ({told.id} if told.id is not None else set())
    if len(meant) != 1:
        raise invalid(
            "$.parameter", "one Appointment: `appointment-reference`, or `appointment-resource` with one slot"
        )
    return next(iter(meant))


def _slots_in(told: AppointmentIn, bases: Bases) -> list[str]:
    ids = [id_in(slot.reference, "Slot", bases) for slot in told.slot]
    if None in ids:
        raise invalid("$.parameter", "literal references to Slots of this server")
    return [slot_id for slot_id in ids if slot_id is not None]


def _patients_in(told: AppointmentIn, bases: Bases) -> list[str]:
    """The Patients of ours among the participants; others are the slot's own."""
    actors = [p.actor.reference for p in told.participant if p.actor is not None]
    return [patient_id for patient_id in (id_in(actor, "Patient", bases) for actor in actors) if patient_id is not None]


def _reason_of(told: AppointmentIn, comment: str | None) -> str:
    """Why it is cancelled, in the caller's words or codes."""
    concept = told.cancelationReason
    coding = concept.coding[0] if concept is not None and concept.coding else None
    texts = (concept and concept.text, coding and (coding.display or coding.code), comment)
    reason = next((text for text in texts if text), "patient")
    return "".join(char if char.isprintable() else " " for char in reason[:MOST_REASON_CHARS]).strip() or "patient"


def _raise_as_told(refusal: Refusal) -> NoReturn:
    """ITI-116, 2:3.116.4.2.3: what is not available is told as fatal and not-found."""
    if refusal.code in NOT_THERE:
        raise NotAvailable(refusal.code, refusal.detail or None, extra=refusal.extra) from None
    raise refusal
