"""zoesoft: one operation for all trades, the trade in <TranCode>, success in an attribute of the reply's root."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from aiohttp import web
from lxml import etree

from loadtest.simulators.hospital import Hospital
from loadtest.simulators.soap_dialects.speaking import (
    Called,
    Ledger,
    Reply,
    TradeRefused,
    Unreadable,
    enveloped,
    read_envelope,
    read_xml,
    text_in,
    with_habits,
    xml_of,
)
from loadtest.simulators.soap_dialects.zoesoft_trades import OPS, Trades

_OUR_NUMBERS = ("OutOrderNo",)
_SEATS = "LeftNum"
_REFUSALS = {"full": "号源已满", "limit": "超过当日限制", "exists": "订单已存在"}
_MONEY = ("fetch_bills", "fetch_bill_items", "presettle_bill", "settle_bill", "fetch_settlement")


class Zoesoft:
    """`Invoke(strXml)`; a .NET service, which finds its argument only in its own namespace."""

    path = "/ZoeService/HisService.asmx"
    namespace = "http://tempuri.org/"

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self._trades = Trades(hospital, ledger)

    def wsdl(self, address: str) -> str | None:
        return None

    def read(self, request: web.Request, body: bytes) -> Called:
        element = read_envelope(body)
        if element.tag != f"{{{self.namespace}}}Invoke":
            raise Unreadable("Invoke is expected")
        if request.headers.get("SOAPAction", "").strip('"') != f"{self.namespace}Invoke":
            raise Unreadable("the server does not recognise the value of the HTTP header SOAPAction")
        doc = read_xml(element.findtext(f"{{{self.namespace}}}strXml") or "")
        return Called("Invoke", OPS.get(text_in(doc, "TranCode")), doc)

    def run(self, called: Called, habits: frozenset[str]) -> str:
        assert called.op is not None  # noqa: S101 - the front has looked
        try:
            return _document(
                "0", "", with_habits(self._trades.run(called.op, called.doc), habits, _OUR_NUMBERS, _SEATS)
            )
        except TradeRefused as refused:
            return _refused(called.op, refused.text)

    def refusal(self, called: Called, kind: str) -> str:
        return _refused(called.op or "", _REFUSALS[kind])

    def reply(self, called: Called, text: str, encoding: str | None = None) -> web.Response:
        return enveloped("Invoke", self.namespace, escape(text), encoding)


def _refused(op: str, text: str) -> str:
    """The sentence is in the root, except where money is spoken of."""
    return _document("-1", "", [("ErrMsg", text)]) if op in _MONEY else _document("-1", text, [])


def _document(result: str, text: str, reply: Reply) -> str:
    inside = "".join(xml_of(node) for node in reply)
    whole = f"<Response Result={quoteattr(result)} Err={quoteattr(text)}>{inside}</Response>"
    return etree.tostring(read_xml(whole), encoding="unicode")
