"""Clinics and campuses."""

from __future__ import annotations

from typing import Any

from booking.api.fhir.ids import code_to_fhir
from booking.api.fhir.resources.elements import department_concept, his_system, organization, reference
from booking.api.fhir.serving import Resource
from booking.settings import Campus, Hospital


def service_resource(hospital: Hospital, row: dict[str, Any]) -> Resource:
    """A row of `catalog.list_departments` as a HealthcareService."""
    resource: Resource = {
        "resourceType": "HealthcareService",
        "id": code_to_fhir(row["id"]),
        "identifier": [{"system": his_system(hospital.id, "department"), "value": row["id"]}],
        "active": True,
        "providedBy": organization(hospital.id, hospital.name),
        "type": [department_concept(hospital.id, row["id"], row["name"])],
        "name": row["name"],
    }
    campus = next((c for c in hospital.campuses if row["campus"] in (c.id, c.name)), None)
    if campus is not None:
        resource["location"] = [reference("Location", code_to_fhir(campus.id), campus.name)]
    return resource


def location_resource(hospital: Hospital, campus: Campus) -> Resource:
    """A campus of the settings."""
    resource: Resource = {
        "resourceType": "Location",
        "id": code_to_fhir(campus.id),
        "identifier": [{"system": his_system(hospital.id, "campus"), "value": campus.id}],
        "status": "active",
        "name": campus.name,
        "mode": "instance",
    }
    if campus.address:
        resource["address"] = {"text": campus.address}
    resource["managingOrganization"] = organization(hospital.id, hospital.name)
    return resource
