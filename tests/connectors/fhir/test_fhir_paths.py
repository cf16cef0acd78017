"""The FHIR path language: what each construct finds, and what is refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from connectors.fhir.documents import Document, decode_json, encode_json
from connectors.fhir.paths import FhirPaths

PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "p1",
    "identifier": [
        {"type": {"coding": [{"system": "s", "code": "MR"}]}, "value": "12345"},
        {"type": {"coding": [{"code": "XX"}, {"code": "NI"}]}, "value": "N1"},
    ],
    "name": [{"given": ["Peter", "James"], "family": "Chalmers"}, {"given": ["Jim"]}],
    "active": True,
    "extension": [{"url": "http://x.example/a.b(c)", "valueMoney": {"value": Decimal("7.50")}}, {"url": "other"}],
}
OBSERVATION: dict[str, Any] = {"resourceType": "Observation", "id": "o1", "valueQuantity": {"value": 5}}
SCHEDULE: dict[str, Any] = {
    "resourceType": "Schedule",
    "id": "s1",
    "contained": [{"resourceType": "Location", "id": "loc", "name": "South Wing"}],
    "actor": [
        {"reference": "#loc"},
        {"reference": "https://h.example/fhir/Practitioner/d1", "display": "Dr"},
        {"reference": "HealthcareService/h1/_history/3"},
        {"display": "nobody", "type": "Device"},
        {"reference": "urn:uuid:1"},
    ],
}
BUNDLE = {
    "resourceType": "Bundle",
    "entry": [
        {"fullUrl": "https://h.example/fhir/Patient/p1", "resource": PATIENT},
        {"fullUrl": "https://h.example/fhir/Schedule/s1", "resource": SCHEDULE},
        {"resource": OBSERVATION},
        {"fullUrl": "https://h.example/fhir/Practitioner/d1", "resource": {"resourceType": "Practitioner", "id": "d1"}},
        {"resource": {"resourceType": "HealthcareService", "id": "h1", "name": "GP"}},
        {"fullUrl": "urn:uuid:1", "resource": {"resourceType": "Device", "id": "dev"}},
        {"resource": {"resourceType": "Slot", "id": "x", "contained": [{"resourceType": "Location", "id": "loc", "name": "B"}]}},
    ],
}  # fmt: skip


def texts(path: str, node: Any, root: Any = None) -> list[str | None]:
    paths = FhirPaths()
    return [paths.text(found) for found in paths.compile(path)(node if root is None else root, node)]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("id", ["p1"]),
        ("Patient.id", ["p1"]),
        ("Observation.id", []),
        ("active", ["true"]),
        ("name.given", ["Peter", "James", "Jim"]),
        ("name.given[1]", ["James"]),
        ("name[1].given", ["Jim"]),
        ("name.given.first()", ["Peter"]),
        ("name[7].given", []),
        ("identifier.where(type.coding.code='MR').value", ["12345"]),
        ("identifier.where(type.coding.code=NI).value", ["N1"]),
        ("identifier.where(type.coding.system = 's').where(value='12345').value", ["12345"]),
        ("identifier.where(value='none').value", []),
        ("extension('http://x.example/a.b(c)').valueMoney.value", ["7.50"]),
        ("extension('http://x.example/a.b(c)').value.ofType(Money).value", ["7.50"]),
        ("name.nothing.deeper", []),
        ("name", [None, None]),
    ],
)
def test_path_finds_the_elements_in_order(path: str, expected: list[str | None]) -> None:
    assert texts(path, PATIENT) == expected


def test_oftype_filters_resources_and_chooses_the_typed_element() -> None:
    assert texts("entry.resource.ofType(Schedule).id", BUNDLE) == ["s1"]
    assert texts("value.ofType(Quantity).value", OBSERVATION) == ["5"]
    assert texts("value.ofType(string)", OBSERVATION) == []


@pytest.mark.parametrize("root", [BUNDLE, Document(BUNDLE)], ids=["bundle", "document"])
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("actor.where(resolve() is Location).resolve().name", ["South Wing"]),
        ("actor.where(resolve() is Practitioner).resolve().id", ["d1"]),
        ("actor.where(resolve() is Practitioner).display", ["Dr"]),
        ("actor.where(resolve() is HealthcareService).resolve().name", ["GP"]),
        ("actor.where(resolve() is Device).display", ["nobody"]),
        ("actor.resolve().id", ["loc", "d1", "h1", "dev"]),
    ],
)
def test_resolve_follows_references_inside_the_bundle_and_contained(
    root: Any, path: str, expected: list[str | None]
) -> None:
    assert texts(path, SCHEDULE, root) == expected


def test_contained_of_two_resources_are_told_apart_when_the_fragment_is_the_same() -> None:
    slot = {**BUNDLE["entry"][6]["resource"], "ref": {"reference": "#loc"}}  # type: ignore[index]
    root = Document.of([{"resource": SCHEDULE}, {"resource": slot}])
    assert texts("ref.resolve().name", slot, root) == ["B"]
    assert texts("actor[0].resolve().name", SCHEDULE, root) == ["South Wing"]


@pytest.mark.parametrize(
    "path",
    ["", ".", "a..b", "a.", "a[x]", "a[-1]", "where(", "a.where(b)", "a.where(b=)", "a.where(b='x'", "a b", "a.exists()",
     "a.first(1)", "a.ofType()", "a.extension()", "a.where(b.='x')", "a.where(resolve() is 1)", "a|b", "x" * 301],
)  # fmt: skip
def test_bad_path_is_refused_with_a_reason(path: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        FhirPaths().compile(path)


def test_setting_of_the_connector_is_compared_when_a_path_names_one() -> None:
    resource = {"identifier": [{"system": "urn:a", "value": "1"}, {"system": "connection.order_system", "value": "2"}]}
    path = "identifier.where(system=connection.order_system).value"
    for settings, expected in (({"order_system": "urn:a"}, ["1"]), ({"order_system": "urn:b"}, [])):
        assert FhirPaths(settings).compile(path)(resource, resource) == expected
    quoted = path.replace("connection.order_system", "'connection.order_system'")
    assert FhirPaths().compile(quoted)(resource, resource) == ["2"]
    for missing in (None, "", ["urn:a"]):
        with pytest.raises(ValueError, match=r"connection\.order_system"):
            FhirPaths({"order_system": missing}).compile(path)


@pytest.mark.parametrize(
    ("written", "text"),
    [("1e2", "100"), ("7.00", "7.00"), ("1.50e1", "15.0"), ("0.1", "0.1"), ("1e-3", "0.001"), ("-2E+1", "-20")],
)
def test_number_is_plain_and_exact_however_it_was_written(written: str, text: str) -> None:
    assert FhirPaths().text(decode_json(written)) == text


def test_number_is_not_written_out_when_it_would_never_end() -> None:
    text = FhirPaths().text(decode_json("1e999999"))
    assert text is not None
    assert len(text) < 50


def test_decimals_keep_their_digits_through_reading_and_writing() -> None:
    decoded = decode_json('{"value": 12500.10, "whole": 7.00}')
    assert decoded == {"value": Decimal("12500.10"), "whole": Decimal("7.00")}
    assert encode_json(decoded) == b'{"value":12500.10,"whole":7.00}'
