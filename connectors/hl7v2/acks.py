"""Acknowledgements: which are due, and how they look (HL7 v2.5.1 ch. 2.9.2 and 2.9.3, tables 0008, 0155 and 0357).

Original mode (MSH-15 and MSH-16 both empty): one answer, AA, AE or AR.
Enhanced mode: a commit acknowledgement (CA, CE, CR) where MSH-15 asks for it, and an application acknowledgement (AA, AE,
AR) where MSH-16 does. What was not committed gets no application acknowledgement after its CE or CR.
"""

from __future__ import annotations

import datetime as dt
import secrets
from enum import StrEnum
from typing import Any

import msgspec

from connectors.hl7v2.er7 import Message
from connectors.hl7v2.escapes import STANDARD
from connectors.hl7v2.writer import write_message


class Verdict(StrEnum):
    """What became of a message: the second letter of MSA-1."""

    ACCEPTED = "A"
    ERROR = "E"  # not stored, may be sent again
    REJECTED = "R"  # not stored, sending it again will not help


class Fault(msgspec.Struct, frozen=True):
    """Why a message was not accepted: code and text of table 0357, and where (ERL: segment^sequence^field)."""

    code: str
    location: str = ""
    verdict: Verdict = Verdict.REJECTED


ERROR_TEXTS = {
    "100": "Segment sequence error",
    "101": "Required field missing",
    "102": "Data type error",
    "103": "Table value not found",
    "200": "Unsupported message type",
    "201": "Unsupported event code",
    "202": "Unsupported processing id",
    "207": "Application internal error",
}


def control_id() -> str:
    """A fresh MSH-10: 20 characters (ST 20 in v2.5.1), unique by chance."""
    return "HB" + secrets.token_hex(9).upper()


def codes_due(message: Message | None, verdict: Verdict, *, always: bool = False) -> list[str]:
    """The MSA-1 codes to answer with, in order. A message without a readable header is in original mode."""
    accept, application = ("", "") if message is None else (message.value("MSH", 15), message.value("MSH", 16))
    if not accept and not application:
        return [f"A{verdict}"]
    codes = [f"C{verdict}"] if _asked(accept, verdict) else []
    if _asked(application, verdict) and (verdict is Verdict.ACCEPTED or not codes):
        codes.append(f"A{verdict}")
    return codes or ([f"A{verdict}"] if always else [])


def _asked(condition: str, verdict: Verdict) -> bool:
    """Table 0155: AL always, NE never, ER errors and rejections only, SU success only. Empty means never here."""
    success = verdict is Verdict.ACCEPTED
    return condition == "AL" or (condition == "ER" and not success) or (condition == "SU" and success)


def write_ack(message: Message | None, code: str, now: dt.datetime, fault: Fault | None = None) -> str:
    """One acknowledgement. Without a message (nothing could be read) MSA-2 stays empty: there is nothing to name.

    MSH is put together by hand, as every message of a stream waits for one: the writer of trees takes ten times as long.
    """
    sender = application = receiver = facility = charset = named = ""
    kind, processing, version = "ACK", "P", "2.5.1"
    if message is not None:
        named = _text(message, "MSH", 10)
        sender, application = _named(message, 5), _named(message, 6)
        receiver, facility = _named(message, 3), _named(message, 4)
        if trigger := _text(message, "MSH", 9, 2):
            kind = f"ACK^{trigger}^ACK"  # a sender that names no trigger (MSH-9 of one component) gets none back
        processing, version = _text(message, "MSH", 11) or processing, _text(message, "MSH", 12) or version
        charset = _text(message, "MSH", 18)
    stamp = now.strftime("%Y%m%d%H%M%S%z")
    header = [
        "MSH",
        "^~\\&",
        sender,
        application,
        receiver,
        facility,
        stamp,
        "",
        kind,
        control_id(),
        processing,
        version,
    ]
    if charset:
        header += [*[""] * 5, charset]
    ack = f"{'|'.join(header)}\rMSA|{code}|{named}\r"
    return ack if fault is None else ack + write_message([_error(fault)])


def _text(message: Message, name: str, field: int, component: int = 1) -> str:
    """A part of their message, as it may stand in ours."""
    return STANDARD.escaped(message.value(name, field, component))


def _named(message: Message, field: int) -> str:
    """The three components of an HD field of their header."""
    raw = message.msh.field(field)
    if not raw or raw.isalnum():  # no delimiter is a letter or a digit
        return raw
    return "^".join(_text(message, "MSH", field, n) for n in (1, 2, 3)).rstrip("^")


def _error(fault: Fault) -> dict[str, Any]:
    """ERR, v2.5 form: ERR-2 location, ERR-3 code of table 0357, ERR-4 severity."""
    location = {f"ERR-2.{n}": part for n, part in enumerate(fault.location.split("^"), 1) if part}
    text = ERROR_TEXTS.get(fault.code, "Refused")
    return location | {"ERR-3.1": fault.code, "ERR-3.2": text, "ERR-3.3": "HL70357", "ERR-4": "E"}
