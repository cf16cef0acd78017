"""Dialects by YAML alone: credentials in arguments, a time that must be near, JSON and packed documents, headers."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from lxml import etree

from connectors.soap import SoapConnector
from mappings.canonical import RegistrationChanged, RegistrationStatus, ScheduleStopped, StopScope
from mappings.profile import ProfileError
from tests.connectors.soap.soap_hospital import ZONE

from .his import PLATFORM, Said, counted, made, served

ORDER = "20260105000000000001"

# B-Soft-style: who calls and with which word stand beside the document, whose header says which trade it is.
INVOKE = """
name: invoke
version: 1
protocol: soap
connection:
  namespace: urn:invoke
  server:
    path: /his
    operations: {invoke: [service, urid, pwd, parameter]}
    argument: parameter
    root: BSXml
    credentials: {urid: user, pwd: word}
    trade: {path: /BSXml/MsgHeader/MsgType}
    fresh: {at: {from: /BSXml/MsgHeader/SendTime, via: datetime}, within_s: 300}
    volatile: [/BSXml/MsgHeader/SendTime]
    understood: [urn:addressing]
    echo: {kind: /BSXml/MsgHeader/MsgType}
    answer:
      words:
        done: {status: "true", code: "0"}
        refused: {status: "false", code: "1"}
        unsigned: {status: "false", code: "401"}
        stale: {status: "false", code: "408"}
      tree:
        BSXml:
          MsgHeader: {Status: {from: status}, ErrCode: {from: code}, MsgType: {from: call.kind, absent: empty}}
inbound:
  CancelNotify:
    - each: /BSXml/MsgBody/Order
      record: RegistrationChanged
      fields: {registration: {record: Registration, fields: {status: {value: released}, order_no: {from: OrderNo}}}}
"""

PACKED = """
name: packed
version: 1
protocol: soap
connection:
  namespace: urn:packed
  server:
    path: /his
    operations: {Notify: [funCode, input]}
    argument: input
    form: packed
    root: Call
    packing: {fields: "^", rows: "!", row: Row, names: [order, reason]}
    trade: {argument: funCode}
    result: out
    encoding: gbk
    answer:
      form: packed
      packing: {fields: "|"}
      words: {done: {code: "0", text: 成功}, refused: {code: "-1", text: 失败}}
      tree: [{from: code}, {from: text}]
inbound:
  "STOP":
    - each: /Call/Row
      record: ScheduleStopped
      fields: {scope: {value: order}, order_no: {from: order}, reason: {from: reason}}
"""

JSON = """
name: json
version: 1
protocol: soap
connection:
  namespace: urn:json
  server:
    path: /his
    operations: {Notify: [input]}
    argument: input
    form: json
    root: Call
    trade: {path: /Call/type}
    answer:
      form: json
      words: {done: {code: "0"}, refused: {code: "-1"}}
      tree: {code: {from: code}}
inbound:
  stop:
    - each: /Call/orders
      record: ScheduleStopped
      fields: {scope: {value: order}, order_no: {from: no}}
