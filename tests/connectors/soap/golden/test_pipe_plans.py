"""Pipe strings: schedules, segments and people, against records written by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from connectors.port import (
    HisRefused,
    HisReplyInvalid,
)
from mappings.canonical import (
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
from tests.connectors.soap.golden.cases import DAY, WEEK, refusal
from tests.connectors.soap.golden.pipe_peer import PIPE, asked, done, failed
from tests.connectors.soap.soap_hospital import (
    PERSON,
    ZONE,
    canned,
)

# --- schedules -----------------------------------------------------------------------------------------------------


SCHEDULE = (
    '{排班号:"8801",日期:"20260105",班次:"上午",科室编码:"100",科室名称:"内科",医生工号:"D1",医生姓名:"李明",'
    '号别:"副高号",挂号费:700,状态:"正常",就诊地点:"2楼"}'
)
SEGMENTS = '[{排班号:"8801",时段:"0900-0930",剩余号数:4}]'


async def test_schedules_are_asked_for_by_day_and_priced_in_fen() -> None:
    async with canned(done(f"[{SCHEDULE}]"), **PIPE) as (peer, his):
        assert await his.fetch_schedules(WEEK) == [
            Schedule(
                id="8801",
                date=DAY,
                session=Session.AM,
                department_id="100",
                department_name="内科",
                practitioner_id="D1",
                practitioner_name="李明",
                clinic_type="副高号",
                fee_fen=700,
                status=ScheduleStatus.OPEN,
                location="2楼",
            )
        ]
        assert asked(peer) == "PBCX|1|20260105|20260111|100"
        await his.fetch_schedules(msgspec.structs.replace(WEEK, department_id=None))
        assert asked(peer) == "PBCX|1|20260105|20260111|"


@pytest.mark.parametrize(
    ("word", "session"),
    [("下午", Session.PM), ("晚上", Session.NIGHT), ("夜晚", Session.NIGHT), ("全天", Session.ALL_DAY)],
)
async def test_session_and_state_are_words(word: str, session: Session) -> None:
    reply = done(SCHEDULE.replace("上午", word).replace("正常", "停诊"))
    async with canned(reply, **PIPE) as (_, his):
        (schedule,) = await his.fetch_schedules(WEEK)
        assert (schedule.session, schedule.status) == (session, ScheduleStatus.STOPPED)


async def test_record_is_left_out_when_its_session_is_no_word_that_we_know() -> None:
    reply = done(f"[{SCHEDULE.replace('上午', '凌晨')},{SCHEDULE}]")
    async with canned(reply, done(SCHEDULE.replace("上午", "凌晨")), **PIPE) as (_, his):
        assert len(await his.fetch_schedules(WEEK)) == 1
        with pytest.raises(HisReplyInvalid):
            await his.fetch_schedules(WEEK)


async def test_packed_time_becomes_a_slot() -> None:
    async with canned(done(SCHEDULE), done(SEGMENTS), **PIPE) as (peer, his):
        slots = await his.fetch_slots(WEEK, await his.fetch_schedules(WEEK))
        assert asked(peer) == "SDCX|1|8801"
        assert slots == [
            Slot(
                id="8801@0900-0930",
                schedule_id="8801",
                date=DAY,
                session=Session.AM,
                starts_at=dt.datetime(2026, 1, 5, 9, tzinfo=ZONE),
                ends_at=dt.datetime(2026, 1, 5, 9, 30, tzinfo=ZONE),
                seats_left=4,
                his_refs={"segment": "0900-0930"},
            )
        ]


@pytest.mark.parametrize(("told", "left"), [("4", 4), ('"0"', 0), ("99", 999), ("-1", 999), ('"-1"', 999)])
async def test_seats_are_many_when_the_hospital_counts_none(told: str, left: int) -> None:
    async with canned(done(SCHEDULE), done(SEGMENTS.replace("号数:4", f"号数:{told}")), **PIPE) as (_, his):
        (slot,) = await his.fetch_slots(WEEK, await his.fetch_schedules(WEEK))
        assert slot.seats_left == left


async def test_doctors_and_stops_are_told() -> None:
    doctors = done('[{医生工号:"D1",医生姓名:"李明",职称:"副主任医师",科室编码:"100"}]')
    stops = done('{排班号:"8801",日期:"2026-01-05",班次:"上午",停诊原因:"会议"}')
    async with canned(doctors, stops, **PIPE) as (peer, his):
        assert await his.fetch_practitioners() == [
            Practitioner(id="D1", name="李明", department_id="100", title="副主任医师")
        ]
        assert asked(peer) == "YSLB|1|"
        assert await his.fetch_stops(WEEK) == [
            ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="8801", date=DAY, session=Session.AM, reason="会议")
        ]
        assert asked(peer) == "TZCX|1|20260105|20260111"


# --- people --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "sex"), [("男", Sex.MALE), ("女", Sex.FEMALE), ("0", Sex.UNKNOWN), ("2", Sex.FEMALE), ("", Sex.UNKNOWN)]
)
async def test_patient_is_found_with_the_zeros_of_his_number(word: str, sex: Sex) -> None:
    person = f'病人ID:"0000012345",姓名:"张伟",性别:"{word}",出生日期:"19900307"'
    row = f'{{{person},证件号:"11010119900307123X",手机号:"138****0000"}}'
    async with canned(done(row), **PIPE) as (peer, his):
        assert await his.find_patient(PERSON) == [
            Patient(
                name="张伟",
                mrn="0000012345",
                sex=sex,
                birth_date=dt.date(1990, 3, 7),
                id_number="11010119900307123X",
            )
        ]
        assert asked(peer) == "BRCX|1||11010119900307123X|张伟"


async def test_nobody_is_found_when_the_hospital_says_so_in_a_sentence() -> None:
    async with canned(failed("病人不存在"), failed("存在多条记录"), failed("操作员不存在"), **PIPE) as (_, his):
        assert await his.find_patient(PERSON) == []
        assert await refusal(his.find_patient(PERSON)) == "patient_ambiguous"
        with pytest.raises(HisRefused, match="-1: 操作员不存在"):
            await his.find_patient(PERSON)
