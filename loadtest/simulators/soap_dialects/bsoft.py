"""B-Soft, BSXml: one operation, a document with a header, and in its body, in CDATA, another document."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

from aiohttp import web
from lxml import etree

from loadtest.simulators.hospital import Hospital
from loadtest.simulators.soap_dialects.bsoft_trades import OPS, Trades
from loadtest.simulators.soap_dialects.speaking import (
    ENVELOPE,
    Called,
    Ledger,
    Reply,
    TradeRefused,
    Unreadable,
    read_envelope,
    read_xml,
    with_habits,
    xml_of,
)

USER, PASSWORD = "HISBRIDGE", "demo-password"
_ARGUMENTS = {"service", "urid", "pwd", "parameter"}
_OUR_NUMBERS = ("WBDDH",)
_SEATS = "SYHS"
_REFUSALS = {"full": ("3001", "号源已满"), "limit": ("3010", "超过当日限制"), "exists": ("3003", "订单已存在")}


@dataclass
class Message:
    """What stood in a BSXml: the document of its body, and whether the account was ours."""

    body: etree._Element
    known: bool


class BSoft:
    """`invoke(service, urid, pwd, parameter)`. Further habit: `no_cdata`, the body's elements stand in it as they are."""

    path = "/hai/WebServiceEntry"
    namespace = "http://ws.access.hai/"

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self._trades = Trades(hospital, ledger)

    def wsdl(self, address: str) -> str | None:
        return None

    def read(self, request: web.Request, body: bytes) -> Called:
        element = read_envelope(body)
        if element.tag != f"{{{self.namespace}}}invoke" or {child.tag for child in element} != _ARGUMENTS:
            raise Unreadable("invoke(service, urid, pwd, parameter) is expected")
        given = {str(child.tag): child.text or "" for child in element}
        parameter = given["parameter"]
        if "<MsgBody><![CDATA[" not in parameter:
            raise Unreadable("MsgBody is not a CDATA section")
        document = read_xml(parameter)
        header = document.find("MsgHeader")
        if (
            document.tag != "BSXml"
            or header is None
            or not header.findtext("Sender")
            or not header.findtext("MsgVersion")
        ):
            raise Unreadable("BSXml(MsgHeader(Sender, MsgType, MsgVersion), MsgBody) is expected")
        trade = header.findtext("MsgType") or ""
        op = OPS.get(trade) if trade == given["service"] else None
        inside = read_xml(document.findtext("MsgBody") or "")
        if op == "cancel_registration" and inside.findtext("TKDH"):
            op = "refund"
        return Called(trade, op, Message(inside, (given["urid"], given["pwd"]) == (USER, PASSWORD)))

    def run(self, called: Called, habits: frozenset[str]) -> str:
        assert called.op is not None  # noqa: S101 - the front has looked
        if not called.doc.known:
            return _document(called, ("1001", "用户名或密码错误"))
        try:
            reply = with_habits(self._trades.run(called.op, called.doc.body), habits, _OUR_NUMBERS, _SEATS)
        except TradeRefused as refused:
            return _document(called, (refused.code, refused.text))
        body = xml_of(("Body", reply))
        return _document(called, None, body if "no_cdata" in habits else f"<![CDATA[{body}]]>")

    def refusal(self, called: Called, kind: str) -> str:
        return _document(called, _REFUSALS[kind])

    def reply(self, called: Called, text: str, encoding: str | None = None) -> web.Response:
        answer = (
            f'<ns2:invokeResponse xmlns:ns2="{self.namespace}"><return>{escape(text)}</return></ns2:invokeResponse>'
        )
        body = f"<S:Body>{answer}</S:Body></S:Envelope>"
        whole = f'<?xml version="1.0" encoding="UTF-8"?><S:Envelope xmlns:S="{ENVELOPE}">{body}'
        return web.Response(body=whole.encode(encoding or "utf-8"), content_type="text/xml", charset="utf-8")


def _document(called: Called, refused: tuple[str, str] | None, body: str = "") -> str:
    code, detail = refused or ("", "成功")
    header: Reply = [
        ("Sender", "HIS"),
        ("MsgType", called.operation),
        ("MsgVersion", "3.0"),
        ("Status", "false" if refused else "true"),
        ("ErrCode", code),
        ("Detail", detail),
    ]
    return f"<BSXml>{xml_of(('MsgHeader', header))}<MsgBody>{body}</MsgBody></BSXml>"
