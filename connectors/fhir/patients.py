"""The Patient's record at the server."""

from __future__ import annotations

from connectors.fhir.writes import Write
from connectors.port import Accepted, Outcome, Rejected
from mappings.canonical import Patient


async def create_patient(write: Write, patient: Patient) -> Outcome:
    """Create the patient's record, or find the one under the same number; the name must then be the same."""
    created = await write.create("create_patient", patient, several="patient_ambiguous")
    if created.resource is None:
        return Accepted(his_refs={"patient": created.id})
    record: Patient = await write.map_one("find_patient", created.resource)
    if created.existed and _plain(record.name) != _plain(patient.name):
        return Rejected(code="patient_mismatch", text="the number belongs to a record with another name")
    return Accepted(his_refs=record.his_refs, record=record)


def _plain(name: str) -> str:
    return "".join(name.split()).casefold()
