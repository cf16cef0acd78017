"""A session of a doctor or a clinic on one day as a FHIR Schedule."""

from __future__ import annotations

from typing import Any

from booking.api.fhir.ids import row_id_to_fhir
from booking.api.fhir.resources.elements import (
    EXTENSION,
    SCHEDULE_SYSTEM,
    department_concept,
    department_reference,
    practitioner_reference,
)
from booking.api.fhir.resources.slot import money
from booking.api.fhir.serving import Resource
from booking.settings import Hospital

_SESSIONS = {"am": "morning", "pm": "afternoon", "night": "night", "all_day": "all day"}


def schedule_resource(hospital: Hospital, row: dict[str, Any]) -> Resource:
    """A row of `catalog.list_schedules`. Its horizon is its one day; a stopped one is not active."""
    actors: list[dict[str, Any]] = []
    if row["practitioner_id"] is not None:
        actors.append(practitioner_reference(row["practitioner_id"], row["practitioner_name"]))
    actors.append(department_reference(row["department_id"], row["department_name"]))
    if row["location"]:
        actors.append({"type": "Location", "display": row["location"]})
    resource: Resource = {"resourceType": "Schedule", "id": row_id_to_fhir(row["id"])}
    if row["fee_fen"] is not None:
        resource["extension"] = [{"url": EXTENSION + "fee", "valueMoney": money(row["fee_fen"], hospital.currency)}]
    resource["identifier"] = [{"system": SCHEDULE_SYSTEM, "value": row["id"]}]
    resource["active"] = row["status"] == "open"
    resource["serviceType"] = [department_concept(hospital.id, row["department_id"], row["department_name"])]
    resource["actor"] = actors
    resource["planningHorizon"] = {"start": row["date"], "end": row["date"]}
    told = [row["clinic_type"], _SESSIONS.get(row["session"])]
    resource["comment"] = ", ".join(text for text in told if text)
    return resource
