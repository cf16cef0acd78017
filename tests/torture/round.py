"""One crash round: an installation under load, something killed at a random moment, and a look at what is left.

Patients at three hospitals hold, pay and cancel over HTTP. Whatever they get no answer to they ask again under the same key.
When the load is over and nothing is under way any more, the store, the hospitals and what the patients were told must agree.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from sqlalchemy import select

import service
from booking.store.engine import Store
from booking.store.tables import bookings, outbox
from loadtest.ports import free_port
from tests.acceptance.installation import (
    HOSPITALS,
    KEY,
    Installation,
    Portal,
    lay_out,
    postgres_store,
    run_process,
    until,
)
from tests.history.checker import check
from tests.history.operations import History, Kind
from tests.torture.checks import TAKEN, Aftermath, Ours, Theirs, faults
from tests.torture.clients import Books, Visitor, may_end
from tests.torture.server import DurableServer
from tests.torture.victims import WORKERS, Scene, Victim

PATIENTS = 20
LOAD_S = 2.0
SEATS_A_SLOT = 2
SEATS_A_HOSPITAL = 10  # fewer than the patients would like: the last seat of a slot is what they fight for
DRAIN_S = 240.0  # only ends a round that would never end
FETCHED_S = 60.0  # likewise; the hospitals are asked for their counts every second
# What hangs on a dead database or worker is asked again; longer than the deadlines of the service itself.
CALL_S = aiohttp.ClientTimeout(total=15)
# A lock may have to wait for the crash to be over: nothing but a patient's wish ends a hold. A command's lease is reckoned from
# the deadline of the queue, and what the dead process had claimed waits for its end.
RULES = {"lock_wait_s": 600, "his_queue_deadline_s": 1}
_OPEN = ("queued", "sent", "unknown", "dead")


@dataclass
class Round:
    """What one round has been like."""

    victim: Victim
    seed: int
    struck_s: float = 0.0
    given_before: int = 0
    given: int = 0
    unknowns: int = 0
    operations: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.victim} seed {self.seed}: killed after {self.struck_s:.2f} s and {self.given_before} bookings;"
            f" in all {self.given} bookings, {self.operations} operations, {self.unknowns} of unknown fate,"
            f" {len(self.faults)} faults"
        )


async def run_round(folder: Path, victim: Victim, seed: int, server: DurableServer | None = None) -> Round:
    """Play one round. The history is left in `folder/history-<hospital>.jsonl`, the service's logs beside it."""
    chance = random.Random(f"{victim} {seed}")
    done = Round(victim, seed, struck_s=chance.uniform(0.1, LOAD_S))
    async with AsyncExitStack() as stack:
        scene = await _begin(stack, folder, server)
        site = scene.site
        session = await stack.enter_async_context(aiohttp.ClientSession(site.base_url, timeout=CALL_S))
        books = {hospital_id: Books(History({})) for hospital_id in HOSPITALS}
        visitors = await _visitors(site, Portal(session, KEY), books, chance)
        try:
            await _play(scene, visitors, done, books, worker=chance.randint(1, WORKERS))
            assert scene.process.process.returncode is None, "the service has ended"
            async with service.open_store(service.read_settings(site.config)) as store:
                await until(lambda: _under_way(store), lambda left: not left, what="the drain", within_s=DRAIN_S)
                for hospital_id in HOSPITALS:
                    done.faults += await _look(site, store, hospital_id, books[hospital_id])
        finally:
            for hospital_id, book in books.items():
                book.history.save(folder / f"history-{hospital_id}.jsonl")
            done.unknowns = sum(book.unknowns for book in books.values())
            done.given = _given(books)
            done.operations = sum(len(book.history.operations) for book in books.values())
    return done


async def _begin(stack: AsyncExitStack, folder: Path, server: DurableServer | None) -> Scene:
    # A port that stays: the one process must come back where its clients look for it.
    table: dict[str, Any] = {"listen": f"127.0.0.1:{free_port()}"}
    store = None
    if server is not None:
        store, table["workers"] = await stack.enter_async_context(postgres_store(server)), WORKERS
    site = await stack.enter_async_context(
        lay_out(folder, hospital=RULES, service_table=table, store=store, seats=SEATS_A_SLOT)
    )
    process = await stack.enter_async_context(run_process(site))
    return Scene(site, stack, process, server)


async def _visitors(
    site: Installation, portal: Portal, books: dict[str, Books], chance: random.Random
) -> list[Visitor]:
    """The patients in turn at the three hospitals, each known there already, and the slots that they want."""
    wanted = {hospital_id: await _wanted(site, hospital_id) for hospital_id in HOSPITALS}
    for hospital_id, slots in wanted.items():
        books[hospital_id].history.seats |= {str(slot["id"]): int(slot["remaining"]) for slot in slots}
    places = [HOSPITALS[n % len(HOSPITALS)] for n in range(PATIENTS)]
    patients = await asyncio.gather(*(site.patient(place) for place in places))
    return [
        Visitor(portal, books[place], place, patient, wanted[place], random.Random(chance.getrandbits(64)))
        for place, patient in zip(places, patients, strict=True)
    ]


