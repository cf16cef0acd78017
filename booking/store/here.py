"""Transactions of a SQLite store with their statements on the event loop, for many small ones in a row.

An asynchronous driver hands every statement to a thread and back, which costs several times what the statement does, and beside
a busy loop up to a switch interval each. Here only what may wait for long leaves the loop: for another process that writes, for
a checkpoint, and for a disk that is slow. It is for transactions whose statements are short: whatever scans or carries
megabytes belongs into an ordinary `Store.write` or `Store.read`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import StaticPool

T = TypeVar("T")

# A page that every transaction touches is brought in once for each time that the log is full. Bringing it in takes a disk tenths
# of a second. Others write meanwhile, for a log is brought in beside them; but only what nobody writes to is brought in whole,
# and begins anew. That last part waits for a pause, or, once the log is a burden by itself, for a moment when little is left.
CHECKPOINT_FRAMES = 8_000  # 32 MB: a frame is a page of 4 KB
MOST_FRAMES = 64_000  # 256 MB: some fifty thousand holds
LITTLE_FRAMES = 2_000
PAUSE_S = 0.2  # since the last commit; a crowd's follow each other within a turn of the loop, which takes up to 0.1 s
LOOK_EVERY = 16  # commits between two looks at the log's length
STANDS_STILL_S = 0.008  # how long the loop waits for a commit; to come back to it takes longer beside a crowd
_LOG_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24


class LoopConnection:
    """As much of SQLAlchemy's AsyncConnection as a `Tx` uses, over a connection that is not asynchronous."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.kept = True  # whether what was done is to be committed at the end

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


class Disk:
    """Whether commits are so quick of late that coming back to the loop later would cost more than waiting for one.

    After one that takes long the next dozens are not waited for: a disk with hiccups holds the loop up once in so many.
    """

    QUICK_S = 0.003
    WEIGHT = 1 / 32  # of the newest commit in the running mean

    def __init__(self) -> None:
        self._mean_s = 2 * self.QUICK_S

    @property
    def is_quick(self) -> bool:
        return self._mean_s < self.QUICK_S

    def note(self, seconds: float) -> None:
        """A commit took so long."""
        self._mean_s += self.WEIGHT * (seconds - self._mean_s)


def frames_in(log: str) -> int:
    """How many frames of the log are in use; 0 where there is no log.

    The size of its file does not tell: the file is kept, because writing to the same place again takes the disk half the time
    that making a file longer takes. Frames of the present round bear the salts of the header, and stand before those of earlier
    rounds (SQLite, "WAL-mode File Format", section 2.2), so that their end is found by halving. Only this file may be looked
    into: in the WAL index and in the database SQLite keeps locks, and POSIX takes all locks of a process from a file when the
    process closes it, however often it is open.
    """
    try:
        with open(log, "rb", buffering=0) as file:
            header = file.read(_LOG_HEADER_BYTES)
            frame_bytes = _FRAME_HEADER_BYTES + int.from_bytes(header[8:12], "big")
            first, beyond = 0, max(0, os.fstat(file.fileno()).st_size - _LOG_HEADER_BYTES) // frame_bytes
            while first < beyond:
                middle = (first + beyond) // 2
                file.seek(_LOG_HEADER_BYTES + middle * frame_bytes + 8)
                if file.read(8) == header[16:24]:
                    first = middle + 1
                else:
                    beyond = middle
            return first
    except OSError:
        return 0


