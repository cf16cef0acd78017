"""An installation of the program to measure: its settings, its keys, its filled stores, and the processes that run it.

Everything goes by the way of an operator: settings file, `hisbridge secrets | migrate | keys add`, and signals. The settings are
the program's defaults but for the few lines below, each with its reason.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.bench.fill.layout import SLOTS_A_SCHEDULE, ZONE, Layout, uuid7
from loadtest.bench.fill.stores import Database, open_database
from loadtest.bench.processes import (
    Cores,
    ProcessFailed,
    accepts,
    end,
    first_line,
    last_words,
    output_of,
    start,
    until_quiet,
)
from loadtest.ports import free_port

READY_WITHIN_S = 60.0
FILL_WITHIN_S = 3600.0  # minutes on an idle machine, but nobody is helped by giving up on a busy one
HIS_LATENCY_MS = 200.0
HIS_CONCURRENCY = 4

# drain_s: what is in flight at the end of a round has been answered; nobody waits for the HIS.
# lock_wait_s: at 20 locks a second most of the crowd waits for minutes; expiring them is not what is measured.
# sync_every_s: the simulated HIS lists no openings; asking it again shows nothing.
SETTINGS = """\
[service]
listen = "127.0.0.1:{port}"
admin_listen = "127.0.0.1:{admin_port}"
drain_s = 1
{workers}

[store]
url = "{url}"
messages_url = "{messages_url}"

[secrets]
data_key_file = "data.key"
digest_key_file = "digest.key"

