"""What becomes of one inbound message: read, checked, mapped, handed to the handler, and only then acknowledged."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from connectors.config import HospitalContext
from connectors.hl7v2 import er7
from connectors.hl7v2.acks import Fault, Verdict, codes_due, write_ack
from connectors.hl7v2.charset import HL7CharsetError, decode_message, encode_message
from connectors.hl7v2.escapes import STANDARD
from connectors.hl7v2.mapping import ProfileMaps, map_context
from connectors.hl7v2.options import Settings
from connectors.port import Inbound, InboundHandler, Refused, Stored
from monitoring import metrics
from monitoring.logs import get_logger

log = get_logger(__name__)

OFF_LOOP_BYTES = 16_384
"""Reading and mapping cost about 1 ms for 4 KB: larger messages go to a thread."""


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """One message as far as it could be read. `fault` set: it is refused. `inbound` set: it goes to the handler."""

    message: er7.Message | None = None
    codec: str = "ascii"
    decoded_as: str | None = None
    kind: str = "other"
    fault: Fault | None = None
    inbound: Inbound | None = None


class Receiver:
    """Answers the messages of one HIS. Used by MLLPServer."""

    def __init__(
        self,
        hospital: HospitalContext,
        name: str,
        settings: Settings,
        connection: dict[str, Any],
        maps: ProfileMaps,
        handler: InboundHandler,
    ) -> None:
        self.hospital = hospital
        self.name = name
        self.settings = settings
        self.connection = connection
        self.maps = maps
        self.handler = handler

    async def answer(self, payload: bytes, peer: str) -> Sequence[bytes]:
        """The acknowledgements due for one message, after the handler has returned."""
        if len(payload) > OFF_LOOP_BYTES:
            read = await asyncio.to_thread(self.read, payload, peer)
        else:
            read = self.read(payload, peer)
        if read.decoded_as is not None:
            metrics.count_decode_fallback(self.hospital.id, self.name, read.decoded_as)
        fault = read.fault
        result: str | None = "unreadable" if read.message is None else "refused"
        if read.message is not None and read.message.index.get("MSA"):
            # An acknowledgement on the listening side answers nothing of ours, and must not be answered itself.
            self._count(read.kind, "ignored")
            return []
        if fault is None:
            result = "ignored"
            if read.inbound is not None:
                try:
                    given = await self.handler(read.inbound)
                except Exception as error:  # the peer must keep what we did not store, and see that we did not
                    result, fault = "failed", Fault("207", verdict=Verdict.ERROR)
                    self._log_failure(read, error, peer)
                else:
                    result = _result(given)
                    if isinstance(given, Refused):
                        fault = Fault("207", verdict=Verdict.ERROR if given.retryable else Verdict.REJECTED)
        if result is not None:
            self._count(read.kind, result)
        return self._acknowledge(read, fault)

    async def answer_too_large(self, head: bytes, peer: str) -> Sequence[bytes]:
        """Reject a message that passed the size limit; its head is enough to name it."""
        read = self._read_head(head)
        self._count(read.kind, "refused")
        log.warning("hl7_message_too_large", peer=peer, hospital=self.hospital.id, connector=self.name)
        return self._acknowledge(read, Fault("207"))

    def count_unreadable(self, size: int, reason: str, peer: str) -> None:
        """Count bytes that were no message."""
        self._count("other", "unreadable")
        log.warning("hl7_bytes_dropped", reason=reason, size=size, peer=peer, hospital=self.hospital.id)

    def read(self, payload: bytes, peer: str) -> Read:
        """Decode, split, check and map one message. Never raises for what a peer can send."""
        try:
            decoded = decode_message(payload, self.settings.charset)
        except HL7CharsetError as error:
            log.warning("hl7_charset_refused", reason=str(error), peer=peer, hospital=self.hospital.id)
            return msgspec.structs.replace(self._read_head(payload), fault=Fault("102", "MSH^1^18"))
        decoded_as = decoded.codec if decoded.fallback else None
        try:
            message = er7.parse(decoded.text)
        except er7.ER7Error as error:
            log.warning("hl7_message_unreadable", reason=str(error), peer=peer, hospital=self.hospital.id)
            head = self._read_head(payload)
            return msgspec.structs.replace(head, decoded_as=decoded_as, fault=Fault(error.code))
        kind = _kind(message)
        fault = self._check(message, kind)
        taken = fault is None and kind not in self.settings.ignore
        inbound = self._map(message, kind, payload, peer) if taken else None
        return Read(
            message=message, codec=decoded.codec, decoded_as=decoded_as, kind=kind, fault=fault, inbound=inbound
        )

    def _check(self, message: er7.Message, kind: str) -> Fault | None:
        """The checks of v2.5.1 ch. 2.9.2.2: who, what, in which mode. Codes are of table 0357."""
        if not message.value("MSH", 9):
            return Fault("101", "MSH^1^9")
        if not message.value("MSH", 10):
            return Fault("101", "MSH^1^10")
        if message.value("MSH", 11) not in self.settings.accept_processing_ids:
            return Fault("202", "MSH^1^11")
        if kind in self.maps.inbound or kind in self.settings.ignore:
            return None
        code = kind.partition("^")[0]
        known = any(name.partition("^")[0] == code for name in (*self.maps.inbound, *self.settings.ignore))
        return Fault("201" if known else "200", "MSH^1^9")

    def _map(self, message: er7.Message, kind: str, payload: bytes, peer: str) -> Inbound:
        ctx = map_context(self.hospital, self.settings, self.connection, message=message)
        mapped = [record_map.read(message, ctx) for record_map in self.maps.inbound[kind]]
        problems = [str(problem) for one in mapped for problem in one.problems]
        events = tuple(record for one in mapped for record in one.records)
        if not events and not problems:
            problems.append(f"inbound.{kind}: nothing in the message fits the profile")
        return Inbound(
            hospital_id=self.hospital.id,
            connector=self.name,
            peer=peer,
            message_type=kind,
            control_id=message.value("MSH", 10),
            dedup_key=dedup_key(message),
            raw=payload,
            # All or nothing: half a message applied would look as if it had been whole.
            events=() if problems else events,
            problem=problems[0] if problems else None,
        )

    def _read_head(self, payload: bytes) -> Read:
        """As much of the header as can be had from a message that cannot be read: enough for MSA-2, if at all."""
        line = payload[:4096].removeprefix(b"\xef\xbb\xbf").replace(b"\n", b"\r").split(b"\r", 1)[0]
        try:
            message = er7.parse(line.decode("ascii", "ignore"))
        except er7.ER7Error:
            return Read()
        return Read(message=message, kind=_kind(message))

    def _acknowledge(self, read: Read, fault: Fault | None) -> list[bytes]:
        verdict = Verdict.ACCEPTED if fault is None else fault.verdict
        now = dt.datetime.now(self.hospital.zone)
        codes = codes_due(read.message, verdict, always=self.settings.ack == "always")
        return [_encoded(write_ack(read.message, code, now, fault), read.codec) for code in codes]

    def _log_failure(self, read: Read, error: Exception, peer: str) -> None:
        log.error(
            "hl7_message_not_handled",
            error=type(error).__name__,
            type=read.kind,
            peer=peer,
            hospital=self.hospital.id,
            connector=self.name,
            exc_info=error,
        )

    def _count(self, kind: str, result: str) -> None:
        metrics.count_inbound(self.hospital.id, self.name, kind, result)


def dedup_key(message: er7.Message) -> str:
    """Sender, control id and content: MSH-3, -4 and -10, and a digest without MSH-7, -8 and -13.

    A repeat has a new time (MSH-7), and may have another security token (MSH-8) and sequence number (MSH-13).
    """
    segments = [segment.raw for segment in message.segments]
    for place in message.index["MSH"]:
        fields = message.segments[place].fields().copy()
        for number in (7, 8, 13):
            if number - 1 < len(fields):
                fields[number - 1] = ""
        segments[place] = message.delimiters.field.join(fields)
    digest = hashlib.sha256("\r".join((*segments, "")).encode())
    sender = (message.msh.field(3), message.msh.field(4), message.value("MSH", 10))
    return "|".join((*sender, digest.hexdigest()))


def _encoded(ack: str, codec: str) -> bytes:
    """The acknowledgement in the message's own set.

    What the peer named itself with may be spelled in escapes that its set cannot carry: they go back as escapes, because an
    acknowledgement that cannot be written would make the peer send for ever what we have stored.
    """
    try:
        return encode_message(ack, codec)
    except HL7CharsetError:
        return "".join(c if c.isascii() else STANDARD.as_bytes(c) for c in ack).encode("ascii")


def _kind(message: er7.Message) -> str:
    code, trigger = message.value("MSH", 9), message.value("MSH", 9, 2)
    return f"{code}^{trigger}" if trigger else code


def _result(given: Stored | Refused) -> str | None:
    """What to count. A message that was stored is counted by the inbox, once it has been applied or set aside."""
    if isinstance(given, Refused):
        return "refused"
    return "duplicate" if given.duplicate else None
