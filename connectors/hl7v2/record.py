"""What the message store is told of HL7 v2 on the wire."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from connectors.hl7v2 import er7
from connectors.hl7v2.acks import ERROR_TEXTS, Fault
from connectors.hl7v2.answers import Stray, glance
from connectors.hl7v2.charset import HL7CharsetError, codec_of, encode_message
from connectors.hl7v2.client import NotSent, Request
from connectors.hl7v2.mapping import CompiledVerb
from connectors.hl7v2.options import Settings
from connectors.hl7v2.reading import Read, Reader
from connectors.port import Inbound, InboundAnswer, Passed, Refused, Stored
from connectors.recording import Passing, WireRecord
from mappings.canonical import Record

_POSITIVE = frozenset({"AA", "CA"})


class Asked:
    """One request on its way; `answered` passes its reply through."""

    def __init__(self, passing: Passing, settings: Settings, recorded: bool) -> None:
        self._passing = passing
        self._settings = settings
        self._recorded = recorded

    def answered(self, reply: er7.Message) -> er7.Message:
        """The reply, noted."""
        if self._recorded:
            passing = self._passing
            code = reply.value("MSA", 1)
            passing.answer = _bytes_of(reply, self._settings.charset)
            passing.answer_code = code if code.isalnum() and len(code) <= 2 else None
            if code not in _POSITIVE:
                passing.state, passing.error = Passed.FAILED, f"answered {passing.answer_code or 'without a code'}"
        return reply


@contextmanager
def asking(record: WireRecord, settings: Settings, verb: CompiledVerb, about: Record, sent: Request) -> Iterator[Asked]:
    """Around one request."""
    with record.asking(
        verb.name,
        about,
        peer=f"{settings.host}:{settings.port}",
        message_type="^".join(verb.message[:2]),
        control_id=sent.control_id,
        request=sent.message,
        not_sent=NotSent,
    ) as passing:
        yield Asked(passing, settings, record.recorder is not None)


def note_heard(
    record: WireRecord,
    payload: bytes,
    peer: str,
    read: Read,
    *,
    given: InboundAnswer | None = None,
    fault: Fault | None = None,
    acks: Sequence[bytes] = (),
) -> None:
    """A message of the HIS and what it was answered. `given` is what the handler said, None where it was not asked.

    What is stored stands elsewhere; what the settings ignore is not kept.
    """
    if record.recorder is None or (fault is None and given is None and not read.is_answer):
        return
    code = code_of(acks)
    if isinstance(given, Stored) and not given.duplicate and read.inbound is not None:
        record.acknowledged(read.inbound.dedup_key, code)
        return
    if isinstance(given, Stored):
        state, error = Passed.DUPLICATE, "stored before: the same message came within the last 7 days"
    elif read.is_answer:
        state, error = Passed.REFUSED, "an acknowledgement that answers nothing here"
    elif isinstance(given, Refused):
        state, error = Passed.REFUSED, given.text or given.code
    else:
        state, error = Passed.REFUSED, _told(fault)
    record.not_taken(
        state,
        peer=peer,
        message_type=read.kind,
        control_id="" if read.header is None else read.header.control_id,
        request=payload,
        error=error,
        answer=acks[-1] if acks else None,
        answer_code=code,
    )


_STRAY = {
    Stray.LATE: "an answer to a request of ours that had been given up",
    Stray.DUPLICATE: "a second answer to a request of ours",
    Stray.FOREIGN: "it answers no request of ours",
    Stray.GARBAGE: "no HL7 message, or one that cannot be read, where an answer was expected",
    Stray.TOO_LARGE: "larger than max_message_bytes; only its beginning was read",
}


def note_stray(record: WireRecord, settings: Settings, kind: Stray, data: bytes) -> None:
    """Something came that answered nothing; found by the control id that it names (MSA-2)."""
    record.not_taken(
        Passed.REFUSED,
        peer=f"{settings.host}:{settings.port}",
        message_type="ACK" if glance(data).is_answer else "other",
        control_id=glance(data).names,
        request=data,
        error=_STRAY[kind],
    )


def _told(fault: Fault | None) -> str:
    if fault is None:
        return "refused"
    where = f" at {fault.location}" if fault.location else ""
    return f"{fault.reason or ERROR_TEXTS.get(fault.code, 'Refused')} ({fault.code}){where}"


def read_again(reader: Reader, raw: bytes, peer: str) -> Inbound | Refused:
    """A stored message as the present profile maps it."""
    read = reader.read(raw, peer)
    if read.inbound is not None and (read.inbound.series is None or not read.inbound.series.alone):
        return msgspec.structs.replace(read.inbound, series=None)  # its number has passed
    if read.fault is not None:
        return Refused(code="refused", text=_told(read.fault), retryable=False)
    return Refused(code="ignored", text="messages of its type are ignored by the settings", retryable=False)


def code_of(acks: Sequence[bytes]) -> str:
    """The MSA-1 of our acknowledgements, as `AA` or `CA AA`; "none" where none was due."""
    codes = [ack.split(b"\rMSA|", 1)[1][:2].decode("ascii", "replace") for ack in acks if b"\rMSA|" in ack]
    return " ".join(codes) or "none"


def _bytes_of(reply: er7.Message, default: str) -> bytes:
    """The answer again as it came: its set is that of MSH-18."""
    text = reply.text
    try:
        return encode_message(text, codec_of(reply.value("MSH", 18)) or codec_of(default) or "utf-8")
    except HL7CharsetError:
        return text.encode("utf-8", "replace")