async def _wanted(site: Installation, hospital_id: str) -> list[dict[str, Any]]:
    """Slots of several schedules, so that a patient's second hold meets the first and a third does not."""
    by_schedule: dict[str, list[dict[str, Any]]] = {}
    for slot in await site.open_slots(hospital_id):
        by_schedule.setdefault(slot["schedule_id"], []).append(slot)
    found: list[dict[str, Any]] = []
    for slots in by_schedule.values():
        for slot in slots[: SEATS_A_HOSPITAL // 2]:
            if sum(int(one["remaining"]) for one in found) < SEATS_A_HOSPITAL:
                found.append(slot)
    return found


async def _play(
    scene: Scene, visitors: Sequence[Visitor], done: Round, books: Mapping[str, Books], *, worker: int
) -> None:
    """Load, the blow at its moment, and load again on what came back, until everybody has an answer to everything."""
    enough = asyncio.Event()

    async def begun() -> int:
        return _given(books)

    async with asyncio.TaskGroup() as group:
        for visitor in visitors:
            group.create_task(visitor.live(enough))
        await until(begun, bool, what="the first booking, so that there is one to lose", within_s=DRAIN_S)
        await asyncio.sleep(done.struck_s)
        done.given_before = _given(books)
        await scene.strike(done.victim, worker)
        await asyncio.sleep(LOAD_S - done.struck_s / 2)
        enough.set()


def _given(books: Mapping[str, Books]) -> int:
    return sum(len(book.bookings) for book in books.values())


async def _under_way(store: Store) -> list[str]:
    """Commands that have not ended, and bookings that wait for one."""
    found = []
    for hospital_id in HOSPITALS:
        async with store.read(hospital_id) as tx:
            mine = outbox.c.hospital_id == hospital_id
            rows = await tx.all(select(outbox).where(mine, outbox.c.status.in_(_OPEN)))
            waiting = await tx.all(
                select(bookings.c.id, bookings.c.state).where(
                    bookings.c.hospital_id == hospital_id,
                    (bookings.c.his_command != "none") | (bookings.c.state == "cancelling"),
                )
            )
        found += [f"{hospital_id} {r['verb']} {r['subject_id']} {r['status']} {r['reason'] or ''}" for r in rows]
        found += [f"{hospital_id} booking {row['id']} {row['state']}" for row in waiting]
    return found


async def _look(site: Installation, store: Store, hospital_id: str, books: Books) -> list[str]:
    """Every fault at one hospital, once its counts have been fetched again."""
    async with store.read(hospital_id) as tx:
        rows = await tx.all(select(bookings).where(bookings.c.hospital_id == hospital_id))
    ours = [Ours(**{name: row[name] for name in Ours.__dataclass_fields__}) for row in rows]
    for row in rows:
        if row["state"] in ("expired", "rejected", "stopped"):
            kind = Kind.EXPIRE if row["state"] == "expired" else Kind.OVER
            ended = may_end(kind, row["id"], row["slot_id"], row["schedule_id"], row["patient_id"], 0.0)
            books.history.operations.append(ended)
    state = await site.clinics[hospital_id].state()
    after = Aftermath(
        given=books.bookings,
        paid=books.paid,
        left=books.left,
        ours=ours,
        theirs=[Theirs(visit["key"], visit["state"]) for visit in state["visits"]],
        oversold=int(state["oversold"]),
        seats=books.history.seats,
        remaining=await _remaining(site, hospital_id, ours, books.history.seats),
    )
    found = [*faults(after), *check(books.history, trust_refusals=False)]
    return [f"{hospital_id}: {fault}" for fault in found]


async def _remaining(
    site: Installation, hospital_id: str, ours: Sequence[Ours], seats: Mapping[str, int]
) -> dict[str, int]:
    """What is on sale, once it is what it should be after the next fetches; what it stayed at, if that never comes."""
    used = Counter(booking.slot_id for booking in ours if booking.his_state in TAKEN)
    wanted = {slot: count - used[slot] for slot, count in seats.items()}
    ends = time.monotonic() + FETCHED_S
    while True:
        items = (await site.portal().get(f"/v1/hospitals/{hospital_id}/slots", limit=200))["items"]
        shown = {item["id"]: int(item["remaining"]) for item in items if item["id"] in wanted}
        if {slot: shown.get(slot, 0) for slot in wanted} == wanted or time.monotonic() > ends:
            return shown
        await asyncio.sleep(0.2)
