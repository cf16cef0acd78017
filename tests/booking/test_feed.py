"""The change feed: it tells all that was committed, knows how old its knowledge is, and knows the store's clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from booking.allowance import Allowance
from booking.feed import ChangeFeed, changes, poller
from booking.feed.poller import FRAGMENTS, KEYS, listing_statement
from booking.idempotency import remember
from booking.store.engine import Store
from monitoring.metrics import REGISTRY
from tests.booking.world import HOSPITAL
from tests.stores import BEGIN_MS, UrlOf, Wall, opened, unreachable

OTHER = "h2"


class Told:
    """Everything that a feed has told."""

    def __init__(self, feed: ChangeFeed) -> None:
        self.fragments: list[tuple[str, str, str, int]] = []
        self.keys: list[tuple[str, str, str]] = []
        feed.listen(on_fragment=lambda *f: self.fragments.append(f), on_key=lambda *k: self.keys.append(k))


@asynccontextmanager
async def feeding(store: Store) -> AsyncIterator[tuple[ChangeFeed, Told]]:
    """A feed over connections of its own, as another process has it; its first poll has ended."""
    url = store.url.render_as_string(hide_password=False)
    async with opened(url, wall=lambda: store.given_wall_ms or 0) as other:
        feed = ChangeFeed(other, [HOSPITAL, OTHER], alone=False)
        told = Told(feed)
        await feed.start()
        try:
            await feed.catch_up(10)
            yield feed, told
        finally:
            await feed.close()


@asynccontextmanager
async def feeding_alone(store: Store) -> AsyncIterator[tuple[ChangeFeed, Told]]:
    """The feed of the process that writes."""
    feed = ChangeFeed(store, [HOSPITAL])
    told = Told(feed)
    await feed.start()
    try:
        await feed.catch_up(10)
        yield feed, told
    finally:
        await feed.close()


async def touch(store: Store, *days: tuple[str, str], hospital_id: str = HOSPITAL) -> int:
    """A commit that changes these departments' days; its number."""
    async with store.write(hospital_id) as tx:
        for day in days:
            tx.touch(*day)
        return tx.seq


async def accept(store: Store, *keys: str, hospital_id: str = HOSPITAL) -> None:
    """A commit that binds these keys."""
    async with store.write(hospital_id) as tx:
        for key in keys:
            await remember(tx, "portal", key, "", 201, b"")


async def see(feed: ChangeFeed, hospital_id: str, seq: int) -> None:
    """Until the feed knows this write."""
    async with asyncio.timeout(10):
        while feed.seen(hospital_id) < seq:
            await feed.catch_up(1)


async def test_what_was_written_before_the_start_is_told(store: Store) -> None:
    seq = await touch(store, ("2031-03-04", "D1"), ("", ""))
    await accept(store, "k1")
    async with feeding(store) as (feed, told):
        assert sorted(told.fragments) == [(HOSPITAL, "", "", seq), (HOSPITAL, "2031-03-04", "D1", seq)]
        assert told.keys == [(HOSPITAL, "portal", "k1")]
        assert feed.seen(HOSPITAL) == 2


async def test_every_commit_is_told_when_other_processes_write(store: Store) -> None:
    async with feeding(store) as (feed, told):
        wrote = []
        for n in range(20):
            hospital_id = (HOSPITAL, OTHER)[n % 2]
            wrote.append((hospital_id, f"d{n}", "D1", await touch(store, (f"d{n}", "D1"), hospital_id=hospital_id)))
            await accept(store, f"k{n}", hospital_id=hospital_id)
        for hospital_id in (HOSPITAL, OTHER):
            await see(feed, hospital_id, 20)
        assert set(told.fragments) == set(wrote)
        assert {key for _, _, key in told.keys} == {f"k{n}" for n in range(20)}


async def test_keys_are_told_when_several_commits_share_a_millisecond(store: Store) -> None:
    """The clock of this store stands still: in a crowd many commits have one time."""
    async with feeding(store) as (feed, told):
        for n in range(3):
            await accept(store, f"z{9 - n}", f"a{n}")
            await see(feed, HOSPITAL, n + 1)
        assert {key for _, _, key in told.keys} == {"z9", "z8", "z7", "a0", "a1", "a2"}


