"""Requests to the HIS over MLLP: a few persistent connections, one message in flight on each.

    RequestFailed
    |-- NotSent      not one byte left: sending it again cannot double anything
    `-- NoAnswer     bytes left and no answer to them came: it may or may not have been done

An answer is the one whose MSA-2 is our MSH-10. Whatever else arrives (a late answer, somebody else's, garbage) is counted
and ignored; the wait goes on.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter, deque
from collections.abc import Callable

from connectors.hl7v2 import er7
from connectors.hl7v2.charset import HL7CharsetError, decode_message
from connectors.hl7v2.framing import Deframer, Frame, FrameTooLarge, frame
from monitoring.logs import get_logger
from monitoring.trace_context import nobodys

log = get_logger(__name__)

READ_BYTES = 65_536
REMEMBERED_IDS = 256
OFF_LOOP_BYTES = 32_768
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 10.0
CLOSE_GRACE_S = 2.0


class RequestFailed(Exception):
    """A request got no answer."""


class NotSent(RequestFailed):
    """Nothing left our machine."""


class NoAnswer(RequestFailed):
    """Bytes left, and no usable answer came back."""


def backoff_s(failures: int, chance: float) -> float:
    """Wait after the n-th failed connect: min(10, 0.2 * 2**(n-1)) seconds, times 0.5 to 1 by chance (0 to 1).

    The third failure waits 0.4 to 0.8 s.
    """
    return float(min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (min(failures, 16) - 1)) * (0.5 + chance / 2))


class Line:
    """One connection to the HIS: connects when needed, reads all the time so that a closed peer is noticed at once."""

    def __init__(self, pool: LinePool) -> None:
        self.pool = pool
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._wanted: str | None = None
        self._answer: asyncio.Future[er7.Message] | None = None
        self._skip_commit = False
        self._committed = False
        self._alive = False

    @property
    def connected(self) -> bool:
        return self._alive

    async def connect(self) -> None:
        """Make sure of a connection. Raises NotSent."""
        if self.connected:
            return
        await self.close()
        reader, self._writer = await self.pool.open()
        self._alive = True
        self._reading = asyncio.get_running_loop().create_task(self._read_answers(reader), context=nobodys())

    async def request(self, message: bytes, control_id: str, timeout_s: float, *, skip_commit: bool) -> er7.Message:
        """Send one message and wait for its answer. On any failure the connection is given up.

        Raises NotSent, NoAnswer.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                await self.connect()
        except TimeoutError as error:
            raise NotSent("no connection within the time-out") from error
        assert self._writer is not None  # noqa: S101 - connect made it
        answer: asyncio.Future[er7.Message] = asyncio.get_running_loop().create_future()
        self._wanted, self._answer, self._skip_commit, self._committed = control_id, answer, skip_commit, False
        self.pool.remember(control_id)
        answered = False
        try:
            async with asyncio.timeout_at(deadline):
                self._writer.write(frame(message))
                await self._writer.drain()
                reply = await answer
            answered = True
            return reply
        except TimeoutError as error:
            if self._committed:
                raise NoAnswer("only a commit acknowledgement came within the time-out") from error
            raise NoAnswer("no answer within the time-out") from error
        except OSError as error:
            raise NoAnswer("connection lost") from error
        finally:
            self._wanted = self._answer = None
            if answer.done() and not answer.cancelled():
                answer.exception()
            if not answered:
                # A HIS that answers one by one would let the next request wait behind this one.
                await self.close()

    async def close(self) -> None:
        """Give the connection up; the next request makes a new one."""
        self._alive = False
        reading, self._reading = self._reading, None
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        if writer is not None:
            try:
                await asyncio.wait_for(writer.wait_closed(), CLOSE_GRACE_S)
            except OSError:  # a time-out is one too: the peer does not take what is left
                writer.transport.abort()

    async def _read_answers(self, reader: asyncio.StreamReader) -> None:
        deframer = Deframer(self.pool.max_message_bytes)
        reason = "connection closed by the HIS"
        try:
            while data := await reader.read(READ_BYTES):
                for event in deframer.feed(data):
                    if isinstance(event, Frame):
                        await self._take(event.payload)
                    else:
                        self.pool.count_stray("too_large" if isinstance(event, FrameTooLarge) else "garbage")
        except OSError as error:
            reason = f"connection lost: {type(error).__name__}"
        finally:
            self._alive = False
            self.pool.report()
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(ConnectionError(reason))

    async def _take(self, payload: bytes) -> None:
        try:
            if len(payload) > OFF_LOOP_BYTES:
                message = await asyncio.to_thread(self.pool.read_answer, payload)
            else:
                message = self.pool.read_answer(payload)
        except (er7.ER7Error, HL7CharsetError):
            self.pool.count_stray("garbage")
            return
        named = message.value("MSA", 2)
        if self._answer is None or self._answer.done() or not named or named != self._wanted:
            self.pool.count_stray("late" if named and self.pool.is_ours(named) else "foreign")
        elif self._skip_commit and message.value("MSA", 1) == "CA":
            # The message is stored, which is not done: the application's own answer follows.
            self._committed = True
        else:
            self._answer.set_result(message)


