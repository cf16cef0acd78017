"""DHC self-service: departments, schedules, time ranges and stops, sent and read, against values worked out by hand."""

from __future__ import annotations

import datetime as dt
import re

import pytest

from connectors.port import HisReplyInvalid
from mappings.canonical import (
    Department,
    Schedule,
    ScheduleStatus,
    ScheduleStopped,
    Session,
    Slot,
    StopScope,
)
from tests.connectors.soap.golden.cases import DAY, WINDOW, texts
from tests.connectors.soap.golden.dhc_doors import called
from tests.connectors.soap.soap_hospital import (
    ZONE,
    canned,
)

SCHEDULES = (
    "<Response><ResultCode>0</ResultCode><ResultContent/><RecordCount>1</RecordCount><Schedules><Schedule>"
    "<ScheduleItemCode>100||7</ScheduleItemCode><ServiceDate>2026-01-05</ServiceDate><SessionCode>S</SessionCode>"
    "<SessionName>上午</SessionName><StartTime>08:00</StartTime><EndTime>11:30</EndTime>"
    "<DepartmentCode>100</DepartmentCode><DoctorCode>D1</DoctorCode><DoctorTitle/>"
    "<DoctorSessType>副高号</DoctorSessType><Fee>7</Fee><RegFee>1</RegFee><CheckupFee>6</CheckupFee>"
    "<AvailableNumStr>5,6,7</AvailableNumStr><TimeRangeFlag>Y</TimeRangeFlag><ScheduleStatus>N</ScheduleStatus>"
    "<AvailableTotalNum>20</AvailableTotalNum><AvailableLeftNum>3</AvailableLeftNum><AdmitAddress/></Schedule>"
    "</Schedules></Response>"
)


async def test_schedule_request_and_reply_are_the_documented_ones() -> None:
    async with canned(SCHEDULES, settings={"user_id": "WX001"}) as (peer, his):
        schedules = await his.fetch_schedules(WINDOW)
        operation, document = called(peer)
        assert operation == "QueryAdmSchedule"
        assert document.tag == "Request"
        assert list(texts(document).items()) == [
            ("TradeCode", "1004"),
            ("ExtOrgCode", ""),
            ("ClientType", ""),
            ("HospitalId", "2"),
            ("ExtUserID", "WX001"),
            ("StartDate", "2026-01-05"),
            ("EndDate", "2026-01-05"),
            ("DepartmentCode", "100"),
            ("ServiceCode", ""),
            ("DoctorCode", ""),
            ("RBASSessionCode", ""),
            ("StopScheduleFlag", ""),
            ("PatientID", ""),
        ]
        assert peer.requests[0][0]["SOAPAction"] == '"http://tempuri.org/SelfRegService.QueryAdmSchedule"'
        assert schedules == [
            Schedule(
                id="100||7",
                date=DAY,
                session=Session.AM,
                department_id="100",
                practitioner_id="D1",
                clinic_type="副高号",
                fee_fen=700,
                status=ScheduleStatus.OPEN,
                his_refs={
                    "time_ranges": "Y",
                    "session_code": "S",
                    "free_numbers": "5,6,7",
                    "start_time": "08:00",
                    "end_time": "11:30",
                },
            )
        ]


async def test_schedule_is_the_same_when_the_list_of_one_collapsed() -> None:
    collapsed = SCHEDULES.replace("<Schedule>", "").replace("</Schedule>", "")
    async with canned(SCHEDULES, collapsed) as (_, his):
        assert await his.fetch_schedules(WINDOW) == await his.fetch_schedules(WINDOW)


@pytest.mark.parametrize(("session", "expected"), [("X", Session.PM), ("Y", Session.NIGHT), ("Q", Session.ALL_DAY)])
async def test_session_and_stop_are_translated(session: str, expected: Session) -> None:
    reply = SCHEDULES.replace(">S<", f">{session}<").replace("<ScheduleStatus>N", "<ScheduleStatus>S")
    async with canned(reply) as (_, his):
        (schedule,) = await his.fetch_schedules(WINDOW)
        assert (schedule.session, schedule.status) == (expected, ScheduleStatus.STOPPED)


