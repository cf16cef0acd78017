"""What runs during a run, set up as an operator would: stores, hospitals, the service, Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from loadtest.bench import postgres
from loadtest.bench.installation import until_ready
from loadtest.bench.processes import Cores, divide_cores, end, output_of, start
from loadtest.crowd.plan import CLIENTS
from loadtest.peak.hospitals import Hospitals
from loadtest.peak.people import bind_people
from loadtest.peak.profiles import POSTGRESQL, SQLITE, Profile
from loadtest.peak.scraping import Pages, Prometheus
from loadtest.peak.settings import Ports, write_settings, zone_of
from loadtest.ports import free_port

PORTAL, SCALPER = CLIENTS


@dataclass(frozen=True)
class Stage:
    """Everything that runs during a run."""

    profile: Profile
    folder: Path
    session: aiohttp.ClientSession
    hospitals: Hospitals
    service: asyncio.subprocess.Process
    ports: Ports
    keys: dict[str, str]
    patients: dict[str, list[str]]
    opens_at: float
    zone: str
    pages: Pages
    prometheus: Prometheus | None
    database: postgres.Server | None
    cores: Cores

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports.api}"

    def of(self, hospital_id: str, path: str) -> str:
        return f"{self.api}/v1/hospitals/{hospital_id}{path}"

    def key(self, client: str = PORTAL) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[client]}"}


@contextlib.asynccontextmanager
async def set_stage(profile: Profile, folder: Path) -> AsyncIterator[Stage]:
    """Start everything; end it in the reverse order."""
    cores = divide_cores(os.sched_getaffinity(0))
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30), connector=aiohttp.TCPConnector(limit=64))
        )
        urls, database = await _stores(profile, folder, stack)
        inbound = {h.id: free_port() for h in profile.hospitals if h.protocol == "hl7"}
        opens_at, zone = time.time() + 60, zone_of(time.time())  # the minute is settled when all that is slow is done
        placeholder = Ports(1, 2, {h.id: 3 for h in profile.hospitals}, dict.fromkeys(inbound, 4), {})
        write_settings(folder, profile, placeholder, urls=urls, opens_at=opens_at, zone=zone)
        keys = await _prepare(folder)
        patients = {h.id: await bind_people(folder, urls[0], h.id, PORTAL, profile.people) for h in profile.hospitals}
        hospitals = Hospitals(session)
        stack.push_async_callback(hospitals.close)
        await hospitals.open(profile, inbound, zone)
        opens_at = math.ceil((time.time() + profile.ready_s - profile.starts_s) / 60) * 60.0
        ports = Ports(
            free_port(),
            free_port(),
            {name: s.port for name, s in hospitals.running.items()},
            inbound,
            {name: s.wsdl for name, s in hospitals.running.items()},
        )
        config = write_settings(folder, profile, ports, urls=urls, opens_at=opens_at, zone=zone)
        log = folder / "run" / "service.log"
        server_cores = cores.server if profile.engine == SQLITE else ()
        service = await start("-m", "service", "--config", str(config), cores=server_cores, log=log)
        stack.push_async_callback(end, service)
        many = profile.engine == POSTGRESQL
        await until_ready(ports.admin, (), service, log)
        prometheus = await Prometheus.start(folder / "prometheus", ports.admin, session, many=many)
        if prometheus is not None:
            stack.push_async_callback(prometheus.stop)
        yield Stage(
            profile, folder, session, hospitals, service, ports, keys, patients, opens_at, zone,
            Pages(session, ports.admin, many=many), prometheus, database, cores,
        )  # fmt: skip


async def _stores(
    profile: Profile, folder: Path, stack: contextlib.AsyncExitStack
) -> tuple[tuple[str, str], postgres.Server | None]:
    if profile.engine == SQLITE:
        return (f"sqlite:///{folder}/hisbridge.db", f"sqlite:///{folder}/messages.db"), None
    server = await stack.enter_async_context(postgres.running(()))
    return (await server.create_database("hisbridge"), await server.create_database("messages")), server


async def _prepare(folder: Path) -> dict[str, str]:
    """Secrets, migrated stores and a key for each client, by the way of an operator."""
    config = str(folder / "hisbridge.toml")
    await _operate("secrets", "--data-key", str(folder / "data.key"), "--digest-key", str(folder / "digest.key"))
    await _operate("migrate", "--config", config)
    return {client: (await _operate("keys", "add", client, "--config", config)).strip() for client in CLIENTS}


async def _operate(*words: str) -> str:
    return await output_of(sys.executable, "-m", "cli", *words, cores=(), within_s=120)
