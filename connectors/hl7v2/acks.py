"""Acknowledgements: which are due, and how they look (HL7 v2.5.1 ch. 2.9.2 and 2.9.3, tables 0008, 0155 and 0357).

Original mode (MSH-15 and MSH-16 both empty): one answer, AA, AE or AR.
Enhanced mode: a commit acknowledgement (CA, CE, CR) where MSH-15 asks for it, and an application acknowledgement (AA, AE,
AR) where MSH-16 does. What was not committed gets no application acknowledgement after its CE or CR.

An answer has the form of the peer's version:

    up to 2.3      MSH-9 is ACK^A08; later ACK^A08^ACK
    up to 2.4      ERR-1 has place and code, MSA-3 the reason; later ERR-2, ERR-3, ERR-4 and ERR-7
"""

from __future__ import annotations

import datetime as dt
import secrets
from enum import StrEnum

import msgspec

from connectors.hl7v2.escapes import STANDARD
from connectors.hl7v2.header import Header, edition_of


class Verdict(StrEnum):
    """What became of a message: the second letter of MSA-1."""

    ACCEPTED = "A"
    ERROR = "E"  # not stored, may be sent again
    REJECTED = "R"  # not stored, sending it again will not help


class Fault(msgspec.Struct, frozen=True):
    """Why a message was not accepted: code of table 0357, where (ERL: segment^sequence^field), and a reason for a person.

    `reason` quotes nothing of the message.
    """

    code: str
    location: str = ""
    verdict: Verdict = Verdict.REJECTED
    reason: str = ""


ERROR_TEXTS = {
    "100": "Segment sequence error",
    "101": "Required field missing",
    "102": "Data type error",
    "103": "Table value not found",
    "200": "Unsupported message type",
    "201": "Unsupported event code",
    "202": "Unsupported processing id",
    "203": "Unsupported version id",
    "207": "Application internal error",
}

STRUCTURE_SINCE = (2, 3, 1)  # MSH-9.3
ERROR_FIELDS_SINCE = (2, 5)  # ERR-2 to ERR-12
_CONDITIONS = ("", "AL", "NE", "ER", "SU")


def control_id() -> str:
    """A fresh MSH-10: 20 characters (ST 20 in v2.5.1), unique by chance."""
    return "HB" + secrets.token_hex(9).upper()


def codes_due(header: Header | None, verdict: Verdict, *, always: bool = False) -> list[str]:
    """The MSA-1 codes to answer with, in order. A message without a readable header is in original mode."""
    accept, application = ("", "") if header is None else (header.accept, header.application)
    if not accept and not application:
        return [f"A{verdict}"]
    codes = [f"C{verdict}"] if _asked(accept, verdict) else []
    if _asked(application, verdict) and (verdict is Verdict.ACCEPTED or not codes):
        codes.append(f"A{verdict}")
    return codes or ([f"A{verdict}"] if always else [])


def _asked(condition: str, verdict: Verdict) -> bool:
    """Table 0155: AL always, NE never, ER errors and rejections only, SU success only. Empty means never here.

    A word that is not in the table asks for something: an answer too many is dropped, one too few is waited for.
    """
    word = condition.strip().upper()
    success = verdict is Verdict.ACCEPTED
    return word not in _CONDITIONS or word == "AL" or (word == "ER" and not success) or (word == "SU" and success)


def write_ack(
    header: Header | None, code: str, now: dt.datetime, fault: Fault | None = None, expected: int | None = None
) -> str:
    """One acknowledgement. Without a header (nothing could be read) MSA-2 stays empty: there is nothing to name.

    `expected` is MSA-4, of the sequence number protocol. It is put together by hand, as every message of a stream waits for one.
    """
    head = header or Header()
    return write_header(head, "ACK", now, structure="ACK") + write_outcome(head, code, fault, expected)


def write_header(head: Header, kind: str, now: dt.datetime, *, structure: str) -> str:
    """MSH of an answer of this kind: to whoever sent, in the mode, version and character set of the message."""
    if head.trigger:  # a sender that names no trigger (MSH-9 of one component) gets none back
        kind = f"{kind}^{head.trigger}" + (f"^{structure}" if head.edition >= STRUCTURE_SINCE else "")
    stamp = now.strftime("%Y%m%d%H%M%S%z")
    sender = f"{head.receiving}|{head.receiving_facility}|{head.sending}|{head.sending_facility}"
    version = head.version if edition_of(head.version) else "2.5.1"
    mode = f"{head.processing_id or 'P'}|{version}"
    charset = f"||||||{head.charset}" if head.charset else ""
    return f"MSH|^~\\&|{sender}|{stamp}||{kind}|{control_id()}|{mode}{charset}\r"


def write_outcome(head: Header, code: str, fault: Fault | None = None, expected: int | None = None) -> str:
    """MSA, and ERR where there is a fault."""
    old = head.edition < ERROR_FIELDS_SINCE
    reason = STANDARD.escaped(fault.reason or ERROR_TEXTS.get(fault.code, "Refused")) if fault and old else ""
    number = "" if expected is None else str(expected)
    fields = f"MSA|{code}|{head.control_id}|{reason}|{number}".rstrip("|")
    msa = fields if head.control_id or reason or number else f"MSA|{code}|"
    if fault is None:
        return f"{msa}\r"
    return f"{msa}\r{_error_of_old(fault) if old else _error(fault)}\r"


def _error(fault: Fault) -> str:
    """ERR since v2.5: ERR-2 place, ERR-3 code of table 0357, ERR-4 severity, ERR-7 the reason."""
    text = ERROR_TEXTS.get(fault.code, "Refused")
    reason = f"|||{STANDARD.escaped(fault.reason)}" if fault.reason else ""
    return f"ERR||{fault.location}|{fault.code}^{text}^HL70357|E{reason}"


def _error_of_old(fault: Fault) -> str:
    """ERR before v2.5: ERR-1 is segment^sequence^field^code, the code with subcomponents (v2.4 ch. 2.16.5.1)."""
    place = [*fault.location.split("^"), "", "", ""][:3]
    return f"ERR|{'^'.join(place)}^{fault.code}&{ERROR_TEXTS.get(fault.code, 'Refused')}&HL70357"
