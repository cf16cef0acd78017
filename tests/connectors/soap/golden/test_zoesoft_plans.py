"""What a zoesoft hospital answers about plans and people, against records written by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from connectors.port import Rejected
from mappings.canonical import (
    Department,
    Patient,
    Practitioner,
    Schedule,
    ScheduleStatus,
    ScheduleStopped,
    Session,
    Sex,
    Slot,
    StopScope,
)
from tests.connectors.soap.golden.cases import DAY, WINDOW
from tests.connectors.soap.golden.zoesoft_peer import done, failed, zoesoft
from tests.connectors.soap.soap_hospital import (
    PERSON,
    ZONE,
)

PLAN = (
    "<ScheduleId>7001</ScheduleId><SeeDate>2026-01-05</SeeDate><Noon>1</Noon><BeginTime>08:00</BeginTime>"
    "<EndTime>11:30</EndTime><DeptCode>100</DeptCode><DeptName>内科</DeptName><DoctorCode>D1</DoctorCode>"
    "<DoctorName>李明</DoctorName><DoctorTitle>主任医师</DoctorTitle><RegTypeName>专家号</RegTypeName>"
    "<TotalFee>50</TotalFee><TimeFlag>1</TimeFlag><Status>1</Status><LeftNum>3</LeftNum><Address/>"
)
SCHEDULE = Schedule(
    id="7001",
    date=DAY,
    session=Session.AM,
    department_id="100",
    department_name="内科",
    practitioner_id="D1",
    practitioner_name="李明",
    clinic_type="专家号",
    fee_fen=5000,
    his_refs={"time_flag": "1", "begin_time": "08:00", "end_time": "11:30"},
)
SEGMENT = (
    "<ScheduleId>7001</ScheduleId><SegmentId>7001-1</SegmentId><BeginTime>{}</BeginTime><EndTime>{}</EndTime>"
    "<LeftNum>{}</LeftNum>"
)


# --- plans ---------------------------------------------------------------------------------------------------------


async def test_departments_are_read_from_a_list_and_from_a_list_of_one_that_collapsed() -> None:
    one = "<DeptCode>100</DeptCode><DeptName>内科</DeptName><ParentCode>1</ParentCode><Address>东院</Address>"
    both = done(f"<Depts><Dept>{one}</Dept></Depts>"), done(f"<Depts>{one}</Depts>")
    async with zoesoft(*both) as (_, his):
        for _ in both:
            assert await his.fetch_departments() == [Department(id="100", name="内科", parent_id="1", campus="东院")]


async def test_schedule_is_read_with_its_fee_in_fen() -> None:
    async with zoesoft(done(f"<Schedules><Schedule>{PLAN}</Schedule></Schedules>")) as (_, his):
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


async def test_schedule_is_the_same_when_junk_stands_before_it_and_the_list_collapsed() -> None:
    reply = "调试:\r\n<?xml version='1.0' encoding='gb2312'?>" + done(f"<Schedules>{PLAN}</Schedules>")
    async with zoesoft(reply) as (_, his):
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


@pytest.mark.parametrize(
    ("noon", "session"), [("1", Session.AM), ("2", Session.PM), ("3", Session.NIGHT), ("4", Session.ALL_DAY)]
)
async def test_noon_four_is_the_whole_day(noon: str, session: Session) -> None:
    plan = PLAN.replace("<Noon>1<", f"<Noon>{noon}<").replace("<Status>1<", "<Status>0<")
    async with zoesoft(done(f"<Schedules><Schedule>{plan}</Schedule></Schedules>")) as (_, his):
        (schedule,) = await his.fetch_schedules(WINDOW)
        assert (schedule.session, schedule.status) == (session, ScheduleStatus.STOPPED)


async def test_practitioners_are_those_who_stand_on_the_plan_once_each() -> None:
    nobody = PLAN.replace("<DoctorCode>D1<", "<DoctorCode><").replace("<DoctorName>李明<", "<DoctorName><")
    afternoon = PLAN.replace("<Noon>1<", "<Noon>2<")
    rows = "".join(f"<Schedule>{plan}</Schedule>" for plan in (PLAN, afternoon, nobody))
    depts = done("<Depts><Dept><DeptCode>100</DeptCode><DeptName>内科</DeptName></Dept></Depts>")
    async with zoesoft(depts, done(f"<Schedules>{rows}</Schedules>")) as (_, his):
        assert await his.fetch_practitioners() == [
            Practitioner(id="D1", name="李明", department_id="100", title="主任医师")
        ]


@pytest.mark.parametrize(("left", "seats"), [("3", 3), ("0", 0), ("-1", 999)])
async def test_segments_become_slots_and_minus_one_is_without_limit(left: str, seats: int) -> None:
    segment = SEGMENT.format("08:00", "08:30", left)
    async with zoesoft(done(f"<Segments><Segment>{segment}</Segment></Segments>")) as (_, his):
        assert await his.fetch_slots(WINDOW, [SCHEDULE]) == [
            Slot(
                id="7001-1",
                schedule_id="7001",
                date=DAY,
                session=Session.AM,
                starts_at=dt.datetime(2026, 1, 5, 8, tzinfo=ZONE),
                ends_at=dt.datetime(2026, 1, 5, 8, 30, tzinfo=ZONE),
                seats_left=seats,
                his_refs={"segment_id": "7001-1", "begin_time": "08:00", "end_time": "08:30"},
            )
        ]


async def test_segment_after_midnight_is_on_the_next_day() -> None:
    night = msgspec.structs.replace(
        SCHEDULE, session=Session.NIGHT, his_refs={"time_flag": "1", "begin_time": "20:00", "end_time": "02:00"}
    )
    async with zoesoft(done(f"<Segments>{SEGMENT.format('00:30', '01:00', '1')}</Segments>")) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, [night])
        assert (slot.date, slot.starts_at) == (DAY, dt.datetime(2026, 1, 6, 0, 30, tzinfo=ZONE))


async def test_schedule_without_segments_is_one_slot() -> None:
    plan = PLAN.replace("<TimeFlag>1<", "<TimeFlag>0<")
    async with zoesoft(done(f"<Schedules><Schedule>{plan}</Schedule></Schedules>")) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, [msgspec.structs.replace(SCHEDULE, his_refs={"time_flag": "0"})])
        assert (slot.id, slot.seats_left) == ("7001", 3)
        assert slot.ends_at == dt.datetime(2026, 1, 5, 11, 30, tzinfo=ZONE)


async def test_stop_is_read_with_its_reason() -> None:
    stop = "<Stop><ScheduleId>7001</ScheduleId><SeeDate>2026-01-05</SeeDate><Noon>2</Noon><Reason>会诊</Reason></Stop>"
    async with zoesoft(done(f"<Stops>{stop}</Stops>")) as (_, his):
        assert await his.fetch_stops(WINDOW) == [
            ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="7001", date=DAY, session=Session.PM, reason="会诊")
        ]


# --- people --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "sex"), [("0", Sex.UNKNOWN), ("1", Sex.MALE), ("2", Sex.FEMALE), ("9", Sex.UNKNOWN), ("", Sex.UNKNOWN)]
)
async def test_patient_is_read_with_padded_number_and_masked_phone(code: str, sex: Sex) -> None:
    row = (
        f"<PatientId>0000012345</PatientId><PatientName>张伟</PatientName><Sex>{code}</Sex><Birthday>19900307</Birthday>"
        "<IdNo>11010119900307123X</IdNo><Phone>138****0000</Phone><CardNo>000077</CardNo>"
    )
    async with zoesoft(done(f"<Patients><Patient>{row}</Patient></Patients>")) as (_, his):
        assert await his.find_patient(PERSON) == [
            Patient(
                name="张伟",
                mrn="0000012345",
                sex=sex,
                birth_date=dt.date(1990, 3, 7),
                id_number="11010119900307123X",
                card_number="000077",
            )
        ]


async def test_nobody_is_found_when_the_hospital_says_so_in_words() -> None:
    async with zoesoft(failed("未查询到患者信息"), failed("患者不存在。")) as (_, his):
        assert await his.find_patient(PERSON) == []
        assert await his.find_patient(PERSON) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("姓名与证件号不符", "patient_mismatch"),
        ("存在多条患者信息", "patient_ambiguous"),
        ("患者已建档", "already_exists"),
    ],
)
async def test_new_patient_is_refused_for_the_reason_in_the_words(text: str, code: str) -> None:
    async with zoesoft(failed(text)) as (_, his):
        assert await his.create_patient(PERSON) == Rejected(code=code, text=text)
