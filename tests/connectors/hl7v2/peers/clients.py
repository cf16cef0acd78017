"""Clients of other people's libraries behind one face: each sends a message and reads the acknowledgement by itself."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import hl7
import hl7.client
import hl7.mllp

from tests.connectors.node import Program

BACK_AS = "HIS"
"""MSH-5 of what answers us: whom our messages named as their sender."""


class Ack(NamedTuple):
    """What the peer's own parser found: MSA-1, MSA-2, ERR-3.1 and MSH-5.1."""

    code: str
    named: str
    error: str = ""
    receiver: str = BACK_AS


class Client(Protocol):
    """One foreign client. `send` raises OSError or asyncio.IncompleteReadError when the connection is gone."""

    async def connect(self, port: int, encoding: str = "utf-8") -> None: ...
    async def send(self, message: str) -> Ack: ...
    async def connected(self) -> bool: ...
    async def close(self) -> None: ...


def _read(ack: hl7.Message) -> Ack:
    errors = [segment for segment in ack if str(segment[0]) == "ERR"]
    error = str(errors[0].extract_field(1, 3, 1, 1)) if errors else ""
    return Ack(str(ack["MSA.F1"]), str(ack["MSA.F2"]), error, str(ack["MSH.F5.R1.C1"]))


class PythonHL7:
    """python-hl7's blocking MLLPClient: one `recv` is one acknowledgement for it."""

    def __init__(self) -> None:
        self._client: Any = None
        self.sends_as = self.reads_as = "utf-8"

    async def connect(self, port: int, encoding: str = "utf-8") -> None:
        self.sends_as = self.reads_as = encoding
        self._client = await asyncio.to_thread(hl7.client.MLLPClient, "127.0.0.1", port)

    async def send(self, message: str) -> Ack:
        self._client.encoding = self.sends_as
        answer = await asyncio.to_thread(self._client.send_message, hl7.parse(message))
        if not answer:
            raise ConnectionError("closed")
        assert answer.startswith(b"\x0b")
        assert answer.endswith(b"\x1c\r")
        return _read(hl7.parse(answer[1:-2].decode(self.reads_as)))

    async def connected(self) -> bool:
        def peek() -> bool:
            self._client.socket.setblocking(False)
            try:
                return bool(self._client.socket.recv(1, socket.MSG_PEEK))
            except BlockingIOError:
                return True
            finally:
                self._client.socket.setblocking(True)

        return await asyncio.to_thread(peek)

    async def close(self) -> None:
        self._client.close()


class PythonHL7Streams:
    """python-hl7's asyncio connection."""

    def __init__(self) -> None:
        self.reader: Any = None
        self.writer: Any = None

    async def connect(self, port: int, encoding: str = "utf-8") -> None:
        self.reader, self.writer = await hl7.mllp.open_hl7_connection("127.0.0.1", port, encoding=encoding)

    async def send(self, message: str) -> Ack:
        self.writer.writemessage(hl7.parse(message))
        await self.writer.drain()
        return await self.answer()

    async def answer(self) -> Ack:
        """The next acknowledgement."""
        return _read(await self.reader.readmessage())

    async def connected(self) -> bool:
        return not self.reader.at_eof()

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


class NodeClient:
    """A client of the folder npm."""

    def __init__(self, folder: Path, program: str) -> None:
        self._program = Program(folder, program)

    async def connect(self, port: int, encoding: str = "utf-8") -> None:
        await asyncio.to_thread(self._program.call, "connect", host="127.0.0.1", port=port, encoding=encoding)

    async def send(self, message: str) -> Ack:
        return Ack(**await asyncio.to_thread(self._program.call, "send", message=message))

    async def connected(self) -> bool:
        return bool(await asyncio.to_thread(self._program.call, "connected"))

    async def close(self) -> None:
        await asyncio.to_thread(self._program.call, "close")

    def end(self) -> None:
        self._program.end()
