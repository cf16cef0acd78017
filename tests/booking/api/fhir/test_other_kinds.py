"""Everything but slots: what it looks like, who may see it, how it is searched and included."""

from __future__ import annotations

import datetime as dt
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from booking import people
from booking.bookings import hear_registration
from booking.fetches import put_departments, put_practitioners
from booking.lifecycle import State
from booking.settings import Campus, Hospital
from booking.store.engine import Store
from mappings.canonical import (
    Attachment,
    Department,
    Observation,
    Practitioner,
    Registration,
    RegistrationStatus,
    Report,
    ReportKind,
    ReportStatus,
    ScheduleStatus,
)
from tests.booking.api.fhir.site import FhirSite, serve_fhir
from tests.booking.world import (
    DAY,
    HOSPITAL,
    LI,
    ZHANG,
    ZONE,
    booked,
    cancel,
    get,
    hold,
    locked,
    make_hospital,
    make_schedule,
    put_patient,
    put_slot,
    send_and_answer,
)

ISSUED = dt.datetime(2031, 3, 4, 10, 0, tzinfo=ZONE)
REPORT = Report(
    id="R1", kind=ReportKind.LAB, status=ReportStatus.FINAL, name="血常规", code="CBC", issued_at=ISSUED, effective_at=ISSUED,
    conclusion="无异常",
    observations=(
        Observation(name="白细胞", code="WBC", value="6.10", unit="10^9/L", reference_range="4-10", flag="N",
                    status=ReportStatus.FINAL),
        Observation(name="血型", code="ABO", value="A", status=ReportStatus.PARTIAL, flag="奇"),
        Observation(name="尿", status=ReportStatus.UNKNOWN),
    ),
    attachments=(Attachment(content_type="application/pdf", title="报告", data=b"%PDF"),),
)  # fmt: skip


def fhir_id(row_id: str) -> str:
    return row_id.replace("_", "-", 1)


# --- appointments ------------------------------------------------------------------------------------------------------


async def test_appointment_is_pending_until_the_hospital_has_registered_it(site: FhirSite, hospital: Hospital) -> None:
    slot_id, patient_id = await put_slot(site.store), await put_patient(site.store)
    booking = await hold(site.store, hospital, slot_id, patient_id)
    shown = (await site.ask(f"Appointment/{booking.id}")).json
    assert shown["status"] == "pending"
    assert shown["slot"] == [{"reference": f"Slot/{fhir_id(slot_id)}"}]
    assert shown["identifier"] == [{"system": "urn:hisbridge:order-no", "value": booking.order_no}]
    assert (shown["start"], shown["end"]) == ("2031-03-04T08:00:00+08:00", "2031-03-04T08:30:00+08:00")
    assert shown["minutesDuration"] == 30
    actors = {p["actor"]["reference"]: p["status"] for p in shown["participant"]}
    assert actors == {
        f"Patient/{patient_id}": "accepted",
        "HealthcareService/D1": "needs-action",
        "Practitioner/P1": "needs-action",
    }


async def test_appointment_follows_the_booking_when_it_moves(site: FhirSite, hospital: Hospital) -> None:
    slot_id, patient_id = await put_slot(site.store), await put_patient(site.store)
    booking_id = await booked(site.store, hospital, slot_id, patient_id)
    first = await site.ask(f"Appointment/{booking_id}")
    assert first.json["status"] == "booked"
    await cancel(site.store, hospital, booking_id)
    asked = await site.ask(f"Appointment/{booking_id}")
    assert asked.json["status"] == "booked"  # the hospital has not said yes yet
    assert asked.json["extension"][0]["valueCode"] == "cancelling"
    assert asked.headers["ETag"] != first.headers["ETag"]
    await send_and_answer(site.store, hospital, booking_id)
    over = (await site.ask(f"Appointment/{booking_id}")).json
    assert over["status"] == "cancelled"
    assert over["cancelationReason"]["coding"][0]["code"] == "pat"


