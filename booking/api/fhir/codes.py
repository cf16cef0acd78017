"""Our states in FHIR's words: tables with their references. Nothing is decided here."""

from __future__ import annotations

from booking.lifecycle import State
from mappings.canonical import ReportStatus

TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"

SLOT_STATUS = {
    "open": "free",
    "sold_out": "busy",
    "not_released": "busy-unavailable",
    "stopped": "busy-unavailable",
}
"""Our status of a slot -> Slot.status. http://hl7.org/fhir/R4/valueset-slotstatus.html, required."""

APPOINTMENT_STATUS = {
    State.HELD: "pending",
    State.BOOKED: "booked",
    State.CHECKED_IN: "checked-in",
    State.FULFILLED: "fulfilled",
    State.NO_SHOW: "noshow",
    State.CANCELLED: "cancelled",
    State.EXPIRED: "cancelled",
    State.REJECTED: "cancelled",
    State.STOPPED: "cancelled",
}
"""A booking's state -> Appointment.status. http://hl7.org/fhir/R4/valueset-appointmentstatus.html, required.

`cancelling` is not here: until the hospital has confirmed, the appointment is what it was (`pending`, or `booked` once the
hospital has registered it).
"""

CANCELATION_REASON = {
    State.CANCELLED: ("pat", "Patient"),
    State.EXPIRED: ("other", "Other"),
    State.REJECTED: ("prov", "Provider"),
    State.STOPPED: ("prov", "Provider"),
}
"""http://hl7.org/fhir/R4/valueset-appointment-cancellation-reason.html, example; by app-4 of cancelled ones alone."""

REPORT_STATUS = {
    ReportStatus.REGISTERED: "registered",
    ReportStatus.PARTIAL: "partial",
    ReportStatus.PRELIMINARY: "preliminary",
    ReportStatus.FINAL: "final",
    ReportStatus.AMENDED: "amended",
    ReportStatus.CORRECTED: "corrected",
    ReportStatus.CANCELLED: "cancelled",
    ReportStatus.ENTERED_IN_ERROR: "entered-in-error",
    ReportStatus.UNKNOWN: "unknown",
}
"""http://hl7.org/fhir/R4/valueset-diagnostic-report-status.html, required."""

OBSERVATION_STATUS = {**REPORT_STATUS, ReportStatus.PARTIAL: "preliminary"}
"""http://hl7.org/fhir/R4/valueset-observation-status.html, required: it knows no `partial`."""
