"""Receivers of webhooks that mean harm, or are broken: they answer a status, and nothing else is waited for or kept."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from sqlalchemy import select

from booking.store.engine import Store
from booking.store.tables import webhooks
from booking.webhooks import SCOPE, add_webhook
from scheduler_sync import webhooks as sending_of
from tests.booking.world import CLIENT
from tests.scheduler_sync.peer import until
from tests.scheduler_sync.test_webhook_sender import Receiver, has, hook, receiver, say, sending
from tests.stores import Wall

__all__ = ["receiver"]

Speak = Callable[[asyncio.StreamWriter], Awaitable[None]]
MOST_BYTES = 20_000_000  # that get out of such a receiver: what the buffers of the kernel and one answer hold
OK = b"HTTP/1.1 200 OK\r\n"


class Enemy:
    """Reads a request and answers in its own way; `gone` counts the connections that are closed again."""

    def __init__(self, speak: Speak) -> None:
        self._speak = speak
        self.asked: list[bytes] = []
        self.gone = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head.split(b" ")[1])
            await self._speak(writer)
            while await reader.read(65_536):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.gone += 1
            writer.close()


@asynccontextmanager
async def enemy(speak: Speak, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[tuple[Enemy, str]]:
    it = Enemy(speak)
    server = await asyncio.start_server(it.take, host, port)
    try:
        yield it, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    finally:
        server.close()


async def put_hook(store: Store, url: str) -> str:
    async with store.write(SCOPE) as tx:
        return (await add_webhook(tx, CLIENT, url))[0]


async def of_hook(store: Store, webhook_id: str) -> tuple[int, int]:
    """Cursor and failures."""
    async with store.read() as tx:
        row = await tx.first(select(webhooks).where(webhooks.c.id == webhook_id))
    assert row is not None
    return row["cursor"], row["failures"]


# --- what is answered 200 is taken, whatever else comes -----------------------------------------------------------------

_sent = {"bytes": 0}


async def without_end(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Content-Length: 10000000000\r\n\r\n")
    _sent["bytes"] = 0
    while _sent["bytes"] < 10 * MOST_BYTES:
        writer.write(b"x" * 1_000_000)
        await writer.drain()
        _sent["bytes"] += 1_000_000


async def packed_without_end(writer: asyncio.StreamWriter) -> None:
    """A gigabyte in a megabyte."""
    bomb = gzip.compress(b"\0" * 100_000_000)
    writer.write(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb)
    await writer.drain()


async def drop_by_drop(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\nx\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def never_closed(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"\r\n")
    await writer.drain()


async def broken_length(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Content-Length: 5\r\n\r\nxx")
    await writer.drain()
    writer.close()


async def not_gzip(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!")
    await writer.drain()


@pytest.mark.parametrize(
    "speak", [without_end, packed_without_end, drop_by_drop, never_closed, broken_length, not_gzip]
)
async def test_event_is_taken_and_nothing_is_read_on_when_the_answer_is_200(store: Store, speak: Speak) -> None:
    async with enemy(speak) as (it, url):
        webhook_id = await put_hook(store, url)
        async with sending(store):
            await say(store, 1, 2)
            await until(lambda: _reached(store, webhook_id, 2))
        assert (await of_hook(store, webhook_id))[1] == 0
        assert _sent["bytes"] < MOST_BYTES
        assert it.asked == [b"/hook"] * 2


async def _reached(store: Store, webhook_id: str, cursor: int) -> bool:
    return (await of_hook(store, webhook_id))[0] >= cursor


# --- what is not an answer ------------------------------------------------------------------------------------------


async def only_informs(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100)
        await writer.drain()
        await asyncio.sleep(0.01)


async def head_drop_by_drop(writer: asyncio.StreamWriter) -> None:
    writer.write(OK)
    while True:
        writer.write(b"X")
        await writer.drain()
        await asyncio.sleep(0.05)


async def head_without_end(writer: asyncio.StreamWriter) -> None:
    writer.write(OK)
    while True:
        writer.write(b"X-%d: %s\r\n" % (1, b"x" * 1000))
        await writer.drain()


async def nonsense(writer: asyncio.StreamWriter) -> None:
    writer.write(b"\0\xff not http at all\r\n\r\n")
    await writer.drain()


@pytest.mark.parametrize("speak", [only_informs, head_drop_by_drop, head_without_end, nonsense])
async def test_event_comes_again_when_there_is_no_answer_and_others_get_theirs(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, speak: Speak
) -> None:
    monkeypatch.setattr(sending_of, "TIMEOUT_S", 0.5)
    async with enemy(speak) as (it, url):
        webhook_id = await put_hook(store, url)
        await hook(store, receiver, "well")
        async with sending(store):
            await say(store, 1)
            await until(has(receiver, "well", [1]))

            async def failed() -> bool:
                return (await of_hook(store, webhook_id))[1] == 1

            await until(failed)

            async def let_go() -> bool:
                return it.gone == len(it.asked)

            await until(let_go)
        assert (await of_hook(store, webhook_id))[0] == 0


# --- where it may not lead -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_a_refusal_and_leads_nowhere(store: Store, receiver: Receiver, status: int) -> None:
    async def elsewhere(writer: asyncio.StreamWriter) -> None:
        to = f"{receiver.base}admin".encode()
        writer.write(b"HTTP/1.1 %d Moved\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % (status, to))
        await writer.drain()

    async with enemy(elsewhere) as (it, url):
        webhook_id = await put_hook(store, url)
        async with sending(store):
            await say(store, 1)

            async def failed() -> bool:
                return (await of_hook(store, webhook_id))[1] == 1

            await until(failed)
        assert receiver.got["admin"] == []
        assert it.asked == [b"/hook"]


class Turning(AbstractResolver):
    """A name that leads to the portal when it is registered, and to where clouds keep passwords afterwards."""

    leads_to = "127.0.0.1"

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=self.leads_to,
                port=port,
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        pass


async def test_name_that_leads_elsewhere_since_it_was_judged_is_not_followed(
    store: Store, receiver: Receiver, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is judged by where it leads when it is called, and that is where the call goes."""
    monkeypatch.setattr(aiohttp, "DefaultResolver", Turning)
    port = int(receiver.base.rpartition(":")[2].strip("/"))
    receiver.base = f"http://portal.example:{port}/"
    webhook_id = await hook(store, receiver, "a")
    async with enemy(never_closed, host="127.0.0.2", port=port) as (it, _):
        await say(store, 1)
        async with sending(store, "127.0.0.1/32"):
            await until(has(receiver, "a", [1]))
        monkeypatch.setattr(Turning, "leads_to", "127.0.0.2")
        await say(store, 2)
        async with sending(store, "127.0.0.1/32"):

            async def failed() -> bool:
                return (await of_hook(store, webhook_id))[1] == 1

            await until(failed)
    assert it.asked == []
    assert receiver.got["a"] == [1]