@pytest.mark.parametrize(
    ("told", "state", "status"),
    [
        (RegistrationStatus.CHECKED_IN, State.CHECKED_IN, "checked-in"),
        (RegistrationStatus.FULFILLED, State.FULFILLED, "fulfilled"),
        (RegistrationStatus.NO_SHOW, State.NO_SHOW, "noshow"),
        (RegistrationStatus.RELEASED, State.CANCELLED, "cancelled"),
    ],
)
async def test_appointment_has_the_standards_word_when_the_hospital_tells_of_the_visit(
    site: FhirSite, hospital: Hospital, told: RegistrationStatus, state: State, status: str
) -> None:
    slot_id, patient_id = await put_slot(site.store), await put_patient(site.store)
    booking_id = await booked(site.store, hospital, slot_id, patient_id)
    news = Registration(status=told, queue_no="12", check_in_place="二楼", check_in_until=ISSUED)
    async with site.store.write(HOSPITAL) as tx:
        booking = await get(site.store, booking_id)
        await hear_registration(tx, hospital, booking, news)
    assert (await get(site.store, booking_id)).state == state
    shown = (await site.ask(f"Appointment/{booking_id}")).json
    assert shown["status"] == status
    assert shown["patientInstruction"].startswith(
        "queue number 12; check in at 二楼; check in until 2031-03-04T10:00:00"
    )


async def test_appointment_is_unknown_when_it_is_another_clients(site: FhirSite, hospital: Hospital) -> None:
    booking = await hold(site.store, hospital, await put_slot(site.store), await put_patient(site.store))
    answer = await site.ask(f"Appointment/{booking.id}", by="another")
    assert (answer.status, answer.code) == (404, "resource_unknown")
    assert (await site.ask(f"Appointment?_id={booking.id}", by="another")).resources == []
    assert (await site.ask(f"Appointment?identifier={booking.order_no}", by="another")).resources == []
    assert (await site.ask("Appointment", by="another")).resources == []


async def test_appointments_are_those_that_fit_when_searched(site: FhirSite, hospital: Hospital) -> None:
    zhang, li = await put_patient(site.store), await put_patient(site.store, LI, user="u2")
    one = await locked(site.store, hospital, await put_slot(site.store), zhang)
    schedule = make_schedule("S2", department_id="D2", practitioner_id="P2", practitioner_name="李医生")
    slot_id = await put_slot(site.store, schedule=schedule, hour=14)
    two = await booked(site.store, hospital, slot_id, li)
    order_no = (await get(site.store, one)).order_no
    for query, expected in (
        ("", {one, two}),
        (f"patient={zhang}", {one}),
        (f"patient=Patient/{li}", {two}),
        (f"actor=Patient/{li}", {two}),
        ("actor=Practitioner/P2", {two}),
        ("practitioner=P1", {one}),
        ("actor=HealthcareService/D1", {one}),
        ("status=pending", {one}),
        ("status=booked,pending", {one, two}),
        ("status:not=booked", {one}),
        ("part-status=needs-action", {one}),
        ("part-status=accepted", {one, two}),
        (f"date={DAY}", {one, two}),
        ("date=ge2031-03-04T12:00:00%2B08:00", {two}),
        (f"date=gt{DAY}", set()),
        (f"slot=Slot/{fhir_id(slot_id)}", {two}),
        ("service-type=D2", {two}),
        (f"identifier={order_no}", {one}),
        (f"identifier=urn:hisbridge:order-no|{order_no}", {one}),
        (f"identifier=urn:other|{order_no}", set()),
        (f"_id={one},{two},none", {one, two}),
        (f"_id={one}&status=booked", set()),
    ):
        found = (await site.ask(f"Appointment?{query}")).resources
        assert {a["id"] for a in found} == expected, query
    pages = await site.pages("Appointment?_count=1")
    assert [a["id"] for page in pages for a in page.resources] == sorted([one, two], reverse=True)
    whole = await site.ask(f"Appointment?_id={one}&_include=Appointment:slot&_include=Appointment:actor")
    kinds = sorted(r["resourceType"] for r in whole.included)
    assert kinds == ["HealthcareService", "Patient", "Practitioner", "Slot"]


# --- schedules, people, places -----------------------------------------------------------------------------------------


