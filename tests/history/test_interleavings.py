"""Clients, the clock, the HIS and its fetches at once, in every mixture that Hypothesis thinks of, on a real store.

Each round is written down and checked: some order must explain it, the HIS must agree with us when all has settled, and it
must never have been asked for a seat that we had given away already.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from booking.feed import ChangeFeed
from booking.inventory.memory import Memory
from booking.inventory.writer import HoldWriter
from booking.settings import Hospital
from booking.store.engine import Store
from connectors.port import Verb
from tests.booking.world import HOSPITAL, hold_writer
from tests.history.checker import check
from tests.history.clinic import Clinic
from tests.history.driver import Attempt, Driver
from tests.history.operations import History, Outcome
from tests.history.recorder import RecordingStore
from tests.scheduler_sync.peer import Desk, Step, accept, lose_reply, lose_request, refuse
from tests.stores import UrlOf, Wall, make_vault, opened

EXAMPLES = 400 if os.environ.get("HISBRIDGE_TORTURE") == "1" else 12
_rounds = itertools.count(1)


@dataclass
class Site:
    """A store with two writers of holds: on PostgreSQL each with a memory and a feed of its own, as two API processes have."""

    store: RecordingStore
    hospital: Hospital
    wall: Wall
    writers: list[HoldWriter]


@asynccontextmanager
async def remembering(store: Store, writers: int = 1) -> AsyncIterator[list[HoldWriter]]:
    """Writers of one process: they share what it remembers."""
    feed = ChangeFeed(store, [HOSPITAL])
    memory = Memory(feed)
    feed.listen(on_fragment=memory.on_fragment, on_key=memory.on_key)
    await feed.start()
    try:
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(hold_writer(store, memory=memory)) for _ in range(writers)]
    finally:
        await feed.close()


@pytest.fixture
async def site(database: UrlOf, hospital: Hospital, wall: Wall) -> AsyncIterator[Site]:
    url = database("store")
    async with AsyncExitStack() as stack:
        store = RecordingStore(url, make_vault(), wall_ms=wall)
        stack.push_async_callback(store.close)
        if store.dialect == "sqlite":  # it is for one process
            writers = await stack.enter_async_context(remembering(store, 2))
        else:
            other = await stack.enter_async_context(opened(url, wall=wall))
            writers = [one for it in (store, other) for one in await stack.enter_async_context(remembering(it))]
        yield Site(store, hospital, wall, writers)


# --- what may happen --------------------------------------------------------------------------------------------------

_small, _who = st.integers(0, 2), st.integers(0, 5)
_act = st.one_of(
    st.tuples(st.just("hold"), _small, _who),
    st.tuples(st.just("hold"), _small, _who),
    st.tuples(st.just("leave"), _small, _who),
    st.tuples(st.just("again"), _who, _who),
    st.tuples(st.just("cancel"), _who, _who),
    st.tuples(st.just("pay"), _who, _who),
    st.tuples(st.just("pause"), _who, _who),
)
_world_act = st.one_of(
    st.tuples(st.just("turn"), st.sampled_from([1, 7, 31, 61, 400, 901]), _who),
    st.tuples(st.just("fetch"), _small, _who),
    st.tuples(st.just("fetch"), _small, _who),
    st.tuples(st.just("sell"), _small, _who),
    st.tuples(st.just("pause"), _who, _who),
)
Act = tuple[str, int, int]
_programs = st.lists(st.lists(_act, min_size=2, max_size=8), min_size=3, max_size=6)
_fates = st.lists(st.sampled_from(["accept", "accept", "lose_reply", "lose_request", "refuse"]), max_size=8)
_FATES: dict[str, Step] = {
    "accept": accept,
    "lose_reply": lose_reply,
    "lose_request": lose_request,
    "refuse": refuse("not_allowed"),
}


class Client:
    """One of the portals: remembers what it asked for."""

    def __init__(
        self, driver: Driver, number: int, slots: list[str], patients: list[str], common: list[Attempt]
    ) -> None:
        self._driver, self._process = driver, number % 2
        self._slots, self._patients, self._attempts = slots, patients, common

    async def run(self, program: list[Act]) -> None:
        for act, a, b in program:
            await self._do(act, a, b)

    async def _do(self, act: str, a: int, b: int) -> None:
        match act:
            case "hold" | "leave":
                attempt = self._driver.attempt(self._slots[a], self._patients[b])
                self._attempts.append(attempt)
                if act == "hold":
                    await self._driver.hold(attempt, self._process)
                else:
                    await self._driver.leave(attempt, self._process, 3 * b)
            case "pause":
                await asyncio.sleep(0.002 * a)
            case "again" if self._attempts:
                await self._driver.hold(self._attempts[a % len(self._attempts)], b % 2)
            case "cancel" | "pay":
                known = [attempt.booking for attempt in self._attempts if attempt.booking]
                if known:
                    do = self._driver.cancel if act == "cancel" else self._driver.pay
                    await do(known[a % len(known)])


async def run_world(driver: Driver, slots: list[str], program: list[Act]) -> None:
    """The clock, the fetches and the window."""
    for act, a, b in program:
        match act:
            case "turn":
                await driver.turn(a)
            case "fetch":
                await driver.fetch(slots[a], 4 * b)
            case "sell":
                driver.clinic.sell(driver.at_his[slots[a]].id)
            case _:
                await asyncio.sleep(0.002 * a)


@given(
    seats=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    programs=_programs,
    world=st.lists(_world_act, max_size=10),
    fates=st.fixed_dictionaries({Verb.LOCK_SLOT: _fates, Verb.UNLOCK_SLOT: _fates, Verb.REGISTER: _fates}),
)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.timeout(3_600)
async def test_some_order_explains_what_was_seen_when_everything_happens_at_once(
    site: Site, seats: list[int], programs: list[list[Act]], world: list[Act], fates: dict[Verb, list[str]]
) -> None:
    clinic, number = Clinic(), next(_rounds)
    desk = Desk(site.store, site.hospital, clinic, site.wall)
    history = site.store.history = History({})
    driver = Driver(site.store, site.hospital, desk, clinic, site.writers, history)
    # Two slots of one schedule, so that a patient's second hold meets the first, and one of another.
    slots = [await driver.open_slot(n, f"R{number}-{i // 2}") for i, n in enumerate(seats)]
    patients = [await driver.admit() for _ in range(6)]
    history.operations.clear()
    for verb, names in fates.items():
        # What a HIS refuses to release needs a person: no machine can settle it, so it is not part of this.
        clinic.script(verb, *(_FATES[name] for name in names if (verb, name) != (Verb.UNLOCK_SLOT, "refuse")))
    attempts: list[Attempt] = []
    clients = [Client(driver, n, slots, patients, attempts) for n in range(len(programs))]
    desk.open()
    try:
        await asyncio.gather(
            run_world(driver, slots, world), *(c.run(p) for c, p in zip(clients, programs, strict=True))
        )
        await driver.settle()
    finally:
        await desk.die()
    assert check(history) == []
    assert await driver.disagreements() == []


async def test_repeat_at_another_process_is_answered_when_that_one_has_heard_of_the_first(site: Site) -> None:
    """For up to 200 ms it may believe the slot sold out, as it last was there; after that it has the key (DESIGN section 4)."""
    history = site.store.history = History({})
    clinic = Clinic()
    desk = Desk(site.store, site.hospital, clinic, site.wall)
    driver = Driver(site.store, site.hospital, desk, clinic, site.writers, history)
    slot = await driver.open_slot(1, f"A{next(_rounds)}")
    before, ours = driver.attempt(slot, await driver.admit()), driver.attempt(slot, await driver.admit())
    await driver.hold(before, 1)
    await driver.hold(driver.attempt(slot, await driver.admit()), 1)
    await driver.cancel(before.booking)
    await driver.hold(ours, 0)
    booking = ours.booking
    await driver.hold(ours, 1)
    assert check(history) == []
    await asyncio.sleep(0.3)
    await driver.hold(ours, 1)
    last = history.operations[-1]
    assert (last.outcome, last.booking) == (Outcome.OK, booking)
    assert check(history) == []
