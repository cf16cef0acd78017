"""The laboratory that sends documents, the portal's receiver of webhooks and its reader of events, and its accountant."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from aiohttp import web

from loadtest.bench.messages import large_report
from loadtest.simulators.mllp import END, ER7, START, read_frame
from tests.acceptance.installation import Installation
from tests.acceptance.test_large_reports import document_in
from tests.torture.visits.asking import Asker, Told
from tests.torture.visits.moments import Moment, Moments
from tests.visits.portal import Portal as Rebuilt

DOCUMENT_BYTES = 700_000
DAY = dt.date(2026, 1, 5)


@dataclass
class Laboratory:
    """Sends reports of one patient with their documents, each until it is acknowledged."""

    port: int
    of: str
    patient_id: str
    mrn: str
    told: Told
    moments: Moments
    whims: random.Random

    async def live(self, enough: asyncio.Event) -> None:
        number = 0
        while not enough.is_set():
            message = large_report(0, f"axe{number}", size_bytes=DOCUMENT_BYTES).replace(
                b"M00000000", self.mrn.encode()
            )
            number += 1
            while not await self._sent(message):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
            self.told.documents[ER7(message.decode()).get("OBR", 3)] = hashlib.sha256(document_in(message)).hexdigest()

    async def _sent(self, message: bytes) -> bool:
        """Whether it was acknowledged. In two parts, so that the half of it may be all that arrives."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            framed = START + message + END
            writer.write(framed[: len(framed) // 2])
            await writer.drain()
            await asyncio.sleep(self.whims.uniform(0, 0.02))
            writer.write(framed[len(framed) // 2 :])
            self.moments.now(Moment.DOCUMENT)
            await writer.drain()
            answer = await asyncio.wait_for(read_frame(reader), 20)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return False
        finally:
            writer.close()
        return answer is not None and ER7(answer.decode()).get("MSA", 1) == "AA"


@dataclass
class Receiver:
    """Takes every delivery, and its time before it says so."""

    moments: Moments
    whims: random.Random
    seqs: list[int] = field(default_factory=list)
    runner: web.AppRunner | None = None

    async def start(self) -> str:
        """Listen; the URL."""
        app = web.Application()
        app.router.add_post("/", self._take)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self.runner.addresses[0][1]}/"

    async def _take(self, request: web.Request) -> web.Response:
        self.seqs.append(json.loads(await request.read())["seq"])
        self.moments.now(Moment.PUSHED)
        await asyncio.sleep(self.whims.uniform(0, 0.02))
        return web.Response(status=204)

    async def close(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()


@dataclass
class Reader:
    """Follows the feed from its beginning, and rebuilds everything from it."""

    asker: Asker
    rebuilt: Rebuilt = field(default_factory=lambda: Rebuilt("portal"))

    async def live(self, enough: asyncio.Event) -> None:
        while not enough.is_set():
            await self.read()
            await asyncio.sleep(0.3)

    async def read(self) -> None:
        """Whatever is new."""
        while True:
            page = await self.asker.get("/v1/events", after=self.rebuilt.cursor, limit=100)
            for event in page["items"]:
                self.rebuilt.take(cast(Any, SimpleNamespace(**event)))
            if page["next"] == self.rebuilt.cursor:
                return
            self.rebuilt.cursor = page["next"]


@dataclass
class Accountant:
    """Sends the merchant's bill of a day that nobody else has anything to do with, and has it compared."""

    asker: Asker
    of: str
    lines: int

    @property
    def numbers(self) -> list[str]:
        """Trades that the merchant alone knows."""
        return [f"B{n:05d}" for n in range(self.lines)]

    async def live(self, enough: asyncio.Event) -> None:
        rows = [f"payment,test-pay,{number},1" for number in self.numbers]
        total = f"total,,{self.lines},{self.lines}"
        bill = "\n".join(["kind,channel,trade_no,amount_fen", *rows, total]).encode()
        while True:
            put = await self.asker.ask("PUT", f"{self.of}/merchant-bills/{DAY}/plain", bill)
            assert put.status == 200, put.data
            self.asker.told.differences = await self._compared()
            if enough.is_set():
                return

    async def _compared(self) -> list[tuple[str, str]] | None:
        found: list[tuple[str, str]] = []
        path = f"{self.of}/reconciliations/{DAY}"
        page = (await self.asker.ask("GET", path, limit=1000, during=Moment.COMPARING)).body
        while True:
            found += [(one["kind"], one["trade_no"]) for one in page["differences"]]
            if page["next"] is None:
                return found
            answer = await self.asker.ask("GET", path, limit=1000, cursor=page["next"])
            if answer.status != 200:
                return None  # it was compared anew meanwhile
            page = answer.body


def laboratory_port(site: Installation) -> int:
    """Where soap-demo's laboratory is heard."""
    text = site.config.read_text(encoding="utf-8")
    _, _, table = text.partition("[hospital.soap-demo.connector.lis]")
    return int(next(line for line in table.splitlines() if line.startswith("listen_port")).partition("=")[2])
