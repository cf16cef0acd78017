"""A PostgreSQL of our own to measure with, from the binaries of this machine: durable, with its defaults, gone afterwards.

Run by root it runs as another user, because PostgreSQL refuses to be root. Only the memory is raised above the defaults, which
are meant for machines of long ago; nothing is relaxed: fsync, full_page_writes and synchronous_commit stay on.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from loadtest.bench.processes import end, last_words, on_cores
from loadtest.ports import free_port

READY_WITHIN_S = 30.0
SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB", "max_connections": "100", "listen_addresses": "127.0.0.1"}


class PostgresMissing(Exception):
    """There is no PostgreSQL to measure with; the text says what to install."""


@dataclass(frozen=True)
class Server:
    """A running server. `pid` is the postmaster's, until it is restarted."""

    port: int
    pid: int
    version: str
    restart: Callable[[], Awaitable[None]]
    """Stop it at once (SIGQUIT, "immediate": no checkpoint, as after a crash) and start it again."""

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    async def run(self, sql: str) -> None:
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def create_database(self, name: str) -> str:
        """A fresh database of this name; returns its URL."""
        await self.run(f'CREATE DATABASE "{name}"')
        return self.url(name)


@asynccontextmanager
async def running(cores: Collection[int]) -> AsyncIterator[Server]:
    """A server on these cores. Raises PostgresMissing."""
    binaries, account = find_binaries(), _account()
    folder = Path(tempfile.mkdtemp(prefix="hisbridge-bench-pg-"))
    identity: dict[str, Any] = {}
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    processes: list[asyncio.subprocess.Process] = []
    try:
        await _initialise(binaries, folder / "data", identity)
        port = free_port()
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]

        async def launch() -> str:
            with (folder / "log").open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    str(binaries / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder),
                    *settings, stdout=log, stderr=log, cwd="/", env=_environment(), preexec_fn=on_cores(cores),
                    **identity,
                )  # fmt: skip
            processes.append(process)
            return await _until_ready(port, process, folder / "log")

        async def restart() -> None:
            processes[-1].send_signal(signal.SIGQUIT)
            await processes[-1].wait()
            await launch()

        version = await launch()
        yield Server(port, processes[-1].pid, version, restart)
    finally:
        for process in processes:
            await _stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def find_binaries() -> Path:
    """The folder of initdb and postgres: Debian's newest, else the one of PATH. Raises PostgresMissing."""
    versions = Path("/usr/lib/postgresql")
    numbered = [v for v in versions.iterdir() if v.name.isdigit()] if versions.is_dir() else []
    candidates = [v / "bin" for v in sorted(numbered, key=lambda v: int(v.name), reverse=True)]
    if (found := shutil.which("initdb")) is not None:
        candidates.append(Path(found).resolve().parent)
    for folder in candidates:
        if all((folder / name).exists() for name in ("initdb", "postgres")):
            return folder
    raise PostgresMissing("PostgreSQL is not installed (Debian: apt-get install postgresql)")


def _account() -> pwd.struct_passwd | None:
    """Whom to run as: ourselves, or somebody harmless when we are root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresMissing("run by root, and there is no user postgres or nobody to run the server as")


async def _initialise(binaries: Path, data: Path, identity: dict[str, Any]) -> None:
    process = await asyncio.create_subprocess_exec(
        str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, cwd="/", env=_environment(), **identity,
    )  # fmt: skip
    _, complained = await process.communicate()
    if process.returncode != 0:
        raise PostgresMissing(f"initdb failed: {complained.decode(errors='replace').strip()[-300:]}")


def _environment() -> dict[str, str]:
    """Ours without PG*: a developer's settings must not reach this server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


async def _until_ready(port: int, process: asyncio.subprocess.Process, log: Path) -> str:
    """Wait until it answers; returns its version."""
    ends = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < ends and process.returncode is None:
        try:
            connection = await asyncpg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", timeout=5)
        except (OSError, asyncpg.CannotConnectNowError):
            await asyncio.sleep(0.05)
            continue
        try:
            return str(await connection.fetchval("SHOW server_version"))
        finally:
            await connection.close()
    raise PostgresMissing(f"the server did not start: {last_words(log)}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(2)  # SIGINT, fast shutdown: ends its sessions
        try:
            async with asyncio.timeout(20):
                await process.wait()
        except TimeoutError:
            await end(process)
