"""The answer to one message: as many acknowledgements as are due, in its own version and character set."""

from __future__ import annotations

import datetime as dt

from connectors.hl7v2.acks import Fault, Verdict, codes_due, write_ack
from connectors.hl7v2.answerer import Answers
from connectors.hl7v2.charset import HL7CharsetError, encode_message
from connectors.hl7v2.escapes import STANDARD
from connectors.hl7v2.masterfile import write_mfk
from connectors.hl7v2.reading import Read
from connectors.port import InboundAnswer, Refused


def acknowledge(
    read: Read, fault: Fault | None, now: dt.datetime, *, always: bool, expected: int | None = None
) -> Answers:
    """What MSH-15 and MSH-16 ask for. `always`: one even where they ask for none. `expected` is MSA-4.

    None for what is an answer itself, readable or not: two that acknowledge each other's acknowledgements would never end.
    """
    if read.is_answer:
        return Answers()
    verdict = Verdict.ACCEPTED if fault is None else fault.verdict
    codes = codes_due(read.header, verdict, always=always)
    written = (_encoded(_written(read, code, now, fault, expected), read.codec) for code in codes)
    return Answers(written, again=verdict is Verdict.ERROR)


def fault_of(given: InboundAnswer | None) -> Fault | None:
    """What the handler has against a message; None where it has taken it or was not asked."""
    if not isinstance(given, Refused):
        return None
    verdict = Verdict.ERROR if given.retryable else Verdict.REJECTED
    return Fault("207", "MSH^1^13" if given.out_of_series else "", verdict, given.text)


def _written(read: Read, code: str, now: dt.datetime, fault: Fault | None, expected: int | None) -> str:
    if read.header is not None and read.master is not None and code.startswith("A"):
        return write_mfk(read.header, read.master, code, now, fault, expected)
    return write_ack(read.header, code, now, fault, expected)


def _encoded(ack: str, codec: str) -> bytes:
    """The acknowledgement in the message's own set.

    What the peer named itself with may be spelled in escapes that its set cannot carry: they go back as escapes, because an
    acknowledgement that cannot be written would make the peer send for ever what we have stored.
    """
    try:
        return encode_message(ack, codec)
    except HL7CharsetError:
        return "".join(c if c.isascii() else STANDARD.as_bytes(c) for c in ack).encode("ascii")
