"""The API against its own description: the OpenAPI document is valid, complete and kept to by the running service."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import Any

import hypothesis
import pytest
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from booking.api.problems import PROBLEMS
from tests.acceptance.installation import KEY, Installation, lay_out, run_process

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = 20
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    async with lay_out(tmp_path_factory.mktemp("contract")) as laid_out, run_process(laid_out):
        yield laid_out


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def document(site: Installation) -> dict[str, Any]:
    return await site.portal(None).get("/openapi.json")


class Page(HTMLParser):
    """Every address that a page names, every id, and its style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("href", "src", "srcset", "action", "data", "poster") and value:
                self.addresses.append(value)
            if name == "id" and value:
                self.ids.add(value)


async def page(site: Installation, path: str) -> tuple[Page, str]:
    answer = await site.portal(None).call("GET", path)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    html = answer.data.decode()
    return Page(html), html


# --- the document --------------------------------------------------------------------------------------------------


async def test_document_is_valid_openapi_when_fetched(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    schemathesis.openapi.from_dict(document).validate()
    with pytest.raises(ValueError, match="version"):
        schemathesis.openapi.from_dict({**document, "info": {"title": 7}}).validate()


async def test_lists_that_say_so_are_not_sent_twice_when_nothing_has_changed(
    site: Installation, document: dict[str, Any]
) -> None:
    tagged = {
        path for path, methods in document["paths"].items() if "304" in methods.get("get", {}).get("responses", {})
    }
    assert {path.rpartition("/")[2] for path in tagged} == {"hospitals", "departments", "practitioners", "slots"}
    await site.fetched("soap-demo")
    for path in tagged:
        address = path.replace("{hospital_id}", "soap-demo")
        etag = (await site.portal().call("GET", address)).headers["ETag"]
        again = await site.portal().call("GET", address, headers={"If-None-Match": etag})
        assert (again.status, again.headers["ETag"], again.data) == (304, etag, b"")


async def test_document_has_the_whole_api_when_compared_with_the_design(document: dict[str, Any]) -> None:
    of = "/v1/hospitals/{hospital_id}"
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described >= {
        ("GET", "/v1/hospitals"),
        ("GET", f"{of}/departments"),
        ("GET", f"{of}/practitioners"),
        ("GET", f"{of}/slots"),
        ("POST", f"{of}/patients"),
        ("GET", f"{of}/patients/{{patient_id}}"),
        ("POST", f"{of}/bookings"),
        ("GET", f"{of}/bookings"),
        ("GET", f"{of}/bookings/{{booking_id}}"),
        ("POST", f"{of}/bookings/{{booking_id}}/payments"),
        ("POST", f"{of}/bookings/{{booking_id}}/cancel"),
        ("GET", f"{of}/patients/{{patient_id}}/bills"),
        ("GET", f"{of}/patients/{{patient_id}}/bills/{{bill_id}}"),
        ("POST", f"{of}/patients/{{patient_id}}/bills/{{bill_id}}/payments"),
        ("GET", f"{of}/refunds/{{refund_id}}"),
        ("POST", f"{of}/refunds/{{refund_id}}/result"),
        ("GET", f"{of}/patients/{{patient_id}}/reports"),
        ("GET", f"{of}/patients/{{patient_id}}/reports/{{report_id}}"),
        ("GET", f"{of}/patients/{{patient_id}}/reports/{{report_id}}/attachments/{{n}}"),
        ("PUT", f"{of}/merchant-bills/{{date}}"),
        ("PUT", f"{of}/merchant-bills/{{date}}/{{source}}"),
        ("GET", f"{of}/reconciliations/{{date}}"),
        ("GET", "/v1/events"),
        ("POST", "/v1/webhooks"),
        ("GET", "/v1/webhooks"),
        ("DELETE", "/v1/webhooks/{webhook_id}"),
    }


# --- the pages -----------------------------------------------------------------------------------------------------


async def test_pages_need_no_network_when_read(site: Installation) -> None:
    for path in ("/docs", "/docs/errors"):
        parsed, html = await page(site, path)
        assert parsed.addresses
        for address in parsed.addresses:
            assert re.match(r"#|/(?!/)", address), address
        assert not parsed.tags & {"script", "link", "iframe", "img", "object", "embed"}
        assert not re.search(r"url\(|@import|https?://(?!json-schema)", html), path


async def test_every_operation_and_link_leads_somewhere_when_followed(
    site: Installation, document: dict[str, Any]
) -> None:
    docs, html = await page(site, "/docs")
    errors, _ = await page(site, "/docs/errors")
    for path in document["paths"]:
        shown = html.replace("<var>", "").replace("</var>", "")
        assert path in shown
    for address in docs.addresses + errors.addresses:
        target, _, anchor = address.partition("#")
        if target in ("", "/docs", "/docs/errors"):
            assert anchor == "" or anchor in docs.ids | errors.ids, address
        else:
            assert (await site.portal(None).call("GET", target)).status == 200, address


async def test_every_code_is_documented_when_it_can_be_answered(site: Installation, document: dict[str, Any]) -> None:
    errors, html = await page(site, "/docs/errors")
    listed = {
        code
        for methods in document["paths"].values()
        for operation in methods.values()
        for response in operation["responses"].values()
        for code in response.get("content", {})
        .get("application/problem+json", {})
        .get("schema", {})
        .get("properties", {})
        .get("code", {})
        .get("enum", ())
    }
    assert len(listed) > 30
    assert listed <= set(PROBLEMS)
    assert set(PROBLEMS) <= errors.ids
    for problem in PROBLEMS.values():
        row = html[html.index(f"id='{problem.code}'") :].partition("</tr>")[0]
        assert str(problem.status) in row
        assert problem.title_zh in row


# --- the service ---------------------------------------------------------------------------------------------------


async def known_ids(site: Installation) -> dict[str, list[str]]:
    """Ids of things that exist at soap-demo, so that generated requests get past 404."""
    clinic, portal, of = site.clinics["soap-demo"], site.portal(), "/v1/hospitals/soap-demo"
    booked = await site.booked("soap-demo")
    patient_id = str(booked["patient_id"])
    mrn = (await clinic.state())["people"][-1]["mrn"]
    await clinic.do("/bill", {"mrn": mrn, "items": [{"name": "血常规", "amount_fen": 2500}]})
    await clinic.do("/report", {"mrn": mrn})
    bills = await portal.get(f"{of}/patients/{patient_id}/bills")
    reports = await portal.get(f"{of}/patients/{patient_id}/reports")
    cancelled = await site.booked("soap-demo")
    await site.cancel("soap-demo", cancelled)
    over = await site.becomes("soap-demo", cancelled, state="cancelled", payment_state="refund_due")
    return {
        "patient_id": [patient_id],
        "booking_id": [str(booked["id"]), str(cancelled["id"])],
        "bill_id": [str(b["id"]) for b in bills["items"]],
        "report_id": [str(r["id"]) for r in reports["items"]],
        "refund_id": [str(r["id"]) for r in over["refunds"]],
        "slot_id": [str(s["id"]) for s in await site.open_slots("soap-demo")],
        "hospital_id": ["soap-demo"],
    }


def with_ids(document: dict[str, Any], ids: dict[str, list[str]]) -> dict[str, Any]:
    """The document for generating requests: what names something is one of `ids`, or made up; webhooks stay here."""
    changed: dict[str, Any] = schemathesis.openapi.from_dict(document).raw_schema
    for methods in changed["paths"].values():
        for operation in methods.values():
            for parameter in operation["parameters"]:
                if parameter["in"] == "path" and parameter["name"] in ids:
                    parameter["schema"] = {"type": "string", "enum": [*ids[parameter["name"]], "made-up"]}
    schemas = changed["components"]["schemas"]
    schemas["NewBooking"]["properties"]["slot_id"] = {"enum": [*ids["slot_id"][:5], "made-up"]}
    schemas["NewBooking"]["properties"]["patient_id"] = {"enum": [*ids["patient_id"], "made-up"]}
    schemas["NewWebhook"]["properties"]["url"] = {"enum": ["http://127.0.0.1:9/hook"]}
    return changed


def request_often(
    operation: schemathesis.APIOperation[Any, Any, Any, Any],
    base_url: str,
    mode: GenerationMode,
    answered: set[tuple[str, int]],
) -> None:
    """EXAMPLES requests to one operation, each answer checked. Raises what the checks found, as a group."""

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case[Any]) -> None:
        headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": uuid.uuid4().hex}
        case.query.pop("wait_s", None)  # a long poll that waits a minute tells nothing more
        response = case.call_and_validate(base_url=base_url, headers=headers, checks=CHECKS, timeout=20)
        answered.add((operation.label, response.status_code))

    check()


