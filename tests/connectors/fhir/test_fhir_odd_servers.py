"""Servers that differ in what the standard leaves open, and replies that are no FHIR at all."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from aiohttp import web

from connectors.port import Accepted, HisRefused, HisReplyInvalid, Outcome, Rejected
from mappings.canonical import Patient
from tests.connectors.fhir.fhir_hospital import ORDER_NO, canned, connected, fhir_json
from tests.connectors.fhir.test_fhir_replies import ORDER, bundle, outcome, slot, slots_from


def appointment(status: str = "pending", version: str = "1", **changes: Any) -> dict[str, Any]:
    return {
        "resourceType": "Appointment",
        "id": "a1",
        "meta": {"versionId": version},
        "identifier": [{"system": "urn:hisbridge:order-no", "value": ORDER_NO}],
        "status": status,
        "start": "2026-01-05T08:00:00+08:00",
        "end": "2026-01-05T08:30:00+08:00",
        "participant": [{"actor": {"reference": "Patient/P1"}, "status": "accepted"}],
        **changes,
    }


def patient(number: str, name: str = "张伟") -> dict[str, Any]:
    kind = {"coding": [{"code": "NI"}]}
    return {
        "resourceType": "Patient",
        "id": number,
        "identifier": [{"type": kind, "value": number}, {"system": "urn:no-value"}],
        "name": [{"text": name}],
        "birthDate": "1990-05",
    }


async def cancel_against(*refusals: web.Response) -> tuple[Outcome, list[str]]:
    """A cancellation against a server that first gives `refusals`; the If-Match of each update."""
    matched: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            found = appointment(version=str(len(matched) + 1))
            return bundle(found) if request.path.endswith("/Appointment") else fhir_json(json.dumps(found))
        matched.append(request.headers["If-Match"])
        if len(matched) <= len(refusals):
            return refusals[len(matched) - 1]
        return fhir_json(json.dumps(appointment("cancelled", "9")))

    order = msgspec.structs.replace(ORDER, his_refs={"appointment": "a1"})
    async with canned(handler) as base_url, connected(base_url) as connector:
        return await connector.cancel_registration(order), matched


@pytest.mark.parametrize("status", [412, 409])
async def test_update_is_made_again_on_the_new_version_when_the_old_one_was_gone(status: int) -> None:
    result, matched = await cancel_against(fhir_json(json.dumps(outcome("error", "conflict")), status))
    assert isinstance(result, Accepted)
    assert matched == ['W/"1"', 'W/"2"']


async def test_conflict_is_a_refusal_when_the_server_says_which() -> None:
    refusal = fhir_json(json.dumps(outcome("error", "conflict", "state")), 409)
    result, matched = await cancel_against(refusal)
    assert isinstance(result, Rejected)
    assert (result.code, len(matched)) == ("refused", 1)


async def test_next_slot_is_tried_when_a_plain_server_answers_a_conflict() -> None:
    tried: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        tried.append(body["slot"][0]["reference"])
        if len(tried) == 1:
            return fhir_json(json.dumps(outcome("error", "conflict")), 409)
        return fhir_json(json.dumps({**body, "id": "a1"}), 201)

    seats = msgspec.structs.replace(ORDER.slot, his_refs={"free": "x1 x2"})
    async with canned(handler) as base_url, connected(base_url, profile="fhir_r4@1") as connector:
        result = await connector.book(msgspec.structs.replace(ORDER, slot=seats))
    assert isinstance(result, Accepted)
    assert sorted(tried) == ["Slot/x1", "Slot/x2"]


@pytest.mark.parametrize(
    "flawed",
    [
        appointment(status="banana"),
        appointment(contained=[{"resourceType": "NoSuchType", "id": "c"}]),
        {**appointment(), "status": ["pending"]},
    ],
)
async def test_query_back_fails_when_one_of_its_appointments_cannot_be_read(flawed: dict[str, Any]) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return bundle({**appointment("cancelled"), "id": "a0"}, flawed)

    async with canned(handler) as base_url, connected(base_url) as connector:
        with pytest.raises(HisReplyInvalid):
            await connector.fetch_registration(ORDER)


async def test_patient_of_another_number_is_left_out_when_the_server_ignores_the_parameter() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return bundle(patient("110105194912310038"), patient("11010519491231002X"))

    async with canned(handler) as base_url, connected(base_url) as connector:
        found = await connector.find_patient(Patient(name="张伟", id_number="11010519491231002X"))
    assert [(one.id_number, one.birth_date) for one in found] == [("11010519491231002X", None)]


@pytest.mark.parametrize(
    "reply",
    [
        lambda: fhir_json('{"resourceType": "Bundle", "entry": 7}'),
        lambda: bundle({**slot("1"), "id": {"a": 1}}),
        lambda: bundle({**slot("1"), "resourceType": {"a": 1}}),
        lambda: bundle(slot("1"), next="http://["),
        lambda: fhir_json('{"resourceType": "OperationOutcome", "issue": 7}', 409),
    ],
)
async def test_reply_of_no_known_shape_is_an_error_of_the_port(reply: Any) -> None:
    with pytest.raises((HisReplyInvalid, HisRefused)):
        await slots_from(reply())


async def test_search_ends_when_its_pages_are_too_large_together() -> None:
    async def page(request: web.Request) -> web.StreamResponse:
        number = int(request.query.get("page", "0"))
        service = {"resourceType": "HealthcareService", "id": str(number), "name": "x" * 900}
        return bundle(service, next=f"HealthcareService?page={number + 1}")

    async with canned(page) as base_url, connected(base_url, max_message_bytes=2000) as connector:
        with pytest.raises(HisReplyInvalid, match="taken together"):
            await connector.fetch_departments()


MODIFIED: dict[str, Any] = {"modifierExtension": [{"url": "http://h.example/negated", "valueBoolean": True}]}


@pytest.mark.parametrize(
    "changes",
    [
        MODIFIED,
        {"schedule": {"reference": "Schedule/s", "identifier": MODIFIED}},
        {"contained": [{"resourceType": "Location", "id": "l", **MODIFIED}]},
        {"implicitRules": "http://h.example/rules"},
        {"meta": {"tag": [{"implicitRules": 7}]}},
        {"modifierExtension": 7},
        {"modifierExtension": [{"url": ["http://h.example/negated"]}]},
    ],
)
@pytest.mark.parametrize("mode", ["lenient", "off"])
async def test_resource_is_not_processed_when_something_in_it_changes_its_meaning(
    mode: str, changes: dict[str, Any]
) -> None:
    [merged] = await slots_from(bundle(slot("a"), slot("b", **changes)), validation=mode)
    assert merged.seats_left == 1


async def test_resource_is_processed_when_the_site_understands_its_modifier() -> None:
    understood = {"understood_modifiers": ["http://h.example/negated", "http://h.example/rules"]}
    both = slot("b", implicitRules="http://h.example/rules", **MODIFIED)
    [merged] = await slots_from(bundle(slot("a"), both), connection=understood)
    assert merged.seats_left == 2


async def test_query_back_fails_when_its_appointment_has_a_modifier_that_is_not_understood() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return bundle(appointment(**MODIFIED))

    async with canned(handler) as base_url, connected(base_url, validation="off") as connector:
        with pytest.raises(HisReplyInvalid, match="modifierExtension"):
            await connector.fetch_registration(ORDER)


async def test_element_that_the_models_do_not_know_is_ignored_when_not_strict() -> None:
    odd = bundle(slot("a", favouriteColour="blue"))
    assert [item.seats_left for item in await slots_from(odd)] == [1]
    with pytest.raises(HisReplyInvalid, match="favouriteColour"):
        await slots_from(bundle(slot("a", favouriteColour="blue")), validation="strict")