"""


def enveloped(operation: str, header: str = "", **arguments: str) -> bytes:
    inside = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in arguments.items())
    return (
        f'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Header>{header}</s:Header><s:Body>'
        f'<{operation} xmlns="urn:x">{inside}</{operation}></s:Body></s:Envelope>'
    ).encode()


def result(said: Said) -> str:
    [body] = etree.fromstring(said.body).iterfind("{*}Body")
    return body[0][0].text or ""


def notice(
    sent_at: dt.datetime | None = None, *, user: str = "his", word: str = "secret", header: str = "", no: str = ORDER
) -> bytes:
    at = "" if sent_at is None else f"<SendTime>{sent_at.astimezone(ZONE):%Y-%m-%d %H:%M:%S}</SendTime>"
    head = f"<MsgHeader><MsgType>CancelNotify</MsgType>{at}</MsgHeader>"
    body = f"<MsgBody><Order><OrderNo>{no}</OrderNo></Order></MsgBody>"
    return enveloped("invoke", header, service="x", urid=user, pwd=word, parameter=f"<BSXml>{head}{body}</BSXml>")


def answered(said: Said) -> tuple[str | None, str | None, str]:
    head = etree.fromstring(result(said)).find("MsgHeader")
    assert head is not None
    return head.findtext("Status"), head.findtext("ErrCode"), head.findtext("MsgType") or ""


def keys(folder: Path) -> dict[str, str]:
    for name, word in (("user", b"his\n"), ("word", b"secret\n")):
        (folder / name).write_bytes(word)
    return {name: str(folder / name) for name in ("user", "word")}


def now(**ago: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(**ago)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "0"),
        ({"user": "other"}, "401"),
        ({"word": "secre"}, "401"),
        ({"word": ""}, "401"),
        ({"header": '<a:To xmlns:a="urn:addressing" s:mustUnderstand="1">x</a:To>'}, "0"),
    ],
)
async def test_caller_is_known_by_its_credentials_when_they_are_arguments(
    given: dict[str, str], code: str, tmp_path: Path
) -> None:
    async with served(tmp_path, INVOKE, secret_files=keys(tmp_path)) as us:
        said = await us.post(notice(now(), **given))
        status, told, kind = answered(said)
        assert (told, len(us.desk.taken)) == (code, int(code == "0"))
        assert status == ("true" if code == "0" else "false")
        assert kind == ("CancelNotify" if code == "0" else "")  # nothing of a stranger's call is repeated


@pytest.mark.parametrize(
    ("ago", "code"), [({"seconds": 200}, "0"), ({"seconds": 400}, "408"), ({"seconds": -400}, "408"), (None, "408")]
)
async def test_call_is_stale_when_its_time_is_not_near_ours(
    ago: dict[str, float] | None, code: str, tmp_path: Path
) -> None:
    async with served(tmp_path, INVOKE, secret_files=keys(tmp_path)) as us:
        before = counted("soap_calls_refused_total", reason="stale")
        said = await us.post(notice(None if ago is None else now(**ago)))
        assert answered(said)[1] == code
        assert len(us.desk.taken) == int(code == "0")
        assert counted("soap_calls_refused_total", reason="stale") == before + int(code != "0")


async def test_repeat_with_a_new_time_is_a_duplicate_when_the_time_is_volatile(tmp_path: Path) -> None:
    async with served(tmp_path, INVOKE, secret_files=keys(tmp_path)) as us:
        first = await us.post(notice(now(seconds=60)))
        again = await us.post(notice(now()))
        assert answered(first) == answered(again) == ("true", "0", "CancelNotify")
        [cancelled] = us.desk.events
        assert isinstance(cancelled, RegistrationChanged)
        assert (cancelled.registration.status, cancelled.registration.order_no) == (RegistrationStatus.RELEASED, ORDER)


async def test_packed_string_is_read_and_answered_when_the_dialect_packs(tmp_path: Path) -> None:
    async with served(tmp_path, PACKED) as us:
        said = await us.post(enveloped("Notify", funCode="STOP", input=f"{ORDER}^会议!{ORDER[:-1]}2^"))
        assert said.kind == "text/xml; charset=gbk"
        assert result(said) == "0|成功"
        assert us.desk.events == [
            ScheduleStopped(scope=StopScope.ORDER, order_no=ORDER, reason="会议"),
            ScheduleStopped(scope=StopScope.ORDER, order_no=ORDER[:-1] + "2"),
        ]
        assert result(await us.post(enveloped("Notify", funCode="OTHER", input="x"))) == "-1|失败"


async def test_json_is_read_as_hospitals_write_it_when_the_dialect_has_json(tmp_path: Path) -> None:
    async with served(tmp_path, JSON) as us:
        for orders in (f"[{{no: '{ORDER}'}},]", f"{{no: '{ORDER}'}}"):
            said = await us.post(enveloped("Notify", input=f"{{type: 'stop', orders: {orders}}}"))
            assert json.loads(result(said)) == {"code": "0"}
        # A list of one that has collapsed to its only element is the same call.
        assert us.desk.events == [ScheduleStopped(scope=StopScope.ORDER, order_no=ORDER)]


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (("argument: xml", "argument: xlm"), "connection.server.operations.PubService: the operation has no argument xlm"),
        (("key: sign_key}\n    opens", "key: other}\n    opens"), "connection.server.sign"),
        (("/ROOT/FUN_CODE}", "/ROOT/(}"), "connection.server.trade.path"),
        (("done: {code", "don: {code"), "connection"),
        (("        done: ", "        duplicate: "), "connection.server.answer.words"),
        (("absent: empty", "via: date_dash"), "connection.server.answer.tree"),
        (("finds: {order_no", "finds: {order"), "connection.server.finds.order"),
        (("    answer:", "    questions: {'5001': {ask: {record: RefundQuestion}, tree: {A: ''}}}\n    answer:"),
         "`inbound` has it too"),
        (("    answer:", "    questions: {'5006': {ask: {record: Bill}, tree: {A: ''}}}\n    answer:"), "questions.5006.ask"),
        (("    answer:", "    questions: {'5006': {ask: {record: RefundQuestion}, tree: {A: '', B: ''}}}\n    answer:"),
         "questions.5006.tree"),
        (("    sign:", "    questions: {'5006': {ask: {record: RefundQuestion}, tree: {A: ''}}}\n    signs:"), "connection"),
        (("    argument: xml", "    encoding: klingon\n    argument: xml"), "connection.server.encoding"),
        (("    argument: xml", "    soap_action: '{nothing}'\n    argument: xml"), "connection.server: no WSDL"),
        (("{PubService: [xml]}", "{Pub Service: [xml]}"), "no element can have this name"),
        (("  server:", "  sever:"), "connection: listen_port is set"),
        (('record: ScheduleStopped', 'record: ScheduleStop'), "inbound.5001"),
    ],
)  # fmt: skip
def test_profile_is_refused_with_its_line_when_something_in_it_is_wrong(
    change: tuple[str, str], hint: str, tmp_path: Path
) -> None:
    text = PLATFORM.replace(*change, 1)
    assert text != PLATFORM
    with pytest.raises(ProfileError) as caught:
        made(tmp_path, text)
    assert hint in str(caught.value)
    assert "profile.yaml:" in str(caught.value)


def test_nothing_is_wrong_when_a_site_does_not_listen(tmp_path: Path) -> None:
    """A profile that may be called needs neither keys nor calls where nobody listens."""
    options: dict[str, Any] = {"listen_port": None, "endpoint": "http://127.0.0.1:1/", "secret_files": {}}
    text = PLATFORM.replace("  server:", "  success: [{path: /ROOT/RETURN_CODE, values: ['0']}]\n  server:", 1)
    assert isinstance(made(tmp_path, text, **options), SoapConnector)
