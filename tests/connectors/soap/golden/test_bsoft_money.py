"""BSXml: money and reports, against records written by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from connectors.port import Accepted, HisReplyInvalid
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
from tests.connectors.soap.golden.bsoft_peer import FOUND, asked, done, order
from tests.connectors.soap.golden.cases import DAY, ORDER_NO, refund_of, refusal
from tests.connectors.soap.soap_hospital import (
    ZONE,
    canned,
    golden_bill_payment,
    payment,
)

# --- money ---------------------------------------------------------------------------------------------------------


async def test_bill_has_its_items() -> None:
    bills = (
        "<Rows><Row><FYXH>9001</FYXH><FYMC>检验费</FYMC><ZJJE>120.5</ZJJE><BRID>0000012345</BRID><MZXH>M77</MZXH>"
        "<KSMC>内科</KSMC><KDSJ>2026-01-05 10:20:30</KDSJ><JSZT>0</JSZT></Row></Rows>"
    )
    items = "<Rows><Row><XMDM>X1</XMDM><XMMC>血常规</XMMC><XMJE>120.50</XMJE><XMSL>1</XMSL><XMDW>次</XMDW></Row></Rows>"
    async with canned(done(bills), done(items), profile="bsoft@1") as (peer, his):
        assert await his.fetch_bills(Patient(name="张伟", mrn="0000012345", card_number="0008")) == [
            Bill(
                id="9001",
                amount_fen=12050,
                currency="CNY",
                mrn="0000012345",
                title="检验费",
                department_name="内科",
                issued_at=dt.datetime(2026, 1, 5, 10, 20, 30, tzinfo=ZONE),
                encounter_no="M77",
                items=(BillItem(name="血常规", amount_fen=12050, quantity="1", unit="次", code="X1"),),
                his_refs={"visit_no": "M77"},
            )
        ]
        assert asked(peer, 0) == ("ChargeQuery", {"JGID": "1", "BRID": "0000012345", "JZKH": "0008"})
        assert asked(peer, 1) == ("ChargeDetail", {"JGID": "1", "BRID": "0000012345", "FYXH": "9001"})


async def test_bill_is_presettled_and_settled_with_our_numbers() -> None:
    paid = "<FYXH>R100</FYXH><FPHM>F9</FPHM><WBDDH>20260105000000000009</WBDDH><ZFJE>120.50</ZFJE>"
    async with canned(done("<FYXH>R100</FYXH><YJSH>Y9</YJSH>"), done(paid), profile="bsoft@1") as (peer, his):
        presettled = await his.presettle_bill(golden_bill_payment())
        assert isinstance(presettled, Accepted)
        assert presettled.his_refs == {"presettle_no": "Y9"}
        assert asked(peer) == (
            "ChargePreSettle",
            {"JGID": "1", "BRID": "0000012345", "MZXH": "", "FYXH": "R100", "ZJJE": "120.50"},
        )
        paying = msgspec.structs.replace(golden_bill_payment(), his_refs=presettled.his_refs)
        assert await his.settle_bill(paying) == Accepted(
            his_refs={"receipt_no": "F9"},
            record=Settlement(
                bill_id="R100",
                receipt_no="F9",
                order_no="20260105000000000009",
                amount_fen=12050,
                his_refs={"receipt_no": "F9"},
            ),
        )
        assert asked(peer) == (
            "ChargeSettle",
            {
                "JGID": "1",
                "WBDDH": "20260105000000000009",
                "BRID": "0000012345",
                "FYXH": "R100",
                "YJSH": "Y9",
                "ZFFS": "3",
                "ZFQD": "WECHAT",
                "ZFJE": "120.50",
                "JYLSH": "4200001",
                "JYSJ": "2026-01-04 09:30:15",
            },
        )


@pytest.mark.parametrize(("status", "settled"), [("1", True), ("0", False), ("9", False)])
async def test_settlement_counts_only_when_the_hospital_says_paid(status: str, settled: bool) -> None:
    row = f"<Rows><Row><FYXH>R100</FYXH><JSZT>{status}</JSZT><JYLSH>4200001</JYLSH><FPHM>F9</FPHM></Row></Rows>"
    async with canned(done(row), profile="bsoft@1") as (_, his):
        found = await his.fetch_settlement(golden_bill_payment())
        assert (found is not None and found.receipt_no == "F9") is settled


async def test_settlement_is_taken_when_another_payment_made_it() -> None:
    row = "<Rows><Row><FYXH>R100</FYXH><JSZT>1</JSZT><JYLSH>4299999</JYLSH></Row></Rows>"
    async with canned(done(row), profile="bsoft@1") as (_, his):
        assert await refusal(his.fetch_settlement(golden_bill_payment())) == "taken"


async def test_refund_is_asked_for_and_found_again() -> None:
    paid = order(his_refs={"order_id": "66", "visit_no": "M66"}, payment=payment(700))
    given = refund_of(paid)
    back = f"<Rows><Row>{FOUND}</Row></Rows>".replace("<DDZT>0", "<DDZT>9").replace("<MZXH/>", "<MZXH>M66</MZXH>")
    never_paid = back.replace("<DDZT>9", "<DDZT>8")
    async with canned(done(""), done(back), done(never_paid), profile="bsoft@1") as (peer, his):
        assert await his.refund(given) == Accepted()
        assert asked(peer) == (
            "RegisterReturn",
            {
                "JGID": "1",
                "WBDDH": ORDER_NO,
                "DDXH": "66",
                "MZXH": "M66",
                "BRID": "0000012345",
                "JYLSH": "4200001",
                "TKDH": "8" * 20,
                "TKJE": "7.00",
            },
        )
        assert await his.fetch_refund(given) == Settlement(receipt_no="M66", his_refs={"visit_no": "M66"})
        assert await his.fetch_refund(given) is None
    assert given.order is not None


async def test_statement_lines_are_money_in_and_money_back() -> None:
    row = (
        "<Row><JYLX>{}</JYLX><JYLSH>42</JYLSH><WBDDH>9</WBDDH><ZFJE>7.1</ZFJE><ZFQD>WECHAT</ZFQD>"
        "<JYSJ>2026-01-05 23:59:59</JYSJ></Row>"
    )
    async with canned(done(f"<Rows>{row.format(1)}{row.format(2)}</Rows>"), profile="bsoft@1") as (peer, his):
        lines = [
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
        assert await his.fetch_statement(DAY) == lines
        assert asked(peer) == ("BillStatement", {"JGID": "1", "JZRQ": "2026-01-05", "ZFFS": "3"})
    async with canned(done("<Rows><Row><JYLX>3</JYLX><ZFJE>1</ZFJE></Row></Rows>"), profile="bsoft@1") as (_, his):
        with pytest.raises(HisReplyInvalid):  # a statement that is not whole is none
            await his.fetch_statement(DAY)


# --- reports -------------------------------------------------------------------------------------------------------


REPORT = "<BGDH>L1</BGDH><BGLX>{}</BGLX><BGZT>2</BGZT><BGMC>血常规</BGMC><BRID>0000012345</BRID><BGSJ>2026-01-05 10:00:00</BGSJ>"
RESULT = (
    "<XM><XMDM>WBC</XMDM><XMMC>白细胞</XMMC><XMJG>11.2</XMJG><XMDW>10*9/L</XMDW><CKFW>3.5-9.5</CKFW><TSBZ>↑</TSBZ></XM>"
)


@pytest.mark.parametrize(("code", "kind"), [("1", ReportKind.LAB), ("2", ReportKind.EXAM)])
async def test_report_is_listed_and_told_with_its_results(code: str, kind: ReportKind) -> None:
    patient = Patient(name="张伟", mrn="0000012345")
    head = REPORT.format(code)
    more = "<CYSJ>20260105090000</CYSJ><BGJL>未见异常</BGJL><SHYS>陈静</SHYS>"
    whole = f"<Rows><Row>{head}{more}<XMLB>{RESULT}</XMLB></Row></Rows>"
    async with canned(done(f"<Rows><Row>{head}</Row></Rows>"), done(whole), profile="bsoft@1") as (peer, his):
        listed = Report(
            id="L1",
            kind=kind,
            status=ReportStatus.FINAL,
            name="血常规",
            mrn="0000012345",
            issued_at=dt.datetime(2026, 1, 5, 10, tzinfo=ZONE),
        )
        assert await his.fetch_reports(patient) == [listed]
        assert asked(peer) == ("ReportQuery", {"JGID": "1", "BRID": "0000012345", "BGLX": ""})
        assert await his.fetch_report(patient, "L1") == msgspec.structs.replace(
            listed,
            effective_at=dt.datetime(2026, 1, 5, 9, tzinfo=ZONE),
            conclusion="未见异常",
            interpreter="陈静",
            observations=(
                Observation(
                    code="WBC", name="白细胞", value="11.2", unit="10*9/L", reference_range="3.5-9.5", flag="H"
                ),
            ),
        )
        assert asked(peer) == ("ReportDetail", {"JGID": "1", "BRID": "0000012345", "BGDH": "L1"})
