"""Finding existing Appointments: ITI-118 of IHE ITI Scheduling 1.0.1, and what the key of the caller opens."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from booking.settings import Hospital
from tests.booking.api.fhir.calling import ID_CARD, call
from tests.booking.api.fhir.site import FhirSite
from tests.booking.world import (
    LI,
    ZHANG,
    booked,
    get,
    hold,
    make_schedule,
    put_patient,
    put_slot,
    remaining,
    send_and_answer,
)
from tests.stores import Wall

USER = "urn:hisbridge:user-ref"


async def two_patients(
    site: FhirSite, hospital: Hospital, wall: Wall | None = None
) -> tuple[str, str, list[str], list[str]]:
    """Zhang has three bookings with P1 (expert, D1) at three hours, Li one with P2 in D2: ids of patients, then of bookings.

    They were made a second apart where there is a clock to turn.
    """
    zhang, li = await put_patient(site.store), await put_patient(site.store, LI, user="u2")
    theirs = []
    for n in range(3):
        schedule = make_schedule(f"S{n}", clinic_type="专家")
        slot_id = await put_slot(site.store, schedule=schedule, slot_id=str(n), hour=8 + n)
        theirs.append((await hold(site.store, hospital, slot_id, zhang)).id)
        if wall is not None:
            wall.turn(1)
    schedule = make_schedule("S9", department_id="D2", practitioner_id="P2", practitioner_name="李医生")
    slot_id = await put_slot(site.store, schedule=schedule, slot_id="9", hour=14)
    return zhang, li, theirs, [(await hold(site.store, hospital, slot_id, li)).id]


async def test_appointments_are_found_by_identifiers_and_kinds_of_visit(site: FhirSite, hospital: Hospital) -> None:
    _, _, zhangs, lis = await two_patients(site, hospital)
    for query, expected in (
        (f"patient.identifier={USER}|u1", zhangs),
        (f"patient.identifier={USER}|u1,{USER}|u2", zhangs + lis),
        (f"patient.identifier={ID_CARD}|{ZHANG.id_number}", zhangs),
        (f"patient.identifier={USER}|u9", []),
        (f"patient:Patient.identifier={USER}|u2", lis),
        ("patient.identifier=urn:oid:1.2.3.4.5|12345", []),  # 2:3.118.4.1.3.1: a system that is not known finds nothing
        ("practitioner.identifier=urn:hisbridge:h1:practitioner|P2", lis),
        ("practitioner.identifier=P1", zhangs),
        ("practitioner.identifier=urn:other|P1", []),
        (f"patient.identifier={USER}|u1&practitioner.identifier=P2", []),
        ("specialty=urn:hisbridge:h1:department|D2", lis),
        (f"appointment-type={quote('专家')}", zhangs),
        (f"_id={zhangs[0]}&patient.identifier={USER}|u2", []),
        (f"_id={zhangs[0]}&patient.identifier={USER}|u1", zhangs[:1]),
    ):
        for told in (
            await site.ask(f"Appointment?{query}", headers={"Prefer": "handling=strict"}),
            await site.ask("Appointment/_search", "POST", query.encode(), headers={"Content-Type": FORM}),
        ):
            assert {a["id"] for a in told.resources} == set(expected), query
            assert str(told.link("self")).count("=") == query.count("=") + 1, query  # what was asked, and _count


FORM = "application/x-www-form-urlencoded"


async def test_total_is_on_every_page_when_a_patient_is_named(site: FhirSite, hospital: Hospital) -> None:
    """2:3.118.4.2.2: a total SHALL be there; a client of ITI-118 names the patient."""
    zhang, _, theirs, _ = await two_patients(site, hospital)
    pages = await site.pages(f"Appointment?patient=Patient/{zhang}&date=ge2031-01-01&_count=1")
    assert [page.json["total"] for page in pages] == [3, 3, 3]
    assert {a["id"] for page in pages for a in page.resources} == set(theirs)
    assert (await site.ask("Appointment?patient=nobody")).json["total"] == 0


@pytest.mark.parametrize(
    ("include", "kinds"),
    [
        ("Appointment:actor", {"Patient", "Practitioner", "HealthcareService"}),
        ("Appointment:actor:Practitioner", {"Practitioner"}),
        ("Appointment:actor:Location", set()),
        ("Appointment:patient", {"Patient"}),
        ("*", {"Patient", "Practitioner", "HealthcareService", "Slot"}),
    ],
)
async def test_included_is_what_is_asked_for_and_what_the_key_may_read(
    site: FhirSite, hospital: Hospital, include: str, kinds: set[str]
) -> None:
    """`booker` has no scope for patients: what it may not read does not come beside what it may."""
    slot_id = await put_slot(site.store, 3)
    for by, person in (("portal", ZHANG), ("booker", LI)):
        booking = await hold(site.store, hospital, slot_id, await put_patient(site.store, person, client=by), client=by)
        told = await site.ask(f"Appointment?_id={booking.id}&_include={include}", by=by)
        assert {r["resourceType"] for r in told.included} == kinds - ({"Patient"} if by == "booker" else set())
        assert f"_include={include.replace('*', 'Appointment:actor')}" in str(told.link("self"))
    probed = await site.ask(f"Appointment?patient.identifier={ID_CARD}|{ZHANG.id_number}", by="booker")
    assert (probed.status, probed.code) == (403, "forbidden_scope")


# --- in order, and since when -------------------------------------------------------------------------------------------


async def test_appointments_come_in_the_order_that_is_asked_for(site: FhirSite, hospital: Hospital, wall: Wall) -> None:
    zhang, _, theirs, _ = await two_patients(site, hospital, wall)
    await call(site, "book", appointment_resource=cancelling(theirs[0]))  # changed last
    first, second, third = theirs
    for sort, expected in (
        ("date", [first, second, third]),
        ("-date", [third, second, first]),
        ("_lastUpdated", [second, third, first]),
        ("-_lastUpdated", [first, third, second]),
    ):
        query = f"Appointment?patient={zhang}&_sort={sort}"
        strict = await site.ask(query, headers={"Prefer": "handling=strict"})
        assert [a["id"] for a in strict.resources] == expected, sort
        assert f"_sort={sort}" in str(strict.link("self"))
        pages = await site.pages(f"{query}&_count=1")
        assert [a["id"] for page in pages for a in page.resources] == expected, sort
        assert [page.json["total"] for page in pages] == [3, 3, 3]


@pytest.mark.parametrize(
    "query", ["Appointment?_sort=status", "Appointment?_sort=date,status", "Slot?_sort=-start", "Location?_sort=name"]
)
async def test_order_that_cannot_be_had_is_ignored_or_refused_as_the_caller_prefers(site: FhirSite, query: str) -> None:
    """R4 search.html#errors, http.html `Prefer: handling`."""
    lenient = await site.ask(query)
    assert (lenient.status, "_sort" in str(lenient.link("self"))) == (200, False)
    strict = await site.ask(query, headers={"Prefer": "handling=strict"})
    assert (strict.status, strict.code) == (400, "invalid_field")


