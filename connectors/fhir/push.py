"""Our address for a FHIR server's notifications: who may speak, and what is answered. Connections are `http_listener`'s."""

from __future__ import annotations

import asyncio
import hmac
from urllib.parse import urlsplit

from aiohttp import web

from connectors.admission import Admission
from connectors.fhir.notifications import Notification, NotNotified, Told, read_notification
from connectors.fhir.notified import NotFetched, Notified
from connectors.fhir.push_options import PushOptions
from connectors.fhir.secrets import Secret
from connectors.http_connections import Limits
from connectors.http_listener import HttpListener, Meters, last, peer_of, read_body
from connectors.port import Passed
from connectors.recording import WireRecord
from connectors.tls import TLSContext, server_context
from connectors.tls_files import FilesMeter
from monitoring import metrics
from monitoring.logs import get_logger
from monitoring.sparse import SparseLog

log = get_logger(__name__)

PATH = "/notifications"
LARGE_BYTES = 50_000  # read beside the event loop
AGAIN_S = "5"
_METERS = Meters(
    protocol="fhir",
    open=metrics.fhir_connections,
    refused=metrics.fhir_connections_refused,
    handshakes_failed=metrics.fhir_handshakes_failed,
)


class Push:
    """The listener of one connector. Nothing is opened before `start`."""

    def __init__(self, options: PushOptions, notified: Notified, record: WireRecord, labels: dict[str, str]) -> None:
        """Raises ValueError for settings that are no good."""
        self._options, self.notified, self._labels = options, notified, labels
        self._record = record
        secret = options.notify_secret_file or options.notify_secret_env
        self._secret = (
            Secret("notify_secret", options.notify_secret_file, options.notify_secret_env) if secret else None
        )
        if self._secret is None and options.tls_client_ca_file is None:
            raise ValueError(
                "listen_port needs notify_secret_file, or tls_client_ca_file, by which the server is known"
            )
        if options.tls_cert_file is None and (options.tls_key_file or options.tls_client_ca_file):
            raise ValueError("tls_key_file and tls_client_ca_file need tls_cert_file")
        self.path = (urlsplit(options.public_url).path.rstrip("/") if options.public_url else "") or PATH
        self._bearer = b"" if self._secret is None else f"Bearer {self._secret.read()}".encode()
        try:
            self._door = Admission(options.allow, options.max_connections_from_his, options.max_connections_per_peer)
        except ValueError as error:
            raise ValueError(f"allow: {error}") from None
        self._limits = Limits(
            max_message_bytes=options.max_message_bytes,
            request_timeout_s=options.request_timeout_s,
            idle_timeout_s=options.idle_timeout_s,
        )
        self._warn = SparseLog(log.warning)
        self._http: HttpListener | None = None

    @property
    def port(self) -> int:
        """The port really listened on; 0 while nothing is."""
        return 0 if self._http is None else self._http.port

    @property
    def shown_secret(self) -> str:
        """What the server is to show as Authorization; "" where it shows a certificate."""
        return self._bearer.decode()

    def check(self) -> None:
        """Read the files of the listener, and open nothing. Raises BadTLSFiles."""
        self._tls()

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken, BadTLSFiles."""
        if self._http is not None:
            return
        options = self._options
        http = HttpListener(
            self._handle, self._malformed, self._door, self._limits, _METERS, labels=self._labels, tls=self._tls()
        )
        await http.start(options.listen_host, options.listen_port or 0)
        self._http = http
        tls = options.tls_cert_file is not None
        log.info("fhir_listening", on=f"{options.listen_host}:{http.port}", tls=tls, **self._labels)

    async def close(self) -> None:
        """Answer what is in hand, and close every connection."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()
        await self.notified.close()

    def _tls(self) -> TLSContext | None:
        options = self._options
        if options.tls_cert_file is None:
            return None
        return server_context(
            options.tls_cert_file,
            options.tls_key_file,
            options.tls_client_ca_file,
            on_renewed=FilesMeter(**self._labels, side="listener"),
            where=self._labels,
        )

    # --- one request -------------------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        peer = peer_of(request)
        if request.path != self.path and not request.path.startswith(f"{self.path}/"):
            return web.Response(status=404, text="there is nothing here\n")
        shown = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if self._bearer and not hmac.compare_digest(shown, self._bearer):
            return self._refuse("unauthorised", 401, "the secret of the Subscription is missing or another one", peer)
        if request.method not in ("POST", "PUT", "DELETE"):
            return web.Response(status=405, text="POST a notification\n", headers={"Allow": "POST, PUT, DELETE"})
        if (request.content_length or 0) > self._limits.max_message_bytes:
            return self._refuse("too_large", 413, "the notification is larger than max_message_bytes", peer)
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            return self._refuse("unreadable", 415, "send it as it is, without Content-Encoding", peer)
        try:
            body = await read_body(request, self._limits)
        except web.HTTPRequestEntityTooLarge:
            return self._refuse("too_large", 413, "the notification is larger than max_message_bytes", peer)
        except TimeoutError:
            return self._refuse("slow", 408, "the notification did not come to its end in time", peer)
        try:
            told = await self._read(request, body)
        except NotNotified as error:
            return self._refuse("unreadable", 400, f"this is no notification: {error}", peer, body)
        return await self._take(told, peer, body)

    async def _read(self, request: web.BaseRequest, body: bytes) -> Notification:
        if request.method == "DELETE" or not body.strip():
            # R4: PUT or DELETE [endpoint]/Appointment/1 names the resource in its address.
            rest = request.path.removeprefix(self.path).strip("/")
            return Notification(told=Told.CUE, focus=(rest,) if rest else ())
        if len(body) > LARGE_BYTES:
            return await asyncio.to_thread(read_notification, body)
        return read_notification(body)

    async def _take(self, told: Notification, peer: str, body: bytes) -> web.Response:
        try:
            await self.notified.take(told)
        except NotFetched as error:
            self.notified.count("not_fetched")
            self._warn("fhir_notification_not_fetched", reason=str(error), peer=peer, **self._labels)
            self._note(503, f"not fetched: {error}", peer, body)
            return web.Response(
                status=503, text="it comes too early, send it again\n", headers={"Retry-After": AGAIN_S}
            )
        return web.Response(status=200)

    def _refuse(self, result: str, status: int, why: str, peer: str, body: bytes = b"") -> web.StreamResponse:
        self.notified.count(result)
        self._warn("fhir_notification_refused", reason=why, peer=peer, **self._labels)
        self._note(status, why, peer, body)
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        return last(web.Response(status=status, text=f"{why}\n", headers=headers))

    def _note(self, status: int, why: str, peer: str, body: bytes) -> None:
        """For the message store. A body that was not read, because of who sends it or how large it is, is not kept."""
        self._record.not_taken(
            Passed.REFUSED,
            peer=peer,
            message_type="notification",
            control_id="",
            request=body,
            error=why,
            answer_code=str(status),
        )

    def _malformed(self, request: web.BaseRequest) -> web.StreamResponse:
        return self._refuse("unreadable", 400, "this is no HTTP request", peer_of(request))
