"""Parts of resources: `_summary` and `_elements` (FHIR R4 search.html#summary, #elements)."""

from __future__ import annotations

from booking.api.fhir.resources.elements import OBSERVATION_VALUE
from booking.api.fhir.search.requests import SearchRequest
from booking.api.fhir.serving import Resource

SUBSETTED = {"system": OBSERVATION_VALUE, "code": "SUBSETTED"}
SUMMARY = {
    "Slot": ("identifier", "serviceType", "appointmentType", "schedule", "status", "start", "end"),
    "Schedule": ("identifier", "active", "serviceType", "actor", "planningHorizon"),
    "Appointment": (
        "identifier", "status", "cancelationReason", "serviceType", "specialty", "appointmentType", "start", "end",
    ),
    "Patient": ("identifier", "active", "name", "telecom"),
    "Practitioner": ("identifier", "active", "name"),
    "PractitionerRole": ("identifier", "active", "practitioner", "code"),
    "HealthcareService": ("identifier", "active", "type", "location", "name"),
    "Location": ("identifier", "status", "name", "mode"),
    "DiagnosticReport": (
        "identifier", "status", "category", "code", "subject", "effectiveDateTime", "issued", "resultsInterpreter",
    ),
    "Observation": (
        "identifier", "status", "code", "subject", "effectiveDateTime", "valueQuantity", "valueString",
    ),
}  # fmt: skip
"""The elements marked as summary in the standard's definitions, of those that we send."""
MANDATORY = {
    "Slot": ("schedule", "status", "start", "end"),
    "Schedule": ("actor",),
    "Appointment": ("status", "start", "end", "participant"),
    "DiagnosticReport": ("status", "code"),
    "Observation": ("status", "code"),
}
"""Elements that a valid resource cannot be without (1..1 or 1..*, and start and end by app-3): they stay in every part."""
_ALWAYS = ("resourceType", "id", "meta")


def is_partial(request: SearchRequest) -> bool:
    """Whether the search asks for parts of resources."""
    return bool(request.elements) or request.summary in ("true", "text", "data")


def subset(resource: Resource, request: SearchRequest) -> Resource:
    """The part that is asked for, marked SUBSETTED; the resource itself where it is asked for whole."""
    if not is_partial(request):
        return resource
    kind = resource["resourceType"]
    if request.elements:
        names: tuple[str, ...] = request.elements
    elif request.summary == "true":
        names = SUMMARY.get(kind, ())
    elif request.summary == "text":
        names = ("text",)
    else:
        names = tuple(name for name in resource if name != "text")
    kept = {*_ALWAYS, *names, *MANDATORY.get(kind, ())}
    part = {name: value for name, value in resource.items() if name in kept}
    meta = dict(part.pop("meta", {}))
    meta["tag"] = [*meta.get("tag", ()), SUBSETTED]
    head = {"resourceType": kind, "id": resource["id"], "meta": meta}
    return {**head, **{name: value for name, value in part.items() if name not in _ALWAYS}}
