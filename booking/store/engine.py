"""Opening the store, and the two kinds of transaction: reads, and writes under a hospital's lock.

SQLite runs in WAL mode with `synchronous=FULL`; writes begin with BEGIN IMMEDIATE, because a deferred one upgrades its lock
without waiting for the busy timeout. PostgreSQL serialises the writes of one hospital by a transaction-level advisory lock.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import aiosqlite
import asyncpg
from sqlalchemy import event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.schema import Table

from booking.store.bell import Bell
from booking.store.crypto import HospitalVault, Vault
from booking.store.direct import DirectConnection, direct_of, reading, transaction
from booking.store.fixed import Fixed
from booking.store.here import MOST_FRAMES, Here, HereToRead, raw_of
from booking.store.tables import fragments
from booking.store.turns import Of, Turn

READERS = 5  # one of them is held by the change feed
POOL_TIMEOUT_S = 5.0
WRITER_TIMEOUT_S = 5.0
LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 30_000
LATELY_S = 5.0
CHECK = "#check"  # stands for the hospital in a write that only tries whether one can


def changes_topic(hospital_id: str) -> str:
    """Rung when something that readers keep ready-made has changed."""
    return f"changes:{hospital_id}"


class StoreUnavailable(Exception):
    """The store cannot be reached, is full or read-only. Nothing was committed; the call is safe to repeat."""


class StoreBusy(StoreUnavailable):
    """So many wait to write that this one's turn did not come in time. Nothing was done."""


class SchemaMismatch(Exception):
    """The database has another schema than this program: run `hisbridge migrate`, or use the newer program."""


