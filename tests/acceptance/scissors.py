"""A proxy between hisbridge and a hospital that speaks MLLP, which pulls the connection at a chosen place of a message.

    async with Scissors(port).running() as proxy:
        proxy.cut(order_no, "S01", Place.AFTER_REQUEST)     # once; or for each order that comes, in turn:
        proxy.cut_next("S01", Place.INSIDE_ANSWER)

It knows requests by ARQ-1, the order number, and by their trigger (MSH-9.2). Everything else is passed on.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import Enum

from loadtest.simulators.mllp import END, ER7, START, read_frame

LIMIT = 10_000_000


class Place(Enum):
    """Where the connection is pulled."""

    BEFORE_REQUEST = "before the request's first byte"
    INSIDE_REQUEST = "inside the request"
    AFTER_REQUEST = "after the request, before its answer"
    INSIDE_ANSWER = "inside the answer"
    AFTER_ANSWER = "after the answer"


class Scissors:
    """Listens on `port`. `passed`: what reached the hospital whole, as (order number, trigger), in the order it did."""

    def __init__(self, his_port: int) -> None:
        self._his_port = his_port
        self.port = 0
        self.passed: list[tuple[str, str]] = []
        self.done: list[tuple[str, str, Place]] = []
        self.connections = 0
        self._cuts: dict[tuple[str, str], Place] = {}
        self._next: defaultdict[str, list[Place]] = defaultdict(list)
        self._resets = itertools.cycle([False, True])
        self._tasks: set[asyncio.Task[None]] = set()
        self._hold = ""
        self._held = asyncio.Event()
        self._let_go = asyncio.Event()

    @contextmanager
    def answers_held(self, trigger: str) -> Iterator[Callable[[], Awaitable[bool]]]:
        """Within it the answer to the next message with this trigger is not passed on; gives what waits until there is one."""
        self._hold, self._held, self._let_go = trigger, asyncio.Event(), asyncio.Event()
        try:
            yield self._held.wait
        finally:
            self._hold = ""
            self._let_go.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Scissors]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=LIMIT)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.wait_closed()

    def cut(self, order_no: str, trigger: str, place: Place) -> None:
        """Pull the next message of this order with this trigger."""
        self._cuts[order_no, trigger] = place

    def cut_next(self, trigger: str, *places: Place) -> None:
        """Pull the first message of each further order with this trigger, one place for each."""
        self._next[trigger] += places

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        to_his: asyncio.StreamWriter | None = None
        try:
            from_his, to_his = await asyncio.open_connection("127.0.0.1", self._his_port, limit=LIMIT)
            while (request := await read_frame(reader)) is not None:
                place = self._place(request)
                if not await self._pass(request, place, from_his, to_his, writer):
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            for one in (writer, to_his):
                if one is not None:
                    one.close()

    async def _pass(
        self,
        request: bytes,
        place: Place | None,
        from_his: asyncio.StreamReader,
        to_his: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """One exchange; whether the connection lives."""
        if place is Place.BEFORE_REQUEST:
            self._pull(writer)
            return False
        whole = START + request + END
        if place is Place.INSIDE_REQUEST:
            to_his.write(whole[: len(whole) // 2])
            await to_his.drain()
            self._pull(writer)
            return False
        to_his.write(whole)
        await to_his.drain()
        message = ER7(request.decode())
        if message.has("ARQ"):
            self.passed.append((message.get("ARQ", 1), message.get("MSH", 9, 2)))
        if place is Place.AFTER_REQUEST:
            self._pull(writer)
            await read_frame(from_his)  # the hospital does it, and tells nobody
            return False
        answer = await read_frame(from_his)
        if answer is None:
            return False
        if self._hold and message.get("MSH", 9, 2) == self._hold:
            self._hold = ""
            self._held.set()
            await self._let_go.wait()
        whole = START + answer + END
        if place is Place.INSIDE_ANSWER:
            writer.write(whole[: len(whole) // 2])
            await writer.drain()
            await asyncio.sleep(0.05)  # a reset would take back what has not been read
            self._pull(writer)
            return False
        writer.write(whole)
        await writer.drain()
        if place is Place.AFTER_ANSWER:
            await asyncio.sleep(0.05)
            self._pull(writer)
            return False
        return True

    def _place(self, request: bytes) -> Place | None:
        message = ER7(request.decode())
        key = message.get("ARQ", 1), message.get("MSH", 9, 2)
        if not key[0]:
            return None
        place = self._cuts.pop(key, None)
        known = any(key == (order_no, trigger) for order_no, trigger, _ in self.done)
        if place is None and self._next[key[1]] and not known:
            place = self._next[key[1]].pop(0)
        if place is not None:
            self.done.append((*key, place))
        return place

    def _pull(self, writer: asyncio.StreamWriter) -> None:
        """In turn an orderly end (FIN) and a torn one (RST)."""
        if next(self._resets):
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
