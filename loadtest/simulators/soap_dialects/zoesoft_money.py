"""The trades of the simulated zoesoft hospital that are about money."""

from __future__ import annotations

from lxml import etree

from loadtest.simulators.hospital import Charge, Hospital
from loadtest.simulators.soap_dialects.speaking import Desk, Ledger, Reply, TradeRefused, fen, listed, text_in, yuan
from loadtest.simulators.soap_dialects.zoesoft_rows import need


class Money:
    """Trades 3001 to 3008."""

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self.hospital, self.ledger = hospital, ledger
        self._desk = Desk(hospital, ledger)

    def fetch_bills(self, doc: etree._Element) -> Reply:
        mrn = need(doc, "PatientId")
        rows: list[Reply] = [
            [
                ("BillNo", c.no),
                ("BillName", "门诊处方"),
                ("Amount", yuan(c.total_fen)),
                ("PatientId", c.mrn),
                ("VisitNo", f"V{c.no}"),
                ("DeptName", "内科"),
                ("Status", "0"),
            ]
            for c in self.hospital.charges.values()
            if c.mrn == mrn and c.state == "open"
        ]
        if not rows:
            raise TradeRefused("-1", "未查询到待缴费记录")
        return [listed("Bills", "Bill", rows)]

    def fetch_bill_items(self, doc: etree._Element) -> Reply:
        charge = self._charge(doc)
        rows: list[Reply] = [
            [("ItemCode", str(n)), ("ItemName", name), ("Amount", yuan(cost)), ("Quantity", "1"), ("Unit", "次")]
            for n, (name, cost) in enumerate(charge.items, 1)
        ]
        return [listed("Items", "Item", rows)]

    def presettle_bill(self, doc: etree._Element) -> Reply:
        charge = self._charge(doc)
        if charge.state == "paid":
            raise TradeRefused("-1", "该单已支付")
        if fen(need(doc, "Amount")) != charge.total_fen:
            raise TradeRefused("-1", "金额不符")
        return [
            ("BillNo", charge.no),
            ("PreSettleId", f"PS{charge.no}"),
            ("Amount", yuan(charge.total_fen)),
            ("FundAmount", yuan(charge.fund_fen)),
            ("AccountAmount", yuan(charge.account_fen)),
            ("SelfAmount", yuan(charge.own_fen)),
        ]

    def settle_bill(self, doc: etree._Element) -> Reply:
        charge = self._charge(doc)
        self.hospital.settle(charge.no, fen(need(doc, "PayAmount")), need(doc, "TradeNo"))
        self.ledger.paid_at[charge.no] = self._desk.now()
        return self._settled(charge)

    def fetch_settlement(self, doc: etree._Element) -> Reply:
        settle_id = text_in(doc, "SettleId")
        charge = self.hospital.charges.get(settle_id.removeprefix("S")) if settle_id else self._charge(doc)
        if charge is None or charge.state != "paid":
            raise TradeRefused("-1", "未查询到缴费记录")
        return self._settled(charge) if settle_id else [listed("Settles", "Settle", [self._settled(charge)])]

    def _settled(self, charge: Charge) -> Reply:
        return [
            ("BillNo", charge.no),
            ("SettleId", f"S{charge.no}"),
            ("Status", "1"),
            ("ReceiptNo", charge.receipt),
            ("InvoiceNo", ""),
            ("TradeNo", charge.trade_no),
            ("PayAmount", yuan(charge.own_fen)),
        ]

    def _charge(self, doc: etree._Element) -> Charge:
        charge = self.hospital.charges.get(need(doc, "BillNo"))
        if charge is None or charge.mrn != need(doc, "PatientId"):
            raise TradeRefused("-1", "缴费记录不存在")
        return charge
