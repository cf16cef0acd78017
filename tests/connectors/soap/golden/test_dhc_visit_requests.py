"""What a DHC hospital is told of visits and money through each of its doors, worked out by hand from DOMAIN facts."""

from __future__ import annotations

import msgspec
import pytest

from connectors.port import Accepted, Order
from tests.connectors.soap.golden.cases import (
    DAY,
    KNOWN,
    ORDER_NO,
    PAYMENT_ORDER_NO,
    REFUND_NO,
    refund_of,
)
from tests.connectors.soap.golden.dhc_doors import WHO, Door, done
from tests.connectors.soap.soap_hospital import PERSON, golden_bill_payment, golden_order, payment

WHO_OF_LOCKS = {
    "ExtOrgCode": "",
    "ClientType": "",
    "HospitalID": "2",
    "ExtUserID": "HISBRIDGE",
}  # the vendor's spelling


TILL = {"UserCode": "HISBRIDGE", "TerminalID": "HISBRIDGE"}


LOCKED = {"transaction_id": "DHC0001", "lock_queue_no": "5"}


# --- visits --------------------------------------------------------------------------------------------------------


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


# --- money ---------------------------------------------------------------------------------------------------------


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
        assert door.sent(peer) == (
            "4905",
            {
                "TradeCode": "4905",
                "HospitalID": "2",
                "CardNo": "",
                "CardType": "",
                "SecrityNo": "",
                "PatientID": "0000012345",
            }
            | TILL
            | {"Adm": "77", "OrderNo": "R100", "OrderSum": "120.50", "PayModeCode": "WECHAT", "ExpStr": ""},
        )


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
