"""What a zoesoft hospital is asked, element by element: written by hand from the dialect's codes, units and dates."""

from __future__ import annotations

import datetime as dt

import msgspec
from lxml import etree

from connectors.port import Accepted
from mappings.canonical import Patient, Schedule, Session, Sex
from tests.connectors.soap.golden.cases import DAY, KNOWN, WEEK, call_of, texts
from tests.connectors.soap.golden.zoesoft_peer import zoesoft
from tests.connectors.soap.soap_hospital import (
    PERSON,
    CannedPeer,
    golden_bill_payment,
    golden_order,
    payment,
)

DONE = '<Response Result="0" Err=""/>'
HEAD = {"HospitalCode": "1", "UserId": "HISBRIDGE"}


def document(peer: CannedPeer, n: int = -1) -> etree._Element:
    """The document of a request, in its envelope as a .NET service wants it."""
    headers, call = call_of(peer, n)
    assert headers["SOAPAction"] == '"http://tempuri.org/Invoke"'
    assert call.tag == "{http://tempuri.org/}Invoke"
    assert [child.tag for child in call] == ["{http://tempuri.org/}strXml"]
    return etree.fromstring(call[0].text or "")


def sent(peer: CannedPeer, n: int = -1) -> dict[str, str]:
    """Its elements. The trade comes first, then who we are."""
    root = document(peer, n)
    assert root.tag == "Request"
    assert [child.tag for child in root][:3] == ["TranCode", "HospitalCode", "UserId"]
    return texts(root)


async def test_network_test_is_1001() -> None:
    async with zoesoft(DONE, settings={"his_hospital_id": "3", "user_id": "WX001"}) as (peer, his):
        await his.ping()
        assert sent(peer) == {"TranCode": "1001", "HospitalCode": "3", "UserId": "WX001"}


async def test_departments_are_4001() -> None:
    async with zoesoft(DONE) as (peer, his):
        assert await his.fetch_departments() == []
        assert sent(peer) == {"TranCode": "4001"} | HEAD


async def test_schedules_are_4003_from_day_to_day() -> None:
    async with zoesoft(DONE) as (peer, his):
        await his.fetch_schedules(WEEK)
        assert sent(peer) == {"TranCode": "4003"} | HEAD | {
            "StartDate": "2026-01-05",
            "EndDate": "2026-01-11",
            "DeptCode": "100",
            "DoctorCode": "",
        }


async def test_practitioners_are_those_of_the_plan_of_each_department() -> None:
    depts = (
        '<Response Result="0"><Depts><Dept><DeptCode>100</DeptCode><DeptName>内科</DeptName></Dept></Depts></Response>'
    )
    async with zoesoft(depts, DONE) as (peer, his):
        await his.fetch_practitioners()
        asked = sent(peer)
        assert (asked["TranCode"], asked["DeptCode"]) == ("4003", "100")
        first, last = (dt.date.fromisoformat(asked[name]) for name in ("StartDate", "EndDate"))
        assert last - first == dt.timedelta(days=7)


async def test_segments_are_4004_of_a_schedule_that_has_some() -> None:
    async with zoesoft(DONE) as (peer, his):
        schedule = Schedule(
            id="7001",
            date=DAY,
            session=Session.NIGHT,
            department_id="100",
            practitioner_id="D1",
            his_refs={"time_flag": "1"},
        )
        await his.fetch_slots(WEEK, [schedule])
        assert sent(peer) == {"TranCode": "4004"} | HEAD | {
            "ScheduleId": "7001",
            "SeeDate": "2026-01-05",
            "Noon": "3",
            "DeptCode": "100",
            "DoctorCode": "D1",
        }
        await his.fetch_slots(WEEK, [msgspec.structs.replace(schedule, his_refs={"time_flag": "0"})])
        assert sent(peer)["TranCode"] == "4003"


async def test_stops_are_4011() -> None:
    async with zoesoft(DONE) as (peer, his):
        await his.fetch_stops(msgspec.structs.replace(WEEK, department_id=None))
        assert sent(peer) == {"TranCode": "4011"} | HEAD | {
            "StartDate": "2026-01-05",
            "EndDate": "2026-01-11",
            "DeptCode": "",
        }


async def test_patient_is_looked_for_by_2001_and_created_by_2002_with_the_sex_of_gb_t_2261() -> None:
    async with zoesoft(DONE, '<Response Result="0"><PatientId>0009</PatientId></Response>') as (peer, his):
        await his.find_patient(PERSON)
        assert sent(peer) == {"TranCode": "2001"} | HEAD | {
            "PatientId": "",
            "CardType": "",
            "CardNo": "",
            "IdType": "01",
            "IdNo": "11010119900307123X",
            "PatientName": "张伟",
        }
        woman = msgspec.structs.replace(PERSON, sex=Sex.FEMALE, birth_date=dt.date(1990, 3, 7))
        assert await his.create_patient(woman) == Accepted(record=Patient(name="张伟", mrn="0009"))
        assert sent(peer) == {"TranCode": "2002"} | HEAD | {
            "CardType": "",
            "CardNo": "",
            "IdType": "01",
            "IdNo": "11010119900307123X",
            "PatientName": "张伟",
            "Sex": "2",
            "Birthday": "1990-03-07",
            "Phone": "13800000000",
            "Address": "",
            "GuardianName": "",
            "GuardianIdNo": "",
        }


