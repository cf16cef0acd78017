"""Reading one inbound message: decoded, split, checked and mapped. Bytes in, `Read` out, and nothing else is touched.

What comes out can be pickled, so that a large message can be read in another process.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from connectors.config import HospitalContext
from connectors.hl7v2 import er7
from connectors.hl7v2.acks import ERROR_TEXTS, Fault
from connectors.hl7v2.answers import glance
from connectors.hl7v2.charset import HL7CharsetError, decode_message
from connectors.hl7v2.header import LONGEST, Header, edition_of
from connectors.hl7v2.mapping import ProfileMaps, map_context
from connectors.hl7v2.masterfile import MasterFile, master_file
from connectors.hl7v2.numbering import BAD_NUMBER, has_bad_number, series_of
from connectors.hl7v2.options import Settings
from connectors.port import Inbound, Series

HEAD_BYTES = 4096
HEAD_CODEC = "latin-1"
"""Gives every byte back as it was: an answer that is made of a header in an unknown set spells it as the peer did."""


_UTF8_MARK = b"\xef\xbb\xbf"
_WIDE = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"M\0S\0", "utf-16-le"), (b"\0M\0S", "utf-16-be"))
"""How UTF-16 begins. It is refused, but by the name of the message."""


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """One message as far as it could be read.

    `fault` set: it is refused. `inbound` set: it goes to the handler (a refused or ignored one for its number alone). `codec` is
    the set of the answer; `decoded_as` the one that read the message where its label was wrong. `event` and `reason` are for
    the log. `is_answer`: it has an MSA, and must not be answered.
    """

    header: Header | None = None
    codec: str = HEAD_CODEC
    decoded_as: str | None = None
    kind: str = "other"
    fault: Fault | None = None
    inbound: Inbound | None = None
    is_answer: bool = False
    master: MasterFile | None = None
    event: str = ""
    reason: str = ""


class Reader:
    """Reads the messages of one HIS by its profile."""

    def __init__(
        self,
        hospital: HospitalContext,
        name: str,
        settings: Settings,
        connection: dict[str, Any],
        maps: ProfileMaps,
    ) -> None:
        self.hospital = hospital
        self.name = name
        self.settings = settings
        self.connection = connection
        self.maps = maps

    def read(self, payload: bytes, peer: str) -> Read:
        """Decode, split, check and map one message. Never raises for what a peer can send."""
        try:
            decoded = decode_message(payload, self.settings.charset)
        except HL7CharsetError as error:
            fault = Fault("102", "MSH^1^18", reason=str(error))
            return self._unread(payload, peer, fault, "hl7_charset_refused")
        decoded_as = decoded.codec if decoded.fallback else None
        try:
            message = er7.parse(decoded.text, decoded.codec)
        except er7.ER7Error as error:
            fault = Fault(error.code, reason=str(error))
            return self._unread(payload, peer, fault, "hl7_message_unreadable", decoded_as)
        header = Header.of(message)
        kind = _kind(message)
        if message.index.get("MSA"):
            return Read(header=header, codec=decoded.codec, decoded_as=decoded_as, kind=kind, is_answer=True)
        series = self._series(header, decoded.codec)
        link = series is not None and series.alone  # 0 or -1: it speaks of the link, and of nothing else
        found = self._check(message, header, kind, link=link)
        if found is not None or link or kind in self.settings.ignore:
            inbound = None if header.control_id == "" else self._alone(header, decoded.codec, kind, peer)
        else:
            inbound = self._map(message, kind, payload, peer, series)
        return Read(
            header=header,
            codec=decoded.codec,
            decoded_as=decoded_as,
            kind=kind,
            fault=found,
            inbound=inbound,
            master=master_file(message),
            event="" if found is None else "hl7_message_refused",
            reason=""
            if found is None
            else f"{found.code} {found.location}: {found.reason or ERROR_TEXTS.get(found.code)}",
        )

    def refused(self, read: Read, fault: Fault, peer: str) -> Read:
        """A message that could be read and is refused all the same."""
        inbound = None if read.header is None else self._alone(read.header, read.codec, read.kind, peer)
        return msgspec.structs.replace(read, fault=fault, inbound=inbound)

    def read_head(self, payload: bytes, peer: str, fault: Fault) -> Read:
        """As much as can be had of a message that cannot be read: enough for MSA-2, and for its number to pass."""
        read = read_head(payload)
        if glance(payload).is_answer:
            return msgspec.structs.replace(read, is_answer=True)
        if read.header is None:
            return msgspec.structs.replace(read, fault=fault)
        return msgspec.structs.replace(read, fault=fault, inbound=self._alone(read.header, read.codec, read.kind, peer))

    def _unread(self, payload: bytes, peer: str, fault: Fault, event: str, decoded_as: str | None = None) -> Read:
        read = self.read_head(payload, peer, fault)
        return msgspec.structs.replace(read, event=event, reason=fault.reason, decoded_as=decoded_as)

    def _series(self, header: Header | None, codec: str, *, alone: bool = False) -> Series | None:
        return series_of(header, codec, self.name, alone=alone) if self.settings.sequence == "check" else None

    def _alone(self, header: Header, codec: str, kind: str, peer: str) -> Inbound | None:
        """What the handler is told of a message that is not taken: its number, where it has one."""
        series = self._series(header, codec, alone=True)
        if series is None:
            return None
        return Inbound(
            hospital_id=self.hospital.id,
            connector=self.name,
            peer=peer,
            message_type=kind,
            control_id=header.control_id,
            dedup_key="",
            raw=b"",
            series=series,
        )

    def _check(self, message: er7.Message, header: Header, kind: str, *, link: bool) -> Fault | None:
        """The checks of v2.5.1 ch. 2.9.2.2: who, what, in which mode and version. Codes are of table 0357."""
        if not header.code:
            return Fault("101", "MSH^1^9")
        if not header.control_id:
            return Fault("101", "MSH^1^10")
        if len(header.control_id) > LONGEST:
            return Fault("102", "MSH^1^10", reason=f"the control id is longer than {LONGEST} characters")
        if message.value("MSH", 11) not in self.settings.accept_processing_ids:
            return Fault("202", "MSH^1^11")
        if header.version and edition_of(header.version) is None:
            return Fault("203", "MSH^1^12")
        if self.settings.sequence == "check" and has_bad_number(header):
            return BAD_NUMBER
        if link or kind in self.maps.inbound or kind in self.settings.ignore:
            return None
        code = kind.partition("^")[0]
        known = any(name.partition("^")[0] == code for name in (*self.maps.inbound, *self.settings.ignore))
        return Fault("201" if known else "200", "MSH^1^9")

    def _map(self, message: er7.Message, kind: str, payload: bytes, peer: str, series: Series | None) -> Inbound:
        same_id_key = sender_and_id(message)
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
            dedup_key=f"{same_id_key}|{digest_of_content(message)}",
            same_id_key=same_id_key,
            same_id_apart=self.settings.same_id == "set_aside",
            series=series,
            raw=payload,
            # All or nothing: half a message applied would look as if it had been whole.
            events=() if problems else events,
            problem=problems[0] if problems else None,
            mrn=named_patient(message) if problems else None,
            order_no=named_order(message) if problems else None,
        )


def named_patient(message: er7.Message) -> str | None:
    """PID-3.1, as the standard has it: for a message that the profile cannot map."""
    return message.value("PID", 3) or None


def named_order(message: er7.Message) -> str | None:
    """SCH-1.1 (v2.5.1 ch. 10.6.2.1), else ARQ-1.1: where a HIS gives our number back."""
    return message.value("SCH", 1) or message.value("ARQ", 1) or None


def read_head(payload: bytes) -> Read:
    """As much of the header as can be had from a message that cannot be read: enough for MSA-2, if at all."""
    head = payload[:HEAD_BYTES]
    wide = next((codec for begin, codec in _WIDE if head.startswith(begin)), None)
    text = head.removeprefix(_UTF8_MARK).decode(HEAD_CODEC) if wide is None else head.decode(wide, "ignore")
    try:
        message = er7.parse(text.lstrip("\ufeff\r\n").replace("\n", "\r").split("\r", 1)[0])
    except er7.ER7Error:
        return Read()
    return Read(header=Header.of(message), kind=_kind(message))


def digest_of_content(message: er7.Message) -> str:
    """SHA-256 of the segments, each ended by CR, without MSH-7, -8 and -13.

    A repeat has a new time (MSH-7), and may have another security token (MSH-8) and sequence number (MSH-13).
    """
    segments = [message.text[start:stop] for start, stop in message.spans]
    for place in message.index["MSH"]:
        fields = message.segment(place).fields().copy()
        for number in (7, 8, 13):
            if number - 1 < len(fields):
                fields[number - 1] = ""
        segments[place] = message.delimiters.field.join(fields)
    return hashlib.sha256("\r".join((*segments, "")).encode()).hexdigest()


def sender_and_id(message: er7.Message) -> str:
    """MSH-3, -4 and -10."""
    return f"{message.msh.field(3)}|{message.msh.field(4)}|{message.value('MSH', 10)}"


def _kind(message: er7.Message) -> str:
    """MSH-9 as `ADT^A08`. Before v2.3 the event may stand in EVN-1 alone."""
    code = message.value("MSH", 9)
    trigger = message.value("MSH", 9, 2) or (message.value("EVN", 1) if code else "")
    return f"{code}^{trigger}" if trigger else code
