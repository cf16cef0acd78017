"""What a 12320 platform answers about departments, schedules and people, against records written by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt
import threading
from typing import Any

import msgspec
import pytest

from connectors.port import (
    Accepted,
    HisReplyInvalid,
)
from mappings.canonical import (
    Department,
    Patient,
    Practitioner,
    Schedule,
    ScheduleStatus,
    Session,
    Sex,
    Slot,
)
from mappings.engine import RecordMap
from tests.connectors.soap.golden.cases import DAY, WINDOW
from tests.connectors.soap.golden.jkt12320_peer import (
    DEPTS,
    FOUND,
    asked,
    at,
    platform,
    refused,
    told,
)
from tests.connectors.soap.soap_hospital import PERSON

REG = (
    "<REG><REG_ID>R7</REG_ID><DEPT_ID>100</DEPT_ID><DEPT_NAME>内科</DEPT_NAME><DOCTOR_ID>D1</DOCTOR_ID>"
    "<DOCTOR_NAME>李明</DOCTOR_NAME><REG_LEVEL>专家号</REG_LEVEL><REG_DATE>2026-01-05</REG_DATE><TIME_FLAG>1</TIME_FLAG>"
    "<BEGIN_TIME>08:00</BEGIN_TIME><END_TIME>11:30</END_TIME><REG_STATUS>1</REG_STATUS><ISTIME>1</ISTIME>"
    "<TOTAL>20</TOTAL><OVER_COUNT>3</OVER_COUNT><REG_FEE>100</REG_FEE><TREAT_FEE>600</TREAT_FEE></REG>"
)
SCHEDULES = f"<RES><REG_LIST>{REG}</REG_LIST></RES>"
SCHEDULE = Schedule(
    id="R7",
    date=DAY,
    session=Session.AM,
    department_id="100",
    department_name="内科",
    practitioner_id="D1",
    practitioner_name="李明",
    clinic_type="专家号",
    fee_fen=700,
    his_refs={
        "has_segments": "1",
        "begin_time": "08:00",
        "end_time": "11:30",
        "reg_fee_fen": "100",
        "treat_fee_fen": "600",
    },
)


# --- master data and schedules -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "res",
    [
        DEPTS,
        "<RES><DEPT_LIST><DEPT_ID>100</DEPT_ID><DEPT_NAME>東院内科</DEPT_NAME></DEPT_LIST></RES>",
    ],
    ids=["list of one", "collapsed"],
)
async def test_departments_are_the_same_when_a_list_of_one_collapsed(res: str) -> None:
    async with platform(told(res)) as (_, his):
        assert await his.fetch_departments() == FOUND


async def test_lists_may_be_repeated_elements() -> None:
    row = "<DOCTOR_LIST><DOCTOR_ID>{0}</DOCTOR_ID><DOCTOR_NAME>医{0}</DOCTOR_NAME><DEPT_ID>100</DEPT_ID></DOCTOR_LIST>"
    async with platform(told(DEPTS), told(f"<RES>{row.format(1)}{row.format(2)}</RES>")) as (_, his):
        assert await his.fetch_practitioners() == [
            Practitioner(id="1", name="医1", department_id="100"),
            Practitioner(id="2", name="医2", department_id="100"),
        ]


async def test_schedule_has_the_sum_of_both_fees() -> None:
    async with platform(told(SCHEDULES)) as (_, his):
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


@pytest.mark.parametrize(("rows", "aside"), [(3, False), (300, True)])
async def test_long_list_is_mapped_beside_the_event_loop_however_deep_it_stands(
    rows: int, aside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    read = RecordMap._read

    def noted(self: RecordMap, run: Any) -> Any:
        threads.append(threading.get_ident())
        return read(self, run)

    monkeypatch.setattr(RecordMap, "_read", noted)
    async with platform(told(f"<RES><REG_LIST>{REG * rows}</REG_LIST></RES>")) as (_, his):
        assert len(await his.fetch_schedules(WINDOW)) == rows
    assert [thread != threading.get_ident() for thread in threads] == [aside]


@pytest.mark.parametrize(
    ("flag", "session"), [("2", Session.PM), ("3", Session.NIGHT), ("4", Session.ALL_DAY), ("0", None)]
)
async def test_session_is_translated_and_never_guessed(flag: str, session: Session | None) -> None:
    reply = told(SCHEDULES.replace("<TIME_FLAG>1", f"<TIME_FLAG>{flag}"))
    async with platform(reply) as (_, his):
        if session is None:  # the whole day at one platform, the morning at another: the site says which
            with pytest.raises(HisReplyInvalid):
                await his.fetch_schedules(WINDOW)
        else:
            assert [s.session for s in await his.fetch_schedules(WINDOW)] == [session]


async def test_stopped_schedule_is_told_by_its_status() -> None:
    async with platform(told(SCHEDULES.replace("<REG_STATUS>1", "<REG_STATUS>2"))) as (_, his):
        assert [s.status for s in await his.fetch_schedules(WINDOW)] == [ScheduleStatus.STOPPED]


async def test_dates_may_be_compact() -> None:
    async with platform(told(SCHEDULES.replace("2026-01-05", "20260105"))) as (_, his):
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


@pytest.mark.parametrize(("left", "seats"), [("3", 3), ("0", 0), ("-1", 999), ("99", 99)])
async def test_segments_are_slots_and_unlimited_seats_are_many(left: str, seats: int) -> None:
    times = (
        "<RES><TIME_LIST><TIME><BEGIN_TIME>11:00</BEGIN_TIME><END_TIME>11:30</END_TIME><TOTAL>10</TOTAL>"
        f"<OVER_COUNT>{left}</OVER_COUNT></TIME></TIME_LIST></RES>"
    )
    async with platform(told(times)) as (_, his):
        assert await his.fetch_slots(WINDOW, [SCHEDULE]) == [
            Slot(
                id="R7@11:00",
                schedule_id="R7",
                date=DAY,
                session=Session.AM,
                starts_at=at(11),
                ends_at=at(11, 30),
                seats_left=seats,
                his_refs={"begin_time": "11:00", "end_time": "11:30"},
            )
        ]


async def test_segments_over_midnight_are_on_two_days() -> None:
    refs = {"has_segments": "1", "begin_time": "20:00", "end_time": "02:00"}
    night = msgspec.structs.replace(SCHEDULE, session=Session.NIGHT, his_refs=refs)
    row = "<TIME><BEGIN_TIME>{}</BEGIN_TIME><END_TIME>{}</END_TIME><OVER_COUNT>1</OVER_COUNT></TIME>"
    rows = row.format("23:30", "00:00") + row.format("00:30", "01:00")
    async with platform(told(f"<RES><TIME_LIST>{rows}</TIME_LIST></RES>")) as (_, his):
        slots = await his.fetch_slots(WINDOW, [night])
    assert [(slot.date, slot.starts_at, slot.ends_at) for slot in slots] == [
        (DAY, at(23, 30), at(0, day=6)),
        (DAY, at(0, 30, 6), at(1, day=6)),
    ]


async def test_session_without_segments_is_one_slot() -> None:
    reply = told(SCHEDULES.replace("<ISTIME>1", "<ISTIME>0"))
    async with platform(reply) as (peer, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert asked(peer)[0] == "2003"
    assert (slot.id, slot.starts_at, slot.ends_at, slot.seats_left) == ("R7", at(8), at(11, 30), 3)


async def test_master_data_has_what_the_platform_tells_besides() -> None:
    department = (
        "<RES><DEPT_LIST><DEPT><DEPT_ID>101</DEPT_ID><DEPT_NAME>心内科</DEPT_NAME><PARENT_ID>100</PARENT_ID>"
        "<ADDRESS>东院</ADDRESS></DEPT></DEPT_LIST></RES>"
    )
    doctor = (
        "<RES><DOCTOR_LIST><DOCTOR><DOCTOR_ID>D1</DOCTOR_ID><DOCTOR_NAME>李明</DOCTOR_NAME><DEPT_ID>101</DEPT_ID>"
        "<TITLE>主任医师</TITLE></DOCTOR></DOCTOR_LIST></RES>"
    )
    located = SCHEDULES.replace("<TOTAL>", "<ADDRESS>门诊楼2层</ADDRESS><TOTAL>")
    async with platform(told(department), told(department), told(doctor), told(located)) as (_, his):
        assert await his.fetch_departments() == [Department(id="101", name="心内科", parent_id="100", campus="东院")]
        doctors = [Practitioner(id="D1", name="李明", department_id="101", title="主任医师")]
        assert await his.fetch_practitioners() == doctors
        assert [s.location for s in await his.fetch_schedules(WINDOW)] == ["门诊楼2层"]


async def test_slot_is_stopped_when_its_segment_is() -> None:
    times = (
        "<RES><TIME_LIST><TIME><BEGIN_TIME>11:00</BEGIN_TIME><END_TIME>11:30</END_TIME><OVER_COUNT>3</OVER_COUNT>"
        "<REG_STATUS>2</REG_STATUS></TIME></TIME_LIST></RES>"
    )
    whole = SCHEDULES.replace("<ISTIME>1", "<ISTIME>0").replace("<REG_STATUS>1", "<REG_STATUS>3")
    without = msgspec.structs.replace(SCHEDULE, his_refs={"has_segments": "0"})
    async with platform(told(times), told(whole)) as (_, his):
        stopped = [await his.fetch_slots(WINDOW, [one]) for one in (SCHEDULE, without)]
    assert [[slot.status for slot in slots] for slots in stopped] == [[ScheduleStatus.STOPPED]] * 2
    assert stopped[1][0].his_refs == {"begin_time": "08:00", "end_time": "11:30"}


# --- people --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "sex"), [("0", Sex.FEMALE), ("1", Sex.MALE), ("2", Sex.UNKNOWN), ("7", Sex.UNKNOWN), ("", Sex.UNKNOWN)]
)
async def test_patient_is_read_with_sex_zero_for_women(code: str, sex: Sex) -> None:
    res = (
        f"<RES><PATIENT_LIST><PATIENT><HOSP_PATIENT_ID>0000012345</HOSP_PATIENT_ID><NAME>张伟</NAME><SEX>{code}</SEX>"
        "<BIRTHDAY>19900307</BIRTHDAY><MOBILE>138****0000</MOBILE></PATIENT></PATIENT_LIST></RES>"
    )
    async with platform(told(res)) as (_, his):
        born = dt.date(1990, 3, 7)
        assert await his.find_patient(PERSON) == [Patient(name="张伟", mrn="0000012345", sex=sex, birth_date=born)]


async def test_patient_has_number_phone_and_card_when_they_are_not_masked() -> None:
    res = (
        "<RES><HOSP_PATIENT_ID>9</HOSP_PATIENT_ID><NAME>张伟</NAME><SEX>1</SEX><IDCARD_NO>11010119900307123X</IDCARD_NO>"
        "<MOBILE>13800000000</MOBILE><CARD_NO>000777</CARD_NO></RES>"
    )
    whole = Patient(
        name="张伟", mrn="9", sex=Sex.MALE, id_number="11010119900307123X", phone="13800000000", card_number="000777"
    )
    masked = res.replace("9900307", "*******").replace("000777", "0**777")
    async with platform(told(res), told(masked)) as (_, his):
        assert await his.find_patient(PERSON) == [whole]
        bare = msgspec.structs.replace(whole, id_number=None, card_number=None)
        assert await his.find_patient(PERSON) == [bare]


async def test_patient_is_created_under_the_hospitals_spelling_when_it_repeats_the_name() -> None:
    res = "<RES><HOSP_PATIENT_ID>9</HOSP_PATIENT_ID><NAME>張偉</NAME></RES>"
    async with platform(told(res)) as (_, his):
        assert await his.create_patient(PERSON) == Accepted(record=Patient(name="張偉", mrn="9"))


async def test_patient_is_created_under_the_name_that_was_sent() -> None:
    async with platform(told("<RES><HOSP_PATIENT_ID>0009</HOSP_PATIENT_ID></RES>")) as (_, his):
        assert await his.create_patient(PERSON) == Accepted(record=Patient(name="张伟", mrn="0009"))


async def test_nobody_is_found_when_the_hospital_knows_no_such_patient() -> None:
    async with platform(refused("100301", "患者信息不存在")) as (_, his):
        assert await his.find_patient(PERSON) == []
