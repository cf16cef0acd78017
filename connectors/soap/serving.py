"""Our side of a SOAP connector, from its options and its profile: a receiver and the listener before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from connectors.admission import Admission
from connectors.config import HospitalContext
from connectors.http_connections import Limits
from connectors.port import Inbound, InboundHandler, QuestionHandler, Refused
from connectors.recording import WireRecord
from connectors.soap.listener import Listener
from connectors.soap.options import Connection, Options
from connectors.soap.receiver import Receiver
from connectors.tls import TLSContext, server_context
from connectors.tls_files import FilesMeter
from mappings.context import MapContext
from mappings.profile import Profile
from monitoring import metrics
from monitoring.logs import get_logger

log = get_logger(__name__)


class Serving:
    """What listens for one HIS. Nothing is opened before `start`."""

    def __init__(
        self,
        profile: Profile,
        connection: Connection,
        options: Options,
        keys: Mapping[str, bytes],
        *,
        hospital: HospitalContext,
        name: str,
        context: Callable[[], MapContext],
        record: WireRecord,
    ) -> None:
        """Raises ProfileError for a profile that takes no calls, ValueError for bad options."""
        spec = connection.server
        if spec is None:
            profile.fail("connection", "listen_port is set, and the profile has no `server`: what may the HIS call?")
        if options.tls_cert_file is None and (options.tls_key_file or options.tls_client_ca_file):
            raise ValueError("tls_key_file and tls_client_ca_file need tls_cert_file")
        self._options, self._labels = options, {"hospital": hospital.id, "connector": name}
        self._guarded = spec.guarded
        try:
            self._door = Admission(options.allow, options.max_connections_from_his, options.max_connections_per_peer)
        except ValueError as error:
            raise ValueError(f"allow: {error}") from None
        self._receiver = Receiver(
            profile,
            spec,
            connection.namespace if spec.namespace is None else spec.namespace,
            keys,
            hospital=hospital,
            name=name,
            max_bytes=options.max_message_bytes,
            context=context,
            record=record,
        )
        self._listener: Listener | None = None

    @property
    def port(self) -> int:
        """The port that the HIS can reach us at; 0 while nothing is served."""
        return 0 if self._listener is None else self._listener.port

    def read_again(self, raw: bytes, peer: str) -> Inbound | Refused:
        """See connectors.port.ReadsAgain."""
        return self._receiver.read_again(raw, peer)

    def check(self) -> None:
        """Read the files of the listener, and open nothing. Raises BadTLSFiles."""
        self._tls()

    def take_questions(self, handler: QuestionHandler) -> None:
        """See connectors.port.TakesQuestions."""
        self._receiver.questions.handler = handler

    async def start(self, handler: InboundHandler) -> None:
        """Listen. Raises OSError when the port is taken, BadTLSFiles."""
        if self._listener is not None:
            return
        options = self._options
        metrics.greet_listener(**self._labels)
        self._receiver.handler = handler
        listener = Listener(
            self._receiver,
            self._door,
            Limits(
                max_message_bytes=options.max_message_bytes,
                request_timeout_s=options.request_timeout_s,
                idle_timeout_s=options.idle_timeout_s,
            ),
            labels=self._labels,
            tls=self._tls(),
            public_url=options.public_url,
        )
        await listener.start(options.listen_host, options.listen_port or 0)
        self._listener = listener
        where = f"{options.listen_host}:{listener.port}"
        log.info("soap_listening", on=where, tls=options.tls_cert_file is not None, **self._labels)
        if not (self._guarded or options.allow or options.tls_client_ca_file):
            reason = (
                "no signature, no credentials, no allow-list, no client certificate: whoever reaches it is believed"
            )
            log.warning("soap_listener_open_to_all", reason=reason, on=where, **self._labels)

    async def close(self) -> None:
        """Answer what is in hand, and close every connection."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.close()

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
