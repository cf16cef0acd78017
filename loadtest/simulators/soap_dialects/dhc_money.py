"""The trades of the simulated DHC hospital that are about money."""

from __future__ import annotations

from lxml import etree

from loadtest.simulators.hospital import Charge, Hospital
from loadtest.simulators.soap_dialects.dhc_rows import listed, need
from loadtest.simulators.soap_dialects.speaking import Desk, Ledger, Reply, TradeRefused, fen, yuan


class Money:
    """Bills, what is paid for them, and the daily statement."""

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self.hospital, self.ledger = hospital, ledger
        self._desk = Desk(hospital, ledger)

    def fetch_bills(self, doc: etree._Element) -> Reply:
        mrn = need(doc, "PatientID")
        rows: list[Reply] = [
            [
                ("OrderNo", c.no),
                ("OrderName", "门诊费用"),
                ("OrderSum", yuan(c.total_fen)),
                ("PatientID", c.mrn),
                ("Adm", f"ADM{c.no}"),
                ("AdmDept", "内科"),
                ("ChargeStatus", "N"),
            ]
            for c in self.hospital.charges.values()
            if c.mrn == mrn and c.state == "open"
        ]
        return listed("Orders", "Order", rows)

    def fetch_bill_items(self, doc: etree._Element) -> Reply:
        charge = self._charge(doc)
        rows: list[Reply] = [
            [("ArcmiCode", str(n)), ("ArcmiDesc", name), ("ItemSum", yuan(fen)), ("Qty", "1"), ("UOM", "次")]
            for n, (name, fen) in enumerate(charge.items, 1)
        ]
        return listed("Items", "Item", rows)

    def presettle_bill(self, doc: etree._Element) -> Reply:
        charge = self._charge(doc)
        if charge.state == "paid":
            raise TradeRefused("-1003", "该单已支付")
        if fen(need(doc, "OrderSum")) != charge.total_fen:
            raise TradeRefused("-1009", "金额不符")
        told: Reply = [("OrderNo", charge.no), ("InvoiceNoStr", f"INV{charge.no}")]
        if charge.own_fen != charge.total_fen:  # what a hospital adds to the vendor's answer, for its own 医保
            told += [
                ("SelfPaySum", yuan(charge.own_fen)),
                ("FundSum", yuan(charge.fund_fen)),
                ("AccountSum", yuan(charge.account_fen)),
            ]
        return told

    def settle_bill(self, doc: etree._Element) -> Reply:
        amount = fen(doc.findtext("PayDetails/PayAmt") or "")
        charge = self.hospital.settle(need(doc, "OrderNo"), amount, doc.findtext("PayDetails/OutPayNo") or "")
        self.ledger.paid_at[charge.no] = self._desk.now()
        return self._settled(charge)

    def fetch_settlement(self, doc: etree._Element) -> Reply:
        charge = self._charge(doc)
        if charge.state == "open":
            return [("OrderNo", charge.no), ("ChargeStatus", "N")]
        return self._settled(charge)

    def _settled(self, charge: Charge) -> Reply:
        return [
            ("OrderNo", charge.no),
            ("ChargeStatus", "P"),
            ("ReceiptNo", charge.receipt),
            ("InvoiceNo", ""),
            ("OutPayNo", charge.trade_no),
            ("PayAmt", yuan(charge.own_fen)),
        ]

    def fetch_statement(self, doc: etree._Element) -> Reply:
        day = need(doc, "StDTime")[:10]
        rows: list[Reply] = []
        for v in self.hospital.visits.values():
            if v.paid_fen:
                rows += self._statement_rows(v.no, v.key, v.trade_no, v.paid_fen, day)
        for c in self.hospital.charges.values():
            if c.state == "paid":
                rows += self._statement_rows(c.no, c.no, c.trade_no, c.own_fen, day)
        return listed("Bills", "Bill", rows)

    def _statement_rows(self, no: str, key: str, trade_no: str, fen: int, day: str) -> list[Reply]:
        kinds = (("1", self.ledger.paid_at.get(no)), ("2", self.ledger.refunded_at.get(no)))
        return [
            [
                ("BalFlag", kind),
                ("OutPayNo", trade_no),
                ("PlatformNo", key),
                ("PayAmt", yuan(fen)),
                ("TradeChannel", "WECHAT"),
                ("PayTime", f"{at:%Y-%m-%d %H:%M:%S}"),
            ]
            for kind, at in kinds
            if at is not None and at.date().isoformat() == day
        ]

    def _charge(self, doc: etree._Element) -> Charge:
        charge = self.hospital.charges.get(need(doc, "OrderNo"))
        if charge is None:
            raise TradeRefused("-1006", "缴费单不存在")
        return charge
