"""The catalogue's routes over a store, as one process serves them: a server on a socket, with its change feed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from booking.api.application import build_server
from booking.api.auth import ApiClient, Authenticator
from booking.api.catalog_routes import catalog_routes
from booking.api.context import Context, translate
from booking.feed import ChangeFeed
from booking.settings import Hospital
from booking.store.engine import Store
from mappings.canonical import Attachment, Bill, Patient, Report, Settlement
from monitoring.health import Health
from tests.booking.world import hold_writer
from tests.stores import Wall, opened

ACCESS = {"Authorization": "Bearer key"}


UNASKED = "the catalogue asks no HIS"


class NoHis:
    """A HIS that nobody asks: the catalogue needs none."""

    def __init__(self) -> None:
        self.status = "up"

    def capabilities(self, hospital_id: str) -> dict[str, str]:
        return {"ping": "native"}

    def his_status(self, hospital_id: str) -> str:
        return self.status

    async def bills(self, hospital_id: str, patient: Patient, *, within_s: float | None = None) -> list[Bill]:
        raise AssertionError(UNASKED)

    async def presettlement(
        self, hospital_id: str, bill: Bill, patient: Patient, order_no: str, *, within_s: float | None = None
    ) -> Settlement:
        raise AssertionError(UNASKED)

    async def reports(self, hospital_id: str, patient: Patient, *, within_s: float | None = None) -> list[Report]:
        raise AssertionError(UNASKED)

    async def report(
        self, hospital_id: str, patient: Patient, report_id: str, *, within_s: float | None = None
    ) -> Report | None:
        raise AssertionError(UNASKED)

    async def attachment(
        self, hospital_id: str, attachment: Attachment, *, within_s: float | None = None
    ) -> Attachment:
        raise AssertionError(UNASKED)


class _AnyKey:
    async def lookup(self, digest: str) -> ApiClient | None:
        return ApiClient(id="portal", name="Portal", scopes=frozenset({"booking"}))


class Answered:
    """What came back; `body` is as it was sent, packed or not."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def items(self) -> list[dict[str, Any]]:
        assert self.status == 200, self.body
        return list(self.json["items"])


class Site:
    """One process that serves the catalogue."""

    def __init__(self, session: aiohttp.ClientSession, store: Store, feed: ChangeFeed, his: NoHis) -> None:
        self._session = session
        self.store = store
        self.feed = feed
        self.his = his

    async def ask(self, path: str, method: str = "GET", **headers: str) -> Answered:
        """`headers` with underscores: `if_none_match="..."`. Nothing is unpacked, and packed only when asked for."""
        sent = ACCESS | {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(method, path, headers=sent, skip_auto_headers=("Accept-Encoding",)) as answer:
            return Answered(answer.status, answer.headers, await answer.read())

    async def slots(self, query: str = "from=2031-03-04&to=2031-03-04") -> list[dict[str, Any]]:
        return (await self.ask(f"/v1/hospitals/h1/slots?{query}")).items


async def _readings_end() -> None:
    """Nobody may be asking any more, but a reading goes on. One whose loop ends before it leaves a socket behind, with which the
    driver would have cancelled it, and some later test is blamed for that.
    """
    left = [task for task in asyncio.all_tasks() if task.get_name().startswith(("answer of ", "days of "))]
    if left:
        await asyncio.wait(left, timeout=10)


@asynccontextmanager
async def serve_catalogue(
    store: Store, hospital: Hospital, *, feeds: bool = True, snapshot_bytes: int = 64_000_000
) -> AsyncIterator[Site]:
    """Serve it from this store. With `feeds` the first poll has ended; without, everything is read through the store."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_readings_end)
        holds = await stack.enter_async_context(hold_writer(store))
        feed, his = ChangeFeed(store, [hospital.id]), NoHis()
        context = Context(store, {hospital.id: hospital}, his, holds, feed=feed, snapshot_bytes=snapshot_bytes)
        server = build_server(
            catalog_routes(context),
            authenticator=Authenticator(_AnyKey()),
            hospital_known={hospital.id}.__contains__,
            translate=translate,
            health=Health(),
        )
        if feeds:
            stack.push_async_callback(feed.close)
            await feed.start()
            await feed.catch_up(10)
        runner = web.ServerRunner(server)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        session = aiohttp.ClientSession(f"http://{host}:{port}", auto_decompress=False)
        yield Site(await stack.enter_async_context(session), store, feed, his)


@asynccontextmanager
async def another_process(store: Store, hospital: Hospital, wall: Wall, **options: Any) -> AsyncIterator[Site]:
    """The catalogue as another process serves it from the same database: with connections and a memory of its own."""
    url = store.url.render_as_string(hide_password=False)
    async with opened(url, wall=wall) as other, serve_catalogue(other, hospital, **options) as site:
        yield site
