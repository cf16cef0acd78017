"""The tables find what they are for: what fhir.resources lets pass."""

from __future__ import annotations

from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from tests.booking.api.fhir.conformance import BINDINGS, RULES, problems_of
from tests.booking.api.fhir.emitted import check_emitted, checked

SLOT = {
    "resourceType": "Slot",
    "id": "s1",
    "schedule": {"reference": "Schedule/1"},
    "status": "free",
    "start": "2031-03-04T08:00:00+08:00",
    "end": "2031-03-04T08:30:00+08:00",
}
APPOINTMENT = {
    "resourceType": "Appointment",
    "id": "a1",
    "status": "booked",
    "start": SLOT["start"],
    "end": SLOT["end"],
    "participant": [{"actor": {"reference": "Patient/p1"}, "status": "accepted"}],
}
BUNDLE = {
    "resourceType": "Bundle",
    "type": "searchset",
    "total": 1,
    "link": [{"relation": "self", "url": "http://h/fhir/R4/Slot?"}],
    "entry": [{"fullUrl": "http://h/fhir/R4/Slot/s1", "resource": SLOT, "search": {"mode": "match"}}],
}


@pytest.mark.parametrize("resource", [SLOT, APPOINTMENT, BUNDLE])
def test_nothing_is_found_when_resource_keeps_the_rules(resource: dict[str, Any]) -> None:
    assert problems_of(resource) == []


@pytest.mark.parametrize(
    ("resource", "change", "key"),
    [
        (SLOT, {"status": "banana"}, "Slot.status"),
        (SLOT, {"end": "2031-03-04T07:30:00+08:00"}, "slot-span"),
        (SLOT, {"id": "s_1"}, "id"),
        (SLOT, {"comment": ""}, "ele-1"),
        (SLOT, {"identifier": []}, "ele-1"),
        (SLOT, {"comment": "a\x01b"}, "string"),
        (SLOT, {"extension": [{"url": "fee", "valueInteger": 1}]}, "ext-url"),
        (SLOT, {"extension": [{"url": "urn:x:y"}]}, "ext-1"),
        (SLOT, {"schedule": {"reference": "#s"}}, "ref-1"),
        (SLOT, {"schedule": {"reference": "Schedule/a b"}}, "reference"),
        (SLOT, {"serviceType": [{"coding": [{"system": "clinic", "code": "1"}]}]}, "coding-system"),
        (SLOT, {"serviceType": [{"coding": [{"system": "urn:x:c", "code": "1  2"}]}]}, "code"),
        (APPOINTMENT, {"status": "held"}, "Appointment.status"),
        (APPOINTMENT, {"participant": [{"status": "accepted"}]}, "app-1"),
        (APPOINTMENT, {"participant": [{"type": [{"text": "x"}], "status": "yes"}]}, "Appointment.participant.status"),
        (APPOINTMENT, {"start": None}, "app-2"),
        (APPOINTMENT, {"start": None, "end": None}, "app-3"),
        (APPOINTMENT, {"cancelationReason": {"text": "x"}}, "app-4"),
        (BUNDLE, {"type": "collection"}, "bdl-2"),
        (BUNDLE, {"entry": BUNDLE["entry"] * 2}, "bdl-7"),  # type: ignore[operator]
        (BUNDLE, {"total": 0}, "bundle-total"),
        (BUNDLE, {"link": None}, "bundle-self"),
        (BUNDLE, {"entry": [{"fullUrl": "http://h/fhir/R4/Slot/s2", "resource": SLOT}]}, "bundle-fullUrl"),
    ],
)  # fmt: skip
def test_rule_is_found_broken_when_fhir_resources_lets_it_pass(
    resource: dict[str, Any], change: dict[str, Any], key: str
) -> None:
    changed = {name: value for name, value in {**resource, **change}.items() if value is not None}
    assert key in problems_of(changed)


def test_banana_passes_fhir_resources_alone() -> None:
    get_fhir_model_class("Slot").model_validate({**SLOT, "status": "banana"})  # the reason for the tables


def test_codes_are_those_of_the_standard_when_it_is_asked_for_them() -> None:
    """fhir.resources has read the definitions too: it knows the codes, and does not look at them."""
    compared = 0
    for path, codes in BINDINGS.items():
        *owner, element = path.split(".")
        name = "ContactPoint" if owner[-1] == "telecom" else "".join(one[0].upper() + one[1:] for one in owner)
        extra: Any = get_fhir_model_class(name).model_fields[element].json_schema_extra
        told = set(extra.get("enum_values", ()))
        if told and path != "CapabilityStatement.fhirVersion":
            # A `+` stands for the others of a long list.
            assert told - {"+"} <= codes if "+" in told else told == codes, path
            compared += 1
    assert compared >= 15
    assert all(get_fhir_model_class(kind) for kind in RULES)


def test_answer_is_checked_when_it_is_an_error() -> None:
    before = checked.get("OperationOutcome", 0)
    body = b'{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"value"}]}'
    check_emitted(400, {"Content-Type": "application/fhir+json"}, body)
    assert checked["OperationOutcome"] == before + 1
    with pytest.raises(AssertionError):
        check_emitted(400, {"Content-Type": "application/fhir+json"}, body.replace(b'"value"', b'"bad"'))
