"""A small API of our own on a real socket, for the tests of the framework: two operations and the pages."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Annotated, Any

import aiohttp
import msgspec
from aiohttp import web
from msgspec import Meta

from booking.api.application import ApiOptions, build_server
from booking.api.auth import ApiClient, Authenticator, digest_api_key
from booking.api.documentation import documentation_routes
from booking.api.negotiation import accepts_gzip, etag_matches
from booking.api.phases import ReleasePhases
from booking.api.problems import ApiProblem
from booking.api.routing import Call, Pending, Ready, Reply, RequestClass, Route, make_ready
from monitoring.health import Health

KEY = "demo-portal-key"
BOOKINGS = "/v1/hospitals/hl7-demo/bookings"
NEWS = "/v1/hospitals/hl7-demo/news"
LIVE = "/v1/hospitals/hl7-demo/live"
SNAPSHOT = "/v1/hospitals/hl7-demo/snapshot"
SNAPSHOT_BODY = msgspec.json.encode({"items": [{"id": f"slot-{n}", "status": "open"} for n in range(200_000)]})
SNAPSHOT_ETAG = '"s1"'
HEADERS = {"Authorization": f"Bearer {KEY}"}


class CardType(StrEnum):
    HEALTH = "health"
    INSURANCE = "insurance"


class Card(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    type: CardType
    number: str


class NewBooking(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What to hold."""

    slot_id: Annotated[str, Meta(max_length=64, description="From GET slots.")]
    fee_fen: Annotated[int, Meta(ge=0)] | None = None
    cards: tuple[Card, ...] = ()
    user_ref: str = "u1"
    patient_id: str = "p1"


class BookingView(msgspec.Struct, kw_only=True):
    """A booking as it stands."""

    id: str
    hospital_id: str
    fingerprint: str | None = None
    days: int | None = None
    states: tuple[str, ...] = ()


class BookingQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, rename={"from_": "from"}):
    from_: dt.date
    to: dt.date | None = None
    state: tuple[str, ...] = ()
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


class StoreDown(Exception):
    pass


class Keys:
    """Two clients: one may do all at two hospitals, one has no scope. Counts how often it is asked."""

    def __init__(self) -> None:
        self.lookups = 0
        self.clients = {
            digest_api_key(KEY): ApiClient(
                id="portal",
                name="Portal",
                scopes=frozenset({"booking"}),
                hospitals=frozenset({"hl7-demo", "soap-demo"}),
            ),
            digest_api_key("hb_other_x"): ApiClient(id="other", name="Other", scopes=frozenset({"booking"})),
            digest_api_key("hb_reader_x"): ApiClient(id="reader", name="Reader", scopes=frozenset()),
        }

    async def lookup(self, digest: str) -> ApiClient | None:
        self.lookups += 1
        await asyncio.sleep(0)
        return self.clients.get(digest)


