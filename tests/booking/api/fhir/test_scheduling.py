"""`$hold` and `$book` of IHE ITI Scheduling 1.0.1, as ITI-116 and ITI-117 describe them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from booking.api.application import ApiOptions
from booking.people import hear_patient, merge_persons, own_patient
from booking.settings import Hospital
from booking.store.engine import Store
from tests.booking.api.fhir.calling import call, fhir_patient, found, parameters
from tests.booking.api.fhir.site import FhirSite, Told, serve_fhir
from tests.booking.world import (
    HOSPITAL,
    LI,
    ZHANG,
    booked,
    commands,
    get,
    make_schedule,
    put_patient,
    put_slot,
    remaining,
    send_and_answer,
)


def only(told: Told) -> dict[str, Any]:
    """The one Appointment of an answer."""
    assert told.json["type"] == "searchset"
    assert told.json["total"] == 1
    [resource] = told.resources
    return resource


def fatal(told: Told) -> str:
    """Our code in an answer that says: not available (ITI-116, 2:3.116.4.2.3)."""
    issue = told.issue
    assert (issue["severity"], issue["code"]) == ("fatal", "not-found"), issue
    return told.code


async def test_proposal_becomes_pending_when_it_is_held(site: FhirSite) -> None:
    slot_id, patient_id = await put_slot(site.store, 2), await put_patient(site.store)
    [proposal] = await found(site)
    told = await call(
        site, "hold", appointment_reference=f"Appointment/{proposal['id']}", patient_reference=f"Patient/{patient_id}"
    )
    held = only(told)
    assert (held["status"], held["start"], held["end"]) == ("pending", proposal["start"], proposal["end"])
    assert held["slot"] == [{"reference": f"Slot/{slot_id.replace('_', '-')}"}]
    assert {"reference": f"Patient/{patient_id}"} in [p["actor"] for p in held["participant"]]
    assert await remaining(site.store, slot_id) == 1
    assert (await get(site.store, held["id"])).user_ref == "u1"
    assert (await site.ask(f"Appointment/{held['id']}")).json["status"] == "pending"


@pytest.mark.parametrize("operation", ["hold", "book"])
async def test_the_same_booking_is_answered_when_the_call_is_repeated(site: FhirSite, operation: str) -> None:
    slot_id, patient_id = await put_slot(site.store, 1), await put_patient(site.store)
    asked = {
        "appointment_reference": f"Appointment/{slot_id.replace('_', '-')}",
        "patient_reference": f"Patient/{patient_id}",
    }
    first = await call(site, operation, **asked)
    again = await call(site, operation, **asked)
    assert only(first)["id"] == only(again)["id"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert await remaining(site.store, slot_id) == 0


async def test_there_is_one_booking_when_the_caller_has_gone_before_the_answer(site: FhirSite) -> None:
    """However far the first call came: whoever asks again, without a key, has that booking or the only one."""
    slot_id, patient_id = await put_slot(site.store, 5), await put_patient(site.store)
    asked = {
        "appointment_reference": f"Appointment/{slot_id.replace('_', '-')}",
        "patient_reference": f"Patient/{patient_id}",
    }
    body = msgspec.json.encode(parameters(**asked))
    base = (await site.ask("metadata")).json["implementation"]["url"].split("/")[2]
    host, _, port = base.partition(":")
    for _ in range(3):
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /fhir/R4/Appointment/$hold HTTP/1.1\r\nHost: {base}\r\nAuthorization: Bearer portal\r\n"
        more = f"Content-Type: application/fhir+json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + more.encode() + body)
        await writer.drain()
        writer.transport.abort()
    held = only(await call(site, "hold", **asked))
    assert only(await call(site, "hold", **asked))["id"] == held["id"]
    assert [a["id"] for a in (await site.ask(f"Appointment?patient={patient_id}")).resources] == [held["id"]]
    assert await remaining(site.store, slot_id) == 4


async def test_held_seat_is_booked_when_either_id_is_given(site: FhirSite) -> None:
    slot_id, patient_id = await put_slot(site.store, 1), await put_patient(site.store)
    seat = f"Appointment/{slot_id.replace('_', '-')}"
    held = only(await call(site, "hold", appointment_reference=seat, patient_reference=f"Patient/{patient_id}"))
    by_booking = await call(site, "book", appointment_reference=f"Appointment/{held['id']}")
    by_slot = await call(site, "book", appointment_reference=seat, patient_reference=f"Patient/{patient_id}")
    assert only(by_booking)["id"] == only(by_slot)["id"] == held["id"]
    assert only(by_booking)["status"] == "pending"  # unpaid


async def test_appointment_is_booked_when_hospital_has_registered_it(site: FhirSite, hospital: Hospital) -> None:
    slot_id, patient_id = await put_slot(site.store), await put_patient(site.store)
    booking_id = await booked(site.store, hospital, slot_id, patient_id)
    told = await call(site, "book", appointment_reference=f"Appointment/{booking_id}")
    assert only(told)["status"] == "booked"


async def test_last_seat_is_refused_as_not_found_when_another_has_it(site: FhirSite) -> None:
    slot_id = await put_slot(site.store, 1)
    seat = f"Appointment/{slot_id.replace('_', '-')}"
    mine, theirs = await put_patient(site.store), await put_patient(site.store, LI, client="another", user="u9")
    assert (await call(site, "hold", appointment_reference=seat, patient_reference=f"Patient/{mine}")).status == 200
    for operation in ("hold", "book", "hold"):  # the second time from memory
        told = await call(site, operation, "another", appointment_reference=seat, patient_reference=f"Patient/{theirs}")
        assert (told.status, fatal(told)) == (409, "slot_sold_out")


async def test_patient_is_made_known_when_book_brings_the_resource(site: FhirSite) -> None:
    slot_id = await put_slot(site.store, 2)
    asked: dict[str, Any] = {
        "appointment_reference": f"Appointment/{slot_id.replace('_', '-')}",
        "patient_resource": fhir_patient(),
    }
    first, again = only(await call(site, "book", **asked)), only(await call(site, "book", **asked))
    assert first["id"] == again["id"]
    booking = await get(site.store, first["id"])
    assert (booking.user_ref, booking.client_id) == ("u1", "portal")
    assert await remaining(site.store, slot_id) == 1


async def test_resource_is_booked_when_proposal_comes_back_as_pending(site: FhirSite) -> None:
    await put_slot(site.store, 2)
    patient_id = await put_patient(site.store)
    [proposal] = await found(site, patient_reference=f"Patient/{patient_id}")
    told = await call(site, "book", appointment_resource={**proposal, "status": "pending"})
    assert only(told)["status"] == "pending"
    assert (await get(site.store, only(told)["id"])).patient_id == patient_id


async def test_unsent_hold_is_cancelled_at_once_when_resource_says_cancelled(site: FhirSite) -> None:
    slot_id, patient_id = await put_slot(site.store, 1), await put_patient(site.store)
    asked = {
        "appointment_reference": f"Appointment/{slot_id.replace('_', '-')}",
        "patient_reference": f"Patient/{patient_id}",
    }
    held = only(await call(site, "hold", **asked))
    wish = {**held, "status": "cancelled", "cancelationReason": {"text": "ill"}}
    for _ in range(2):
        told = await call(site, "book", appointment_resource=wish)
        assert only(told)["status"] == "cancelled"
    assert (await get(site.store, held["id"])).reason == "ill"
    assert await remaining(site.store, slot_id) == 1
    # The same seat again is a new booking, though the key is made of the same things.
    second = only(await call(site, "hold", **asked))
    assert second["id"] != held["id"]
    assert only(await call(site, "hold", **asked))["id"] == second["id"]


async def test_cancellation_is_told_as_begun_when_hospital_must_confirm(site: FhirSite, hospital: Hospital) -> None:
    slot_id, patient_id = await put_slot(site.store), await put_patient(site.store)
    booking_id = await booked(site.store, hospital, slot_id, patient_id)
    appointment = (await site.ask(f"Appointment/{booking_id}")).json
    told = await call(site, "book", appointment_resource={**appointment, "status": "cancelled"})
    assert only(told)["status"] == "booked"
    assert "not confirmed" in told.json["entry"][1]["resource"]["issue"][0]["details"]["text"]
    await send_and_answer(site.store, hospital, booking_id)
    assert (await site.ask(f"Appointment/{booking_id}")).json["status"] == "cancelled"
    over = await call(site, "book", appointment_reference=f"Appointment/{booking_id}")
    assert (over.status, fatal(over)) == (409, "booking_over")


async def test_new_slot_is_held_and_old_one_cancelled_when_resource_names_another(site: FhirSite) -> None:
    patient_id = await put_patient(site.store)
    old_slot = await put_slot(site.store, 1)
    new_slot = await put_slot(site.store, 1, schedule=make_schedule("S2"), slot_id="2", hour=10)
    seat = f"Appointment/{old_slot.replace('_', '-')}"
    held = only(await call(site, "hold", appointment_reference=seat, patient_reference=f"Patient/{patient_id}"))
    wish = {**held, "status": "booked", "slot": [{"reference": f"Slot/{new_slot.replace('_', '-')}"}]}
    moved = only(await call(site, "book", appointment_resource=wish))
    assert moved["slot"] == wish["slot"]
    assert (await site.ask(f"Appointment/{held['id']}")).json["status"] == "cancelled"
    assert (await remaining(site.store, old_slot), await remaining(site.store, new_slot)) == (1, 0)
    assert await commands(site.store, f"booking:{held['id']}") == [("lock_slot", "dropped")]
    again = await call(site, "book", appointment_resource=wish)  # its answer was lost: all was done
    assert only(again)["id"] == moved["id"]
    await call(site, "book", appointment_resource={**moved, "status": "cancelled"})
    over = await call(site, "book", appointment_resource=wish)
    assert (over.status, fatal(over)) == (409, "booking_over")


async def test_nothing_changes_when_the_new_slot_is_sold_out(site: FhirSite) -> None:
    mine, theirs = await put_patient(site.store), await put_patient(site.store, LI, client="another", user="u9")
    old_slot = await put_slot(site.store, 1)
    new_slot = (await put_slot(site.store, 1, schedule=make_schedule("S2"), slot_id="2", hour=10)).replace("_", "-")
    await call(
        site, "hold", "another", appointment_reference=f"Appointment/{new_slot}", patient_reference=f"Patient/{theirs}"
    )
    seat = f"Appointment/{old_slot.replace('_', '-')}"
    held = only(await call(site, "hold", appointment_reference=seat, patient_reference=f"Patient/{mine}"))
    wish = {**held, "status": "booked", "slot": [{"reference": f"Slot/{new_slot}"}]}
    told = await call(site, "book", appointment_resource=wish)
    assert (told.status, fatal(told)) == (409, "slot_sold_out")
    assert (await get(site.store, held["id"])).state == "held"


async def test_old_one_stays_when_the_new_slot_is_of_the_same_session(site: FhirSite) -> None:
    """One person has one live booking in a session: the engine's rule."""
    patient_id, schedule = await put_patient(site.store), make_schedule()
    old_slot = await put_slot(site.store, 1, schedule=schedule)
    new_slot = await put_slot(site.store, 1, schedule=schedule, slot_id="2", hour=9)
    seat = f"Appointment/{old_slot.replace('_', '-')}"
    held = only(await call(site, "hold", appointment_reference=seat, patient_reference=f"Patient/{patient_id}"))
    wish = {**held, "status": "booked", "slot": [{"reference": f"Slot/{new_slot.replace('_', '-')}"}]}
    told = await call(site, "book", appointment_resource=wish)
    assert (told.status, fatal(told)) == (409, "duplicate_booking")
    assert held["id"] in told.issue["diagnostics"]
    assert (await get(site.store, held["id"])).state == "held"


