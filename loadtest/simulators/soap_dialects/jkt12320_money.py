"""The trades of the simulated 12320 hospital that are about money: bills, settlement, the daily statement in pages."""

from __future__ import annotations

from lxml import etree

from loadtest.simulators.hospital import Charge, Hospital
from loadtest.simulators.soap_dialects.jkt12320_rows import get, listed, need
from loadtest.simulators.soap_dialects.speaking import Desk, Ledger, Reply, TradeRefused

PAGE_ROWS = 100
_BILL_TYPES = {"ALL": ("1", "2"), "SUCCESS": ("1",), "REFUND": ("2",)}


class Money:
    """Trades 3001 to 3004 and 9003."""

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self.hospital, self.ledger = hospital, ledger
        self._desk = Desk(hospital, ledger)
        self._ours: dict[str, str] = {}  # bill -> the order number that came with its money

    def bills(self, doc: etree._Element) -> Reply:
        mrn = need(doc, "HOSP_PATIENT_ID")
        rows: list[Reply] = [bill_row(c) for c in self.hospital.charges.values() if c.mrn == mrn and c.state == "open"]
        return listed("BILL", rows)

    def items(self, doc: etree._Element) -> Reply:
        rows: list[Reply] = [
            [
                ("ITEM_ID", str(n)),
                ("ITEM_NAME", name),
                ("ITEM_AMOUNT", str(fen)),
                ("ITEM_NUMBER", "1"),
                ("ITEM_UNIT", "次"),
            ]
            for n, (name, fen) in enumerate(self._charge("3002", doc).items, 1)
        ]
        return listed("ITEM", rows)

    def settle(self, doc: etree._Element) -> Reply:
        order = need(doc, "ORDER_ID")
        no, amount_fen = need(doc, "BILL_NO"), int(need(doc, "TRADE_AMOUNT"))
        charge = self.hospital.settle(no, amount_fen, need(doc, "TRANSACTION_ID"))
        self.ledger.paid_at[charge.no], self._ours[charge.no] = self._desk.now(), order
        return self._settled(charge)

    def settlement(self, doc: etree._Element) -> Reply:
        charge = self._charge("3004", doc)
        return [("BILL_NO", charge.no), ("PAY_STATUS", "0")] if charge.state == "open" else self._settled(charge)

    def _settled(self, charge: Charge) -> Reply:
        return [
            ("BILL_NO", charge.no),
            ("PAY_STATUS", "1"),
            ("RECEIPT_NO", charge.receipt),
            ("ORDER_ID", self._ours.get(charge.no, "")),
            ("TRANSACTION_ID", charge.trade_no),
            ("TRADE_AMOUNT", str(charge.total_fen)),
        ]

    def statement(self, doc: etree._Element) -> Reply:
        day, kinds = need(doc, "BILL_DATE"), _BILL_TYPES.get(need(doc, "BILL_TYPE"))
        if kinds is None:
            raise TradeRefused("100001", "入参错误:BILL_TYPE")
        rows: list[Reply] = []
        for v in self.hospital.visits.values():
            if v.paid_fen:
                rows += self._lines(v.no, v.key, v.trade_no, v.paid_fen, day, kinds)
        for c in self.hospital.charges.values():
            if c.state == "paid":
                rows += self._lines(c.no, self._ours.get(c.no, ""), c.trade_no, c.total_fen, day, kinds)
        page = int(get(doc, "PAGE_CURRENT") or "1")
        shown = rows[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
        return [("PAGE_TOTAL", str(-(-len(rows) // PAGE_ROWS))), *listed("TRADE", shown)]

    def _lines(
        self, no: str, key: str, trade_no: str, amount_fen: int, day: str, kinds: tuple[str, ...]
    ) -> list[Reply]:
        times = (("1", self.ledger.paid_at.get(no)), ("2", self.ledger.refunded_at.get(no)))
        return [
            [
                ("BUSS_TYPE", kind),
                ("TRADE_ORDER_NO", no),
                ("ORDER_NO_12320", key),
                ("TRANSACTION_ID", trade_no),
                ("TRADE_CHANNEL_ID", "WECHAT"),
                ("TRADE_AMOUNT", str(amount_fen)),
                ("TRADE_TIME", f"{at:%Y-%m-%d %H:%M:%S}"),
            ]
            for kind, at in times
            if kind in kinds and at is not None and at.date().isoformat() == day
        ]

    def _charge(self, fun_code: str, doc: etree._Element) -> Charge:
        charge = self.hospital.charges.get(need(doc, "BILL_NO"))
        if charge is None:
            raise TradeRefused(f"{fun_code}01", "缴费单不存在")
        return charge


def bill_row(charge: Charge) -> Reply:
    """A bill, asked for or told."""
    return [
        ("BILL_NO", charge.no),
        ("BILL_NAME", "门诊费用"),
        ("BILL_AMOUNT", str(charge.total_fen)),
        ("HOSP_PATIENT_ID", charge.mrn),
        ("DEPT_NAME", "内科"),
        ("BILL_STATUS", "0"),
    ]
