"""The trades of the simulated B-Soft hospital that are about money."""

from __future__ import annotations

import datetime as dt

from lxml import etree

from loadtest.simulators.hospital import Charge, Hospital
from loadtest.simulators.soap_dialects.bsoft_rows import listed, need
from loadtest.simulators.soap_dialects.speaking import Desk, Ledger, Reply, TradeRefused, fen, yuan


class Money:
    """Bills, what is paid for them, and the daily statement."""

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self.hospital, self.ledger = hospital, ledger
        self._desk = Desk(hospital, ledger)

    def fetch_bills(self, body: etree._Element) -> Reply:
        mrn = need(body, "BRID")
        return listed(
            [
                [
                    ("FYXH", c.no),
                    ("FYMC", "门诊费用"),
                    ("ZJJE", yuan(c.total_fen)),
                    ("BRID", c.mrn),
                    ("MZXH", f"M{c.no}"),
                    ("KSMC", "内科"),
                    ("JSZT", "0"),
                ]
                for c in self.hospital.charges.values()
                if c.mrn == mrn and c.state == "open"
            ]
        )

    def fetch_bill_items(self, body: etree._Element) -> Reply:
        return listed(
            [
                [("XMDM", str(n)), ("XMMC", name), ("XMJE", yuan(cost)), ("XMSL", "1"), ("XMDW", "次")]
                for n, (name, cost) in enumerate(self._charge(body).items, 1)
            ]
        )

    def presettle_bill(self, body: etree._Element) -> Reply:
        charge = self._charge(body)
        if charge.state == "paid":
            raise TradeRefused("3003", "该单已结算")
        if fen(need(body, "ZJJE")) != charge.total_fen:
            raise TradeRefused("3009", "金额不符")
        return [("FYXH", charge.no), ("YJSH", f"Y{charge.no}")]

    def settle_bill(self, body: etree._Element) -> Reply:
        charge = self.hospital.settle(need(body, "FYXH"), fen(need(body, "ZFJE")), need(body, "JYLSH"))
        self.ledger.paid_at[charge.no] = self._desk.now()
        return self._settled(charge)

    def fetch_settlement(self, body: etree._Element) -> Reply:
        charge = self._charge(body)
        return listed([self._settled(charge) if charge.state == "paid" else [("FYXH", charge.no), ("JSZT", "0")]])

    def _settled(self, charge: Charge) -> Reply:
        return [
            ("FYXH", charge.no),
            ("JSZT", "1"),
            ("FPHM", charge.receipt),
            ("JYLSH", charge.trade_no),
            ("ZFJE", yuan(charge.total_fen)),
        ]

    def fetch_statement(self, body: etree._Element) -> Reply:
        day = need(body, "JZRQ")
        paid = [(v.no, v.key, v.trade_no, v.paid_fen) for v in self.hospital.visits.values() if v.paid_fen]
        paid += [(c.no, c.no, c.trade_no, c.total_fen) for c in self.hospital.charges.values() if c.state == "paid"]
        rows: list[Reply] = []
        for no, key, trade_no, amount in paid:
            for kind, at in (("1", self.ledger.paid_at.get(no)), ("2", self.ledger.refunded_at.get(no))):
                if at is not None and at.date().isoformat() == day:
                    rows.append(_statement_row(kind, key, trade_no, amount, at))
        return listed(rows)

    def _charge(self, body: etree._Element) -> Charge:
        charge = self.hospital.charges.get(need(body, "FYXH"))
        if charge is None:
            raise TradeRefused("3006", "费用单不存在")
        return charge


def _statement_row(kind: str, key: str, trade_no: str, amount: int, at: dt.datetime) -> Reply:
    return [
        ("JYLX", kind),
        ("JYLSH", trade_no),
        ("WBDDH", key),
        ("ZFJE", yuan(amount)),
        ("ZFQD", "WECHAT"),
        ("JYSJ", f"{at:%Y-%m-%d %H:%M:%S}"),
    ]
