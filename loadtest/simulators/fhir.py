"""A simulated hospital that speaks FHIR R4 or R5 over HTTP.

    python -m loadtest.simulators.fhir --host 127.0.0.1 --port 0 --control-port 0 [--release R5] [--offers find hold book]

Prints one JSON line when it listens and ends with status 0 on SIGTERM. Faults come from the switchboard (see
loadtest.simulators.control); the operations are called like the verbs of the port, and besides: `read_appointment`,
`fetch_charge_items`, `fetch_changes`, `read_invoice`, `record_payment` (PaymentReconciliation), `notify_payment` (PaymentNotice
of an Appointment), `withdraw_payment`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections.abc import Iterable
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from loadtest.simulators import fhir_resources as make
from loadtest.simulators.control import Switchboard, serve_control
from loadtest.simulators.door import Door, door_of
from loadtest.simulators.fhir_faults import Failing, as_json
from loadtest.simulators.fhir_locking import Locking, verb_of
from loadtest.simulators.fhir_r5 import check_r4, from_r5, to_r5
from loadtest.simulators.fhir_resources import Json
from loadtest.simulators.fhir_store import Params, Store, refusal
from loadtest.simulators.fhir_subscriptions import SubscriptionDesk
from loadtest.simulators.fhir_tokens import TokenDesk
from loadtest.simulators.hospital import Hospital, Refusal
from loadtest.simulators.size import add_size_arguments, size_of

OFFERS = ("transaction", "find", "hold", "book")
"""What the server may have beyond reads, creates and updates: transactions (Slots can be written then), IHE's operations."""
CAME = {"arrived": "arrived", "seen": "fulfilled", "missed": "noshow"}
"""The status of an Appointment whose patient came, or did not."""
DEFAULT_PAGE = 20
MAX_PAGE = 50
_SEARCHES = {
    "HealthcareService": "fetch_departments",
    "PractitionerRole": "fetch_practitioners",
    "Schedule": "fetch_schedules",
    "Slot": "fetch_slots",
    "Patient": "find_patient",
    "Appointment": "fetch_registration",
    "Invoice": "fetch_bills",
    "ChargeItem": "fetch_charge_items",
    "PaymentNotice": "fetch_settlement",
    "DiagnosticReport": "fetch_reports",
    "Binary": "fetch_attachment",
    "metadata": "ping",
}
_READS = {"Appointment": "read_appointment", "Invoice": "read_invoice", "Binary": "fetch_attachment"}
_CREATES = {"Patient": "create_patient", "Appointment": "book", "PaymentReconciliation": "record_payment"}


