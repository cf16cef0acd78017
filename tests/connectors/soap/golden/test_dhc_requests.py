"""What a DHC hospital is sent through each of its doors, against documents worked out by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import msgspec
import pytest
from lxml import etree

from connectors.port import Accepted, Order
from connectors.soap import Options, create
from mappings.canonical import Department, Schedule, Session, Sex
from tests.connectors.soap.golden.cases import (
    DAY,
    KNOWN,
    ORDER_NO,
    PAYMENT_ORDER_NO,
    REFUND_NO,
    WEEK,
    WINDOW,
    call_of,
    refund_of,
)
from tests.connectors.soap.golden.dhc_doors import Door, done
from tests.connectors.soap.soap_hospital import HOSPITAL, PERSON, canned, golden_bill_payment, golden_order, payment

ROOT = Path(__file__).parents[4]
WHO = {"ExtOrgCode": "", "ClientType": "", "HospitalId": "2", "ExtUserID": "HISBRIDGE"}
WHO_OF_LOCKS = {
    "ExtOrgCode": "",
    "ClientType": "",
    "HospitalID": "2",
    "ExtUserID": "HISBRIDGE",
}  # the vendor's spelling
TILL = {"UserCode": "HISBRIDGE", "TerminalID": "HISBRIDGE"}
LOCKED = {"transaction_id": "DHC0001", "lock_queue_no": "5"}


async def test_departments_are_1012_and_settings_say_who_we_are(door: Door) -> None:
    settings = {"org_code": "ORG9", "client_type": "WX", "his_hospital_id": "7", "user_id": "WX001"}
    async with door.canned(done(), settings=settings) as (peer, his):
        assert await his.fetch_departments() == []
        assert door.sent(peer) == (
            "1012",
            {"TradeCode": "1012", "ExtOrgCode": "ORG9", "ClientType": "WX", "HospitalId": "7", "ExtUserID": "WX001"},
        )


async def test_practitioners_are_1013_of_each_department(door: Door) -> None:
    departments = "".join(
        f"<Department><DepartmentCode>{code}</DepartmentCode><DepartmentName>科</DepartmentName></Department>"
        for code in ("100", "200")
    )
    async with door.canned(done(f"<Departments>{departments}</Departments>"), done()) as (peer, his):
        assert await his.fetch_practitioners() == []
        asked = sorted(door.sent(peer, n)[1]["DepartmentCode"] for n in (1, 2))
        assert asked == ["100", "200"]
        assert [door.sent(peer, n)[0] for n in (0, 1, 2)] == ["1012", "1013", "1013"]


async def test_schedules_are_1004_from_day_to_day(door: Door) -> None:
    async with door.canned(done()) as (peer, his):
        await his.fetch_schedules(WEEK)
        assert door.sent(peer) == (
            "1004",
            {"TradeCode": "1004"}
            | WHO
            | {
                "StartDate": "2026-01-05",
                "EndDate": "2026-01-11",
                "DepartmentCode": "100",
                "ServiceCode": "",
                "DoctorCode": "",
                "RBASSessionCode": "",
                "StopScheduleFlag": "",
                "PatientID": "",
            },
        )


@pytest.mark.parametrize(("session", "letter"), [("am", "S"), ("pm", "X"), ("night", "Y"), ("all_day", "Q")])
async def test_time_ranges_are_asked_of_a_schedule_that_has_some(door: Door, session: str, letter: str) -> None:
    schedule = Schedule(
        id="100||7",
        date=DAY,
        session=Session(session),
        department_id="100",
        practitioner_id="D1",
        his_refs={"time_ranges": "Y"},
    )
    async with door.canned(done()) as (peer, his):
        await his.fetch_slots(WINDOW, [schedule])
        assert door.sent(peer) == (
            "10041",
            {"TradeCode": "10041"}
            | WHO
            | {
                "DepartmentCode": "100",
                "DoctorCode": "D1",
                "RBASSessionCode": letter,
                "ScheduleItemCode": "100||7",
                "ServiceDate": "2026-01-05",
            },
        )


async def test_stops_are_1107_of_all_departments(door: Door) -> None:
    async with door.canned(done()) as (peer, his):
        await his.fetch_stops(msgspec.structs.replace(WEEK, department_id=None))
        days = {"StartDate": "2026-01-05", "EndDate": "2026-01-11", "DepartmentCode": ""}
        assert door.sent(peer) == ("1107", {"TradeCode": "1107"} | WHO | days)


async def test_patient_is_looked_for_by_3300_and_created_by_3014_with_one_for_men_and_two_for_women(
    door: Door,
) -> None:
    async with door.canned(done(), done("<PatientID>0009</PatientID>")) as (peer, his):
        await his.find_patient(PERSON)
        assert door.sent(peer) == (
            "3300",
            {"TradeCode": "3300"}
            | WHO
            | {
                "PatientCard": "",
                "CardType": "",
                "PatientID": "",
                "IDCardType": "01",
                "IDNo": "11010119900307123X",
                "PatientName": "张伟",
                "Phone": "",
            },
        )
        woman = msgspec.structs.replace(PERSON, sex=Sex.FEMALE, birth_date=dt.date(1990, 3, 7))
        assert isinstance(await his.create_patient(woman), Accepted)
        trade, told = door.sent(peer)
        assert trade == "3014"
        assert {name: told[name] for name in ("UserID", "IDType", "IDNo", "PatientName", "Sex", "DOB", "Mobile")} == {
            "UserID": "HISBRIDGE",
            "IDType": "01",
            "IDNo": "11010119900307123X",
            "PatientName": "张伟",
            "Sex": "2",
            "DOB": "1990-03-07",
            "Mobile": "13800000000",
        }


async def test_lock_is_10015_with_our_number_and_the_padded_number_of_the_patient(door: Door) -> None:
    async with door.canned(done()) as (peer, his):
        await his.lock_slot(golden_order())
        assert door.sent(peer) == (
            "10015",
            {"TradeCode": "10015"}
            | WHO_OF_LOCKS
            | {
                "ExtOrderNo": ORDER_NO,
                "PatientID": "0000012345",
                "CardNo": "",
                "CardType": "",
                "ScheduleItemCode": "100||7",
                "BeginTime": "08:00",
                "EndTime": "08:30",
            },
        )


async def test_unlock_is_10016_by_both_numbers_or_by_ours_alone_when_the_reply_was_lost(door: Door) -> None:
    async with door.canned(done()) as (peer, his):
        told = {"TradeCode": "10016"} | WHO_OF_LOCKS
        for refs, number, queue_no in ((LOCKED, "DHC0001", "5"), ({}, "", "")):
            assert await his.unlock_slot(golden_order(his_refs=refs)) == Accepted()
            assert door.sent(peer) == (
                "10016",
                told
                | {
                    "ExtOrderNo": ORDER_NO,
                    "TransactionId": number,
                    "PatientID": "0000012345",
                    "ScheduleItemCode": "100||7",
                    "LockQueueNo": queue_no,
                },
            )


async def test_registration_is_1101_with_the_payment_in_yuan(door: Door) -> None:
    async with door.canned(done(), settings={"pay_mode": "ALIPAY"}) as (peer, his):
        await his.register(golden_order(his_refs=LOCKED, payment=payment(705)))
        assert door.sent(peer) == (
            "1101",
            {"TradeCode": "1101"}
            | WHO
            | {
                "TransactionId": "DHC0001",
                "ExtOrderNo": ORDER_NO,
                "ScheduleItemCode": "100||7",
                "PatientID": "0000012345",
                "QueueNo": "5",
                "PayModeCode": "ALIPAY",
                "PayFee": "7.05",
                "PayDetails": {
                    "TradeChannel": "WECHAT",
                    "PayAmt": "7.05",
                    "PlatformNo": ORDER_NO,
                    "OutPayNo": "4200001",
                    "PayDate": "2026-01-04",
                    "PayTime": "09:30:15",
                },
            },
        )


async def test_booking_without_a_lock_is_1000_and_is_paid_by_its_order_code(door: Door) -> None:
    order = golden_order(
        patient=msgspec.structs.replace(PERSON, mrn="0000012345", card_type="01", card_number="00081234")
    )
    async with door.canned(done()) as (peer, his):
        await his.book(order)
        assert door.sent(peer) == (
            "1000",
            {"TradeCode": "1000"}
            | WHO
            | {
                "TransactionId": "",
                "ExtOrderNo": ORDER_NO,
                "ScheduleItemCode": "100||7",
                "CardNo": "00081234",
                "CardType": "01",
                "CredTypeCode": "01",
                "IDCardNo": "11010119900307123X",
                "MobileNo": "13800000000",
                "PatientID": "0000012345",
                "PatientName": "张伟",
                "PayFlag": "",
                "LockQueueNo": "",
                "AdmitRange": "08:00-08:30",
            },
        )
        refs = {"order_code": "100||7||3"}
        await his.register(golden_order(his_refs=refs, payment=payment(700)))
        trade, told = door.sent(peer)
        assert (trade, told["AppOrderCode"], told["TransactionId"], told["QueueNo"]) == ("1101", "100||7||3", "", "")
        await his.cancel_registration(golden_order(his_refs=refs))
        trade, told = door.sent(peer)
        assert (trade, told["OrderCode"], told["TransactionId"]) == ("1001", "100||7||3", "")


async def test_whole_session_is_booked_without_a_time(door: Door) -> None:
    order = golden_order(slot=msgspec.structs.replace(golden_order().slot, his_refs={}))
    async with door.canned(done()) as (peer, his):
        await his.book(order)
        assert door.sent(peer)[1]["AdmitRange"] == ""


async def test_check_in_is_1301_of_the_visit(door: Door) -> None:
    async with door.canned(done()) as (peer, his):
        await his.check_in(golden_order(his_refs={"adm_no": "88", "transaction_id": "DHC0001"}))
        assert door.sent(peer) == (
            "1301",
            {"TradeCode": "1301"}
            | WHO
            | {
                "PatientCard": "",
                "CardType": "",
                "PatientID": "0000012345",
                "AdmNo": "88",
                "TransactionId": "DHC0001",
                "ExtOrderNo": ORDER_NO,
            },
        )


@pytest.mark.parametrize(
    ("order", "trade"),
    [
        (golden_order(payment=payment(700), his_refs={"adm_no": "88"}), "1003"),
        (golden_order(his_refs={"adm_no": "88"}), "1003"),
        (golden_order(his_refs={"transaction_id": "DHC0001"}), "1001"),
    ],
    ids=["paid", "free of charge", "unpaid"],
)
async def test_cancellation_is_1003_of_a_registration_and_1001_of_what_was_not_paid(
    door: Door, order: Order, trade: str
) -> None:
    async with door.canned(done()) as (peer, his):
        assert await his.cancel_registration(order) == Accepted()
        asked, told = door.sent(peer)
        assert (asked, told["ExtOrderNo"], told.get("AdmNo")) == (trade, ORDER_NO, "88" if trade == "1003" else None)


async def test_query_back_is_1108_by_our_number(door: Door) -> None:
    async with door.canned(done()) as (peer, his):
        assert await his.fetch_registration(golden_order(his_refs={"transaction_id": "DHC0001"})) is None
        assert door.sent(peer) == (
            "1108",
            {"TradeCode": "1108"}
            | WHO
            | {
                "PatientCard": "",
                "CardType": "",
                "TransactionId": "DHC0001",
                "ExtOrderNo": ORDER_NO,
                "IDNo": "",
                "PatientName": "",
            },
        )


async def test_bills_are_4902_and_the_lines_of_each_4904(door: Door) -> None:
    order = "<Orders><Order><OrderNo>R100</OrderNo><OrderSum>120.5</OrderSum><Adm>77</Adm></Order></Orders>"
    async with door.canned(done(order), done()) as (peer, his):
        await his.fetch_bills(msgspec.structs.replace(KNOWN, card_type="01", card_number="00081234"))
        who = {"HospitalID": "2", "CardNo": "00081234", "CardType": "01", "SecrityNo": "", "PatientID": "0000012345"}
        of_bills = {"TradeCode": "4902"} | who | TILL | {"StartDate": "", "EndDate": "", "ExpStr": ""}
        assert door.sent(peer, 0) == ("4902", of_bills)
        of_lines = {"TradeCode": "4904"} | who | TILL | {"Adm": "77", "OrderNo": "R100", "ExpStr": ""}
        assert door.sent(peer, 1) == ("4904", of_lines)


async def test_bill_is_settled_by_4906_and_looked_up_by_check_charge(door: Door) -> None:
    async with door.canned(done()) as (peer, his):
        await his.settle_bill(golden_bill_payment())
        assert door.sent(peer) == (
            "4906",
            {"TradeCode": "4906", "HospitalID": "2", "CardNo": "", "CardType": "", "SecrityNo": ""}
            | {"PatientID": "0000012345"}
            | TILL
            | {
                "OrderNo": "R100",
                "InvoiceNoStr": "INV9",
                "PayDetails": {
                    "PayModeCode": "WECHAT",
                    "TradeChannel": "WECHAT",
                    "PayAccountNo": "",
                    "PayAmt": "120.50",
                    "PlatformNo": PAYMENT_ORDER_NO,
                    "OutPayNo": "4200001",
                    "PayDate": "2026-01-04",
                    "PayTime": "09:30:15",
                },
            },
        )
        assert await his.fetch_settlement(golden_bill_payment()) is None
        assert door.sent(peer) == (
            "CheckCharge",
            {
                "TradeCode": "CheckCharge",
                "HospitalID": "2",
                "PatientID": "0000012345",
                "UserCode": "HISBRIDGE",
                "OrderNo": "R100",
                "PlatformNo": PAYMENT_ORDER_NO,
                "OutPayNo": "4200001",
            },
        )


async def test_presettlement_is_4905_with_the_sum_in_yuan(door: Door) -> None:
    async with door.canned(done()) as (peer, his):
        await his.presettle_bill(golden_bill_payment())
        trade, told = door.sent(peer)
        assert trade == "4905"
        assert [told[name] for name in ("OrderNo", "Adm", "OrderSum", "PayModeCode")] == [
            "R100",
            "77",
            "120.50",
            "WECHAT",
        ]


async def test_refund_is_1003_with_our_refund_number(door: Door) -> None:
    order = golden_order(payment=payment(700), his_refs={"adm_no": "88", "transaction_id": "DHC0001"})
    async with door.canned(done()) as (peer, his):
        assert await his.refund(refund_of(order)) == Accepted()
        assert door.sent(peer) == (
            "1003",
            {"TradeCode": "1003"}
            | WHO
            | {
                "AdmNo": "88",
                "TransactionId": "DHC0001",
                "ExtOrderNo": ORDER_NO,
                "BankNo": REFUND_NO,
                "BankTradeNo": "4200001",
                "RefundType": "TF",
            },
        )


async def test_statement_is_9999_of_one_whole_day(door: Door) -> None:
    async with door.canned(done()) as (peer, his):
        assert await his.fetch_statement(DAY) == []
        assert door.sent(peer) == (
            "9999",
            {
                "TradeCode": "9999",
                "StDTime": "2026-01-05 00:00:00",
                "EndDTime": "2026-01-05 23:59:59",
                "BalFlag": "",
                "BalChannel": "WECHAT",
            },
        )


async def test_awkward_text_is_sent_whole(door: Door) -> None:
    async with door.canned(done("<PatientID>0009</PatientID>")) as (peer, his):
        name = "张]]>&伟<\"'"
        await his.create_patient(msgspec.structs.replace(PERSON, name=name))
        assert door.sent(peer)[1]["PatientName"] == name


async def test_department_is_that_of_the_hospital_when_the_door_answers(door: Door) -> None:
    one = "<Departments><DepartmentCode>100</DepartmentCode><DepartmentName>内科</DepartmentName></Departments>"
    async with door.canned(done(one, code="0000")) as (_, his):
        assert await his.fetch_departments() == [Department(id="100", name="内科")]


@pytest.mark.parametrize(
    ("page", "operation", "arguments", "soap_action", "codes"),
    [
        (
            "dhc_gateway",
            "{http://tempuri.org}Invoke",
            ["{http://tempuri.org}method", "{http://tempuri.org}param"],
            "urn:gateway#Invoke",
            [("LOCK_NUMBER", "10015"), ("1004", "1004")],
        ),
        (
            "dhc_esb",
            "{http://www.dhcc.com.cn}HIPMessageServer",
            ["{http://www.dhcc.com.cn}input1", "{http://www.dhcc.com.cn}input2"],
            "http://www.dhcc.com.cn/DHC.Published.PUB0042.BS.PUB0042.HIPMessageServer",
            [("10015", "10015"), ("MES0042", "1004")],
        ),
    ],
)
async def test_site_of_the_page_calls_as_the_page_says(
    tmp_path: Path, page: str, operation: str, arguments: list[str], soap_action: str, codes: list[tuple[str, str]]
) -> None:
    text = (ROOT / "docs" / "dialects" / f"{page}.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "our_his").mkdir()
    (tmp_path / "our_his" / "profile.yaml").write_text(block, "utf-8")
    async with canned(done()) as (peer, _):
        given = Options(protocol="soap", profile="our_his@1", endpoint=peer.url)
        his = create(HOSPITAL, "his", given, profiles_dir=tmp_path)
        await his.start()
        try:
            await his.lock_slot(golden_order())
            await his.fetch_schedules(WEEK)
        finally:
            await his.close()
        calls = [call_of(peer, n) for n in (0, 1)]
    assert {headers["SOAPAction"] for headers, _ in calls} == {f'"{soap_action}"'}
    assert {str(call.tag) for _, call in calls} == {operation}
    assert [child.tag for child in calls[0][1]] == arguments
    told = [(call[0].text, etree.fromstring(call[1].text or "").findtext("TradeCode")) for _, call in calls]
    assert told == codes