class LinePool:
    """The connections to one HIS. Reconnects with jittered exponential backoff, shared by all lines."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        connections: int,
        connect_timeout_s: float,
        max_message_bytes: int,
        charset: str,
        on_up: Callable[[bool], None],
        on_fallback: Callable[[str], None],
        on_stray: Callable[[str], None],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.host = host
        self.port = port
        self.connect_timeout_s = connect_timeout_s
        self.max_message_bytes = max_message_bytes
        self.charset = charset
        self.stray_answers: Counter[str] = Counter()
        self._on_up = on_up
        self._on_fallback = on_fallback
        self._on_stray = on_stray
        self._chance = chance
        self._lines = [Line(self) for _ in range(connections)]
        self._free: asyncio.LifoQueue[Line] = asyncio.LifoQueue()
        for line in reversed(self._lines):
            self._free.put_nowait(line)
        self._recent: deque[str] = deque(maxlen=REMEMBERED_IDS)
        self._failures = 0
        self._retry_at = 0.0
        self._closed = False

    async def request(
        self, message: bytes, control_id: str, timeout_s: float, *, skip_commit: bool = False
    ) -> er7.Message:
        """Send one message on a free connection and return its answer, within `timeout_s` in all.

        Raises NotSent (no free connection in time, none to be had, closing) or NoAnswer.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        line = await self._acquire(timeout_s)
        try:
            left_s = deadline - loop.time()
            return await line.request(message, control_id, max(left_s, 0.001), skip_commit=skip_commit)
        finally:
            self._free.put_nowait(line)

    async def check(self, timeout_s: float) -> None:
        """Make sure that a connection can be had. Raises NotSent."""
        line = await self._acquire(timeout_s)
        try:
            await line.connect()
        finally:
            self._free.put_nowait(line)

    async def close(self) -> None:
        """Close every connection. A request in flight fails with NoAnswer."""
        self._closed = True
        for line in self._lines:
            await line.close()
        self._on_up(False)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, unless the last failure is too recent. Raises NotSent."""
        loop = asyncio.get_running_loop()
        if self._closed:
            raise NotSent("closing")
        if loop.time() < self._retry_at:
            raise NotSent("the HIS could not be reached a moment ago")
        try:
            async with asyncio.timeout(self.connect_timeout_s):
                reader, writer = await asyncio.open_connection(self.host, self.port, limit=READ_BYTES)
        except (OSError, TimeoutError) as error:
            self._failures += 1
            self._retry_at = loop.time() + backoff_s(self._failures, self._chance())
            self.report()
            raise NotSent(f"no connection to the HIS: {type(error).__name__}") from error
        if self._is_closed():
            # Closed while we connected: nobody would close this one.
            writer.close()
            raise NotSent("closing")
        self._failures, self._retry_at = 0, 0.0
        if (sock := writer.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._on_up(True)
        return reader, writer

    def read_answer(self, payload: bytes) -> er7.Message:
        """Read what came. Raises ER7Error, HL7CharsetError."""
        decoded = decode_message(payload, self.charset)
        if decoded.fallback:
            self._on_fallback(decoded.codec)
        return er7.parse(decoded.text, decoded.codec)

    def remember(self, control_id: str) -> None:
        self._recent.append(control_id)

    def is_ours(self, control_id: str) -> bool:
        """Whether this is one of the last REMEMBERED_IDS that we sent."""
        return control_id in self._recent

    def count_stray(self, kind: str) -> None:
        """Count something that answered nothing: late, foreign, garbage or too_large."""
        self.stray_answers[kind] += 1
        self._on_stray(kind)
        log.warning("hl7_stray_answer", kind=kind, host=self.host)

    def report(self) -> None:
        """Tell whether any connection works."""
        self._on_up(any(line.connected for line in self._lines))

    def _is_closed(self) -> bool:
        return self._closed

    async def _acquire(self, timeout_s: float) -> Line:
        if self._closed:
            raise NotSent("closing")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._free.get()
        except TimeoutError as error:
            raise NotSent("every connection to the HIS is busy") from error
