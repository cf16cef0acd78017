"""The CapabilityStatement tells what is there, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from booking.api.fhir.search.fits import LOOKS
from booking.api.fhir.search.tables import KINDS
from tests.booking.api.fhir.site import FhirSite

TYPES = {
    "Slot", "Schedule", "Appointment", "Patient", "Practitioner", "PractitionerRole", "HealthcareService", "Location",
    "DiagnosticReport", "Observation",
}  # fmt: skip


@pytest.fixture
async def statement(site: FhirSite) -> Any:
    answer = await site.ask("metadata", by=None)
    assert answer.status == 200
    return answer.json


async def test_statement_tells_version_and_types_when_asked_without_a_key(statement: dict[str, Any]) -> None:
    assert statement["fhirVersion"] == "4.0.1"
    assert statement["kind"] == "instance"
    assert "application/fhir+json" in statement["format"]
    assert {r["type"] for r in statement["rest"][0]["resource"]} == TYPES
    for resource in statement["rest"][0]["resource"]:
        assert {i["code"] for i in resource["interaction"]} >= {"read", "search-type"}


async def test_every_operation_is_defined_when_it_is_told(statement: dict[str, Any]) -> None:
    appointment = next(r for r in statement["rest"][0]["resource"] if r["type"] == "Appointment")
    assert {i["code"] for i in appointment["interaction"]} == {"read", "vread", "search-type", "update"}
    assert {o["name"] for o in appointment["operation"]} == {"find", "hold", "book"}


async def test_every_parameter_and_include_is_answered_when_it_is_told(
    site: FhirSite, statement: dict[str, Any]
) -> None:
    for kind in KINDS.values():
        needed = "patient=x&" if kind.scope == "reports" else ""
        for sort in kind.sorts:
            answer = await site.ask(f"{kind.name}?{needed}_sort={sort}", headers={"Prefer": "handling=strict"})
            assert answer.status == 200, sort
            assert f"_sort={sort}" in str(answer.link("self"))
    values = {"token": "x", "reference": "x", "date": "2031-03-04", "string": "x"}
    for resource in statement["rest"][0]["resource"]:
        kind = resource["type"]
        needed = "_id=x&" if kind in ("Patient", "DiagnosticReport", "Observation") else ""
        for parameter in resource["searchParam"]:
            query = f"{kind}?{needed}{parameter['name']}={values[parameter['type']]}"
            answer = await site.ask(query, headers={"Prefer": "handling=strict"})
            assert answer.status == 200, query
            assert parameter["name"] in str(answer.link("self"))
        for include in resource.get("searchInclude", ()):
            answer = await site.ask(f"{kind}?_id=x&_include={include}", headers={"Prefer": "handling=strict"})
            assert answer.status == 200, include


def test_every_parameter_has_a_way_to_look_when_it_is_in_the_tables() -> None:
    offered = {(kind.name, name) for kind in KINDS.values() for name in kind.parameters}
    chained = {("Appointment", "patient.identifier"), ("Appointment", "practitioner.identifier")}  # `without_chains`
    assert offered - set(LOOKS) == {("Slot", "schedule.actor"), *chained}  # looked at by `slots` itself


async def test_statement_is_of_the_hospital_when_its_base_is_asked(site: FhirSite) -> None:
    answer = await site.ask("/fhir/R4/hospitals/h1/metadata", by=None)
    assert answer.json["implementation"]["url"].endswith("/fhir/R4/hospitals/h1")
    assert (await site.ask("/fhir/R4/hospitals/h9/metadata", by=None)).status == 404
    again = await site.ask("/fhir/R4/hospitals/h1/metadata", by=None, headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status == 304
