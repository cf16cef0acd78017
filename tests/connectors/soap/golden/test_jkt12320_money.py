"""What a 12320 platform answers about money and reports, and the records that they mean: written by hand."""

from __future__ import annotations

import datetime as dt

import pytest

from connectors.port import (
    Accepted,
    HisRefused,
    HisReplyInvalid,
    RefundOrder,
)
from mappings.canonical import (
    Bill,
    BillItem,
    BillStatus,
    Observation,
    Refund,
    Report,
    ReportKind,
    ReportStatus,
    Settlement,
    StatementKind,
    StatementLine,
)
from tests.connectors.soap.golden.cases import DAY, ORDER_NO
from tests.connectors.soap.golden.jkt12320_peer import (
    PERSON_WITH_NUMBER,
    asked,
    order,
    platform,
    refused,
    told,
)
from tests.connectors.soap.soap_hospital import ZONE, golden_bill_payment, payment


def at(hour: int, minute: int = 0, day: int = 5) -> dt.datetime:
    return dt.datetime(2026, 1, day, hour, minute, tzinfo=ZONE)


# --- money ----------------------------------------------------------------------------------------------------------


async def test_bill_is_in_fen_with_its_lines() -> None:
    bills = told(
        "<RES><BILL_LIST><BILL><BILL_NO>B1</BILL_NO><BILL_NAME>门诊费用</BILL_NAME><BILL_AMOUNT>12050</BILL_AMOUNT>"
        "<HOSP_PATIENT_ID>0000012345</HOSP_PATIENT_ID><DEPT_NAME>内科</DEPT_NAME><BILL_STATUS>0</BILL_STATUS>"
        "<BILL_TIME>2026-01-04 09:00:00</BILL_TIME></BILL></BILL_LIST></RES>"
    )
    items = told(
        "<RES><ITEM_LIST><ITEM_ID>7</ITEM_ID><ITEM_NAME>血常规</ITEM_NAME><ITEM_AMOUNT>12050</ITEM_AMOUNT>"
        "<ITEM_NUMBER>1</ITEM_NUMBER><ITEM_UNIT>次</ITEM_UNIT></ITEM_LIST></RES>"
    )
    async with platform(bills, items) as (_, his):
        assert await his.fetch_bills(PERSON_WITH_NUMBER) == [
            Bill(
                id="B1",
                amount_fen=12050,
                currency="CNY",
                status=BillStatus.OPEN,
                mrn="0000012345",
                title="门诊费用",
                department_name="内科",
                issued_at=at(9, day=4),
                items=(BillItem(name="血常规", amount_fen=12050, quantity="1", unit="次", code="7"),),
            )
        ]


async def test_bills_fail_as_a_whole_when_one_is_not_in_fen() -> None:
    row = "<BILL><BILL_NO>{}</BILL_NO><BILL_AMOUNT>{}</BILL_AMOUNT></BILL>"
    res = f"<RES><BILL_LIST>{row.format(1, 100)}{row.format(2, 1.5)}</BILL_LIST></RES>"
    async with platform(told(res)) as (_, his):
        with pytest.raises(HisReplyInvalid):
            await his.fetch_bills(PERSON_WITH_NUMBER)


PAID = (
    "<RES><BILL_NO>R100</BILL_NO><PAY_STATUS>1</PAY_STATUS><RECEIPT_NO>SJ1</RECEIPT_NO>"
    "<TRANSACTION_ID>4200001</TRANSACTION_ID><TRADE_AMOUNT>12050</TRADE_AMOUNT></RES>"
)


async def test_settlement_has_the_receipt() -> None:
    settled = Settlement(
        bill_id="R100",
        receipt_no="SJ1",
        invoice_no="FP1",
        order_no="20260105000000000009",
        trade_no="4200001",
        amount_fen=12050,
        his_refs={"receipt_no": "SJ1"},
    )
    whole = PAID.replace(
        "<RECEIPT_NO>", "<INVOICE_NO>FP1</INVOICE_NO><ORDER_ID>20260105000000000009</ORDER_ID><RECEIPT_NO>"
    )
    async with platform(told(whole)) as (_, his):
        assert await his.settle_bill(golden_bill_payment()) == Accepted(his_refs={"receipt_no": "SJ1"}, record=settled)
        assert await his.fetch_settlement(golden_bill_payment()) == settled


