"""Leases on both engines, by the store's clock: fair shares, take-over, fences; and the keeper that follows them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import select

from booking.store.engine import Store
from booking.store.tables import leases, nodes
from scheduler_sync import keeper as keeping
from scheduler_sync.keeper import LeaseKeeper
from scheduler_sync.leases import GLOBAL, LEASE_S, LEASES, Fence, Node, Share, beat, give_back, is_held, leave
from tests.scheduler_sync.peer import until
from tests.stores import Wall

HOSPITALS = ("h1", "h2", "h3")
WANTED = (*HOSPITALS, GLOBAL)
A, B, C = (Node(name, f"127.0.0.1:{n}") for n, name in enumerate(("a", "b", "c"), start=1))


async def beats(store: Store, node: Node, **changes: Any) -> Share:
    return await beat(store, node, **{"wanted": WANTED, "avoid": (), "statuses": {}, **changes})


async def owners(store: Store) -> dict[str, str]:
    """Who holds what now."""
    async with store.read() as tx:
        rows = await tx.all(select(leases))
        return {r["hospital_id"]: r["owner"] for r in rows if r["until_ms"] > tx.now_ms}


# --- the rule ------------------------------------------------------------------------------------------------------


async def test_one_node_holds_everything_when_it_is_alone(store: Store) -> None:
    share = await beats(store, A)
    assert share.mine == set(WANTED)
    assert share.surplus == frozenset()
    assert await owners(store) == dict.fromkeys(WANTED, "a")


async def test_surplus_goes_to_the_newcomer_when_it_is_given_back(store: Store) -> None:
    await beats(store, A)
    assert (await beats(store, B)).mine == frozenset()  # nothing is free
    share = await beats(store, A)
    assert len(share.surplus) == 1  # of three hospitals two nodes hold two at most
    assert GLOBAL not in share.surplus
    await give_back(store, A, share.surplus)
    assert (await beats(store, B)).mine == share.surplus
    assert (await beats(store, A)).surplus == frozenset()


async def test_nobody_takes_more_than_its_share_when_all_leases_are_free(store: Store) -> None:
    for node in (A, B, C):  # three nodes that live and hold nothing
        await beats(store, node, avoid=WANTED)
    for node in (A, B, C):
        assert len((await beats(store, node)).mine - {GLOBAL}) == 1


async def test_lease_is_taken_over_when_its_owner_has_been_silent_for_its_length(store: Store, wall: Wall) -> None:
    await beats(store, A)
    wall.turn(LEASE_S - 0.001)
    share = await beats(store, B)
    assert share.mine == frozenset()
    assert share.next_expiry_ms == share.now_ms + 1  # B knows when to look again
    wall.turn(0.001)
    assert (await beats(store, B)).mine == set(WANTED)
    assert (await beats(store, A)).mine == frozenset()  # what it held is gone, and B holds its own share and more


async def test_lease_lasts_when_its_owner_beats(store: Store, wall: Wall) -> None:
    await beats(store, A)
    for _ in range(5):
        wall.turn(LEASE_S - 1)
        assert (await beats(store, A)).mine == set(WANTED)
        await beats(store, B)
    assert set((await owners(store)).values()) == {"a"}


async def test_fence_is_shut_when_the_clock_has_jumped_past_the_lease(store: Store, wall: Wall) -> None:
    await beats(store, A)
    async with store.write("h1") as tx:
        assert await is_held(tx, A, "h1")
        assert not await is_held(tx, B, "h1")
    wall.turn(LEASE_S)
    async with store.write("h1") as tx:
        assert not await is_held(tx, A, "h1")


async def test_status_is_shown_in_the_lease_when_its_owner_tells_it(store: Store) -> None:
    await beats(store, A)
    await beats(store, A, statuses={"h2": "down"})
    async with store.read() as tx:
        told = {r["hospital_id"]: r["his_status"] for r in await tx.all(select(leases))}
    assert told == {"h1": "up", "h2": "down", "h3": "up", GLOBAL: "up"}


async def test_giving_back_takes_nothing_when_the_lease_is_anothers(store: Store) -> None:
    await beats(store, A)
    await give_back(store, B, WANTED)
    assert await owners(store) == dict.fromkeys(WANTED, "a")


async def test_node_is_not_counted_when_it_has_left(store: Store) -> None:
    await beats(store, A, avoid=WANTED)
    await beats(store, B, avoid=WANTED)
    await leave(store, A.id)
    assert len((await beats(store, B)).mine) == len(WANTED)
    async with store.read() as tx:
        assert [r["id"] for r in await tx.all(select(nodes))] == ["b"]


# --- the keeper ----------------------------------------------------------------------------------------------------


class Work:
    """A tenant that writes down what is done with it."""

    def __init__(self, name: str, fence: Fence, log: list[str]) -> None:
        self.name, self.fence, self._log = name, fence, log
        self.status = "up"
        self.drains = asyncio.Event()
        self.drains.set()
        self.fails: Exception | None = None

    async def start(self) -> None:
        self._log.append(f"start {self.name}")
        if self.fails is not None:
            raise self.fails

    async def stop(self, *, drain: bool) -> None:
        self._log.append(f"{'drain' if drain else 'cut'} {self.name}")
        if drain:
            await self.drains.wait()
        self._log.append(f"end {self.name}")


class Site:
    """One keeper and its tenants, as they come and go."""

    def __init__(self, store: Store, node: Node, names: tuple[str, ...], now_s: Callable[[], float]) -> None:
        self.log: list[str] = []
        self.work: dict[str, Work] = {}
        self.prepare: Callable[[Work], None] = lambda _: None
        makers = {name: (lambda fence, name=name: self._make(name, fence)) for name in names}
        self.keeper = LeaseKeeper(store, node, makers, now_s=now_s)

    def _make(self, name: str, fence: Fence) -> Work:
        self.work[name] = Work(name, fence, self.log)
        self.prepare(self.work[name])
        return self.work[name]

    async def logs(self, line: str, times: int = 1) -> None:
        async def seen() -> bool:
            return self.log.count(line) >= times

        await until(seen)


@pytest.fixture
def seconds(wall: Wall) -> Callable[[], float]:
    """The keeper's own clock: it goes as the wall does."""
    return lambda: wall.now_ms / 1000


