"""Listening sockets that are shared, and listeners that end politely; over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from monitoring import acceptor as accepting
from monitoring.acceptor import Acceptor
from monitoring.health import Health
from monitoring.listener import Listener, bind

PATIENCE_S = 30.0


class Greeter(asyncio.Protocol):
    """Says its name to whoever connects, and keeps the connection open."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._name)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    [opened] = bind("127.0.0.1", 0, setting="listen", backlog=256)
    yield opened
    opened.close()


@asynccontextmanager
async def connections(listening: socket.socket, number: int) -> AsyncIterator[list[socket.socket]]:
    """So many callers, connected as far as the kernel is concerned."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(socket.socket()) for _ in range(number)]
        for caller in callers:
            caller.setblocking(False)
            await loop.sock_connect(caller, listening.getsockname())
        yield callers


async def greetings(callers: list[socket.socket]) -> list[bytes]:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE_S):
        return [await loop.sock_recv(caller, 100) for caller in callers]


def acceptor(listening: socket.socket, name: bytes) -> Acceptor:
    """As in another process: with its own copy of the descriptor."""
    return Acceptor(listening.dup(), lambda: Greeter(name), at_once=accepting.SHARED_AT_ONCE)


async def test_a_crowd_is_divided_when_several_accept_from_one_socket(listening: socket.socket) -> None:
    async with connections(listening, 64) as callers:
        one, two = acceptor(listening, b"one"), acceptor(listening, b"two")
        one.start()
        two.start()
        served = await greetings(callers)
        assert (served.count(b"one"), served.count(b"two")) == (32, 32)  # they take turns in this one loop
        await one.close()
        await two.close()


async def test_who_waits_is_served_by_others_when_an_acceptor_has_closed(listening: socket.socket) -> None:
    one = acceptor(listening, b"one")
    one.start()
    await one.close()
    async with connections(listening, 3) as callers:  # the socket is still open
        two = acceptor(listening, b"two")
        two.start()
        assert await greetings(callers) == [b"two"] * 3
        await two.close()


async def test_who_waits_is_served_later_when_descriptors_have_run_out(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "PAUSE_S", 0.01)
    refused = [0]

    class Exhausted(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            if refused[0] < 3:
                refused[0] += 1
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return super().accept()

    one = Acceptor(Exhausted(fileno=os.dup(listening.fileno())), lambda: Greeter(b"one"))
    one.start()
    async with connections(listening, 2) as callers:
        assert await greetings(callers) == [b"one"] * 2
    assert refused == [3]
    await one.close()


@asynccontextmanager
async def served(health: Health) -> AsyncIterator[Listener]:
    async def answer(_request: web.Request) -> web.Response:
        if health.draining:
            return web.Response(status=503)
        response = web.Response(text="well")
        if health.leaving:
            response.force_close()
        return response

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    listener = Listener("test", runner, "127.0.0.1", 0, setting="listen", backlog=16, health=health)
    await listener.start()
    yield listener


async def test_open_connection_gets_a_last_answer_when_its_listener_closes() -> None:
    health = Health()
    async with served(health) as listener:
        host, port = listener.address
        async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
            async with session.get("/") as response:
                assert "Connection" not in response.headers
            closing = asyncio.create_task(listener.close())
            while not health.leaving:  # noqa: ASYNC110  # it has no event to wait for
                await asyncio.sleep(0)
            async with session.get("/") as response:  # over the connection that is open already
                assert (response.status, response.headers["Connection"]) == (200, "close")
            await closing
            assert health.draining
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get("/")


async def test_listener_does_not_wait_when_nobody_is_connected() -> None:
    health = Health()
    async with served(health) as listener:
        await listener.close()
    assert (health.leaving, health.draining) == (True, True)


async def test_all_who_wait_are_taken_in_one_turn_of_the_loop_when_nobody_shares_the_socket(
    listening: socket.socket,
) -> None:
    """A turn in a crowd takes tens of milliseconds: one connection in each is a queue of seconds."""
    async with connections(listening, 100):
        turns, taken = 0, 0

        def made() -> Greeter:
            nonlocal taken
            taken += 1
            return Greeter(b"one")

        one = Acceptor(listening.dup(), made)
        one.start()
        while taken < 100:
            turns += 1
            await asyncio.sleep(0)
        assert turns < 20
        await one.close()
