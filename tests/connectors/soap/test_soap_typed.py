"""Services whose arguments and results have types of their own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from lxml import etree
from structlog.testing import capture_logs

from connectors.port import HisRefused, HisReplyInvalid
from connectors.soap import SoapConnector, wsdl
from connectors.soap.wsdl import read_service
from connectors.soap.xml import XmlForbidden, parse
from mappings.canonical import Department
from tests.connectors.soap.soap_hospital import CannedPeer
from tests.connectors.soap.test_soap_wire import made
from tests.connectors.soap.typed_wsdl import NAMESPACE, write_wsdl

TNS = f"{{{NAMESPACE}}}"
E11 = "{http://schemas.xmlsoap.org/soap/envelope/}"
CONNECTION = """\
form: typed
reply_form: typed
reply_root: Reply
success: [{path: /Reply/returnCode, values: ['1']}]
error_code: [/Reply/returnCode]
error_text: [/Reply/returnDesc]
"""
REQUEST = "{deptCode: {from: connection.user}, beginDate: '2026-01-05', pageSize: 20, query: {word: [内科, 外科], exact: true}}"
GIVEN = {"request": REQUEST, "call": "operation: getDepts", "each": "/Reply/dept", "id": "code", "name": "name"}
DONE = (
    "<returnCode>1</returnCode><dept><code>1</code><name>内科</name><opened>2026-01-05T08:00:00+08:00</opened>"
    '<fee>12.50</fee></dept><dept><code>2</code><name xsi:nil="true"/></dept>'
)
FOUND = [Department(id="1", name="内科")]


def answer(inside: str, *, qualified: bool = True) -> bytes:
    own = f'xmlns="{NAMESPACE}"' if qualified else f'xmlns:n="{NAMESPACE}"'
    name = "getDeptsResponse" if qualified else "n:getDeptsResponse"
    return (
        f'<s:Envelope xmlns:s="{E11[1:-1]}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><s:Body>'
        f"<{name} {own}><return>{inside}</return></{name}></s:Body></s:Envelope>"
    ).encode()


@contextlib.asynccontextmanager
async def talking(
    folder: Path, reply: bytes, *, by_wsdl: bool = True, qualified: bool = True, **given: Any
) -> AsyncIterator[tuple[CannedPeer, SoapConnector]]:
    peer = CannedPeer(reply)
    app = web.Application()
    app.router.add_post("/", peer.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    site: dict[str, Any] = {"endpoint": url}
    if by_wsdl:
        site["wsdl"] = str(write_wsdl(folder / "his.wsdl", url, qualified=qualified))
    his = made(folder, CONNECTION, site=site, **(GIVEN | given))
    await his.start()
    try:
        yield peer, his
    finally:
        await his.close()
        await runner.cleanup()


@pytest.mark.parametrize("by_wsdl", [True, False], ids=["by the wsdl", "bare"])
async def test_arguments_are_written_and_results_read_when_the_service_is_typed(tmp_path: Path, by_wsdl: bool) -> None:
    async with talking(tmp_path, answer(DONE), by_wsdl=by_wsdl) as (peer, his):
        with capture_logs() as logs:
            assert await his.fetch_departments() == FOUND  # the second has no name, and is told of
    assert [entry["event"] for entry in logs] == ["records_unmapped"]
    body = etree.fromstring(peer.requests[0][1]).find(f"{E11}Body")
    assert body is not None
    call = body[0]
    assert call.tag == f"{TNS}getDepts"
    assert [(child.tag, child.text) for child in call][:3] == [
        (f"{TNS}deptCode", "WX001"),
        (f"{TNS}beginDate", "2026-01-05"),
        (f"{TNS}pageSize", "20"),
    ]
    query = call[3]
    assert [(child.tag, child.text) for child in query] == [
        (f"{TNS}word", "内科"),
        (f"{TNS}word", "外科"),
        (f"{TNS}exact", "true"),
    ]
    action = '"urn:getDepts"' if by_wsdl else f'"{NAMESPACE}/getDepts"'
    assert peer.requests[0][0]["SOAPAction"] == action


async def test_parts_have_no_namespace_when_the_schema_is_unqualified(tmp_path: Path) -> None:
    async with talking(tmp_path, answer(DONE, qualified=False), qualified=False) as (peer, his):
        assert await his.fetch_departments() == FOUND
    body = etree.fromstring(peer.requests[0][1]).find(f"{E11}Body")
    assert body is not None
    assert [child.tag for child in body[0]] == ["deptCode", "beginDate", "pageSize", "query"]


async def test_order_is_the_wsdls_when_the_profile_has_another(tmp_path: Path) -> None:
    request = "{beginDate: '2026-01-05', deptCode: {from: connection.user}}"
    async with talking(tmp_path, answer(DONE), request=request) as (peer, his):
        assert await his.fetch_departments() == FOUND
    assert peer.requests[0][1].index(b"deptCode") < peer.requests[0][1].index(b"beginDate")


@pytest.mark.parametrize(
    ("request_", "hint"),
    [
        ("{deptCode: '1'}", "beginDate"),  # required, and not given
        ("{deptCode: '1', beginDate: '2026-01-05', query: {exact: true}}", "word"),
        ("{deptCode: '1', beginDate: '2026-01-05', nobody: 1}", "does not fit the WSDL"),
        ("{deptCode: '1', beginDate: '2026-01-05', query: {wort: x}}", "does not fit the WSDL"),
    ],
)
async def test_nothing_is_sent_when_the_values_do_not_fit_the_types(tmp_path: Path, request_: str, hint: str) -> None:
    async with talking(tmp_path, answer(DONE), request=request_) as (peer, his):
        with pytest.raises(HisRefused, match=hint):
            await his.fetch_departments()
    assert peer.requests == []


async def test_refusal_is_told_when_the_result_says_no(tmp_path: Path) -> None:
    told = "<returnCode>-1</returnCode><returnDesc>科室不存在</returnDesc>"
    async with talking(tmp_path, answer(told)) as (_, his):
        with pytest.raises(HisRefused, match="-1: 科室不存在"):
            await his.fetch_departments()


@pytest.mark.parametrize(
    "inside", ["", "<returnCode>many</returnCode>", "<a><b/></a>", "<returnCode>1</returnCode><dept>x</dept>"]
)
async def test_reply_is_invalid_or_empty_when_it_is_not_of_the_types(tmp_path: Path, inside: str) -> None:
    async with talking(tmp_path, answer(inside)) as (_, his):
        with contextlib.suppress(HisReplyInvalid, HisRefused):
            assert await his.fetch_departments() == []


async def test_wsdl_of_sixty_operations_is_read_off_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = []

    def read(*given: Any) -> wsdl.Service:
        readers.append(threading.get_ident())
        return read_service(*given)

    monkeypatch.setattr(wsdl, "read_service", read)
    file = write_wsdl(tmp_path / "his.wsdl", "http://127.0.0.1:9/", operations=60)
    his = made(tmp_path, CONNECTION, site={"wsdl": str(file), "endpoint": "http://127.0.0.1:9/"}, **GIVEN)
    await his.start()
    try:
        await his._endpoint.ready(30.0)
        service = his._endpoint._service
        assert service is not None
        assert len(service.calls) == len(service.typed) == 60
    finally:
        await his.close()
    # How long the loop is held up while a thread reads is a matter of `make bench` (the row wsdl).
    assert len(readers) == 1
    assert readers[0] != threading.get_ident()


RPC = b"""<definitions xmlns="http://schemas.xmlsoap.org/wsdl/" xmlns:s="http://schemas.xmlsoap.org/wsdl/soap/"
 xmlns:x="http://www.w3.org/2001/XMLSchema" xmlns:t="urn:t" targetNamespace="urn:t"><types><x:schema targetNamespace="urn:t">
