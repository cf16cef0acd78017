"""Doctors, their roles, and patients."""

from __future__ import annotations

from typing import Any

from booking.api.fhir.ids import code_to_fhir
from booking.api.fhir.resources.elements import (
    MASKED,
    PATIENT_SYSTEM,
    USER_SYSTEM,
    department_reference,
    document_system,
    his_system,
    instant,
    organization,
    practitioner_reference,
)
from booking.api.fhir.serving import Resource
from booking.records import Person
from booking.settings import Hospital
from monitoring.masking import mask_id_number, mask_name, mask_phone


def practitioner_resource(hospital: Hospital, row: dict[str, Any]) -> Resource:
    """A row of `catalog.list_practitioners`."""
    return {
        "resourceType": "Practitioner",
        "id": code_to_fhir(row["id"]),
        "identifier": [{"system": his_system(hospital.id, "practitioner"), "value": row["id"]}],
        "active": True,
        "name": [{"text": row["name"]}],
    }


def role_resource(hospital: Hospital, row: dict[str, Any], department_name: str | None = None) -> Resource:
    """The same row as a PractitionerRole: a doctor has one, under the same id."""
    resource: Resource = {
        "resourceType": "PractitionerRole",
        "id": code_to_fhir(row["id"]),
        "identifier": [{"system": his_system(hospital.id, "practitioner"), "value": row["id"]}],
        "active": True,
        "practitioner": practitioner_reference(row["id"], row["name"]),
        "organization": organization(hospital.id, hospital.name),
    }
    if row["title"]:
        resource["code"] = [{"text": row["title"]}]
    if row["department_id"]:
        resource["healthcareService"] = [department_reference(row["department_id"], department_name)]
    return resource


def patient_resource(hospital: Hospital, row: dict[str, str], person: Person) -> Resource:
    """A patient of the client, masked as in `/v1` and labelled so."""
    record = person.record
    identifiers: list[dict[str, Any]] = [
        {"system": PATIENT_SYSTEM, "value": row["id"]},
        {"system": USER_SYSTEM, "value": row["user_ref"]},
    ]
    if record.id_type and record.id_number:
        identifiers.append({"system": document_system(record.id_type), "value": mask_id_number(record.id_number)})
    resource: Resource = {
        "resourceType": "Patient",
        "id": row["id"],
        "meta": {"lastUpdated": instant(person.updated_ms, hospital.zone), "security": [MASKED]},
        "identifier": identifiers,
        "active": person.his_state != "rejected",
    }
    if record.name:
        resource["name"] = [{"text": mask_name(record.name)}]
    if record.phone:
        resource["telecom"] = [{"system": "phone", "value": mask_phone(record.phone)}]
    return resource