@dataclass
class Tx:
    """One transaction. `now_ms` is the store's clock, never below the hospital's last committed time.

    `seq` is the number of a write among this hospital's: gapless, in the order of the commits; 0 for reads.
    """

    conn: AsyncConnection
    hospital_id: str
    now_ms: int
    vault: Vault
    dialect: str
    topics: set[str]
    seq: int = 0
    touched: set[tuple[str, str]] = field(default_factory=set)
    keys: list[tuple[str, str]] = field(default_factory=list)
    counts: list[Callable[[], object]] = field(default_factory=list)

    async def all(self, statement: Any, params: Any = None) -> list[dict[str, Any]]:
        """Every row as a dictionary."""
        if isinstance(statement, Fixed):
            direct = direct_of(self.conn)
            if direct is not None:
                return await direct.rows(statement, params)
            connection = raw_of(self.conn)
            if connection is not None:
                return statement.rows(connection, params)
            statement = statement.statement
        result = await self.conn.execute(statement, params)
        # SQLAlchemy's own str subclass is not a str to msgspec. Iterating a Result gives its rows, not its keys.
        names = [str(name) for name in result.keys()]  # noqa: SIM118
        return [dict(zip(names, row, strict=True)) for row in result]

    async def first(self, statement: Any, params: Any = None) -> dict[str, Any] | None:
        """The first row as a dictionary, or None."""
        rows = await self.all(statement, params)
        return rows[0] if rows else None

    async def run(self, statement: Any, params: Any = None) -> int:
        """Execute; returns the number of rows matched."""
        if isinstance(statement, Fixed):
            direct = direct_of(self.conn)
            if direct is not None:
                return await direct.run(statement, params)
            connection = raw_of(self.conn)
            if connection is not None:
                return statement.run(connection, params)
            statement = statement.statement
        return int((await self.conn.execute(statement, params)).rowcount)

    async def later(self, statement: Fixed, values: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Execute what nobody counts: at once, or on PostgreSQL together, before the next statement or with the commit.

        That one then raises what this does.
        """
        direct = direct_of(self.conn)
        if direct is None:
            await self.run(statement, values)
        else:
            direct.later(statement, values)

    async def insert(self, table: Table, *rows: dict[str, Any]) -> None:
        """Insert rows of equal shape."""
        if rows:
            await self.run(_insert(table, tuple(rows[0])), list(rows))

    async def add(self, table: Table, row: dict[str, Any]) -> None:
        """Insert one small row, as `later` does."""
        await self.later(_insert(table, tuple(row)), row)

    async def upsert(self, table: Table, rows: list[dict[str, Any]], *, keep: tuple[str, ...] = ()) -> None:
        """Insert rows, or update those that exist; columns named in `keep` keep their stored value."""
        if not rows:
            return
        await self.run(_upsert(self.dialect, table, tuple(rows[0]), keep), rows)

    def ring(self, topic: str) -> None:
        """Wake those who wait for `topic`, once the commit is certain."""
        self.topics.add(topic)

    def count(self, it: Callable[[], object]) -> None:
        """Count something once the commit is certain: what is rolled back has not happened."""
        self.counts.append(it)

    def touch(self, date: str, department_id: str) -> None:
        """What readers see of a department's day changes with this commit."""
        self.touched.add((date, department_id))

    def bind(self, client_id: str, key: str) -> None:
        """This commit accepts an Idempotency-Key."""
        self.keys.append((client_id, key))

    def seal(self, plain: bytes, table: str, column: str) -> bytes:
        """Encrypt for one column of one table of this hospital."""
        return HospitalVault(self.vault, self.hospital_id).seal(plain, table, column)

    def unseal(self, sealed: bytes, table: str, column: str) -> bytes:
        """Decrypt what `seal` made. Raises SealBroken."""
        return HospitalVault(self.vault, self.hospital_id).unseal(sealed, table, column)

    def digest(self, kind: str, value: str) -> str:
        """The search digest of a value of this hospital."""
        return self.vault.digest(kind, self.hospital_id, value)


@cache
def _insert(table: Table, columns: tuple[str, ...]) -> Fixed:
    return Fixed(table.insert(), columns)


@cache
def _upsert(dialect: str, table: Table, columns: tuple[str, ...], keep: tuple[str, ...]) -> Fixed:
    """Built once for each shape: building it costs more than executing it."""
    insert: Any = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    keys = [c.name for c in table.primary_key.columns]
    changed = {name: insert.excluded[name] for name in columns if name not in keys and name not in keep}
    if changed:
        return Fixed(insert.on_conflict_do_update(index_elements=keys, set_=changed), columns)
    return Fixed(insert.on_conflict_do_nothing(index_elements=keys), columns)


_WALL_MS = "(extract(epoch from clock_timestamp()) * 1000)::bigint"


def _tick_statement(now: str) -> Fixed:
    return Fixed(
        text(
            f"insert into store_clock (hospital_id, last_ms, writes) values (:h, {now}, 1)"  # noqa: S608 - words of ours
            " on conflict (hospital_id) do update set writes = store_clock.writes + 1,"
            " last_ms = case when excluded.last_ms > store_clock.last_ms then excluded.last_ms"
            " else store_clock.last_ms end returning last_ms, writes"
        )
    )


# The clock is read in the same statement: under a hospital's lock each round trip is one that others wait for.
_TICKS = {
    "sqlite": _tick_statement(":now"),
    "postgresql": _tick_statement(f"coalesce(cast(:now as bigint), {_WALL_MS})"),
}
_CLOCK = Fixed(
    text(
        f"select coalesce(cast(:now as bigint), {_WALL_MS}) as now_ms,"  # noqa: S608 - words of ours
        " (select last_ms from store_clock where hospital_id = :h) as last_ms"
    )
)


def begin_under_lock(hospital_id: str) -> str:
    """What begins a write on PostgreSQL: SQL without parameters, which travels as one message.

    The lock is a statement of its own: what comes after it sees what was committed while it was waited for.
    """
    quoted = hospital_id.replace("'", "''")
    return f"begin; select pg_advisory_xact_lock(hashtextextended('{quoted}', 0))"


class Store:
    """The one way to the database. `wall_ms` is the clock of a SQLite store, given so that tests can turn it."""

    def __init__(
        self, url: str, vault: Vault, *, wall_ms: Callable[[], int] | None = None, connections: int = 20
    ) -> None:
        self.url = make_url(url)
        self.vault = vault
        self.bell = Bell()
        self.announce: Callable[[Collection[str]], None] | None = None  # set by booking.store.relay
        self.on_key: Callable[[str, str, str], None] | None = None  # told hospital, client and key at each commit
        self._doubts: dict[str, int] = {}
        self._connections = connections  # to PostgreSQL, half of them for writing
        self._wall_ms = wall_ms or (lambda: time.time_ns() // 1_000_000)
        self._skew = wall_ms is not None
        self.dialect = self.url.get_backend_name()
        self._last_ms: dict[str, int] = {}
        self._turns: defaultdict[str, Turn] = defaultdict(lambda: Turn(together=self.dialect == "sqlite"))
        self._failing = False  # whether the last write failed
        self._failure = ""  # why a write failed last, and when
        self._failed_s = -math.inf
        self.writer, self.reader = self._engines()
        on_loop = self.dialect == "sqlite"
        self._here = Here(self.url, sqlite_pragmas()) if on_loop else None
        self._here_to_read = HereToRead(self.url, sqlite_pragmas()) if on_loop else None

    def _engines(self) -> tuple[AsyncEngine, AsyncEngine]:
        if self.dialect == "sqlite":
            url = self.url.set(drivername="sqlite+aiosqlite")
            writer = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=POOL_TIMEOUT_S)
            reader = create_async_engine(url, pool_size=READERS, max_overflow=0, pool_timeout=POOL_TIMEOUT_S)
            _tune_sqlite(writer, begin="BEGIN IMMEDIATE")
            _tune_sqlite(reader, begin="BEGIN")
            return writer, reader
        url = self.url.set(drivername="postgresql+asyncpg")
        # A frozen client or a stuck lock must not hold a connection, and with it a hospital, for ever.
        guards = {
            "standard_conforming_strings": "on",
            "lock_timeout": f"{LOCK_TIMEOUT_MS}",
            "statement_timeout": f"{STATEMENT_TIMEOUT_MS}",
            "idle_in_transaction_session_timeout": f"{STATEMENT_TIMEOUT_MS}",
            # A plan that is kept from the time when the tables were empty walks all rows of a hospital when they are full.
            "plan_cache_mode": "force_custom_plan",
            "jit": "off",  # compiling takes longer than any statement here
        }
        connect = {"timeout": 5, "command_timeout": STATEMENT_TIMEOUT_MS / 1000 + 5, "server_settings": guards}
        writer, reader = (
            create_async_engine(
                url,
                pool_size=self._connections // 2,
                max_overflow=0,
                pool_timeout=POOL_TIMEOUT_S,
                isolation_level="AUTOCOMMIT",  # booking.store.direct begins and commits
                connect_args=connect,
            )
            for _ in range(2)
        )
        return writer, reader

    async def close(self) -> None:
        """Close every connection."""
        await self.writer.dispose()
        if self.reader is not self.writer:
            await self.reader.dispose()
        for here in (self._here, self._here_to_read):
            if here is not None:
                await here.close()

    def wall_ms(self) -> int:
        """The clock of a SQLite store, before it is held above the last committed time."""
        return self._wall_ms()

    @property
    def given_wall_ms(self) -> int | None:
        """The time to use instead of PostgreSQL's own, where a clock was given; None otherwise."""
        return self._wall_ms() if self._skew else None

    def remember_clock(self, hospital_id: str, now_ms: int) -> None:
        """Note the time of a write that was committed on another connection of this process."""
        self._last_ms[hospital_id] = max(now_ms, self._last_ms.get(hospital_id, 0))

    @asynccontextmanager
    async def write(self, hospital_id: str, *, here: bool = False, of: Of = Of.OTHERS) -> AsyncIterator[Tx]:
        """A transaction that holds the hospital's lock from its first statement to its commit.

        Topics rung through `tx.ring` sound once the commit is certain. `here` is for short statements: on SQLite they are
        then executed on the event loop (see `booking.store.here`). `of` says in whose queue its turn is waited for. Raises
        StoreUnavailable.
        """
        done: set[str] = set()
        bound: list[tuple[str, str]] = []
        counts: list[Callable[[], object]] = []
        # One waits here, not in the pool: a crowd at one hospital must not take the connections of all others.
        turn = self.turn(hospital_id)
        try:
            await turn.acquire(of, timeout_s=WRITER_TIMEOUT_S)
        except TimeoutError:
            raise StoreBusy("no turn to write in time") from None
        try:
            async with self._transaction(self._begin_write(hospital_id, here=here), hospital_id, done) as tx:
                bound, counts = tx.keys, tx.counts
                await self._tick(tx)
                yield tx
                await self._note_touched(tx)
        except BaseException as e:
            counts.clear()
            if bound:
                self._doubts[hospital_id] = min(tx.now_ms, self._doubts.get(hospital_id, tx.now_ms))
            if isinstance(e, StoreUnavailable):
                self.note_write(e)
            raise
        finally:
            turn.release()
        self.note_write(None)
        for count in counts:
            count()
        counts.clear()  # they know their transaction, and it knows them: without this the collector would have to find out
        if self.on_key is not None:
            for client_id, key in bound:
                self.on_key(hospital_id, client_id, key)
        self.ring(done)

    def take_doubts(self) -> dict[str, int]:
        """Hospitals where a write with keys failed, or was cut off, and may be committed all the same; since which time."""
        doubts, self._doubts = self._doubts, {}
        return doubts

    def _begin_write(self, hospital_id: str, *, here: bool) -> AbstractAsyncContextManager[Any]:
        if self.dialect != "sqlite":
            return transaction(self.writer, begin_under_lock(hospital_id))
        return self._here.begin() if here and self._here is not None else self.writer.begin()

    def note_write(self, error: StoreUnavailable | None) -> None:
        """A write was committed (None), or failed so."""
        if isinstance(error, StoreBusy):
            return
        self._failing = error is not None
        if error is not None:
            self._failure, self._failed_s = str(error), time.monotonic()

    async def check(self) -> str | None:
        """Why the store cannot be read, or written; None when all is well.

        After a write that failed one is tried here: a process that is given no more work could not see the end of it. On a disk
        that is nearly full a small write may pass where others do not: what failed lately is told as well.
        """
        try:
            async with self.read() as tx:
                await tx.all(text("select 1"))
        except StoreUnavailable as e:
            return f"cannot be read: {e}"
        if self._failing:
            try:
                async with self.write(CHECK):
                    pass
            except StoreUnavailable as e:
                return f"cannot be written: {e}"
        lately = time.monotonic() - self._failed_s < LATELY_S
        return f"cannot be written: {self._failure}" if lately else None

    def ring(self, topics: Collection[str]) -> None:
        """What was committed is news: wake those who wait for it, here and in the processes that share the store."""
        for topic in topics:
            self.bell.ring(topic)
        if self.announce is not None and topics:
            self.announce(topics)

    @property
    def on_loop(self) -> Here:
        """The writes of a SQLite store that are made on the event loop; the store's turn must be held. Raises TypeError."""
        if self._here is None:
            raise TypeError("only a SQLite store writes on the event loop")
        return self._here

    def turn(self, hospital_id: str) -> Turn:
        """Who may write next in this process: one at a time in a SQLite file, one per hospital on PostgreSQL."""
        return self._turns["" if self.dialect == "sqlite" else hospital_id]

    async def _note_touched(self, tx: Tx) -> None:
        if not tx.touched:
            return
        columns = ("hospital_id", "date", "department_id", "changed")
        rows = [dict(zip(columns, (tx.hospital_id, *day, tx.seq), strict=True)) for day in sorted(tx.touched)]
        await tx.later(_upsert(self.dialect, fragments, columns, ()), rows)
        tx.ring(changes_topic(tx.hospital_id))

    @asynccontextmanager
    async def read(self, hospital_id: str = "", *, here: bool = False, clock: bool = True) -> AsyncIterator[Tx]:
        """What was committed: on SQLite one state, on PostgreSQL at each statement the newest. Raises StoreUnavailable.

        `here` as for `write`. Without `clock` the Tx has no `now_ms`, which on PostgreSQL saves a round trip.
        """
        if self.dialect != "sqlite":
            times: list[dict[str, Any]] = []

            async def begin(direct: DirectConnection) -> None:
                if clock:
                    times[:] = await direct.rows(_CLOCK, {"now": self.given_wall_ms, "h": hospital_id})

            async with self._transaction(reading(self.reader, begin), hospital_id, set()) as tx:
                # The clock as writes of this hospital see it: never below the last committed time.
                tx.now_ms = max((ms for row in times for ms in row.values() if ms is not None), default=0)
                yield tx
            return
        begun = self._here_to_read.begin() if here and self._here_to_read is not None else self.reader.begin()
        async with self._transaction(begun, hospital_id, set()) as tx:
            # One process writes: what it has committed it remembers.
            tx.now_ms = max(self._wall_ms(), self._last_ms.get(hospital_id, 0))
            yield tx

    @asynccontextmanager
    async def _transaction(
        self, begun: AbstractAsyncContextManager[Any], hospital_id: str, done: set[str]
    ) -> AsyncIterator[Tx]:
        try:
            async with begun as conn:
                yield Tx(conn, hospital_id, 0, self.vault, self.dialect, done)
        except (
            OperationalError,
            sqlite3.OperationalError,
            InterfaceError,
            PoolTimeout,
            OSError,
            asyncpg.InternalClientError,
        ) as e:
            # asyncpg calls it an internal error when the server cuts a connection while it sends.
            raise StoreUnavailable(_reason(e)) from e
        except (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError) as e:
            if _is_away(e):
                raise StoreUnavailable(_reason(e)) from e
            raise

    async def _tick(self, tx: Tx) -> None:
        """Read the clock inside the transaction, and never let it run backwards for a hospital."""
        now = self._wall_ms() if self.dialect == "sqlite" else self.given_wall_ms
        (row,) = await tx.all(_TICKS[self.dialect], {"h": tx.hospital_id, "now": now})
        tx.now_ms, tx.seq = int(row["last_ms"]), int(row["writes"])
        self._last_ms[tx.hospital_id] = tx.now_ms


def _is_away(error: DBAPIError | asyncpg.PostgresError | asyncpg.InterfaceError) -> bool:
    """Whether an error is the server's state and not our statement's; asyncpg has no class of errors for that.

    SQLSTATE classes (PostgreSQL, appendix A): 08 connection, 40 rolled back, 53 out of resources (disk, connections),
    57 shut down or starting, 58 system, XX internal; 25006 is a read-only server, 42501 is also what it says of files on a
    read-only disk, 25P03 and 55P03 are time-outs of a transaction or a lock. Without a statement the connection itself was
    refused.
    """
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)  # a value of the wrong type is our fault
    if isinstance(error, DBAPIError):
        if error.connection_invalidated or error.statement is None or isinstance(error.orig, sqlite3.OperationalError):
            return True
        state = str(getattr(error.orig, "sqlstate", None) or "")
    else:
        state = str(error.sqlstate or "")
    if state == "08P01":  # a message of ours that makes no sense
        return False
    return state[:2] in ("08", "40", "53", "57", "58", "XX") or state in ("25006", "25P03", "42501", "55P03")


