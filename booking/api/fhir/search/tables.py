"""What can be searched: for each type its parameters, what can be included, and the scope that it needs.

The CapabilityStatement tells these tables, `requests` reads searches by them, and no handler knows another parameter.
"""

from __future__ import annotations

from typing import NamedTuple


class Parameter(NamedTuple):
    """A search parameter: `type` of the value set search-param-type; `targets` of a reference that is given as an id alone."""

    name: str
    type: str
    doc: str
    targets: tuple[str, ...] = ()


class Kind(NamedTuple):
    """A type of resource. `includes` maps `[type]:[parameter]` to the elements in which the references stand; `sorts` are
    the values of `_sort` that can be heeded, other orders nobody gets.
    """

    name: str
    scope: str
    parameters: dict[str, Parameter]
    includes: dict[str, tuple[str, ...]]
    sorts: tuple[str, ...] = ()


def _parameters(*rows: Parameter) -> dict[str, Parameter]:
    return {row.name: row for row in rows}


_ID = Parameter("_id", "token", "The resource's id")
_CHANGED = Parameter("_lastUpdated", "date", "When it last changed here")
_ACTIVE = Parameter("active", "token", "true: those who are not there any more are not listed")
_SERVICE = Parameter("service-type", "token", "The clinic: its code at the hospital")

# http://hl7.org/fhir/R4/searchparameter-registry.html; what is not there is none of ours
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("Slot", "booking", _parameters(
            _ID,
            Parameter("identifier", "token", "Our id of the slot in /v1 (urn:hisbridge:slot)"),
            Parameter("schedule", "reference", "The Schedule that the slot belongs to", ("Schedule",)),
            Parameter("start", "date", "When it starts. Without it: from today on, as far as the hospital releases"),
            Parameter("status", "token", "free, busy, busy-unavailable"),
            _SERVICE,
            Parameter("appointment-type", "token", "The clinic type in the hospital's words"),
            Parameter("schedule.actor", "reference", "Who or what the Schedule is for (chained)",
                      ("Practitioner", "HealthcareService", "PractitionerRole")),
        ), {"Slot:schedule": ("schedule",)}, ("start",)),
        Kind("Schedule", "booking", _parameters(
            _ID,
            Parameter("actor", "reference", "The doctor or the clinic",
                      ("Practitioner", "HealthcareService", "PractitionerRole")),
            Parameter("date", "date", "The day. Without it: from today on"),
            Parameter("active", "token", "true, or false for a stopped one"),
            _SERVICE,
            Parameter("identifier", "token", "Our id of the schedule in /v1 (urn:hisbridge:schedule)"),
        ), {"Schedule:actor": ("actor",)}, ("date",)),
        Kind("Appointment", "booking", _parameters(
            _ID,
            _CHANGED,
            Parameter("identifier", "token", "The order number (urn:hisbridge:order-no)"),
            Parameter("patient", "reference", "For whom", ("Patient",)),
            Parameter("actor", "reference", "Anybody who takes part", ("Patient", "Practitioner", "HealthcareService")),
            Parameter("practitioner", "reference", "The doctor", ("Practitioner",)),
            Parameter("date", "date", "When it starts"),
            Parameter("status", "token", "pending (unpaid), booked, checked-in, fulfilled, noshow, cancelled"),
            Parameter("slot", "reference", "The slot that it takes", ("Slot",)),
            Parameter("part-status", "token", "accepted, needs-action, declined: of anybody who takes part"),
            _SERVICE,
            Parameter("specialty", "token", "The clinic, as in $find"),
            Parameter("appointment-type", "token", "The clinic type in the hospital's words"),
            Parameter("patient.identifier", "token", "As identifier of Patient (chained); needs the scope of patients"),
            Parameter("practitioner.identifier", "token", "As identifier of Practitioner (chained)"),
        ), {
            "Appointment:slot": ("slot",),
            "Appointment:patient": ("participant.actor:Patient",),
            "Appointment:practitioner": ("participant.actor:Practitioner",),
            "Appointment:actor": ("participant.actor",),
        }, ("date", "-date", "_lastUpdated", "-_lastUpdated")),
        Kind("Patient", "patients", _parameters(
            _ID,
            _CHANGED,
            Parameter("identifier", "token", "Our id, your user's reference, or a document number (system: its type)"),
        ), {}),
        Kind("Practitioner", "booking", _parameters(
            _ID,
            Parameter("identifier", "token", "The hospital's code"),
            _ACTIVE,
            Parameter("name", "string", "The beginning of the name"),
        ), {}),
        Kind("PractitionerRole", "booking", _parameters(
            _ID,
            Parameter("practitioner", "reference", "Whose role", ("Practitioner",)),
            Parameter("service", "reference", "The clinic", ("HealthcareService",)),
            Parameter("identifier", "token", "The hospital's code of the doctor"),
            _ACTIVE,
        ), {
            "PractitionerRole:practitioner": ("practitioner",),
            "PractitionerRole:service": ("healthcareService",),
        }),
        Kind("HealthcareService", "booking", _parameters(
            _ID,
            Parameter("identifier", "token", "The hospital's code"),
            _ACTIVE,
            Parameter("name", "string", "The beginning of the name"),
            Parameter("service-type", "token", "The clinic's code"),
            Parameter("location", "reference", "The campus", ("Location",)),
        ), {"HealthcareService:location": ("location",)}),
        Kind("Location", "booking", _parameters(
            _ID,
            Parameter("identifier", "token", "The campus's id"),
            Parameter("status", "token", "active"),
            Parameter("address", "string", "The beginning of the address"),
            Parameter("name", "string", "The beginning of the name"),
        ), {}),
        Kind("DiagnosticReport", "reports", _parameters(
            _ID,
            _CHANGED,
            Parameter("patient", "reference", "Whose reports; this, subject or _id must be given", ("Patient",)),
            Parameter("subject", "reference", "As patient", ("Patient",)),
            Parameter("identifier", "token", "The hospital's number of the report"),
            Parameter("status", "token", "registered, partial, preliminary, final ..."),
            Parameter("category", "token", "LAB or another code of v2-0074"),
            Parameter("code", "token", "The hospital's code of the report"),
            Parameter("date", "date", "When it was observed"),
            Parameter("issued", "date", "When it was issued"),
            Parameter("result", "reference", "An Observation of the report", ("Observation",)),
        ), {
            "DiagnosticReport:result": ("result",),
            "DiagnosticReport:patient": ("subject",),
            "DiagnosticReport:subject": ("subject",),
        }, ("date", "-date", "issued", "-issued", "_lastUpdated", "-_lastUpdated")),
        Kind("Observation", "reports", _parameters(
            _ID,
            Parameter("patient", "reference", "Whose results; this, subject or _id must be given", ("Patient",)),
            Parameter("subject", "reference", "As patient", ("Patient",)),
            Parameter("code", "token", "The hospital's code of the observation"),
            Parameter("status", "token", "registered, preliminary, final ..."),
            Parameter("date", "date", "When it was observed"),
        ), {"Observation:patient": ("subject",), "Observation:subject": ("subject",)}, ("date", "-date")),
    )
}  # fmt: skip
RESULT_PARAMETERS = (
    "_format", "_pretty", "_summary", "_elements", "_count", "_total", "_sort", "_include", "_include:iterate", "_cursor",
)  # fmt: skip
"""What shapes the answer and selects nothing (search.html#Summary). `_cursor` is ours, in next links."""
