"""What a Neusoft-style hospital answers about money and reports, against records written by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from connectors.port import Accepted
from mappings.canonical import (
    Attachment,
    Bill,
    BillItem,
    Observation,
    Report,
    ReportKind,
    ReportStatus,
    Settlement,
    StatementKind,
    StatementLine,
)
from tests.connectors.soap.golden.cases import DAY, KNOWN, refusal
from tests.connectors.soap.golden.neusoft_peer import collapsed, done, failed, neusoft
from tests.connectors.soap.soap_hospital import (
    ZONE,
    golden_bill_payment,
)

# --- money ---------------------------------------------------------------------------------------------------------


async def test_recipe_is_a_bill_with_its_lines() -> None:
    recipe = (
        "<RECIPE_NO>R100</RECIPE_NO><RECIPE_NAME>门诊处方</RECIPE_NAME><TOTCOST>120.5</TOTCOST><CARD_NO>0000012345</CARD_NO>"
        "<CLINIC_CODE>C7</CLINIC_CODE><DEPT_NAME>内科</DEPT_NAME><OPER_DATE>2026-01-04 09:00:00</OPER_DATE><PAY_FLAG>0</PAY_FLAG>"
    )
    line = "<ITEM_CODE>1</ITEM_CODE><ITEM_NAME>血常规</ITEM_NAME><TOTCOST>120.50</TOTCOST><QTY>1</QTY><PRICE_UNIT>次</PRICE_UNIT>"
    async with neusoft(collapsed(recipe), collapsed(line)) as (_, his):
        assert await his.fetch_bills(KNOWN) == [
            Bill(
                id="R100",
                amount_fen=12050,
                currency="CNY",
                mrn="0000012345",
                title="门诊处方",
                department_name="内科",
                issued_at=dt.datetime(2026, 1, 4, 9, tzinfo=ZONE),
                encounter_no="C7",
                items=(BillItem(name="血常规", amount_fen=12050, quantity="1", unit="次", code="1"),),
                his_refs={"clinic_code": "C7"},
            )
        ]


async def test_presettlement_leaves_what_the_insurance_does_not_pay() -> None:
    row = (
        "<RECIPE_NO>R100</RECIPE_NO><PREPAY_NO>P9</PREPAY_NO><TOTCOST>120.50</TOTCOST><PUB_COST>80.00</PUB_COST>"
        "<PAY_COST>20.00</PAY_COST><OWN_COST>20.50</OWN_COST>"
    )
    async with neusoft(done(row)) as (_, his):
        outcome = await his.presettle_bill(golden_bill_payment())
        assert isinstance(outcome, Accepted)
        assert isinstance(outcome.record, Settlement)
        assert outcome.record.amount_fen == 2050
        assert outcome.his_refs == {"pre_pay_no": "P9", "pub_cost": "80.00", "pay_cost": "20.00"}


@pytest.mark.parametrize(("flag", "settled"), [("1", True), ("0", False), ("2", False), ("", False)])
async def test_settlement_counts_only_when_the_hospital_says_paid(flag: str, settled: bool) -> None:
    row = (
        f"<RECIPE_NO>R100</RECIPE_NO><PAY_FLAG>{flag}</PAY_FLAG><RECEIPT_NO>SJ1</RECEIPT_NO><TRADE_NO>4200001</TRADE_NO>"
        "<TOTCOST>120.50</TOTCOST>"
    )
    async with neusoft(done(row)) as (_, his):
        found = await his.fetch_settlement(golden_bill_payment())
        if not settled:
            assert found is None
            return
        assert found == Settlement(
            bill_id="R100",
            receipt_no="SJ1",
            trade_no="4200001",
            amount_fen=12050,
            his_refs={"receipt_no": "SJ1"},
        )


async def test_settlement_is_refused_when_somebody_else_has_paid() -> None:
    row = "<RECIPE_NO>R100</RECIPE_NO><PAY_FLAG>1</PAY_FLAG><TRADE_NO>4200099</TRADE_NO>"
    async with neusoft(done(row)) as (_, his):
        assert await refusal(his.fetch_settlement(golden_bill_payment())) == "taken"


async def test_statement_lines_are_money_in_and_money_back() -> None:
    row = (
        "<TRANS_TYPE>{}</TRANS_TYPE><TRADE_NO>42</TRADE_NO><ORDER_NO>9</ORDER_NO><TOTCOST>7.00</TOTCOST><PAY_MODE>WX</PAY_MODE>"
        "<OPER_DATE>2026-01-05 09:30:15</OPER_DATE>"
    )
    async with neusoft(done(row.format(1), row.format(2))) as (_, his):
        line = StatementLine(
            kind=StatementKind.PAYMENT,
            amount_fen=700,
            trade_no="42",
            order_no="9",
            channel="WX",
            at=dt.datetime(2026, 1, 5, 9, 30, 15, tzinfo=ZONE),
        )
        assert await his.fetch_statement(DAY) == [line, msgspec.structs.replace(line, kind=StatementKind.REFUND)]


# --- reports -------------------------------------------------------------------------------------------------------


async def test_report_of_the_laboratory_has_its_values_and_one_of_radiology_its_words() -> None:
    head = (
        "<REPORT_NO>L7</REPORT_NO><REPORT_NAME>{}</REPORT_NAME><CARD_NO>0000012345</CARD_NO>"
        "<REPORT_DATE>2026-01-05 10:00:00</REPORT_DATE><REPORT_STATE>2</REPORT_STATE>"
    )
    item = (
        "<Item><ITEM_CODE>WBC</ITEM_CODE><ITEM_NAME>白细胞</ITEM_NAME><RESULT>11.2</RESULT><UNIT>10*9/L</UNIT>"
        "<REFER_RANGE>3.5-9.5</REFER_RANGE><RESULT_FLAG>↑</RESULT_FLAG></Item>"
    )
    seen = "<EXAM_SEE>双肺清晰</EXAM_SEE><EXAM_RESULT>未见异常</EXAM_RESULT><PDF_URL>http://192.0.2.7/L7.pdf</PDF_URL>"
    issued = dt.datetime(2026, 1, 5, 10, tzinfo=ZONE)
    lab = collapsed(head.format("血常规") + f"<Items>{item}</Items>")
    async with neusoft(lab, failed("报告不存在"), collapsed(head.format("胸部CT") + seen)) as (peer, his):
        assert await his.fetch_report(KNOWN, "L7") == Report(
            id="L7",
            kind=ReportKind.LAB,
            status=ReportStatus.FINAL,
            name="血常规",
            mrn="0000012345",
            issued_at=issued,
            observations=(
                Observation(
                    name="白细胞", code="WBC", value="11.2", unit="10*9/L", reference_range="3.5-9.5", flag="H"
                ),
            ),
        )
        assert len(peer.requests) == 1
        assert await his.fetch_report(KNOWN, "L7") == Report(
            id="L7",
            kind=ReportKind.EXAM,
            status=ReportStatus.FINAL,
            name="胸部CT",
            mrn="0000012345",
            issued_at=issued,
            conclusion="双肺清晰\n未见异常",
            attachments=(Attachment(content_type="application/pdf", url="http://192.0.2.7/L7.pdf"),),
        )
