"""What a DHC hospital answers about visits and money through each of its doors, against records written by hand."""

from __future__ import annotations

import datetime as dt

import pytest

from connectors.port import Accepted, HisReplyInvalid, Rejected
from mappings.canonical import (
    Bill,
    BillItem,
    Registration,
    RegistrationStatus,
    Settlement,
    StatementKind,
    StatementLine,
)
from tests.connectors.soap.golden.cases import (
    DAY,
    KNOWN,
    ORDER_NO,
    PAYMENT_ORDER_NO,
    refund_of,
    refusal,
)
from tests.connectors.soap.golden.dhc_doors import Door, done, failed
from tests.connectors.soap.soap_hospital import (
    ZONE,
    golden_bill_payment,
    golden_order,
    payment,
)

# --- visits --------------------------------------------------------------------------------------------------------


async def test_lock_and_registration_are_read_with_their_numbers(door: Door) -> None:
    locked = "<TransactionId>DHC0001</TransactionId><LockQueueNo>5</LockQueueNo><RegFee>7</RegFee><AdmDate>2026-01-05</AdmDate>"
    paid = "<AdmNo>88</AdmNo><QueueNo>5</QueueNo><RegFee>7.00</RegFee><AdmitAddress>2楼</AdmitAddress>"
    async with door.canned(done(locked), done(paid)) as (_, his):
        refs = {"transaction_id": "DHC0001", "lock_queue_no": "5"}
        assert await his.lock_slot(golden_order()) == Accepted(
            his_refs=refs,
            record=Registration(
                status=RegistrationStatus.LOCKED, his_id="DHC0001", queue_no="5", fee_fen=700, his_refs=refs
            ),
        )
        refs = {"adm_no": "88", "queue_no": "5"}
        assert await his.register(golden_order(payment=payment(700))) == Accepted(
            his_refs=refs,
            record=Registration(
                status=RegistrationStatus.REGISTERED,
                queue_no="5",
                encounter_no="88",
                check_in_place="2楼",
                fee_fen=700,
                his_refs=refs,
            ),
        )


async def test_booking_is_a_seat_that_is_not_paid(door: Door) -> None:
    told = (
        "<TransactionId/><OrderCode>100||7||3</OrderCode><SeqCode>5</SeqCode><RegFee>7.00</RegFee>"
        "<AdmitRange>08:00-08:30</AdmitRange><AdmitAddress>2楼</AdmitAddress>"
    )
    async with door.canned(done(told)) as (_, his):
        refs = {"order_code": "100||7||3", "seq_code": "5"}
        assert await his.book(golden_order()) == Accepted(
            his_refs=refs,
            record=Registration(
                status=RegistrationStatus.LOCKED,
                his_id="100||7||3",
                queue_no="5",
                check_in_place="2楼",
                fee_fen=700,
                his_refs=refs,
            ),
        )


@pytest.mark.parametrize("text", ["该患者已报到", "已签到"])
async def test_check_in_tells_done_before_from_done_now(door: Door, text: str) -> None:
    told = "<QueueNo>5</QueueNo><AdmitAddress>2楼3诊室</AdmitAddress>"
    async with door.canned(done(told), failed("-1", text)) as (_, his):
        assert await his.check_in(golden_order()) == Accepted(
            record=Registration(status=RegistrationStatus.CHECKED_IN, queue_no="5", check_in_place="2楼3诊室")
        )
        assert await his.check_in(golden_order()) == Rejected(code="already_done", text=text)


@pytest.mark.parametrize("text", ["该号已退号", "预约已取消"])
async def test_cancellation_of_what_is_cancelled_says_so(door: Door, text: str) -> None:
    async with door.canned(failed("-1", text)) as (_, his):
        assert await his.cancel_registration(golden_order()) == Rejected(code="already_done", text=text)


@pytest.mark.parametrize(
    ("letter", "status", "refunded"),
    [
        ("L", "locked", False),
        ("B", "locked", False),
        ("R", "registered", False),
        ("A", "checked_in", False),
        ("F", "fulfilled", False),
        ("T", "released", True),
        ("C", "released", False),
    ],
)
async def test_query_back_tells_the_states_apart_and_refunded_from_never_paid(
    door: Door, letter: str, status: str, refunded: bool
) -> None:
    row = (
        f"<RegInfo><ExtOrderNo>{ORDER_NO}</ExtOrderNo><RegStatus>{letter}</RegStatus><TransactionId>DHC0001</TransactionId>"
        "<PatientID>0000012345</PatientID><AdmDate>2026-01-05</AdmDate><BeginTime>08:00</BeginTime></RegInfo>"
    )
    async with door.canned(done(f"<RegInfos>{row}</RegInfos>")) as (_, his):
        assert await his.fetch_registration(golden_order()) == Registration(
            status=RegistrationStatus(status),
            order_no=ORDER_NO,
            his_id="DHC0001",
            mrn="0000012345",
            starts_at=dt.datetime(2026, 1, 5, 8, tzinfo=ZONE),
            his_refs={"transaction_id": "DHC0001"},
        )
        assert (await his.fetch_refund(refund_of()) is not None) is refunded


