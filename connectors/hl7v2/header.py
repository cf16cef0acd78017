"""What an answer needs of the header that it answers (HL7 v2.5.1 ch. 2.15.9, MSH)."""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from connectors.hl7v2 import er7
from connectors.hl7v2.escapes import STANDARD, Delimiters

_VERSION = re.compile(r"[vV]?(2(?:\.[1-9]){1,3})")
NEWEST = (2, 5, 1)
LONGEST = 500
"""Characters of a field that an answer repeats; a longer one is left out of it. HD has 227 (v2.5.1 ch. 2A.36)."""

REMEMBERED, REMEMBERED_CHARACTERS = 256, 1_000
_OWN = (6, 7, 9, 12)
"""Where MSH-7, -8, -10 and -13 stand: time, security, control id and number are a message's own. All else is its sender's."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """MSH of a message that came. Its texts are spelled with the standard delimiters, as they may stand in an answer.

    `code` and `trigger` are MSH-9.1 and MSH-9.2; `accept` and `application` are MSH-15 and MSH-16; `charset` is the first
    repetition of MSH-18, `sequence` MSH-13. `version` is MSH-12.1 as the peer wrote it.
    """

    sending: str = ""
    sending_facility: str = ""
    receiving: str = ""
    receiving_facility: str = ""
    code: str = ""
    trigger: str = ""
    control_id: str = ""
    processing_id: str = ""
    version: str = ""
    accept: str = ""
    application: str = ""
    charset: str = ""
    sequence: str = ""

    @classmethod
    def of(cls, message: er7.Message) -> Header:
        """The header of a message."""
        fields = message.msh.fields().copy()
        for place in _OWN:
            if place < len(fields):
                fields[place] = ""
        steady = message.delimiters.field.join(fields)
        head = (_remembered if len(steady) <= REMEMBERED_CHARACTERS else _read)(steady, message.delimiters)
        value = message.value
        control_id, sequence = STANDARD.escaped(value("MSH", 10)), value("MSH", 13).strip()
        return msgspec.structs.replace(head, control_id=control_id, sequence=sequence)

    @property
    def edition(self) -> tuple[int, ...]:
        """The version as numbers; that of v2.5.1 where the peer names none, or none that there is."""
        return edition_of(self.version) or NEWEST


def _read(steady: str, delimiters: Delimiters) -> Header:
    """What MSH says without what is a message's own."""
    message = er7.Message(steady, [(0, len(steady))], delimiters)
    msh, value = message.msh, message.value
    return Header(
        sending=_short(restated(_short(msh.field(3)), delimiters)),
        sending_facility=_short(restated(_short(msh.field(4)), delimiters)),
        receiving=_short(restated(_short(msh.field(5)), delimiters)),
        receiving_facility=_short(restated(_short(msh.field(6)), delimiters)),
        code=_short(STANDARD.escaped(value("MSH", 9))),
        trigger=_short(STANDARD.escaped(value("MSH", 9, 2))),
        processing_id=_short(STANDARD.escaped(value("MSH", 11))),
        version=_short(STANDARD.escaped(value("MSH", 12))),
        accept=value("MSH", 15),
        application=value("MSH", 16),
        charset=_short(STANDARD.escaped(value("MSH", 18))),
    )


# Every message of a stream waits for this, and thousands begin alike.
_remembered = lru_cache(maxsize=REMEMBERED)(_read)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else ""


@lru_cache(maxsize=64)
def edition_of(version: str) -> tuple[int, ...] | None:
    """MSH-12.1 as numbers, None for what is no version of v2.

    2.1 to 2.9 are taken, with one or two further digits (2.3.1, 2.5.1), and a `V` before them. Messages of all of them are read
    alike, by position: fields were only ever added behind.
    """
    found = _VERSION.fullmatch(version.strip())
    return tuple(int(digit) for digit in found[1].split(".")) if found else None


def restated(raw: str, delimiters: Delimiters) -> str:
    """A field of theirs with the standard delimiters, its meaning unchanged."""
    if delimiters is STANDARD or raw.isalnum() or delimiters == STANDARD:
        return raw
    marks = ((delimiters.repetition, "~"), (delimiters.component, "^"), (delimiters.subcomponent, "&"))

    def restate(text: str, level: int) -> str:
        if level == len(marks):
            return STANDARD.escaped(delimiters.unescape(text))
        theirs, ours = marks[level]
        pieces = text.split(theirs) if theirs else [text]
        return ours.join(restate(piece, level + 1) for piece in pieces)

    return restate(raw, 0)
