"""DHC: the self-service dialect (one operation for each trade), its gateway and its ESB (one operation for all)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar
from xml.sax.saxutils import escape

from aiohttp import web
from lxml import etree

from loadtest.simulators.hospital import Hospital
from loadtest.simulators.soap_dialects.dhc_trades import OPS, Trades
from loadtest.simulators.soap_dialects.speaking import (
    Called,
    Ledger,
    Reply,
    TradeRefused,
    Unreadable,
    enveloped,
    read_envelope,
    read_xml,
    with_habits,
    xml_of,
)

_WSDL = Path(__file__).with_name("dhc.wsdl")
_OUR_NUMBERS = ("ExtOrderNo", "PlatformNo")
_SEATS = "AvailableLeftNum"
_REFUSALS = {"full": ("-1001", "号源已满"), "limit": ("-301", "超过当日限制"), "exists": ("-1003", "订单已存在")}
_OPERATION_OF = {trade: operation for operation, trade in OPS}


class SelfService:
    """One operation for each trade, with one text argument."""

    path = "/csp/his/SelfRegService.cls"
    namespace = "http://tempuri.org"

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self._trades = Trades(hospital, ledger)

    def wsdl(self, address: str) -> str | None:
        return _WSDL.read_text("utf-8").replace("http://localhost" + self.path, address)

    def read(self, request: web.Request, body: bytes) -> Called:
        element = read_envelope(body)
        if len(element) != 1:
            raise Unreadable("one argument is expected")
        operation = etree.QName(element).localname
        return self._called(operation, operation, element[0].text or "")

    def _called(self, name: str, operation: str, text: str) -> Called:
        doc = read_xml(text)
        return Called(name, self._trades.op_of(operation, doc), doc)

    def run(self, called: Called, habits: frozenset[str]) -> str:
        assert called.op is not None  # noqa: S101 - the front has looked
        try:
            return _document(
                "0", "成功", with_habits(self._trades.run(called.op, called.doc), habits, _OUR_NUMBERS, _SEATS)
            )
        except TradeRefused as refused:
            return _document(refused.code, refused.text, [], "ErrorMsg" if "other_place" in habits else "ResultContent")

    def refusal(self, called: Called, kind: str) -> str:
        return _document(*_REFUSALS[kind], [])

    def reply(self, called: Called, text: str, encoding: str | None = None) -> web.Response:
        return enveloped(called.operation, self.namespace, escape(text), encoding)


class Gateway(SelfService):
    """One operation with the trade's code beside the document."""

    path = "/csp/his/DHC.Gateway.cls"
    operation: ClassVar[str] = "CommonMethod"
    arguments: ClassVar[tuple[str, str]] = ("funCode", "input")

    def wsdl(self, address: str) -> str | None:
        return None

    def read(self, request: web.Request, body: bytes) -> Called:
        element = read_envelope(body)
        given = {etree.QName(child).localname: child.text or "" for child in element}
        if etree.QName(element).localname != self.operation or set(given) != set(self.arguments):
            raise Unreadable(f"{self.operation}({', '.join(self.arguments)}) is expected")
        trade, text = (given[name] for name in self.arguments)
        return self._called(self.operation, _OPERATION_OF.get(trade, ""), text)


class Esb(Gateway):
    """The same over the integration platform, in its own namespace."""

    path = "/csp/hsb/DHC.Published.PUB0001.BS.PUB0001.cls"
    namespace = "http://www.dhcc.com.cn"
    operation: ClassVar[str] = "HIPMessageServer"
    arguments: ClassVar[tuple[str, str]] = ("input1", "input2")


def _document(code: str, text: str, reply: Reply, place: str = "ResultContent") -> str:
    return xml_of(("Response", [("ResultCode", code), (place, text), *reply]))
