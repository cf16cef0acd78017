"""Requests to the HIS over MLLP: a few connections, one message in flight on each.

Persistent ones are kept, and made anew beside the work: a request after an outage finds its connection there. A HIS that wants
a connection for each message gets one. Errors: see connectors.hl7v2.conversation.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from connectors.hl7v2 import er7
from connectors.hl7v2.answerer import Answerer
from connectors.hl7v2.answers import SentIds, Stray
from connectors.hl7v2.conversation import (
    Conversation,
    NoAnswer,
    NotSent,
    Request,
    RequestFailed,
    Terms,
    take_answer,
)
from connectors.hl7v2.dialing import Address, Dialer, backoff_s
from connectors.hl7v2.hearing import Hearing
from monitoring.logs import get_logger
from monitoring.sparse import SparseLog
from monitoring.trace_context import nobodys

__all__ = ["LinePool", "NoAnswer", "NotSent", "Request", "RequestFailed", "backoff_s"]

log = get_logger(__name__)

CLOSE_WITHIN_S = 5.0
STEADY_S = 1.0
"""A connection that the HIS closes sooner, and without an answer on it, says that it takes none of ours."""


class Requests(Protocol):
    """What can carry requests to a HIS."""

    async def request(self, request: Request, timeout_s: float) -> er7.Message: ...
    async def check(self, timeout_s: float) -> None: ...
    def hear(self, answerer: Answerer) -> None: ...
    def take_answer(self, payload: bytes) -> list[bytes] | None: ...
    def start(self) -> None: ...
    def keep_strays(self, keep: Callable[[Stray, bytes], None]) -> None: ...
    async def close(self) -> None: ...


class Line:
    """One connection to the HIS, made when it is needed."""

    def __init__(self, pool: LinePool) -> None:
        self._pool = pool
        self._conversation: Conversation | None = None
        self._running: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None

    @property
    def connected(self) -> bool:
        return self._conversation is not None and self._conversation.alive

    async def connect(self, deadline: float) -> Conversation:
        """The connection, which is made anew if it may be dead. Raises NotSent."""
        self._stop_idling()
        conversation = self._conversation
        if conversation is not None and conversation.is_usable() and not self._pool.is_stale(conversation):
            return conversation
        try:
            async with asyncio.timeout_at(deadline):
                await self.close()  # first, for a HIS that takes one connection at a time
                conversation = await self._pool.open()
        except TimeoutError as error:
            raise NotSent("no connection within the time-out") from error
        self._conversation = conversation
        self._running = asyncio.get_running_loop().create_task(conversation.run(), context=nobodys())
        self._running.add_done_callback(lambda _: self._pool.note_end(conversation))
        return conversation

    async def request(self, request: Request, deadline: float) -> er7.Message:
        """Send one message and wait for its answer. On any failure the connection is given up. Raises NotSent, NoAnswer."""
        conversation = await self.connect(deadline)
        answered = False
        try:
            reply = await conversation.ask(request, deadline)
            answered = True
            return reply
        finally:
            if not answered or not self._pool.persistent:
                self._give_up()

    def rest(self) -> None:
        """Nobody needs it now: close it before the HIS does."""
        self._stop_idling()
        within_s = self._pool.reuse_within_s
        if within_s is not None and self.connected:
            self._idle = asyncio.get_running_loop().call_later(within_s, self._give_up)

    async def close(self) -> None:
        """Give the connection up, and wait until it is; the next request makes a new one."""
        running = self._give_up()
        if running is not None:
            await asyncio.gather(running, return_exceptions=True)

    def renew(self) -> None:
        """Give the connection up, unless something is under way on it."""
        if self._conversation is not None and self._conversation.idle:
            self._give_up()

    def _give_up(self) -> asyncio.Task[None] | None:
        self._stop_idling()
        conversation, self._conversation = self._conversation, None
        running, self._running = self._running, None
        if conversation is not None:
            conversation.alive = False
        if running is not None:
            running.cancel()
            self._pool.leave(running)
        return running

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None


class LinePool:
    """The connections to one HIS. Reconnects with jittered exponential backoff, shared by all lines.

    `reuse_within_s`: one that has been idle for longer is closed, and none is kept for its own sake. `on_up` is told whether the
    HIS takes our connections; `on_stray` what came and answered nothing.
    """

    def __init__(
        self,
        address: Address,
        *,
        connections: int,
        max_message_bytes: int,
        on_up: Callable[[bool], None],
        on_stray: Callable[[str], None],
        read_answer: Callable[[bytes], er7.Message],
        write_commit: Callable[[er7.Message], bytes],
        frame_timeout_s: float = 30.0,
        persistent: bool = True,
        reuse_within_s: float | None = None,
        where: Mapping[str, str] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`where`: what each line of the log says of it, the hospital and the connector."""
        self.host = address.host
        self.persistent = persistent
        self.reuse_within_s = reuse_within_s
        self.stray_answers: Counter[str] = Counter()
        self.answerer: Answerer | None = None  # of the HIS's own messages on our connections; None: they are not taken
        self._dialer = Dialer(address, chance)
        self._on_up = on_up
        self._on_stray = on_stray
        self._where = dict(where or {})
        self._warn = SparseLog(partial(log.warning, **self._where))
        self._terms = Terms(
            max_message_bytes=max_message_bytes,
            frame_timeout_s=frame_timeout_s,
            read_answer=read_answer,
            write_commit=write_commit,
            count_stray=self._count_stray,
            sent=SentIds(),
        )
        self._lines = [Line(self) for _ in range(connections)]
        self._free: asyncio.LifoQueue[Line] = asyncio.LifoQueue()
        for line in reversed(self._lines):
            self._free.put_nowait(line)
        self._ending: set[asyncio.Task[None]] = set()
        self._keeping: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._fruitless = 0
        self._closed = False

    def start(self) -> None:
        """From now on one connection is kept beside the work, or made again as soon as the HIS takes one."""
        if self._keeping is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._keeping = loop.create_task(self._keep(), context=nobodys())
            if (tls := self._dialer.address.tls) is not None:
                self._looking = loop.create_task(tls.watch(), context=nobodys())

    def hear(self, answerer: Answerer) -> None:
        """From now on the HIS may send its own messages on every connection; those made before are made anew."""
        self.answerer = answerer
        for line in self._lines:
            line.renew()
        self._news.set()

    async def request(self, request: Request, timeout_s: float) -> er7.Message:
        """Send one message on a free connection and return its answer, within `timeout_s` in all.

        Raises NotSent (no free connection in time, none to be had, closing) or NoAnswer.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        line = await self._acquire(deadline)
        try:
            return await line.request(request, deadline)
        finally:
            self._release(line)

    async def check(self, timeout_s: float) -> None:
        """Make sure that a connection can be had. Raises NotSent."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        line = await self._acquire(deadline)
        try:
            await line.connect(deadline)
            if not self.persistent:
                await line.close()
        finally:
            self._release(line)

    async def close(self) -> None:
        """Close every connection. A request in flight fails with NoAnswer."""
        self._closed = True
        for task in (self._keeping, self._looking):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        for line in self._lines:
            await line.close()
        if self._ending:
            await asyncio.wait(self._ending, timeout=CLOSE_WITHIN_S)
        await self._terms.close()
        self._on_up(False)

    def take_answer(self, payload: bytes) -> list[bytes] | None:
        """An answer that came on a connection of the HIS's own; what to say to it, None if nobody waits for it."""
        return take_answer(self._terms, payload)

    # --- for the lines ---------------------------------------------------------------------------------------------------

    async def open(self) -> Conversation:
        """A new connection. Raises NotSent."""
        if self._closed:
            raise NotSent("closing")
        if self._dialer.retry_in_s > 0:
            raise NotSent(f"the HIS could not be reached a moment ago: {self._dialer.trouble}")
        before = self._dialer.trouble
        try:
            wire = await self._dialer.connect()
        except NotSent as error:
            self._report()
            if self._dialer.trouble not in (
                "",
                before,
            ):  # it may be another one: no network, and then a wrong certificate
                at = {"host": self.host, "port": self._dialer.address.port}
                log.warning("hl7_his_not_reached", reason=str(error), **at, **self._where)
            self._news.set()
            raise
        if self._is_closed():
            # Closed while we connected: nobody would close this one.
            wire.transport.abort()
            raise NotSent("closing")
        self._on_up(True)
        hearing = None if self.answerer is None else Hearing(self.answerer, f"{self.host}:{self._dialer.address.port}")
        return Conversation(wire, self._terms, hearing)

    def is_stale(self, conversation: Conversation) -> bool:
        """Whether the HIS may be about to close it: what is written then may be lost, and nobody could say whether it was."""
        if self.answerer is not None and not conversation.hears:
            return True  # made before there was anybody to answer
        return self.reuse_within_s is not None and conversation.idle_s >= self.reuse_within_s

    def leave(self, running: asyncio.Task[None]) -> None:
        """A connection is being closed; the pool waits for that when it closes itself."""
        self._ending.add(running)
        running.add_done_callback(self._ending.discard)

    def note_end(self, conversation: Conversation) -> None:
        """A connection is over."""
        conversation.drop()
        lived_s = asyncio.get_running_loop().time() - conversation.began_at
        self._fruitless = 0 if conversation.fruitful else self._fruitless + 1
        was_of_use = conversation.fruitful or lived_s >= STEADY_S
        if not self._closed and (
            conversation.ended in ("lost", "silent") or (conversation.ended == "by the HIS" and not was_of_use)
        ):
            self._report()
        self._news.set()

    # --- the rest --------------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Look whether the HIS is there, at once and after each loss; until it is, again and again."""
        await self._try_one()
        while True:
            self._news.clear()
            wait_s = self._wait_s()
            if wait_s is None:
                await self._news.wait()
                continue
            await asyncio.sleep(wait_s)
            if self._should_connect():
                await self._try_one()

    def _wait_s(self) -> float | None:
        """How long until a connection is to be made; None while there is no need of one."""
        if not self._should_connect():
            return None
        if self._dialer.retry_in_s:
            return self._dialer.retry_in_s
        if self._free.empty():
            return self._dialer.wait_s(1)  # requests try by themselves
        # A HIS that takes connections and closes them at once would keep us busy with nothing else.
        return self._dialer.wait_s(self._fruitless) if self._fruitless else 0.0

    def _should_connect(self) -> bool:
        if any(line.connected for line in self._lines):
            return False
        return self._dialer.works is False or (self.persistent and self.reuse_within_s is None)

    async def _try_one(self) -> None:
        try:
            line = self._free.get_nowait()
        except asyncio.QueueEmpty:
            return
        try:
            if not self._dialer.retry_in_s:
                await line.connect(asyncio.get_running_loop().time() + self._dialer.address.connect_timeout_s)
                if not self.persistent:
                    await line.close()
        except NotSent:
            pass
        finally:
            self._release(line)

    def keep_strays(self, keep: Callable[[Stray, bytes], None]) -> None:
        """Hand what answers nothing to `keep` as well, as far as it was read."""
        self._terms.keep_stray = keep

    def _count_stray(self, kind: Stray) -> None:
        self.stray_answers[kind.value] += 1
        self._on_stray(kind.value)
        self._warn("hl7_stray_answer", reason=kind.value, host=self.host)

    def _report(self) -> None:
        """Tell whether any connection works."""
        self._on_up(any(line.connected for line in self._lines))

    def _is_closed(self) -> bool:
        return self._closed

    def _release(self, line: Line) -> None:
        line.rest()
        self._free.put_nowait(line)

    async def _acquire(self, deadline: float) -> Line:
        if self._closed:
            raise NotSent("closing")
        try:
            async with asyncio.timeout_at(deadline):
                return await self._free.get()
        except TimeoutError as error:
            raise NotSent("every connection to the HIS is busy") from error
