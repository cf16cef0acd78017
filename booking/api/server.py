"""Connections of the booking API: how many, how long they may idle, and how long a request's head may take.

aiohttp reads HTTP and keeps connections alive; this adds what it has no setting for. A connection is given `head_timeout_s`
from its first byte (the first request: from the connection's start) to the end of the head, so that callers who send drop by
drop hold no descriptor for long; between requests it may idle for `keepalive_s`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.streams import StreamReader

from booking.api.problems import ApiProblem, answer_problem
from booking.api.wire import CLOSES, Ready, send
from monitoring.metrics import http_connections, http_connections_ended

_MAX_HEAD_LINE_BYTES = 8_190
_SWEEP_S = 0.25  # heads that are due together are ended together

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
HandleAtOnce = Callable[["Connection", RawRequestMessage, StreamReader], bool]
"""Whether a request that came whole is being answered: see `Connection.conclude`."""
Malformed = Callable[[web.BaseRequest, BaseException | None], web.StreamResponse]


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the same names explain them."""

    keepalive_s: float = 30.0
    head_timeout_s: float = 10.0
    max_connections: int = 20_000


class Connection(web.RequestHandler):
    """One connection. aiohttp reads and answers; we watch its heads and know who has gone.

    A request that came whole and needs no task is answered without aiohttp's part for it (`_take`): a task and three turns of the
    loop for each request, a third of what one costs. What aiohttp keeps for its own use and we use with it is named here:
    `_messages`, the requests that its parser has read, `_waiter`, which it waits for while there are none, and what its
    `start` notes after each answer. `tests/booking/api/test_at_once.py` walks through all of it.
    """

    __slots__ = (
        "_admitted", "_answering", "_at_once", "_closes", "_deferred", "_heads", "_kept", "_malformed", "_server", "_unsent",
        "_waiting",
    )  # fmt: skip

    def __init__(self, server: ApiServer, malformed: Malformed, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._server = server
        self._malformed = malformed
        self._heads = server.heads
        self._admitted = False
        self._answering = False
        self._waiting: asyncio.Task[Any] | None = None
        self._at_once = False  # whether a request is being answered without a task
        self._unsent = False  # whether its answer was given, and the caller has not taken all of it
        self._closes = False
        self._kept: list[bytes] = []  # what came behind it
        self._deferred = False  # whether what has come waits for one turn of the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self._server.admit():
            cast(asyncio.Transport, transport).write(_FULL)
            transport.close()
            return
        self._admitted = True
        super().connection_made(transport)
        self._heads.expect(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._admitted:
            self._admitted = False
            self._server.release()
            self._heads.forget(self)
        self._kept.clear()
        if self._waiting is not None:
            self._waiting.cancel()
        super().connection_lost(exc)
        if self._unsent:  # it will not be taken any more
            self._unsent = False
            self._concluded()

    def data_received(self, data: bytes) -> None:
        if not self._admitted:
            return
        if self._at_once or self._kept:
            self._keep(data)
            return
        if not self._answering:
            self._heads.expect(self)
        waiter = self._waiter
        if waiter is None and not (self._answering or self._messages or self._deferred):
            # The last answer has left, and aiohttp's task has yet to come round to waiting for what is here already.
            self._deferred = True
            self._kept.append(data)
            self._loop.call_soon(self._go_on)
            return
        self._deferred = False
        if waiter is None or waiter.done() or self._messages or self._upgraded:
            super().data_received(data)
            return
        # aiohttp waits for a request: it shall wake up only for one that it must answer itself.
        self._waiter = None
        try:
            super().data_received(data)
        finally:
            self._waiter = waiter
        if self._messages and not (len(self._messages) == 1 and self._take()) and not waiter.done():
            waiter.set_result(None)

    def _take(self) -> bool:
        """Have the request answered without a task, if that is possible."""
        message, content = self._messages[0]
        if (
            not isinstance(message, RawRequestMessage)
            or message.should_close
            or message.upgrade
            or message.compression is not None
            or message.version < HttpVersion11
            or not content.is_eof()
            or content.exception() is not None
            or self._upgraded
            or self._close
            or self._force_close
        ):
            return False
        self._at_once = self._request_in_progress = True
        if not self._server.handle_at_once(self, message, content):
            self._at_once = self._request_in_progress = False
            return False
        self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._manager is not None:
            self._manager.requests_count += 1
        self._heads.forget(self)
        return True

    def conclude(self, answer: Ready, request_id: str, *, close: bool, fields: bytes = b"") -> None:
        """Send the answer to what was taken, with `fields` of this one answer."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            self._closes = close or self._close or self._force_close
            send(transport, answer, request_id, fields + CLOSES if self._closes else fields)
        if self.writing_paused and self.transport is not None:
            self._unsent = True  # the next request is read when the caller has taken this answer
        else:
            self._concluded()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unsent:
            self._unsent = False
            self._concluded()

    def _concluded(self) -> None:
        self._at_once = self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        if self.transport is None:
            return
        if self._closes or self._close or self._force_close:
            self.transport.close()
            return
        self._keepalive = True
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        if self._kept:
            self._loop.call_soon(self._go_on)

    def _keep(self, data: bytes) -> None:
        """What comes before the answer is given is read afterwards; no more is let in meanwhile."""
        if data:
            self._kept.append(data)
            self._pause_transport_reading()

    def _go_on(self) -> None:
        data = b"".join(self._kept)
        self._kept.clear()
        if not self._reading_paused and not self._buffer_paused:
            self._resume_transport_reading()
        if data:
            self.data_received(data)

    def _process_keepalive(self) -> None:
        if self._at_once:  # aiohttp does not know that it is not idle
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    def begin(self, *, waits: bool) -> None:
        """A request is being answered. Where it only `waits` for news, it ends with its caller; a change never does."""
        self._answering = True
        if waits:
            self._waiting = asyncio.current_task()

    def end(self) -> None:
        """Its answer is ready to be sent."""
        self._answering = False
        self._waiting = None

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What aiohttp cannot read is answered in our words: its own would be plain text, and quote the caller."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("an answer has begun; a second one cannot follow in it")
        return self._malformed(request, exc)


class HeadWatch:
    """The connections whose next head has begun, or whose first one is awaited; the oldest first.

    One timer for all: nearly every head is whole when it arrives, and pays two dictionary operations.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._due_s: dict[Connection, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, connection: Connection) -> None:
        """A head begins now, unless it has begun before."""
        if connection not in self._due_s:
            self._due_s[connection] = self._loop.time() + self._timeout_s
            if self._timer is None:
                self._timer = self._loop.call_later(self._timeout_s, self._sweep)

    def forget(self, connection: Connection) -> None:
        """The head is whole, or the connection is gone."""
        self._due_s.pop(connection, None)

    def stop(self) -> None:
        """End no more connections."""
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        late = []
        for connection, due_s in self._due_s.items():
            if due_s > now_s:
                self._timer = self._loop.call_later(max(due_s - now_s, _SWEEP_S), self._sweep)
                break
            late.append(connection)
        for connection in late:
            del self._due_s[connection]
            http_connections_ended.labels("head_timeout").inc()
            connection.force_close()


class ApiServer(web.Server):
    """Serve with `web.ServerRunner(server)`. Make it inside the running loop."""

    def __init__(
        self,
        handle: Handle,
        handle_at_once: HandleAtOnce,
        malformed: Malformed,
        limits: ConnectionLimits,
        *,
        on_refused: Callable[[], None] = lambda: None,
        on_shutdown: Callable[[], None] = lambda: None,
    ) -> None:
        self.handle_at_once = handle_at_once
        self.heads = HeadWatch(limits.head_timeout_s)
        self._malformed = malformed
        self._on_refused = on_refused
        self._on_shutdown = on_shutdown
        self._max_connections = limits.max_connections
        self._open = 0
        self._options: dict[str, Any] = {
            "keepalive_timeout": limits.keepalive_s,
            "max_line_size": _MAX_HEAD_LINE_BYTES,
            "max_field_size": _MAX_HEAD_LINE_BYTES,
            "access_log": None,
        }
        http_connections.set_function(lambda: float(self._open))
        super().__init__(handle, request_factory=self._begin)

    def __call__(self) -> web.RequestHandler:
        return Connection(self, self._malformed, loop=asyncio.get_running_loop(), **self._options)

    def admit(self) -> bool:
        """Count a new connection; False where there are too many already."""
        if self._open >= self._max_connections:
            http_connections_ended.labels("full").inc()
            self._on_refused()
            return False
        self._open += 1
        return True

    def release(self) -> None:
        """One that was admitted has gone."""
        self._open -= 1

    async def shutdown(self, timeout: float | None = None) -> None:
        self.heads.stop()
        self._on_shutdown()
        await super().shutdown(timeout)

    def _begin(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        """aiohttp's request, from a head that is now whole."""
        self.heads.forget(cast(Connection, protocol))
        return web.BaseRequest(message, payload, protocol, writer, task, self._loop)


def _refusal() -> bytes:
    answer = answer_problem(ApiProblem("overloaded", retry_after_s=1), request_id="none")
    return answer.head + b"Connection: close\r\n\r\n" + answer.body


_FULL = _refusal()