@pytest.mark.parametrize("engine", ["sqlite"])
async def test_own_keys_are_told_and_not_read_back_when_there_is_one_process(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accept(store, "before")
    read: list[str] = []
    pages = poller.Poller.pages

    def note(self: poller.Poller, listing: poller.Listing, places: dict[str, poller.Place]) -> Any:
        read.extend(places if listing is poller.KEYS else ())
        return pages(self, listing, places)

    async with feeding_alone(store) as (feed, told):
        assert [key for _, _, key in told.keys] == ["before"]
        monkeypatch.setattr(poller.Poller, "pages", note)
        await accept(store, "k1")
        assert [key for _, _, key in told.keys] == ["before", "k1"]
        await touch(store, ("d", "D1"))
        await see(feed, HOSPITAL, 3)
    assert read == []


@pytest.mark.parametrize("engine", ["sqlite"])
async def test_key_is_told_when_nobody_saw_the_end_of_its_write(store: Store) -> None:
    async def write() -> None:
        async with store.write(HOSPITAL) as tx:
            await remember(tx, "portal", "cut off", "", 201, b"")
            await tx.conn.exec_driver_sql("commit")
            raise asyncio.CancelledError

    async with feeding_alone(store) as (feed, told):
        await accept(store, "k1")
        await see(feed, HOSPITAL, 1)
        with pytest.raises(asyncio.CancelledError):
            await write()
        await accept(store, "k2")
        await see(feed, HOSPITAL, 3)
        assert (HOSPITAL, "portal", "cut off") in told.keys


async def test_keys_of_a_day_ago_are_not_loaded(store: Store, wall: Wall) -> None:
    await accept(store, "yesterday")
    wall.turn(25 * 3600)
    await accept(store, "today")
    async with feeding(store) as (_, told):
        assert [key for _, _, key in told.keys] == ["today"]


async def test_nothing_is_missed_when_there_is_more_than_a_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "PAGE", 3)
    for hospital_id, count in ((HOSPITAL, 10), (OTHER, 3)):
        await touch(store, *((f"d{n}", "D1") for n in range(count)), hospital_id=hospital_id)
        await accept(store, *(f"k{n}" for n in range(count)), hospital_id=hospital_id)
    async with feeding(store) as (_, told):
        assert len(told.fragments) == len(set(told.fragments)) == 13
        assert len(told.keys) == len(set(told.keys)) == 13


async def test_everything_is_told_to_one_who_listens_late(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also to one who comes in the middle of a poll: it must not look as if it knew all."""
    await touch(store, ("d", "D1"))
    await accept(store, "k1")
    late: list[Told] = []
    fragments = ChangeFeed._read_fragments

    async def come_meanwhile(self: ChangeFeed, hospital_ids: list[str]) -> None:
        await fragments(self, hospital_ids)
        if len(late) == 1:
            late.append(Told(self))
            assert self.age_ms() == float("inf")

    async with feeding(store) as (feed, first):
        assert first.fragments == [(HOSPITAL, "d", "D1", 1)]
        monkeypatch.setattr(ChangeFeed, "_read_fragments", come_meanwhile)
        late.append(Told(feed))
        assert feed.age_ms() == float("inf")
        await until(lambda: feed.age_ms() < 1_000)
        assert [(HOSPITAL, "d", "D1", 1) in told.fragments for told in late] == [True, True]
        assert [(HOSPITAL, "portal", "k1") in told.keys for told in late] == [True, True]


async def test_own_write_is_told_without_waiting_for_the_next_poll(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "POLL_S", 3600.0)
    feed = ChangeFeed(store, [HOSPITAL])
    told = Told(feed)
    await feed.start()
    try:
        await feed.catch_up(10)
        for n in range(1, 4):
            await touch(store, ("d", "D1"))
            await asyncio.sleep(0)  # the ring comes with the next turn of the loop
            assert feed.is_behind(HOSPITAL)
            await feed.catch_up(10)
            assert not feed.is_behind(HOSPITAL)
            assert told.fragments[-1] == (HOSPITAL, "d", "D1", n)
    finally:
        await feed.close()


async def test_age_is_infinite_when_the_store_was_never_reached(engine: str, tmp_path: Any) -> None:
    async with unreachable(engine, tmp_path) as store:
        feed = ChangeFeed(store, [HOSPITAL])
        await feed.start()
        try:
            await feed.catch_up(10)
            assert feed.age_ms() == float("inf")
            assert REGISTRY.get_sample_value("hisbridge_feed_age_seconds") == float("inf")
            assert feed.seen(HOSPITAL) == 0
        finally:
            await feed.close()


async def test_age_grows_and_nothing_is_lost_when_the_store_is_away_for_a_while(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with feeding(store) as (feed, told):
        clocks = poller.Poller.clocks

        async def fail(self: poller.Poller) -> poller.Clocks:
            raise OSError("away")

        monkeypatch.setattr(poller.Poller, "clocks", fail)
        seq = await touch(store, ("d", "D1"))
        await until(lambda: feed.age_ms() > 300)
        assert told.fragments == []
        monkeypatch.setattr(poller.Poller, "clocks", clocks)
        await until(lambda: feed.seen(HOSPITAL) == seq)
        assert told.fragments == [(HOSPITAL, "d", "D1", seq)]
        await until(lambda: feed.age_ms() < 200)


async def until(reached: Callable[[], bool]) -> None:
    """Wait for what must come; the test's own time limit ends it."""
    while not reached():  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), asyncpg.InternalClientError("another operation")])
