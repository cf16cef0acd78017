"""Messages that nobody here wrote, over a socket into the listener: acknowledged as they ask, mapped to what they say.

Every expected value was read from the file by hand; INTEROP.md says what is special in them. Local times carry +02:15.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from connectors.config import HospitalContext
from connectors.hl7v2 import Options, create
from connectors.port import Inbound, Stored
from loadtest.simulators.mllp import END, ER7, START, read_frame
from mappings.canonical import (
    Bill,
    BillIssued,
    BillItem,
    Identifier,
    Observation,
    PatientChanged,
    PatientMerged,
    RegistrationChanged,
    RegistrationStatus,
    Report,
    ReportIssued,
    ReportKind,
    ReportStatus,
    Sex,
)

AHEAD = dt.timezone(dt.timedelta(hours=2, minutes=15))
LAB_ZONE = dt.timezone(dt.timedelta(hours=7))


async def replay(corpus: Path, names: list[str]) -> tuple[list[Inbound], list[ER7]]:
    """Send the files one after the other on one connection; what the handler got, and what came back."""
    taken: list[Inbound] = []

    async def handler(inbound: Inbound) -> Stored:
        taken.append(inbound)
        return Stored()

    hospital = HospitalContext(id="corpus", zone=ZoneInfo("Asia/Shanghai"), currency="USD")
    options = Options(protocol="hl7v2", profile="hl7v2", listen_port=0, accept_processing_ids=["P", "T"])
    connector = create(hospital, "hl7", options)
    await connector.serve(handler)
    reader, writer = await asyncio.open_connection("127.0.0.1", connector.listen_port)
    try:
        for name in names:
            writer.write(START + (corpus / "hl7v2" / f"{name}.hl7").read_bytes() + END)
            await writer.drain()
        writer.write_eof()
        acks = []
        while (payload := await asyncio.wait_for(read_frame(reader), 10)) is not None:
            acks.append(ER7(payload.decode()))
        return taken, acks
    finally:
        writer.close()
        await writer.wait_closed()
        await connector.close()


async def read_one(corpus: Path, name: str) -> Inbound:
    (inbound,), _ = await replay(corpus, [name])
    assert inbound.problem is None
    return inbound


@pytest.mark.parametrize(
    ("name", "codes", "control_id"),
    [
        ("ADT-A04-01", ["AA"], "MSG00001"),
        ("ADT-A08-01", ["AA"], "MSG00001"),
        ("ADT-A40-01", [], "8919-40"),  # MSH-15 and MSH-16 are NE
        ("DFT-P03-01", ["AA"], "MSG00001"),
        ("LAB-ORU-1", ["AA"], "182"),
        ("ORU-R01-01", ["CA"], "2.16.840.1.114222.4.3.3.5.1.2-20120314235954.325"),  # AL, NE: the commit only
        ("SIU-S12-01", ["AA"], "MSG00012"),
        ("SIU-S26-01", ["AA"], "MSG00026"),
    ],
)
async def test_message_is_acknowledged_as_it_asks(corpus: Path, name: str, codes: list[str], control_id: str) -> None:
    (inbound,), acks = await replay(corpus, [name])
    assert [(ack.get("MSA", 1), ack.get("MSA", 2)) for ack in acks] == [(code, control_id) for code in codes]
    assert inbound.control_id == control_id


async def test_messages_have_keys_of_their_own_when_they_share_a_control_id(corpus: Path) -> None:
    taken, _ = await replay(corpus, ["ADT-A04-01", "ADT-A08-01", "ADT-A04-01"])
    keys = [inbound.dedup_key for inbound in taken]
    assert keys[0] == keys[2] != keys[1]


async def test_appointment_is_read_from_siu_s12(corpus: Path) -> None:
    (event,) = (await read_one(corpus, "SIU-S12-01")).events
    assert isinstance(event, RegistrationChanged)
    assert event.occurred_at == dt.datetime(2021, 9, 14, 11, 20, tzinfo=AHEAD)
    found = event.registration
    assert (found.order_no, found.his_id, found.mrn) == ("12345", "36996", "PATID1234")
    assert found.status is RegistrationStatus.REGISTERED
    # TQ1-7 and -8, not SCH-11.4 (2020-10-01) and not SCH-9/10 (60 s)
    assert found.starts_at == dt.datetime(2021, 9, 24, 9, 30, tzinfo=AHEAD)
    assert found.ends_at == dt.datetime(2021, 9, 24, 10, 20, tzinfo=AHEAD)
    assert (found.practitioner_id, found.practitioner_name) == ("1210", "Robert C GE")
    assert (found.department_id, found.department_name, found.check_in_place) == ("055", "GH Clinic", "Room01")
    assert found.encounter_no == "5001"
    assert found.his_refs == {"appointment": "36996"}


@pytest.mark.parametrize("name", ["SIU-S12-01", "SIU-S15-01"])
async def test_instants_are_those_of_the_converter_s_own_expected_bundle(corpus: Path, name: str) -> None:
    bundle = json.loads((corpus / "hl7v2" / "expected-fhir" / f"{name}-expected.json").read_text("utf-8-sig"))
    (appointment,) = [
        entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == "Appointment"
    ]
    (event,) = (await read_one(corpus, name)).events
    assert isinstance(event, RegistrationChanged)
    assert event.registration.starts_at == dt.datetime.fromisoformat(appointment["start"])
    assert event.registration.ends_at == dt.datetime.fromisoformat(appointment["end"])
    words = {RegistrationStatus.REGISTERED: "booked", RegistrationStatus.RELEASED: "cancelled"}
    assert words[event.registration.status] == appointment["status"]


@pytest.mark.parametrize("name", ["SIU-S12-01", "SIU-S15-01"])
async def test_everything_else_is_that_of_the_converter_s_own_expected_bundle(corpus: Path, name: str) -> None:
    """Codes, numbers and names (its ids and references are its own): INTEROP, v2 -> FHIR, Appointment."""
    bundle = json.loads((corpus / "hl7v2" / "expected-fhir" / f"{name}-expected.json").read_text("utf-8-sig"))
    resources = {f"{one['resourceType']}/{one['id']}": one for one in (entry["resource"] for entry in bundle["entry"])}
    (appointment,) = [one for one in resources.values() if one["resourceType"] == "Appointment"]
    actors = [resources[one["actor"]["reference"]] for one in appointment["participant"]]
    (event,) = (await read_one(corpus, name)).events
    assert isinstance(event, RegistrationChanged)
    told = event.registration

    numbers = {one["type"]["coding"][0]["code"]: one["value"] for one in appointment["identifier"]}
    assert numbers == {"PLAC": told.order_no, "FILL": told.his_id}
    (doctor,) = [one for one in actors if one["resourceType"] == "Practitioner"]
    assert doctor["identifier"] == [{"value": told.practitioner_id}]
    assert " ".join([*doctor["name"][0]["given"], doctor["name"][0]["family"]]) == told.practitioner_name
    (place,) = [one for one in actors if one["resourceType"] == "Location"]
    assert place["name"] == told.department_id
    assert place["description"] == f"{told.department_id}--{told.check_in_place}--{told.department_name}"
    (patient,) = [one for one in actors if one["resourceType"] == "Patient"]
    # It takes PID-2 for a number of the same type too; whose that is the standard leaves open, and PID-3 is the hospital's.
    typed = [one for one in patient["identifier"] if "type" in one]
    assert told.mrn in [one["value"] for one in typed if one["type"]["coding"][0]["code"] == "MR"][1:2]
    visits = [one for one in resources.values() if one["resourceType"] == "Encounter"]
    assert [one["identifier"][0]["value"] for one in visits] == ([told.encounter_no] if told.encounter_no else [])


async def test_person_of_an_adt_is_the_person_of_the_converter_s_expected_bundle(corpus: Path) -> None:
    """ADT-A04-01 tells of the same person as SIU-S12-01."""
    bundle = json.loads((corpus / "hl7v2" / "expected-fhir" / "SIU-S12-01-expected.json").read_text("utf-8-sig"))
    (patient,) = [e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "Patient"]
    (event,) = (await read_one(corpus, "ADT-A04-01")).events
    assert isinstance(event, PatientChanged)
    told = event.patient
    assert told.birth_date == dt.date.fromisoformat(patient["birthDate"])
    assert told.sex == patient["gender"]
    usual = patient["name"][0]
    assert told.name.split() == [*usual["given"][: len(told.name.split()) - 1], usual["family"]]
    values = {one["value"] for one in patient["identifier"]}
    assert {told.mrn, told.id_number} <= values


async def test_one_appointment_lives_through_its_messages(corpus: Path) -> None:
    names = ["SIU-S12-01", "SIU-S13-01", "SIU-S14-01", "SIU-S15-01", "SIU-S17-01", "SIU-S26-01"]
    taken, acks = await replay(corpus, names)
    assert [ack.get("MSA", 2) for ack in acks] == [f"MSG000{n}" for n in (12, 13, 14, 15, 17, 26)]
    events = [event for inbound in taken for event in inbound.events if isinstance(event, RegistrationChanged)]
    assert {event.registration.order_no for event in events} == {"12345"}
    assert [event.registration.status for event in events] == [
        RegistrationStatus.REGISTERED,
        RegistrationStatus.REGISTERED,
        RegistrationStatus.REGISTERED,
        RegistrationStatus.RELEASED,
        RegistrationStatus.ENTERED_IN_ERROR,
        RegistrationStatus.NO_SHOW,
    ]
    # S14 moves it from Room01 to Room02; S13 and S14 were sent in the same minute.
    assert [event.registration.check_in_place for event in events[:3]] == ["Room01", "Room01", "Room02"]
    assert events[1].occurred_at == events[2].occurred_at == dt.datetime(2021, 9, 20, 11, 26, tzinfo=AHEAD)


@pytest.mark.parametrize("name", ["ADT-A04-01", "ADT-A08-01"])
async def test_person_is_read_from_adt(corpus: Path, name: str) -> None:
    (event,) = (await read_one(corpus, name)).events
    assert isinstance(event, PatientChanged)
    person = event.patient
    assert person.mrn == "PATID1234"
    assert person.name == "ADAM A EVERYMAN"
    assert (person.birth_date, person.sex, person.phone) == (dt.date(1988, 8, 18), Sex.MALE, "78788788")
    assert person.identifiers == (
        Identifier(value="PATID1234", type="MR", system="test1"),
        Identifier(value="123456789", type="SS", system="USSSA"),
    )


async def test_two_persons_are_merged_by_adt_a40(corpus: Path) -> None:
    (event,) = (await read_one(corpus, "ADT-A40-01")).events
    assert event == PatientMerged(
        surviving_mrn="12345",
        retired_mrn="56789",
        occurred_at=dt.datetime(2019, 4, 23, 15, 1, 37, tzinfo=AHEAD),
    )


async def test_bill_is_read_from_dft(corpus: Path) -> None:
    (event,) = (await read_one(corpus, "DFT-P03-01")).events
    assert isinstance(event, BillIssued)
    # 100&USD is the extended amount of two at 50; the second FT1 has 120&USD and no id: 220.00 in all.
    assert event.bill == Bill(
        id="12345",
        amount_fen=22000,
        currency="USD",
        mrn="PATID1234",
        title="Xray exam chest 1 view",
        department_name="Radiology Deptt",
        issued_at=dt.datetime(2019, 11, 22, tzinfo=AHEAD),
        encounter_no="40007716",
        items=(
            BillItem(name="Xray exam chest 1 view", code="71045", amount_fen=10000, quantity="2"),
            BillItem(name="626.2", code="626.2", amount_fen=12000, quantity="1"),
        ),
        his_refs={"account": "4000776", "transaction": "12345"},
    )


async def test_two_reports_are_read_from_one_oru(corpus: Path) -> None:
    inbound = await read_one(corpus, "LAB-ORU-1")  # begins with a byte-order mark
    assert inbound.message_type == "ORU^R01"
    first, second = [event.report for event in inbound.events if isinstance(event, ReportIssued)]
    assert [(one.id, one.code, one.mrn) for one in (first, second)] == [
        ("82503246", "24317-0", "10006579"),
        ("890775544", "26464-8", "10006579"),
    ]
    assert (first.status, second.status) == (ReportStatus.FINAL, ReportStatus.UNKNOWN)  # the second has no OBR-25
    assert {one.kind for one in (first, second)} == {ReportKind.LAB}
    assert (len(first.observations), len(second.observations)) == (5, 5)
    assert first.observations[0] == Observation(
        name="LEUKOCYTES",
        code="11156-7",
        status=ReportStatus.REGISTERED,  # OBX-11 = I: results pending
    )
    assert first.observations[3] == Observation(
        name="HEMATOCRIT",
        code="20570-8",
        value="40.1",
        unit="%",
        flag="N",
        status=ReportStatus.PRELIMINARY,
        observed_at=dt.datetime(2014, 10, 6, 8, 30, tzinfo=LAB_ZONE),
    )
    assert [one.value for one in second.observations] == ["72", "2", "20", "6", "0"]


async def test_report_is_read_from_a_public_health_oru(corpus: Path) -> None:
    (event,) = (await read_one(corpus, "ORU-R01-01")).events
    assert isinstance(event, ReportIssued)
    assert event.occurred_at == dt.datetime(2012, 3, 14, 12, 59, tzinfo=dt.timezone(-dt.timedelta(hours=2, minutes=15)))
    report: Report = event.report
    assert (report.id, report.status, report.code) == ("986", ReportStatus.FINAL, "625-4")
    assert report.name == "Bacteria identified in Stool by Culture"
    assert report.mrn == "14"  # PID-3 has type PI, there is no MR
    assert report.effective_at == dt.datetime(2002, 2, 15, 7, 30, tzinfo=AHEAD)
    assert report.issued_at == dt.datetime(2002, 3, 15, 7, 30, tzinfo=AHEAD)
    (culture,) = report.observations  # the two OBX after SPM are about the specimen
    assert (culture.value, culture.flag) == ("Salmonella species", "A")
    assert (culture.status, culture.reference_range) == (ReportStatus.PRELIMINARY, "70-80")
    assert culture.note == "Submission of serum\nNo Antibodies Detected"
