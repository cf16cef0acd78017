"""The switchboard of a simulator: faults, and what a person at the hospital would do. HTTP on a port of its own.

    GET  /state                                          what the hospital has, see Hospital.snapshot, plus `calls` by operation
    GET  /pulse?day=                                     {running, most_at_once, seats_left}, cheap enough for every second
    GET  /books                                          every seat and every visit, see Hospital.books, plus the calls
    POST /faults   {op, mode, times?, delay_s?, share?}  from now on `op` (or "*") fails in the way of `mode`, `times` times
                                                         or, with `share`, that share of the calls, by lot; of two
                                                         that a call meets the first happens, after the delay of `slow`
    DELETE /faults                                       everything works again
    POST /bill     {mrn, items: [{name, amount_fen}]}    the doctor orders something  -> {no}
    POST /report   {mrn, name?, status?}                 a lab report is issued       -> {no}
    POST /correct  {no}                                  a lab report is corrected    -> {}
    POST /stop     {plan}                                停诊                          -> {}
    POST /attend   {no, how}                             who came: arrived, seen, missed   -> {}
    POST /move     {plan, to}                            改诊                          -> {}
    POST /substitute {plan, doctor}                      替诊                          -> {}

Modes, as far as a protocol has them:
  refuse          answer with a business refusal
  down            of every operation: nobody listens, and connections that are open are reset; this switchboard stays.
                  Of one operation, a number or a share of calls: reset the connection, nothing is done
  hang            accept the request and never answer; nothing is done, and the connection is closed when all works again
  lose_reply      do it, then close the connection without a reply
  late_commit     close the connection without a reply, say "not found" when asked, and do it `delay_s` later
  already_exists  do it, answer "already exists"
  slow            answer after `delay_s`
  fault           a protocol-level error (SOAP fault, OperationOutcome 500, AE)
  html            an HTML page where a message should be
  garbage         bytes that are no message at all
  gbk             GBK bytes in a reply that declares UTF-8
  utf8            the Chinese HL7 hospital: UTF-8 bytes in a reply that declares GBK
  conflict        FHIR: a change (PUT) is answered 412, somebody else was quicker; nothing is done
  unauthorised    FHIR: 401, the token has expired; nothing is done
  fault_after     FHIR: do it, answer an OperationOutcome 500
  truncated       FHIR: do it, answer the first half of the JSON
  wrong_type      FHIR: do it, answer it as application/octet-stream
  double_create   FHIR: a create makes two, the second in another seat, whatever its condition says
  double_lost     FHIR: the same, and the connection is closed without a reply
  list_grows, list_shrinks  FHIR: between two pages of a search a row comes in before, or goes from before, the next page

What a site may do by nature; the operation is carried out all the same:
  ignore_condition  FHIR: If-None-Exist is not honoured, so that a repeated create makes a second resource
  conflict_409      FHIR: a version conflict (If-Match) is answered 409 instead of 412
  no_order_no       SOAP: the reply does not repeat our order number (ExtOrderNo, PlatformNo)
  list_booked       HL7: a list of openings also has a row for each appointment, as QRD-9 = SAL allows
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass

from aiohttp import web

from loadtest.simulators.door import Door
from loadtest.simulators.hospital import Hospital

LATENCY_SIGMA = 0.5
"""Of the lognormal time that a call takes: one in twenty takes 2.3 times the median, one in a thousand 4.7 times."""

Notify = Callable[[str, str], Awaitable[None]]


@dataclass
class Fault:
    op: str
    mode: str
    times: int | None = None
    delay_s: float = 3.0
    share: float = 1.0

    @property
    def shuts_door(self) -> bool:
        """Whether nobody is let in, instead of some calls failing."""
        return self.mode == "down" and self.op == "*" and self.times is None and self.share >= 1.0


class Switchboard:
    """Faults by operation, call counts, and the hook by which a protocol pushes news (`notify(kind, number)`)."""

    def __init__(self, hospital: Hospital, *, latency_ms: float = 0.0, seed: int = 11) -> None:
        self.hospital = hospital
        self.latency_ms = latency_ms
        self._random = random.Random(seed)
        self.faults: list[Fault] = []
        self.calls: Counter[str] = Counter()
        self.running = 0
        self.most_at_once = 0
        self.hanging = 0
        self.notify: Notify | None = None
        self.door: Door | None = None
        self._healed = asyncio.Event()

    async def fault(self, op: str) -> Fault | None:
        """The fault that this call of `op` meets, if any; a counted one is used up. Also counts the call.

        A call that is slow and fails, fails after its delay.
        """
        self.calls[op] += 1
        slow = self._meet(op, lambda mode: mode == "slow")
        failure = self._meet(op, lambda mode: mode != "slow")
        if slow is not None and failure is not None:
            await asyncio.sleep(slow.delay_s)
        return failure or slow

    def _meet(self, op: str, is_meant: Callable[[str], bool]) -> Fault | None:
        for fault in self.faults:
            if not is_meant(fault.mode) or fault.op not in (op, "*"):
                continue
            if fault.share >= 1.0 or self._random.random() < fault.share:
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self.faults.remove(fault)
                return fault
        return None

    async def begin(self, fault: Fault) -> None:
        """From now on it happens."""
        self.faults.append(fault)
        if fault.shuts_door and self.door is not None:
            self.door.shut()

    async def heal(self) -> None:
        """Everything works again."""
        self.faults.clear()
        self.let_go()
        if self.door is not None:
            await self.door.reopen()

    def let_go(self) -> None:
        """End what hangs."""
        self._healed.set()
        self._healed = asyncio.Event()

    async def hang(self, until_gone: Coroutine[object, object, object]) -> None:
        """Until everything works again, or the caller has gone: a call that nobody waits for takes no place here."""
        self.hanging += 1
        waiting = [asyncio.ensure_future(until_gone), asyncio.ensure_future(self._healed.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            self.hanging -= 1

    async def take_time(self) -> None:
        """What the hospital takes for a call: `latency_ms` is the median."""
        if self.latency_ms:
            await asyncio.sleep(self.latency_ms / 1000 * math.exp(self._random.gauss(0.0, LATENCY_SIGMA)))

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/state", self._state)
        app.router.add_get("/pulse", self._pulse)
        app.router.add_get("/books", self._books)
        app.router.add_post("/faults", self._set_fault)
        app.router.add_delete("/faults", self._clear_faults)
        app.router.add_post("/bill", self._bill)
        app.router.add_post("/report", self._report)
        app.router.add_post("/correct", self._correct)
        app.router.add_post("/stop", self._stop)
        app.router.add_post("/window", self._window)
        app.router.add_post("/attend", self._attend)
        app.router.add_post("/move", self._move)
        app.router.add_post("/substitute", self._substitute)
        return app

    async def _state(self, request: web.Request) -> web.Response:
        return web.json_response(
            {**self.hospital.snapshot(), "calls": dict(self.calls), "most_at_once": self.most_at_once}
        )

    async def _pulse(self, request: web.Request) -> web.Response:
        seats_left = self.hospital.seats_left(request.query.get("day", ""))
        return web.json_response({"running": self.running, "most_at_once": self.most_at_once, "seats_left": seats_left})

    async def _books(self, request: web.Request) -> web.Response:
        return web.json_response(
            {**self.hospital.books(), "calls": dict(self.calls), "most_at_once": self.most_at_once}
        )

    async def _set_fault(self, request: web.Request) -> web.Response:
        await self.begin(Fault(**await request.json()))
        return web.json_response({})

    async def _clear_faults(self, request: web.Request) -> web.Response:
        await self.heal()
        return web.json_response({})

    async def _bill(self, request: web.Request) -> web.Response:
        body = await request.json()
        items = [(i["name"], int(i["amount_fen"])) for i in body["items"]]
        insured = {name: int(body.get(name, 0)) for name in ("fund_fen", "account_fen")}
        charge = self.hospital.charge(body["mrn"], items, **insured)
        await self._tell("bill", charge.no)
        return web.json_response({"no": charge.no})

    async def _report(self, request: web.Request) -> web.Response:
        body = await request.json()
        report = self.hospital.report(body["mrn"], body.get("name", "血常规"), body.get("status", "final"))
        await self._tell("report", report.no)
        return web.json_response({"no": report.no})

    async def _correct(self, request: web.Request) -> web.Response:
        await self._tell("report", self.hospital.correct((await request.json())["no"]).no)
        return web.json_response({})

    async def _stop(self, request: web.Request) -> web.Response:
        plan = self.hospital.stop((await request.json())["plan"])
        await self._tell("stop", plan.code)
        return web.json_response({})

    async def _window(self, request: web.Request) -> web.Response:
        self.hospital.sell_at_window((await request.json())["plan"])
        return web.json_response({})

    async def _attend(self, request: web.Request) -> web.Response:
        body = await request.json()
        await self._tell("attend", self.hospital.attend(body["no"], body["how"]).no)
        return web.json_response({})

    async def _move(self, request: web.Request) -> web.Response:
        body = await request.json()
        await self._tell("move", self.hospital.move(body["plan"], body["to"]).code)
        return web.json_response({})

    async def _substitute(self, request: web.Request) -> web.Response:
        body = await request.json()
        await self._tell("substitute", self.hospital.substitute(body["plan"], body["doctor"]).code)
        return web.json_response({})

    async def _tell(self, kind: str, number: str) -> None:
        if self.notify is not None:
            await self.notify(kind, number)


async def serve_control(board: Switchboard, host: str, port: int) -> tuple[web.AppRunner, int]:
    """Serve the switchboard; returns the runner and the port really used (for `port` 0)."""
    runner = web.AppRunner(board.app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    await asyncio.sleep(0)
    return runner, runner.addresses[0][1]