def exercise(document: dict[str, Any], base_url: str, mode: GenerationMode) -> tuple[list[str], set[tuple[str, int]]]:
    """Generated requests to every operation; what was wrong, and which operation answered with which status."""
    failures: list[str] = []
    answered: set[tuple[str, int]] = set()
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if not operation.path.startswith("/v1/") or (mode == GenerationMode.NEGATIVE and not operation.body):
            continue
        try:
            request_often(operation, base_url, mode, answered)
        except* Exception as group:
            failures += [f"{operation.label}: {error}" for error in group.exceptions]
    return failures, answered


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.timeout(300)
async def test_answers_are_as_described_when_requests_are_generated(
    site: Installation, document: dict[str, Any], mode: GenerationMode
) -> None:
    """No 5xx, no status, content type, header or body that the document does not foresee."""
    described = with_ids(document, await known_ids(site))
    failures, answered = await asyncio.to_thread(exercise, described, site.base_url, mode)
    assert not failures, "\n\n".join(failures)
    reached = {label for label, _ in answered}
    if mode == GenerationMode.POSITIVE:
        assert len(reached) >= 23
        assert len({label for label, status in answered if status < 300}) >= 18, sorted(answered)
    else:
        assert len(reached) >= 8
        assert {status for _, status in answered} >= {422}