async def test_feed_goes_on_when_a_listener_or_the_driver_fails(store: Store, error: Exception) -> None:
    """What a listener was told when it failed is told again."""
    async with feeding(store) as (feed, told):
        failures = [error]

        def fail_once(*_: Any) -> None:
            if failures:
                raise failures.pop()

        feed.listen(on_fragment=fail_once)
        seq = await touch(store, ("d", "D1"))
        await until(lambda: feed.seen(HOSPITAL) == seq and feed.age_ms() < 1_000)
        assert failures == []
        assert (HOSPITAL, "d", "D1", seq) in told.fragments


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_feed_goes_on_when_its_connection_is_cut(store: Store) -> None:
    async with feeding(store) as (feed, told):
        async with store.read() as tx:
            await tx.all(text("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
                              " and datname = current_database()"))  # fmt: skip
        await store.close()  # its own were cut as well
        seq = await touch(store, ("d", "D1"))
        await until(lambda: feed.seen(HOSPITAL) == seq)
        assert (HOSPITAL, "d", "D1", seq) in told.fragments


async def test_clock_is_the_stores_and_never_behind_its_last_commit(store: Store, wall: Wall) -> None:
    async with feeding(store) as (feed, _):
        assert feed.store_now_ms() == BEGIN_MS
        wall.turn(3600)
        await touch(store, ("d", "D1"))
        await see(feed, HOSPITAL, 1)
        wall.turn(-1800)
        assert feed.store_now_ms(HOSPITAL) == BEGIN_MS + 3_600_000
        assert feed.store_now_ms() == BEGIN_MS + 1_800_000


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_clock_is_never_ahead_of_postgresql(database: UrlOf) -> None:
    """An opening must not be shown before a hold would be accepted."""
    async with opened(database("store")) as store:
        feed = ChangeFeed(store, [HOSPITAL])
        await feed.start()
        try:
            await feed.catch_up(10)
            for _ in range(20):
                before_ms = await clock_of(store)
                shown_ms = feed.store_now_ms()
                assert shown_ms <= await clock_of(store)
                assert shown_ms > before_ms - 1_000
                await feed.catch_up(1)
        finally:
            await feed.close()


async def clock_of(store: Store) -> int:
    async with store.read() as tx:
        return tx.now_ms


async def test_nothing_runs_on_when_the_feed_is_closed(store: Store) -> None:
    before = asyncio.all_tasks()
    feed = ChangeFeed(store, [HOSPITAL])
    await feed.start()
    await feed.catch_up(10)
    await feed.close()
    assert asyncio.all_tasks() == before
    await touch(store, ("d", "D1"))
    assert feed.seen(HOSPITAL) == 0
    started_s = time.monotonic()
    await feed.catch_up(60)
    assert time.monotonic() - started_s < 60


def test_allowance_is_used_up_and_comes_back() -> None:
    allowance = Allowance(2.0, 3, now_s=100.0)
    for _ in range(3):
        assert allowance.wait_s(100.0) == 0
        allowance.take(100.0)
    assert allowance.wait_s(100.0) == pytest.approx(0.5)
    assert allowance.wait_s(100.5) == 0
    allowance.take(100.5)
    assert allowance.wait_s(100.5) == pytest.approx(0.5)
    assert allowance.wait_s(1000.0) == 0  # after a rest three again, and no more
    for _ in range(3):
        allowance.take(1000.0)
    assert allowance.wait_s(1000.0) == pytest.approx(0.5)


@pytest.mark.parametrize("listing", [FRAGMENTS, KEYS])
async def test_poll_scans_no_table_when_it_was_prepared_on_an_empty_one(
    store: Store, engine: str, listing: poller.Listing
) -> None:
    statement = listing_statement(engine, listing)
    url = store.url.render_as_string(hide_password=False)
    if engine == "sqlite":
        async with store.read() as tx:
            plan = [
                row["detail"]
                for row in await tx.all(
                    text("explain query plan " + statement.replace("?", ":p")),
                    {"p1": HOSPITAL, "p2": 5, "p3": None, "p4": None},
                )
            ]
        assert not [line for line in plan if line.startswith("SCAN")], plan
        assert any("INDEX" in line and f"{listing.at}>?" in line for line in plan), plan
        return
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("set plan_cache_mode = force_generic_plan")
        await connection.execute(f"prepare poll as {statement}")
        asked = "execute poll (array['h1'], array[5], array[null], array[null])"
        await connection.execute(asked)
        await connection.execute(
            f"insert into {listing.table} select * from ("
            "select 'h1', 'd' || n, 'D' || n, n from generate_series(1, 50000) n) r"
            if listing == FRAGMENTS
            else "insert into idempotency_keys select 'h1', 'portal', 'k' || n, '', 201, '', n"
            " from generate_series(1, 50000) n"
        )
        plan = [row[0] for row in await connection.fetch("explain " + asked)]
        assert not [line for line in plan if "Seq Scan" in line], plan
    finally:
        await connection.close()
