"""Parameters as a caller of IHE ITI Scheduling writes them, and patients of FHIR."""

from __future__ import annotations

from typing import Any

from tests.booking.api.fhir.site import FhirSite, Told

ID_CARD = "urn:oid:2.16.840.1.113883.4.330.156"
PERIOD = {"start": "2031-03-04", "end": "2031-03-04"}


def parameters(**given: Any) -> dict[str, Any]:
    """`appointment_reference="Appointment/1"`; a dictionary with a resourceType is a resource, a list repeats."""
    listed = []
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            listed.append({"name": name[0] + name[1:].replace("_", "-"), **_value(name, one)})
    return {"resourceType": "Parameters", "parameter": listed}


def _value(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {"resource": value} if "resourceType" in value else value
    if isinstance(value, int):
        return {"valueInteger": value}
    if name.endswith("reference") or name in ("practitioner", "organization"):
        return {"valueReference": {"reference": value}}
    return {"valueDateTime" if name in ("start", "end") else "valueString": value}


async def call(site: FhirSite, operation: str, by: str = "portal", key: str | None = None, **given: Any) -> Told:
    """POST Appointment/$operation."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return await site.ask(f"Appointment/${operation}", "POST", parameters(**given), by=by, headers=headers)


async def found(site: FhirSite, by: str = "portal", **given: Any) -> list[dict[str, Any]]:
    """The proposals of `$find`."""
    return (await call(site, "find", by, **{**PERIOD, **given})).resources


def fhir_patient(
    name: str = "张伟", number: str = "110101199003070038", user: str = "u1", **changes: Any
) -> dict[str, Any]:
    """A Patient as a portal sends it."""
    return {
        "resourceType": "Patient",
        "identifier": [{"system": ID_CARD, "value": number}, {"system": "urn:hisbridge:user-ref", "value": user}],
        "name": [{"use": "official", "text": name}],
        "telecom": [{"system": "phone", "value": "13800001111"}],
        **changes,
    }
