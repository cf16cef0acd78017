"""Pipe strings: money and reports, against records written by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt

import pytest

from connectors.port import (
    Accepted,
    BillPayment,
    HisReplyInvalid,
    NotOffered,
)
from loadtest.simulators.soap_dialects.pipe import written
from mappings.canonical import (
    Bill,
    BillItem,
    Observation,
    Patient,
    Report,
    ReportKind,
    ReportStatus,
    Settlement,
    StatementKind,
    StatementLine,
)
from tests.connectors.soap.golden.cases import DAY, ORDER_NO, refund_of, refusal
from tests.connectors.soap.golden.pipe_peer import PIPE, asked, done, failed, order
from tests.connectors.soap.soap_hospital import (
    ZONE,
    canned,
    golden_bill_payment,
    payment,
)


async def test_bill_comes_with_its_items() -> None:
    row = (
        '[{费用单号:"9001",费用名称:"检验费",金额:12050,病人ID:"0000012345",开单科室:"内科",开单时间:"20260105102030",'
        '明细:[{项目编码:"X1",项目名称:"血常规",金额:12050,数量:1,单位:"次"}]}]'
    )
    async with canned(done(row), done(row.replace(":[{", ":{").replace("}]}]", "}}]")), **PIPE) as (peer, his):
        patient = Patient(name="张伟", mrn="0000012345")
        bills = await his.fetch_bills(patient)
        assert bills == [
            Bill(
                id="9001",
                amount_fen=12050,
                currency="CNY",
                mrn="0000012345",
                title="检验费",
                department_name="内科",
                issued_at=dt.datetime(2026, 1, 5, 10, 20, 30, tzinfo=ZONE),
                items=(BillItem(name="血常规", amount_fen=12050, quantity="1", unit="次", code="X1"),),
            )
        ]
        assert asked(peer) == "JFCX|1|0000012345"
        assert await his.fetch_bills(patient) == bills  # the list of one collapsed


async def test_bill_is_settled_with_our_numbers_and_looked_up_by_them() -> None:
    row = '{费用单号:"R100",状态:"已缴费",票据号:"F9",流水号:"4200001",金额:12050}'
    settled = Settlement(
        bill_id="R100", receipt_no="F9", trade_no="4200001", amount_fen=12050, his_refs={"receipt_no": "F9"}
    )
    replies = (done(row), done(row), done('{费用单号:"R100",状态:"未缴费"}'), failed("无数据"))
    async with canned(*replies, **PIPE) as (peer, his):
        paying: BillPayment = golden_bill_payment()
        assert await his.settle_bill(paying) == Accepted(his_refs={"receipt_no": "F9"}, record=settled)
        assert asked(peer) == "JF|1|20260105000000000009|0000012345|R100|WX|12050|4200001|20260104093015"
        assert await his.fetch_settlement(paying) == settled
        assert asked(peer) == "JFJG|1|20260105000000000009|R100|4200001"
        assert await his.fetch_settlement(paying) is None
        assert await his.fetch_settlement(paying) is None
    async with canned(done(row.replace("4200001", "4299999")), **PIPE) as (_, his):
        assert await refusal(his.fetch_settlement(paying)) == "taken"


async def test_refund_is_asked_for_and_found_again() -> None:
    paid = order(his_refs={"booking_no": "66", "visit_no": "M66"}, payment=payment(700))
    given = refund_of(paid)
    back = f'{{平台订单号:"{ORDER_NO}",状态:"已退号",门诊号:"M66"}}'
    async with canned(done("null"), done(back), done(back.replace("已退号", "已取消")), **PIPE) as (peer, his):
        assert await his.refund(given) == Accepted()
        assert asked(peer) == f"TH|1|{ORDER_NO}|4200001|88888888888888888888|700"
        assert await his.fetch_refund(given) == Settlement(receipt_no="M66", his_refs={"visit_no": "M66"})
        assert await his.fetch_refund(given) is None


async def test_statement_lines_are_money_in_and_money_back() -> None:
    row = '{{交易类型:"{}",流水号:"42",平台订单号:"9",金额:710,支付方式:"WX",交易时间:"20260105235959"}}'
    reply = done(f"[{row.format('收费')},{row.format('退费')}]")
    async with canned(reply, done("[" + row.format("冲正") + "]"), failed("无数据"), **PIPE) as (peer, his):
        assert await his.fetch_statement(DAY) == [
            StatementLine(
                kind=kind,
                amount_fen=710,
                trade_no="42",
                order_no="9",
                channel="WX",
                at=dt.datetime(2026, 1, 5, 23, 59, 59, tzinfo=ZONE),
            )
            for kind in (StatementKind.PAYMENT, StatementKind.REFUND)
        ]
        assert asked(peer) == "DZ|1|20260105|WX"
        with pytest.raises(HisReplyInvalid):  # a statement that is not whole is none
            await his.fetch_statement(DAY)
        assert await his.fetch_statement(DAY) == []


async def test_report_comes_with_its_results() -> None:
    row = (
        '{报告单号:"L1",报告类型:"检验",报告状态:"已审核",报告名称:"血常规",病人ID:"0000012345",报告时间:"20260105100000",'
        '结果:[{项目编码:"WBC",项目名称:"白细胞",结果值:11.2,单位:"10*9/L",参考范围:"3.5-9.5",提示:"↑"}]}'
    )
    async with canned(done(row), **PIPE) as (peer, his):
        patient = Patient(name="张伟", mrn="0000012345")
        assert await his.fetch_reports(patient) == [
            Report(
                id="L1",
                kind=ReportKind.LAB,
                status=ReportStatus.FINAL,
                name="血常规",
                mrn="0000012345",
                issued_at=dt.datetime(2026, 1, 5, 10, tzinfo=ZONE),
                observations=(
                    Observation(
                        code="WBC", name="白细胞", value="11.2", unit="10*9/L", reference_range="3.5-9.5", flag="H"
                    ),
                ),
            )
        ]
        assert asked(peer) == "BGCX|1|0000012345"
        with pytest.raises(NotOffered):
            await his.fetch_report(patient, "L1")


def test_simulated_hospital_writes_names_without_quotes() -> None:
    assert written({"Code": 0, "数据": [{"名称": "a'b"}]}, frozenset()) == '{Code:0,数据:[{名称:"a\'b"}]}'
    assert written({"a": ["b'\"c"]}, frozenset({"single_quotes", "comma_too_many"})) == "{a:['b\\'\"c',],}"