class Portal:
    """The running API: `session` speaks to it with a good key, `keys` and `health` are its insides."""

    def __init__(self, session: aiohttp.ClientSession, keys: Keys, health: Health, routes: Sequence[Route]) -> None:
        self.session = session
        self.keys = keys
        self.health = health
        self.routes = routes
        self.held = asyncio.Event()
        self.release = asyncio.Event()
        self.news_fail: str | None = None  # the code of the problem that news end with
        self.ended: list[str] = []  # what handlers came to their end with, or were cancelled in

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, for tests that speak to the socket themselves."""
        url = self.session._base_url
        assert url is not None
        assert url.host is not None
        assert url.port is not None
        return url.host, url.port

    async def post(self, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        """POST a booking with an Idempotency-Key; `body` is sent as it is when it is bytes."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        sent = {"Content-Type": "application/json", "Idempotency-Key": "k1", **headers}
        async with self.session.post(BOOKINGS, data=data, headers=sent) as response:
            return response.status, msgspec.json.decode(await response.read())

    async def get(self, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
        async with self.session.get(path, headers=headers) as response:
            return response.status, msgspec.json.decode(await response.read())


def _listed(call: Call[BookingQuery, None]) -> Reply:
    to = call.query.to or call.query.from_
    view = BookingView(
        id="b1", hospital_id=call.hospital_id, days=(to - call.query.from_).days, states=call.query.state
    )
    return Reply(view, headers={"ETag": '"1"'})


@asynccontextmanager
async def run_portal(
    options: ApiOptions | None = None,
    *,
    at_once: bool = False,
    phases: ReleasePhases | None = None,
    clock: Callable[[], float] = time.monotonic,
    oldest_hold_s: Callable[[], float] = lambda: 0.0,
) -> AsyncIterator[Portal]:
    """Start it on a free port of the loopback. `at_once`: what can be is answered without a task for the request."""
    portal: Portal

    async def hold(call: Call[None, NewBooking]) -> Any:
        match call.body.slot_id:
            case "sold-out":
                raise ApiProblem("slot_sold_out")
            case "bug":
                raise ValueError("张三丰 110101199003071233")
            case "store-down":
                raise StoreDown
            case "slow":
                portal.held.set()
                await portal.release.wait()
                portal.ended.append("held")
        return BookingView(id="b1", hospital_id=call.hospital_id, fingerprint=call.fingerprint())

    def hold_at_once(call: Call[None, NewBooking]) -> Any:
        if call.body.slot_id == "sold-out":
            raise ApiProblem("slot_sold_out")  # as from memory
        return Pending(asyncio.ensure_future(hold(call)), lambda outcome: outcome)

    def list_at_once(call: Call[BookingQuery, None]) -> Any:
        return None if call.query.limit == 1 else _listed(call)  # None: the handler must be asked

    async def news(_call: Call[None, None]) -> Any:
        portal.held.set()
        try:
            await portal.release.wait()
        except asyncio.CancelledError:
            portal.ended.append("cancelled")
            raise
        if portal.news_fail is not None:
            raise ApiProblem(portal.news_fail)
        return None

    fields = {"ETag": SNAPSHOT_ETAG, "Vary": "Accept-Encoding"}
    plain = make_ready(SNAPSHOT_BODY, headers={**fields, "Content-Type": "application/json"})
    packed = make_ready(
        gzip.compress(SNAPSHOT_BODY, 1),
        headers={**fields, "Content-Type": "application/json", "Content-Encoding": "gzip"},
    )
    unchanged = make_ready(status=304, headers=fields)

    def snapshot_at_once(call: Call[None, None]) -> Ready:
        headers = call.request.headers
        if etag_matches(headers.get("If-None-Match"), SNAPSHOT_ETAG):
            return unchanged
        return packed if accepts_gzip(headers.get("Accept-Encoding")) else plain

    async def snapshot(call: Call[None, None]) -> Ready:
        return snapshot_at_once(call)

    async def list_bookings(call: Call[BookingQuery, None]) -> Any:
        return _listed(call)

    async def put_bill(call: Call[None, bytes]) -> Any:
        if call.body == b"his-down":
            raise ApiProblem("his_unavailable")
        return BookingView(id=f"{call.path['date']:%A} {len(call.body)}", hospital_id=call.hospital_id)

    async def forget(_call: Call[None, None]) -> Any:
        return None

    routes = [
        Route(
            "POST", BOOKINGS.replace("hl7-demo", "{hospital_id}"), hold, summary="Hold a seat", tag="bookings",
            request_class=RequestClass.HOLD, identified_by=("user_ref", "patient_id"), heeds_wait=True,
            request=NewBooking, response=BookingView, status=201, scopes=("booking",), idempotent=True,
            errors=("slot_sold_out",), examples={"request": NewBooking(slot_id="s1")}, at_once=hold_at_once if at_once else None,
        ),
        Route(
            "GET", BOOKINGS.replace("hl7-demo", "{hospital_id}"), list_bookings, summary="List bookings", tag="bookings",
            request_class=RequestClass.READ,
            query=BookingQuery, response=BookingView, scopes=("booking",), at_once=list_at_once if at_once else None,
        ),
        Route(
            "PUT", "/v1/hospitals/{hospital_id}/merchant-bills/{date}", put_bill, summary="Deliver a bill", tag="money",
            request_class=RequestClass.BULK,
            request=bytes, accepts=("text/csv",), path_types={"date": dt.date}, response=BookingView, scopes=("booking",),
            max_body_bytes=2_000,
        ),
        Route("GET", NEWS.replace("hl7-demo", "{hospital_id}"), news, summary="Wait", tag="money",
              request_class=RequestClass.LIVE, scopes=(), waits=True),
        Route("GET", LIVE.replace("hl7-demo", "{hospital_id}"), news, summary="Ask the HIS", tag="money", scopes=(),
              request_class=RequestClass.LIVE),
        Route("GET", SNAPSHOT.replace("hl7-demo", "{hospital_id}"), snapshot, summary="Much", tag="money",
              request_class=RequestClass.READ,
              scopes=("booking",), at_once=snapshot_at_once if at_once else None),
        Route("DELETE", "/v1/hospitals/{hospital_id}/x", forget, summary="Forget", tag="money",
              request_class=RequestClass.STEP, scopes=("booking",)),
    ]  # fmt: skip
    keys = Keys()
    health = Health()
    server = build_server(
        [*routes, *documentation_routes(routes, version="0.1.0")],
        authenticator=Authenticator(keys),
        hospital_known={"hl7-demo", "fhir-demo", "soap-demo"}.__contains__,
        translate=lambda error: ApiProblem("store_unavailable") if isinstance(error, StoreDown) else None,
        health=health,
        options=options or ApiOptions(max_body_bytes=1_000),
        phases=phases,
        clock=clock,
        oldest_hold_s=oldest_hold_s,
    )
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        async with aiohttp.ClientSession(f"http://{host}:{port}", headers=HEADERS) as session:
            portal = Portal(session, keys, health, routes)
            yield portal
    finally:
        await runner.cleanup()