async def test_bad_record_is_left_out_and_the_rest_come() -> None:
    good = SCHEDULES[SCHEDULES.index("<Schedule>") : SCHEDULES.index("</Schedules>")]
    bad = good.replace("<SessionCode>S", "<SessionCode>?")
    async with canned(SCHEDULES.replace(good, bad + good), SCHEDULES.replace(good, bad)) as (_, his):
        assert len(await his.fetch_schedules(WINDOW)) == 1
        with pytest.raises(HisReplyInvalid):
            await his.fetch_schedules(WINDOW)


async def test_time_ranges_become_slots() -> None:
    reply = (
        "<Response><ResultCode>0</ResultCode><TimeRanges><TimeRange><ScheduleItemCode>100||7</ScheduleItemCode>"
        "<StartTime>11:00</StartTime><EndTime>11:30</EndTime><AvailableTotalNum>10</AvailableTotalNum>"
        "<AvailableLeftNum>3</AvailableLeftNum></TimeRange></TimeRanges></Response>"
    )
    async with canned(SCHEDULES, reply) as (peer, his):
        slots = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        operation, document = called(peer)
        assert operation == "QueryScheduleTimeInfo"
        assert texts(document) == {
            "TradeCode": "10041",
            "ExtOrgCode": "",
            "ClientType": "",
            "HospitalId": "2",
            "ExtUserID": "HISBRIDGE",
            "DepartmentCode": "100",
            "DoctorCode": "D1",
            "RBASSessionCode": "S",
            "ScheduleItemCode": "100||7",
            "ServiceDate": "2026-01-05",
        }
        assert slots == [
            Slot(
                id="100||7@11:00",
                schedule_id="100||7",
                date=DAY,
                session=Session.AM,
                starts_at=dt.datetime(2026, 1, 5, 11, tzinfo=ZONE),
                ends_at=dt.datetime(2026, 1, 5, 11, 30, tzinfo=ZONE),
                seats_left=3,
                his_refs={"begin_time": "11:00", "end_time": "11:30"},
            )
        ]


