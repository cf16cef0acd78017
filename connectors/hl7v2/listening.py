"""The listener of a connector, from its settings."""

from __future__ import annotations

from connectors.hl7v2.answerer import Answerer
from connectors.hl7v2.bothways import InboundLines
from connectors.hl7v2.meters import ListenerMeters
from connectors.hl7v2.options import Settings
from connectors.hl7v2.server import Door, MLLPServer
from connectors.hl7v2.session import Limits
from connectors.tls import TLSContext, server_context


def listener_tls(settings: Settings, meters: ListenerMeters) -> TLSContext | None:
    """What the listener's certificate files give; None without them. Raises BadTLSFiles."""
    if settings.tls_cert_file is None:
        return None
    return server_context(
        settings.tls_cert_file,
        settings.tls_key_file,
        settings.tls_client_ca_file,
        on_renewed=meters.renewed,
        where=meters.labels,
    )


def listener(
    settings: Settings,
    answerer: Answerer,
    meters: ListenerMeters,
    max_message_bytes: int,
    lines: InboundLines | None = None,
) -> MLLPServer:
    """A listener that is not started; `lines` carry requests of ours on its connections. Raises BadTLSFiles."""
    tls = listener_tls(settings, meters)
    limits = Limits(
        max_message_bytes=max_message_bytes,
        idle_timeout_s=settings.idle_timeout_s,
        frame_timeout_s=settings.frame_timeout_s,
    )
    door = Door(
        allow=settings.allow,
        max_connections=settings.max_connections,
        max_connections_per_peer=settings.max_connections_per_peer,
        max_messages_per_s=settings.max_messages_per_s,
        message_burst=settings.message_burst,
    )
    return MLLPServer(answerer, meters, limits=limits, door=door, tls=tls, talk=None if lines is None else lines.line)
