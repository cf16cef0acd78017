"""DHC self-service: bills, settlements and statements, sent and read, against values worked out by hand."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec
import pytest

from connectors.port import Accepted, HisRefused, HisReplyInvalid
from connectors.soap import SoapConnector, create
from mappings.canonical import (
    Bill,
    BillItem,
    Patient,
    Settlement,
    StatementKind,
    StatementLine,
)
from tests.connectors.soap.golden.cases import DAY, texts
from tests.connectors.soap.golden.dhc_doors import called
from tests.connectors.soap.soap_hospital import (
    HOSPITAL,
    ZONE,
    canned,
    golden_bill_payment,
    options,
)


async def test_bill_has_its_items_from_the_follow_up_call() -> None:
    bills = (
        "<Response><ResultCode>0</ResultCode><Orders><Order><OrderNo>R100</OrderNo><OrderSum>120.5</OrderSum>"
        "<PatientID>0000012345</PatientID><Adm>77</Adm><OrderDate>2026-01-04 09:00:00</OrderDate></Order></Orders></Response>"
    )
    items = (
        "<Response><ResultCode>0000</ResultCode><Items><Item><ArcmiDesc>血常规</ArcmiDesc><ItemSum>120.50</ItemSum>"
        "<Qty>1</Qty><UOM>次</UOM></Item></Items></Response>"
    )
    async with canned(bills, items) as (peer, his):
        assert await his.fetch_bills(Patient(name="张伟", mrn="0000012345")) == [
            Bill(
                id="R100",
                amount_fen=12050,
                currency="CNY",
                mrn="0000012345",
                issued_at=dt.datetime(2026, 1, 4, 9, tzinfo=ZONE),
                encounter_no="77",
                items=(BillItem(name="血常规", amount_fen=12050, quantity="1", unit="次"),),
                his_refs={"adm": "77"},
            )
        ]
        assert [called(peer, n)[1].findtext("TradeCode") for n in (0, 1)] == ["4902", "4904"]
        assert called(peer, 1)[1].findtext("Adm") == "77"


async def test_bills_fail_as_a_whole_when_one_cannot_be_read() -> None:
    reply = (
        "<Response><ResultCode>0</ResultCode><Orders><Order><OrderNo>1</OrderNo><OrderSum>1</OrderSum></Order>"
        "<Order><OrderNo>2</OrderNo><OrderSum>1.005</OrderSum></Order></Orders></Response>"
    )
    async with canned(reply) as (_, his):
        with pytest.raises(HisReplyInvalid) as raised:
            await his.fetch_bills(Patient(name="张伟", mrn="1"))
        assert "1.005" not in str(raised.value)


async def test_settlement_sends_the_presettlements_invoice_and_reads_the_receipt() -> None:
    reply = "<Response><ResultCode>0</ResultCode><OrderNo>R100</OrderNo><ReceiptNo>SJ1</ReceiptNo></Response>"
    async with canned(reply) as (peer, his):
        outcome = await his.settle_bill(golden_bill_payment())
        operation, document = called(peer)
        assert (operation, document.findtext("TradeCode"), document.findtext("InvoiceNoStr")) == (
            "ZZJCommonPay",
            "4906",
            "INV9",
        )
        assert (document.findtext("PayDetails/PayAmt"), document.findtext("PayDetails/OutPayNo")) == (
            "120.50",
            "4200001",
        )
        assert outcome == Accepted(
            his_refs={"receipt_no": "SJ1"},
            record=Settlement(bill_id="R100", receipt_no="SJ1", his_refs={"receipt_no": "SJ1"}),
        )


@pytest.mark.parametrize(("status", "settled"), [("P", True), ("N", False), ("", False)])
async def test_settlement_counts_only_when_the_hospital_says_paid(status: str, settled: bool) -> None:
    async with canned(charged(status, "<OutPayNo>4200001</OutPayNo>")) as (_, his):
        found = await his.fetch_settlement(golden_bill_payment())
        assert (found is not None) is settled


def charged(status: str, whose: str) -> str:
    return (
        f"<Response><ResultCode>0</ResultCode><OrderNo>R100</OrderNo><ChargeStatus>{status}</ChargeStatus>{whose}"
        "</Response>"
    )


@pytest.mark.parametrize(
    ("whose", "code"),
    [
        ("<OutPayNo>4200099</OutPayNo>", "taken"),
        ("<PlatformNo>20260105000000000008</PlatformNo>", "taken"),
        ("<OutPayNo>4200001</OutPayNo><PayAmt>120.51</PayAmt>", "price_changed"),
    ],
)
async def test_settlement_is_refused_when_it_is_not_by_our_payment(whose: str, code: str) -> None:
    async with canned(charged("P", whose)) as (_, his):
        with pytest.raises(HisRefused) as refused:
            await his.fetch_settlement(golden_bill_payment())
        assert (refused.value.code, refused.value.verb) == (code, "fetch_settlement")


@pytest.mark.parametrize(
    "whose",
    ["<PlatformNo>20260105000000000009</PlatformNo>", "<OutPayNo>4200001</OutPayNo><PayAmt>120.5</PayAmt>"],
)
async def test_settlement_is_ours_when_either_number_is(whose: str) -> None:
    async with canned(charged("P", whose)) as (_, his):
        assert await his.fetch_settlement(golden_bill_payment()) is not None


async def test_settlement_is_unreadable_when_it_does_not_say_whose_it_is(tmp_path: Path) -> None:
    async with canned(charged("P", "")) as (peer, his):
        with pytest.raises(HisReplyInvalid):
            await his.fetch_settlement(golden_bill_payment())
        # A site whose HIS looks by our number without repeating it says so in its profile.
        site = tmp_path / "by_number"
        site.mkdir()
        (site / "profile.yaml").write_text(
            "name: by_number\nversion: 1\nprotocol: soap\nextends: dhc@1\nverbs:\n  fetch_settlement:\n"
            "    call: {echo: true}\n"
            "    reply: {fields: {trade_no: {from: [OutPayNo, /Response/Request/OutPayNo]}}}\n"
        )
        given = msgspec.structs.replace(options(endpoint=peer.url), profile="by_number")
        other: SoapConnector = create(HOSPITAL, "his", given, profiles_dir=tmp_path)
        await other.start()
        try:
            assert await other.fetch_settlement(golden_bill_payment()) is not None
        finally:
            await other.close()


async def test_statement_lines_are_money_in_and_money_back() -> None:
    row = "<Bill><BalFlag>{0}</BalFlag><OutPayNo>42</OutPayNo><PlatformNo>9</PlatformNo><PayAmt>7.00</PayAmt></Bill>"
    reply = f"<Response><ResultCode>0</ResultCode><Bills>{row.format(1)}{row.format(2)}</Bills></Response>"
    async with canned(reply) as (peer, his):
        assert await his.fetch_statement(DAY) == [
            StatementLine(kind=StatementKind.PAYMENT, amount_fen=700, trade_no="42", order_no="9"),
            StatementLine(kind=StatementKind.REFUND, amount_fen=700, trade_no="42", order_no="9"),
        ]
        sent = texts(called(peer)[1])
        assert (sent["StDTime"], sent["EndDTime"]) == ("2026-01-05 00:00:00", "2026-01-05 23:59:59")
