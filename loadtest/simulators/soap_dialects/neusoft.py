"""Neusoft-style: about sixty typed operations, each of which returns a string with several roots in it."""

from __future__ import annotations

from xml.sax.saxutils import escape

from aiohttp import web
from lxml import etree

from loadtest.simulators.hospital import Hospital
from loadtest.simulators.soap_dialects.neusoft_operations import NAMESPACE, OPERATIONS, wsdl
from loadtest.simulators.soap_dialects.neusoft_trades import Trades
from loadtest.simulators.soap_dialects.speaking import (
    ENVELOPE,
    Called,
    Ledger,
    Reply,
    TradeRefused,
    Unreadable,
    read_envelope,
    with_habits,
    xml_of,
)

_OUR_NUMBERS = ("ORDER_NO",)
_SEATS = "TEL_LMT"
_REFUSALS = {"full": "号源已满", "limit": "超过当日限制", "exists": "订单已存在"}
_MONEY = ("presettle_bill", "settle_bill", "fetch_settlement")
_PROLOG = '<?xml version="1.0" encoding="GBK"?>'


class Neusoft:
    """A JAX-WS service: arguments in order, in no namespace and of their types, or the call is a fault.

    Further habits: `prolog`, each of the roots has a prolog of its own; `many_data`, every record is a root `Data`.
    """

    path = "/services/HisService"

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self._trades = Trades(hospital, ledger)

    def wsdl(self, address: str) -> str | None:
        return wsdl(address)

    def read(self, request: web.Request, body: bytes) -> Called:
        element = read_envelope(body)
        name = etree.QName(element)
        operation = OPERATIONS.get(name.localname)
        if name.namespace != NAMESPACE or operation is None:
            raise Unreadable("no such operation")
        given = {str(child.tag): child.text or "" for child in element}
        wrong = operation.wrong(given)
        if wrong is not None or len(given) != len(element):
            raise Unreadable(f"cvc-complex-type: {wrong} of {name.localname}")
        if list(given) != [argument for argument in operation.arguments if argument in given]:
            raise Unreadable(f"cvc-complex-type: the order of {name.localname}'s arguments")
        op = operation.verb
        if name.localname == "returnRegister" and given.get("refundNo"):
            op = "refund"
        return Called(name.localname, op, given)

    def run(self, called: Called, habits: frozenset[str]) -> str:
        assert called.op is not None  # noqa: S101 - the front has looked
        try:
            data = with_habits(self._trades.run(called.operation, called.doc), habits, _OUR_NUMBERS, _SEATS)
        except TradeRefused as refused:
            return _refused(called.op, refused.text)
        if "many_data" in habits:
            data = [("Data", row) for row in _rows_of(data)] or data
        roots = [_result("1", "成功"), *(xml_of(node) for node in data)]
        return "".join(_PROLOG + root if "prolog" in habits else root for root in roots)

    def refusal(self, called: Called, kind: str) -> str:
        return _refused(called.op or "", _REFUSALS[kind])

    def reply(self, called: Called, text: str, encoding: str | None = None) -> web.Response:
        answer = f"<return>{escape(text)}</return></ns2:{called.operation}Response>"
        body = f'<soap:Body><ns2:{called.operation}Response xmlns:ns2="{NAMESPACE}">{answer}</soap:Body>'
        whole = f'<?xml version="1.0" encoding="UTF-8"?><soap:Envelope xmlns:soap="{ENVELOPE}">{body}</soap:Envelope>'
        return web.Response(body=whole.encode(encoding or "utf-8"), content_type="text/xml", charset="utf-8")


def _rows_of(data: Reply) -> list[Reply]:
    ((_, rows),) = data
    return (
        [row for name, row in rows if name == "Row" and not isinstance(row, str)] if not isinstance(rows, str) else []
    )


def _result(code: str, text: str) -> str:
    return xml_of(("result", [("returnCode", code), ("returnDesc", text)]))


def _refused(op: str, text: str) -> str:
    """The sentence stands in the result; where money is paid, in the data."""
    if op in _MONEY:
        data: Reply = [("ERR_MSG", text)]
        return _result("0", "") + xml_of(("Data", data))
    return _result("0", text)
