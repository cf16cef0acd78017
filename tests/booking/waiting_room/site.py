"""The booking API with a waiting room, as one process serves it: on a socket, over a store, with clocks that tests turn."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from booking.api.application import build_server
from booking.api.auth import ApiClient, Authenticator, digest_api_key
from booking.api.booking_routes import booking_routes
from booking.api.context import Context, translate
from booking.api.fhir.routes import fhir_routes
from booking.api.holding import renderer, terms_by
from booking.api.waiting_routes import waiting_routes
from booking.feed import ChangeFeed
from booking.inventory.memory import Memory
from booking.inventory.writer import HoldWriter
from booking.settings import Hospital
from booking.store.engine import Store
from booking.waiting_room.keeper import Keeper
from booking.waiting_room.rooms import WaitingRooms
from mappings.canonical import Patient
from monitoring.health import Health
from tests.booking.api.catalogue_site import NoHis
from tests.booking.world import CLIENT, HOSPITAL, put_patient
from tests.stores import Wall

ROOM = f"/v1/hospitals/{HOSPITAL}/waiting-room"
BOOKINGS = f"/v1/hospitals/{HOSPITAL}/bookings"
_keys = itertools.count(1)


class _Able(NoHis):
    def capabilities(self, hospital_id: str) -> dict[str, str]:
        return defaultdict(lambda: "native")


class _Keys:
    """Two portals, each under a key of its own name."""

    async def lookup(self, digest: str) -> ApiClient | None:
        for name in (CLIENT, "other"):
            if digest == digest_api_key(name):
                return ApiClient(id=name, name=name, scopes=frozenset({"booking"}))
        return None


class Answered(msgspec.Struct):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    json: dict[str, Any]


class Site:
    """One process. `delay_s` is how long its holds seem to wait; `turn` is the only way in which time passes for its keeper."""

    def __init__(self, session: aiohttp.ClientSession, wall: Wall) -> None:
        self.session = session
        self.wall = wall
        self.delay_s = 0.0
        self.steady_s = 0.0
        self.keeper: Keeper
        self.feed: ChangeFeed
        self.holds: HoldWriter

    async def turn(self, seconds: float) -> None:
        """Time passes, at once; then the keeper does what the clock tells it to, and looks."""
        self.wall.turn(seconds)
        await self.tick(seconds)

    async def tick(self, seconds: float) -> None:
        """The keeper's part of it, where another site has turned the clock."""
        self.steady_s += seconds
        self.keeper.sample()
        await self.keeper.look()
        await self.keeper.tick()
        await self.keeper.look()

    async def ask(self, method: str, path: str, body: Any = None, *, by: str = CLIENT, **headers: str) -> Answered:
        """`headers` with underscores."""
        sent = {"Authorization": f"Bearer {by}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, path, json=body, headers=sent) as answer:
            return Answered(answer.status, answer.headers, msgspec.json.decode(await answer.read()))

    async def join(self, patient_id: str, *, by: str = CLIENT) -> Answered:
        return await self.ask("POST", f"{ROOM}/tickets", {"user_ref": "u", "patient_id": patient_id}, by=by)

    async def ticket(self, ticket: str, *, by: str = CLIENT) -> Answered:
        return await self.ask("GET", f"{ROOM}/tickets/{ticket}", by=by)

    async def hold(
        self, slot_id: str, patient_id: str, ticket: str | None = None, *, key: str = "", by: str = CLIENT
    ) -> Answered:
        body = {"user_ref": "u", "slot_id": slot_id, "patient_id": patient_id}
        headers = {"Idempotency_Key": key or f"wait-{next(_keys)}"}
        if ticket is not None:
            headers["Waiting_Room_Ticket"] = ticket
        return await self.ask("POST", BOOKINGS, body, by=by, **headers)

    async def operate(self, operation: str, slot_id: str, patient_id: str, **headers: str) -> Answered:
        """`$hold` or `$book` of the facade, without a key."""
        named = (
            ("appointment-reference", f"Appointment/{slot_id.replace('_', '-')}"),
            ("patient-reference", f"Patient/{patient_id}"),
        )
        given = [{"name": name, "valueReference": {"reference": reference}} for name, reference in named]
        body = {"resourceType": "Parameters", "parameter": given}
        return await self.ask("POST", f"/fhir/R4/hospitals/{HOSPITAL}/Appointment/${operation}", body, **headers)


@asynccontextmanager
async def serve(store: Store, hospital: Hospital, wall: Wall, *, share: float = 1.0) -> AsyncIterator[Site]:
    """Serve it from this store. The keeper has looked once."""
    async with AsyncExitStack() as stack:
        hospitals, his = {hospital.id: hospital}, _Able()
        feed = ChangeFeed(store, hospitals)
        memory = Memory(feed)
        feed.listen(on_fragment=memory.on_fragment, on_key=memory.on_key)
        rooms = WaitingRooms(store, hospitals, feed.store_now_ms)
        holds = HoldWriter(store, terms=terms_by(his), render=renderer, memory=memory, gate=rooms.gate)
        context = Context(store, hospitals, his, holds, feed=feed, rooms=rooms)
        server = build_server(
            [*booking_routes(context), *waiting_routes(context), *fhir_routes(context)],
            authenticator=Authenticator(_Keys()),
            hospital_known=hospitals.__contains__,
            translate=translate,
            health=Health(),
        )
        stack.push_async_callback(feed.close)
        await feed.start()
        await feed.catch_up(10)
        stack.push_async_callback(holds.close)
        await holds.start()
        runner = web.ServerRunner(server)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        site = Site(await stack.enter_async_context(aiohttp.ClientSession(f"http://{host}:{port}")), wall)
        site.feed, site.holds = feed, holds
        site.keeper = Keeper(store, rooms, lambda _: site.delay_s, share=share, monotonic_s=lambda: site.steady_s)
        stack.push_async_callback(site.keeper.close)
        await site.keeper.look()
        yield site


async def put_patients(store: Store, count: int, *, first: int = 0) -> list[str]:
    """Patients of as many persons."""
    people = [
        Patient(name=f"甲{n}", id_type="passport", id_number=f"E{n:08d}", phone="") for n in range(first, first + count)
    ]
    return [await put_patient(store, person, user=f"u{first + n}") for n, person in enumerate(people)]