async def test_key_decides_when_the_caller_sends_one(site: FhirSite) -> None:
    slot_id, patient_id = await put_slot(site.store, 3), await put_patient(site.store)
    other_id = await put_patient(site.store, LI)
    seat = f"Appointment/{slot_id.replace('_', '-')}"
    asked = {"appointment_reference": seat, "patient_reference": f"Patient/{patient_id}"}
    first = only(await call(site, "hold", key="k1", **asked))
    assert only(await call(site, "hold", key='"k1"', **asked))["id"] == first["id"]
    reused = await call(site, "hold", key="k1", **{**asked, "patient_reference": f"Patient/{other_id}"})
    assert (reused.status, reused.code) == (422, "idempotency_key_reused")
    malformed = await call(site, "hold", key="two words", **asked)
    assert (malformed.status, malformed.code) == (400, "idempotency_key_invalid")
    assert await remaining(site.store, slot_id) == 2


async def test_version_is_demanded_when_if_match_comes_with_a_cancellation(site: FhirSite) -> None:
    slot_id, patient_id = await put_slot(site.store), await put_patient(site.store)
    seat = f"Appointment/{slot_id.replace('_', '-')}"
    held = only(await call(site, "hold", appointment_reference=seat, patient_reference=f"Patient/{patient_id}"))
    wish = {
        "resourceType": "Parameters",
        "parameter": [{"name": "appointment-resource", "resource": {**held, "status": "cancelled"}}],
    }
    stale = await site.ask("Appointment/$book", "POST", wish, headers={"If-Match": 'W/"stale"'})
    assert (stale.status, stale.code) == (412, "version_conflict")
    assert (await get(site.store, held["id"])).state == "held"
    current = (await site.ask(f"Appointment/{held['id']}")).headers["ETag"]
    assert (
        only(await site.ask("Appointment/$book", "POST", wish, headers={"If-Match": current}))["status"] == "cancelled"
    )


