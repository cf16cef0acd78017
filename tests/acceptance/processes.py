"""The processes of an installation on PostgreSQL, as an operator sees them: /proc, signals, the log, the leases."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.acceptance.installation import START_PATIENCE_S, Installation, ServiceProcess, lay_out, postgres_store, until
from tests.postgres import PostgresServer

WORKERS = ("api-1", "api-2")


def children_of(pid: int) -> dict[str, int]:
    """The children of a parent by their name (`api-1`, `sync-0`), from the command line that /proc shows."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
        except FileNotFoundError:
            continue
        if "--role" in words:
            found[f"{words[words.index('--role') + 1]}-{words[words.index('--worker') + 1]}"] = int(child)
    return found


def is_running(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """These processes stand still: their sockets stay open, and they do nothing."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            if is_running(pid):
                os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def laid_out(
    folder: Path,
    server: PostgresServer,
    *,
    tracing: Mapping[str, Any] | None = None,
    hospital: Mapping[str, Any] | None = None,
    seats: int = 5,
    layout: Mapping[str, Any] | None = None,
    **service_table: Any,
) -> AsyncIterator[Installation]:
    """An installation on PostgreSQL with two API workers. `hospital`, `seats` and more in `layout` as for `lay_out`."""
    given = {"hospital": hospital, "seats": seats, "tracing": tracing, **(layout or {})}
    table = {"workers": len(WORKERS), **service_table}
    async with postgres_store(server) as store, lay_out(folder, store=store, service_table=table, **given) as site:
        yield site


@asynccontextmanager
async def another_node(site: Installation) -> AsyncIterator[ServiceProcess]:
    """A second node of the same installation: the same settings, other addresses."""
    log = site.folder / f"node-{time.monotonic_ns()}.log"
    with log.open("wb") as stream:
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service", "--config", str(site.config), stdout=stream, stderr=stream
        )
    node = ServiceProcess(started, log)
    try:
        await node.event("ready", within_s=START_PATIENCE_S)
        yield node
    finally:
        if started.returncode is None:
            pids = children_of(started.pid).values()
            await node.kill()
            await all_ended(*pids)


async def all_ended(*pids: int) -> None:
    """Wait until none of these processes runs."""

    async def running() -> list[int]:
        return [pid for pid in pids if is_running(pid)]

    await until(running, lambda left: not left, what="the end of every process")


class Leases:
    """The leases as the store has them, and the store's own clock."""

    def __init__(self, server: PostgresServer, site: Installation) -> None:
        self._server = server
        text = site.config.read_text(encoding="utf-8")
        url = next(line for line in text.splitlines() if line.startswith("url = "))
        self._database = url.strip('"').rpartition("/")[2]

    async def owners(self) -> dict[str, str]:
        """Who holds what now, by hospital."""
        rows = await self._rows(
            "select hospital_id || ' ' || owner from leases"
            " where until_ms > extract(epoch from clock_timestamp()) * 1000 and hospital_id not like '#%'"
        )
        return dict(row.split(" ") for row in rows)

    async def now_ms(self) -> int:
        """The store's clock."""
        [now] = await self._rows("select (extract(epoch from clock_timestamp()) * 1000)::bigint")
        return int(now)

    async def all_held(self, *, without: frozenset[str] = frozenset()) -> dict[str, str]:
        """The owners, once every hospital has one and none of them is in `without`."""
        return await until(
            self.owners,
            lambda held: len(held) == 3 and not without & set(held.values()),
            what="an owner of every hospital",
            within_s=60,
        )

    async def shared(self) -> dict[str, str]:
        """The owners, once every hospital has one and there are two of them."""
        return await until(
            self.owners, lambda held: len(held) == 3 and len(set(held.values())) == 2, what="two owners", within_s=60
        )

    async def _rows(self, sql: str) -> list[str]:
        return (await asyncio.to_thread(self._server.run_sql, sql, database=self._database)).splitlines()
