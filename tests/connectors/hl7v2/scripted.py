"""A HIS whose answers a test writes by hand, and the lines of ours that ask it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from connectors.hl7v2 import er7
from connectors.hl7v2.charset import decode_message
from connectors.hl7v2.client import LinePool, Request
from connectors.hl7v2.dialing import Address
from loadtest.simulators.mllp import END, START, read_frame

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class FakeHis:
    """A listener. `received`: every message that came; `writers`: every connection, in the order they came."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer
        self.received: list[bytes] = []
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0

    @asynccontextmanager
    async def listening(self, port: int = 0, **options: Any) -> AsyncIterator[FakeHis]:
        """Listen; `options` are those of asyncio.start_server."""
        server = await asyncio.start_server(self.serve, "127.0.0.1", port, **options)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in self.writers:
                writer.close()
                await asyncio.gather(writer.wait_closed(), return_exceptions=True)
            await server.wait_closed()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while (payload := await read_frame(reader)) is not None:
                self.received.append(payload)
                if self.answer is not None:
                    await self.answer(payload, writer)
        except OSError:
            pass
        finally:
            writer.close()


def number_of(payload: bytes) -> str:
    """MSH-10."""
    return payload.split(b"|")[9].decode()


def ack(control_id: str, code: str = "AA", *, own_id: str = "9", accept: str = "", body: str = "") -> bytes:
    """A framed answer; `accept` is its MSH-15."""
    head = (
        f"MSH|^~\\&|H|||||ACK^S01|{own_id}|P|2.5.1"
        if not accept
        else f"MSH|^~\\&|H||||||SRR^S01|{own_id}|P|2.5.1|||{accept}"
    )
    return START + f"{head}\rMSA|{code}|{control_id}\r{body}".encode() + END


async def answer_all(payload: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(ack(number_of(payload)))


def request(control_id: str, **how: Any) -> Request:
    return Request(message=f"MSH|^~\\&|HB||||||SRM^S01|{control_id}|P|2.5.1\r".encode(), control_id=control_id, **how)


def read_answer(payload: bytes) -> er7.Message:
    return er7.parse(decode_message(payload, "UNICODE UTF-8").text)


def make_pool(port: int, up: list[bool], connections: int = 1, **options: Any) -> LinePool:
    """Lines to a HIS on this machine. They wait 0.1, 0.2, 0.4 ... s between two tries."""
    given: dict[str, Any] = {
        "max_message_bytes": 10_000,
        "on_up": up.append,
        "on_stray": lambda kind: None,
        "read_answer": read_answer,
        "write_commit": lambda message: (
            f"MSH|^~\\&|HB||||||ACK|1|P|2.5.1\rMSA|CA|{message.value('MSH', 10)}\r".encode()
        ),
        "chance": lambda: 0.0,
    }
    return LinePool(
        Address(host="127.0.0.1", port=port, connect_timeout_s=2.0), connections=connections, **{**given, **options}
    )
