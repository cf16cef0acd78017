"""Foreign clients walk a patient through the facade of the service: find, hold, book, pay, read back, cancel."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from tests.acceptance.fhir.clients import Client, Refused, Resource
from tests.acceptance.fhir.conftest import HOSPITAL
from tests.acceptance.installation import Installation, made_up_person, until

ID_CARD = "urn:oid:2.16.840.1.113883.4.330.156"
USER = "urn:hisbridge:user-ref"


def a_patient() -> Resource:
    """A person who does not exist, as a portal of FHIR tells of them."""
    person = made_up_person()
    return {
        "resourceType": "Patient",
        "identifier": [
            {"system": ID_CARD, "value": person["id_number"]},
            {"system": USER, "value": person["user_ref"]},
        ],
        "name": [{"use": "official", "text": person["name"]}],
        "telecom": [{"system": "phone", "value": person["phone"]}],
    }


def parameters(*given: dict[str, Any]) -> Resource:
    return {"resourceType": "Parameters", "parameter": list(given)}


def referring(name: str, reference: str) -> dict[str, Any]:
    return {"name": name, "valueReference": {"reference": reference}}


def appointments(bundle: Resource) -> list[Resource]:
    """What matched."""
    return [e["resource"] for e in bundle.get("entry", ()) if e["resource"]["resourceType"] == "Appointment"]


async def find(client: Client) -> list[Resource]:
    """`$find` for the next days."""
    today = dt.datetime.now(dt.UTC).date()
    period = (("start", today), ("end", today + dt.timedelta(days=3)))
    asked = parameters(*({"name": name, "valueDateTime": day.isoformat()} for name, day in period))
    return appointments(await client.operation("find", asked))


async def only(client: Client, operation: str, *given: dict[str, Any]) -> Resource:
    [appointment] = appointments(await client.operation(operation, parameters(*given)))
    return appointment


async def test_patient_is_walked_from_search_to_cancellation(site: Installation, client: Client) -> None:
    proposals = await find(client)
    assert proposals
    seat = f"Appointment/{proposals[0]['id']}"
    booked_with = [referring("appointment-reference", seat), {"name": "patient-resource", "resource": a_patient()}]
    held = await only(client, "hold", *booked_with)
    assert held["status"] == "pending"
    again = await only(client, "hold", *booked_with)
    assert again["id"] == held["id"]
    booked = await only(client, "book", referring("appointment-reference", f"Appointment/{held['id']}"))
    assert (booked["id"], booked["start"]) == (held["id"], proposals[0]["start"])

    booking = await site.becomes(HOSPITAL, {"id": held["id"]}, his_state="locked", payable=True)
    await site.pay(HOSPITAL, booking)
    told = await until(
        lambda: client.read("Appointment", held["id"]), lambda a: a["status"] == "booked", what="a booked Appointment"
    )
    assert told["identifier"][0]["value"] == booking["order_no"]
    [visit] = await site.clinics[HOSPITAL].visits(booking["order_no"])
    assert visit["state"] == "registered"

    await only(client, "book", {"name": "appointment-resource", "resource": {**told, "status": "cancelled"}})
    await until(
        lambda: client.read("Appointment", held["id"]),
        lambda a: a["status"] == "cancelled",
        what="a cancelled Appointment",
    )


async def test_patient_and_booking_are_found_by_search_when_they_were_made(site: Installation, client: Client) -> None:
    person = a_patient()
    made = await client.create(person)
    [found] = await client.search("Patient", {"identifier": f"{USER}|{person['identifier'][1]['value']}"})
    assert found["id"] == made["id"]
    slots = await client.search("Slot", {"status": "free", "_count": "5"})
    assert len(slots) > 5  # in pages
    seat = f"Appointment/{slots[-1]['id']}"
    patient = f"Patient/{made['id']}"
    booked = await only(
        client, "book", referring("appointment-reference", seat), referring("patient-reference", patient)
    )
    [appointment] = await client.search("Appointment", {"patient": patient})
    assert (appointment["id"], appointment["slot"][0]["reference"]) == (booked["id"], f"Slot/{slots[-1]['id']}")
    booking = await site.becomes(HOSPITAL, {"id": booked["id"]}, his_state="locked")
    assert booking["payment_state"] == "due"
    await client.update({**appointment, "status": "cancelled"})
    await until(
        lambda: client.read("Appointment", booked["id"]),
        lambda a: a["status"] == "cancelled",
        what="an Appointment that was cancelled by PUT",
    )


async def test_refusal_is_understood_when_a_seat_does_not_exist(client: Client) -> None:
    with pytest.raises(Refused, match="slot_unknown"):
        await only(
            client,
            "hold",
            referring("appointment-reference", "Appointment/sl-00000000000000000000000000"),
            {"name": "patient-resource", "resource": a_patient()},
        )