async def test_registration_of_another_order_is_not_ours(door: Door) -> None:
    row = "<RegStatus>R</RegStatus><ExtOrderNo>20260105000000000002</ExtOrderNo>"
    async with door.canned(done(f"<RegInfos>{row}</RegInfos>")) as (_, his):
        with pytest.raises(HisReplyInvalid, match="another order"):
            await his.fetch_registration(golden_order())


# --- money ---------------------------------------------------------------------------------------------------------


async def test_bill_is_read_in_yuan_with_its_lines(door: Door) -> None:
    bill = (
        "<OrderNo>R100</OrderNo><OrderName>门诊费用</OrderName><OrderSum>120.5</OrderSum><PatientID>0000012345</PatientID>"
        "<Adm>77</Adm><AdmDept>内科</AdmDept><OrderDate>2026-01-04 09:00:00</OrderDate><ChargeStatus>N</ChargeStatus>"
    )
    line = "<ArcmiCode>1</ArcmiCode><ArcmiDesc>血常规</ArcmiDesc><ItemSum>120.50</ItemSum><Qty>1</Qty><UOM>次</UOM>"
    replies = done(f"<Orders>{bill}</Orders>"), done(f"<Items><Item>{line}</Item></Items>")
    async with door.canned(*replies) as (_, his):
        assert await his.fetch_bills(KNOWN) == [
            Bill(
                id="R100",
                amount_fen=12050,
                currency="CNY",
                mrn="0000012345",
                title="门诊费用",
                department_name="内科",
                issued_at=dt.datetime(2026, 1, 4, 9, tzinfo=ZONE),
                encounter_no="77",
                items=(BillItem(name="血常规", amount_fen=12050, quantity="1", unit="次", code="1"),),
                his_refs={"adm": "77"},
            )
        ]


async def test_bills_fail_as_a_whole_when_an_amount_has_a_tenth_of_a_fen(door: Door) -> None:
    bills = "".join(
        f"<Order><OrderNo>{no}</OrderNo><OrderSum>{sum_}</OrderSum></Order>" for no, sum_ in ((1, "1"), (2, "1.005"))
    )
    async with door.canned(done(f"<Orders>{bills}</Orders>")) as (_, his):
        with pytest.raises(HisReplyInvalid):
            await his.fetch_bills(KNOWN)


@pytest.mark.parametrize(("status", "settled"), [("P", True), ("N", False), ("", False)])
async def test_settlement_counts_only_when_the_hospital_says_paid(door: Door, status: str, settled: bool) -> None:
    told = (
        f"<OrderNo>R100</OrderNo><ChargeStatus>{status}</ChargeStatus><ReceiptNo>SJ1</ReceiptNo>"
        f"<PlatformNo>{PAYMENT_ORDER_NO}</PlatformNo><OutPayNo>4200001</OutPayNo><PayAmt>120.5</PayAmt>"
    )
    async with door.canned(done(told)) as (_, his):
        assert await his.fetch_settlement(golden_bill_payment()) == (
            Settlement(
                bill_id="R100",
                receipt_no="SJ1",
                order_no=PAYMENT_ORDER_NO,
                trade_no="4200001",
                amount_fen=12050,
                his_refs={"receipt_no": "SJ1"},
            )
            if settled
            else None
        )


async def test_settlement_is_refused_when_somebody_else_has_paid(door: Door) -> None:
    told = "<OrderNo>R100</OrderNo><ChargeStatus>P</ChargeStatus><OutPayNo>4200099</OutPayNo>"
    async with door.canned(done(told)) as (_, his):
        assert await refusal(his.fetch_settlement(golden_bill_payment())) == "taken"


async def test_statement_lines_are_money_in_and_money_back(door: Door) -> None:
    row = (
        "<Bill><BalFlag>{}</BalFlag><OutPayNo>42</OutPayNo><PlatformNo>9</PlatformNo><PayAmt>7.1</PayAmt>"
        "<TradeChannel>WECHAT</TradeChannel><PayTime>2026-01-05 23:59:59</PayTime></Bill>"
    )
    async with door.canned(done(f"<Bills>{row.format(1)}{row.format(2)}</Bills>")) as (_, his):
        assert await his.fetch_statement(DAY) == [
            StatementLine(
                kind=kind,
                amount_fen=710,
                trade_no="42",
                order_no="9",
                channel="WECHAT",
                at=dt.datetime(2026, 1, 5, 23, 59, 59, tzinfo=ZONE),
            )
            for kind in (StatementKind.PAYMENT, StatementKind.REFUND)
        ]
