"""Zysoft: one operation for all trades, documents whose prolog declares gb2312, and bytes that are GBK."""

from __future__ import annotations

from xml.sax.saxutils import escape

from aiohttp import web

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
from loadtest.simulators.soap_dialects.zysoft_trades import Trades, op_of

PROLOG = '<?xml version="1.0" encoding="gb2312"?>'
_OUR_NUMBERS = ("BankTradeNo",)
_SEATS = "AvailableNum"
_REFUSALS = {"full": "号源已满", "limit": "超过当日限制", "exists": "订单已存在"}


class Zysoft:
    """`BankService(strXML)`. It reads GBK and nothing else, under the label gb2312, in the envelope and inside it."""

    path = "/webservices/WSSelfService.asmx"
    namespace = "http://www.zysoft.com.cn/"

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self._trades = Trades(hospital, ledger)

    def wsdl(self, address: str) -> str | None:
        return None

    def read(self, request: web.Request, body: bytes) -> Called:
        if request.charset != "gb2312":
            raise Unreadable(f"the charset {request.charset}")
        element = read_envelope(_without_prolog(_text(body)).encode())
        if element.tag != f"{{{self.namespace}}}BankService":
            raise Unreadable("BankService is expected")
        doc = read_xml(_without_prolog(element.findtext(f"{{{self.namespace}}}strXML") or ""))
        return Called("BankService", op_of(doc), doc)

    def run(self, called: Called, habits: frozenset[str]) -> str:
        assert called.op is not None  # noqa: S101 - the front has looked
        try:
            reply = with_habits(self._trades.run(called.op, called.doc), habits, _OUR_NUMBERS, _SEATS)
        except TradeRefused as refused:
            return _document(
                called, "9999", refused.text, [], "ErrorMsg" if "other_place" in habits else "ResultContent"
            )
        return _document(called, "0000", "交易成功", reply)

    def refusal(self, called: Called, kind: str) -> str:
        return _document(called, "9999", _REFUSALS[kind], [])

    def reply(self, called: Called, text: str, encoding: str | None = None) -> web.Response:
        if encoding is not None:
            return enveloped("BankService", self.namespace, escape(text), encoding)
        return enveloped("BankService", self.namespace, escape(text), "gbk", declared="gb2312")


def _text(body: bytes) -> str:
    try:
        return body.decode("gbk")
    except UnicodeDecodeError:
        raise Unreadable("the bytes are not GBK") from None


def _without_prolog(text: str) -> str:
    if not text.startswith(PROLOG):
        raise Unreadable("the prolog does not declare gb2312")
    return text.removeprefix(PROLOG)


def _document(called: Called, code: str, text: str, reply: Reply, place: str = "ResultContent") -> str:
    head: Reply = [("TradeCode", text_in(called.doc, "TradeCode")), ("ResultCode", code), (place, text)]
    return PROLOG + xml_of(("Response", [*head, *reply]))