@pytest.mark.parametrize("status", ["0", "2", ""])
async def test_nothing_is_settled_when_the_platform_does_not_say_paid(status: str) -> None:
    async with platform(told(PAID.replace("<PAY_STATUS>1", f"<PAY_STATUS>{status}"))) as (_, his):
        assert await his.fetch_settlement(golden_bill_payment()) is None


@pytest.mark.parametrize(("was", "now", "code"), [("4200001", "4200099", "taken"), ("12050", "12051", "price_changed")])
async def test_settlement_is_refused_when_it_is_not_by_our_payment(was: str, now: str, code: str) -> None:
    async with platform(told(PAID.replace(f">{was}<", f">{now}<"))) as (_, his):
        with pytest.raises(HisRefused) as raised:
            await his.fetch_settlement(golden_bill_payment())
    assert raised.value.code == code


@pytest.mark.parametrize(("status", "refunded"), [("6", True), ("5", False), ("2", False)])
async def test_refund_is_told_by_the_orders_status(status: str, refunded: bool) -> None:
    row = f"<ORDER_ID>{ORDER_NO}</ORDER_ID><ORDER_STATUS>{status}</ORDER_STATUS>"
    res = f"<RES><ORDER_LIST><ORDER>{row}</ORDER></ORDER_LIST></RES>"
    paid = payment(700)
    refund = Refund(refund_no="8" * 20, payment=paid, amount_fen=700, reason="停诊")
    asked_for = RefundOrder(refund=refund, patient=PERSON_WITH_NUMBER, order=order(payment=paid))
    async with platform(told(res)) as (_, his):
        found = await his.fetch_refund(asked_for)
    assert found == (Settlement(order_no=ORDER_NO) if refunded else None)


def statement(*rows: tuple[int, int]) -> str:
    """A page of lines: (BUSS_TYPE, number)."""
    lines = "".join(
        f"<TRADE><BUSS_TYPE>{kind}</BUSS_TYPE><TRADE_ORDER_NO>H{n}</TRADE_ORDER_NO><ORDER_NO_12320>{n}</ORDER_NO_12320>"
        f"<TRANSACTION_ID>42{n}</TRANSACTION_ID><TRADE_CHANNEL_ID>WECHAT</TRADE_CHANNEL_ID>"
        f"<TRADE_AMOUNT>{n}</TRADE_AMOUNT><TRADE_TIME>2026-01-05 09:30:15</TRADE_TIME></TRADE>"
        for kind, n in rows
    )
    return told(f"<RES><TRADE_LIST>{lines}</TRADE_LIST></RES>")


async def test_statement_is_money_in_and_money_back() -> None:
    def line(kind: StatementKind, n: int) -> StatementLine:
        time = dt.datetime(2026, 1, 5, 9, 30, 15, tzinfo=ZONE)
        return StatementLine(
            kind=kind, amount_fen=n, trade_no=f"42{n}", order_no=str(n), channel="WECHAT", at=time,
            his_refs={"trade_order_no": f"H{n}"},
        )  # fmt: skip

    async with platform(statement((1, 700), (2, 50))) as (peer, his):
        lines = await his.fetch_statement(DAY)
        assert asked(peer) == (
            "9003",
            {"HOS_ID": "1", "BILL_DATE": "2026-01-05", "BILL_TYPE": "ALL", "PAGE_CURRENT": "1", "PAGE_SIZE": "100"},
        )
    assert lines == [line(StatementKind.PAYMENT, 700), line(StatementKind.REFUND, 50)]


async def test_statement_is_asked_for_page_by_page_until_one_is_not_full() -> None:
    pages = [statement(*((1, n) for n in range(first, last))) for first, last in ((1, 101), (101, 201), (201, 231))]
    async with platform(*pages) as (peer, his):
        lines = await his.fetch_statement(DAY)
        assert [asked(peer, n)[1]["PAGE_CURRENT"] for n in range(len(peer.requests))] == ["1", "2", "3"]
    assert [line.amount_fen for line in lines] == list(range(1, 231))


# --- reports --------------------------------------------------------------------------------------------------------


async def test_reports_are_listed_with_their_kind() -> None:
    row = (
        "<REPORT><REPORT_ID>{0}</REPORT_ID><REPORT_TYPE>{0}</REPORT_TYPE><REPORT_NAME>报告{0}</REPORT_NAME>"
        "<REPORT_STATUS>2</REPORT_STATUS><REPORT_TIME>2026-01-05 10:00:00</REPORT_TIME></REPORT>"
    )
    res = f"<RES><REPORT_LIST>{row.format(1)}{row.format(2)}{row.format(3)}</REPORT_LIST></RES>"
    async with platform(told(res)) as (_, his):
        kinds = (ReportKind.LAB, ReportKind.LAB, ReportKind.EXAM)
        assert await his.fetch_reports(PERSON_WITH_NUMBER) == [
            Report(id=str(n), kind=kind, status=ReportStatus.FINAL, name=f"报告{n}", issued_at=at(10))
            for n, kind in enumerate(kinds, 1)
        ]


