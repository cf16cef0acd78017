"""Finding existing Appointments: ITI-118 of IHE ITI Scheduling 1.0.1, and what the key of the caller opens."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from booking.settings import Hospital
from tests.booking.api.fhir.calling import ID_CARD
from tests.booking.api.fhir.site import FhirSite
from tests.booking.world import LI, ZHANG, hold, make_schedule, put_patient, put_slot

USER = "urn:hisbridge:user-ref"


async def two_patients(site: FhirSite, hospital: Hospital) -> tuple[str, str, list[str], list[str]]:
    """Zhang has three bookings with P1 (expert, D1) on three days, Li one with P2 in D2: ids of patients, then of bookings."""
    zhang, li = await put_patient(site.store), await put_patient(site.store, LI, user="u2")
    theirs = []
    for n in range(3):
        schedule = make_schedule(f"S{n}", clinic_type="专家")
        slot_id = await put_slot(site.store, schedule=schedule, slot_id=str(n), hour=8 + n)
        theirs.append((await hold(site.store, hospital, slot_id, zhang)).id)
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
