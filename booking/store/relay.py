"""Waking those who wait in other processes: LISTEN and NOTIFY of PostgreSQL, on one connection of its own.

What was rung here is announced after its commit, and rings the bells of all other processes that share the store. It is not
announced inside the transaction: PostgreSQL commits those that notify one after another under one lock of the whole server,
and a crowd at one hospital would wait for the commits of all others. A notification is a hint that may be lost with its
process or its connection: everything that waits keeps a poll beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from booking.allowance import Allowance
from booking.store.engine import Store
from monitoring.logs import get_logger

log = get_logger("relay")

CHANNEL = "hisbridge"
PAYLOAD_BYTES = 7_900  # PostgreSQL takes less than 8000
MOST_PENDING = 10_000  # topics that wait for a connection; what is beyond is left to the polls
CHECK_S = 10.0  # a connection that says nothing for so long is asked whether it lives
ANSWER_S = 5.0
# Messages, each a commit and a wake-up of every process: at once while there are few, and beside a crowd all topics together.
TOLD_PER_S, TOLD_BURST = 20.0, 20
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 5.0

_ANNOUNCE = "select pg_notify($1, payload) from unnest($2::text[]) payload"
_GONE = (OSError, DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError)  # a TimeoutError is an OSError


class Relay:
    """Between the bell of this process and those of the others. Does nothing on SQLite, where there are no others."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: set[str] = set()
        self._awake = asyncio.Event()
        self._allowance = Allowance(TOLD_PER_S, TOLD_BURST, time.monotonic())
        self._task: asyncio.Task[None] | None = None
        self.connected = asyncio.Event()

    async def start(self) -> None:
        """Begin; returns at once. A server that is away is tried again."""
        if self._store.dialect != "sqlite":
            self._store.announce = self.announce
            self._task = asyncio.create_task(self._run(), name="relay")

    async def close(self) -> None:
        """Stop announcing and listening."""
        self._store.announce = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def announce(self, topics: Collection[str]) -> None:
        """Tell the other processes, soon and in one message with whatever else there is to tell."""
        if len(self._pending) < MOST_PENDING:
            self._pending.update(topics)
        self._awake.set()

    async def _run(self) -> None:
        pause_s = FIRST_BACKOFF_S
        while True:
            try:
                async with self._connection() as connection:
                    pause_s = FIRST_BACKOFF_S
                    await self._pass_on(connection)
            except _GONE as e:
                log.warning("relay_lost", reason=type(e).__name__)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_BACKOFF_S)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        """A connection that listens. A commit that only notifies need not reach the disk."""
        engine = create_async_engine(
            self._store.url.set(drivername="postgresql+asyncpg"),
            poolclass=NullPool,
            connect_args={"timeout": ANSWER_S, "server_settings": {"synchronous_commit": "off"}},
        )
        try:
            async with engine.connect() as lent:
                connection: Any = (await lent.get_raw_connection()).driver_connection
                connection.add_termination_listener(lambda _: self._awake.set())
                await connection.add_listener(CHANNEL, self._hear)
                self.connected.set()
                try:
                    yield connection
                finally:
                    self.connected.clear()
                    with contextlib.suppress(*_GONE):
                        await connection.remove_listener(CHANNEL, self._hear)
        finally:
            await engine.dispose()

    async def _pass_on(self, connection: Any) -> None:
        while not connection.is_closed():
            self._awake.clear()
            if self._pending:
                await asyncio.sleep(self._allowance.wait_s(time.monotonic()))
                self._allowance.take(time.monotonic())
                topics, self._pending = self._pending, set()
                await connection.execute(_ANNOUNCE, CHANNEL, list(pack(topics)), timeout=ANSWER_S)
                continue
            try:
                async with asyncio.timeout(CHECK_S):
                    await self._awake.wait()
            except TimeoutError:
                await connection.execute("select 1", timeout=ANSWER_S)

    def _hear(self, connection: Any, sender: int, _channel: str, payload: str) -> None:
        if sender == connection.get_server_pid():
            return  # rung here before it was announced
        for topic in payload.split("\n"):
            self._store.bell.ring(topic)


def pack(topics: Iterable[str]) -> Iterator[str]:
    """Payloads of at most PAYLOAD_BYTES that hold these topics, one a line."""
    lines: list[str] = []
    used = 0
    for topic in topics:
        size = len(topic.encode()) + 1
        if lines and used + size > PAYLOAD_BYTES:
            yield "\n".join(lines)
            lines, used = [], 0
        lines.append(topic)
        used += size
    if lines:
        yield "\n".join(lines)