@asynccontextmanager
async def running(site: Site) -> AsyncIterator[Site]:
    await site.keeper.start()
    try:
        yield site
    finally:
        await site.keeper.close()


async def test_work_is_drained_before_its_lease_is_given_back_when_it_is_surplus(
    store: Store, seconds: Callable[[], float]
) -> None:
    site = Site(store, A, ("h1", "h2"), seconds)
    async with running(site):
        await site.logs("start h2")
        site.work["h2"].drains.clear()
        await beats(store, B, wanted=("h1", "h2"))
        store.bell.ring(LEASES)
        await site.logs("drain h2")
        assert (await owners(store))["h2"] == "a"  # its work still runs
        site.work["h2"].drains.set()
        await site.logs("end h2")

        async def free() -> bool:
            return "h2" not in await owners(store)

        await until(free)
        assert (await owners(store))["h1"] == "a"


async def test_work_is_cut_at_once_when_another_holds_its_lease(
    store: Store, wall: Wall, seconds: Callable[[], float]
) -> None:
    site = Site(store, A, ("h1",), seconds)
    async with running(site):
        await site.logs("start h1")
        async with store.write(LEASES) as tx:
            await tx.run(leases.update().values(owner="b", until_ms=tx.now_ms + 60_000))
        store.bell.ring(LEASES)
        await site.logs("end h1")
        assert site.log == ["start h1", "cut h1", "end h1"]
        assert await owners(store) == {"h1": "b"}  # and not given back


async def test_work_is_cut_when_no_beat_was_possible_for_the_length_of_a_lease(
    store: Store, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen process: its own clock has moved on, and nothing has been beaten. It stops before it asks the store."""
    asked: list[float] = []
    now_s = [1_000.0]
    frozen = asyncio.Event()

    async def beat_or_hang(*arguments: Any, **options: Any) -> Share:
        if frozen.is_set():
            await asyncio.Event().wait()
        asked.append(now_s[0])
        return await beat(*arguments, **options)

    monkeypatch.setattr(keeping, "beat", beat_or_hang)
    site = Site(store, A, ("h1",), lambda: now_s[0])
    await site.keeper.start()
    await site.logs("start h1")
    fence = site.work["h1"].fence
    async with store.write("h1") as tx:
        assert await fence(tx)
    frozen.set()
    store.bell.ring(LEASES)
    now_s[0] += LEASE_S - keeping.MARGIN_S
    async with store.write("h1") as tx:
        assert not await fence(tx)  # though the store would still say yes
        assert await is_held(tx, A, "h1")
    await site.logs("end h1")
    assert site.log == ["start h1", "cut h1", "end h1"]
    assert "no beat" in (await site.keeper.check() or "")
    await site.keeper.close()


async def test_hospital_is_offered_to_others_and_named_when_its_work_cannot_start(
    store: Store, wall: Wall, seconds: Callable[[], float]
) -> None:
    site = Site(store, A, ("h1", "h2"), seconds)

    def break_h1(work: Work) -> None:
        if work.name == "h1":
            work.fails = OSError("the port is taken")

    site.prepare = break_h1
    async with running(site):
        await site.logs("end h1")

        async def given_back() -> bool:
            return "h1" not in await owners(store)

        await until(given_back)
        assert await site.keeper.check() == "h1: the port is taken"
        site.prepare = lambda _: None
        wall.turn(keeping.RETRY_S)
        store.bell.ring(LEASES)
        await site.logs("start h1", 2)

        async def well() -> bool:
            return await site.keeper.check() is None

        await until(well)


async def test_everything_is_drained_and_given_back_when_the_keeper_closes(
    store: Store, seconds: Callable[[], float]
) -> None:
    site = Site(store, A, WANTED, seconds)
    async with running(site):
        for name in WANTED:
            await site.logs(f"start {name}")
    assert sorted(site.log) == sorted(f"{step} {name}" for step in ("start", "drain", "end") for name in WANTED)
    assert await owners(store) == {}
    async with store.read() as tx:
        assert await tx.all(select(nodes)) == []


async def test_leases_of_a_predecessor_are_taken_at_once_when_it_has_certainly_ended(
    store: Store, seconds: Callable[[], float]
) -> None:
    await beats(store, A, wanted=("h1",))
    site = Site(store, B, ("h1",), seconds)
    site.keeper = LeaseKeeper(store, B, {"h1": lambda fence: site._make("h1", fence)}, predecessor="a", now_s=seconds)
    async with running(site):
        await site.logs("start h1")
        assert await owners(store) == {"h1": "b"}
        async with store.read() as tx:
            assert [r["id"] for r in await tx.all(select(nodes))] == ["b"]


async def test_status_is_told_at_once_when_it_changes(store: Store, seconds: Callable[[], float]) -> None:
    site = Site(store, A, ("h1",), seconds)
    async with running(site):
        await site.logs("start h1")
        site.work["h1"].status = "down"

        async def told() -> bool:
            async with store.read() as tx:
                return [r["his_status"] for r in await tx.all(select(leases))] == ["down"]

        await until(told)
