"""What a 12320 platform is asked: the envelope bit by bit, and each `<REQ>` element by element, written by hand."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest
from lxml import etree

from connectors.port import Accepted, Order, RefundOrder, Window
from mappings.canonical import Bill, Refund, Schedule, Session, Sex
from tests.connectors.soap.golden.cases import DAY, ORDER_NO
from tests.connectors.soap.golden.jkt12320_peer import (
    PERSON_WITH_NUMBER,
    asked,
    is_now,
    order,
    platform,
    refused,
    told,
)
from tests.connectors.soap.soap_hospital import PERSON, ZONE, golden_bill_payment, payment

DONE = told("<RES/>")
SEAT = {
    "REG_ID": "R7",
    "HOS_ID": "1",
    "DEPT_ID": "100",
    "DOCTOR_ID": "D1",
    "REG_DATE": "2026-01-05",
    "TIME_FLAG": "1",
    "BEGIN_TIME": "08:00",
    "END_TIME": "08:30",
    "REG_FEE": "100",  # fen
    "TREAT_FEE": "600",
}
WHO = {
    "HOSP_PATIENT_ID": "0000012345",
    "NAME": "张伟",
    "SEX": "2",  # undisclosed
    "BIRTHDAY": "",
    "IDCARD_TYPE": "1",
    "IDCARD_NO": "11010119900307123X",
    "CARD_TYPE": "",
    "CARD_NO": "",
    "MOBILE": "13800000000",
}
TIMES = ("ORDER_TIME", "CANCEL_TIME", "REFUND_TIME")


def timeless(sent: tuple[str, dict[str, str]]) -> tuple[str, dict[str, str]]:
    """A request without the times that are now."""
    fun_code, document = sent
    assert all(is_now(document[name]) for name in TIMES if name in document)
    return fun_code, {name: text for name, text in document.items() if name not in TIMES}


async def test_envelope_is_bit_by_bit_what_openssl_makes_of_it() -> None:
    # printf '<REQ><HOS_ID>1</HOS_ID></REQ>' | openssl enc -aes-128-ecb -K $(printf 'hisbridge-12320!' | xxd -p) | base64
    # printf 'FUN_CODE=1001&REQ_ENCRYPTED=...&USER_ID=HISBRIDGE&KEY=12320-SIGN-KEY' | md5sum
    async with platform(DONE) as (peer, his):
        await his.ping()
    call = etree.fromstring(peer.requests[0][1])[0][0]
    assert call[0].text == (
        "<ROOT><FUN_CODE>1001</FUN_CODE><USER_ID>HISBRIDGE</USER_ID><SIGN_TYPE>MD5</SIGN_TYPE>"
        "<SIGN>C100FDF8B387C2FEDF8C2D140EE2B9B1</SIGN>"
        "<REQ_ENCRYPTED>V/DT2Es7creIvdXsKEBm+VvlIoSMFXG5rU+6EH7EQoc=</REQ_ENCRYPTED></ROOT>"
    )


async def test_all_departments_are_2001() -> None:
    async with platform(DONE, settings={"his_hospital_id": "H2"}) as (peer, his):
        assert await his.fetch_departments() == []
        assert asked(peer) == ("2001", {"HOS_ID": "H2", "DEPT_ID": ""})


async def test_practitioners_are_2002_of_each_department() -> None:
    departments = told(
        "<RES><DEPT_LIST><DEPT><DEPT_ID>100</DEPT_ID><DEPT_NAME>内科</DEPT_NAME></DEPT></DEPT_LIST></RES>"
    )
    async with platform(departments, DONE) as (peer, his):
        assert await his.fetch_practitioners() == []
        assert asked(peer) == ("2002", {"HOS_ID": "1", "DEPT_ID": "100", "DOCTOR_ID": ""})


async def test_schedules_are_2003_from_day_to_day() -> None:
    async with platform(DONE) as (peer, his):
        await his.fetch_schedules(Window(date_from=DAY, date_to=dt.date(2026, 1, 11), department_id="100"))
        assert asked(peer) == (
            "2003",
            {"HOS_ID": "1", "DEPT_ID": "100", "DOCTOR_ID": "", "START_DATE": "2026-01-05", "END_DATE": "2026-01-11"},
        )


@pytest.mark.parametrize(("session", "flag"), [("am", "1"), ("pm", "2"), ("night", "3"), ("all_day", "4")])
async def test_segments_are_2004_of_a_schedule_that_has_some(session: str, flag: str) -> None:
    refs = {"has_segments": "1", "begin_time": "08:00", "end_time": "11:30"}
    schedule = Schedule(id="R7", date=DAY, session=Session(session), department_id="100", his_refs=refs)
    async with platform(DONE) as (peer, his):
        await his.fetch_slots(Window(date_from=DAY, date_to=DAY), [schedule])
        assert asked(peer) == (
            "2004",
            {
                "HOS_ID": "1",
                "DEPT_ID": "100",
                "DOCTOR_ID": "",
                "REG_DATE": "2026-01-05",
                "TIME_FLAG": flag,
                "REG_ID": "R7",
            },
        )


async def test_lock_is_2005_with_our_number_and_both_fees_in_fen() -> None:
    async with platform(DONE, settings={"channel_id": "WX"}) as (peer, his):
        assert isinstance(await his.lock_slot(order()), Accepted)
        assert asked(peer) == ("2005", {"LOCK_ID": ORDER_NO, "CHANNEL_ID": "WX"} | SEAT)


async def test_unlock_is_2006_by_the_lock_id() -> None:
    async with platform(DONE) as (peer, his):
        assert await his.unlock_slot(order()) == Accepted()
        assert asked(peer) == ("2006", {"HOS_ID": "1", "LOCK_ID": ORDER_NO})


async def test_direct_booking_is_2007_with_is_reg_two() -> None:
    async with platform(DONE) as (peer, his):
        assert isinstance(await his.book(order()), Accepted)
        told_to = {"ORDER_ID": ORDER_NO, "IS_REG": "2", "CHANNEL_ID": "HISBRIDGE"} | SEAT | WHO
        assert timeless(asked(peer)) == ("2007", told_to)


async def test_booking_of_the_same_day_is_2007_with_is_reg_one() -> None:
    today = dt.datetime.now(ZONE).date()
    wanted = order()
    wanted = msgspec.structs.replace(wanted, slot=msgspec.structs.replace(wanted.slot, date=today))
    async with platform(DONE) as (peer, his):
        assert isinstance(await his.book(wanted), Accepted)
        sent = asked(peer)[1]
        assert (sent["IS_REG"], sent["REG_DATE"]) == ("1", today.isoformat())


async def test_registration_of_a_lock_is_2007_with_is_reg_three_and_then_2008() -> None:
    made = told(
        "<RES><HOSP_ORDER_ID>H7</HOSP_ORDER_ID><HOSP_SERIAL_NUM>5</HOSP_SERIAL_NUM>"
        "<HOSP_GETREG_DATE>2026-01-05 07:30</HOSP_GETREG_DATE><CONCESSIONS>0</CONCESSIONS></RES>"
    )
    paid = told("<RES><HOSP_PAY_ID>J7</HOSP_PAY_ID></RES>")
    async with platform(made, paid) as (peer, his):
        outcome = await his.register(order(payment=payment(700)))
        told_to = {"ORDER_ID": ORDER_NO, "IS_REG": "3", "CHANNEL_ID": "HISBRIDGE"} | SEAT | WHO
        assert timeless(asked(peer, 0)) == ("2007", told_to)
        assert asked(peer, 1) == (
            "2008",
            {
                "HOS_ID": "1",
                "ORDER_ID": ORDER_NO,
                "HOSP_ORDER_ID": "H7",
                "HOSP_PATIENT_ID": "0000012345",
                "TRADE_CHANNEL_ID": "WECHAT",
                "TRANSACTION_ID": "4200001",
                "TRADE_AMOUNT": "700",
                "TRADE_TIME": "2026-01-04 09:30:15",
            },
        )
        assert len(peer.requests) == 2
    assert isinstance(outcome, Accepted)
    assert outcome.his_refs == {
        "hosp_order_id": "H7",
        "serial_num": "5",
        "get_reg_date": "2026-01-05 07:30",
        "concessions_fen": "0",
        "hosp_pay_id": "J7",
    }


async def test_registration_of_an_order_is_2008_alone() -> None:
    async with platform(DONE) as (peer, his):
        await his.register(order(payment=payment(700), his_refs={"hosp_order_id": "H7"}))
        assert [asked(peer, n)[0] for n in range(len(peer.requests))] == ["2008"]
        assert asked(peer)[1]["HOSP_ORDER_ID"] == "H7"


async def test_registration_goes_on_with_2008_when_the_order_was_made_before() -> None:
    async with platform(refused("200704", "订单已存在"), DONE) as (peer, his):
        assert isinstance(await his.register(order(payment=payment(700))), Accepted)
        assert [asked(peer, n)[0] for n in range(len(peer.requests))] == ["2007", "2008"]
        assert asked(peer)[1]["HOSP_ORDER_ID"] == ""


@pytest.mark.parametrize(
    ("given", "codes"),
    [
        (order(), ["2006"]),
        (order(his_refs={"hosp_order_id": "H7"}), ["2009"]),
        (order(payment=payment(700)), ["2009", "2006"]),
    ],
    ids=["a lock", "an order", "2008 was tried"],
)
async def test_what_is_given_back_is_a_lock_or_the_order_made_of_it(given: Order, codes: list[str]) -> None:
    replies = [refused("200901", "订单不存在"), DONE] if len(codes) == 2 else [DONE]
    async with platform(*replies) as (peer, his):
        assert await his.unlock_slot(given) == Accepted()
        assert [asked(peer, n)[0] for n in range(len(peer.requests))] == codes


async def test_unpaid_order_is_cancelled_by_2009() -> None:
    async with platform(DONE) as (peer, his):
        assert await his.cancel_registration(order(his_refs={"hosp_order_id": "H7"}, reason="临时有事")) == Accepted()
        assert timeless(asked(peer)) == (
            "2009",
            {"HOS_ID": "1", "ORDER_ID": ORDER_NO, "HOSP_ORDER_ID": "H7", "CANCEL_REASON": "临时有事"},
        )


@pytest.mark.parametrize(
    ("given", "trade_no"),
    [
        (order(payment=payment(700), his_refs={"hosp_order_id": "H7"}), "4200001"),
        (order(his_refs={"hosp_order_id": "H7", "hosp_pay_id": "J7"}), ""),
    ],
    ids=["paid", "registered free of charge"],
)
async def test_paid_registration_is_returned_by_2010(given: Order, trade_no: str) -> None:
    async with platform(DONE) as (peer, his):
        assert await his.cancel_registration(given) == Accepted()
        assert timeless(asked(peer)) == (
            "2010",
            {
                "HOS_ID": "1",
                "ORDER_ID": ORDER_NO,
                "HOSP_ORDER_ID": "H7",
                "REFUND_TYPE": "1",
                "REFUND_ID": "",
                "TRANSACTION_ID": trade_no,
                "REFUND_AMOUNT": "700",
                "REFUND_REASON": "患者退号",
            },
        )


async def test_refund_is_2010_with_our_refund_number() -> None:
    paid = payment(700)
    refund = Refund(refund_no="8" * 20, payment=paid, amount_fen=700, reason="停诊")
    given = order(payment=paid, his_refs={"hosp_order_id": "H7"})
    async with platform(DONE) as (peer, his):
        assert await his.refund(RefundOrder(refund=refund, patient=given.patient, order=given)) == Accepted()
        assert timeless(asked(peer)) == (
            "2010",
            {
                "HOS_ID": "1",
                "ORDER_ID": ORDER_NO,
                "HOSP_ORDER_ID": "H7",
                "REFUND_TYPE": "2",
                "REFUND_ID": "8" * 20,
                "TRANSACTION_ID": "4200001",
                "REFUND_AMOUNT": "700",
                "REFUND_REASON": "停诊",
            },
        )
        assert await his.fetch_refund(RefundOrder(refund=refund, patient=given.patient, order=given)) is None
        assert asked(peer) == ("2012", {"HOS_ID": "1", "ORDER_ID": ORDER_NO, "HOSP_ORDER_ID": "H7"})


async def test_check_in_is_2011() -> None:
    async with platform(DONE) as (peer, his):
        assert isinstance(await his.check_in(order(his_refs={"hosp_order_id": "H7"})), Accepted)
        assert asked(peer) == (
            "2011",
            {"HOS_ID": "1", "ORDER_ID": ORDER_NO, "HOSP_ORDER_ID": "H7", "HOSP_PATIENT_ID": "0000012345"},
        )


async def test_query_back_is_2012_by_our_number() -> None:
    async with platform(DONE) as (peer, his):
        assert await his.fetch_registration(order()) is None
        assert asked(peer) == ("2012", {"HOS_ID": "1", "ORDER_ID": ORDER_NO, "HOSP_ORDER_ID": ""})


@pytest.mark.parametrize(("sex", "code"), [("female", "0"), ("male", "1"), ("other", "2"), ("unknown", "2")])
async def test_patient_is_created_by_1002_with_sex_zero_for_women(sex: str, code: str) -> None:
    person = msgspec.structs.replace(
        PERSON, sex=Sex(sex), birth_date=dt.date(1990, 3, 7), guardian_name="张三", guardian_id_number="1" * 18
    )
    async with platform(told("<RES><HOSP_PATIENT_ID>9</HOSP_PATIENT_ID></RES>")) as (peer, his):
        assert isinstance(await his.create_patient(person), Accepted)
        assert asked(peer) == (
            "1002",
            {
                "HOS_ID": "1",
                "NAME": "张伟",
                "SEX": code,
                "BIRTHDAY": "1990-03-07",
                "IDCARD_TYPE": "1",
                "IDCARD_NO": "11010119900307123X",
                "CARD_TYPE": "",
                "CARD_NO": "",
                "MOBILE": "13800000000",
                "ADDRESS": "",
                "GUARDIAN_NAME": "张三",
                "GUARDIAN_IDCARD_NO": "1" * 18,
            },
        )


async def test_bills_are_3001_and_each_ones_lines_3002() -> None:
    bills = told("<RES><BILL_LIST><BILL><BILL_NO>B1</BILL_NO><BILL_AMOUNT>2550</BILL_AMOUNT></BILL></BILL_LIST></RES>")
    async with platform(bills, DONE) as (peer, his):
        assert await his.fetch_bills(PERSON_WITH_NUMBER) == [Bill(id="B1", amount_fen=2550, currency="CNY")]
        assert asked(peer, 0) == (
            "3001",
            {"HOS_ID": "1", "HOSP_PATIENT_ID": "0000012345", "CARD_TYPE": "", "CARD_NO": ""},
        )
        assert asked(peer, 1) == ("3002", {"HOS_ID": "1", "HOSP_PATIENT_ID": "0000012345", "BILL_NO": "B1"})


async def test_settlement_is_3003_in_fen_and_asked_for_by_3004() -> None:
    async with platform(DONE) as (peer, his):
        assert isinstance(await his.settle_bill(golden_bill_payment()), Accepted)
        assert asked(peer) == (
            "3003",
            {
                "HOS_ID": "1",
                "ORDER_ID": "20260105000000000009",
                "BILL_NO": "R100",
                "HOSP_PATIENT_ID": "0000012345",
                "TRADE_CHANNEL_ID": "WECHAT",
                "TRANSACTION_ID": "4200001",
                "TRADE_AMOUNT": "12050",
                "TRADE_TIME": "2026-01-04 09:30:15",
            },
        )
        assert await his.fetch_settlement(golden_bill_payment()) is None
        assert asked(peer) == (
            "3004",
            {"HOS_ID": "1", "ORDER_ID": "20260105000000000009", "BILL_NO": "R100", "TRANSACTION_ID": "4200001"},
        )


async def test_report_is_asked_for_by_8002_then_8003_then_8004_when_nobody_says_its_kind() -> None:
    nothing = [refused(f"{code}01", "报告不存在") for code in ("8002", "8003", "8004")]
    async with platform(*nothing) as (peer, his):
        assert await his.fetch_report(PERSON_WITH_NUMBER, "L1") is None
        assert [asked(peer, n)[0] for n in range(3)] == ["8002", "8003", "8004"]
        assert asked(peer)[1] == {"HOS_ID": "1", "HOSP_PATIENT_ID": "0000012345", "REPORT_ID": "L1"}


async def test_reports_are_listed_by_8001_without_days() -> None:
    async with platform(DONE) as (peer, his):
        assert await his.fetch_reports(PERSON_WITH_NUMBER) == []
        assert asked(peer) == (
            "8001",
            {"HOS_ID": "1", "HOSP_PATIENT_ID": "0000012345", "START_DATE": "", "END_DATE": ""},
        )


async def test_patient_is_looked_for_by_1003_with_number_name_and_card() -> None:
    wanted = msgspec.structs.replace(PERSON, id_type="passport", card_type="2", card_number="000777")
    async with platform(DONE) as (peer, his):
        assert await his.find_patient(wanted) == []
        assert asked(peer) == (
            "1003",
            {
                "HOS_ID": "1",
                "HOSP_PATIENT_ID": "",
                "NAME": "张伟",
                "IDCARD_TYPE": "3",
                "IDCARD_NO": "11010119900307123X",
                "CARD_TYPE": "2",
                "CARD_NO": "000777",
            },
        )


async def test_session_without_segments_is_asked_for_by_2003_of_its_day_and_doctor() -> None:
    schedule = Schedule(id="R7", date=DAY, session=Session.AM, department_id="100", practitioner_id="D1")
    async with platform(DONE) as (peer, his):
        assert await his.fetch_slots(Window(date_from=DAY, date_to=DAY), [schedule]) == []
        assert asked(peer) == (
            "2003",
            {
                "HOS_ID": "1",
                "DEPT_ID": "100",
                "DOCTOR_ID": "D1",
                "START_DATE": "2026-01-05",
                "END_DATE": "2026-01-05",
            },
        )
