"""What a HIS is answered, and what its call has changed: over real sockets, one row for each kind of call."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from connectors.port import Acknowledged, Inbound, Passed, Refused, Stored
from connectors.soap.calls import CallReader, Heard
from mappings.canonical import ScheduleStopped, StopScope

from .his import Desk, call, counted, document, envelope, made, opened, served, signed

ORDER = "20260105000000000001"
STOP = f"<MSG_ID>M1</MSG_ID><ORDER_ID>{ORDER}</ORDER_ID><REASON>医生外出</REASON>"
DEEP = "<A>" * 100 + "</A>" * 100
CROWD = " ".join(f'xmlns:n{n}="urn:{n}"' for n in range(1000))
DOCTYPE = '<!DOCTYPE ROOT [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
WITH_DTD = DOCTYPE + document("5001", STOP).replace("<USER_ID>HIS", "<USER_ID>&e;")


def around(inner: str, **how: Any) -> bytes:
    return envelope(f"<xml>{escape(inner)}</xml>", **how).encode()


def forged() -> str:
    """A good signature of another call, and a document put before what it is over."""
    good = document("5001", STOP)
    return good.replace("<FUN_CODE>", "<FUN_CODE>5002</FUN_CODE><FUN_CODE>")


def grown() -> str:
    """What is signed has another document beside it."""
    other = "<REQ><ORDER_ID>20260105000000000099</ORDER_ID></REQ>"
    return document("5001", STOP).replace("</REQ_ENCRYPTED>", f"{other}</REQ_ENCRYPTED>")


@dataclass(frozen=True)
class Row:
    """One call: what it is answered, and which reason is counted where it is not taken."""

    name: str
    body: bytes
    code: str
    status: int = 200
    refused: str = ""
    noted: bool = True
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


ROWS = [
    Row("good", call("5001", STOP), "0"),
    Row("good, 1.2", call("5001", STOP, version="1.2"), "0", headers={"kind": "application/soap+xml; charset=utf-8"}),
    Row("good, unqualified argument", call("5001", STOP).replace(b"<xml>", b'<xml xmlns="">'), "0"),
    Row("good, as elements", envelope(f"<xml>{document('5001', STOP)}</xml>").encode(), "0"),
    Row("good, in CDATA", envelope(f"<xml><![CDATA[{document('5001', STOP)}]]></xml>").encode(), "0"),
    Row("good, junk before", around("﻿ok " + document("5001", STOP)), "0"),
    Row("good, a relative namespace", around(document("5001", STOP).replace("<ROOT", '<ROOT xmlns:h="his"')), "0"),
    Row("too many namespaces", around(document("5001", STOP).replace("<ROOT", f"<ROOT {CROWD}")), "10",
        refused="unreadable_document"),
    Row("unsigned", around(document("5001", STOP, sign="")), "11", refused="unsigned"),
    Row("no signature at all", around(document("5001", STOP).replace("SIGN>", "SIG>")), "11", refused="unsigned"),
    Row("wrong signature", around(document("5001", STOP, sign="0" * 32)), "11", refused="unsigned"),
    Row("signed for another trade", around(document("5001", STOP).replace(">5001<", ">5002<")), "11", refused="unsigned"),
    Row("another trade before the signed one", around(forged()), "11", refused="unsigned"),
    Row("a document beside the signed one", around(grown()), "11", refused="unsigned"),
    Row("signed, and not encrypted with our key", around("<ROOT><FUN_CODE>5001</FUN_CODE><USER_ID>HIS</USER_ID><SIGN>"
        + signed(FUN_CODE="5001", REQ_ENCRYPTED="AAAA", USER_ID="HIS") + "</SIGN><REQ_ENCRYPTED>AAAA</REQ_ENCRYPTED></ROOT>"),
        "10", refused="unreadable_document"),
    Row("unknown trade", call("5999", STOP), "12", refused="unknown_trade"),
    Row("a DTD in the document", around(WITH_DTD), "10", refused="unreadable_document"),
    Row("too deep a document", around(f"<ROOT>{DEEP}</ROOT>"), "10", refused="unreadable_document"),
    Row("garbage for a document", around("张伟 13800000000"), "10", refused="unreadable_document"),
    Row("no argument", envelope("").encode(), "10", refused="unreadable_document"),
    Row("two arguments of one name", envelope("<xml>a</xml><xml>b</xml>").encode(), "10", refused="unreadable_document"),
    Row("a DTD in the envelope", call("5001", STOP).replace(b"<s:Env", DOCTYPE.encode() + b"<s:Env", 1), "fault Client", 500,
        refused="not_a_call", noted=False),
    Row("too deep an envelope", envelope(DEEP).encode(), "fault Client", 500, refused="not_a_call", noted=False),
    Row("garbage", b"\x00\xff\xfe garbage", "fault Client", 500, refused="not_a_call", noted=False),
    Row("empty", b"", "fault Client", 500, refused="not_a_call", noted=False),
    Row("no envelope", b"<ROOT/>", "fault VersionMismatch", 500, refused="not_a_call", noted=False),
    Row("an unfinished envelope", call("5001", STOP)[:-20], "fault Client", 500, refused="not_a_call", noted=False),
    Row("wrong operation", call("5001", STOP, operation="Other"), "fault Client", 500, refused="not_a_call", noted=False),
    Row("wrong operation, 1.2", call("5001", STOP, operation="Other", version="1.2"), "fault Sender", 400,
        refused="not_a_call", noted=False),
    Row("a header that must be understood", call("5001", STOP, header='<h:A xmlns:h="urn:h" s:mustUnderstand="1"/>'),
        "fault MustUnderstand", 500, refused="not_a_call", noted=False),
    Row("a header that need not", call("5001", STOP, header='<h:A xmlns:h="urn:h"/>'), "0"),
    Row("compressed", call("5001", STOP), "fault Client", 415, refused="not_a_call", noted=False,
        headers={"Content-Encoding": "gzip"}),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_call_is_answered_in_the_dialects_words_and_changes_only_what_it_may(row: Row, tmp_path: Path) -> None:
    async with served(tmp_path) as us:
        before = counted("soap_calls_refused_total", reason=row.refused)
        said = await us.post(row.body, **row.headers)
        assert (said.status, said.code) == (row.status, row.code)
        if not row.refused:
            [stop] = us.desk.events
            assert stop == ScheduleStopped(scope=StopScope.ORDER, order_no=ORDER, reason="医生外出")
            assert us.noted == [Acknowledged(connector="his", dedup_key=us.desk.taken[0].dedup_key, answer_code="0")]
            return
        assert us.desk.asked == 0
        assert counted("soap_calls_refused_total", reason=row.refused) == before + 1
        assert [one.state for one in us.refused] == ([Passed.REFUSED] if row.noted else [])
        assert b"13800000000" not in said.body


async def test_answer_is_signed_and_sealed_as_the_peer_demands_when_a_call_was_taken(tmp_path: Path) -> None:
    async with served(tmp_path) as us:
        for version, kind in (("1.1", "text/xml; charset=utf-8"), ("1.2", "application/soap+xml; charset=utf-8")):
            said = await us.post(call("5001", STOP, version=version), kind=kind)
            parts = said.parts
            assert said.kind == kind
            assert parts["RETURN_MSG"] == "交易成功"
            assert opened(parts["RES_ENCRYPTED"]) == "<RES><MSG_ID>M1</MSG_ID></RES>"
            sign = signed(RES_ENCRYPTED=parts["RES_ENCRYPTED"], RETURN_CODE="0", RETURN_MSG="交易成功")
            assert parts["SIGN"] == sign


async def test_unsigned_call_gets_nothing_of_its_own_signed_when_it_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as us:
        said = await us.post(around(document("5001", STOP, sign="0")))
        assert opened(said.parts["RES_ENCRYPTED"]) == "<RES><MSG_ID/></RES>"


async def test_loop_goes_on_when_a_call_is_dense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers, read = [], CallReader.read

    def noted(self: CallReader, *call: Any, **how: Any) -> Heard:
        readers.append(threading.current_thread())
        return read(self, *call, **how)

    monkeypatch.setattr(CallReader, "read", noted)
    async with served(tmp_path) as us:
        for more in ("", "<B/>" * 6000):  # of 24 KB, and tens of milliseconds
            assert (await us.post(call("5001", STOP + more))).code == "0"
    assert [one is threading.main_thread() for one in readers] == [True, False]


async def test_repeat_is_answered_alike_and_applied_once_when_a_call_comes_again(tmp_path: Path) -> None:
    async with served(tmp_path) as us:
        first = await us.post(call("5001", STOP + "<SENT_AT>2026-01-05 08:00:00</SENT_AT>"))
        # The same once more, byte by byte; and as the HIS repeats it, with a new time.
        again = await us.post(call("5001", STOP + "<SENT_AT>2026-01-05 08:00:00</SENT_AT>"))
        later = await us.post(call("5001", STOP + "<SENT_AT>2026-01-05 08:00:30</SENT_AT>"))
        assert first.parts == again.parts == later.parts
        assert len(us.desk.taken) == 1
        assert [one.state for one in us.refused] == [Passed.DUPLICATE, Passed.DUPLICATE]
        other = await us.post(call("5001", STOP.replace(ORDER, ORDER[:-1] + "2")))
        assert (other.code, len(us.desk.taken)) == ("0", 2)
        assert us.desk.taken[0].same_id_key == us.desk.taken[1].same_id_key == "his|5001|M1"


async def test_call_comes_again_later_when_the_store_is_away(tmp_path: Path) -> None:
    async with served(tmp_path) as us:
        us.desk.answer = lambda inbound: Refused(code="store_unavailable", text="not stored", retryable=True)
        said = await us.post(call("5001", STOP))
        assert (said.status, said.code) == (200, "98")
        us.desk.answer = None
        assert (await us.post(call("5001", STOP))).code == "0"
        assert len(us.desk.events) == 1


async def test_call_is_refused_for_good_when_it_cannot_be_stored_whatever_is_repeated(tmp_path: Path) -> None:
    async with served(tmp_path) as us:
        us.desk.answer = lambda inbound: Refused(code="cannot_be_stored", text="", retryable=False)
        said = await us.post(call("5001", STOP))
        assert (said.status, said.code) == (200, "99")


async def test_call_is_not_said_to_be_done_when_the_handler_breaks(tmp_path: Path) -> None:
    def broken(inbound: Inbound) -> Stored:
        raise RuntimeError("张伟")

    async with served(tmp_path) as us:
        before = counted("inbound_messages_total", type="5001", result="failed")
        us.desk.answer = broken
        said = await us.post(call("5001", STOP))
        assert (said.status, said.code) == (200, "98")
        assert counted("inbound_messages_total", type="5001", result="failed") == before + 1


async def test_call_is_stored_for_a_person_and_answered_as_done_when_it_cannot_be_mapped(tmp_path: Path) -> None:
    async with served(tmp_path) as us:
        said = await us.post(call("5001", f"<REG_ID>R1</REG_ID><REG_DATE>soon</REG_DATE><ORDER>{ORDER}</ORDER>"))
        assert said.code == "0"
        [inbound] = us.desk.taken
        assert inbound.events == ()
        assert inbound.problem is not None
        assert "soon" not in inbound.problem
        assert "inbound.5001.schedule.fields.date" in inbound.problem


async def test_answer_waits_for_the_commit_when_it_takes_time(tmp_path: Path) -> None:
    committed = asyncio.Event()
    desk = Desk()

    async def slow(inbound: Inbound) -> Any:
        await committed.wait()
        return await desk.handle(inbound)

    connector = made(tmp_path)
    await connector.start()
    try:
        await connector.serve(slow)
        reader, writer = await asyncio.open_connection("127.0.0.1", connector.listen_port)
        body = call("5001", STOP)
        writer.write(b"POST /his HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await reader.read(1)
        assert desk.taken == []
        committed.set()
        assert (await reader.readuntil(b"\r\n")) == b"HTTP/1.1 200 OK\r\n"
        assert len(desk.taken) == 1
        writer.close()
    finally:
        await connector.close()


async def test_call_is_stored_when_its_caller_has_gone_meanwhile(tmp_path: Path) -> None:
    began, committed = asyncio.Event(), asyncio.Event()
    desk = Desk()

    async def slow(inbound: Inbound) -> Any:
        began.set()
        await committed.wait()
        return await desk.handle(inbound)

    connector = made(tmp_path)
    await connector.start()
    try:
        await connector.serve(slow)
        _, writer = await asyncio.open_connection("127.0.0.1", connector.listen_port)
        body = call("5001", STOP)
        writer.write(b"POST /his HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await began.wait()
        writer.transport.abort()
        await asyncio.sleep(0.1)
        committed.set()
        await asyncio.sleep(0.1)
        assert len(desk.taken) == 1
    finally:
        await connector.close()


async def test_stored_call_can_be_mapped_again_when_its_time_and_key_are_gone(tmp_path: Path) -> None:
    async with served(tmp_path) as us:
        raw = around(document("5001", STOP, sign="of a key that was changed"))
        inbound = us.connector.read_again(raw, "10.0.0.5:1")
        assert isinstance(inbound, Inbound)
        assert inbound.events == (ScheduleStopped(scope=StopScope.ORDER, order_no=ORDER, reason="医生外出"),)
        refused = us.connector.read_again(call("5999", STOP), "10.0.0.5:1")
        assert isinstance(refused, Refused)


async def test_gbk_is_read_and_counted_when_the_label_says_utf8(tmp_path: Path) -> None:
    async with served(tmp_path) as us:
        before = counted("decode_fallbacks_total", kind="gb18030")
        body = around(document("5001", STOP, more="<NOTE>急诊停诊</NOTE>")).decode().encode("gbk")
        assert (await us.post(body)).code == "0"
        assert counted("decode_fallbacks_total", kind="gb18030") == before + 1
