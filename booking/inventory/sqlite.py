"""A batch on SQLite, on the connection whose statements are executed on the event loop (see `booking.store.here`).

Each sqlite3 call gives up the interpreter's lock and must get it back. In a thread beside a busy loop that costs up to a switch
interval for every statement; on the loop it costs nothing, and a batch's statements are short.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import starmap

import msgspec

from booking.inventory import statements as sql
from booking.inventory.gathered import Merged, read_facts
from booking.inventory.histories import Histories, open_record
from booking.inventory.outcomes import Violation, Work
from booking.inventory.requests import Facts, HoldRequest, KeyFacts, LiveFacts, OfferFacts, PassFacts, PatientFacts
from booking.inventory.rows import WRITTEN, Batch
from booking.rules.settings import Wanted
from booking.store.crypto import HospitalVault
from booking.store.engine import Store, StoreUnavailable
from booking.store.here import LoopConnection
from booking.waitlist.accepting import SQLITE_OFFERS, SQLITE_TAKEN, taken_values

_encode = msgspec.json.Encoder().encode
LONGEST_CHAIN = 10  # of merges: it is short; a ring would be a fault of ours


class SqliteBatches:
    """The batches of a SQLite store. The store's turn must be held while one runs."""

    parallel = 1

    def __init__(self, store: Store) -> None:
        self._store = store

    async def start(self) -> None:
        """Nothing to do: the store connects at its first use."""

    async def close(self) -> None:
        """Nothing to do: the connection is the store's."""

    async def transact(
        self, hospital_id: str, requests: Sequence[HoldRequest], work: Work, wanted: Wanted | None = None
    ) -> Batch:
        # Nobody sees a commit that failed here, and the next one is written in its place. Should we die before that, all of it
        # may turn out to be stored: then a repeat with the same key finds it.
        async with self._transaction() as lent:
            facts = self._gather(lent.raw, hospital_id, requests)
            if wanted is not None:
                self._look_back(lent.raw, hospital_id, requests, facts, wanted)
            batch = work(facts)
            if batch.granted:
                self._write(lent.raw, hospital_id, batch)
            else:
                lent.kept = False  # refusals leave nothing to keep
        if batch.granted:
            self._store.remember_clock(hospital_id, batch.facts.now_ms)
        return batch

    async def recall(self, hospital_id: str, requests: Sequence[HoldRequest]) -> list[KeyFacts | None]:
        async with self._transaction() as lent:
            lent.kept = False
            rows = [
                lent.raw.execute(sql.RECALL.format("?", "?", "?"), (hospital_id, r.client_id, r.key)).fetchone()
                for r in requests
            ]
        return [None if row is None else KeyFacts(*row) for row in rows]

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[LoopConnection]:
        """Raises StoreUnavailable, Violation."""
        try:
            async with self._store.on_loop.begin() as lent:
                yield lent
        except sqlite3.IntegrityError as e:
            raise Violation(str(e)) from e
        except sqlite3.Error as e:
            raise StoreUnavailable(_reason(e)) from e

    def _gather(self, connection: sqlite3.Connection, hospital_id: str, requests: Sequence[HoldRequest]) -> Facts:
        tick = connection.execute(sql.SQLITE_TICK, (hospital_id, self._store.wall_ms())).fetchone()
        items = _encode([(n, r.client_id, r.key, r.slot_id, r.patient_id) for n, r in enumerate(requests)]).decode()
        rows = connection.execute(sql.SQLITE_GATHER, {"hospital_id": hospital_id, "items": items})
        facts, merged = read_facts(rows, requests, *tick)
        facts.last_event = connection.execute(sql.SQLITE_LAST_EVENT).fetchone()[0]
        for one in merged:
            self._follow(connection, hospital_id, facts, one)
        if facts.is_room_open:
            persons = _encode([patient.person_id for patient in facts.patients.values()]).decode()
            places = connection.execute(sql.SQLITE_PLACES, (hospital_id, facts.room_ms, persons))
            facts.passes = {person_id: PassFacts(*place) for person_id, *place in places}
        if named := [r.offer for r in requests if r.offer is not None]:
            offers = connection.execute(SQLITE_OFFERS, (hospital_id, _encode(sorted(set(named))).decode()))
            facts.offers = {offer.id: offer for offer in starmap(OfferFacts, offers)}
        return facts

    def _look_back(
        self,
        connection: sqlite3.Connection,
        hospital_id: str,
        requests: Sequence[HoldRequest],
        facts: Facts,
        wanted: Wanted,
    ) -> None:
        vault = HospitalVault(self._store.vault, hospital_id)
        asked = Histories.of_batch("sqlite", hospital_id, wanted, requests, facts, partial(open_record, vault))
        for (statement, values), take in asked.questions():
            take([tuple(row.values()) for row in statement.rows(connection, values)])
        facts.past = asked.past

    def _follow(self, connection: sqlite3.Connection, hospital_id: str, facts: Facts, merged: Merged) -> None:
        request, person_id, schedule_id, user_ref = merged
        for _ in range(LONGEST_CHAIN):
            row = connection.execute(sql.PERSON.format("?", "?"), (hospital_id, person_id)).fetchone()
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
        live = connection.execute(
            sql.LIVE.format("?", "?", "?", "live = 1"), (hospital_id, person_id, schedule_id)
        ).fetchone()
        if live is not None:
            facts.live[person_id, schedule_id] = LiveFacts(*live)

    def _write(self, connection: sqlite3.Connection, hospital_id: str, batch: Batch) -> None:
        connection.executemany(sql.SQLITE_SLOT, [(s.unreflected, hospital_id, s.id) for s in batch.slots])
        connection.executemany(sql.SQLITE_SCHEDULE, [(n, hospital_id, i) for i, n in batch.schedules.items()])
        connection.executemany(
            sql.SQLITE_FRAGMENT, [(hospital_id, *fragment, batch.facts.seq) for fragment in batch.fragments]
        )
        for line, rank in batch.hurried:
            connection.execute(sql.HURRY.format("?1", "?2", "?3"), (hospital_id, line, rank))
        connection.executemany(sql.SQLITE_PLACE_USED, batch.places_used(hospital_id))
        for taken in batch.offers:
            for text, values in zip(
                SQLITE_TAKEN, taken_values(hospital_id, taken, batch.facts.now_ms, batch.facts.seq), strict=True
            ):
                connection.execute(text, values)
        for client_id, key in batch.facts.old_keys:
            connection.execute(sql.SQLITE_FORGET, (hospital_id, client_id, key))
        for table, rows in zip(WRITTEN, batch.rows, strict=True):
            at = 0
            while at < len(rows):
                insert = sql.sqlite_insert(table, len(rows) - at)
                connection.execute(insert.text, insert.values(rows[at : at + insert.size]))
                at += insert.size


def _reason(error: sqlite3.Error) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
