"""What several resources have: references, codings, identifiers, instants, and the namespaces of ours."""

from __future__ import annotations

import datetime as dt
from typing import Any
from urllib.parse import quote, unquote

from booking.api.fhir.ids import code_to_fhir

ORDER_SYSTEM = "urn:hisbridge:order-no"
SLOT_SYSTEM = "urn:hisbridge:slot"
SCHEDULE_SYSTEM = "urn:hisbridge:schedule"
HOSPITAL_SYSTEM = "urn:hisbridge:hospital"
ID_CARD_SYSTEM = "urn:oid:2.16.840.1.113883.4.330.156"
"""National person identifiers of China."""
ID_TYPE_SYSTEM = "urn:hisbridge:id-type:"
PATIENT_SYSTEM = "urn:hisbridge:patient"
USER_SYSTEM = "urn:hisbridge:user-ref"
OBSERVATION_VALUE = "http://terminology.hl7.org/CodeSystem/v3-ObservationValue"
MASKED = {"system": OBSERVATION_VALUE, "code": "MASKED", "display": "masked"}
EXTENSION = "urn:hisbridge:extension:"
"""Extensions of ours: `fee` (Money), `opens-at` (instant), `booking-state` (code)."""
SLOT_CAPACITY = "http://fhir-registry.smarthealthit.org/StructureDefinition/slot-capacity"
"""SMART Scheduling Links: how many more appointments a Slot takes."""


def his_system(hospital_id: str, kind: str) -> str:
    """The namespace of codes of one hospital's HIS: departments, clinic types ..."""
    return f"urn:hisbridge:{hospital_id}:{kind}"


def instant(ms: int, zone: dt.tzinfo) -> str:
    """Epoch milliseconds as an `instant` in a zone; milliseconds only where there are any."""
    at = dt.datetime.fromtimestamp(ms / 1000, zone)
    return at.isoformat(timespec="milliseconds" if ms % 1000 else "seconds")


def date_time(at: dt.datetime, zone: dt.tzinfo) -> str:
    """A `dateTime` of the HIS in the hospital's zone."""
    return at.astimezone(zone).isoformat(timespec="seconds")


def reference(kind: str, fhir_id: str, display: str | None = None) -> dict[str, Any]:
    """A relative literal reference."""
    told = {"reference": f"{kind}/{fhir_id}"}
    return {**told, "display": display} if display else told


def concept(system: str, code: str, display: str | None = None) -> dict[str, Any]:
    """A CodeableConcept of one coding; its text is the display. A `code` has single spaces at the most (datatypes.html#code)."""
    code = " ".join(code.split())
    if not display:
        return {"coding": [{"system": system, "code": code}]}
    return {"coding": [{"system": system, "code": code, "display": display}], "text": display}


def department_concept(hospital_id: str, department_id: str, name: str | None) -> dict[str, Any]:
    """A clinic as a serviceType."""
    return concept(his_system(hospital_id, "department"), department_id, name)


def department_reference(department_id: str, name: str | None) -> dict[str, Any]:
    return reference("HealthcareService", code_to_fhir(department_id), name)


def practitioner_reference(practitioner_id: str, name: str | None) -> dict[str, Any]:
    return reference("Practitioner", code_to_fhir(practitioner_id), name)


def organization(hospital_id: str, name: str) -> dict[str, Any]:
    """The hospital, as a logical reference: it is its base, and no resource of its own."""
    return {"identifier": {"system": HOSPITAL_SYSTEM, "value": hospital_id}, "display": name}


def document_system(id_type: str) -> str:
    """The namespace of documents of a type of `/v1`."""
    return ID_CARD_SYSTEM if id_type == "id_card" else ID_TYPE_SYSTEM + quote(id_type, safe="")


def document_type(system: str | None) -> str | None:
    """The type of `/v1` behind a namespace of documents; None for any other namespace."""
    if system == ID_CARD_SYSTEM:
        return "id_card"
    if system is None or not system.startswith(ID_TYPE_SYSTEM):
        return None
    return unquote(system.removeprefix(ID_TYPE_SYSTEM))
