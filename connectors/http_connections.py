"""The HTTP connections of our listeners: aiohttp's, with bounds that it has no setting for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader

LINGER_S = 2.0  # for the rest of a request that is refused: its sender reads the answer only when it has sent it

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Malformed = Callable[[web.BaseRequest], web.StreamResponse]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the same names explain them."""

    max_message_bytes: int
    request_timeout_s: float
    idle_timeout_s: float


class CallConnection(web.RequestHandler):
    """One connection. `gone` is done when it is."""

    __slots__ = ("_malformed", "gone")

    def __init__(self, server: CallServer, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._malformed = server.malformed
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if not self.gone.done():
            self.gone.set_result(None)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """In our words: aiohttp's own would be plain text, and quote the caller."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("an answer has begun; a second one cannot follow in it")
        return self._malformed(request)


class CallServer(web.Server):
    """aiohttp's server with our limits; a head that does not end within `request_timeout_s` ends its connection."""

    def __init__(self, handle: Handle, malformed: Malformed, limits: Limits) -> None:
        super().__init__(handle, request_factory=self._begin)
        self.malformed = malformed
        self._limits = limits
        self._heads: dict[web.RequestHandler, asyncio.TimerHandle] = {}
        self._options = {
            "keepalive_timeout": limits.idle_timeout_s,
            "lingering_time": LINGER_S,
            "auto_decompress": False,
            "access_log": None,
        }

    def __call__(self) -> CallConnection:
        return CallConnection(self, **self._options)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._heads[handler] = self._loop.call_later(self._limits.request_timeout_s, handler.force_close)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        self._forget(handler)
        super().connection_lost(handler, exc)

    def _begin(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        """aiohttp's request, from a head that is now whole."""
        self._forget(protocol)
        return web.BaseRequest(
            message, payload, protocol, writer, task, self._loop, client_max_size=self._limits.max_message_bytes
        )

    def _forget(self, handler: web.RequestHandler) -> None:
        timer = self._heads.pop(handler, None)
        if timer is not None:
            timer.cancel()
