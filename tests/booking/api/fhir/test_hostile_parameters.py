"""Any bytes as Parameters give a defined answer: an OperationOutcome, no crash, nothing of them repeated."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booking.api.codec import decode_body
from booking.api.fhir.parameters import Given, ParametersIn
from booking.api.problems import ApiProblem
from tests.booking.api.fhir.calling import fhir_patient, parameters
from tests.booking.api.fhir.site import FhirSite
from tests.booking.world import put_patient, put_slot, remaining

EVIL = "<script>alert(1)</script>"
DEEP = (
    b'{"resourceType":"Parameters","parameter":[{"name":"appointment-resource","resource":' + b'{"a":' * 100_000 + b"1"
)
WIDE = {"resourceType": "Parameters", "parameter": [{"name": "comment", "valueString": "x"}] * 101}


@pytest.mark.parametrize("operation", ["find", "hold", "book"])
@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        (b"", {400}),
        (b"null", {400}),
        (b"[]", {400}),
        (b"\xff\xfe", {400}),
        (b"<Parameters xmlns='http://hl7.org/fhir'/>", {400}),
        (b'{"resourceType":"Bundle"}', {400}),
        (b'{"resourceType":"Parameters","parameter":{}}', {400}),
        (b'{"resourceType":"Parameters","parameter":[null]}', {400}),
        (b'{"resourceType":"Parameters","parameter":[{}]}', {400}),
        (b'{"resourceType":"Parameters","parameter":[{"name":7}]}', {400}),
        (b'{"resourceType":"Parameters"}', {400}),
        (b'{"resourceType":"Parameters","parameter":[{"name":"patient-resource","resource":"x"}]}', {400}),
        (b'{"resourceType":"Parameters","parameter":[{"name":"patient-resource"}]}', {400}),
        (b'{"resourceType":"Parameters","parameter":[{"name":"a\\u0000"}]}', {400}),
        (DEEP, {400}),
        (DEEP + b"}" * 100_002, {400}),
        (msgspec.json.encode(WIDE), {400}),
        (b" " * 1_000_001, {413}),
    ],
)
async def test_outcome_is_told_when_the_body_is_no_good(
    site: FhirSite, operation: str, body: bytes, statuses: set[int]
) -> None:
    told = await site.ask(f"Appointment/${operation}", "POST", body)
    assert told.status in statuses
    assert told.issue["severity"] in ("error", "fatal")
    assert len(told.body) < 4_000


@pytest.mark.parametrize(
    "given",
    [
        {"appointment_reference": EVIL},
        {"appointment_reference": "Appointment/" + "x" * 65},
        {"appointment_reference": "Appointment/sl-1?x=1"},
        {"appointment_reference": "Patient/1"},
        {"appointment_reference": "#contained"},
        {"appointment_reference": "javascript:alert(1)/Appointment/1"},
        {"appointment_reference": {"valueReference": {"identifier": {"value": EVIL}}}},
        {"appointment_reference": {"valueString": "Appointment/1"}},
        {"appointment_reference": ["Appointment/1", "Appointment/2"]},
        {"appointment_reference": "Appointment/sl-1", "patient_reference": EVIL},
        {"appointment_reference": "Appointment/sl-1", "patient_resource": {"resourceType": "Patient", "name": EVIL}},
        {"appointment_reference": "Appointment/sl-1", EVIL: "x"},
    ],
)
async def test_reference_is_refused_when_it_is_no_literal_one(site: FhirSite, given: dict[str, Any]) -> None:
    for operation in ("hold", "book"):
        told = await site.ask(f"Appointment/${operation}", "POST", parameters(**given))
        assert told.status == 400
        assert told.code in ("invalid_field", "unknown_field")
        assert EVIL not in told.body.decode()


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "arrived"},
        {"status": "banana"},
        {"status": "booked", "id": None},
        {"status": "cancelled", "id": 7},
        {"status": "pending", "slot": [{"reference": "Slot/sl-1"}, {"reference": "Slot/sl-2"}]},
        {"status": "pending", "slot": [{"identifier": {"value": "x"}}]},
        {"status": "pending", "participant": "everybody"},
        {"status": "pending", "slot": []},
    ],
)
async def test_resource_is_refused_when_it_says_nothing_to_do(site: FhirSite, changes: dict[str, Any]) -> None:
    appointment = {"resourceType": "Appointment", **changes}
    told = await site.ask("Appointment/$book", "POST", parameters(appointment_resource=appointment))
    assert (told.status, told.code) == (400, "invalid_field")


async def test_words_of_the_caller_come_back_nowhere_when_they_are_markup(site: FhirSite) -> None:
    slot_id, patient_id = await put_slot(site.store), await put_patient(site.store)
    asked = parameters(
        appointment_reference=f"Appointment/{slot_id.replace('_', '-')}",
        patient_reference=f"Patient/{patient_id}",
        comment=EVIL,
    )
    told = await site.ask("Appointment/$book", "POST", asked)
    assert told.status == 200
    assert EVIL not in told.body.decode()
    assert await remaining(site.store, slot_id) == 4


async def test_address_is_told_back_nowhere_when_there_is_no_such_hospital(site: FhirSite) -> None:
    for path in ("%3Cscript%3E%20x/Appointment/$book", "%00/Appointment/%24book", "x" * 500 + "/Appointment/$book"):
        told = await site.ask(f"/fhir/R4/hospitals/{path}", "POST", parameters())
        assert told.status in (400, 404)
        assert "script" not in told.body.decode()
        assert len(told.body) < 2_000


_FLAT = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
_SHALLOW = _FLAT | st.lists(_FLAT, max_size=4) | st.dictionaries(st.text(max_size=10), _FLAT, max_size=4)
_JSON = _SHALLOW | st.lists(_SHALLOW, max_size=3) | st.dictionaries(st.text(max_size=10), _SHALLOW, max_size=3)
_NAMES = ("appointment-reference", "appointment-resource", "patient-resource", "comment", "other")
_PARAMETER = st.fixed_dictionaries(
    {"name": st.sampled_from(_NAMES)},
    optional={
        "valueReference": _JSON | st.fixed_dictionaries({"reference": st.text(max_size=40)}),
        "valueString": _JSON,
        "resource": _JSON
        | st.fixed_dictionaries(
            {"resourceType": st.sampled_from(["Patient", "Appointment"]), "status": _JSON, "slot": _JSON}
        ),
    },
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_PARAMETER, max_size=4))
def test_reading_raises_nothing_but_problems_when_parameters_are_anything(given_: list[dict[str, Any]]) -> None:
    data = msgspec.json.encode({"resourceType": "Parameters", "parameter": given_})
    with suppress(ApiProblem):
        body = decode_body(data, msgspec.json.Decoder(ParametersIn))
        read = Given(body.parameter, dict.fromkeys(_NAMES[:-1], 1))
        read.reference("appointment-reference", "Appointment")
        read.appointment()
        read.patient()
        read.texts("comment")


@pytest.mark.parametrize(
    "more", [{"modifierExtension": [{"url": "urn:x", "valueBoolean": True}]}, {"implicitRules": "urn:x"}]
)
async def test_resource_is_refused_when_something_modifies_it_that_is_not_understood(
    site: FhirSite, more: dict[str, Any]
) -> None:
    """R4 extensibility.html#modifierExtension and resource.html#implicitRules: not understood means not processed."""
    name = next(iter(more))
    created = await site.ask("Patient", "POST", {**fhir_patient(), **more})
    assert (created.status, created.json["issue"][0]["expression"]) == (400, [name])
    cancel = {"resourceType": "Appointment", "id": "b1", "status": "cancelled", **more}
    booked = await site.ask("Appointment/$book", "POST", parameters(appointment_resource=cancel))
    assert (booked.status, booked.issue["expression"]) == (400, [f"parameter[0].resource.{name}"])


@pytest.mark.parametrize(("language", "remedy"), [("en", "metadata"), ("zh-CN", "请对照")])
async def test_outcome_says_what_to_do_when_no_element_is_wrong(site: FhirSite, language: str, remedy: str) -> None:
    told = await site.ask("Encounter", headers={"Accept-Language": language})
    assert told.status == 404
    assert remedy in told.issue["diagnostics"]
