"""The statements of a poll. A poll must not wait behind readers for a place in the pool.

On PostgreSQL they run on a connection of its own, each a transaction of its own, without SQLAlchemy, whose layer would cost more
than the reading. On SQLite they run on the event loop (`booking.store.here`): a poll reads little, and in a busy process the way
to a thread and back takes a hundred times as long as the reading.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from booking.store.engine import Store, StoreUnavailable
from booking.store.here import raw_of

PAGE = 1000

STORE_AWAY = (
    OSError, sqlite3.Error, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, SQLAlchemyError,
    StoreUnavailable,
)  # fmt: skip
"""What reading raises while the store cannot be reached. A time-out is an OSError; asyncpg calls it internal when the server
ends a connection in the very moment in which a query is sent."""

_CLOCKS = {
    "sqlite": "select null, hospital_id, last_ms, writes from store_clock",
    "postgresql": (
        "select (extract(epoch from clock_timestamp()) * 1000)::bigint, c.hospital_id, c.last_ms, c.writes"
        " from (select 1) one left join store_clock c on true"
    ),
}


class Clocks(NamedTuple):
    """The store's clock (None: it is this machine's), and of each hospital its last committed time and number of writes."""

    store_ms: int | None
    last_ms: dict[str, int]
    writes: dict[str, int]


class Place(NamedTuple):
    """Where in a list to go on: rows from the number `at`, of those with exactly it only rows after `(first, second)`."""

    at: int
    first: str | None = None
    second: str | None = None


Row = Sequence[Any]
"""A line of a list, as the driver gives it: hospital, the two texts that it is about, its number."""


class Listing(NamedTuple):
    """A table that is read in the order of a number: the columns of that number and of what a line is about."""

    table: str
    at: str
    first: str
    second: str


FRAGMENTS = Listing("fragments", "changed", "date", "department_id")
KEYS = Listing("idempotency_keys", "created_ms", "client_id", "key")


def listing_statement(dialect: str, listing: Listing) -> str:
    """One page of a listing: on SQLite of one hospital, on PostgreSQL of any number in one round trip.

    PostgreSQL: `$1` hospitals, `$2` to `$4` their places, as arrays. The limit inside keeps the planner on the index.
    """
    table, at, first, second = listing
    if dialect == "sqlite":
        return (
            f"select hospital_id, {first}, {second}, {at} from {table} where hospital_id = ?1 and {at} >= ?2"  # noqa: S608
            f" and ({at} > ?2 or ?3 is null or ({first}, {second}) > (?3, ?4))"
            f" order by {at}, {first}, {second} limit {PAGE}"
        )
    return (
        f"select n.h, t.{first}, t.{second}, t.{at}"  # noqa: S608 - names of tables of ours
        " from unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) as n(h, at, first, second) cross join lateral ("
        f"select l.{first}, l.{second}, l.{at} from {table} l where l.hospital_id = n.h and l.{at} >= n.at"
        f" and (l.{at} > n.at or n.first is null or (l.{first}, l.{second}) > (n.first, n.second))"
        f" order by l.{at}, l.{first}, l.{second} limit {PAGE}) t"
    )


class Poller:
    """Reads what has changed. One call at a time; each raises one of STORE_AWAY, after which `drop` is due."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._connection: AsyncConnection | None = None
        self._raw: Any = None
        self._statements = {listing: listing_statement(store.dialect, listing) for listing in (FRAGMENTS, KEYS)}

    @property
    def on_loop(self) -> bool:
        """Whether a poll is made on the event loop, in a millisecond."""
        return self._store.dialect == "sqlite"

    @property
    def connected(self) -> bool:
        """Whether the connection of the last call still stands."""
        return self._raw is not None

    async def connect(self) -> None:
        """Take a connection, where there is none."""
        if self._store.dialect == "sqlite":
            self._raw = self._store
            return
        connection = await self._store.reader.connect()
        try:
            self._raw = (await connection.get_raw_connection()).driver_connection
        except BaseException:
            await connection.close()
            raise
        self._connection = connection

    async def drop(self) -> None:
        """Give the connection up; it may be broken."""
        connection, self._connection, self._raw = self._connection, None, None
        if connection is not None:
            await connection.invalidate()
            await connection.close()

    async def clocks(self) -> Clocks:
        """The clocks of the store and of every hospital that was ever written."""
        rows = await self._fetch(_CLOCKS[self._store.dialect])
        known = [row for row in rows if row[1] is not None]
        return Clocks(
            store_ms=rows[0][0] if rows else None,
            last_ms={row[1]: row[2] for row in known},
            writes={row[1]: row[3] for row in known},
        )

    async def pages(self, listing: Listing, places: Mapping[str, Place]) -> AsyncIterator[list[Row]]:
        """What follows the hospitals' places, page by page until the end that the last page saw."""
        left = dict(places)
        while left:
            rows = await self._page(listing, left)
            if rows:
                yield rows
            if len(rows) < PAGE:
                return
            counts = Counter(row[0] for row in rows)
            last = {row[0]: Place(row[3], row[1], row[2]) for row in rows}
            left = {hospital_id: last[hospital_id] for hospital_id, count in counts.items() if count >= PAGE}
            # Others may go between two pages, and only there: beside a crowd each turn of the loop makes its lists older.
            await asyncio.sleep(0)

    async def _page(self, listing: Listing, places: Mapping[str, Place]) -> list[Row]:
        statement = self._statements[listing]
        if self._store.dialect != "sqlite":
            columns = zip(*((hospital_id, *place) for hospital_id, place in places.items()), strict=True)
            return await self._fetch(statement, *map(list, columns))
        rows: list[Row] = []
        for hospital_id, place in places.items():
            rows += await self._fetch(statement, hospital_id, *place)
        return rows

    async def _fetch(self, statement: str, *values: Any) -> list[Any]:
        if self._store.dialect != "sqlite":
            return list(await self._raw.fetch(statement, *values))
        async with self._store.read(here=True, clock=False) as tx:
            connection = raw_of(tx.conn)
            if connection is None:
                raise StoreUnavailable("the store has been closed")
            return connection.execute(statement, values).fetchall()
