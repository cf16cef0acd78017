"""What is said on one inbound connection: its messages are answered one after the other, in the order in which they came.

While one is being handled the rest waits in the socket, so that a fast peer is slowed down and not buffered. A message that was
not stored and may come again (AE, CE) is not overtaken: what had reached us behind it by then is put off in the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from connectors.hl7v2.answerer import Answerer, Answers
from connectors.hl7v2.framing import (
    Deframer,
    Frame,
    FrameEmpty,
    FrameEvent,
    FrameTooLarge,
    FrameTruncated,
    Junk,
    frame,
)
from connectors.hl7v2.pace import Pace
from connectors.hl7v2.turns import Turns
from connectors.hl7v2.wire import Wire

WRITE_TIMEOUT_S = 10.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one connection may cost.

    It ends after `idle_timeout_s` without a byte, when a message that has begun does not end within `frame_timeout_s`, and when
    the peer does not take our answers within WRITE_TIMEOUT_S.
    """

    max_message_bytes: int
    idle_timeout_s: float
    frame_timeout_s: float


class _Slow(Exception):
    """The peer takes too long; the argument says what for."""


class Session:
    """One connection, from its first byte to its last."""

    def __init__(
        self,
        wire: Wire,
        answerer: Answerer,
        peer: str,
        *,
        limits: Limits,
        turns: Turns,
        pace: Pace | None,
        on_throttled: Callable[[], None],
    ) -> None:
        self._wire = wire
        self._answerer = answerer
        self._peer = peer
        self._limits = limits
        self._turns = turns
        self._pace = pace
        self._on_throttled = on_throttled
        self._loop = asyncio.get_running_loop()
        self._deframer = Deframer(limits.max_message_bytes)
        self._frame_ends_by = 0.0
        self._puts_off = False
        self._put_off_to = 0  # of the bytes of this connection
        self._put_off_begun = self._put_off_some = False
        self._stopping = False
        self._resting = False

    @property
    def idle(self) -> bool:
        """Whether no message is in hand."""
        return self._wire.idle or self._resting

    def stop(self) -> None:
        """Take no message after the one in hand."""
        self._stopping = True

    async def run(self) -> str:
        """Until the connection ends: why, as one of `metrics.MLLP_ENDED`."""
        try:
            return await self._converse()
        except _Slow as slow:
            return str(slow)
        except OSError:
            return "lost"
        finally:
            if self._deframer.in_frame:
                self._answerer.count_unreadable(0, "connection ended inside a message", self._peer)

    async def _converse(self) -> str:
        while not self._stopping:
            await self._look_whether_all_is_put_off()
            data = await self._read()
            if not data:
                return "peer"
            was_inside, ended = self._deframer.in_frame, False
            slice_ends_at = self._turns.begin()
            for event in self._deframer.feed(data):
                if ended:
                    slice_ends_at = await self._turns.go_on(slice_ends_at)
                if self._is_stopping():
                    return "stopping"
                ended |= not isinstance(event, FrameTruncated | Junk)
                await self._take(event)
            self._mind_the_frame(was_inside and not ended)
        return "stopping"

    def _is_stopping(self) -> bool:
        return self._stopping  # it may change wherever something is awaited

    async def _read(self) -> bytes:
        inside = self._deframer.in_frame
        wait_s = self._frame_ends_by - self._loop.time() if inside else self._limits.idle_timeout_s
        try:
            return await self._wire.read(max(wait_s, 0.001))
        except TimeoutError as error:
            raise _Slow("slow_message" if inside else "idle") from error

    def _mind_the_frame(self, is_the_same: bool) -> None:
        """A message has its time from its beginning, however often a few bytes of it come, or it begins anew."""
        if not self._deframer.in_frame:
            return
        now = self._loop.time()
        if not is_the_same:
            self._frame_ends_by = now + self._limits.frame_timeout_s
        elif now >= self._frame_ends_by:
            raise _Slow("slow_message")

    async def _take(self, event: FrameEvent) -> None:
        match event:
            case Frame(payload):
                await self._keep_pace()
                await self._send(await self._answer(payload))
            case FrameTooLarge(head):
                await self._keep_pace()
                await self._send(await self._answerer.answer_too_large(head, self._peer))
            case FrameTruncated(size):
                self._answerer.count_unreadable(size, "message without an end", self._peer)
            case Junk(size):
                self._answerer.count_unreadable(size, "bytes outside a message", self._peer)
            case FrameEmpty(count):
                self._answerer.count_empty(count)

    async def _answer(self, payload: bytes) -> Answers:
        if self._puts_off or self._put_off_begun:
            self._put_off_begun, self._put_off_some = False, True
            return await self._answerer.answer_busy(payload, self._peer)
        answers = await self._answerer.answer(payload, self._peer)
        if answers.again:
            self._puts_off, self._put_off_to, self._put_off_some = True, self._wire.reached(), False
        return answers

    async def _look_whether_all_is_put_off(self) -> None:
        """A sender that waits for each answer reacts to ours with what comes next; one that does not, has to pause first.

        A message that has begun before is put off in either case.
        """
        if self._puts_off and self._wire.handed >= self._put_off_to:
            self._puts_off = self._put_off_some and not await self._wire.is_dry()
            self._put_off_begun = not self._puts_off and self._deframer.in_frame

    async def _send(self, answers: Answers) -> None:
        for answer in answers:
            try:
                await self._wire.write(frame(answer), WRITE_TIMEOUT_S)
            except TimeoutError as error:
                raise _Slow("slow_reader") from error

    async def _keep_pace(self) -> None:
        wait_s = 0.0 if self._pace is None else self._pace.take(self._loop.time())
        if wait_s > 0:
            self._on_throttled()
            self._resting = True
            try:
                await asyncio.sleep(wait_s)
            finally:
                self._resting = False
