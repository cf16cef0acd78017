"""Reports: DiagnosticReports with their results and documents, wherever the server keeps these.

Results come with the search (`_include`), inside the report (`contained`), or are asked for by their ids where a server does not
include them; where it refuses that, the report comes without. A DocumentReference that names a report (R4 `context.related`)
brings further attachments of it; they are asked for only where the server declares that it has the type.
"""

from __future__ import annotations

from typing import Any

import msgspec

from connectors.fhir.deadlines import Deadline
from connectors.fhir.documents import Document, Json, without_history
from connectors.fhir.exchange import Exchange
from connectors.port import HisError, HisRefused, HisReplyInvalid
from mappings.canonical import Patient, Report

AT_ONCE = 50
"""Ids in one search: a URL should have no more than 2,000 characters or so."""
MOST_RESULTS = 2_000
_RESULTS, _DOCUMENTS = "fetch_reports.results", "fetch_reports.documents"


async def fetch_reports(exchange: Exchange, patient: Patient, deadline: Deadline) -> list[Report]:
    """All reports of a patient."""
    return await _found(exchange, patient, _request(patient), deadline)


async def fetch_report(exchange: Exchange, patient: Patient, report_id: str, deadline: Deadline) -> Report | None:
    """One report of this patient by its number: its identifier, or its resource id where it has none."""
    for key in ("report_id", "report_resource"):
        for report in await _found(exchange, patient, _request(patient, **{key: report_id}), deadline):
            if report.id == report_id:
                return report
    return None


async def _found(exchange: Exchange, patient: Patient, request: dict[str, Any], deadline: Deadline) -> list[Report]:
    call = exchange.calls["fetch_reports"]
    document = await exchange.search(call, request, deadline)
    missing = missing_results(document)
    if missing and _RESULTS in exchange.calls:
        entries: list[Json] = list(document["entry"])
        for start in range(0, min(len(missing), MOST_RESULTS), AT_ONCE):
            ids = ",".join(missing[start : start + AT_ONCE])
            try:
                more = await exchange.search(exchange.calls[_RESULTS], {"result_ids": ids}, deadline)
            except (HisRefused, HisReplyInvalid) as error:
                exchange.warn("fhir_results_not_read", reason=str(error))
                break
            entries += more["entry"]
        document = Document.of(entries, document.left_out)
    reports = await exchange.map_all(call, document)
    return await _with_documents(exchange, patient, reports, deadline) if reports else reports


def missing_results(document: Document) -> list[str]:
    """The ids of Observations that reports of a document refer to by `Observation/id`, and that are not in it."""
    missing: dict[str, None] = {}
    for entry in document["entry"]:
        resource = entry["resource"]
        results = resource.get("result") if resource.get("resourceType") == "DiagnosticReport" else None
        for result in results if isinstance(results, list) else ():
            reference = result.get("reference") if isinstance(result, dict) else None
            if isinstance(reference, str) and reference.startswith("Observation/") and document.find(reference) is None:
                missing[without_history(reference).removeprefix("Observation/")] = None
    return [one for one in missing if one and "," not in one and "/" not in one]


async def _with_documents(
    exchange: Exchange, patient: Patient, reports: list[Report], deadline: Deadline
) -> list[Report]:
    """The same with the attachments of documents that name them. A search for these that fails costs the reports nothing."""
    statement = await exchange.statements.known(deadline)
    if _DOCUMENTS not in exchange.calls or statement is None or "DocumentReference" not in statement.searched:
        return reports
    call = exchange.calls[_DOCUMENTS]
    try:
        documents: list[Report] = await exchange.map_all(call, await exchange.search(call, patient, deadline))
    except HisError as error:
        exchange.warn("fhir_documents_not_read", reason=str(error))
        return reports
    of_report: dict[str, list[Any]] = {}
    for document in documents:
        named = without_history(document.his_refs.get("report", "")).rpartition("/")[2]
        of_report.setdefault(named, []).extend(document.attachments)
    return [
        msgspec.structs.replace(report, attachments=(*report.attachments, *more))
        if (more := of_report.get(report.his_refs.get("report", "")))
        else report
        for report in reports
    ]


def _request(patient: Patient, **number: str) -> dict[str, Any]:
    """What the requests for reports read: the patient's fields, and `report_id` or `report_resource` for a single one."""
    return {**{field: getattr(patient, field) for field in patient.__struct_fields__}, **number}
