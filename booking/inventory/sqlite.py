"""A batch on SQLite: one raw connection, statements on the event loop, the commit beside it.

Each sqlite3 call gives up the interpreter's lock and must get it back. In a thread beside a busy loop that costs up to a switch
interval for every statement; on the loop it costs nothing, and a batch's statements are short. What really waits, the disk,
waits in a thread.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from booking.inventory import statements as sql
from booking.inventory.gathered import Merged, read_facts
from booking.inventory.outcomes import Violation, Work
from booking.inventory.requests import Facts, HoldRequest, KeyFacts, LiveFacts, PatientFacts
from booking.inventory.rows import Batch, number_events
from booking.store.engine import Store, StoreUnavailable, sqlite_pragmas

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode
LONGEST_CHAIN = 10  # of merges: it is short; a ring would be a fault of ours


class SqliteBatches:
    """The batches of a SQLite store. The store's turn must be held while one runs."""

    parallel = 1

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._connection: sqlite3.Connection | None = None

    async def start(self) -> None:
        """Nothing to do: the first batch connects."""

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._beside(self._connection.close)
            self._connection = None
        self._thread.shutdown(wait=False)

    async def transact(self, hospital_id: str, requests: Sequence[HoldRequest], work: Work) -> Batch:
        connection = await self._begin()
        try:
            batch = work(self._gather(connection, hospital_id, requests))
            if batch.granted:
                self._write(connection, hospital_id, batch)
        except sqlite3.IntegrityError as e:
            self._roll_back(connection)
            raise Violation(str(e)) from e
        except sqlite3.Error as e:
            await self._drop()
            raise StoreUnavailable(_reason(e)) from e
        except BaseException:
            self._roll_back(connection)
            raise
        if not batch.granted:
            self._roll_back(connection)  # refusals leave nothing to keep
            return batch
        try:
            await self._beside(connection.commit)
        except sqlite3.Error as e:
            # Nobody sees a commit that failed here, and the next one is written in its place. Should we die before that, all of
            # it may turn out to be stored: then a repeat with the same key finds it.
            await self._drop()
            raise StoreUnavailable(_reason(e)) from e
        self._store.remember_clock(hospital_id, batch.facts.now_ms)
        return batch

    async def recall(self, hospital_id: str, requests: Sequence[HoldRequest]) -> list[KeyFacts | None]:
        connection = await self._begin()
        try:
            rows = [
                connection.execute(sql.RECALL.format("?", "?", "?"), (hospital_id, r.client_id, r.key)).fetchone()
                for r in requests
            ]
        except sqlite3.Error as e:
            await self._drop()
            raise StoreUnavailable(_reason(e)) from e
        self._roll_back(connection)
        return [None if row is None else KeyFacts(*row) for row in rows]

    async def _begin(self) -> sqlite3.Connection:
        try:
            if self._connection is None:
                self._connection = await self._beside(self._connect)
            try:
                self._connection.execute("begin immediate")
            except sqlite3.OperationalError as e:
                if e.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                # Another process writes, such as a command of the CLI: wait for it, but not on the loop.
                await self._beside(self._begin_patiently, self._connection)
        except sqlite3.Error as e:
            await self._drop()
            raise StoreUnavailable(_reason(e)) from e
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._store.url.database or "", isolation_level=None, check_same_thread=False, cached_statements=64
        )
        for pragma in (*sqlite_pragmas(), "cache_size=-65536", "busy_timeout=0", "automatic_index=OFF"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _begin_patiently(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA busy_timeout=5000")
        try:
            connection.execute("begin immediate")
        finally:
            connection.execute("PRAGMA busy_timeout=0")

    def _gather(self, connection: sqlite3.Connection, hospital_id: str, requests: Sequence[HoldRequest]) -> Facts:
        tick = connection.execute(sql.SQLITE_TICK, (hospital_id, self._store.wall_ms())).fetchone()
        items = _encode([(n, r.client_id, r.key, r.slot_id, r.patient_id) for n, r in enumerate(requests)]).decode()
        rows = connection.execute(sql.SQLITE_GATHER, {"hospital_id": hospital_id, "items": items})
        facts, merged = read_facts(rows, requests, *tick)
        for one in merged:
            self._follow(connection, hospital_id, facts, one)
        return facts

    def _follow(self, connection: sqlite3.Connection, hospital_id: str, facts: Facts, merged: Merged) -> None:
        request, person_id, schedule_id = merged
        for _ in range(LONGEST_CHAIN):
            row = connection.execute(sql.PERSON.format("?", "?"), (hospital_id, person_id)).fetchone()
            if row is None:
                return
            if row[2] is None:
                facts.patients[request.client_id, request.patient_id] = PatientFacts(person_id, row[0], row[1])
                break
            person_id = row[2]
        if schedule_id is None:
            return
        live = connection.execute(
            sql.LIVE.format("?", "?", "?", "live = 1"), (hospital_id, person_id, schedule_id)
        ).fetchone()
        if live is not None:
            facts.live[person_id, schedule_id] = LiveFacts(*live)

    def _write(self, connection: sqlite3.Connection, hospital_id: str, batch: Batch) -> None:
        number_events(batch, connection.execute(sql.SQLITE_LAST_EVENT).fetchone()[0])
        connection.executemany(sql.SQLITE_SLOT, [(s.unreflected, hospital_id, s.id) for s in batch.slots])
        connection.executemany(sql.SQLITE_SCHEDULE, [(n, hospital_id, i) for i, n in batch.schedules.items()])
        connection.executemany(
            sql.SQLITE_FRAGMENT, [(hospital_id, *fragment, batch.facts.seq) for fragment in batch.fragments]
        )
        for line, rank in batch.hurried:
            connection.execute(sql.HURRY.format("?1", "?2", "?3"), (hospital_id, line, rank))
        for statement, rows in zip(sql.SQLITE_INSERTS, batch.rows, strict=True):
            connection.executemany(statement, rows)

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            connection.rollback()

    async def _drop(self) -> None:
        """Connect anew next time, which rolls back: one that was opened while the file was read-only stays so for ever."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._beside(connection.close)

    async def _beside(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)


def _reason(error: sqlite3.Error) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