async def test_failure_has_the_shape_of_its_transaction_when_the_seat_cannot_be_had(site: FhirSite) -> None:
    """2:3.116.4.2.2 `$hold`: "only an OperationOutcome resource"; 2:3.117.4.2.2 `$book`: "only an OperationOutcome resource
    within the Bundle"; tables 2:3.115.4.2.4-2 and 2:3.118.4.2.4-2: its severity is fatal.
    """
    patient_id = await put_patient(site.store)
    asked = {"appointment_reference": f"Appointment/sl-{'0' * 26}", "patient_reference": f"Patient/{patient_id}"}
    held, booked_ = await call(site, "hold", **asked), await call(site, "book", **asked)
    assert (held.status, held.json["resourceType"], fatal(held)) == (404, "OperationOutcome", "slot_unknown")
    assert (booked_.status, booked_.json["resourceType"], fatal(booked_)) == (404, "Bundle", "slot_unknown")
    assert (booked_.json["type"], booked_.json["total"]) == ("searchset", 0)
    [entry] = booked_.json["entry"]
    assert (entry["resource"]["resourceType"], entry["search"]) == ("OperationOutcome", {"mode": "outcome"})
    refused = [
        await call(site, "find", start="2031-03-04"),
        await site.ask("Appointment?date=tomorrow"),
        await site.ask("Appointment?date=2031-03-04", by=None),
    ]
    for told in refused:
        assert told.json["resourceType"] == "OperationOutcome"
        assert told.issue["severity"] == "fatal"
    unread = await site.ask("Appointment/%24book", "POST", b"{")
    assert (unread.status, unread.json["resourceType"], unread.code) == (400, "Bundle", "malformed_json")


