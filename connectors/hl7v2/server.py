"""The MLLP listener: accepts connections, cuts them into messages, answers each before it reads the next.

What a message means is the receiver's. Messages of one connection are answered in the order they came; while one is being
handled the rest waits in the socket, so that a fast peer is slowed down and not buffered.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Protocol

from connectors.hl7v2.framing import Deframer, Frame, FrameTooLarge, FrameTruncated, Junk, frame
from connectors.hl7v2.wire import Wire
from monitoring.logs import get_logger

log = get_logger(__name__)

WRITE_TIMEOUT_S = 10.0
CLOSE_GRACE_S = 5.0


class Answerer(Protocol):
    """Who answers: each call returns the messages to send back, in order; [] where none is due."""

    async def answer(self, payload: bytes, peer: str) -> Sequence[bytes]: ...
    async def answer_too_large(self, head: bytes, peer: str) -> Sequence[bytes]: ...
    def count_unreadable(self, size: int, reason: str, peer: str) -> None: ...


class MLLPServer:
    """Listens on one port. `max_connections` at once; more are closed as soon as they come.

    A connection is closed after `idle_timeout_s` without a byte, when a message that has begun does not end within
    `frame_timeout_s`, and when the peer does not take our answer within WRITE_TIMEOUT_S.
    """

    def __init__(
        self,
        answerer: Answerer,
        *,
        max_message_bytes: int,
        max_connections: int,
        idle_timeout_s: float,
        frame_timeout_s: float,
    ) -> None:
        self.answerer = answerer
        self.max_message_bytes = max_message_bytes
        self.max_connections = max_connections
        self.idle_timeout_s = idle_timeout_s
        self.frame_timeout_s = frame_timeout_s
        self.refused_connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: dict[asyncio.Task[None], Wire] = {}

    @property
    def port(self) -> int:
        """The port really listened on; 0 before `start`."""
        return self._server.sockets[0].getsockname()[1] if self._server and self._server.sockets else 0

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Wire(self._connected), host, port)

    async def close(self) -> None:
        """Accept no more, let messages in hand be answered (at most CLOSE_GRACE_S), close every connection."""
        if self._server is None:
            return
        self._server.close()
        for task, wire in self._tasks.items():
            if wire.idle:
                task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def _connected(self, wire: Wire) -> None:
        if len(self._tasks) >= self.max_connections or self._server is None or not self._server.is_serving():
            self.refused_connections += 1
            log.warning("mllp_connection_refused", reason="too many connections", limit=self.max_connections)
            wire.transport.close()
            return
        task = asyncio.get_running_loop().create_task(self._run(wire))
        self._tasks[task] = wire
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            # The peer got no acknowledgement and will send the message again.
            task.get_loop().call_exception_handler(
                {"message": "an MLLP connection failed", "exception": error, "task": task}
            )

    async def _run(self, wire: Wire) -> None:
        address = wire.transport.get_extra_info("peername")
        peer = f"{address[0]}:{address[1]}" if address else "?"
        if (sock := wire.transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            await self._converse(wire, peer)
        except OSError as error:  # a time-out is one too
            log.info("mllp_connection_lost", peer=peer, reason=type(error).__name__)
        finally:
            if not await wire.aclose(CLOSE_GRACE_S):
                log.info("mllp_connection_aborted", peer=peer)

    async def _converse(self, wire: Wire, peer: str) -> None:
        deframer = Deframer(self.max_message_bytes)
        loop = asyncio.get_running_loop()
        frame_ends_by = 0.0
        while self._server is not None and self._server.is_serving():
            wait_s = frame_ends_by - loop.time() if deframer.in_frame else self.idle_timeout_s
            data = await wire.read(max(wait_s, 0.001))
            if not data:
                if deframer.in_frame:
                    self.answerer.count_unreadable(0, "connection ended inside a message", peer)
                return
            was_inside, ended = deframer.in_frame, False
            for event in deframer.feed(data):
                ended = True
                for answer in await self._answer(event, peer):
                    await wire.write(frame(answer), WRITE_TIMEOUT_S)
            if deframer.in_frame and (ended or not was_inside):
                frame_ends_by = loop.time() + self.frame_timeout_s

    async def _answer(self, event: Frame | FrameTooLarge | FrameTruncated | Junk, peer: str) -> Sequence[bytes]:
        match event:
            case Frame(payload):
                return await self.answerer.answer(payload, peer)
            case FrameTooLarge(head):
                return await self.answerer.answer_too_large(head, peer)
            case FrameTruncated(size):
                self.answerer.count_unreadable(size, "message without an end", peer)
            case Junk(size):
                self.answerer.count_unreadable(size, "bytes outside a message", peer)
        return ()
