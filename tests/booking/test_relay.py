"""Bells that ring in other processes: two stores on one PostgreSQL stand for two processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from booking.store import relay as relaying
from booking.store.engine import Store
from booking.store.relay import PAYLOAD_BYTES, TOLD_BURST, TOLD_PER_S, Relay, pack
from tests.postgres import PostgresServer
from tests.stores import UrlOf, opened

pytestmark = pytest.mark.parametrize("engine", ["postgresql"])
PATIENCE_S = 30.0


@asynccontextmanager
async def relayed(url: str) -> AsyncIterator[tuple[Store, Relay]]:
    async with opened(url) as store:
        relay = Relay(store)
        await relay.start()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await relay.connected.wait()
            yield store, relay
        finally:
            await relay.close()


async def heard(store: Store, topic: str) -> None:
    """Wait for a ring; there is no poll here that could stand in for it."""
    assert await store.bell.wait(topic, PATIENCE_S)


async def test_ring_is_heard_in_another_process_when_its_transaction_is_committed(database: UrlOf) -> None:
    url = database("store")
    async with relayed(url) as (here, _), relayed(url) as (there, _):
        ring = asyncio.ensure_future(heard(there, "booking:1"))
        async with here.write("h1") as tx:
            tx.ring("booking:1")
        await ring


async def test_nothing_is_heard_when_the_transaction_is_rolled_back(database: UrlOf) -> None:
    url = database("store")
    async with relayed(url) as (here, _), relayed(url) as (there, _):
        undone = there.bell.listen("undone")
        with suppress(LookupError):
            async with here.write("h1") as tx:
                tx.ring("undone")
                raise LookupError
        ring = asyncio.ensure_future(heard(there, "done"))
        async with here.write("h1") as tx:
            tx.ring("done")
        await ring
        assert not undone.done()
        undone.cancel()


async def test_own_ring_is_heard_once_when_it_comes_back(database: UrlOf) -> None:
    url = database("store")
    async with relayed(url) as (here, _), relayed(url) as (there, _):
        first = here.bell.listen("mine")
        async with here.write("h1") as tx:
            tx.ring("mine")
        assert first.done()
        again = here.bell.listen("mine")
        # What follows on the same connection has passed everything before it.
        ring = asyncio.ensure_future(heard(here, "theirs"))
        elsewhere = asyncio.ensure_future(heard(there, "mine"))
        here.ring(["mine"])
        await elsewhere
        assert again.done()  # by the local ring of this very line
        third = here.bell.listen("mine")
        there.ring(["theirs"])
        await ring
        assert not third.done()
        third.cancel()


async def test_every_topic_is_heard_when_one_commit_has_more_than_a_payload_holds(database: UrlOf) -> None:
    url = database("store")
    topics = [f"booking:{n:036}" for n in range(1_000)]
    async with relayed(url) as (here, _), relayed(url) as (there, _):
        rings = [there.bell.listen(topic) for topic in topics]
        async with here.write("h1") as tx:
            for topic in topics:
                tx.ring(topic)
        done, pending = await asyncio.wait(rings, timeout=PATIENCE_S)
        assert (len(done), len(pending)) == (len(topics), 0)


async def test_rings_are_heard_again_when_the_connection_was_cut(
    database: UrlOf, postgres_server: PostgresServer
) -> None:
    url = database("store")
    async with relayed(url) as (here, relay), relayed(url) as (there, other):
        await asyncio.to_thread(
            postgres_server.run_sql,
            "select pg_terminate_backend(pid) from pg_stat_activity"
            f" where datname = '{here.url.database}' and (query ilike 'listen%' or query ilike '%pg_notify%')",
        )
        async with asyncio.timeout(PATIENCE_S):
            while not await there.bell.wait("again", 0.2):
                here.ring(["again"])
        assert relay.connected.is_set()
        assert other.connected.is_set()


async def test_a_silent_connection_is_asked_whether_it_lives(
    database: UrlOf, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaying, "CHECK_S", 0.05)
    async with relayed(database("store")) as (here, _):
        name = here.url.database or ""

        def checked() -> str:
            return postgres_server.run_sql(
                f"select count(*) from pg_stat_activity where datname = '{name}' and query = 'select 1'"
            )

        async with asyncio.timeout(PATIENCE_S):
            while await asyncio.to_thread(checked) != "1":  # noqa: ASYNC110  # what is waited for lies in the server
                await asyncio.sleep(0.02)


def test_topics_are_packed_into_payloads_that_postgresql_takes(engine: str) -> None:
    topics = [f"topic:{n}:{'号' * (n % 50)}" for n in range(3_000)]
    payloads = list(pack(topics))
    assert all(len(payload.encode()) <= PAYLOAD_BYTES < 8_000 for payload in payloads)
    assert [topic for payload in payloads for topic in payload.split("\n")] == topics
    assert list(pack([])) == []


async def test_messages_are_few_and_nothing_is_lost_when_it_rings_all_the_time(database: UrlOf) -> None:
    url, told = database("store"), 0

    class Counting(Relay):
        def _hear(self, connection: Any, sender: int, channel: str, payload: str) -> None:
            nonlocal told
            told += 1
            super()._hear(connection, sender, channel, payload)

    async with relayed(url) as (here, _), opened(url) as there:
        relay = Counting(there)
        await relay.start()
        async with asyncio.timeout(PATIENCE_S):
            await relay.connected.wait()
        rings = [asyncio.ensure_future(heard(there, f"booking:{n}")) for n in range(200)]
        await asyncio.sleep(0)
        began_s = time.monotonic()
        for n in range(200):
            here.ring([f"booking:{n}"])
            await asyncio.sleep(0.005)
        await asyncio.gather(*rings)
        took_s = time.monotonic() - began_s
        await relay.close()
    assert told <= TOLD_BURST + took_s * TOLD_PER_S + 1
