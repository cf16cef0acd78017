"""A caller that writes its own bytes: what no HTTP library would send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.parser import BytesHeaderParser
from email.policy import HTTP
from typing import NamedTuple

import msgspec

from monitoring.metrics import REGISTRY
from tests.booking.api.portal import KEY, Portal


class Answered(NamedTuple):
    """One answer as it came. `fields` has the names in small letters."""

    version: str
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(msgspec.json.decode(self.body)["code"])

    @property
    def detail(self) -> str:
        return str(msgspec.json.decode(self.body)["detail"])


class Caller:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read(self, *, head_only: bool = False) -> Answered:
        """The next answer."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)
        version, status, _ = lines[0].decode().split(" ", 2)
        fields = {k.lower(): str(v) for k, v in BytesHeaderParser(policy=HTTP).parsebytes(lines[1]).items()}
        length = 0 if head_only else int(fields.get("content-length", 0))
        return Answered(version, int(status), fields, await self.reader.readexactly(length))

    async def ended(self) -> bytes:
        """What else comes until the server ends the connection."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""

    def hang_up(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def call_raw(portal: Portal) -> AsyncIterator[Caller]:
    """Connect; the connection ends with the block."""
    reader, writer = await asyncio.open_connection(*portal.address)
    try:
        yield Caller(reader, writer)
    finally:
        writer.transport.abort()


def head(method: str, target: str, *lines: str, version: str = "1.1") -> bytes:
    """A request's head with a good key and a Host."""
    fields = (f"Authorization: Bearer {KEY}", "Host: x", *lines)
    return "\r\n".join([f"{method} {target} HTTP/{version}", *fields, "", ""]).encode()


def metric(name: str, **labels: str) -> float:
    """The value of one series now; 0 while it does not exist."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def until_metric(name: str, value: float, **labels: str) -> None:
    """Wait for a series to have a value; the test's own time limit ends a wait in vain."""
    while metric(name, **labels) != value:  # noqa: ASYNC110 - a metric has no event
        await asyncio.sleep(0.005)
