"""A batch on PostgreSQL: four round trips on a raw asyncpg connection (begin and lock, gather, write, commit)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import starmap
from typing import Any
from weakref import WeakKeyDictionary

import asyncpg

from booking.inventory import statements as sql
from booking.inventory.gathered import Merged, read_facts
from booking.inventory.histories import Histories, open_record
from booking.inventory.outcomes import CommitUnknown, Violation, Work
from booking.inventory.requests import Facts, HoldRequest, KeyFacts, LiveFacts, OfferFacts, PassFacts, PatientFacts
from booking.inventory.rows import Batch
from booking.inventory.sqlite import LONGEST_CHAIN
from booking.rules.settings import Wanted
from booking.store.crypto import HospitalVault
from booking.store.engine import LOCK_TIMEOUT_MS, STATEMENT_TIMEOUT_MS, Store, StoreUnavailable
from booking.waitlist.accepting import POSTGRES_OFFERS, POSTGRES_TAKEN, taken_values

CONNECTIONS = 2
CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 15.0
# A plan that was made while the tables were all but empty takes any index that begins with the hospital, and walks all of it
# when they are full. Planning anew for each batch costs a fifth of the server's time in small batches: once a second is both.
PLANNED_FOR_S = 1.0
SESSION = {
    "application_name": "hisbridge holds",
    "lock_timeout": str(LOCK_TIMEOUT_MS),
    "statement_timeout": str(STATEMENT_TIMEOUT_MS),
    "idle_in_transaction_session_timeout": str(STATEMENT_TIMEOUT_MS),
    "plan_cache_mode": "force_generic_plan",  # while it is kept
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
# The client calls it an internal error when the server cuts the connection while it sends.
_AWAY = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


class PostgresBatches:
    """The batches of a PostgreSQL store, on a few connections of their own: more would make a hot slot slower."""

    parallel = CONNECTIONS

    def __init__(self, store: Store) -> None:
        self._store = store
        self._idle: list[asyncpg.Connection] = []
        self._planned_s: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    async def start(self) -> None:
        """Nothing to do: the first batches connect."""

    async def close(self) -> None:
        """Close the connections."""
        while self._idle:
            await self._idle.pop().close(timeout=CONNECT_TIMEOUT_S)

    async def transact(
        self, hospital_id: str, requests: Sequence[HoldRequest], work: Work, wanted: Wanted | None = None
    ) -> Batch:
        async with self._connection() as connection:
            try:
                await self._begin(connection, hospital_id)
                facts = await self._gather(connection, hospital_id, requests)
                if wanted is not None:
                    await self._look_back(connection, hospital_id, requests, facts, wanted)
                batch = work(facts)
                if batch.granted:
                    await self._write(connection, hospital_id, batch)
            except asyncpg.IntegrityConstraintViolationError as e:
                await connection.execute("rollback")
                raise Violation(e.constraint_name or type(e).__name__) from e
            except (*_AWAY, asyncpg.PostgresError) as e:
                raise StoreUnavailable(_reason(e)) from e
            if not batch.granted:
                await connection.execute("rollback")
                return batch
            try:
                await connection.execute("commit")
            except _AWAY as e:
                raise CommitUnknown(_reason(e)) from e
            except asyncpg.PostgresError as e:
                # The server's own word on a commit: it was rolled back. Unless it says that it is going away.
                if str(e.sqlstate or "")[:2] in ("08", "57", "58"):
                    raise CommitUnknown(_reason(e)) from e
                raise StoreUnavailable(_reason(e)) from e
            return batch

    async def recall(self, hospital_id: str, requests: Sequence[HoldRequest]) -> list[KeyFacts | None]:
        async with self._connection() as connection:
            try:
                await self._begin(connection, hospital_id)
                rows = [
                    await connection.fetchrow(sql.RECALL.format("$1", "$2", "$3"), hospital_id, r.client_id, r.key)
                    for r in requests
                ]
                await connection.execute("rollback")
            except (*_AWAY, asyncpg.PostgresError) as e:
                raise StoreUnavailable(_reason(e)) from e
        return [None if row is None else KeyFacts(*row) for row in rows]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        """A connection that is kept only if it was left outside a transaction."""
        connection = self._idle.pop() if self._idle else await self._connect()
        try:
            yield connection
        finally:
            if connection.is_closed() or connection.is_in_transaction():
                connection.terminate()
            else:
                self._idle.append(connection)

    async def _connect(self) -> Any:
        url = self._store.url
        try:
            return await asyncpg.connect(
                host=url.query.get("host", url.host),
                port=url.port,
                user=url.username,
                password=url.password,
                database=url.database,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=COMMAND_TIMEOUT_S,
                server_settings=SESSION,
            )
        except (*_AWAY, asyncpg.PostgresError) as e:
            raise StoreUnavailable(_reason(e)) from e

    async def _begin(self, connection: Any, hospital_id: str) -> None:
        quoted = hospital_id.replace("'", "''")
        lock = sql.POSTGRES_LOCK.replace("$1", f"'{quoted}'")
        now_s, begin = time.monotonic(), f"begin; {lock}"
        if now_s - self._planned_s.get(connection, 0.0) > PLANNED_FOR_S:
            self._planned_s[connection] = now_s
            begin = f"discard plans; {begin}"
        await connection.execute(begin)  # without parameters all of it goes in one message

    async def _gather(self, connection: Any, hospital_id: str, requests: Sequence[HoldRequest]) -> Facts:
        rows = await connection.fetch(
            sql.POSTGRES_GATHER,
            hospital_id,
            sql.array_literal(list(range(len(requests)))),
            sql.array_literal([r.client_id for r in requests]),
            sql.array_literal([r.key for r in requests]),
            sql.array_literal([r.slot_id for r in requests]),
            sql.array_literal([r.patient_id for r in requests]),
            self._store.given_wall_ms,
        )
        now_ms, seq, room_ms = rows[0][:3]
        facts, merged = read_facts((row[3:] for row in rows), requests, now_ms, seq, room_ms)
        for one in merged:
            await self._follow(connection, hospital_id, facts, one)
        if facts.is_room_open:
            persons = sql.array_literal([patient.person_id for patient in facts.patients.values()])
            places = await connection.fetch(sql.POSTGRES_PLACES, hospital_id, facts.room_ms, persons)
            facts.passes = {person_id: PassFacts(*place) for person_id, *place in places}
        if named := [r.offer for r in requests if r.offer is not None]:
            offers = await connection.fetch(POSTGRES_OFFERS, hospital_id, sql.array_literal(sorted(set(named))))
            facts.offers = {offer.id: offer for offer in starmap(OfferFacts, offers)}
        return facts

    async def _look_back(
        self, connection: Any, hospital_id: str, requests: Sequence[HoldRequest], facts: Facts, wanted: Wanted
    ) -> None:
        vault = HospitalVault(self._store.vault, hospital_id)
        asked = Histories.of_batch("postgresql", hospital_id, wanted, requests, facts, partial(open_record, vault))
        for (statement, values), take in asked.questions():
            sql_text, own, names = statement.for_postgresql
            take(await connection.fetch(sql_text, *[values[n] if n in values else own[n] for n in names]))
        facts.past = asked.past

    async def _follow(self, connection: Any, hospital_id: str, facts: Facts, merged: Merged) -> None:
        request, person_id, schedule_id, user_ref = merged
        for _ in range(LONGEST_CHAIN):
            row = await connection.fetchrow(sql.PERSON.format("$1", "$2"), hospital_id, person_id)
            if row is None:
                return
            if row[2] is None:
                facts.patients[request.client_id, request.patient_id] = PatientFacts(
                    person_id, row[0], row[1], user_ref
                )
                break
            person_id = row[2]
        if schedule_id is None:
            return
        live = await connection.fetchrow(sql.LIVE.format("$1", "$2", "$3", "live"), hospital_id, person_id, schedule_id)
        if live is not None:
            facts.live[person_id, schedule_id] = LiveFacts(*live)

    async def _write(self, connection: Any, hospital_id: str, batch: Batch) -> None:
        for line, rank in batch.hurried:
            await connection.execute(sql.HURRY.format("$1", "$2", "$3"), hospital_id, line, rank)
        if used := batch.places_used(hospital_id):
            await connection.executemany(sql.POSTGRES_PLACE_USED, used)
        for taken in batch.offers:
            for text, values in zip(
                POSTGRES_TAKEN, taken_values(hospital_id, taken, batch.facts.now_ms, batch.facts.seq), strict=True
            ):
                await connection.execute(text, *values)
        fragments = list(batch.fragments)
        await connection.fetch(
            sql.POSTGRES_WRITE,
            hospital_id,
            sql.array_literal([slot.id for slot in batch.slots]),
            sql.array_literal([slot.unreflected for slot in batch.slots]),
            sql.array_literal(list(batch.schedules)),
            sql.array_literal(list(batch.schedules.values())),
            sql.array_literal([date for date, _ in fragments]),
            sql.array_literal([department_id for _, department_id in fragments]),
            batch.facts.seq,
            *sql.postgres_values(batch.rows),
        )


def _reason(error: BaseException) -> str:
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else ''}"
