"""Where the facade is, who may ask it, in which format, and how it says no."""

from __future__ import annotations

import pytest

from booking.api.admission import LONGEST_ID
from booking.api.application import ApiOptions
from booking.api.fhir.outcomes import ISSUES
from booking.api.problems import PROBLEMS
from booking.settings import Hospital
from booking.store.engine import Store
from tests.booking.api.fhir.site import FhirSite, serve_fhir
from tests.booking.world import make_hospital, put_slot

JSON = "application/fhir+json"
# http://hl7.org/fhir/R4/valueset-issue-type.html
ISSUE_TYPES = {
    "invalid", "structure", "required", "value", "invariant", "security",
    "login", "unknown", "expired", "forbidden", "suppressed", "processing",
    "not-supported", "duplicate", "multiple-matches", "not-found", "deleted", "too-long",
    "code-invalid", "extension", "too-costly", "business-rule", "conflict", "transient",
    "lock-error", "no-store", "exception", "timeout", "incomplete", "throttled",
    "informational",
}  # fmt: skip


def test_every_problem_has_an_issue_type_of_the_standard() -> None:
    assert set(ISSUES) == set(PROBLEMS)
    assert {issue.code for issue in ISSUES.values()} <= ISSUE_TYPES
    assert {issue.severity for issue in ISSUES.values()} <= {"fatal", "error", "warning", "information"}


async def test_slot_has_its_place_under_both_bases_when_key_is_for_one_hospital(site: FhirSite) -> None:
    slot_id = await put_slot(site.store)
    fhir_id = slot_id.replace("_", "-")
    short = await site.ask(f"/fhir/R4/Slot/{fhir_id}")
    long = await site.ask(f"/fhir/R4/hospitals/h1/Slot/{fhir_id}")
    assert short.status == long.status == 200
    assert short.json == long.json
    assert short.json["id"] == fhir_id


async def test_hospital_must_be_named_when_key_is_for_several(store: Store, hospital: Hospital) -> None:
    slot_id = (await put_slot(store)).replace("_", "-")
    async with serve_fhir(store, hospital, make_hospital(id="h2")) as site:
        answer = await site.ask(f"Slot/{slot_id}", by="both")
        assert (answer.status, answer.code) == (400, "hospital_ambiguous")
        assert (await site.ask(f"/fhir/R4/hospitals/h1/Slot/{slot_id}", by="both")).status == 200
        assert (await site.ask(f"Slot/{slot_id}", by="one")).status == 200
        elsewhere = await site.ask(f"/fhir/R4/hospitals/h2/Slot/{slot_id}", by="one")
        assert (elsewhere.status, elsewhere.code) == (403, "forbidden_hospital")
        assert (await site.ask(f"/fhir/R4/hospitals/h2/Slot/{slot_id}", by="both")).status == 404  # h1's slot


@pytest.mark.parametrize(
    ("path", "by", "status", "code"),
    [
        ("Nothing", "portal", 404, "not_found"),
        ("hospitals/h9/Slot/s", "portal", 404, "hospital_unknown"),
        ("Slot/s", "portal", 404, "resource_unknown"),
        ("Slot/" + "x" * (LONGEST_ID + 1), "portal", 404, "resource_unknown"),
        ("Slot/s", None, 401, "unauthenticated"),
        ("Slot/s", "nobody", 401, "unauthenticated"),
        ("Slot/s", "reader", 403, "forbidden_scope"),
        ("Slot/s?_format=xml", "portal", 406, "not_acceptable"),
        ("Slot/s?x=%ff", "portal", 400, "invalid_field"),
        ("Slot/%00", "portal", 404, "not_found"),
    ],
)
async def test_refusal_is_an_operation_outcome_when_request_cannot_be_answered(
    site: FhirSite, path: str, by: str | None, status: int, code: str
) -> None:
    answer = await site.ask(path, by=by)
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["Content-Type"] == JSON


async def test_method_is_refused_with_those_that_are_offered_when_there_is_no_such(site: FhirSite) -> None:
    answer = await site.ask("Slot/s", "DELETE")
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert "GET" in answer.headers["Allow"]