async def test_schedules_are_those_that_fit_when_searched(site: FhirSite) -> None:
    await put_slot(site.store)
    later = DAY + dt.timedelta(days=1)
    stopped = make_schedule(
        "S2", date=later, department_id="D2", practitioner_id=None, practitioner_name=None, status=ScheduleStatus.STOPPED,
        location="三楼", clinic_type="普通",
    )  # fmt: skip
    await put_slot(site.store, schedule=stopped, date=later)
    everything = {
        s["serviceType"][0]["coding"][0]["code"]: s for s in (await site.ask(f"Schedule?date=ge{DAY}")).resources
    }
    assert set(everything) == {"D1", "D2"}
    first, second = everything["D1"], everything["D2"]
    assert first["actor"][0] == {"reference": "Practitioner/P1", "display": "王医生"}
    assert first["planningHorizon"] == {"start": "2031-03-04", "end": "2031-03-04"}
    assert first["extension"][0]["valueMoney"] == {"value": 15.0, "currency": "CNY"}
    assert second["actor"][-1] == {"type": "Location", "display": "三楼"}
    for query, expected in (
        (f"date={DAY}", {"D1"}),
        (f"date=ge{DAY}&actor=Practitioner/P1", {"D1"}),
        (f"date=ge{DAY}&actor=D2", {"D2"}),
        (f"date=ge{DAY}&actor:HealthcareService=D2", {"D2"}),
        (f"date=ge{DAY}&active=false", {"D2"}),
        (f"date=ge{DAY}&active=true", {"D1"}),
        (f"date=gt{DAY}", {"D2"}),
        (f"_id={first['id']}", {"D1"}),
        (f"identifier={second['identifier'][0]['value']}", {"D2"}),
    ):
        found = (await site.ask(f"Schedule?{query}")).resources
        assert {s["serviceType"][0]["coding"][0]["code"] for s in found} == expected, query
    assert (await site.ask(f"Schedule/{first['id']}")).json == first
    pages = await site.pages(f"Schedule?date=ge{DAY}&_count=1")
    assert len({s["id"] for page in pages for s in page.resources}) == 2


@pytest.fixture
async def staffed(store: Store) -> Any:
    """A hospital of two campuses with its lists of clinics and doctors, one under an odd code, one only in a schedule."""
    campuses = (Campus(id="south", name="南院", address="南路一号"), Campus(id="北_院", name="北院"))
    hospital = make_hospital(campuses=campuses)
    async with store.write(HOSPITAL) as tx:
        await put_departments(
            tx, [Department(id="内 科/1", name="内科", campus="南院"), Department(id="D9", name="外科")]
        )
        await put_practitioners(tx, [Practitioner(id="王_1", name="王医生", department_id="内 科/1", title="主任医师")])
    await put_slot(store)
    async with serve_fhir(store, hospital) as site:
        yield site


async def test_people_and_places_are_found_by_what_is_told_of_them(staffed: FhirSite) -> None:
    for query, expected in (
        ("Practitioner?name=王", {"王_1", "P1"}),
        ("Practitioner?name:exact=王医", set()),
        ("Practitioner?name:contains=医", {"王_1", "P1"}),
        ("Practitioner?identifier=王_1", {"王_1"}),
        ("PractitionerRole?identifier=urn:hisbridge:h1:practitioner|王_1", {"王_1"}),
        ("HealthcareService?name=外", {"D9"}),
        ("HealthcareService?service-type=D1", {"D1"}),
        ("HealthcareService", {"内 科/1", "D9", "D1"}),
        ("HealthcareService?location=Location/south", {"内 科/1"}),
        ("Location", {"south", "北_院"}),
        ("Location?name=北", {"北_院"}),
        ("Location?address=南路", {"south"}),
        ("Location?address=一号", set()),
        ("Location?status=active", {"south", "北_院"}),
        ("Practitioner?active=false", set()),
        ("PractitionerRole?active=true&practitioner=P1", {"P1"}),
        ("HealthcareService?active=true&name=外", {"D9"}),
    ):
        found = (await staffed.ask(query)).resources
        assert {r["identifier"][0]["value"] for r in found} == expected, query
        for resource in found:
            assert (await staffed.ask(f"{resource['resourceType']}/{resource['id']}")).json == resource
    role = await staffed.ask(
        "PractitionerRole?identifier=王_1&_include=PractitionerRole:practitioner&_include=PractitionerRole:service"
        "&_include:iterate=HealthcareService:location"
    )
    assert role.resources[0]["code"] == [{"text": "主任医师"}]
    assert sorted(r["resourceType"] for r in role.included) == ["HealthcareService", "Location", "Practitioner"]
    pages = await staffed.pages("HealthcareService?_count=1")
    assert len({r["id"] for page in pages for r in page.resources}) == 3
    assert {page.json["total"] for page in pages} == {3}


