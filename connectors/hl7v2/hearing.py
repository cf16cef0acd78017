"""The HIS's own messages on a connection that carries our requests too: handled in order, beside the reading.

Reading must go on, because our answer may come behind them. So they are kept, within bounds: while we wait for nothing the
rest stays in the socket; while we do, what passes the bounds is kept as its head only, and put off (AE) in its turn. What was not
stored and may come again is not overtaken: all that is kept behind it is put off too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum

from connectors.hl7v2.answerer import Answerer, Answers
from connectors.hl7v2.framing import HEAD_BYTES

MOST_MESSAGES = 64
MOST_BYTES = 4_000_000
MOST_HEADS = 1024
WRITE_TIMEOUT_S = 10.0

Say = Callable[[bytes, float], Awaitable[None]]


class Flooded(OSError):
    """More came than we even refuse: the connection is given up."""


class _Kind(Enum):
    WHOLE = "whole"
    TOO_LARGE = "too_large"
    BUSY = "busy"


class Hearing:
    """The messages of one connection that wait for their turn."""

    def __init__(self, answerer: Answerer, peer: str, pause_s: Callable[[], float] = lambda: 0.0) -> None:
        """`pause_s`: how long the next message has to wait, because its peer sends too fast."""
        self._answerer = answerer
        self._peer = peer
        self._pause_s = pause_s
        self._kept: deque[tuple[_Kind, bytes]] = deque()
        self._size = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._waiting = False
        self._puts_off = False
        self._stopping = False

    def note_waiting(self, waiting: bool) -> None:
        """Whether an answer to us is due: then everything must be read."""
        self._waiting = waiting
        self._tell_room()

    async def may_read(self) -> None:
        """Wait until more may be read."""
        await self._room.wait()

    def take(self, payload: bytes) -> None:
        """One whole message. Raises Flooded."""
        fits = self._fits(len(payload))
        self._keep(_Kind.WHOLE if fits else _Kind.BUSY, payload if fits else payload[:HEAD_BYTES])

    def take_too_large(self, head: bytes) -> None:
        """One that passed the limit of a message. Raises Flooded."""
        self._keep(_Kind.TOO_LARGE, head)

    @property
    def idle(self) -> bool:
        """Whether no message is in hand."""
        return not self._kept

    async def finish(self, within_s: float) -> None:
        """Wait until everything that has come is answered, at most so long."""
        try:
            async with asyncio.timeout(within_s):
                await self._empty.wait()
        except TimeoutError:
            pass

    def stop(self) -> None:
        """Take no message after the one in hand; then `run` ends."""
        self._stopping = True
        self._news.set()

    async def run(self, say: Say) -> None:
        """Answer one after the other until cancelled, stopped, or until the peer takes no more (OSError)."""
        while not self._stopping:
            while self._kept and not self._is_stopping():
                if (pause_s := self._pause_s()) > 0:
                    await asyncio.sleep(pause_s)
                kind, data = self._kept[0]
                answers = await self._answer(kind, data)
                for answer in answers:
                    await say(answer, WRITE_TIMEOUT_S)
                self._kept.popleft()
                self._size -= len(data)
                self._puts_off = bool(self._kept) and (self._puts_off or answers.again)
                self._tell_room()
            self._news.clear()
            if not self._is_stopping():
                await self._news.wait()

    def _is_stopping(self) -> bool:
        return self._stopping  # it may change wherever something is awaited

    async def _answer(self, kind: _Kind, data: bytes) -> Answers:
        if kind is _Kind.TOO_LARGE:
            return await self._answerer.answer_too_large(data, self._peer)
        if kind is _Kind.BUSY or self._puts_off:
            return await self._answerer.answer_busy(data, self._peer)
        return await self._answerer.answer(data, self._peer)

    def _keep(self, kind: _Kind, data: bytes) -> None:
        if len(self._kept) >= MOST_HEADS:
            raise Flooded("the HIS sends more messages than can be refused")
        self._kept.append((kind, data))
        self._size += len(data)
        self._tell_room()
        self._news.set()

    def _fits(self, size: int) -> bool:
        """The first always does, whatever its size."""
        return not self._kept or (len(self._kept) < MOST_MESSAGES and self._size + size <= MOST_BYTES)

    def _tell_room(self) -> None:
        if self._kept:
            self._empty.clear()
        else:
            self._empty.set()
        if self._waiting or self._fits(0):
            self._room.set()
        else:
            self._room.clear()
