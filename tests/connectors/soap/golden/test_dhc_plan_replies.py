"""What a DHC hospital answers about plans and people through each of its doors, against records written by hand."""

from __future__ import annotations

import datetime as dt

import pytest

from connectors.port import Accepted
from mappings.canonical import (
    NewPlace,
    Patient,
    Practitioner,
    ScheduleStatus,
    ScheduleStopped,
    Session,
    Sex,
    Slot,
    StopScope,
)
from tests.connectors.soap.golden.cases import (
    DAY,
    WINDOW,
    refusal,
)
from tests.connectors.soap.golden.dhc_doors import DEPARTMENTS, PLANS, SCHEDULE, Door, done, failed
from tests.connectors.soap.soap_hospital import (
    PERSON,
    ZONE,
)

# --- plans ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("letter", "session"), [("S", Session.AM), ("X", Session.PM), ("Y", Session.NIGHT), ("Q", Session.ALL_DAY)]
)
async def test_session_is_a_letter_and_a_stopped_schedule_is_told(door: Door, letter: str, session: Session) -> None:
    told = PLANS.replace("<SessionCode>S<", f"<SessionCode>{letter}<").replace(
        "<ScheduleStatus>N<", "<ScheduleStatus>S<"
    )
    async with door.canned(done(told.replace("2026-01-05", "20260105"))) as (_, his):
        (schedule,) = await his.fetch_schedules(WINDOW)
        assert (schedule.session, schedule.status, schedule.date) == (session, ScheduleStatus.STOPPED, DAY)


@pytest.mark.parametrize(("left", "seats"), [("3", 3), ("0", 0), ("-1", 999)])
async def test_time_range_is_a_slot_and_minus_one_is_without_limit(door: Door, left: str, seats: int) -> None:
    row = (
        "<ScheduleItemCode>100||7</ScheduleItemCode><StartTime>11:00</StartTime><EndTime>11:30</EndTime>"
        f"<AvailableTotalNum>10</AvailableTotalNum><AvailableLeftNum>{left}</AvailableLeftNum>"
    )
    async with door.canned(done(f"<TimeRanges>{row}</TimeRanges>")) as (_, his):
        assert await his.fetch_slots(WINDOW, [SCHEDULE]) == [
            Slot(
                id="100||7@11:00",
                schedule_id="100||7",
                date=DAY,
                session=Session.AM,
                starts_at=dt.datetime(2026, 1, 5, 11, tzinfo=ZONE),
                ends_at=dt.datetime(2026, 1, 5, 11, 30, tzinfo=ZONE),
                seats_left=seats,
                his_refs={"begin_time": "11:00", "end_time": "11:30"},
            )
        ]


async def test_time_range_says_itself_what_it_is_when_the_schedule_is_a_plan_of_several_days(door: Door) -> None:
    row = (
        "<ScheduleItemCode>100||7</ScheduleItemCode><ServiceDate>20260105</ServiceDate><SessionCode>X</SessionCode>"
        "<StartTime>11:00</StartTime><EndTime>11:30</EndTime><AvailableLeftNum>3</AvailableLeftNum><ScheduleStatus>S</ScheduleStatus>"
    )
    async with door.canned(done(f"<TimeRanges>{row}</TimeRanges>")) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, [SCHEDULE])
        assert (slot.date, slot.session, slot.status) == (DAY, Session.PM, ScheduleStatus.STOPPED)
    elsewhere = row.replace("20260105", "20260106")
    async with door.canned(done(f"<TimeRanges>{elsewhere}</TimeRanges>")) as (_, his):
        slots = await his.fetch_slots(WINDOW, [SCHEDULE])
        assert [(slot.date, slot.starts_at) for slot in slots] == [
            (dt.date(2026, 1, 6), dt.datetime(2026, 1, 6, 11, tzinfo=ZONE))
        ]


@pytest.mark.parametrize(("numbers", "seats"), [("5,6,7", 3), ("5", 1), ("", 0)])
async def test_packed_numbers_are_the_seats_of_a_schedule_without_time_ranges(
    door: Door, numbers: str, seats: int
) -> None:
    told = PLANS.replace("<TimeRangeFlag>Y<", "<TimeRangeFlag>N<").replace(">5,6,7<", f">{numbers}<")
    async with door.canned(done(told)) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert (slot.id, slot.seats_left) == ("100||7", seats)
        assert (slot.starts_at, slot.ends_at) == (
            dt.datetime(2026, 1, 5, 8, tzinfo=ZONE),
            dt.datetime(2026, 1, 5, 11, 30, tzinfo=ZONE),
        )


