"""Reports whose results and documents are kept apart, and departments and bills that name other resources."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from connectors.fhir.documents import Document
from connectors.fhir.reports import missing_results
from mappings.canonical import Attachment, Patient
from tests.connectors.fhir.fhir_hospital import STATEMENT, canned, connected, fhir_json
from tests.connectors.fhir.test_fhir_replies import bundle, outcome

PATIENT = Patient(name="张伟", mrn="P1")


def report(number: str, *results: str, **changes: Any) -> dict[str, Any]:
    return {
        "resourceType": "DiagnosticReport",
        "id": number,
        "status": "final",
        "code": {"text": "血常规"},
        "subject": {"reference": "Patient/P1"},
        "result": [{"reference": one} for one in results],
        **changes,
    }


def observation(number: str, **changes: Any) -> dict[str, Any]:
    code = {"text": f"line {number}"}
    return {"resourceType": "Observation", "id": number, "status": "final", "code": code, "valueString": "1", **changes}


def document(number: str, of: str, **changes: Any) -> dict[str, Any]:
    attachment = {"contentType": "application/pdf", "title": number, "url": f"Binary/{number}"}
    return {
        "resourceType": "DocumentReference",
        "id": number,
        "status": "current",
        "context": {"related": [{"reference": "Encounter/e"}, {"reference": of}]},
        "content": [{"attachment": attachment}],
        **changes,
    }


def declaring(*kinds: str) -> dict[str, Any]:
    resources = [{"type": kind, "interaction": [{"code": "search-type"}]} for kind in kinds]
    return {**STATEMENT, "rest": [{"mode": "server", "resource": resources}]}


class Server:
    """Answers each search with the resources of its type, and includes nothing. `asked` are the searches."""

    def __init__(self, **kept: list[dict[str, Any]]) -> None:
        self.kept = kept
        self.asked: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        kind = request.path.rpartition("/")[2]
        self.asked.append(kind)
        wanted = request.query.get("_id")
        found = [one for one in self.kept.get(kind, []) if wanted is None or one["id"] in wanted.split(",")]
        return bundle(*found)


async def test_results_are_asked_for_when_the_server_does_not_include_them() -> None:
    lines = [observation(str(number)) for number in range(120)]
    server = Server(
        DiagnosticReport=[report("r1", *(f"Observation/{n}" for n in range(100))), report("r2", "Observation/110/_history/3")],
        Observation=lines,
    )  # fmt: skip
    async with canned(server.handle) as base_url, connected(base_url) as connector:
        first, second = await connector.fetch_reports(PATIENT)
    assert [one.name for one in first.observations] == [f"line {n}" for n in range(100)]
    assert [one.name for one in second.observations] == ["line 110"]
    assert server.asked == ["DiagnosticReport", "Observation", "Observation", "Observation"]  # 50 at once


async def test_nothing_more_is_asked_for_when_all_results_are_there() -> None:
    contained = report("r1", "#c", contained=[observation("c")])
    server = Server(DiagnosticReport=[contained, report("r2", "Observation/7"), observation("7")])
    async with canned(server.handle) as base_url, connected(base_url) as connector:
        found = await connector.fetch_reports(PATIENT)
    assert [[line.name for line in one.observations] for one in found] == [["line c"], ["line 7"]]
    assert server.asked == ["DiagnosticReport"]


@pytest.mark.parametrize(
    "result",
    [7, {"reference": 7}, {"reference": "Observation/"}, {"reference": "Observation/a,b"}, {"reference": "Patient/1"},
     {"reference": "http://other.example/Observation/1"}, {"reference": "Observation/a/b"}],
)  # fmt: skip
def test_a_result_is_not_asked_for_when_its_reference_names_none_of_this_server(result: Any) -> None:
    odd = {"resourceType": "DiagnosticReport", "id": "r", "result": [result]}
    assert missing_results(Document.of([{"resource": odd}])) == []


async def test_documents_belong_to_the_report_that_they_name_when_the_server_has_the_type() -> None:
    server = Server(
        DiagnosticReport=[report("r1"), report("r2")],
        DocumentReference=[document("d1", "DiagnosticReport/r2"), document("d2", "DiagnosticReport/unknown")],
    )
    statement = declaring("DiagnosticReport", "DocumentReference")
    async with canned(server.handle, statement=statement) as base_url, connected(base_url) as connector:
        first, second = await connector.fetch_reports(PATIENT)
    assert first.attachments == ()
    assert second.attachments == (Attachment(content_type="application/pdf", title="d1", url="Binary/d1"),)


async def test_documents_are_not_asked_for_when_the_server_does_not_declare_them() -> None:
    server = Server(DiagnosticReport=[report("r1")], DocumentReference=[document("d1", "DiagnosticReport/r1")])
    async with canned(server.handle, statement=declaring("Appointment")) as base_url, connected(base_url) as connector:
        assert [one.attachments for one in await connector.fetch_reports(PATIENT)] == [()]
    assert server.asked == ["DiagnosticReport"]


async def test_reports_are_there_when_their_documents_are_refused() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/DocumentReference"):
            return web.Response(status=403, body=b"", content_type="application/fhir+json")
        return bundle(report("r1"))

    async with canned(handle, statement=declaring("DocumentReference")) as base_url, connected(base_url) as connector:
        assert [one.id for one in await connector.fetch_reports(PATIENT)] == ["r1"]


async def test_campus_is_the_organization_when_a_department_has_no_place() -> None:
    service = {"resourceType": "HealthcareService", "id": "100", "name": "内科"}
    owner = {"resourceType": "Organization", "id": "o", "name": "东院"}
    provided = {**service, "providedBy": {"reference": "Organization/o"}}
    place = {"resourceType": "Location", "id": "l", "name": "西院"}
    placed = {**provided, "id": "200", "location": [{"reference": "Location/l"}]}

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.query.getall("_include") == ["HealthcareService:location", "HealthcareService:organization"]
        return bundle(provided, placed, owner, place)

    async with canned(handle) as base_url, connected(base_url, validation="strict") as connector:
        assert [one.campus for one in await connector.fetch_departments()] == ["东院", "西院"]


@pytest.mark.parametrize(
    ("profile", "version", "element"), [("fhir_r4", "4.0.1", "context"), ("fhir_r5", "5.0.0", "encounter")]
)
async def test_bill_tells_its_account_and_encounter_when_its_items_do(profile: str, version: str, element: str) -> None:
    money = {"value": 25, "currency": "CNY"}
    invoice = {
        "resourceType": "Invoice",
        "id": "i",
        "status": "issued",
        "subject": {"reference": "Patient/P1"},
        "account": {"reference": "Account/a"},
        "lineItem": [
            {
                "chargeItemReference": {"reference": "ChargeItem/c"},
                "priceComponent": [{"type": "base", "amount": money}],
            }
        ],
        "totalGross": money,
    }
    account = {"resourceType": "Account", "id": "a", "status": "active", "name": "门诊 2026-01-05"}
    item = {
        "resourceType": "ChargeItem",
        "id": "c",
        "status": "billable",
        "code": {"text": "血常规"},
        "subject": {"reference": "Patient/P1"},
        element: {"reference": "Encounter/E7"},
        "performingOrganization": {"display": "检验科"},
    }

    async def handle(request: web.Request) -> web.StreamResponse:
        return bundle(item) if request.path.endswith("/ChargeItem") else bundle(invoice, account)

    statement = {**STATEMENT, "fhirVersion": version}
    async with (
        canned(handle, statement=statement) as base_url,
        connected(base_url, profile=f"{profile}@1", validation="strict") as connector,
    ):
        [bill] = await connector.fetch_bills(PATIENT)
    assert (bill.title, bill.encounter_no, bill.department_name) == ("门诊 2026-01-05", "E7", "检验科")
    assert bill.his_refs == {"invoice": "i", "account": "Account/a"}
    assert [(one.name, one.amount_fen) for one in bill.items] == [("血常规", 2500)]


async def test_report_comes_without_results_when_the_server_refuses_to_search_them() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/Observation"):
            return fhir_json(web.json_response(outcome("error", "not-supported")).text or "", 400)
        return bundle(report("r1", "Observation/1"))

    async with canned(handle) as base_url, connected(base_url) as connector:
        [found] = await connector.fetch_reports(PATIENT)
    assert (found.id, found.observations) == ("r1", ())
