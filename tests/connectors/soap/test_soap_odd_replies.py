"""Replies that could be taken for another order's, another patient's or another day's."""

from __future__ import annotations

import msgspec
import pytest

from connectors.port import HisReplyInvalid, Window
from connectors.soap.xml import decode
from mappings.canonical import Patient, RegistrationStatus
from tests.connectors.soap.soap_hospital import canned, golden_order

OURS, OTHERS = "20260105000000000001", "20260105000000000002"


def registrations(*rows: str) -> str:
    inside = "".join(f"<RegInfo>{row}</RegInfo>" for row in rows)
    return f"<Response><ResultCode>0</ResultCode><RegInfos>{inside}</RegInfos></Response>"


def row(status: str, order_no: str = "", number: str = "") -> str:
    return (
        f"<RegStatus>{status}</RegStatus><ExtOrderNo>{order_no}</ExtOrderNo><TransactionId>{number}</TransactionId>"
        "<PatientID>0000012345</PatientID><ScheduleItemCode>100||7</ScheduleItemCode>"
    )


async def test_query_back_takes_the_living_one_of_ours_when_several_are_told() -> None:
    reply = registrations(row("R", OTHERS, "T9"), row("C", OURS, "T1"), row("L", OURS, "T2"))
    async with canned(reply) as (_, his):
        found = await his.fetch_registration(golden_order())
        assert found is not None
        assert (found.status, found.his_id) == (RegistrationStatus.LOCKED, "T2")


async def test_query_back_is_refused_when_an_older_booking_could_pass_for_ours() -> None:
    # The same patient and schedule, and no number of ours: what it says of the lock in doubt is nothing.
    async with canned(registrations(row("C", number="T1"))) as (_, his):
        with pytest.raises(HisReplyInvalid):
            await his.fetch_registration(golden_order())


async def test_query_back_knows_the_booking_by_the_hospitals_number_when_it_repeats_none_of_ours() -> None:
    async with canned(registrations(row("L", number="T1"))) as (_, his):
        found = await his.fetch_registration(golden_order(his_refs={"transaction_id": "T1"}))
        assert found is not None
        assert found.his_id == "T1"


async def test_query_back_fails_when_one_of_its_records_cannot_be_read() -> None:
    async with canned(registrations(row("?", OURS), row("C", OURS))) as (_, his):
        with pytest.raises(HisReplyInvalid):
            await his.fetch_registration(golden_order())


async def test_days_stay_apart_when_they_share_a_schedule_id() -> None:
    reply = (
        "<Response><ResultCode>0</ResultCode><TimeRanges><TimeRange><ScheduleItemCode>100||7</ScheduleItemCode>"
        "<StartTime>08:00</StartTime><EndTime>08:30</EndTime><AvailableLeftNum>3</AvailableLeftNum>"
        "</TimeRange></TimeRanges></Response>"
    )
    schedule = msgspec.structs.replace(golden_order().schedule, his_refs={"time_ranges": "Y"})
    days = [schedule, msgspec.structs.replace(schedule, date=schedule.date.replace(day=6))]
    async with canned(reply) as (_, his):
        slots = await his.fetch_slots(Window(date_from=days[0].date, date_to=days[1].date), days)
        assert [slot.date.day for slot in slots] == [5, 6]


async def test_patient_with_another_number_is_not_the_one_asked_for() -> None:
    reply = (
        "<Response><ResultCode>0</ResultCode><PatInfos><PatInfo><PatientID>1</PatientID><PatientName>张伟</PatientName>"
        "<IDNo>110105194912310038</IDNo></PatInfo></PatInfos></Response>"
    )
    async with canned(reply) as (_, his):
        assert await his.find_patient(Patient(name="张伟", id_number="11010519491231002X")) == []
        assert len(await his.find_patient(Patient(name="张伟", id_number="110105194912310038"))) == 1


@pytest.mark.parametrize(
    ("data", "label", "text"),
    [
        ("<r>通</r>".encode("gbk"), "gbk", "<r>通</r>"),  # all of it also two-byte UTF-8
        ("<r>张伟</r>".encode(), "ISO-8859-1", "<r>张伟</r>"),  # what a servlet server says when nobody told it
        ("<r>张伟</r>".encode(), "us-ascii", "<r>张伟</r>"),
        ("<r>é</r>".encode("latin-1"), "ISO-8859-1", "<r>é</r>"),
        (b"<r/>", "zlib", "<r/>"),
        (b"<r/>", "punycode", "<r/>"),
        (b"<r/>", "undefined", "<r/>"),
    ],
)
def test_label_is_read_as_what_it_means(data: bytes, label: str, text: str) -> None:
    assert decode(data, label).text == text
