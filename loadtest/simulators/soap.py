"""A hospital that speaks SOAP, in one of the dialects of loadtest/simulators/soap_dialects.

    python -m loadtest.simulators.soap [--dialect dhc] --host 127.0.0.1 --port 0 --control-port 0 [--push-host H --push-port P]

`GET <path>?wsdl` gives the WSDL, where the dialect has one. Besides the modes of the switchboard these habits can be switched on
for an operation:

  collapse    a list of one record loses its inner element
  bare_text   the sentence 未知服务 in the place of the document
  junk        bytes before the document
  diffgram    a .NET DataSet in the place of the document
  other_place the words of a refusal in another element, where the dialect has several for them
  compact_dates   days as yyyyMMdd
  unlimited   seats without limit: -1 are left
  oversell    one seat more than there is: a seat is taken without a look at what is left

With --push-host and --push-port its laboratory sends ORU^R01 over MLLP when a report is issued. With --call-url a hospital whose
dialect has that calls the other side: when a schedule is stopped, and for a new bill or report.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections.abc import Callable

from aiohttp import web

from loadtest.simulators.control import Fault, Switchboard, serve_control
from loadtest.simulators.door import Door, door_of, until_gone
from loadtest.simulators.hospital import Hospital
from loadtest.simulators.lis import LabSystem, PushFailed
from loadtest.simulators.size import add_size_arguments, size_of
from loadtest.simulators.soap_dialects import CALLERS, DIALECTS
from loadtest.simulators.soap_dialects.speaking import (
    Called,
    Caller,
    CallFailed,
    Dialect,
    Ledger,
    Unreadable,
    soap_fault,
)

_HTML = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
_DIFFGRAM = '<diffgr:diffgram xmlns:diffgr="urn:schemas-microsoft-com:xml-diffgram-v1"><NewDataSet/></diffgr:diffgram>'


class SoapSimulator:
    """One running hospital. `port` and `control_port` are the ones really used."""

    def __init__(
        self,
        hospital: Hospital,
        dialect: type[Dialect],
        *,
        lock_s: float,
        lab: LabSystem | None,
        latency_ms: float,
        caller: Caller | None = None,
    ) -> None:
        self.hospital = hospital
        self.board = Switchboard(self.hospital, latency_ms=latency_ms)
        self.port = self.control_port = 0
        self.ledger = Ledger(lock_s=lock_s, later=self._later)
        self._dialect = dialect(hospital, self.ledger)
        self._lab, self.caller = lab, caller
        self._timers: list[asyncio.TimerHandle] = []
        self._runners: list[web.AppRunner] = []
        self._door: Door | None = None
        if lab is not None or caller is not None:
            self.board.notify = self._notify

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self._dialect.path}"

    async def start(self, host: str, port: int, control_port: int) -> None:
        app = web.Application(client_max_size=5_000_000)
        app.router.add_get(self._dialect.path, self._wsdl)
        app.router.add_post(self._dialect.path, self._call)
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
        if kind == "attend" and self._lab is not None:
            visit = self.hospital.visits[number]
            try:
                await self._lab.push_arrival(visit, self.hospital.people[visit.mrn])
            except PushFailed as error:
                raise web.HTTPBadGateway(text=f"visit {number} was noted, but not told: {error}") from error
        if self.caller is not None:
            try:
                await self.caller.notify(kind, number)
            except CallFailed as error:
                raise web.HTTPBadGateway(text=f"{kind} {number} was not taken: {error}") from error

    async def _wsdl(self, request: web.Request) -> web.Response:
        text = None
        if "wsdl" in {key.lower() for key in request.query}:
            text = self._dialect.wsdl(f"http://{request.host}{self._dialect.path}")
        if text is None:
            raise web.HTTPNotFound
        return web.Response(text=text, content_type="text/xml")

    async def _call(self, request: web.Request) -> web.StreamResponse:
        try:
            called = self._dialect.read(request, await request.read())
        except Unreadable as error:
            return soap_fault("Client", f"cannot read the request: {error}")
        if called.op is None:
            return self._dialect.reply(called, "未知服务")
        self.board.running += 1
        self.board.most_at_once = max(self.board.most_at_once, self.board.running)
        try:
            await self.board.take_time()
            return await self._answer(request, called, called.op, await self.board.fault(called.op))
        finally:
            self.board.running -= 1

    async def _answer(self, request: web.Request, called: Called, op: str, fault: Fault | None) -> web.StreamResponse:
        mode = fault.mode if fault is not None else ""
        delay_s = fault.delay_s if fault is not None else 0.0
        dialect = self._dialect
        match mode:
            case "down":
                return _hang_up(request)
            case "hang":
                await self.board.hang(until_gone(request))
                return _hang_up(request)
            case "late_commit":
                self._later(delay_s, lambda: self._run_quietly(called))
                return _hang_up(request)
            case "refuse":
                return dialect.reply(
                    called, dialect.refusal(called, "full" if op in ("lock_slot", "book") else "limit")
                )
            case "fault":
                return soap_fault("Server", "ERROR #5002: Cache error: <UNDEFINED>")
            case "html":
                return web.Response(status=502, text=_HTML, content_type="text/html")
            case "garbage":
                return web.Response(body=b"\x00\xff\x1c\x80 not a message", content_type="text/xml")
            case "bare_text":
                return dialect.reply(called, "未知服务")
            case "diffgram":
                return dialect.reply(called, _DIFFGRAM)
            case "slow":
                await asyncio.sleep(delay_s)
        self.hospital.oversells = mode == "oversell"
        text = dialect.run(called, frozenset({mode}))
        self.hospital.oversells = False
        match mode:
            case "lose_reply":
                return _hang_up(request)
            case "already_exists":
                return dialect.reply(called, dialect.refusal(called, "exists"))
            case "junk":
                return dialect.reply(called, "DEBUG 12 rows\r\n" + text)
            case "gbk":
                return dialect.reply(called, text, "gbk")
            case _:
                return dialect.reply(called, text)

    def _run_quietly(self, called: Called) -> None:
        self._dialect.run(called, frozenset())


def _hang_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def start(
    host: str = "127.0.0.1",
    port: int = 0,
    control_port: int = 0,
    *,
    dialect: str | type[Dialect] = "dhc",
    prefix: str = "S",
    days: int = 3,
    seats: int = 5,
    lock_s: float = 600.0,
    push: tuple[str, int] | None = None,
    call_url: str | None = None,
    hospital: Hospital | None = None,
    latency_ms: float = 0.0,
) -> SoapSimulator:
    """Start a hospital. `dialect`: by its name, or one that has none; `lock_s`: how long it holds an unpaid lock; `push`: where
    its laboratory sends reports; `call_url`: where it calls the other side, if its dialect does.
    """
    lab = LabSystem(*push, sender="SOAPDEMO") if push is not None else None
    hospital = hospital or Hospital(prefix, days=days, seats=seats)
    spoken = DIALECTS[dialect] if isinstance(dialect, str) else dialect
    caller = None
    if call_url is not None:
        caller = CALLERS[str(dialect)](hospital, call_url)
    simulator = SoapSimulator(hospital, spoken, lock_s=lock_s, lab=lab, latency_ms=latency_ms, caller=caller)
    await simulator.start(host, port, control_port)
    return simulator


async def _main(args: argparse.Namespace) -> None:
    push = (args.push_host, args.push_port) if args.push_port else None
    simulator = await start(
        args.host, args.port, args.control_port, dialect=args.dialect, hospital=size_of(args).hospital("S"),
        lock_s=args.lock_s, push=push, call_url=args.call_url, latency_ms=args.latency_ms,
    )  # fmt: skip
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    ready = {"ready": True, "port": simulator.port, "control_port": simulator.control_port}
    print(json.dumps(ready | {"wsdl": f"{simulator.url}?wsdl"}), flush=True)
    await stop.wait()
    await simulator.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.simulators.soap", description=__doc__)
    parser.add_argument("--dialect", choices=sorted(DIALECTS), default="dhc")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    add_size_arguments(parser)
    parser.add_argument("--lock-s", type=float, default=600.0, help="how long an unpaid lock is held")
    parser.add_argument("--push-host", default="127.0.0.1", help="where the laboratory sends reports (MLLP)")
    parser.add_argument("--push-port", type=int, default=0, help="0: it sends none")
    parser.add_argument("--call-url", help=f"where it calls the other side; of {', '.join(sorted(CALLERS))} only")
    args = parser.parse_args()
    if args.call_url and args.dialect not in CALLERS:
        parser.error(f"{args.dialect} calls nobody")
    asyncio.run(_main(args))


if __name__ == "__main__":
    main()