async def test_practitioners_and_stops_are_read(door: Door) -> None:
    doctor = (
        "<Doctors><Doctor><DoctorCode>D1</DoctorCode><DoctorName>李明</DoctorName><DoctorTitle>主任医师</DoctorTitle>"
        "<DepartmentCode>100</DepartmentCode></Doctor></Doctors>"
    )
    stop = (
        "<StopSchedules><StopSchedule><ScheduleCode>100||7</ScheduleCode><ServiceDate>2026-01-05</ServiceDate>"
        "<TimeRangeCode>X</TimeRangeCode><StartTime/><EndTime/><DepartmentCode>100</DepartmentCode><DoctorCode>D1</DoctorCode>"
        "</StopSchedule></StopSchedules>"
    )
    async with door.canned(done(DEPARTMENTS), done(doctor), done(stop)) as (_, his):
        assert await his.fetch_practitioners() == [
            Practitioner(id="D1", name="李明", department_id="100", title="主任医师")
        ]
        assert await his.fetch_stops(WINDOW) == [
            ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="100||7", date=DAY, session=Session.PM)
        ]


@pytest.mark.parametrize(
    ("hours", "end"),
    [(("08:30", "09:30"), dt.time(9, 30)), (("08:00", "11:30"), dt.time(11, 30)), (("08:00", ""), None)],
)
async def test_stop_is_of_the_time_ranges_in_it_when_it_names_hours(
    door: Door, hours: tuple[str, str], end: dt.time | None
) -> None:
    """The stop of a part of a session must never stop the rest of it."""
    starts, ends = hours
    stop = (
        "<StopSchedules><StopSchedule><ScheduleCode>100||7</ScheduleCode><ServiceDate>2026-01-05</ServiceDate>"
        f"<TimeRangeCode>S</TimeRangeCode><StartTime>{starts}</StartTime><EndTime>{ends}</EndTime>"
        "<ReplaceServiceDate>2026-01-06</ReplaceServiceDate><ReplaceStartTime>10:00</ReplaceStartTime>"
        "</StopSchedule></StopSchedules>"
    )
    async with door.canned(done(stop)) as (_, his):
        assert await his.fetch_stops(WINDOW) == [
            ScheduleStopped(
                scope=StopScope.SEGMENT,
                schedule_id="100||7",
                date=DAY,
                session=Session.AM,
                starts_at=dt.datetime.combine(DAY, dt.time.fromisoformat(starts), ZONE),
                ends_at=None if end is None else dt.datetime.combine(DAY, end, ZONE),
                moved_to=NewPlace(date=dt.date(2026, 1, 6), starts_at=dt.datetime(2026, 1, 6, 10, tzinfo=ZONE)),
            )
        ]


# --- people --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "sex"), [("1", Sex.MALE), ("2", Sex.FEMALE), ("9", Sex.UNKNOWN), ("", Sex.UNKNOWN)])
async def test_patient_is_read_with_padded_numbers_and_a_masked_phone(door: Door, code: str, sex: Sex) -> None:
    row = (
        f"<PatientID>0000012345</PatientID><PatientName>张伟</PatientName><Sex>{code}</Sex><DOB>19900307</DOB>"
        "<IDNo>11010119900307123X</IDNo><Mobile>138****0000</Mobile><PatientCard>00081234</PatientCard>"
    )
    async with door.canned(done(f"<PatInfos><PatInfo>{row}</PatInfo></PatInfos>")) as (_, his):
        assert await his.find_patient(PERSON) == [
            Patient(
                name="张伟",
                mrn="0000012345",
                sex=sex,
                birth_date=dt.date(1990, 3, 7),
                id_number="11010119900307123X",
                card_number="00081234",
            )
        ]


async def test_nobody_is_found_and_several_or_another_name_are_refused(door: Door) -> None:
    replies = (failed("-201", "无"), failed("-202", "存在多条记录"), failed("-203", "证件号与姓名不符"))
    async with door.canned(*replies) as (_, his):
        assert await his.find_patient(PERSON) == []
        assert await refusal(his.find_patient(PERSON)) == "patient_ambiguous"
        assert await refusal(his.find_patient(PERSON)) == "patient_mismatch"


async def test_new_patient_has_the_hospitals_number_with_its_zeros(door: Door) -> None:
    async with door.canned(done("<PatientID>0000012345</PatientID>")) as (_, his):
        assert await his.create_patient(PERSON) == Accepted(record=Patient(name="张伟", mrn="0000012345"))
