"""Answers as bytes: the head is rendered when an answer is made, and a whole answer leaves in one write.

aiohttp's own `web.Response` builds two dictionaries and formats a head for every request. A `Ready` is made once and sent as
often as it is asked for; only Date, X-Request-Id and Connection are added.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

# RFC 9110, sections 5.1 and 5.5: a name is a token; a value has no control character but the tab.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_NO_CONTENT = frozenset({204, 304})
_JOIN_BYTES = 65_536  # below this, copying the body behind its head costs less than a second buffer


class Ready(msgspec.Struct, frozen=True, gc=False):
    """A finished answer. `head` is the status line and all fields but Date, X-Request-Id and Connection, each with its CRLF.

    Make it with `make_ready`, keep it, and return the same one for every request that it fits.
    """

    status: int
    head: bytes
    body: bytes = b""


def make_ready(body: bytes = b"", *, status: int = 200, headers: Mapping[str, str]) -> Ready:
    """An answer with these fields; Content-Length is added (not to 204 and 304: they have no body, and send none).

    Raises ValueError where a field could break the head.
    """
    return join_head(render_head(status, headers), status, body)


def join_head(head: bytes, status: int, body: bytes) -> Ready:
    """An answer under a head that `render_head` made for the same status."""
    if status in _NO_CONTENT:
        return Ready(status, head)
    return Ready(status, b"%bContent-Length: %d\r\n" % (head, len(body)), body)


def render_head(status: int, headers: Mapping[str, str]) -> bytes:
    """The status line and these fields. Raises ValueError where a field could break the head."""
    lines = [f"HTTP/1.1 {status} {_reason(status)}\r\n"]
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or _CONTROL.search(value):
            raise ValueError(f"the value of the header {name[:40]!a} cannot be sent: it holds a control character")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode()


@lru_cache(maxsize=64)
def _reason(status: int) -> str:
    return HTTPStatus(status).phrase


class _Clock:
    """The Date field (RFC 9110, section 6.6.1), formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._field = b""

    def field(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._field = f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
        return self._field


_date = _Clock().field
CLOSES = b"Connection: close\r\n"


def send(
    transport: asyncio.WriteTransport, ready: Ready, request_id: str, fields: bytes = b"", *, bare: bool = False
) -> None:
    """Write a whole answer. `fields` are those of this one answer, each with its CRLF; `bare`: without the body."""
    head = b"%b%bX-Request-Id: %b\r\n%b\r\n" % (ready.head, _date(), request_id.encode(), fields)
    if bare or not ready.body:
        transport.write(head)
    elif len(ready.body) < _JOIN_BYTES:
        transport.write(head + ready.body)
    else:
        transport.writelines((head, ready.body))


class Answer:
    """One `Ready` on its way to one request: what aiohttp's connection asks of a response, and no more.

    `request_id` must be plain ASCII without control characters; the caller has checked it. `close` ends the connection,
    `fields` are those of this one answer.
    """

    __slots__ = ("_fields", "_ready", "_request", "_request_id", "keep_alive")
    __http_exception__ = False  # aiohttp asks every response for it

    def __init__(
        self, ready: Ready, request: web.BaseRequest, request_id: str, *, close: bool = False, fields: bytes = b""
    ) -> None:
        self._ready = ready
        self._request = request
        self._request_id = request_id
        self._fields = fields
        self.keep_alive = not close and request.keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing is left to prepare."""

    async def write_eof(self) -> None:
        """Send it all. Raises ConnectionResetError when the caller has gone."""
        request, ready = self._request, self._ready
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the caller has gone")
        send(transport, ready, self._request_id, self._fields + self._connection(), bare=request.method == "HEAD")
        if request.protocol.writing_paused:
            await request.writer.drain()

    def _connection(self) -> bytes:
        """RFC 9112, section 9.3: 1.1 stays open unless said otherwise, 1.0 closes unless said otherwise."""
        if not self.keep_alive:
            return CLOSES
        return b"" if self._request.version >= (1, 1) else b"Connection: keep-alive\r\n"

    def as_response(self) -> web.StreamResponse:
        """Itself, under the type by which aiohttp declares what a handler returns."""
        response: Any = self
        return response  # type: ignore[no-any-return]
