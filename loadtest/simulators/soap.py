"""A hospital that speaks the DHC self-service dialect: SOAP 1.1, one text argument `XMLRequest`, an XML document inside.

    python -m loadtest.simulators.soap --host 127.0.0.1 --port 0 --control-port 0 [--push-host H --push-port P]

`GET <path>?wsdl` gives the WSDL. Besides the modes of the switchboard these habits can be switched on for an operation:

  collapse    a list of one record loses its inner element
  bare_text   the sentence 未知服务 in the place of the document
  junk        bytes before <Response>
  diffgram    a .NET DataSet in the place of the document

With --push-host and --push-port its laboratory sends ORU^R01 over MLLP when a report is issued.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

from aiohttp import web
from lxml import etree

from loadtest.simulators.control import Fault, Switchboard, serve_control
from loadtest.simulators.door import Door, door_of, until_gone
from loadtest.simulators.hospital import Hospital
from loadtest.simulators.lis import LabSystem, PushFailed
from loadtest.simulators.size import add_size_arguments, size_of
from loadtest.simulators.soap_trades import Ledger, Node, Reply, TradeRefused, Trades

PATH = "/csp/his/SelfRegService.cls"
_WSDL = Path(__file__).with_name("soap.wsdl")
_ADDRESS = "http://localhost" + PATH
_ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
_OUR_NUMBERS = ("ExtOrderNo", "PlatformNo")
_HTML = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
_DIFFGRAM = '<diffgr:diffgram xmlns:diffgr="urn:schemas-microsoft-com:xml-diffgram-v1"><NewDataSet/></diffgr:diffgram>'
_PARSER = etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False)


class SoapSimulator:
    """One running hospital. `port` and `control_port` are the ones really used."""

    def __init__(self, hospital: Hospital, *, lock_s: float, lab: LabSystem | None, latency_ms: float) -> None:
        self.hospital = hospital
        self.board = Switchboard(self.hospital, latency_ms=latency_ms)
        self.port = self.control_port = 0
        self._trades = Trades(self.hospital, Ledger(lock_s=lock_s, later=self._later))
        self._lab = lab
        self._timers: list[asyncio.TimerHandle] = []
        self._runners: list[web.AppRunner] = []
        self._door: Door | None = None
        if lab is not None:
            self.board.notify = self._notify

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PATH}"

    async def start(self, host: str, port: int, control_port: int) -> None:
        app = web.Application(client_max_size=5_000_000)
        app.router.add_get(PATH, self._wsdl)
        app.router.add_post(PATH, self._call)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._runners.append(runner)
        self.board.door = self._door = door_of(runner)
        await self._door.open(host, port)
        self.port = self._door.address[1]
        control, self.control_port = await serve_control(self.board, host, control_port)
        self._runners.append(control)

    async def close(self) -> None:
        if self._door is not None:
            self._door.close()
        self.board.let_go()
        for timer in self._timers:
            timer.cancel()
        for runner in self._runners:
            await runner.cleanup()

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(delay_s, action))

    async def _notify(self, kind: str, number: str) -> None:
        if kind == "report" and self._lab is not None:
            report = self.hospital.reports[number]
            try:
                await self._lab.push(report, self.hospital.people[report.mrn])
            except PushFailed as error:
                raise web.HTTPBadGateway(text=f"report {number} was issued, but not delivered: {error}") from error

    async def _wsdl(self, request: web.Request) -> web.Response:
        if "wsdl" not in {key.lower() for key in request.query}:
            raise web.HTTPNotFound
        text = _WSDL.read_text("utf-8").replace(_ADDRESS, f"http://{request.host}{PATH}")
        return web.Response(text=text, content_type="text/xml")

    async def _call(self, request: web.Request) -> web.StreamResponse:
        try:
            operation, doc = _read_call(await request.read())
        except (etree.XMLSyntaxError, ValueError) as error:
            return _soap_fault("Client", f"cannot read the request: {type(error).__name__}")
        op = self._trades.op_of(operation, doc)
        if op is None:
            return _text_reply(operation, "未知服务")
        self.board.running += 1
        self.board.most_at_once = max(self.board.most_at_once, self.board.running)
        try:
            await self.board.take_time()
            fault = await self.board.fault(op)
            return await self._answer(request, operation, op, doc, fault)
        finally:
            self.board.running -= 1

    async def _answer(
        self, request: web.Request, operation: str, op: str, doc: etree._Element, fault: Fault | None
    ) -> web.StreamResponse:
        mode = fault.mode if fault is not None else ""
        delay_s = fault.delay_s if fault is not None else 0.0
        match mode:
            case "down":
                return _hang_up(request)
            case "hang":
                await self.board.hang(until_gone(request))
                return _hang_up(request)
            case "late_commit":
                self._later(delay_s, lambda: self._run_quietly(op, doc))
                return _hang_up(request)
            case "refuse":
                code = ("-1001", "号源已满") if op == "lock_slot" else ("-301", "超过当日限制")
                return _text_reply(operation, _document(code[0], code[1], []))
            case "fault":
                return _soap_fault("Server", "ERROR #5002: Cache error: <UNDEFINED>")
            case "html":
                return web.Response(status=502, text=_HTML, content_type="text/html")
            case "garbage":
                return web.Response(body=b"\x00\xff\x1c\x80 not a message", content_type="text/xml")
            case "bare_text":
                return _text_reply(operation, "未知服务")
            case "diffgram":
                return _text_reply(operation, _DIFFGRAM)
            case "slow":
                await asyncio.sleep(delay_s)
        document = self._run(
            op, doc, collapse=mode == "collapse", without=_OUR_NUMBERS if mode == "no_order_no" else ()
        )
        match mode:
            case "lose_reply":
                return _hang_up(request)
            case "already_exists":
                return _text_reply(operation, _document("-1003", "订单已存在", []))
            case "junk":
                return _text_reply(operation, "DEBUG 12 rows\r\n" + document)
            case "gbk":
                return _text_reply(operation, document, encoding="gbk")
            case _:
                return _text_reply(operation, document)

    def _run(self, op: str, doc: etree._Element, *, collapse: bool, without: tuple[str, ...] = ()) -> str:
        try:
            return _document("0", "成功", _without(self._trades.run(op, doc), without), collapse=collapse)
        except TradeRefused as refused:
            return _document(refused.code, refused.text, [])

    def _run_quietly(self, op: str, doc: etree._Element) -> None:
        self._run(op, doc, collapse=False)


def _read_call(body: bytes) -> tuple[str, etree._Element]:
    """The operation's name and the document in its argument."""
    soap_body = etree.fromstring(body, _PARSER).find(f"{{{_ENVELOPE}}}Body")
    if soap_body is None or len(soap_body) != 1 or len(soap_body[0]) != 1:
        raise ValueError("one operation with one argument is expected")
    return etree.QName(soap_body[0]).localname, etree.fromstring(soap_body[0][0].text or "", _PARSER)