async def test_limit_is_told_as_an_outcome_when_it_is_reached(store: Store, hospital: Hospital) -> None:
    async with serve_fhir(store, hospital, options=ApiOptions(client_rate_per_s=0.01, client_burst=1)) as site:
        assert (await site.ask("Slot/s")).status == 404
        answer = await site.ask("Slot/s")
        assert (answer.status, answer.code) == (429, "rate_limited")
        assert answer.json["issue"][0]["code"] == "throttled"
        assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("accept", "query", "offered"),
    [
        ("application/fhir+json", "", True),
        ("application/fhir+json; fhirVersion=4.0", "", True),
        ("application/fhir+json; fhirVersion=5.0", "", False),
        ("application/fhir+xml", "", False),
        ("application/fhir+xml, application/fhir+json;q=0.5", "", True),
        ("application/fhir+json;q=0", "", False),
        ("text/html", "", False),
        ("text/html, */*;q=0.1", "", True),
        ("text/html", "?_format=json", True),
        ("text/html", "?_format=application/fhir+json", True),  # a `+` that was not encoded
        ("text/html", "?_format=application%2Ffhir%2Bjson%3B+fhirVersion%3D4.0", True),
        ("application/fhir+json", "?_format=application/fhir%2Bxml", False),
        ("application/fhir+json, " + "x" * 2_000, "", False),  # nobody needs so many words for it
    ],
)
async def test_format_is_negotiated_when_accept_or_format_ask_for_one(
    site: FhirSite, accept: str, query: str, offered: bool
) -> None:
    slot_id = (await put_slot(site.store)).replace("_", "-")
    answer = await site.ask(f"Slot/{slot_id}{query}", headers={"Accept": accept})
    assert answer.status == (200 if offered else 406)
    assert answer.headers["Content-Type"] == JSON


@pytest.mark.parametrize(
    ("accept", "query", "form", "offered"),
    [
        ("text/html", "", "_format=json", True),
        ("application/fhir+json", "", "_format=xml", False),
        ("text/html", "", "status=free", False),
        ("text/html", "?_format=json", "status=free", True),
    ],
)
async def test_format_of_a_form_counts_more_than_accept(
    site: FhirSite, accept: str, query: str, form: str, offered: bool
) -> None:
    headers = {"Accept": accept, "Content-Type": "application/x-www-form-urlencoded"}
    answer = await site.ask(f"Slot/_search{query}", "POST", form.encode(), headers=headers)
    assert answer.status == (200 if offered else 406)


async def test_read_is_304_when_nothing_has_changed(site: FhirSite) -> None:
    slot_id = (await put_slot(site.store)).replace("_", "-")
    first = await site.ask(f"Slot/{slot_id}")
    assert first.headers["ETag"] == f'W/"{first.json["meta"]["versionId"]}"'
    again = await site.ask(f"Slot/{slot_id}", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    assert (await site.ask(f"Slot/{slot_id}", headers={"If-None-Match": 'W/"other"'})).status == 200


async def test_present_version_is_read_by_its_id_and_no_other(site: FhirSite) -> None:
    """R4 http.html#vread: the present version alone; of an earlier one 404 with an outcome that says so."""
    slot_id = (await put_slot(site.store)).replace("_", "-")
    version = (await site.ask(f"Slot/{slot_id}")).json["meta"]["versionId"]
    assert (await site.ask(f"Slot/{slot_id}/_history/{version}")).json["id"] == slot_id
    earlier = await site.ask(f"Slot/{slot_id}/_history/1")
    assert (earlier.status, earlier.code) == (404, "resource_unknown")
    assert "no history" in earlier.issue["diagnostics"]
    for path in (f"Slot/{slot_id}/_history", "Slot/_history", "_history"):
        assert (await site.ask(path)).status == 404


async def test_resources_are_named_by_the_public_address_when_there_is_one(store: Store, hospital: Hospital) -> None:
    slot_id = (await put_slot(store)).replace("_", "-")
    async with serve_fhir(store, hospital, public_url="https://booking.example/api/") as site:
        found = await site.ask(f"Slot?_id={slot_id}")
        assert found.json["entry"][0]["fullUrl"] == f"https://booking.example/api/fhir/R4/Slot/{slot_id}"
        assert str(found.link("self")).startswith("https://booking.example/api/fhir/R4/Slot?")
        assert (await site.ask("metadata")).json["implementation"]["url"] == "https://booking.example/api/fhir/R4"


@pytest.mark.parametrize("host", ["a b", "h/../x", '"><script>', "h@b", "x" * 300])
async def test_host_is_never_told_back_when_it_is_no_host(site: FhirSite, host: str) -> None:
    answer = await site.ask("Slot?_id=x", headers={"Host": host})
    assert answer.status == 200
    assert str(answer.link("self")).startswith("http://localhost/fhir/R4/Slot")


async def test_everything_is_refused_as_an_outcome_when_the_process_is_stopping(site: FhirSite) -> None:
    site.health.start_draining()
    answer = await site.ask("Slot")
    assert (answer.status, answer.code) == (503, "draining")
    assert answer.headers["Retry-After"] == "1"