# --- patients and reports ----------------------------------------------------------------------------------------------


async def test_patient_is_masked_and_only_their_own_client_finds_them(site: FhirSite) -> None:
    patient_id = await put_patient(site.store)
    shown = (await site.ask(f"Patient/{patient_id}")).json
    assert ZHANG.name not in str(shown)
    assert str(ZHANG.id_number) not in str(shown)
    assert str(ZHANG.phone) not in str(shown)
    assert shown["meta"]["security"][0]["code"] == "MASKED"
    document = f"urn:oid:2.16.840.1.113883.4.330.156|{ZHANG.id_number}"
    for value in (f"urn:hisbridge:patient|{patient_id}", "urn:hisbridge:user-ref|u1", "u1", document):
        assert [p["id"] for p in (await site.ask(f"Patient?identifier={value}")).resources] == [patient_id], value
        assert (await site.ask(f"Patient?identifier={value}", by="another")).resources == []
    assert (await site.ask(f"Patient?_id={patient_id}", by="another")).resources == []
    answer = await site.ask(f"Patient/{patient_id}", by="another")
    assert (answer.status, answer.code) == (404, "resource_unknown")
    assert (await site.ask("Patient")).status == 400  # nobody lists people


@pytest.fixture
async def reported(site: FhirSite) -> tuple[FhirSite, str]:
    """A patient whom the hospital knows, and whose reports it tells."""
    patient_id = await put_patient(site.store)
    async with site.store.write(HOSPITAL) as tx:
        _, person = await people.own_patient(tx, "portal", patient_id)
        await people.link_person(tx, person, msgspec.structs.replace(ZHANG, mrn="M1"))
    site.ward.reported = [
        REPORT,
        Report(id="R2", kind=ReportKind.EXAM, status=ReportStatus.PRELIMINARY, name="胸片"),
    ]
    return site, patient_id


async def test_reports_are_those_that_fit_when_searched(reported: tuple[FhirSite, str]) -> None:
    site, patient_id = reported
    of = f"DiagnosticReport?patient={patient_id}"
    for query, expected in (
        ("", {"R1", "R2"}),
        ("&status=final", {"R1"}),
        ("&category=LAB", {"R1"}),
        ("&code=CBC", {"R1"}),
        ("&identifier=R2", {"R2"}),
        ("&_sort=issued", {"R1", "R2"}),
        ("&_lastUpdated=gt2000-01-01", {"R1", "R2"}),
        (f"&issued={DAY}", {"R1"}),
        (f"&date=lt{DAY}", set()),
        (f"&subject=Patient/{patient_id}", {"R1", "R2"}),
    ):
        found = (await site.ask(of + query)).resources
        assert {r["identifier"][0]["value"] for r in found} == expected, query
    ordered = [(await site.ask(f"{of}&_sort={sort}")).resources for sort in ("issued", "-issued")]
    assert [[r["identifier"][0]["value"] for r in found] for found in ordered] == [
        ["R1", "R2"]
    ] * 2  # R2 has no instant: last
    result = ordered[0][0]["result"][0]["reference"]
    assert [r["identifier"][0]["value"] for r in (await site.ask(f"{of}&result={result}")).resources] == ["R1"]
    report = (
        await site.ask(f"{of}&status=final&_include=DiagnosticReport:result&_include=DiagnosticReport:patient")
    ).json
    results = [e["resource"] for e in report["entry"] if e["resource"]["resourceType"] == "Observation"]
    assert [r["id"] for r in results] == [
        r["reference"].partition("/")[2] for r in report["entry"][0]["resource"]["result"]
    ]
    assert results[0]["valueQuantity"] == {"value": 6.1, "unit": "10^9/L"}
    assert results[0]["interpretation"][0]["coding"][0]["code"] == "N"
    assert results[1]["valueString"] == "A"
    assert [r["status"] for r in results] == ["final", "preliminary", "unknown"]
    assert len(report["entry"]) == 5


