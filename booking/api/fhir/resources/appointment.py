"""A booking as a FHIR Appointment. Money is not in it: paying stays in `/v1`."""

from __future__ import annotations

from typing import Any

from booking.api.fhir.codes import APPOINTMENT_STATUS, CANCELATION_REASON, TERMINOLOGY
from booking.api.fhir.ids import row_id_to_fhir
from booking.api.fhir.resources.elements import (
    EXTENSION,
    ORDER_SYSTEM,
    concept,
    date_time,
    department_concept,
    department_reference,
    his_system,
    instant,
    practitioner_reference,
    reference,
)
from booking.api.fhir.resources.slot import money
from booking.api.fhir.serving import Resource
from booking.lifecycle import HisState, State
from booking.records import Booking
from booking.settings import Hospital


def appointment_status(booking: Booking) -> str:
    """Appointment.status: what the hospital has confirmed, and nothing that is only wished for."""
    if booking.state == State.CANCELLING:
        return "booked" if booking.his_state == HisState.REGISTERED else "pending"
    return APPOINTMENT_STATUS[booking.state]


def appointment_resource(hospital: Hospital, booking: Booking, slot: dict[str, Any]) -> Resource:
    """A booking and the row of its slot (`booking.named.slots_named`)."""
    zone, status = hospital.zone, appointment_status(booking)
    resource: Resource = {"resourceType": "Appointment", "id": booking.id}
    resource["meta"] = {"lastUpdated": instant(booking.updated_ms, zone)}
    resource["extension"] = [
        {"url": EXTENSION + "booking-state", "valueCode": str(booking.state).replace("_", "-")},
        {"url": EXTENSION + "fee", "valueMoney": money(booking.fee_fen, hospital.currency)},
    ]
    resource["identifier"] = [{"system": ORDER_SYSTEM, "value": booking.order_no}]
    resource["status"] = status
    if status == "cancelled":
        code, display = CANCELATION_REASON[booking.state]
        coding = {"system": f"{TERMINOLOGY}/appointment-cancellation-reason", "code": code, "display": display}
        resource["cancelationReason"] = {"coding": [coding]}
    clinic = [department_concept(hospital.id, slot["department_id"], slot["department_name"])]
    resource["serviceType"] = resource["specialty"] = clinic
    if slot["clinic_type"]:
        system = his_system(hospital.id, "clinic-type")
        resource["appointmentType"] = concept(system, slot["clinic_type"], slot["clinic_type"])
    resource["start"] = instant(slot["starts_at_ms"], zone)
    resource["end"] = instant(slot["ends_at_ms"], zone)
    resource["minutesDuration"] = max(1, (slot["ends_at_ms"] - slot["starts_at_ms"]) // 60_000)
    resource["slot"] = [reference("Slot", row_id_to_fhir(booking.slot_id))]
    resource["created"] = instant(booking.created_ms, zone)
    instruction = _instruction(hospital, booking)
    if instruction:
        resource["patientInstruction"] = instruction
    resource["participant"] = _participants(booking, slot, status)
    resource["requestedPeriod"] = [{"start": resource["start"], "end": resource["end"]}]  # 1..1 in IHE ITI Scheduling
    return resource


def _participants(booking: Booking, slot: dict[str, Any], status: str) -> list[dict[str, Any]]:
    """The patient, the clinic and the doctor. http://hl7.org/fhir/R4/valueset-participationstatus.html, required."""
    theirs = "needs-action" if status == "pending" else "declined" if status == "cancelled" else "accepted"
    actors = [department_reference(slot["department_id"], slot["department_name"])]
    if slot["practitioner_id"] is not None:
        actors.append(practitioner_reference(slot["practitioner_id"], slot["practitioner_name"]))
    patient = {"actor": reference("Patient", booking.patient_id), "required": "required", "status": "accepted"}
    return [patient, *({"actor": actor, "required": "required", "status": theirs} for actor in actors)]


def _instruction(hospital: Hospital, booking: Booking) -> str:
    """What the hospital wants the patient to know: number, place and time of checking in."""
    told = booking.registration
    if told is None:
        return ""
    until = None if told.check_in_until is None else date_time(told.check_in_until, hospital.zone)
    facts = (("queue number", told.queue_no), ("check in at", told.check_in_place), ("check in until", until))
    return "; ".join(f"{name} {value}" for name, value in facts if value)
