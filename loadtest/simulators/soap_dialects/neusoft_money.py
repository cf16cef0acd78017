"""The trades of the simulated Neusoft-style hospital that are about money."""

from __future__ import annotations

from loadtest.simulators.hospital import Charge, Hospital
from loadtest.simulators.soap_dialects.neusoft_rows import Given, listed, need
from loadtest.simulators.soap_dialects.speaking import Desk, Ledger, Reply, TradeRefused, fen, yuan


class Money:
    """Recipes, what is paid for them, and the daily statement."""

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self.hospital, self.ledger = hospital, ledger
        self._desk = Desk(hospital, ledger)

    def recipes(self, given: Given) -> Reply:
        mrn = need(given, "cardNo")
        return listed(
            [
                [
                    ("RECIPE_NO", c.no),
                    ("RECIPE_NAME", "门诊处方"),
                    ("TOTCOST", yuan(c.total_fen)),
                    ("CARD_NO", c.mrn),
                    ("CLINIC_CODE", f"C{c.no}"),
                    ("DEPT_NAME", "内科"),
                    ("PAY_FLAG", "0"),
                ]
                for c in self.hospital.charges.values()
                if c.mrn == mrn and c.state == "open"
            ]
        )

    def recipe_lines(self, given: Given) -> Reply:
        lines = enumerate(self._charge(given).items, 1)
        return listed(
            [
                [
                    ("ITEM_CODE", str(n)),
                    ("ITEM_NAME", name),
                    ("TOTCOST", yuan(cost)),
                    ("QTY", "1"),
                    ("PRICE_UNIT", "次"),
                ]
                for n, (name, cost) in lines
            ]
        )

    def pre_pay(self, given: Given) -> Reply:
        charge = self._charge(given)
        if charge.state == "paid":
            raise TradeRefused("0", "该处方已收费")
        if fen(given["totCost"]) != charge.total_fen:
            raise TradeRefused("0", "金额不符")
        return [
            (
                "Data",
                [
                    ("RECIPE_NO", charge.no),
                    ("PREPAY_NO", f"P{charge.no}"),
                    ("TOTCOST", yuan(charge.total_fen)),
                    ("PUB_COST", yuan(charge.fund_fen)),
                    ("PAY_COST", yuan(charge.account_fen)),
                    ("OWN_COST", yuan(charge.own_fen)),
                ],
            )
        ]

    def pay_recipe(self, given: Given) -> Reply:
        charge = self._charge(given)
        self.hospital.settle(charge.no, fen(given["totCost"]), given["tradeNo"])
        self.ledger.paid_at[charge.no] = self._desk.now()
        return [("Data", self._paid(charge))]

    def pay_info(self, given: Given) -> Reply:
        charge = self._charge(given)
        if charge.state != "paid":
            raise TradeRefused("0", "未查询到收费记录")
        return listed([self._paid(charge)])

    def _paid(self, charge: Charge) -> Reply:
        return [
            ("RECIPE_NO", charge.no),
            ("PAY_FLAG", "1"),
            ("RECEIPT_NO", charge.receipt),
            ("INVOICE_NO", ""),
            ("TRADE_NO", charge.trade_no),
            ("TOTCOST", yuan(charge.total_fen)),
            ("OWN_COST", yuan(charge.own_fen)),
        ]

    def _charge(self, given: Given) -> Charge:
        charge = self.hospital.charges.get(need(given, "recipeNo"))
        if charge is None or charge.mrn != need(given, "cardNo"):
            raise TradeRefused("0", "收费记录不存在")
        return charge

    def check_bill(self, given: Given) -> Reply:
        moved = [(v.no, v.key, v.trade_no, v.paid_fen) for v in self.hospital.visits.values() if v.paid_fen]
        moved += [(c.no, "", c.trade_no, c.own_fen) for c in self.hospital.charges.values() if c.state == "paid"]
        rows: list[Reply] = []
        for no, key, trade_no, amount in moved:
            for kind, at in (("1", self.ledger.paid_at.get(no)), ("2", self.ledger.refunded_at.get(no))):
                if at is not None and at.date().isoformat() == given["billDate"]:
                    rows.append(
                        [
                            ("TRANS_TYPE", kind),
                            ("TRADE_NO", trade_no),
                            ("ORDER_NO", key),
                            ("TOTCOST", yuan(amount)),
                            ("PAY_MODE", "WX"),
                            ("OPER_DATE", f"{at:%Y-%m-%d %H:%M:%S}"),
                        ]
                    )
        return listed(rows)