class _OnLoop:
    """One connection, made at the first use, and the thread that waits for it."""

    def __init__(self, url: URL, pragmas: Sequence[str]) -> None:
        self._engine = create_engine(
            url.set(drivername="sqlite+pysqlite"), poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        self._pragmas = pragmas
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._connection: Connection | None = None

    async def close(self) -> None:
        """Close the connection."""
        await self._beside(self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()

    async def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = await self._beside(self._connect)
        return self._connection

    def _connect(self) -> Connection:
        connection = self._engine.connect()
        raw = _raw(connection)
        raw.isolation_level = None  # the driver must not begin transactions of its own
        # In the thread one may wait for a process that has just written, and for one that closes the database.
        for pragma in ("busy_timeout=5000", *self._pragmas, "busy_timeout=0"):
            raw.execute(f"PRAGMA {pragma}")
        return connection

    @contextmanager
    def _undone(self, connection: Connection) -> Iterator[None]:
        """What goes wrong inside leaves nothing behind."""
        try:
            yield
        except (sqlite3.OperationalError, OperationalError):
            self._drop(connection)
            raise
        except BaseException:
            _roll_back(connection)
            raise

    def _drop(self, connection: Connection) -> None:
        """Connect anew next time, which rolls back: one that was opened while the file was read-only stays so for ever."""
        self._connection = None
        connection.invalidate()
        connection.close()

    async def _to_the_end(self, call: Callable[..., object], *arguments: Any) -> None:
        """Beside the loop. Who is cancelled meanwhile waits for the end of it: until then nobody may use the connection."""
        await self._end_of(asyncio.ensure_future(self._beside(call, *arguments)))

    @staticmethod
    async def _end_of(work: asyncio.Future[Any]) -> None:
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            while not work.done():
                with suppress(asyncio.CancelledError):  # a second time, too: the connection is the thread's until then
                    await asyncio.wait([work])
            raise

    async def _beside(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)


# A checkpoint takes many times as long as a commit: it is made by itself, in the thread. An index that SQLite would build for one
# statement costs more than the statement.
_OF_WRITES = ("wal_autocheckpoint=0", "cache_size=-65536", "automatic_index=OFF")


class Here(_OnLoop):
    """The writes of one store. The store's turn must be held while it is used."""

    def __init__(self, url: URL, pragmas: Sequence[str]) -> None:
        super().__init__(url, (*pragmas, *_OF_WRITES))
        self._log = f"{url.database}-wal"
        self._beside_writes = _Beside(url, (*pragmas, *_OF_WRITES))
        self._bringing: Future[int | None] | None = None
        self._closing = False
        self._disk = Disk()
        self._commits = 0
        self._frames = 0  # at the last look
        self._begun = 0  # how many there were when they were last begun to be brought in beside the writes
        self._brought = 0  # of them, brought in beside the writes
        self._tried = 0  # how many there were when all of them were brought in, and the log did not begin anew
        self._ended_s = 0.0

    async def close(self) -> None:
        """Close the connections."""
        self._closing = True
        try:
            await self._beside_writes.close()
        finally:
            await super().close()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[LoopConnection]:
        """A transaction that can write from its first statement on.

        Committed at the end, unless it is not to be `kept`; rolled back by any exception.
        """
        connection = await self._connected()
        # First, not last: whoever is cancelled in it has done nothing, and hears so.
        await self._checkpoint(_raw(connection))
        with self._undone(connection):
            await self._begin(_raw(connection))
            lent = LoopConnection(connection)
            yield lent
            if not lent.kept:
                _roll_back(connection)
                return
            await self._commit(connection)
        self._commits += 1
        self._ended_s = time.monotonic()

    async def _commit(self, connection: Connection) -> None:
        """In the thread. For a disk that is quick the loop stands still meanwhile, which takes less time than to come back to it.

        Disks stop now and then, for a second and more: then the loop goes on, and only those wait who write.
        """
        # In a thread, the interpreter must be got back afterwards: that time is not the disk's.
        work = self._thread.submit(_commit, connection, self._disk, sys.getswitchinterval())
        if self._disk.is_quick:
            with suppress(TimeoutError):  # nothing in a commit raises one
                work.result(STANDS_STILL_S)
                return
        await self._end_of(asyncio.wrap_future(work))

    async def _begin(self, raw: sqlite3.Connection) -> None:
        try:
            raw.execute("begin immediate")
        except sqlite3.OperationalError as e:
            if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:  # whatever the reason that it adds
                raise
            # Another process writes, such as a command of the CLI: wait for it, but not on the loop.
            await self._to_the_end(_begin_patiently, raw)

    async def _checkpoint(self, raw: sqlite3.Connection) -> None:
        """Bring the log into the database once it is long; the next transaction begins it anew, in the same place."""
        if self._closing:
            return
        if self._bringing is not None:
            if not self._bringing.done():
                return
            brought, self._bringing = self._bringing.result(), None
            if brought is not None:
                self._brought = brought
                self._commits = LOOK_EVERY  # how much is left is looked at now, while it is little
        if self._commits >= LOOK_EVERY:
            self._commits = 0
            found = frames_in(self._log)
            if found < self._frames:
                self._begun = self._brought = self._tried = 0
            self._frames = found
        # Readers may keep the log from beginning anew, and so may what fails: it is tried again when there is more of it.
        may_try = self._frames >= self._tried + CHECKPOINT_FRAMES
        is_burden, is_too_long = self._frames > MOST_FRAMES, self._frames > MOST_FRAMES * 5 // 4
        is_more = self._frames - self._begun > (LITTLE_FRAMES if is_burden else CHECKPOINT_FRAMES)
        if is_more and not (is_too_long and may_try):
            self._begun = self._frames
            self._bringing = self._beside_writes.bring_in()
            return
        in_pause = time.monotonic() - self._ended_s >= PAUSE_S
        is_little = self._frames - self._brought < LITTLE_FRAMES
        if may_try and (in_pause or is_too_long or (is_burden and is_little)):
            self._tried = self._frames
            await self._to_the_end(_checkpoint, raw)


class _Beside(_OnLoop):
    """A connection that brings the log in beside those who write (SQLite, "Write-Ahead Logging", section 2.3, PASSIVE)."""

    def bring_in(self) -> Future[int | None]:
        """Begin; it gives how much of the log is in the database then, in frames; None where it could not be tried."""
        return self._thread.submit(self._bring_in)

    def _bring_in(self) -> int | None:
        try:
            if self._connection is None:
                self._connection = self._connect()
        except (sqlite3.Error, DBAPIError):
            return None
        brought = _checkpoint(_raw(self._connection))
        if brought is None:
            self._drop(self._connection)
        return brought


class HereToRead(_OnLoop):
    """The short reads of one store."""

    def __init__(self, url: URL, pragmas: Sequence[str]) -> None:
        super().__init__(url, pragmas)
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[LoopConnection]:
        """A transaction that sees one committed state."""
        async with self._turn:
            connection = await self._connected()
            with self._undone(connection):
                _raw(connection).execute("begin")
                yield LoopConnection(connection)
            _roll_back(connection)


def _commit(connection: Connection, disk: Disk, less_s: float = 0.0) -> None:
    began_s = time.perf_counter()
    try:
        _raw(connection).commit()
        if connection.in_transaction():
            connection.commit()  # SQLAlchemy has begun one of its own at the first statement that went through it
    finally:
        disk.note(max(0.0, time.perf_counter() - began_s - less_s))


def _roll_back(connection: Connection) -> None:
    _raw(connection).rollback()
    if connection.in_transaction():
        connection.rollback()


def _checkpoint(raw: sqlite3.Connection) -> int | None:
    """How many frames of the log are in the database now: not all of them while somebody reads an older state."""
    try:
        busy, _, brought = raw.execute("pragma wal_checkpoint(passive)").fetchone()
    except sqlite3.Error:  # the disk is full, read-only or broken: the next write tells
        return None
    return None if busy else int(brought)


def _begin_patiently(raw: sqlite3.Connection) -> None:
    raw.execute("PRAGMA busy_timeout=5000")
    try:
        raw.execute("begin immediate")
    finally:
        raw.execute("PRAGMA busy_timeout=0")


def _raw(connection: Connection) -> sqlite3.Connection:
    raw: Any = connection.connection.driver_connection
    return raw  # type: ignore[no-any-return]
