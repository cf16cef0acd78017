"""The HTTP listener that a HIS calls: who may connect, how large and how slow a request may be, and how it comes to an end.

aiohttp reads HTTP; connections are accepted by us, so that the allow-list is asked before the handshake, and certificates that
were renewed serve the next connection. What a request means is the receiver's.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from typing import Any

from aiohttp import web

from connectors.accepting import Accepting
from connectors.admission import Admission
from connectors.soap.answers import Answer
from connectors.soap.calls import BadCall
from connectors.soap.connections import CallServer, Limits
from connectors.soap.receiver import Receiver
from connectors.tls import TLSContext
from monitoring import metrics
from monitoring.logs import get_logger
from monitoring.sparse import SparseLog

log = get_logger(__name__)

CLOSE_GRACE_S = 5.0
HANDSHAKE_TIMEOUT_S = 10.0
_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,255}")


class Listener:
    """Listens on one port for the calls of one HIS."""

    def __init__(
        self,
        receiver: Receiver,
        door: Admission,
        limits: Limits,
        *,
        labels: dict[str, str],
        tls: TLSContext | None = None,
        public_url: str | None = None,
    ) -> None:
        self._receiver, self._door, self._limits = receiver, door, limits
        self._tls, self._public_url, self._labels = tls, public_url, labels
        self._open = metrics.soap_connections.labels(**labels)
        self._open.set(0)
        self._refused = {r: metrics.soap_connections_refused.labels(**labels, reason=r) for r in metrics.MLLP_REFUSED}
        self._failed = {
            r: metrics.soap_handshakes_failed.labels(**labels, reason=r) for r in metrics.MLLP_HANDSHAKES_FAILED
        }
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
        self._server = CallServer(self._handle, self._malformed, self._limits)
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
            self._warn("soap_connection_refused", reason=reason, peer=address, **self._labels)
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
        self._warn("soap_handshake_failed", reason="it took too long" if late else str(why), peer=peer, **self._labels)

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        return _unversioned(await self._answered(request))

    async def _answered(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path != self._receiver.spec.path:
            return web.Response(status=404, text="there is nothing here\n")
        if request.method == "GET" and any(name.lower() in ("wsdl", "singlewsdl") for name in request.query):
            return web.Response(
                body=self._receiver.wsdl(self._address(request)), content_type="text/xml", charset="utf-8"
            )
        if request.method != "POST":
            return web.Response(status=405, text="POST a SOAP envelope, or GET ?wsdl\n", headers={"Allow": "GET, POST"})
        peer = _peer_of(request)
        refused = self._refusal(request, peer)
        if refused is not None:
            return _last(refused)
        try:
            async with asyncio.timeout(self._limits.request_timeout_s):
                if request.headers.get("Expect", "").lower() == "100-continue":
                    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    request.writer.output_size = 0
                body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _last(self._too_large(peer))
        except TimeoutError:
            error = BadCall("Client", "the request did not come to its end in time")
            return _last(self._receiver.turn_away("slow", error, peer, status=408))
        return _response(await self._receiver.answer(body, request.charset, peer))

    def _refusal(self, request: web.BaseRequest, peer: str) -> Answer | None:
        """What its head is reason enough for."""
        if (request.content_length or 0) > self._limits.max_message_bytes:
            return self._too_large(peer)
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            error = BadCall("Client", "send it as it is, without Content-Encoding")
            return self._receiver.turn_away("not_a_call", error, peer, status=415)
        return None

    def _too_large(self, peer: str) -> Answer:
        error = BadCall("Client", f"the request is larger than {self._limits.max_message_bytes} bytes")
        return self._receiver.turn_away("too_large", error, peer, status=413)

    def _malformed(self, request: web.BaseRequest) -> web.StreamResponse:
        """What aiohttp cannot read."""
        error = BadCall("Client", "this is no HTTP request")
        return _unversioned(_last(self._receiver.turn_away("not_a_call", error, _peer_of(request), status=400)))

    def _address(self, request: web.BaseRequest) -> str:
        """Where the WSDL says that we are: what the settings say, else where the caller has found us."""
        if self._public_url is not None:
            return self._public_url
        host = request.headers.get("Host", "")
        if not _HOST.fullmatch(host):
            host = f"127.0.0.1:{self.port}"
        return f"{'http' if self._tls is None else 'https'}://{host}{self._receiver.spec.path}"


def _peer_of(request: web.BaseRequest) -> str:
    peername = request.transport.get_extra_info("peername") if request.transport is not None else None
    return f"{peername[0]}:{peername[1]}" if peername else "?"


def _response(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers={"Content-Type": answer.content_type})


def _unversioned(response: web.StreamResponse) -> web.StreamResponse:
    """Without the versions that aiohttp tells of itself and of Python."""
    response.headers["Server"] = "hisbridge"
    return response


def _last(answer: Answer | web.StreamResponse) -> web.StreamResponse:
    """The answer, and the end of the connection."""
    response = _response(answer) if isinstance(answer, Answer) else answer
    response.force_close()
    return response