def _reason(error: BaseException) -> str:
    """What to tell: the driver's own first line, which holds no values of ours."""
    origin = getattr(error, "orig", None) or error
    return f"{type(origin).__name__}: {str(origin).splitlines()[0][:200] if str(origin) else ''}"


def sqlite_pragmas() -> tuple[str, ...]:
    """What every connection to a SQLite store sets: a commit is on the disk before it is believed."""
    return (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        # Where the writes on the event loop do not bring the log in (see `booking.store.here`), whoever writes does.
        f"wal_autocheckpoint={MOST_FRAMES * 3 // 2}",
        # A log that has been brought in begins anew in the same file, which is cut only where something has made it huge.
        f"journal_size_limit={MOST_FRAMES * 4096}",
    )


def _tune_sqlite(engine: AsyncEngine, *, begin: str) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        cursor = connection.cursor()
        for pragma in ("busy_timeout=5000", *sqlite_pragmas()):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "handle_error")
    def on_error(context: ExceptionContext) -> None:
        # A connection that was opened while the file was read-only stays so for ever.
        error = context.original_exception
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY:
            context.is_disconnect = True

    undoing: set[asyncio.Task[None]] = set()

    @event.listens_for(engine.sync_engine, "invalidate")
    def on_invalidate(connection: Any, _record: Any, _error: Any) -> None:
        # A caller has gone in the middle of a statement, and the connection is about to be closed. SQLite keeps a closed one, and
        # its lock of the file, until its last cursor is gone, which is when the garbage collector comes round to it: until then
        # nobody could write. After a rollback there is no lock to keep. The connection's thread does it before the close.
        with suppress(RuntimeError):  # no loop is running: nobody waits to write
            task = asyncio.get_running_loop().create_task(_undo(connection.driver_connection))
            undoing.add(task)
            task.add_done_callback(undoing.discard)

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


async def _undo(connection: aiosqlite.Connection) -> None:
    with suppress(sqlite3.Error, ValueError):  # ValueError: it is closed already
        await connection.rollback()
