"""One HTTP request to a SOAP service, and the one thing that a write must know about it: did bytes leave or not?"""

from __future__ import annotations

import ssl
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import aiohttp
import msgspec
from yarl import URL

from connectors.clock import HisClock
from monitoring.traces import headers_here

# --- errors -------------------------------------------------------------------------------------------------------
#
#   ClientError        no usable HTTP reply
#   |-- NotSent        no connection was had: nothing left this machine
#   `-- Lost           a connection was had and gave no whole reply: the HIS may or may not have acted


class ClientError(Exception):
    """No usable HTTP reply. The text names the failure and never the message."""


class NotSent(ClientError):
    """No connection could be had in time: nothing left this machine."""


class Lost(ClientError):
    """Bytes may have left and no whole reply came."""


class HttpReply(msgspec.Struct, frozen=True):
    """A whole HTTP reply: status, the media type and charset of its Content-Type (None: not given), body."""

    status: int
    content_type: str | None
    charset: str | None
    body: bytes


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request."""

    method: str
    url: str
    body: bytes | None = None
    headers: dict[str, str] = {}


class SoapClient:
    """An HTTP session to one hospital: keep-alive, at most `max_connections` at a time, no redirects, no cookies.

    `tls` is the context of https; without it the system's authorities are trusted. `clock` is the HIS's.
    `send_traceparent`: it is told the trace of a call. Must be made inside a running event loop and closed.
    """

    def __init__(
        self,
        *,
        clock: HisClock,
        max_connections: int = 8,
        keepalive_s: float = 15.0,
        max_reply_bytes: int = 10_000_000,
        tls: ssl.SSLContext | None = None,
        send_traceparent: bool = False,
    ) -> None:
        self._send_traceparent = send_traceparent
        self._clock = clock
        self._max_reply_bytes = max_reply_bytes
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(_connected)
        trace.on_connection_reuseconn.append(_connected)
        context: ssl.SSLContext | bool = True if tls is None else tls
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=max_connections, keepalive_timeout=keepalive_s, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[trace],
            trust_env=False,
            middlewares=(_only_once,),
        )

    async def send(self, sent: Sent, *, timeout_s: float) -> HttpReply:
        """Send one request and read its whole reply, within `timeout_s` including the wait for a connection.

        Raises NotSent, Lost (also for a reply larger than allowed).
        """
        headers = {**sent.headers, **headers_here()} if self._send_traceparent else sent.headers
        way = SimpleNamespace(connected=False)
        began = time.time()
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(timeout_s, 5.0))
        try:
            async with self.session.request(
                sent.method,
                URL(sent.url, encoded=sent.method == "GET"),
                data=sent.body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                trace_request_ctx=way,
            ) as reply:
                self._clock.note_http(reply.headers.get("Date"), reply.headers.get("Age"), began=began)
                return HttpReply(reply.status, reply.content_type, reply.charset, await self._read(reply))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if way.connected:
                raise Lost(_describe(error, sent.url)) from error
            raise NotSent(_describe(error, sent.url)) from error
        except ValueError as error:  # not aiohttp's own: an address or a header that HTTP cannot carry
            kind = Lost if way.connected else NotSent
            raise kind(f"{type(error).__name__}: the address or a header is none that HTTP can carry") from None

    async def _read(self, reply: aiohttp.ClientResponse) -> bytes:
        chunks, size = [], 0
        async for chunk in reply.content.iter_chunked(65536):
            size += len(chunk)
            if size > self._max_reply_bytes:
                reply.close()
                raise Lost(f"a reply larger than {self._max_reply_bytes} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        await self.session.close()


async def _only_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Where a connection breaks aiohttp sends a GET again by itself, and ours may be a registration: never twice."""
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            raise  # there was no connection, and these it does not repeat
        raise aiohttp.ClientPayloadError(type(error).__name__) from error


async def _connected(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    """From here on bytes may leave. A request that had a connection is never again called unsent."""
    if context.trace_request_ctx is not None:
        context.trace_request_ctx.connected = True


def peer_of(url: str) -> str:
    """Host and port of an address."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or {'http': 80, 'https': 443}.get(parts.scheme, '')}"


def _describe(error: BaseException, url: str) -> str:
    kind = "time-out" if isinstance(error, TimeoutError) else type(error).__name__
    return f"{kind} at {peer_of(url)}"