async def test_page_of_another_order_is_no_page(site: FhirSite, hospital: Hospital) -> None:
    zhang, _, _, _ = await two_patients(site, hospital)
    told = await site.ask(f"Appointment?patient={zhang}&_count=1")
    cursor = str(told.link("next")).partition("_cursor=")[2]
    mixed = await site.ask(f"Appointment?patient={zhang}&_count=1&_sort=date&_cursor={cursor}")
    assert (mixed.status, mixed.code) == (400, "cursor_invalid")


async def test_what_has_changed_since_is_found_by_its_last_update(
    site: FhirSite, hospital: Hospital, wall: Wall
) -> None:
    zhang, _, theirs, _ = await two_patients(site, hospital, wall)
    before = {one: (await site.ask(f"Appointment/{one}")).json["meta"]["lastUpdated"] for one in theirs}
    await call(site, "book", appointment_resource=cancelling(theirs[1]))
    changed = (await site.ask(f"Appointment/{theirs[1]}")).json["meta"]["lastUpdated"]
    assert changed > max(before.values())
    for query, expected in (
        (f"_lastUpdated=gt{quote(max(before.values()))}", {theirs[1]}),
        (f"_lastUpdated=ge{quote(min(before.values()))}", set(theirs)),
        ("_lastUpdated=lt2000-01-01", set()),
    ):
        told = await site.ask(f"Appointment?patient={zhang}&{query}", headers={"Prefer": "handling=strict"})
        assert {a["id"] for a in told.resources} == expected, query
    assert (await site.ask("Slot?_lastUpdated=ge2031", headers={"Prefer": "handling=strict"})).status == 400


def cancelling(booking_id: str) -> dict[str, str]:
    return {"resourceType": "Appointment", "id": booking_id, "status": "cancelled"}


# --- PUT ------------------------------------------------------------------------------------------------------------------


async def test_appointment_is_cancelled_when_it_is_put_as_cancelled(site: FhirSite) -> None:
    """R4 http.html#update, #concurrency: the ETag goes back as If-Match; the same rules as `$book` and `/v1`."""
    slot_id, patient_id = await put_slot(site.store, 1), await put_patient(site.store)
    seat = f"Appointment/{slot_id.replace('_', '-')}"
    held = (await call(site, "hold", appointment_reference=seat, patient_reference=f"Patient/{patient_id}")).resources[
        0
    ]
    path, wish = f"Appointment/{held['id']}", {**held, "status": "cancelled", "comment": "ill"}
    stale = await site.ask(path, "PUT", wish, headers={"If-Match": 'W/"stale"'})
    assert (stale.status, stale.code) == (412, "version_conflict")
    for body, element in (
        ({**wish, "id": "another"}, "id"),
        ({k: v for k, v in wish.items() if k != "id"}, "id"),
        ({**held, "description": "x"}, "status"),
        ({**wish, "implicitRules": "urn:x"}, "implicitRules"),
    ):
        told = await site.ask(path, "PUT", body)
        assert (told.status, told.issue["expression"]) == (400, [element])
    assert (await site.ask(path, "PUT", wish, by="another")).status == 404
    assert (await get(site.store, held["id"])).state == "held"

    tag = (await site.ask(path)).headers["ETag"]
    put = await site.ask(path, "PUT", wish, headers={"If-Match": tag})
    assert (put.status, put.json["status"], put.headers["ETag"]) == (
        200,
        "cancelled",
        (await site.ask(path)).headers["ETag"],
    )
    assert (await get(site.store, held["id"])).reason == "ill"
    assert await remaining(site.store, slot_id) == 1
    again = await site.ask(path, "PUT", wish, headers={"Prefer": "return=minimal"})
    assert (again.status, again.body) == (200, b"")


async def test_cancellation_by_put_waits_for_the_hospital(site: FhirSite, hospital: Hospital) -> None:
    booking_id = await booked(site.store, hospital, await put_slot(site.store), await put_patient(site.store))
    put = await site.ask(f"Appointment/{booking_id}", "PUT", cancelling(booking_id))
    assert (put.json["status"], put.json["extension"][0]["valueCode"]) == ("booked", "cancelling")
    await send_and_answer(site.store, hospital, booking_id)
    assert (await site.ask(f"Appointment/{booking_id}")).json["status"] == "cancelled"