OURS = ("http://{host}/fhir/R4", "https://{host}/fhir/R4/hospitals/h1", "HTTP://{host}/fhir/R4")  # a proxy may end TLS
OTHERS = (
    "http://{host}/fhir/R4/hospitals/h2", "http://{host}/fhir/R5", "http://elsewhere.example/fhir/R4",
    "http://{host}.example/fhir/R4", "ftp://{host}/fhir/R4",
)  # fmt: skip


async def test_reference_means_ours_only_when_its_base_is_ours(site: FhirSite) -> None:
    """appointment-hold: "servers only perform this operation on their own appointments"."""
    slot_id, patient_id = (await put_slot(site.store)).replace("_", "-"), await put_patient(site.store)
    seat, whom = f"Appointment/{slot_id}", f"Patient/{patient_id}"
    host = (await site.ask("metadata")).json["implementation"]["url"].split("/")[2]
    for base in (one.format(host=host) for one in OURS + OTHERS):
        ours = base in [one.format(host=host) for one in OURS]
        resource = {"resourceType": "Appointment", "status": "pending", "participant": [{"actor": {"reference": whom}}]}
        for given in (
            {"appointment_reference": f"{base}/{seat}", "patient_reference": whom},
            {"appointment_reference": seat, "patient_reference": f"{base}/{whom}"},
            {"appointment_resource": {**resource, "slot": [{"reference": f"{base}/Slot/{slot_id}"}]}},
        ):
            told = await call(site, "book", **given)
            assert told.status == (200 if ours else 400), (base, told.body)
        if not base.startswith("ftp"):
            for name, value in (("slot", f"{base}/Slot/{slot_id}"), ("actor", f"{base}/{whom}")):
                assert len((await site.ask(f"Appointment?{name}={value}")).resources) == ours, base


