"""What a zoesoft hospital answers about money and reports, against records written by hand from DOMAIN facts."""

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
)
from tests.connectors.soap.golden.cases import KNOWN, refusal
from tests.connectors.soap.golden.zoesoft_peer import done, failed, zoesoft
from tests.connectors.soap.soap_hospital import (
    ZONE,
    golden_bill_payment,
)

# --- money ---------------------------------------------------------------------------------------------------------


async def test_bill_has_its_lines_from_3002() -> None:
    bill = (
        "<BillNo>R100</BillNo><BillName>处方</BillName><Amount>120.5</Amount><PatientId>0000012345</PatientId>"
        "<VisitNo>77</VisitNo><BillTime>2026-01-04 09:00:00</BillTime><DeptName>内科</DeptName><Status>0</Status>"
    )
    item = (
        "<ItemCode>1</ItemCode><ItemName>血常规</ItemName><Amount>120.50</Amount><Quantity>1</Quantity><Unit>次</Unit>"
    )
    async with zoesoft(done(f"<Bills>{bill}</Bills>"), done(f"<Items>{item}</Items>")) as (_, his):
        assert await his.fetch_bills(KNOWN) == [
            Bill(
                id="R100",
                amount_fen=12050,
                currency="CNY",
                mrn="0000012345",
                title="处方",
                department_name="内科",
                issued_at=dt.datetime(2026, 1, 4, 9, tzinfo=ZONE),
                encounter_no="77",
                items=(BillItem(name="血常规", amount_fen=12050, quantity="1", unit="次", code="1"),),
                his_refs={"visit_no": "77"},
            )
        ]


async def test_no_bills_are_open_when_the_words_say_so() -> None:
    async with zoesoft(failed("未查询到待缴费记录", "ErrMsg")) as (_, his):
        assert await his.fetch_bills(KNOWN) == []


async def test_presettlement_tells_what_is_left_to_pay() -> None:
    reply = done(
        "<BillNo>R100</BillNo><PreSettleId>PS9</PreSettleId><Amount>120.50</Amount><FundAmount>100.00</FundAmount>"
        "<AccountAmount>0.50</AccountAmount><SelfAmount>20.00</SelfAmount>"
    )
    async with zoesoft(reply) as (_, his):
        refs = {"pre_settle_id": "PS9", "fund": "100.00", "account": "0.50"}
        assert await his.presettle_bill(golden_bill_payment()) == Accepted(
            his_refs=refs,
            record=Settlement(bill_id="R100", amount_fen=2000, fund_fen=10000, account_fen=50, his_refs=refs),
        )


SETTLED = (
    "<BillNo>R100</BillNo><SettleId>S9</SettleId><Status>{}</Status><ReceiptNo>SJ1</ReceiptNo>"
    "<TradeNo>{}</TradeNo><PayAmount>{}</PayAmount>"
)


@pytest.mark.parametrize("status", ["0", "1", "2"])
async def test_settlement_counts_only_when_the_hospital_says_settled(status: str) -> None:
    settle = SETTLED.format(status, "4200001", "120.50")
    replies = done(f"<Settles>{settle}</Settles>"), done(settle)
    found = Settlement(
        bill_id="R100",
        receipt_no="SJ1",
        trade_no="4200001",
        amount_fen=12050,
        his_refs={"settle_id": "S9", "receipt_no": "SJ1"},
    )
    async with zoesoft(*replies) as (_, his):
        for refs in ({}, {"settle_id": "S9"}):
            asked = msgspec.structs.replace(golden_bill_payment(), his_refs=refs)
            assert await his.fetch_settlement(asked) == (found if status == "1" else None)


@pytest.mark.parametrize(
    ("trade_no", "amount", "code"), [("4200099", "120.50", "taken"), ("4200001", "120.51", "price_changed")]
)
async def test_settlement_is_refused_when_it_is_not_by_our_payment(trade_no: str, amount: str, code: str) -> None:
    reply = done(f"<Settles><Settle>{SETTLED.format('1', trade_no, amount)}</Settle></Settles>")
    async with zoesoft(reply) as (_, his):
        assert await refusal(his.fetch_settlement(golden_bill_payment())) == code


# --- reports -------------------------------------------------------------------------------------------------------


HEADING = (
    "<ReportNo>{}</ReportNo><ReportName>{}</ReportName><PatientId>0000012345</PatientId>"
    "<ReportTime>2026-01-05 15:00:00</ReportTime>"
)


async def test_reports_of_both_kinds_are_one_list() -> None:
    lab = f"<Report>{HEADING.format('L7', '血常规')}<Status>2</Status></Report>"
    exam = f"{HEADING.format('E8', '胸部CT')}<Status>1</Status>"
    both = done(f"<Reports>{lab}</Reports>"), done(f"<Reports>{exam}</Reports>")
    async with zoesoft(*both) as (_, his):
        told = [(r.id, r.kind, r.status, r.name) for r in await his.fetch_reports(KNOWN)]
        assert told == [
            ("L7", ReportKind.LAB, ReportStatus.FINAL, "血常规"),
            ("E8", ReportKind.EXAM, ReportStatus.PRELIMINARY, "胸部CT"),
        ]


async def test_laboratory_report_is_read_with_its_results() -> None:
    item = (
        "<Item><ItemCode>WBC</ItemCode><ItemName>白细胞</ItemName><Result>11.2</Result><Unit>10*9/L</Unit>"
        "<Range>3.5-9.5</Range><Flag>↑</Flag></Item>"
    )
    lab = done(f"{HEADING.format('L7', '血常规')}<Items>{item}</Items>")
    async with zoesoft(lab, failed("报告不存在")) as (_, his):
        assert await his.fetch_report(KNOWN, "L7") == Report(
            id="L7",
            kind=ReportKind.LAB,
            status=ReportStatus.FINAL,
            name="血常规",
            mrn="0000012345",
            issued_at=dt.datetime(2026, 1, 5, 15, tzinfo=ZONE),
            observations=(
                Observation(
                    name="白细胞", code="WBC", value="11.2", unit="10*9/L", reference_range="3.5-9.5", flag="H"
                ),
            ),
        )


async def test_examination_is_read_with_its_finding_and_its_document() -> None:
    exam = done(
        f"{HEADING.format('E8', '胸部CT')}<Finding>双肺纹理清晰</Finding><Conclusion>未见异常</Conclusion>"
        "<PdfUrl>http://10.0.0.9/pacs/E8.pdf</PdfUrl>"
    )
    async with zoesoft(failed("报告不存在"), exam) as (_, his):
        assert await his.fetch_report(KNOWN, "E8") == Report(
            id="E8",
            kind=ReportKind.EXAM,
            status=ReportStatus.FINAL,
            name="胸部CT",
            mrn="0000012345",
            issued_at=dt.datetime(2026, 1, 5, 15, tzinfo=ZONE),
            conclusion="双肺纹理清晰\n未见异常",
            attachments=(Attachment(content_type="application/pdf", url="http://10.0.0.9/pacs/E8.pdf"),),
        )
