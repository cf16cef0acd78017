"""The store on both engines, on a clock that tests turn.

One migrated original of each database is made per run. SQLite files are copied per test; PostgreSQL databases are emptied and
used again, because making one takes longer than most tests. A test that alters more than rows asks for `spoilt`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from booking.store.crypto import Vault
from booking.store.engine import Store
from booking.store.migrate import SCRIPTS, migrate
from booking.store.tables import metadata
from scheduler_sync.messages.store import SCRIPTS as MESSAGE_SCRIPTS
from scheduler_sync.messages.store import VERSION_TABLE
from scheduler_sync.messages.tables import metadata as message_metadata
from tests.postgres import PostgresServer

ENGINES = ("sqlite", "postgresql")
# 06:00 in Shanghai on a Monday; far from any real day, so that a real clock that slips in is noticed.
BEGIN_MS = round(dt.datetime(2031, 3, 2, 22, tzinfo=dt.UTC).timestamp() * 1000)

_TABLES = {"store": list(metadata.tables), "messages": list(message_metadata.tables)}

UrlOf = Callable[[str], str]


class Wall:
    """A clock that only its test moves. It may be turned back as well."""

    def __init__(self, now_ms: int = BEGIN_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def turn(self, seconds: float) -> None:
        """Move the clock by so many seconds."""
        self.now_ms += round(seconds * 1000)


def make_vault(key_id: str = "k1", byte: int = 1) -> Vault:
    """A vault with keys of no secrecy."""
    return Vault({key_id: bytes([byte]) * 32}, b"d" * 32)


def run_apart(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on a loop of its own in a thread: session fixtures have none."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


async def _migrate_both(url: str, messages_url: str) -> None:
    await migrate(url, SCRIPTS)
    await migrate(messages_url, MESSAGE_SCRIPTS, version_table=VERSION_TABLE)


@pytest.fixture(scope="session")
def sqlite_originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a migrated database of each kind."""
    folder = tmp_path_factory.mktemp("originals")
    run_apart(_migrate_both(f"sqlite:///{folder}/store.db", f"sqlite:///{folder}/messages.db"))
    return folder


@pytest.fixture(scope="session")
def postgres_originals(postgres_server: PostgresServer) -> dict[str, str]:
    """The names of a migrated database of each kind."""
    names = {kind: postgres_server.create_database() for kind in ("store", "messages")}
    run_apart(_migrate_both(*(postgres_server.url(name) for name in names.values())))
    return names


@pytest.fixture(scope="session")
def postgres_pool() -> dict[str, list[str]]:
    """Migrated, empty databases of each kind that no test uses now."""
    return {kind: [] for kind in _TABLES}


@pytest.fixture
def spoilt() -> None:
    """For tests that alter a database's schema or settings: it is thrown away afterwards."""


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The engine that this test runs on; whoever uses it runs on both."""
    return str(request.param)


@pytest.fixture
def database(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[UrlOf]:
    """`database("store")` or `database("messages")` makes a fresh, migrated database and gives its URL."""
    with _databases(engine, tmp_path, request) as url_of:
        yield url_of


@contextmanager
def _databases(engine: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[UrlOf]:
    if engine == "sqlite":
        originals: Path = request.getfixturevalue("sqlite_originals")

        def copy_file(kind: str) -> str:
            return f"sqlite:///{shutil.copy(originals / f'{kind}.db', folder / f'{kind}.db')}"

        yield copy_file
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    names: dict[str, str] = request.getfixturevalue("postgres_originals")
    pool: dict[str, list[str]] = request.getfixturevalue("postgres_pool")
    used: list[tuple[str, str]] = []

    def take_database(kind: str) -> str:
        name = pool[kind].pop() if pool[kind] else server.create_database(template=names[kind])
        used.append((kind, name))
        return server.url(name)

    yield take_database
    for kind, name in used:
        if "spoilt" in request.fixturenames:
            server.drop_database(name)
            continue
        server.run_sql("".join(f"delete from {table};" for table in _TABLES[kind]), database=name)
        pool[kind].append(name)


@asynccontextmanager
async def opened(
    url: str, *, wall: Callable[[], int] | None = None, vault: Vault | None = None
) -> AsyncIterator[Store]:
    """A store that is closed afterwards."""
    store = Store(url, vault or make_vault(), wall_ms=wall)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def unreachable(engine: str, folder: Path) -> AsyncIterator[Store]:
    """A store that nobody can reach: a file in no folder, a port where nobody listens."""
    url = {"sqlite": f"sqlite:///{folder}/no/such/folder.db", "postgresql": "postgresql://nobody@127.0.0.1:1/none"}[
        engine
    ]
    before = set(threading.enumerate())
    async with opened(url) as store:
        yield store
    # A SQLite connection that failed to open ends its thread a little later; it must not outlive the test's loop.
    left = [t for t in set(threading.enumerate()) - before if "_connection_worker" in t.name]
    for thread in left:
        await asyncio.to_thread(thread.join, 10)


@pytest.fixture
def wall() -> Wall:
    """The clock of this test's stores."""
    return Wall()


@pytest.fixture
async def store(database: UrlOf, wall: Wall) -> AsyncIterator[Store]:
    """The booking store, on both engines in turn."""
    async with opened(database("store"), wall=wall) as it:
        yield it


@pytest.fixture
async def messages(database: UrlOf, wall: Wall) -> AsyncIterator[Store]:
    """The message store, on both engines in turn."""
    async with opened(database("messages"), wall=wall) as it:
        yield it
