"""Reports as DiagnosticReports, their lines as Observations, whose id is the report's with a number."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from booking.api.fhir.codes import OBSERVATION_STATUS, REPORT_STATUS, TERMINOLOGY
from booking.api.fhir.ids import row_id_to_fhir
from booking.api.fhir.resources.elements import date_time, his_system, instant, reference
from booking.api.fhir.serving import Resource
from booking.api.fhir.view import View
from booking.reporting import ReportRow
from mappings.canonical import Observation, ReportKind

# http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation has HL7 table 0078 one to one (v2-to-FHIR, 0078)
_FLAGS = frozenset(
    ["A", "AA", "H", "HH", "HU", "L", "LL", "LU", "N", "R", "S", "I", "MS", "VS", "POS", "NEG", "IND", "DET", "ND", "B", "W", "U",
     "D", "<", ">"]
)  # fmt: skip
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?")


def report_resource(view: View, row: ReportRow, patient_id: str) -> Resource:
    """A report of one of the client's patients. Its documents are fetched from `/v1`."""
    record, hospital = row.record, view.hospital
    fhir_id = row_id_to_fhir(row.id)
    resource: Resource = {
        "resourceType": "DiagnosticReport",
        "id": fhir_id,
        "meta": {"lastUpdated": instant(row.updated_ms, view.zone)},
        "identifier": [{"system": his_system(hospital.id, "report"), "value": record.id}],
        "status": REPORT_STATUS[record.status],
    }
    if record.kind == ReportKind.LAB:
        resource["category"] = [{"coding": [{"system": f"{TERMINOLOGY}/v2-0074", "code": "LAB"}]}]
    else:
        resource["category"] = [{"text": "exam"}]
    resource["code"] = _code(his_system(hospital.id, "report-code"), record.code, record.name or record.kind.value)
    resource["subject"] = reference("Patient", patient_id)
    if record.effective_at is not None:
        resource["effectiveDateTime"] = date_time(record.effective_at, view.zone)
    if record.issued_at is not None:
        resource["issued"] = date_time(record.issued_at, view.zone)
    if record.interpreter:
        resource["resultsInterpreter"] = [{"display": record.interpreter}]
    if record.observations:
        resource["result"] = [
            reference("Observation", f"{fhir_id}.{n}", o.name or None) for n, o in enumerate(record.observations, 1)
        ]
    if record.conclusion:
        resource["conclusion"] = record.conclusion
    if record.attachments:
        resource["presentedForm"] = _documents(view, row, patient_id)
    return resource


def _documents(view: View, row: ReportRow, patient_id: str) -> list[dict[str, Any]]:
    of = f"{view.origin}/v1/hospitals/{view.hospital.id}/patients/{patient_id}/reports/{row.id}/attachments"
    told = []
    for n, attachment in enumerate(row.record.attachments, 1):
        document = {"contentType": " ".join(attachment.content_type.split()), "url": f"{of}/{n}"}
        told.append({**document, "title": attachment.title} if attachment.title else document)
    return told


def observation_resources(view: View, row: ReportRow, patient_id: str) -> list[Resource]:
    """The lines of a report."""
    return [_observation(view, row, patient_id, n, o) for n, o in enumerate(row.record.observations, 1)]


def _observation(view: View, row: ReportRow, patient_id: str, n: int, told: Observation) -> Resource:
    resource: Resource = {
        "resourceType": "Observation",
        "id": f"{row_id_to_fhir(row.id)}.{n}",
        "status": OBSERVATION_STATUS[told.status],
        "code": _code(his_system(view.hospital.id, "observation-code"), told.code, told.name),
        "subject": reference("Patient", patient_id),
    }
    observed_at = told.observed_at or row.record.effective_at
    if observed_at is not None:
        resource["effectiveDateTime"] = date_time(observed_at, view.zone)
    if row.record.issued_at is not None:
        resource["issued"] = date_time(row.record.issued_at, view.zone)
    resource.update(_value(told))
    if told.flag:
        resource["interpretation"] = [_interpretation(told.flag)]
    if told.note:
        resource["note"] = [{"text": told.note}]
    if told.reference_range:
        resource["referenceRange"] = [{"text": told.reference_range}]
    return resource


def _value(told: Observation) -> dict[str, Any]:
    """A number as a Quantity with the digits that the hospital gave, anything else as a text."""
    if not told.value:
        return {}
    if not _DECIMAL.fullmatch(told.value):
        return {"valueString": f"{told.value} {told.unit}" if told.unit else told.value}
    quantity: dict[str, Any] = {"value": msgspec.Raw(told.value.encode())}
    return {"valueQuantity": {**quantity, "unit": told.unit} if told.unit else quantity}


def _interpretation(flag: str) -> dict[str, Any]:
    if flag not in _FLAGS:
        return {"text": flag}
    return {"coding": [{"system": f"{TERMINOLOGY}/v3-ObservationInterpretation", "code": flag}]}


def _code(system: str, code: str | None, name: str) -> dict[str, Any]:
    told: dict[str, Any] = {"coding": [{"system": system, "code": code}]} if code else {}
    return {**told, "text": name or code or "unnamed"}
