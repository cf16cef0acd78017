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
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader

from booking.api.problems import ApiProblem, answer_problem
from monitoring.metrics import http_connections, http_connections_ended

_MAX_HEAD_LINE_BYTES = 8_190
_SWEEP_S = 0.25  # heads that are due together are ended together

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Malformed = Callable[[web.BaseRequest, BaseException | None], web.StreamResponse]


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the same names explain them."""

    keepalive_s: float = 30.0
    head_timeout_s: float = 10.0
    max_connections: int = 20_000


class Connection(web.RequestHandler):
    """One connection. aiohttp reads and answers; we watch its heads and know who has gone."""

    __slots__ = ("_admitted", "_answering", "_heads", "_malformed", "_server", "_waiting")

    def __init__(self, server: ApiServer, malformed: Malformed, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._server = server
        self._malformed = malformed
        self._heads = server.heads
        self._admitted = False
        self._answering = False
        self._waiting: asyncio.Task[Any] | None = None

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
        if self._waiting is not None:
            self._waiting.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._admitted:
            return
        if not self._answering:
            self._heads.expect(self)
        super().data_received(data)

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

    def __init__(self, handle: Handle, malformed: Malformed, limits: ConnectionLimits) -> None:
        self.heads = HeadWatch(limits.head_timeout_s)
        self._malformed = malformed
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
            return False
        self._open += 1
        return True

    def release(self) -> None:
        """One that was admitted has gone."""
        self._open -= 1

    async def shutdown(self, timeout: float | None = None) -> None:
        self.heads.stop()
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