@pytest.mark.parametrize("operation", ["hold", "book"])
async def test_nobody_learns_of_others_when_references_are_theirs(site: FhirSite, operation: str) -> None:
    slot_id = await put_slot(site.store)
    seat = f"Appointment/{slot_id.replace('_', '-')}"
    mine, theirs = await put_patient(site.store), await put_patient(site.store, LI, client="another", user="u9")
    told = await call(site, operation, appointment_reference=seat, patient_reference=f"Patient/{theirs}")
    unknown = await call(site, operation, appointment_reference=seat, patient_reference="Patient/nobody")
    assert (told.status, told.code) == (unknown.status, unknown.code) == (404, "patient_unknown")
    booking = only(
        await call(site, "hold", "another", appointment_reference=seat, patient_reference=f"Patient/{theirs}")
    )
    of_booking = await call(site, "book", appointment_reference=f"Appointment/{booking['id']}")
    assert (of_booking.status, fatal(of_booking)) == (404, "booking_unknown")
    for status in ("booked", "cancelled"):
        told = await call(site, "book", appointment_resource={**booking, "status": status})
        assert (told.status, fatal(told)) == (404, "booking_unknown")
    with_mine = await call(
        site, "book", appointment_reference=f"Appointment/{booking['id']}", patient_reference=f"Patient/{mine}"
    )
    assert fatal(with_mine) == "booking_unknown"
    assert (await get(site.store, booking["id"])).state == "held"


async def test_scope_of_patients_is_needed_when_book_makes_one_known(site: FhirSite) -> None:
    slot_id = (await put_slot(site.store)).replace("_", "-")
    told = await call(
        site, "book", "booker", appointment_reference=f"Appointment/{slot_id}", patient_resource=fhir_patient()
    )
    assert (told.status, told.code) == (403, "forbidden_scope")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"identifier": []}, "identifier"),
        ({"identifier": fhir_patient()["identifier"][:1]}, "identifier"),
        ({"name": []}, "name"),
        ({"telecom": []}, "telecom"),
        ({"birthDate": "1990"}, "birthDate"),
        ({"birthDate": "1991-01-01"}, ""),  # the identity card carries another
        ({"gender": "none"}, "gender"),
    ],
)
async def test_patient_is_refused_as_in_v1_when_something_is_missing_or_contradicts(
    site: FhirSite, changes: dict[str, Any], place: str
) -> None:
    slot_id = (await put_slot(site.store)).replace("_", "-")
    told = await call(
        site, "book", appointment_reference=f"Appointment/{slot_id}", patient_resource=fhir_patient(**changes)
    )
    assert (told.status, told.code) == (400, "invalid_field")
    assert place in told.body.decode()
    assert "110101199003070038" not in told.body.decode()
    assert "张伟" not in told.body.decode()


async def test_identity_rates_of_v1_bind_when_patients_and_users_repeat(store: Store, hospital: Hospital) -> None:
    options = ApiOptions(identity_rate_per_s=0.001, identity_burst=3)
    async with serve_fhir(store, hospital, options=options) as site:
        slot_id = (await put_slot(store, 9)).replace("_", "-")
        patients = [await put_patient(store), await put_patient(store, LI)]
        codes = [
            (
                await call(
                    site,
                    "hold",
                    appointment_reference=f"Appointment/{slot_id}",
                    patient_reference=f"Patient/{patients[n % 2]}",
                )
            ).status
            for n in range(4)
        ]
    assert codes == [200, 200, 200, 429]  # the user of both: no patient has been asked for three times


async def test_info_names_the_way_to_pay_when_a_booking_is_unpaid(site: FhirSite) -> None:
    slot_id, patient_id = (await put_slot(site.store)).replace("_", "-"), await put_patient(site.store)
    told = await call(
        site, "book", appointment_reference=f"Appointment/{slot_id}", patient_reference=f"Patient/{patient_id}"
    )
    issue = told.json["entry"][1]["resource"]["issue"][0]
    assert (told.json["entry"][1]["search"]["mode"], issue["severity"]) == ("outcome", "information")
    assert f"/v1/hospitals/h1/bookings/{only(told)['id']}/payments" in issue["details"]["text"]


async def test_user_is_the_patients_own_when_the_person_was_merged(site: FhirSite) -> None:
    slot_id = (await put_slot(site.store)).replace("_", "-")
    retired = await put_patient(site.store)
    await put_patient(site.store, LI)  # of the same user: each keeps a handle of their own
    async with site.store.write(HOSPITAL) as tx:
        await hear_patient(tx, msgspec.structs.replace(ZHANG, mrn="M1"))
        await hear_patient(tx, msgspec.structs.replace(LI, mrn="M2"))
        await merge_persons(tx, surviving_mrn="M2", retired_mrn="M1")
    told = await call(
        site, "hold", appointment_reference=f"Appointment/{slot_id}", patient_reference=f"Patient/{retired}"
    )
    booking = await get(site.store, only(told)["id"])
    assert (booking.user_ref, booking.patient_id) == ("u1", retired)
    async with site.store.read(HOSPITAL) as tx:
        _, survivor = await own_patient(tx, "portal", retired)
    assert booking.person_id == survivor.id
    assert survivor.record.name == LI.name
