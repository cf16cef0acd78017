"""A hospital sends without end, connections break, the service is killed: nothing is lost, nothing doubled, memory stays flat.

`make torture` sends a million messages (MESSAGES), `make test` a few thousand.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import func, select

import service
from booking.records import person_from_row
from booking.secrets import new_data_key, new_digest_key
from booking.store.tables import persons, registrations, reports
from loadtest.ports import free_port
from scheduler_sync.messages.tables import messages
from tests.acceptance.installation import START_PATIENCE_S, ServiceProcess, until
from tests.torture.flood import Flood

MESSAGES = int(os.environ.get("MESSAGES", "4000"))
SEED = int(os.environ.get("SEED", "1"))
LINES = 8
KILLS = 2
ROUGH = 0.2  # of the messages: the service is killed while these come
SAMPLE_S = 0.05
APPLIED_WITHIN_S = 120.0
PAGE_CACHES_KB = 2 * 65_536  # of the writers of both databases (booking/store/here.py): they fill as the files grow
GROWTH_KB = PAGE_CACHES_KB + 16 * 1024  # from the first quarter to the last
LATE_GROWTH_KB = 32 * 1024  # from the third to the last: a leak of 150 bytes a message is more in a million

SETTINGS = """
[service]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:{admin_port}"
[store]
url = "sqlite:///{folder}/hisbridge.db"
messages_url = "sqlite:///{folder}/messages.db"
[secrets]
data_key_file = "data.key"
digest_key_file = "digest.key"
[hospital.flood]
name = "市第一医院"
mode = "live"
[hospital.flood.connector.main]
protocol = "hl7v2"
profile = "hl7v2"
listen_port = {port}
"""

pytestmark = pytest.mark.timeout(4 * 3600)  # only ends a run that would never end


@dataclass
class Site:
    """One hospital and its service, which can be killed and started again."""

    folder: Path
    port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)
    process: ServiceProcess | None = None
    resident_kb: list[tuple[int, int]] = field(default_factory=list)
    """Messages acknowledged, and the memory of the process then."""

    @property
    def config(self) -> Path:
        return self.folder / "hisbridge.toml"

    def lay_out(self) -> None:
        (self.folder / "data.key").write_text(new_data_key())
        (self.folder / "digest.key").write_text(new_digest_key())
        text = SETTINGS.format(folder=self.folder.as_posix(), port=self.port, admin_port=self.admin_port)
        self.config.write_text(text, encoding="utf-8")

    async def start(self) -> None:
        log = self.folder / f"service-{time.monotonic_ns()}.log"
        with log.open("wb") as stream:
            started = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "service", "--config", str(self.config), stdout=stream, stderr=stream
            )
        self.process = ServiceProcess(started, log)
        await self.process.event("ready", within_s=START_PATIENCE_S)

    async def kill(self) -> None:
        if self.process is not None and self.process.process.returncode is None:
            await self.process.kill()

    async def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        assert await self.process.exit_code() == 0

    def sample(self, acknowledged: int) -> None:
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.process.pid}/statm").read_text().split()[1])
        self.resident_kb.append((acknowledged, pages * os.sysconf("SC_PAGE_SIZE") // 1024))

    async def counted(self) -> Counter[str]:
        """Messages by what became of them since the process was started."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.admin_port}/metrics") as answer,
        ):
            text = await answer.text()
        found: Counter[str] = Counter()
        for line in text.splitlines():
            if line.startswith("hisbridge_inbound_messages_total{"):
                head, _, value = line.rpartition(" ")
                found[head.partition('result="')[2].partition('"')[0]] += round(float(value))
        return found

    @asynccontextmanager
    async def store(self, *, of_messages: bool = False) -> AsyncIterator[Any]:
        async with service.open_store(service.read_settings(self.config), messages=of_messages) as store:
            yield store

    async def applied(self) -> None:
        """Wait until everything that is stored is applied."""

        async def left() -> int:
            async with self.store(of_messages=True) as store, store.read("flood") as tx:
                return await _count(tx, messages, messages.c.state == "received")

        await until(left, lambda count: count == 0, what="messages that wait", within_s=APPLIED_WITHIN_S)


async def _count(tx: Any, table: Any, *where: Any) -> int:
    row = await tx.first(select(func.count().label("n")).select_from(table).where(*where))
    return int(row["n"])


