"""What a Neusoft-style hospital answers about plans and people, against records written by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

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
from tests.connectors.soap.golden.cases import DAY, WINDOW, refusal
from tests.connectors.soap.golden.neusoft_peer import RESULT, collapsed, done, failed, neusoft
from tests.connectors.soap.soap_hospital import (
    PERSON,
    ZONE,
    enveloped,
)

PLAN = (
    "<ID>7001</ID><SEE_DATE>2026-01-05</SEE_DATE><NOONCODE>1</NOONCODE><BEGIN_TIME>08:00</BEGIN_TIME>"
    "<END_TIME>11:30</END_TIME><DEPT_CODE>100</DEPT_CODE><DEPT_NAME>内科</DEPT_NAME><DOCT_CODE>D1</DOCT_CODE>"
    "<DOCT_NAME>李明</DOCT_NAME><REGLEVL_CODE>2</REGLEVL_CODE><REGLEVL_NAME>专家号</REGLEVL_NAME>"
    "<TOTCOST>50.00</TOTCOST><CANREG>1</CANREG><TIME_FLAG>1</TIME_FLAG><TEL_LMT>20</TEL_LMT>"
    "<TEL_REGED>17</TEL_REGED><ADDRESS/>"
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
    quota=20,
    his_refs={"time_flag": "1", "begin_time": "08:00", "end_time": "11:30", "reglevl_code": "2"},
)
SEGMENT = (
    "<ID>7001-1</ID><SCHEMA_ID>7001</SCHEMA_ID><BEGIN_TIME>{}</BEGIN_TIME><END_TIME>{}</END_TIME>"
    "<TEL_LMT>{}</TEL_LMT><TEL_REGED>{}</TEL_REGED>"
)


# --- plans ---------------------------------------------------------------------------------------------------------


async def test_departments_are_read_from_a_list_a_collapsed_one_and_a_root_for_each() -> None:
    one, two = (
        f"<DEPT_CODE>{code}</DEPT_CODE><DEPT_NAME>{name}</DEPT_NAME>"
        for code, name in (("100", "内科"), ("200", "外科"))
    )
    internal, surgical = Department(id="100", name="内科"), Department(id="200", name="外科")
    several = f"{RESULT}<Data>{one}</Data>\r\n<Data>{two}</Data>"
    async with neusoft(done(one, two), collapsed(one), several) as (_, his):
        assert await his.fetch_departments() == [internal, surgical]
        assert await his.fetch_departments() == [internal]
        assert await his.fetch_departments() == [internal, surgical]


async def test_schedule_is_read_with_its_fee_in_fen_and_its_quota() -> None:
    async with neusoft(done(PLAN)) as (_, his):
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


@pytest.mark.parametrize(
    "reply",
    [
        "DEBUG 12 rows\r\n" + collapsed(PLAN),
        "<?xml version='1.0' encoding='GBK'?>"
        + RESULT
        + "<?xml version='1.0' encoding='GBK'?>"
        + f"<Data>{PLAN}</Data>",
        "\ufeff\r\n" + done(PLAN),
    ],
    ids=["junk", "a prolog for each root", "white space"],
)
async def test_schedule_is_the_same_when_something_stands_before_a_root(reply: str) -> None:
    async with neusoft(reply) as (_, his):
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


async def test_schedule_is_read_from_gbk_bytes_under_a_utf8_label() -> None:
    async with neusoft(enveloped(done(PLAN)).encode("gbk")) as (_, his):
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


@pytest.mark.parametrize(
    ("noon", "session"), [("1", Session.AM), ("2", Session.PM), ("3", Session.NIGHT), ("4", Session.ALL_DAY)]
)
async def test_noon_four_is_the_whole_day_and_what_cannot_be_booked_is_stopped(noon: str, session: Session) -> None:
    plan = PLAN.replace("<NOONCODE>1<", f"<NOONCODE>{noon}<").replace("<CANREG>1<", "<CANREG>0<")
    async with neusoft(done(plan.replace("2026-01-05", "20260105"))) as (_, his):
        (schedule,) = await his.fetch_schedules(WINDOW)
        assert (schedule.session, schedule.status, schedule.date) == (session, ScheduleStatus.STOPPED, DAY)


@pytest.mark.parametrize(("quota", "known"), [("20", 20), ("-1", None), ("999", None), ("", None)])
async def test_quota_without_limit_is_none(quota: str, known: int | None) -> None:
    async with neusoft(done(PLAN.replace("<TEL_LMT>20<", f"<TEL_LMT>{quota}<"))) as (_, his):
        (schedule,) = await his.fetch_schedules(WINDOW)
        assert schedule.quota == known


@pytest.mark.parametrize(
    ("quota", "used", "seats"), [("20", "17", 3), ("20", "20", 0), ("20", "22", 0), ("20", "", 20), ("-1", "17", 999)]
)
async def test_seats_left_are_the_quota_less_what_is_used(quota: str, used: str, seats: int) -> None:
    async with neusoft(done(SEGMENT.format("08:00", "08:30", quota, used))) as (_, his):
        assert await his.fetch_slots(WINDOW, [SCHEDULE]) == [
            Slot(
                id="7001-1",
                schedule_id="7001",
                date=DAY,
                session=Session.AM,
                starts_at=dt.datetime(2026, 1, 5, 8, tzinfo=ZONE),
                ends_at=dt.datetime(2026, 1, 5, 8, 30, tzinfo=ZONE),
                seats_left=seats,
                his_refs={"time_id": "7001-1", "begin_time": "08:00", "end_time": "08:30"},
            )
        ]


async def test_segment_after_midnight_is_on_the_next_day() -> None:
    night = msgspec.structs.replace(
        SCHEDULE, session=Session.NIGHT, his_refs={"time_flag": "1", "begin_time": "20:00", "end_time": "02:00"}
    )
    async with neusoft(collapsed(SEGMENT.format("00:30", "01:00", "2", "1"))) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, [night])
        assert (slot.date, slot.starts_at) == (DAY, dt.datetime(2026, 1, 6, 0, 30, tzinfo=ZONE))


async def test_schedule_without_segments_is_one_slot() -> None:
    plan = PLAN.replace("<TIME_FLAG>1</TIME_FLAG>", "")
    async with neusoft(done(plan)) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, [msgspec.structs.replace(SCHEDULE, his_refs={})])
        assert (slot.id, slot.seats_left) == ("7001", 3)
        assert slot.ends_at == dt.datetime(2026, 1, 5, 11, 30, tzinfo=ZONE)


async def test_practitioners_and_stops_are_read() -> None:
    depts = done("<DEPT_CODE>100</DEPT_CODE><DEPT_NAME>内科</DEPT_NAME>")
    doctor = (
        "<DOCT_CODE>D1</DOCT_CODE><DOCT_NAME>李明</DOCT_NAME><LEVL_NAME>主任医师</LEVL_NAME><DEPT_CODE>100</DEPT_CODE>"
    )
    stop = "<ID>7001</ID><SEE_DATE>2026-01-05</SEE_DATE><NOONCODE>2</NOONCODE><STOP_REASON>会诊</STOP_REASON>"
    async with neusoft(depts, done(doctor), done(stop)) as (_, his):
        assert await his.fetch_practitioners() == [
            Practitioner(id="D1", name="李明", department_id="100", title="主任医师")
        ]
        assert await his.fetch_stops(WINDOW) == [
            ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="7001", date=DAY, session=Session.PM, reason="会诊")
        ]


# --- people --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "sex"),
    [("M", Sex.MALE), ("F", Sex.FEMALE), ("1", Sex.MALE), ("2", Sex.FEMALE), ("男", Sex.MALE), ("", Sex.UNKNOWN)],
)
async def test_patient_is_read_with_padded_number_and_masked_phone(code: str, sex: Sex) -> None:
    row = (
        f"<CARD_NO>0000012345</CARD_NO><NAME>张伟</NAME><SEX_CODE>{code}</SEX_CODE><BIRTHDAY>1990-03-07 00:00:00</BIRTHDAY>"
        "<IDENNO>11010119900307123X</IDENNO><HOME_TEL>138****0000</HOME_TEL><MCARD_NO>000077</MCARD_NO>"
    )
    async with neusoft(done(row)) as (_, his):
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


async def test_nobody_is_found_and_a_wrong_name_is_refused() -> None:
    async with neusoft(failed("未查询到患者信息"), failed("姓名与证件号不符:李四")) as (_, his):
        assert await his.find_patient(PERSON) == []
        assert await refusal(his.find_patient(PERSON)) == "patient_mismatch"