async def test_seat_is_booked_by_4006_with_our_number() -> None:
    async with zoesoft(DONE) as (peer, his):
        slot = msgspec.structs.replace(golden_order().slot, his_refs={"segment_id": "7001-1"})
        await his.book(golden_order(slot=slot))
        assert sent(peer) == {"TranCode": "4006"} | HEAD | {
            "OutOrderNo": "20260105000000000001",
            "PatientId": "0000012345",
            "PatientName": "张伟",
            "CardNo": "",
            "Phone": "",
            "ScheduleId": "100||7",
            "SegmentId": "7001-1",
            "SeeDate": "2026-01-05",
            "Noon": "1",
            "BeginTime": "08:00",
            "EndTime": "08:30",
            "TotalFee": "7.00",
        }


async def test_booking_is_paid_by_4007_in_yuan() -> None:
    async with zoesoft(DONE) as (peer, his):
        await his.register(golden_order(his_refs={"order_id": "Y1"}, payment=payment(705)))
        assert sent(peer) == {"TranCode": "4007"} | HEAD | {
            "OutOrderNo": "20260105000000000001",
            "OrderId": "Y1",
            "PatientId": "0000012345",
            "PayType": "WECHAT",
            "PayAmount": "7.05",
            "TradeNo": "4200001",
            "PayTime": "2026-01-04 09:30:15",
        }


async def test_booking_is_collected_cancelled_and_found_by_both_numbers() -> None:
    async with zoesoft(DONE) as (peer, his):
        order = golden_order(his_refs={"order_id": "Y1"}, reason="停诊")
        whose = HEAD | {"OutOrderNo": "20260105000000000001", "OrderId": "Y1", "PatientId": "0000012345"}
        await his.check_in(order)
        assert sent(peer) == {"TranCode": "4008"} | whose
        assert await his.cancel_registration(order) == Accepted()
        assert sent(peer) == {"TranCode": "4009"} | whose | {"TradeNo": "", "Reason": "停诊"}
        assert await his.fetch_registration(order) is None
        assert sent(peer) == {"TranCode": "4010"} | whose | {"StartDate": "2026-01-05", "EndDate": "2026-01-05"}


async def test_bills_are_3001_and_their_lines_3002() -> None:
    bills = '<Response Result="0"><Bills><Bill><BillNo>B1</BillNo><Amount>1.00</Amount></Bill></Bills></Response>'  # fmt: skip
    async with zoesoft(bills, DONE) as (peer, his):
        await his.fetch_bills(KNOWN)
        assert sent(peer, 0) == {"TranCode": "3001"} | HEAD | {
            "PatientId": "0000012345",
            "CardNo": "",
            "StartDate": "",
            "EndDate": "",
        }
        assert sent(peer, 1) == {"TranCode": "3002"} | HEAD | {"PatientId": "0000012345", "BillNo": "B1"}


async def test_bill_is_presettled_settled_and_looked_up() -> None:
    async with zoesoft('<Response Result="0"><Status>0</Status></Response>') as (peer, his):
        paying = msgspec.structs.replace(golden_bill_payment(), his_refs={"pre_settle_id": "PS9"})
        await his.presettle_bill(paying)
        assert sent(peer) == {"TranCode": "3008"} | HEAD | {
            "PatientId": "0000012345",
            "BillNo": "R100",
            "Amount": "120.50",
            "PayType": "WECHAT",
        }
        await his.settle_bill(paying)
        assert sent(peer) == {"TranCode": "3007"} | HEAD | {
            "OutOrderNo": "20260105000000000009",
            "PatientId": "0000012345",
            "BillNo": "R100",
            "PreSettleId": "PS9",
            "PayType": "WECHAT",
            "PayAmount": "120.50",
            "TradeNo": "4200001",
            "PayTime": "2026-01-04 09:30:15",
        }
        assert await his.fetch_settlement(paying) is None
        assert sent(peer) == {"TranCode": "3003"} | HEAD | {
            "PatientId": "0000012345",
            "BillNo": "R100",
            "OutOrderNo": "20260105000000000009",
            "TradeNo": "4200001",
        }
        known = msgspec.structs.replace(paying, his_refs={"settle_id": "S9"})
        assert await his.fetch_settlement(known) is None
        assert sent(peer) == {"TranCode": "3004"} | HEAD | {"PatientId": "0000012345", "SettleId": "S9"}


async def test_reports_are_asked_for_over_a_year_in_the_laboratory_and_in_radiology() -> None:
    async with zoesoft(DONE) as (peer, his):
        assert await his.fetch_reports(KNOWN) == []
        asked = [sent(peer, n) for n in (0, 1)]
        assert [one["TranCode"] for one in asked] == ["7003", "7001"]
        for one in asked:
            first, last = (dt.date.fromisoformat(one[name]) for name in ("StartDate", "EndDate"))
            assert (one["PatientId"], last - first) == ("0000012345", dt.timedelta(days=365))
        assert await his.fetch_report(KNOWN, "L7") is None
        assert [sent(peer, n) for n in (2, 3)] == [
            {"TranCode": trade} | HEAD | {"PatientId": "0000012345", "ReportNo": "L7"} for trade in ("7004", "7002")
        ]


async def test_time_of_payment_is_by_the_hospitals_clock() -> None:
    async with zoesoft(DONE) as (peer, his):
        paid = msgspec.structs.replace(payment(700), paid_at=dt.datetime(2026, 1, 4, 16, 30, tzinfo=dt.UTC))
        await his.register(golden_order(payment=paid))
        assert sent(peer)["PayTime"] == "2026-01-05 00:30:00"
