"""`POST Patient`: a patient of the caller's, by the rules of `/v1`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.booking.api.fhir.calling import fhir_patient
from tests.booking.api.fhir.site import FhirSite


async def test_patient_can_be_read_when_it_was_created(site: FhirSite) -> None:
    made = await site.ask("Patient", "POST", fhir_patient())
    assert made.status == 201
    assert made.headers["Location"].endswith(f"/fhir/R4/Patient/{made.json['id']}")
    read = await site.ask(f"Patient/{made.json['id']}")
    assert (read.json, read.headers["ETag"]) == (made.json, made.headers["ETag"])
    assert "110101199003070038" not in made.body.decode()  # masked
    v1 = await site.ask(f"/v1/hospitals/h1/patients/{made.json['id']}")
    assert v1.json["user_ref"] == "u1"


async def test_the_same_patient_is_told_when_the_create_is_repeated(site: FhirSite) -> None:
    first = await site.ask("Patient", "POST", fhir_patient())
    again = await site.ask("Patient", "POST", fhir_patient())
    assert (again.status, again.json) == (201, first.json)
    assert again.headers["Idempotent-Replayed"] == "true"
    other_user = await site.ask("Patient", "POST", fhir_patient(user="u2"))
    assert other_user.json["id"] != first.json["id"]


async def test_key_decides_when_the_caller_sends_one(site: FhirSite) -> None:
    key = {"Idempotency-Key": "p1"}
    first = await site.ask("Patient", "POST", fhir_patient(), headers=key)
    assert (await site.ask("Patient", "POST", fhir_patient(), headers=key)).json == first.json
    reused = await site.ask("Patient", "POST", fhir_patient(user="u2"), headers=key)
    assert (reused.status, reused.code) == (422, "idempotency_key_reused")


async def test_nothing_is_shown_when_the_caller_prefers_it(site: FhirSite) -> None:
    made = await site.ask("Patient", "POST", fhir_patient(), headers={"Prefer": "return=minimal"})
    assert (made.status, made.body) == (201, b"")
    assert "Location" in made.headers


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ({"family": "欧阳", "given": ["娜", "娜"]}, "欧阳**"),
        ({"text": "欧阳娜娜", "family": "x"}, "欧阳**"),
        ({"family": "Everywoman", "given": ["Eve"]}, "E***"),  # given names first where it is no Han script
    ],
)
async def test_name_is_joined_in_the_order_of_its_script(site: FhirSite, name: dict[str, Any], shown: str) -> None:
    made = await site.ask("Patient", "POST", {**fhir_patient(), "name": [name]})
    assert made.json["name"] == [{"text": shown}]


async def test_document_and_card_are_told_by_their_systems(site: FhirSite) -> None:
    identifiers = [
        {"system": "urn:hisbridge:id-type:passport", "value": "E12345678"},
        {"system": "urn:hisbridge:card-type:health", "value": "C1"},
        {"system": "urn:hisbridge:user-ref", "value": "u1"},
    ]
    made = await site.ask("Patient", "POST", fhir_patient(identifier=identifiers))
    assert made.status == 201
    systems = {one["system"] for one in made.json["identifier"]}
    assert "urn:hisbridge:id-type:passport" in systems


@pytest.mark.parametrize(("by", "status", "code"), [("booker", 403, "forbidden_scope"), (None, 401, "unauthenticated")])
async def test_scope_is_needed_when_patients_are_created(
    site: FhirSite, by: str | None, status: int, code: str
) -> None:
    told = await site.ask("Patient", "POST", fhir_patient(), by=by)
    assert (told.status, told.code) == (status, code)


async def test_other_resource_is_refused_when_it_comes_as_a_patient(site: FhirSite) -> None:
    told = await site.ask("Patient", "POST", {"resourceType": "Practitioner"})
    assert (told.status, told.code) == (400, "invalid_field")
