"""BSXml: departments, schedules, segments and people, against records written by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt

import pytest

from connectors.port import Accepted
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
from tests.connectors.soap.golden.bsoft_peer import asked, done, failed
from tests.connectors.soap.golden.cases import DAY, WINDOW, refusal
from tests.connectors.soap.soap_hospital import (
    PERSON,
    ZONE,
    canned,
)

# --- schedules -----------------------------------------------------------------------------------------------------


SCHEDULE = (
    "<PBXH>8801</PBXH><GZRQ>2026-01-05</GZRQ><ZBLB>1</ZBLB><KSDM>100</KSDM><KSMC>内科</KSMC><YSDM>D1</YSDM>"
    "<YSXM>李明</YSXM><HYLB>副高号</HYLB><GHF>1.00</GHF><ZLF>6.00</ZLF><FYHJ>7</FYHJ><YYXE>20</YYXE><TGBZ>0</TGBZ>"
    "<JZDZ>门诊楼2层</JZDZ>"
)
SCHEDULES = f"<Count>1</Count><Rows><Row>{SCHEDULE}</Row></Rows>"
SEGMENT = "<SDXH>3</SDXH><PBXH>8801</PBXH><JZSD>09:00-09:30</JZSD><SYHS>4</SYHS><TGBZ>0</TGBZ>"
SEGMENTS = f"<Rows><Row>{SEGMENT}</Row></Rows>"


async def test_schedule_request_and_reply_mean_what_they_say() -> None:
    async with canned(done(SCHEDULES), profile="bsoft@1") as (peer, his):
        schedules = await his.fetch_schedules(WINDOW)
        assert asked(peer) == (
            "ScheduleQuery",
            {"JGID": "1", "KSRQ": "2026-01-05", "JSRQ": "2026-01-05", "KSDM": "100", "YSDM": ""},
        )
        assert schedules == [
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
                quota=20,
                location="门诊楼2层",
            )
        ]


async def test_schedule_is_the_same_when_the_list_of_one_collapsed() -> None:
    collapsed = f"<Count>1</Count><Rows>{SCHEDULE}</Rows>"
    async with canned(done(SCHEDULES), done(collapsed), profile="bsoft@1") as (_, his):
        assert await his.fetch_schedules(WINDOW) == await his.fetch_schedules(WINDOW)


@pytest.mark.parametrize(
    ("code", "session"), [("1", Session.AM), ("2", Session.PM), ("3", Session.NIGHT), ("4", Session.ALL_DAY)]
)
async def test_session_is_a_number_and_a_stop_a_flag(code: str, session: Session) -> None:
    reply = SCHEDULES.replace("<ZBLB>1", f"<ZBLB>{code}").replace("<TGBZ>0", "<TGBZ>1")
    async with canned(done(reply), profile="bsoft@1") as (_, his):
        (schedule,) = await his.fetch_schedules(WINDOW)
        assert (schedule.session, schedule.status) == (session, ScheduleStatus.STOPPED)


@pytest.mark.parametrize(("told", "quota"), [("20", 20), ("0", 0), ("-1", None), ("99", None), ("", None)])
async def test_quota_is_none_when_the_hospital_sets_no_limit(told: str, quota: int | None) -> None:
    async with canned(done(SCHEDULES.replace("<YYXE>20", f"<YYXE>{told}")), profile="bsoft@1") as (_, his):
        (schedule,) = await his.fetch_schedules(WINDOW)
        assert schedule.quota == quota


async def test_packed_time_becomes_a_slot() -> None:
    async with canned(done(SCHEDULES), done(SEGMENTS), profile="bsoft@1") as (peer, his):
        slots = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert asked(peer) == ("SegmentQuery", {"JGID": "1", "PBXH": "8801", "GZRQ": "2026-01-05", "ZBLB": "1"})
        assert slots == [
            Slot(
                id="8801@3",
                schedule_id="8801",
                date=DAY,
                session=Session.AM,
                starts_at=dt.datetime(2026, 1, 5, 9, tzinfo=ZONE),
                ends_at=dt.datetime(2026, 1, 5, 9, 30, tzinfo=ZONE),
                seats_left=4,
                his_refs={"segment_no": "3"},
            )
        ]


@pytest.mark.parametrize(("told", "left"), [("4", 4), ("0", 0), ("-1", 999)])
async def test_seats_are_many_when_the_hospital_counts_none(told: str, left: int) -> None:
    reply = SEGMENTS.replace("<SYHS>4", f"<SYHS>{told}")
    async with canned(done(SCHEDULES), done(reply), profile="bsoft@1") as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert slot.seats_left == left


async def test_segment_ends_on_the_next_day_when_it_crosses_midnight() -> None:
    schedules = SCHEDULES.replace("<ZBLB>1", "<ZBLB>3")
    segments = SEGMENTS.replace("09:00-09:30", "23:30-00:00")
    async with canned(done(schedules), done(segments), profile="bsoft@1") as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert (slot.starts_at.isoformat(), slot.ends_at.isoformat()) == (
            "2026-01-05T23:30:00+08:00",
            "2026-01-06T00:00:00+08:00",
        )


async def test_doctors_and_stops_are_told() -> None:
    doctors = "<Rows><Row><YGDM>D1</YGDM><YGXM>李明</YGXM><YGJB>副主任医师</YGJB><KSDM>100</KSDM></Row></Rows>"
    stops = "<Rows><Row><PBXH>8801</PBXH><GZRQ>20260105</GZRQ><ZBLB>1</ZBLB><TZYY>会议</TZYY></Row></Rows>"
    async with canned(done(doctors), done(stops), profile="bsoft@1") as (peer, his):
        assert await his.fetch_practitioners() == [
            Practitioner(id="D1", name="李明", department_id="100", title="副主任医师")
        ]
        assert asked(peer) == ("DoctorQuery", {"JGID": "1", "KSDM": ""})
        assert await his.fetch_stops(WINDOW) == [
            ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="8801", date=DAY, session=Session.AM, reason="会议")
        ]


# --- people --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "sex"), [("0", Sex.UNKNOWN), ("1", Sex.MALE), ("2", Sex.FEMALE), ("9", Sex.UNKNOWN), ("", Sex.UNKNOWN)]
)
async def test_patient_is_found_with_the_zeros_of_his_number(code: str, sex: Sex) -> None:
    row = (
        f"<Rows><Row><BRID>0000012345</BRID><BRXM>张伟</BRXM><BRXB>{code}</BRXB><CSNY>19900307</CSNY>"
        "<SFZH>11010119900307123X</SFZH><LXDH>138****0000</LXDH><JZKH>00081234</JZKH></Row></Rows>"
    )
    async with canned(done(row), profile="bsoft@1") as (peer, his):
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
        assert asked(peer) == (
            "PatientQuery",
            {"JGID": "1", "BRID": "", "JZKH": "", "ZJLX": "1", "SFZH": "11010119900307123X", "BRXM": "张伟"},
        )


async def test_nobody_is_found_when_the_hospital_knows_no_such_patient() -> None:
    async with canned(failed("2001", "病人不存在"), failed("2002", "存在多条记录"), profile="bsoft@1") as (_, his):
        assert await his.find_patient(PERSON) == []
        assert await refusal(his.find_patient(PERSON)) == "patient_ambiguous"


async def test_patient_is_created_with_codes_of_the_dialect() -> None:
    async with canned(done("<BRID>0000012345</BRID>"), profile="bsoft@1") as (peer, his):
        outcome = await his.create_patient(PERSON)
        assert outcome == Accepted(record=Patient(name="张伟", mrn="0000012345"))
        assert asked(peer) == (
            "PatientCreate",
            {
                "JGID": "1",
                "BRXM": "张伟",
                "BRXB": "1",
                "CSNY": "",
                "ZJLX": "1",
                "SFZH": "11010119900307123X",
                "LXDH": "13800000000",
                "LXDZ": "",
                "BRXZ": "1",
            },
        )
