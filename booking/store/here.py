"""Writes to a SQLite store with their statements on the event loop, for many small ones in a row.

An asynchronous driver hands every statement to a thread and back, which costs several times what the statement does, and beside
a busy loop up to a switch interval each. Here only what waits for the disk, or for another process, leaves the loop. It is for
transactions whose statements are short: whatever scans or carries megabytes belongs into an ordinary `Store.write`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import StaticPool

T = TypeVar("T")


class LoopConnection:
    """As much of SQLAlchemy's AsyncConnection as a `Tx` uses, over a connection that is not asynchronous."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def raw(self) -> sqlite3.Connection:
        """The driver's own, inside this transaction."""
        return _raw(self._connection)

    async def execute(self, statement: Any, params: Any = None) -> CursorResult[Any]:
        return self._connection.execute(statement, params)

    @asynccontextmanager
    async def begin_nested(self) -> AsyncIterator[None]:
        with self._connection.begin_nested():
            yield


def raw_of(connection: object) -> sqlite3.Connection | None:
    """The driver's connection behind a transaction that runs here; None for any other."""
    return connection.raw if isinstance(connection, LoopConnection) else None


class Here:
    """The connection of one store, made at the first use. The store's turn must be held while it is used."""

    def __init__(self, url: URL, pragmas: Sequence[str]) -> None:
        self._engine = create_engine(
            url.set(drivername="sqlite+pysqlite"), poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        self._pragmas = pragmas
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._connection: Connection | None = None

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._beside(self._connection.close)
        await self._beside(self._engine.dispose)
        self._thread.shutdown(wait=False)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[LoopConnection]:
        """A transaction that can write from its first statement on; committed at the end, rolled back by any exception."""
        if self._connection is None:
            self._connection = await self._beside(self._connect)
        connection = self._connection
        try:
            await self._begin(_raw(connection))
            yield LoopConnection(connection)
            await self._beside(connection.commit)
        except (sqlite3.OperationalError, OperationalError):
            # Connect anew next time, which rolls back: one that was opened while the file was read-only stays so for ever.
            self._connection = None
            connection.invalidate()
            connection.close()
            raise
        except BaseException:
            connection.rollback()
            raise

    async def _begin(self, raw: sqlite3.Connection) -> None:
        try:
            raw.execute("begin immediate")
        except sqlite3.OperationalError as e:
            if e.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            # Another process writes, such as a command of the CLI: wait for it, but not on the loop.
            await self._beside(_begin_patiently, raw)

    def _connect(self) -> Connection:
        connection = self._engine.connect()
        raw = _raw(connection)
        raw.isolation_level = None  # the driver must not begin transactions of its own
        for pragma in ("busy_timeout=0", *self._pragmas):
            raw.execute(f"PRAGMA {pragma}")
        return connection

    async def _beside(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)


def _begin_patiently(raw: sqlite3.Connection) -> None:
    raw.execute("PRAGMA busy_timeout=5000")
    try:
        raw.execute("begin immediate")
    finally:
        raw.execute("PRAGMA busy_timeout=0")


def _raw(connection: Connection) -> sqlite3.Connection:
    raw: Any = connection.connection.driver_connection
    return raw  # type: ignore[no-any-return]
