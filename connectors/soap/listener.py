"""What a HIS may ask of our SOAP address: to be called, or to tell its WSDL. Connections are `connectors.http_listener`'s."""

from __future__ import annotations

import re

from aiohttp import web

from connectors.admission import Admission
from connectors.http_connections import Limits
from connectors.http_listener import HttpListener, Meters, last, peer_of, read_body
from connectors.soap.answers import Answer
from connectors.soap.calls import BadCall
from connectors.soap.receiver import Receiver
from connectors.tls import TLSContext
from monitoring import metrics

_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,255}")
_METERS = Meters(
    protocol="soap",
    open=metrics.soap_connections,
    refused=metrics.soap_connections_refused,
    handshakes_failed=metrics.soap_handshakes_failed,
)


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
        self._receiver, self._limits = receiver, limits
        self._scheme, self._public_url = "http" if tls is None else "https", public_url
        self._http = HttpListener(self._handle, self._malformed, door, limits, _METERS, labels=labels, tls=tls)

    @property
    def port(self) -> int:
        """The port really listened on; 0 before `start`."""
        return self._http.port

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError when the port is taken."""
        await self._http.start(host, port)

    async def close(self) -> None:
        """Accept no more, let calls in hand be answered, close every connection."""
        await self._http.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path != self._receiver.spec.path:
            return web.Response(status=404, text="there is nothing here\n")
        if request.method == "GET" and any(name.lower() in ("wsdl", "singlewsdl") for name in request.query):
            return web.Response(
                body=self._receiver.wsdl(self._address(request)), content_type="text/xml", charset="utf-8"
            )
        if request.method != "POST":
            return web.Response(status=405, text="POST a SOAP envelope, or GET ?wsdl\n", headers={"Allow": "GET, POST"})
        peer = peer_of(request)
        refused = self._refusal(request, peer)
        if refused is not None:
            return last(_response(refused))
        try:
            body = await read_body(request, self._limits)
        except web.HTTPRequestEntityTooLarge:
            return last(_response(self._too_large(peer)))
        except TimeoutError:
            error = BadCall("Client", "the request did not come to its end in time")
            return last(_response(self._receiver.turn_away("slow", error, peer, status=408)))
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
        return last(_response(self._receiver.turn_away("not_a_call", error, peer_of(request), status=400)))

    def _address(self, request: web.BaseRequest) -> str:
        """Where the WSDL says that we are: what the settings say, else where the caller has found us."""
        if self._public_url is not None:
            return self._public_url
        host = request.headers.get("Host", "")
        if not _HOST.fullmatch(host):
            host = f"127.0.0.1:{self.port}"
        return f"{self._scheme}://{host}{self._receiver.spec.path}"


def _response(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers={"Content-Type": answer.content_type})