class FhirSimulator:
    """A running simulator; made by `start`."""

    def __init__(
        self,
        hospital: Hospital,
        board: Switchboard,
        token: str | None,
        release: str = "R4",
        tokens: TokenDesk | None = None,
        offers: frozenset[str] = frozenset(),
    ) -> None:
        self.hospital = hospital
        self.board = board
        self.store = Store(hospital)
        self.locking = Locking(self.store)
        self.offers = offers
        self.port = 0
        self.control_port = 0
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.document_bytes = 0
        self.unchanged = 0  # pages of searches that were answered 304
        self._token = token
        self._is_r5 = release == "R5"
        self.tokens = tokens
        self.subscriptions = SubscriptionDesk()
        self.busy: tuple[int, str | None] | None = None  # status and Retry-After of every answer to a write
        self._runners: list[web.AppRunner] = []
        self._door: Door | None = None
        self._failing = Failing(board)
        board.notify = self._notify

    @property
    def base_url(self) -> str:
        """The server's [base]."""
        return f"http://127.0.0.1:{self.port}/fhir"

    async def open(self, host: str, port: int, control_port: int) -> None:
        """Listen on both ports."""
        app = web.Application(client_max_size=4_000_000)
        if self.tokens is not None:
            app.router.add_get("/fhir/.well-known/smart-configuration", self.tokens.configuration)
            app.router.add_post("/oauth2/token", self.tokens.token)
        app.router.add_post("/fhir", self._answer)
        app.router.add_route("*", "/fhir/Subscription", self.subscriptions.answer)
        app.router.add_route("*", "/fhir/Subscription/{key}", self.subscriptions.answer)
        app.router.add_route("*", "/fhir/{kind}", self._answer)
        app.router.add_route("*", "/fhir/{kind}/{key}", self._answer)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
        await runner.setup()
        self._runners.append(runner)
        self.board.door = self._door = door_of(runner)
        await self._door.open(host, port)
        self.port = self._door.address[1]
        control, self.control_port = await serve_control(self.board, host, control_port)
        self._runners.append(control)

    async def close(self) -> None:
        """Stop listening; what a fault has put off is not done any more."""
        self._failing.stop()
        if self._door is not None:
            self._door.close()
        self.board.let_go()
        for runner in self._runners:
            await runner.cleanup()

    async def _notify(self, kind: str, number: str) -> None:
        """The switchboard's hook: what changes an Appointment is there for who asks what has changed."""
        if kind == "attend":
            self.store.change(number, status=CAME[self.hospital.visits[number].attended])

    # one request ---------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.Response:
        kind, key = request.match_info.get("kind", ""), request.match_info.get("key", "")
        self.requests.append((request.method, request.path_qs, dict(request.headers)))
        del self.requests[:-200]
        if not self._lets_in(request.headers.get("Authorization")):
            return as_json(401, make.issue("security", "token", "a token is needed"))
        body: Json = {}
        if request.method in ("POST", "PUT") and self.busy is not None:
            status, wait = self.busy
            return web.Response(status=status, headers={} if wait is None else {"Retry-After": wait})
        if request.method in ("POST", "PUT"):
            body = json.loads(await request.text())
        operation = verb_of(self.store, request.method, kind, key, body) or _operation(request, kind, key, body)

        def work(*, conditional: bool = True, shift: int = 0, twice: bool = False) -> web.Response:
            try:
                if twice and request.method == "POST":
                    made = kind or "Appointment"
                    self.store.double(made, self._taken(body) if kind else body["entry"][-1]["resource"])
                return self._do(request, kind, key, body, conditional=conditional and not twice, shift=shift)
            except Refusal as no:
                return as_json(*refusal(no.code, no.text))
            except (KeyError, IndexError, ValueError, TypeError, AttributeError):
                return as_json(*refusal("bad", "the request cannot be read"))

        self.board.running += 1
        self.board.most_at_once = max(self.board.most_at_once, self.board.running)
        try:
            await self.board.take_time()
            fault = await self.board.fault(operation)
            return await self._failing.answer(request, fault, work) if fault else work()
        finally:
            self.board.running -= 1

    def _lets_in(self, authorization: str | None) -> bool:
        if self.tokens is not None:
            return self.tokens.is_good(authorization)
        return not self._token or authorization == f"Bearer {self._token}"

    def _do(
        self, request: web.Request, kind: str, key: str, body: Json, *, conditional: bool = True, shift: int = 0
    ) -> web.Response:
        if request.method == "GET":
            return self._get(request, kind, key, shift)
        if request.method == "POST" and not kind and "transaction" in self.offers:
            return as_json(200, self.locking.transact(body, conditional=conditional))
        if request.method == "POST" and key.removeprefix("$") in self.offers:
            return as_json(200, self.locking.operate(key.removeprefix("$"), body))
        if request.method == "POST" and kind and not key:
            condition = request.headers.get("If-None-Exist", "") if conditional else ""
            status, resource = self.store.create(kind, self._taken(body), condition)
            return _resource(status, self._told(resource))
        if request.method == "PUT" and kind == "Slot" and "transaction" in self.offers:
            return _resource(200, self.locking.put_slot(key, body, request.headers.get("If-Match", "")))
        if request.method == "PUT" and key:
            changed = self.store.update(kind, key, self._taken(body), request.headers.get("If-Match", ""))
            return _resource(200, self._told(changed))
        return as_json(405, make.issue("not-supported", "method", "no such interaction"))

    def _get(self, request: web.Request, kind: str, key: str, shift: int) -> web.Response:
        if kind == "metadata":
            return as_json(200, self._told(make.capability_statement(self.offers)))
        if kind == "Binary":
            report = self.hospital.reports.get(key)
            if report is None:
                raise Refusal("unknown", "no such Binary")
            return web.Response(body=make.document(report, self.document_bytes), content_type="application/pdf")
        if key and kind == "Slot":
            return _resource(200, self.locking.slot(key))
        if key:
            return _resource(200, self._told(self.store.read(kind, key)))
        params: Params = list(request.query.items())
        page = self._told(self._page(request, kind, params, shift))
        etag = f'W/"{sha256(json.dumps(page).encode()).hexdigest()[:16]}"'
        if request.headers.get("If-None-Match") == etag:
            self.unchanged += 1
            return web.Response(status=304, headers={"ETag": etag})
        return as_json(200, page, {"ETag": etag})

    def _told(self, resource: Json) -> Json:
        return to_r5(resource) if self._is_r5 else resource

    def _taken(self, body: Json) -> Json:
        if self._is_r5:
            return from_r5(body)
        check_r4(body)
        return body

    def _page(self, request: web.Request, kind: str, params: Params, shift: int) -> Json:
        found = self.store.search(kind, params)
        wanted = dict(params)
        size = min(int(wanted.get("_count", DEFAULT_PAGE)), MAX_PAGE)
        offset = int(wanted.get("_offset", 0))
        base = f"http://{request.host}/fhir"
        began = max(0, offset - shift) if offset else 0
        page = found.matches[began : began + size]
        included = {f"{item['resourceType']}/{item['id']}": item for match in page for item in found.include(match)}
        links = [{"relation": "self", "url": f"{base}{request.path_qs.removeprefix('/fhir')}"}]
        if offset + size < len(found.matches):
            rest = [(name, value) for name, value in params if name != "_offset"]
            links.append({"relation": "next", "url": f"{base}/{kind}?{urlencode([*rest, ('_offset', offset + size)])}"})
        return {
            "resourceType": "Bundle",
            "type": "searchset",
            "total": len(found.matches),
            "link": links,
            "entry": [
                *(_entry(base, item, "match") for item in page),
                *(_entry(base, item, "include") for item in included.values()),
            ],
        }