[hospital.bench]
name = "基准医院"
mode = "live"
reserve_by = "lock"
his_concurrency = {his_concurrency}
lock_wait_s = 3600
sync_every_s = 3600
[hospital.bench.connector.main]
protocol = "hl7v2"
profile = "hl7v2_demo@1"
host = "127.0.0.1"
port = {his_port}
listen_host = "127.0.0.1"
listen_port = {mllp_port}
"""

# A release half a day ahead, for which people gather all the while.
WAITING_ROOM = """\
[hospital.bench.release]
time = "{opens:%H:%M}"
days_ahead = 1
[hospital.bench.waiting_room]
opens_before_s = 86400
"""


_CHANGED = (
    "bookings", "outbox", "events", "idempotency_keys", "registrations", "reports", "report_documents", "persons",
    "person_mrns", "slots", "schedules", "fragments", "store_clock",
)  # fmt: skip
_TOLD = ("messages", "documents", "document_pieces", "message_notes", "message_links", "message_totals", "exchanges")
_ROOM = ("waiting_steps", "waiting_tickets", "waiting_rooms")


@dataclass(frozen=True)
class Running:
    """The program while it runs. `pid` is the parent of whatever it starts."""

    port: int
    mllp_port: int
    pid: int


@dataclass(frozen=True)
class Installation:
    """A filled installation in a folder of its own; it runs only inside `running`."""

    folder: Path
    url: str
    messages_url: str
    layout: Layout
    key: str
    cores: Cores
    room: bool = False  # whether its hospital has a waiting room, which people can join while it runs

    @property
    def database(self) -> Database:
        return open_database(self.url)

    @property
    def messages(self) -> Database:
        return open_database(self.messages_url)

    @asynccontextmanager
    async def running(self, *, quiet: bool = True) -> AsyncIterator[Running]:
        """The simulated HIS and the program, ready and (`quiet`) done with starting; ended afterwards. Raises ProcessFailed."""
        cores = self.cores
        his = await start("-m", "loadtest.bench.his", "--latency-ms", f"{HIS_LATENCY_MS}", cores=cores.load)
        program: asyncio.subprocess.Process | None = None
        try:
            his_port = json.loads(await first_line(his, "the simulated HIS"))["port"]
            port, admin_port, mllp_port = free_port(), free_port(), free_port()
            config = write_settings(
                self.folder, self.url, self.messages_url, port, admin_port, his_port, mllp_port, room=self.room
            )
            log = self.folder / "service.log"
            program = await start("-m", "service", "--config", str(config), cores=cores.server, log=log)
            await until_ready(admin_port, (port, mllp_port), program, log)
            if self.room:
                await until_gathering(port, self.layout.hospital_id, self.key)
            if quiet:
                await until_quiet(program.pid)
            yield Running(port, mllp_port, program.pid)
        finally:
            if program is not None:
                await end(program)
            await end(his)

    async def count_bookings(self) -> int:
        """How many bookings are stored."""
        return int((await self.database.rows("SELECT count(*) FROM bookings"))[0][0])

    async def count_tickets(self) -> int:
        """How many places in waiting rooms are stored."""
        return int((await self.database.rows("SELECT count(*) FROM waiting_tickets"))[0][0])

    async def unreflected(self) -> int:
        """What the crowd's slots count as sold and not yet seen by the HIS."""
        slots = [self.layout.slot_id(s) for s in self.layout.slots_of(self.layout.crowd_day)]
        sql = f"SELECT sum(unreflected) FROM slots WHERE hospital_id = ? AND id IN ({', '.join('?' * len(slots))})"
        return int((await self.database.rows(sql, self.layout.hospital_id, *slots))[0][0])

    async def restore(self) -> None:
        """Take back what the crowd and the HIS have done, so that the next round meets the same store.

        The program must not run. What was filled is older than the layout's instant, ids begin with their time, and there
        were no messages, nor registrations and reports told by the HIS.
        """
        layout, hospital = self.layout, self.layout.hospital_id
        since = uuid7(layout.now_ms, 0)[:13]
        schedules = sorted({layout.schedule_id(s // SLOTS_A_SCHEDULE) for s in layout.slots_of(layout.crowd_day)})
        of_crowd = f"hospital_id = ? AND {{}} IN ({', '.join('?' * len(schedules))})"
        await self.database.change(
            *(
                (f"DELETE FROM {table} WHERE hospital_id = ? AND id >= ?", (hospital, since))
                for table in ("outbox", "events", "bookings", "persons")
            ),
            ("DELETE FROM person_mrns WHERE hospital_id = ? AND person_id >= ?", (hospital, since)),
            ("DELETE FROM idempotency_keys WHERE hospital_id = ? AND created_ms > ?", (hospital, layout.now_ms)),
            ("DELETE FROM registrations WHERE hospital_id = ?", (hospital,)),
            *((f"DELETE FROM {table} WHERE hospital_id = ?", (hospital,)) for table in ("reports", "report_documents")),
            *((f"DELETE FROM {table} WHERE hospital_id = ?", (hospital,)) for table in _ROOM),
            ("UPDATE store_clock SET room_ms = 0 WHERE hospital_id = ?", (hospital,)),
            (f"UPDATE slots SET unreflected = 0 WHERE {of_crowd.format('schedule_id')}", (hospital, *schedules)),
            (f"UPDATE schedules SET taken = 0 WHERE {of_crowd.format('id')}", (hospital, *schedules)),
        )
        await self.database.tidy(*_CHANGED, *_ROOM)
        await self.messages.change(*((f"DELETE FROM {table} WHERE hospital_id = ?", (hospital,)) for table in _TOLD))
        await self.messages.tidy(*_TOLD)


async def install(
    folder: Path,
    url: str,
    messages_url: str,
    cores: Cores,
    *,
    slots: int,
    bookings: int,
    crowd: int,
    room: bool = False,
) -> Installation:
    """Make an installation in an empty folder and fill its store. Raises ProcessFailed."""
    keys = folder / "data.key", folder / "digest.key"
    config = write_settings(folder, url, messages_url, 1, 2, 3, 4)
    await _operate("secrets", "--data-key", str(keys[0]), "--digest-key", str(keys[1]))
    await _operate("migrate", "--config", str(config))
    layout = Layout(slots=slots, bookings=bookings, crowd=crowd, now_ms=time.time_ns() // 1_000_000)
    key = (await _operate("keys", "add", layout.client_id, "--config", str(config))).strip()
    # A process of its own, so that a run can be ended while it fills.
    await output_of(
        sys.executable, "-m", "loadtest.bench.fill", "--url", url, "--data-key", str(keys[0]), "--digest-key", str(keys[1]),
        "--slots", f"{slots}", "--bookings", f"{bookings}", "--crowd", f"{crowd}", "--now-ms", f"{layout.now_ms}",
        "--hospital", layout.hospital_id, "--client", layout.client_id, cores=frozenset(), within_s=FILL_WITHIN_S,
    )  # fmt: skip
    return Installation(folder, url, messages_url, layout, key, cores, room)


def write_settings(
    folder: Path,
    url: str,
    messages_url: str,
    port: int,
    admin_port: int,
    his_port: int,
    mllp_port: int,
    *,
    room: bool = False,
) -> Path:
    """The settings file of an installation."""
    config = folder / "hisbridge.toml"
    text = SETTINGS.format(
        port=port,
        admin_port=admin_port,
        url=url,
        messages_url=messages_url,
        his_concurrency=HIS_CONCURRENCY,
        his_port=his_port,
        mllp_port=mllp_port,
        # As many as the baseline has; SQLite has one process for everything.
        workers="" if url.startswith("sqlite") else "workers = 1",
    )
    if room:
        text += WAITING_ROOM.format(opens=dt.datetime.now(ZONE) + dt.timedelta(hours=12))
    config.write_text(text, encoding="utf-8")
    return config


async def _operate(*words: str) -> str:
    return await output_of(sys.executable, "-m", "cli", *words, cores=frozenset(), within_s=120)


async def until_ready(admin_port: int, ports: tuple[int, ...], program: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until the program says that it is ready, and every listener that is asked in a round is there."""
    ends = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < ends and program.returncode is None:
        ready = await asyncio.to_thread(_is_ready, f"http://127.0.0.1:{admin_port}/readyz")
        if ready and all(map(accepts, ports)):
            return
        await asyncio.sleep(0.05)
    raise ProcessFailed(f"the program did not become ready: {last_words(log)}")


async def until_gathering(port: int, hospital_id: str, key: str) -> None:
    """Wait until the waiting room can be joined. Raises ProcessFailed."""
    url = f"http://127.0.0.1:{port}/v1/hospitals/{hospital_id}/waiting-room"
    ask = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    ends = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < ends:
        if (await asyncio.to_thread(_json, ask))["state"] == "gathering":
            return
        await asyncio.sleep(0.05)
    raise ProcessFailed("the waiting room did not open")


def _json(ask: urllib.request.Request) -> dict[str, Any]:
    with urllib.request.urlopen(ask, timeout=5) as response:  # noqa: S310  # our own loopback address
        found: dict[str, Any] = json.loads(response.read())
        return found


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310  # our own loopback address
            return int(response.status) == 200
    except (OSError, urllib.error.URLError):
        return False