@pytest.mark.parametrize(("numbers", "left"), [("5,6,7", 3), ("", 0)])
async def test_session_without_time_ranges_is_one_slot_with_the_packed_numbers(numbers: str, left: int) -> None:
    reply = SCHEDULES.replace("<TimeRangeFlag>Y", "<TimeRangeFlag>N").replace("5,6,7", numbers)
    async with canned(reply) as (peer, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert called(peer)[0] == "QueryAdmSchedule"
        assert (slot.id, slot.seats_left) == ("100||7", left)
        assert slot.starts_at == dt.datetime(2026, 1, 5, 8, tzinfo=ZONE)
        assert slot.ends_at == dt.datetime(2026, 1, 5, 11, 30, tzinfo=ZONE)


@pytest.mark.parametrize(("left", "seats"), [("-1", 999), ("99", 99), ("0", 0)])
async def test_unlimited_seats_are_many(left: str, seats: int) -> None:
    ranges = (
        "<Response><ResultCode>0</ResultCode><TimeRanges><TimeRange><ScheduleItemCode>100||7</ScheduleItemCode>"
        f"<StartTime>11:00</StartTime><EndTime>11:30</EndTime><AvailableLeftNum>{left}</AvailableLeftNum></TimeRange>"
        "</TimeRanges></Response>"
    )
    async with canned(SCHEDULES, ranges) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert slot.seats_left == seats


async def test_session_without_time_ranges_is_unlimited_when_the_hospital_says_so() -> None:
    reply = SCHEDULES.replace("<TimeRangeFlag>Y", "<TimeRangeFlag>N").replace("5,6,7", "")
    reply = re.sub("<AvailableLeftNum>[0-9]*<", "<AvailableLeftNum>-1<", reply)
    async with canned(reply) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert slot.seats_left == 999


def night(flag: str, session: str = "Y") -> str:
    reply = SCHEDULES.replace("<TimeRangeFlag>Y", f"<TimeRangeFlag>{flag}").replace(
        "<SessionCode>S", f"<SessionCode>{session}"
    )
    return reply.replace("<StartTime>08:00", "<StartTime>20:00").replace("<EndTime>11:30", "<EndTime>02:00")


async def test_session_over_midnight_ends_on_the_next_day() -> None:
    async with canned(night("N")) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert slot.date == DAY
        assert (slot.starts_at, slot.ends_at) == (
            dt.datetime(2026, 1, 5, 20, tzinfo=ZONE),
            dt.datetime(2026, 1, 6, 2, tzinfo=ZONE),
        )


async def test_ranges_of_a_session_over_midnight_are_on_two_days() -> None:
    row = (
        "<TimeRange><ScheduleItemCode>100||7</ScheduleItemCode><StartTime>{}</StartTime><EndTime>{}</EndTime>"
        "<AvailableLeftNum>1</AvailableLeftNum></TimeRange>"
    )
    times = [("20:00", "20:30"), ("23:30", "00:00"), ("00:30", "01:00"), ("01:30", "02:00")]
    rows = "".join(row.format(*pair) for pair in times)
    ranges = f"<Response><ResultCode>0</ResultCode><TimeRanges>{rows}</TimeRanges></Response>"
    async with canned(night("Y"), ranges) as (_, his):
        slots = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert {slot.date for slot in slots} == {DAY}
        assert [f"{slot.starts_at:%d %H:%M}-{slot.ends_at:%d %H:%M}" for slot in slots] == [
            "05 20:00-05 20:30",
            "05 23:30-06 00:00",
            "06 00:30-06 01:00",
            "06 01:30-06 02:00",
        ]


async def test_all_day_session_is_asked_for_by_its_code() -> None:
    ranges = (
        "<Response><ResultCode>0</ResultCode><TimeRanges><TimeRange><ScheduleItemCode>100||7</ScheduleItemCode>"
        "<StartTime>11:00</StartTime><EndTime>11:30</EndTime><AvailableLeftNum>3</AvailableLeftNum></TimeRange>"
        "</TimeRanges></Response>"
    )
    async with canned(SCHEDULES.replace("<SessionCode>S", "<SessionCode>Q"), ranges) as (peer, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert called(peer)[1].findtext("RBASSessionCode") == "Q"
        assert slot.session is Session.ALL_DAY


async def test_stop_is_read_as_documented() -> None:
    reply = (
        "<Response><ResultCode>0</ResultCode><StopSchedules><StopSchedule><ScheduleCode>100||7</ScheduleCode>"
        "<ServiceDate>2026-01-05</ServiceDate><TimeRangeCode/><StartTime/><EndTime/><DepartmentCode>100</DepartmentCode>"
        "<DoctorCode>D1</DoctorCode></StopSchedule></StopSchedules></Response>"
    )
    async with canned(reply) as (_, his):
        assert await his.fetch_stops(WINDOW) == [
            ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="100||7", date=DAY)
        ]


async def test_departments_are_read_from_gbk_bytes_under_a_utf8_label() -> None:
    inner = (
        "&lt;Response&gt;&lt;ResultCode&gt;0&lt;/ResultCode&gt;&lt;Departments&gt;&lt;Department&gt;&lt;DepartmentCode&gt;1"
        "&lt;/DepartmentCode&gt;&lt;DepartmentName&gt;東院&lt;/DepartmentName&gt;&lt;/Department&gt;&lt;/Departments&gt;"
        "&lt;/Response&gt;"
    )
    envelope = '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><r><x>'
    body = f'<?xml version="1.0" encoding="UTF-8"?>{envelope}{inner}</x></r></s:Body></s:Envelope>'
    async with canned(body.encode("gbk")) as (_, his):
        assert await his.fetch_departments() == [Department(id="1", name="東院")]
