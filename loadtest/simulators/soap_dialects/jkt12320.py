"""12320 v3.3 (健康通): one operation `PubService(xml)`, signed and encrypted; see jkt12320_seal and jkt12320_trades.

Besides the front's, an operation may have the habit `gbk_inside`: GBK bytes in the encrypted document, which declares UTF-8.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from aiohttp import web
from lxml import etree

from loadtest.simulators.hospital import Hospital
from loadtest.simulators.soap_dialects.jkt12320_seal import Keys, SignatureWrong, read_call, signed_reply
from loadtest.simulators.soap_dialects.jkt12320_trades import LIMIT, Trades
from loadtest.simulators.soap_dialects.speaking import (
    Called,
    Ledger,
    TradeRefused,
    Unreadable,
    enveloped,
    read_envelope,
    read_xml,
    with_habits,
)

_OPERATION = "PubService"
_OUR_NUMBERS = ("ORDER_ID", "LOCK_ID", "ORDER_NO_12320")
_SEATS = "OVER_COUNT"
_UNSIGNED = "unsigned"
_REFUSALS = {"full": ("05", "号源已满"), "limit": (LIMIT, "超过当日限制"), "exists": ("04", "记录已存在")}


class PubService:
    """The operation and its argument are the same for every trade; FUN_CODE says which it is."""

    path = "/services/PubService"
    namespace = "http://tempuri.org"
    keys = Keys()

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self._trades = Trades(hospital, ledger)

    def wsdl(self, address: str) -> str | None:
        return None

    def read(self, request: web.Request, body: bytes) -> Called:
        element = read_envelope(body)
        if etree.QName(element).localname != _OPERATION or len(element) != 1:
            raise Unreadable(f"{_OPERATION}(xml) is expected")
        try:
            fun_code, text = read_call(element[0].text or "", self.keys)
        except SignatureWrong:
            return Called("0000", _UNSIGNED, None)
        doc = read_xml(text)
        return Called(fun_code, self._trades.op_of(fun_code, doc), doc)

    def run(self, called: Called, habits: frozenset[str]) -> str:
        if called.op == _UNSIGNED:
            return signed_reply("100002", "签名错误", None, self.keys)
        charset = "gbk" if "gbk_inside" in habits else "utf-8"
        try:
            reply = with_habits(self._trades.run(called.operation, called.doc), habits, _OUR_NUMBERS, _SEATS)
        except TradeRefused as refused:
            return signed_reply(refused.code, refused.text, None, self.keys)
        return signed_reply("0", "交易成功", ("RES", reply), self.keys, charset=charset)

    def refusal(self, called: Called, kind: str) -> str:
        code, text = _REFUSALS[kind]
        return signed_reply(called.operation + code, text, None, self.keys)

    def reply(self, called: Called, text: str, encoding: str | None = None) -> web.Response:
        return enveloped(_OPERATION, self.namespace, escape(text), encoding)