def _operation(request: web.Request, kind: str, key: str, body: Json) -> str:
    """The port's verb that this request belongs to: what faults and counts are keyed by."""
    if request.method == "GET":
        if "_lastUpdated" in request.query or (kind == "Appointment" and {"_id", "date"} & set(request.query)):
            return "fetch_changes"
        if kind == "DiagnosticReport" and ("identifier" in request.query or "_id" in request.query):
            return "fetch_report"
        if kind == "PaymentReconciliation" and "identifier" in request.query:
            return "fetch_refund"
        return _READS.get(kind, f"read_{kind.lower()}") if key else _SEARCHES.get(kind, f"search_{kind.lower()}")
    if request.method == "PUT":
        if kind != "Appointment":
            return "withdraw_payment"
        return "cancel_registration" if body.get("status") == "cancelled" else "register"
    if kind == "PaymentNotice":
        reference = str((body.get("request") or {}).get("reference", ""))
        return "settle_bill" if reference.startswith("Invoice/") else "notify_payment"
    if kind == "PaymentReconciliation" and make.is_refund(body):
        return "refund"
    return _CREATES.get(kind, f"create_{kind.lower()}")


def _entry(base: str, resource: Json, mode: str) -> Json:
    return {
        "fullUrl": f"{base}/{resource['resourceType']}/{resource['id']}",
        "resource": resource,
        "search": {"mode": mode},
    }


def _resource(status: int, resource: Json) -> web.Response:
    version = resource.get("meta", {}).get("versionId", "1")
    place = f"/fhir/{resource['resourceType']}/{resource['id']}/_history/{version}"
    return as_json(status, resource, {"ETag": f'W/"{version}"', "Location": place})


async def start(
    host: str = "127.0.0.1",
    port: int = 0,
    control_port: int = 0,
    *,
    hospital: Hospital | None = None,
    token: str | None = None,
    tokens: TokenDesk | None = None,
    latency_ms: float = 0.0,
    release: str = "R4",
    offers: Iterable[str] = (),
    **facts: Any,
) -> FhirSimulator:
    """Start a simulator, that demands a `token`, or one of those that `tokens` gives, and has what it `offers` (see OFFERS).

    `facts` (days, seats, zone, seed) go to its hospital unless one is given. Port 0 takes any.
    """
    hospital = hospital or Hospital("F", **facts)
    board = Switchboard(hospital, latency_ms=latency_ms)
    simulator = FhirSimulator(hospital, board, token, release, tokens, frozenset(offers))
    await simulator.open(host, port, control_port)
    return simulator


async def _serve(options: argparse.Namespace) -> None:
    simulator = await start(
        options.host, options.port, options.control_port, token=options.token, hospital=size_of(options).hospital("F"),
        latency_ms=options.latency_ms, release=options.release, offers=options.offers,
    )  # fmt: skip
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    ready = {
        "ready": True,
        "port": simulator.port,
        "control_port": simulator.control_port,
        "base_url": simulator.base_url,
    }
    print(json.dumps(ready), flush=True)
    await ended.wait()
    await simulator.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A simulated hospital that speaks FHIR.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    add_size_arguments(parser)
    parser.add_argument("--release", choices=("R4", "R5"), default="R4")
    parser.add_argument("--offers", nargs="*", choices=OFFERS, default=(), help="what it has beyond resources")
    parser.add_argument("--token", default=None, help="a bearer token to demand")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