async def test_report_and_results_are_read_when_they_are_ones_own(reported: tuple[FhirSite, str]) -> None:
    site, patient_id = reported
    report = (await site.ask(f"DiagnosticReport?patient={patient_id}&status=final")).resources[0]
    assert (await site.ask(f"DiagnosticReport/{report['id']}")).json == report
    results = (await site.ask(f"Observation?patient={patient_id}&code=WBC")).resources
    assert [r["id"] for r in results] == [f"{report['id']}.1"]
    assert (await site.ask(f"Observation/{report['id']}.1")).json == results[0]
    assert b'"value":6.10' in (await site.ask(f"Observation/{report['id']}.1")).body  # as precise as the hospital was
    url = report["presentedForm"][0]["url"]
    document = await site.ask(url)
    assert (document.status, document.body) == (200, b"%PDF")
    for path in (f"DiagnosticReport/{report['id']}", f"Observation/{report['id']}.1"):
        assert (await site.ask(path, by="another")).status == 404
    for path in (f"DiagnosticReport?patient={patient_id}", f"Observation?_id={report['id']}.1"):
        assert (await site.ask(path, by="another")).resources == []
    for path in ("DiagnosticReport", "Observation?code=WBC", f"DiagnosticReport?patient={patient_id},p2"):
        assert (await site.ask(path)).status == 400
    assert (await site.ask(f"Observation/{report['id']}.9")).status == 404
    assert (await site.ask(f"Observation/{report['id']}.")).status == 404


async def test_what_leaves_is_valid_when_the_hospital_and_portals_have_odd_texts(site: FhirSite) -> None:
    """What is checked is in `emitted`: control characters, what is empty, and codes and addresses with blanks are no FHIR."""
    async with site.store.write(HOSPITAL) as tx:
        await put_departments(tx, [Department(id="D\x01 \t 1", name="内\x01科\x0b"), Department(id="D2", name="")])
        await put_practitioners(tx, [Practitioner(id="P\n2", name="", department_id="D2", title="\x02")])
    odd = make_schedule(
        "S9", department_id="D\x01 \t 1", department_name="", practitioner_id="P\n2", practitioner_name="\x1f",
        clinic_type=" a  b\x03 ", location="\x0c",
    )  # fmt: skip
    slot_id = await put_slot(site.store, schedule=odd)
    person = msgspec.structs.replace(ZHANG, name="\x01", id_type="other document\x02", id_number="A 1", phone="")
    patient_id = await put_patient(site.store, person)
    booking = await hold(site.store, make_hospital(), slot_id, patient_id)
    await site.parts.feed.catch_up(10)
    for path in (
        f"Slot?start={DAY}&_include=Slot:schedule&_include:iterate=Schedule:actor",
        f"Slot/{fhir_id(slot_id)}", "HealthcareService", "Practitioner", "PractitionerRole", f"Patient/{patient_id}",
        f"Appointment/{booking.id}?_summary=true", f"Appointment?_id={booking.id}&_include=Appointment:actor",
    ):  # fmt: skip
        answer = await site.ask(path)
        assert answer.status == 200, path
    identifier = (await site.ask(f"Patient/{patient_id}")).json["identifier"][-1]
    assert identifier["system"] == "urn:hisbridge:id-type:other%20document%02"
    found = await site.ask(f"Patient?identifier={quote(identifier['system'])}|{quote('A 1')}")
    assert [p["id"] for p in found.resources] == [patient_id]
