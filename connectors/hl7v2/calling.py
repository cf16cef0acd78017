"""What carries one connector's requests, made from its settings, and how what comes back on it is read and counted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from connectors.config import HospitalContext
from connectors.hl7v2 import er7
from connectors.hl7v2.acks import write_ack
from connectors.hl7v2.bothways import InboundLines
from connectors.hl7v2.charset import codec_of, decode_message, encode_message
from connectors.hl7v2.client import LinePool
from connectors.hl7v2.dialing import Address
from connectors.hl7v2.header import Header
from connectors.hl7v2.options import Settings
from connectors.tls import TLSContext, client_context
from connectors.tls_files import FilesMeter
from monitoring import metrics


class Answers:
    """Reads the answers of one HIS."""

    def __init__(self, hospital: HospitalContext, name: str, settings: Settings) -> None:
        self._hospital = hospital
        self._name = name
        self._settings = settings

    def read(self, payload: bytes) -> er7.Message:
        """Raises ER7Error, HL7CharsetError."""
        decoded = decode_message(payload, self._settings.charset)
        if decoded.fallback:
            metrics.count_decode_fallback(self._hospital.id, self._name, decoded.codec)
        return er7.parse(decoded.text, decoded.codec)

    def write_commit(self, answer: er7.Message) -> bytes:
        """The commit acknowledgement for an answer, in our own set: it holds nothing of the answer but its names."""
        ack = write_ack(Header.of(answer), "CA", dt.datetime.now(self._hospital.zone))
        return encode_message(ack, codec_of(answer.value("MSH", 18) or self._settings.charset) or "utf-8")

    def count_stray(self, kind: str) -> None:
        metrics.count_inbound(self._hospital.id, self._name, "ACK", kind)


def make_pool(
    hospital: HospitalContext, name: str, settings: Settings, max_message_bytes: int
) -> LinePool | InboundLines | None:
    """None where no HIS can be asked. Raises connectors.tls.BadTLSFiles (a ValueError)."""
    dials = settings.host is not None and settings.port is not None
    if not dials and not settings.both_ways:
        return None
    up = metrics.connector_up.labels(hospital=hospital.id, connector=name)
    answers = Answers(hospital, name, settings)

    def set_up(works: bool) -> None:
        up.set(1 if works else 0)

    where = {"hospital": hospital.id, "connector": name}
    if settings.host is None or settings.port is None:
        return InboundLines(
            where=where,
            max_message_bytes=max_message_bytes,
            frame_timeout_s=settings.frame_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
            on_up=set_up,
            on_stray=answers.count_stray,
            read_answer=answers.read,
            write_commit=answers.write_commit,
        )
    return LinePool(
        Address(
            host=settings.host,
            port=settings.port,
            connect_timeout_s=settings.connect_timeout_s,
            tls=_tls(settings, where),
            server_name=settings.tls_server_name,
        ),
        where=where,
        connections=settings.connections,
        persistent=settings.persistent,
        reuse_within_s=settings.reuse_within_s,
        frame_timeout_s=settings.frame_timeout_s,
        max_message_bytes=max_message_bytes,
        on_up=set_up,
        on_stray=answers.count_stray,
        read_answer=answers.read,
        write_commit=answers.write_commit,
    )


def _tls(settings: Settings, where: Mapping[str, str]) -> TLSContext | None:
    if not settings.tls:
        return None
    return client_context(
        ca_file=settings.tls_ca_file,
        cert_file=settings.tls_client_cert_file,
        key_file=settings.tls_client_key_file,
        on_renewed=FilesMeter(**where, side="client"),
        where=where,
    )
