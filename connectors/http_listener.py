"""The HTTP listener that a HIS calls: who may connect, how large and how slow a request may be, and how it comes to an end.

aiohttp reads HTTP; connections are accepted by us, so that the allow-list is asked before the handshake, and certificates that
were renewed serve the next connection. What a request means is the protocol's.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import Counter, Gauge

from connectors.accepting import Accepting
from connectors.admission import Admission
from connectors.http_connections import CallServer, Handle, Limits, Malformed
from connectors.tls import TLSContext
from monitoring import metrics
from monitoring.logs import get_logger
from monitoring.sparse import SparseLog

log = get_logger(__name__)

CLOSE_GRACE_S = 5.0
HANDSHAKE_TIMEOUT_S = 10.0


class Meters(msgspec.Struct, frozen=True, kw_only=True):
    """What is counted of connections. `protocol` begins the names of what is logged."""

    protocol: str
    open: Gauge
    refused: Counter
    handshakes_failed: Counter


class HttpListener:
    """Listens on one port for one HIS. Each whole head is handed to `handle`, what is no HTTP to `malformed`."""

    def __init__(
        self,
        handle: Handle,
        malformed: Malformed,
        door: Admission,
        limits: Limits,
        meters: Meters,
        *,
        labels: dict[str, str],
        tls: TLSContext | None = None,
    ) -> None:
        self._handle, self._malformed = handle, malformed
        self._door, self._limits, self._tls, self._labels = door, limits, tls, labels
        self._protocol = meters.protocol
        self._open = meters.open.labels(**labels)
        self._open.set(0)
        self._refused = {r: meters.refused.labels(**labels, reason=r) for r in metrics.MLLP_REFUSED}
        self._failed = {r: meters.handshakes_failed.labels(**labels, reason=r) for r in metrics.MLLP_HANDSHAKES_FAILED}
        self._warn = SparseLog(log.warning)
        self._server: CallServer | None = None
        self._accepting: Accepting | None = None
        self._lines: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port really listened on; 0 before `start`."""
        return 0 if self._accepting is None else self._accepting.port

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError when the port is taken."""
        self._server = CallServer(self._answer, self._answer_malformed, self._limits)
        self._accepting = Accepting(host, port, self._accepted)
        if self._tls is not None:
            self._looking = asyncio.create_task(self._tls.watch())

    async def close(self) -> None:
        """Accept no more, let calls in hand be answered (at most CLOSE_GRACE_S), close every connection."""
        if self._accepting is not None:
            self._accepting.close()
        if self._looking is not None:
            self._looking.cancel()
        if self._server is not None:
            self._server.pre_shutdown()
            await self._server.shutdown(CLOSE_GRACE_S)
        for line in self._lines:
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)
        self._accepting = self._server = None

    # --- connections -------------------------------------------------------------------------------------------------

    def _accepted(self, sock: socket.socket, address: str, port: int) -> None:
        reason = self._door.refusal(address)
        if reason is not None:
            self._refused[reason].inc()
            self._warn(f"{self._protocol}_connection_refused", reason=reason, peer=address, **self._labels)
            sock.close()
            return
        self._door.enter(address)
        self._open.inc()
        line = asyncio.get_running_loop().create_task(self._carry(sock, f"{address}:{port}"))
        self._lines.add(line)

        def ended(task: asyncio.Task[None]) -> None:
            self._lines.discard(task)
            self._door.leave(address)
            self._open.dec()

        line.add_done_callback(ended)

    async def _carry(self, sock: socket.socket, peer: str) -> None:
        """One connection, until it has gone."""
        server, loop = self._server, asyncio.get_running_loop()
        if server is None:
            sock.close()
            return
        how: dict[str, Any] = {}
        try:
            if self._tls is not None:
                how = {"ssl": await self._tls.current(), "ssl_handshake_timeout": HANDSHAKE_TIMEOUT_S}
            # uvloop gives back its own protocol of a TLS connection, not ours.
            connection = server()
            await loop.connect_accepted_socket(lambda: connection, sock, **how)
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            sock.close()
            if self._tls is not None:
                self._handshake_failed(error, peer)
            return
        try:
            await connection.gone
        finally:
            connection.force_close()

    def _handshake_failed(self, error: Exception, peer: str) -> None:
        why = getattr(error, "reason", None) or type(error).__name__
        about_peer = isinstance(error, ssl.SSLError) and "CERTIFICATE" in str(why) and "ALERT" not in str(why)
        late = isinstance(error, TimeoutError) or "taking longer" in str(error)
        self._failed["certificate" if about_peer else "timeout" if late else "other"].inc()
        reason = "it took too long" if late else str(why)
        self._warn(f"{self._protocol}_handshake_failed", reason=reason, peer=peer, **self._labels)

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        return _unversioned(await self._handle(request))

    def _answer_malformed(self, request: web.BaseRequest) -> web.StreamResponse:
        return _unversioned(self._malformed(request))


async def read_body(request: web.BaseRequest, limits: Limits) -> bytes:
    """The whole body. Raises web.HTTPRequestEntityTooLarge, and TimeoutError where it does not end in time."""
    async with asyncio.timeout(limits.request_timeout_s):
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        return await request.read()


def peer_of(request: web.BaseRequest) -> str:
    """Address and port of whoever called."""
    peername = request.transport.get_extra_info("peername") if request.transport is not None else None
    return f"{peername[0]}:{peername[1]}" if peername else "?"


def last(response: web.StreamResponse) -> web.StreamResponse:
    """The answer, and the end of the connection."""
    response.force_close()
    return response


def _unversioned(response: web.StreamResponse) -> web.StreamResponse:
    """Without the versions that aiohttp tells of itself and of Python."""
    response.headers["Server"] = "hisbridge"
    return response
