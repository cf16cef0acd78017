"""Connections that are kept beside the work, and the gauge that says whether the HIS takes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from connectors.hl7v2.client import LinePool, NoAnswer, NotSent
from loadtest.ports import free_port
from monitoring.metrics import REGISTRY
from tests.connectors.hl7v2.conftest import HOSPITAL, MakeConnector
from tests.connectors.hl7v2.scripted import FakeHis, answer_all, make_pool, request


@asynccontextmanager
async def kept(port: int, up: list[bool], **options: Any) -> AsyncIterator[LinePool]:
    pool = make_pool(port, up, **options)
    pool.start()
    try:
        yield pool
    finally:
        await pool.close()


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110 - the pool tells by calling, not by an event
            await asyncio.sleep(0.01)


async def test_gauge_tells_of_an_outage_and_of_its_end_when_nothing_is_asked() -> None:
    up: list[bool] = []
    port = free_port()
    async with FakeHis(answer_all).listening(port), kept(port, up) as pool:
        await until(lambda: up == [True])
        await pool.request(request("M1"), 2.0)
    # The HIS and the pool are gone; another pool begins while nobody listens.
    up.clear()
    async with kept(port, up) as pool:
        await until(lambda: len(up) >= 3)
        assert set(up) == {False}
        async with FakeHis(answer_all).listening(port) as his:
            await until(lambda: up[-1])
            assert his.connections == 1
            # The first request after the outage finds the connection there.
            await pool.request(request("M2"), 2.0)
            assert his.connections == 1


async def test_connection_is_made_again_when_the_his_resets_it() -> None:
    up: list[bool] = []
    async with FakeHis(answer_all).listening() as his, kept(his.port, up) as pool:
        await until(lambda: his.connections == 1)
        await pool.request(request("M1"), 2.0)
        his.writers[0].transport.abort()
        await until(lambda: his.connections == 2)
        await until(lambda: up[-1])
        await pool.request(request("M2"), 2.0)
        assert his.connections == 2


@pytest.mark.parametrize(("options", "expected"), [({}, 2), ({"reuse_within_s": 5.0}, 1), ({"persistent": False}, 1)])
async def test_connection_that_the_his_closed_is_made_again_only_when_one_is_to_be_kept(
    options: dict[str, Any], expected: int
) -> None:
    up: list[bool] = []
    async with FakeHis(answer_all).listening() as his, kept(his.port, up, **options) as pool:
        await until(lambda: his.connections == 1)
        if options.get("persistent", True):
            await pool.request(request("M1"), 2.0)
            his.writers[0].close()
        await until(lambda: his.connections >= expected)
        await asyncio.sleep(0.3)  # no more than that
        assert his.connections == expected
        assert up[-1]  # an orderly end of a connection that served is no outage


async def test_tries_become_rarer_when_the_his_closes_every_connection_at_once() -> None:
    up: list[bool] = []
    connections = 0

    async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    server = await asyncio.start_server(close_at_once, "127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with kept(server.sockets[0].getsockname()[1], up):
        await until(lambda: connections >= 4)
        assert loop.time() - began_s >= 0.1 + 0.2 + 0.4  # the pauses
        await until(lambda: not up[-1])
    server.close()
    await server.wait_closed()


async def test_nothing_is_left_when_the_pool_closes() -> None:
    before, up = asyncio.all_tasks(), list[bool]()
    async with FakeHis().listening() as his:
        pool = make_pool(his.port, up, connections=3)
        pool.start()
        asking = [asyncio.create_task(pool.request(request(f"M{n}"), 5.0)) for n in range(3)]
        await until(lambda: len(his.received) == 3)
        await pool.close()
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(result) for result in results] == [NoAnswer] * 3
        assert up == [True, True, True, False]
        with pytest.raises(NotSent, match="closing"):
            await pool.request(request("M9"), 1.0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_connection_is_made_again_when_a_message_on_it_drips_for_as_long_as_it_may() -> None:
    """A message has its time from its beginning, however often a byte of it comes."""
    async with FakeHis(answer_all).listening() as his, kept(his.port, [], frame_timeout_s=0.3):
        await until(lambda: his.connections == 1)
        his.writers[0].write(b"\x0bMSH|")
        async with asyncio.timeout(10):
            while his.connections == 1:
                his.writers[0].write(b"x")
                await asyncio.sleep(0.05)


async def test_metric_tells_whether_the_his_can_be_reached_when_nothing_is_asked(make_connector: MakeConnector) -> None:
    def is_up() -> bool:
        return REGISTRY.get_sample_value("hisbridge_connector_up", {"hospital": HOSPITAL.id, "connector": "hl7"}) == 1

    port = free_port()
    async with FakeHis(answer_all).listening(port) as his:
        connector = make_connector("hl7v2", host="127.0.0.1", port=port)
        await connector.start()
        await until(is_up)
    his.writers[0].transport.abort()
    await until(lambda: not is_up())
    async with FakeHis(answer_all).listening(port):
        await until(is_up)
        await connector.close()
        assert not is_up()