async def test_laboratory_report_has_its_results_with_flags() -> None:
    res = (
        "<RES><REPORT_ID>L1</REPORT_ID><REPORT_NAME>血常规</REPORT_NAME><REPORT_STATUS>1</REPORT_STATUS>"
        "<REPORT_TIME>2026-01-05 10:00:00</REPORT_TIME><REPORT_DOCTOR>王检</REPORT_DOCTOR><CONCLUSION>偏高</CONCLUSION>"
        "<ITEM_LIST>"
        "<ITEM><ITEM_ID>WBC</ITEM_ID><ITEM_NAME>白细胞</ITEM_NAME><RESULT>11.2</RESULT><UNIT>10*9/L</UNIT>"
        "<REFERENCE>3.5-9.5</REFERENCE><FLAG>↑</FLAG></ITEM>"
        "<ITEM><ITEM_NAME>尿蛋白</ITEM_NAME><RESULT>阴性</RESULT><FLAG/></ITEM></ITEM_LIST></RES>"
    )
    async with platform(told(res)) as (_, his):
        assert await his.fetch_report(PERSON_WITH_NUMBER, "L1") == Report(
            id="L1",
            kind=ReportKind.LAB,
            status=ReportStatus.PRELIMINARY,
            name="血常规",
            issued_at=at(10),
            interpreter="王检",
            conclusion="偏高",
            observations=(
                Observation(
                    name="白细胞", code="WBC", value="11.2", unit="10*9/L", reference_range="3.5-9.5", flag="H"
                ),
                Observation(name="尿蛋白", value="阴性"),
            ),
        )


async def test_culture_is_read_from_8003_with_germ_drug_and_sensitivity() -> None:
    res = (
        "<RES><REPORT_ID>L2</REPORT_ID><REPORT_NAME>尿培养</REPORT_NAME><REPORT_STATUS>2</REPORT_STATUS>"
        "<REPORT_TIME>2026-01-05 10:00:00</REPORT_TIME><REPORT_DOCTOR>王检</REPORT_DOCTOR><CONCLUSION>阳性</CONCLUSION>"
        "<ITEM_LIST><ITEM><GERM_NAME>大肠埃希菌</GERM_NAME>"
        "<DRUG_ID>CRO</DRUG_ID><DRUG_NAME>头孢曲松</DRUG_NAME><MIC>&gt;=64</MIC><SENSITIVITY>R</SENSITIVITY></ITEM></ITEM_LIST></RES>"
    )
    async with platform(refused("800201", "报告不存在"), told(res)) as (_, his):
        assert await his.fetch_report(PERSON_WITH_NUMBER, "L2") == Report(
            id="L2",
            kind=ReportKind.LAB,
            status=ReportStatus.FINAL,
            name="尿培养",
            issued_at=at(10),
            interpreter="王检",
            conclusion="阳性",
            observations=(Observation(name="大肠埃希菌 头孢曲松", code="CRO", value=">=64", flag="R"),),
        )


async def test_examination_is_read_from_8004_with_what_was_seen_and_what_it_means() -> None:
    res = (
        "<RES><REPORT_ID>E1</REPORT_ID><REPORT_NAME>胸部CT</REPORT_NAME><REPORT_STATUS>2</REPORT_STATUS>"
        "<REPORT_TIME>2026-01-05 10:00:00</REPORT_TIME><REPORT_DOCTOR>钱影</REPORT_DOCTOR>"
        "<CHECK_SEE>两肺纹理清晰</CHECK_SEE><CHECK_RESULT>未见异常</CHECK_RESULT></RES>"
    )
    nothing = told("<RES/>")
    async with platform(nothing, nothing, told(res)) as (_, his):
        assert await his.fetch_report(PERSON_WITH_NUMBER, "E1") == Report(
            id="E1",
            kind=ReportKind.EXAM,
            status=ReportStatus.FINAL,
            name="胸部CT",
            issued_at=at(10),
            interpreter="钱影",
            conclusion="两肺纹理清晰\n未见异常",
        )