def _document(code: str, text: str, reply: Reply, *, collapse: bool = False) -> str:
    head: Reply = [("ResultCode", code), ("ResultContent", text)]
    return _xml(("Response", head + [_collapsed(node) if collapse else node for node in reply]))


def _without(reply: Reply, names: tuple[str, ...]) -> Reply:
    """The reply without the elements of these names, at any depth."""
    kept = [(name, content) for name, content in reply if name not in names]
    return [(name, content if isinstance(content, str) else _without(content, names)) for name, content in kept]


def _collapsed(node: Node) -> Node:
    name, content = node
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0][1], list):
        return name, content[0][1]
    return node


def _xml(node: Node) -> str:
    name, content = node
    inside = escape(content) if isinstance(content, str) else "".join(_xml(child) for child in content)
    return f"<{name}>{inside}</{name}>"


def _text_reply(operation: str, text: str, *, encoding: str = "utf-8") -> web.Response:
    """An envelope that declares UTF-8, whatever its bytes are."""
    result = f'<{operation}Response xmlns="http://tempuri.org"><{operation}Result>{escape(text)}</{operation}Result>'
    body = f'<?xml version="1.0" encoding="UTF-8"?><SOAP-ENV:Envelope xmlns:SOAP-ENV="{_ENVELOPE}"><SOAP-ENV:Body>'
    envelope = f"{body}{result}</{operation}Response></SOAP-ENV:Body></SOAP-ENV:Envelope>"
    return web.Response(body=envelope.encode(encoding), content_type="text/xml", charset="utf-8")


def _soap_fault(code: str, text: str) -> web.Response:
    fault = f"<SOAP-ENV:Fault><faultcode>SOAP-ENV:{code}</faultcode><faultstring>{escape(text)}</faultstring>"
    body = f'<SOAP-ENV:Envelope xmlns:SOAP-ENV="{_ENVELOPE}"><SOAP-ENV:Body>{fault}</SOAP-ENV:Fault></SOAP-ENV:Body>'
    return web.Response(status=500, text=body + "</SOAP-ENV:Envelope>", content_type="text/xml")


def _hang_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def start(
    host: str = "127.0.0.1",
    port: int = 0,
    control_port: int = 0,
    *,
    prefix: str = "S",
    days: int = 3,
    seats: int = 5,
    lock_s: float = 600.0,
    push: tuple[str, int] | None = None,
    hospital: Hospital | None = None,
    latency_ms: float = 0.0,
) -> SoapSimulator:
    """Start a hospital; `lock_s` is how long it holds an unpaid lock, `push` where its laboratory sends reports."""
    lab = LabSystem(*push, sender="SOAPDEMO") if push is not None else None
    hospital = hospital or Hospital(prefix, days=days, seats=seats)
    simulator = SoapSimulator(hospital, lock_s=lock_s, lab=lab, latency_ms=latency_ms)
    await simulator.start(host, port, control_port)
    return simulator


async def _main(args: argparse.Namespace) -> None:
    push = (args.push_host, args.push_port) if args.push_port else None
    simulator = await start(
        args.host, args.port, args.control_port, hospital=size_of(args).hospital("S"), lock_s=args.lock_s, push=push,
        latency_ms=args.latency_ms,
    )  # fmt: skip
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    ready = {"ready": True, "port": simulator.port, "control_port": simulator.control_port}
    print(json.dumps(ready | {"wsdl": f"http://{args.host}:{simulator.port}{PATH}?wsdl"}), flush=True)
    await stop.wait()
    await simulator.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.simulators.soap", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    add_size_arguments(parser)
    parser.add_argument("--lock-s", type=float, default=600.0, help="how long an unpaid lock is held")
    parser.add_argument("--push-host", default="127.0.0.1", help="where the laboratory sends reports (MLLP)")
    parser.add_argument("--push-port", type=int, default=0, help="0: it sends none")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