<x:complexType name="T"><x:sequence><x:element name="a" type="t:T" minOccurs="0" maxOccurs="unbounded"/></x:sequence>
</x:complexType></x:schema></types>
<message name="i"><part name="p" type="x:string"/></message><message name="o"><part name="r" type="t:T"/></message>
<portType name="P"><operation name="Op"><input message="t:i"/><output message="t:o"/></operation></portType>
<binding name="B" type="t:P"><s:binding style="rpc" transport="http://schemas.xmlsoap.org/soap/http"/><operation name="Op">
<s:operation soapAction=""/><input><s:body use="literal" namespace="urn:t"/></input>
<output><s:body use="literal" namespace="urn:t"/></output></operation></binding>
<service name="S"><port name="p" binding="t:B"><s:address location="http://h/"/></port></service></definitions>"""


def referring(*parts: str) -> etree._Element:
    """A reply of RPC whose parts, numbered from 0, stand beside it and refer to each other."""
    beside = "".join(f'<m id="{n}">{part}</m>' for n, part in enumerate(parts))
    return parse(
        f'<s:Envelope xmlns:s="{E11[1:-1]}"><s:Body><t:OpResponse xmlns:t="urn:t"><r href="#0"/></t:OpResponse>{beside}'
        "</s:Body></s:Envelope>"
    )


def test_references_are_followed_when_a_service_speaks_rpc() -> None:
    operation = read_service(RPC, "rpc.wsdl").typed["Op"]
    shared = operation.read(referring('<a href="#1"/><a href="#1"/>', ""), "R")
    assert len(shared) == 2


@pytest.mark.parametrize(
    "parts",
    [
        [*(f'<a href="#{n}"/>' * 2 for n in range(1, 30)), ""],  # a thousand million elements
        ['<a href="#1"/>', '<a href="#0"/>'],
        [*(f'<a href="#{n}"/>' for n in range(1, 100)), ""],
    ],
    ids=["bomb", "circle", "deep"],
)
def test_references_are_refused_when_they_have_no_end(parts: list[str]) -> None:
    operation = read_service(RPC, "rpc.wsdl").typed["Op"]
    with pytest.raises(XmlForbidden):
        operation.read(referring(*parts), "R")
