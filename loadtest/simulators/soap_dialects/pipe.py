"""The pipe string: `QueryData("trade|value|value")`, answered by JSON whose Chinese names stand without quotes."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.sax.saxutils import escape

from aiohttp import web
from lxml import etree

from loadtest.simulators.hospital import Hospital
from loadtest.simulators.soap_dialects.pipe_trades import TRADES, Row, Rows, Trades
from loadtest.simulators.soap_dialects.speaking import (
    Called,
    Ledger,
    TradeRefused,
    Unreadable,
    compact,
    enveloped,
    read_envelope,
)

_OUR_NUMBER = "平台订单号"
_SEATS = "剩余号数"
_REFUSALS = {"full": "号源已满", "limit": "超过当日限制", "exists": "订单已存在"}
_PLAIN = re.compile(r"[^\W\d]\w*")


class Pipe:
    """One operation, one string. Further habits: `single_quotes` and `comma_too_many`. `other_place` is 错误信息."""

    path = "/HisService.asmx"
    namespace = "http://tempuri.org/"

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self._trades = Trades(hospital, ledger)

    def wsdl(self, address: str) -> str | None:
        return None

    def read(self, request: web.Request, body: bytes) -> Called:
        element = read_envelope(body)
        if etree.QName(element).localname != "QueryData" or len(element) != 1:
            raise Unreadable("QueryData(string) is expected")
        trade, *values = (element[0].text or "").split("|")
        op, count = TRADES.get(trade, (None, 0))
        if op is not None and len(values) != count:
            return Called("QueryData", op, TradeRefused("-1", f"参数错误:需要{count}个"))
        if op == "cancel_registration" and trade == "TH" and values[3]:
            op = "refund"
        return Called("QueryData", op, values)

    def run(self, called: Called, habits: frozenset[str]) -> str:
        assert called.op is not None  # noqa: S101 - the front has looked
        try:
            if isinstance(called.doc, TradeRefused):
                raise called.doc
            data = self._trades.run(called.op, called.doc)
        except TradeRefused as refused:
            place = "错误信息" if "other_place" in habits else "Msg"
            return written({"Code": -1, place: refused.text}, habits)
        return written({"Code": 0, "Msg": "成功", "Data": _with_habits(data, habits)}, habits)

    def refusal(self, called: Called, kind: str) -> str:
        return written({"Code": -1, "Msg": _REFUSALS[kind]}, frozenset())

    def reply(self, called: Called, text: str, encoding: str | None = None) -> web.Response:
        return enveloped(called.operation, self.namespace, escape(text), encoding)


def _with_habits(data: Rows | Row, habits: frozenset[str]) -> Any:
    rows = data if isinstance(data, list) else [data]
    if "no_order_no" in habits:
        rows = [{name: value for name, value in row.items() if name != _OUR_NUMBER} for row in rows]
    if "unlimited" in habits:
        rows = [row | ({_SEATS: -1} if _SEATS in row else {}) for row in rows]
    if "compact_dates" in habits:
        rows = [
            {name: compact(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
        ]
    return rows[0] if isinstance(data, dict) or ("collapse" in habits and len(rows) == 1) else rows


def written(value: Any, habits: frozenset[str]) -> str:
    """JSON as this HIS writes it: names without quotes."""
    comma = "," if "comma_too_many" in habits else ""
    match value:
        case dict():
            parts = (f"{_name(name)}:{written(inner, habits)}" for name, inner in value.items())
            return "{" + ",".join(parts) + comma + "}"
        case list():
            return "[" + ",".join(written(inner, habits) for inner in value) + (comma if value else "") + "]"
        case str() if "single_quotes" in habits:
            return "'" + json.dumps(value, ensure_ascii=False)[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"
        case _:
            return json.dumps(value, ensure_ascii=False)


def _name(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