async def send(site: Site, floods: Sequence[Flood], begin: int, end: int, *, kills: int = 0) -> None:
    """Every line sends from `begin` to `end`; the service is killed so often, when equal parts of it are acknowledged."""
    stop = threading.Event()
    before = sum(flood.acknowledged for flood in floods)
    threads = [flood.start(begin, end, stop) for flood in floods]
    try:
        killed = 0
        while any(thread.is_alive() for thread in threads):
            await asyncio.sleep(SAMPLE_S)
            done = sum(flood.acknowledged for flood in floods) - before
            if killed < kills and done >= len(floods) * (end - begin) * (killed + 1) / (kills + 1):
                await site.kill()
                await site.start()
                killed += 1
            site.sample(before + done)
        assert killed == kills, "everything was sent before the service could be killed"
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    for flood in floods:
        if flood.failure is not None:
            raise flood.failure


async def check_store(site: Site, floods: Sequence[Flood], total: int) -> None:
    """What is stored is exactly what was acknowledged, and what is known is what the last message said."""
    async with site.store(of_messages=True) as store, store.read("flood") as tx:
        assert await _count(tx, messages) == total
        assert await _count(tx, messages, messages.c.state == "applied") == total
        row = await tx.first(select(func.count(messages.c.control_id.distinct()).label("n")))
        assert row["n"] == total
    async with site.store() as store, store.read("flood") as tx:
        people = [person_from_row(tx, row) for row in await tx.all(select(persons))]
        assert len(people) == len({person.id for person in people})
        wanted = {mrn: phone for flood in floods for mrn, phone in flood.known.phones.items()}
        assert {person.record.mrn: person.record.phone for person in people} == wanted
        assert len(people) == len(wanted)
        visits = await tx.all(select(registrations.c.his_id, registrations.c.status))
        cancelled = {visit: yes for flood in floods for visit, yes in flood.known.cancelled.items()}
        assert {row["his_id"]: row["status"] == "released" for row in visits} == cancelled
        assert len(visits) == len(cancelled)
        told = await tx.all(select(reports.c.version, func.count().label("n")).group_by(reports.c.version))
        assert [(row["version"], row["n"]) for row in told] == [(1, sum(len(f.known.reports) for f in floods))]


def check_memory(site: Site, begin: int, end: int) -> str:
    """The process is about as large in the last quarter of the stream as before."""
    quarter = (end - begin) / 4

    def size_kb(number: int) -> float:
        """The median of one quarter of the stream, of the first without its beginning."""
        starts = begin + quarter * (number if number else 0.25)
        found = [kb for done, kb in site.resident_kb if starts <= done <= begin + quarter * (number + 1)]
        assert found, f"no look at the memory in quarter {number + 1}"
        return statistics.median(found)

    first, third, last = size_kb(0), size_kb(2), size_kb(3)
    told = (
        f"memory of the quarters: {first / 1024:.0f}, {size_kb(1) / 1024:.0f}, {third / 1024:.0f}, {last / 1024:.0f} MB"
    )
    assert last - first <= GROWTH_KB, told
    assert last - third <= LATE_GROWTH_KB, told
    return told


async def test_nothing_is_lost_or_doubled_when_a_hospital_sends_without_end(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.lay_out()
    each = MESSAGES // LINES
    rough = round(each * ROUGH)
    floods = [Flood(site.port, line, SEED) for line in range(LINES)]
    try:
        await site.start()
        await send(site, floods, 0, rough, kills=KILLS)
        await site.applied()
        before = await site.counted()
        again, began_s = sum(flood.again for flood in floods), time.monotonic()
        await send(site, floods, rough, each)
        took_s = time.monotonic() - began_s
        await site.applied()
        became = await site.counted() - before
        # A resent one is a duplicate; what was cut may have been stored or not.
        resent = sum(flood.again for flood in floods) - again
        assert became["applied"] == (each - rough) * LINES
        assert became["duplicate"] >= resent
        assert set(became) <= {"applied", "duplicate", "refused"}, became
        await site.stop()
    finally:
        await site.kill()
        for flood in floods:
            flood.close()
    await check_store(site, floods, each * LINES)
    memory = check_memory(site, rough * LINES, each * LINES)
    cuts, answers = sum(flood.cuts for flood in floods), sum((flood.answers for flood in floods), Counter())
    print(  # noqa: T201
        f"{each * LINES} messages over {LINES} connections, {cuts} cuts, {KILLS} kills, answers {dict(answers)};"
        f" {(each - rough) * LINES / took_s:.0f} messages/s; {memory}"
    )
