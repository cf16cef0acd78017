r"""The delimiters of one message and its escape sequences (HL7 v2.5.1 ch. 2.5.4 and 2.7; v2.7 ch. 2.5.5.2 for \P\).

Reading: \F\ \S\ \T\ \R\ \E\ \P\ are the delimiters, \Xhh..\ is bytes of the message's character set (or of UTF-8, where they
are none of it), \.br\ \.sp n\ and \.ce\ are line breaks, \.sk n\ is spaces; other formatting and highlighting carries no text and
is dropped. What is none of these stays as it is, so that nothing gets lost: local sequences (\Z..\), those that switch the
character set (\Cxxyy\, \Mxxyyzz\), and a mark without a second one.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

_FORMATTING = re.compile(r"\.(in|ti|fi|nf)[+-]?[0-9 ]*|[HN]")
_BREAK = re.compile(r"\.(br|sp|ce)\+?([0-9]{0,9})")
_SKIP = re.compile(r"\.sk\+? ?([0-9]{0,9})")
_HEX = re.compile(r"X((?:[0-9A-Fa-f]{2})+)")
MAX_BREAKS = 100
"""Line breaks or spaces that one sequence may ask for."""


class Delimiters(msgspec.Struct, frozen=True):
    """The five delimiters; "" for one that the message does not declare. `truncation` is v2.7's, and none: it cuts nothing.

    `codec` is the Python codec of the message, by which escaped bytes are read.
    """

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"
    truncation: str = ""
    codec: str = "utf-8"

    @classmethod
    def of_header(cls, header: str, codec: str = "utf-8") -> Delimiters | None:
        """Those that an MSH line declares; None where they cannot be delimiters."""
        if header.startswith(_STANDARD_HEADER):
            return STANDARD if codec == "utf-8" else _standard_in(codec)
        if len(header) < 5:
            return None
        field = header[3]
        stop = header.find(field, 4)
        marks = header[4 : stop if stop >= 0 else len(header)].rstrip()
        used = field + marks[:4]
        if not 1 <= len(marks) <= 5 or not all(_usable(mark) for mark in used) or len(set(used)) != len(used):
            return None
        truncation = marks[4:] if _usable(marks[4:]) and marks[4:] not in used else ""
        component, repetition, escape, subcomponent = (marks[n : n + 1] for n in range(4))
        return cls(field, component, repetition, escape, subcomponent, truncation, codec)

    def unescape(self, text: str) -> str:
        """The text that an escaped field means. An escape that we do not know, or that does not end, stays."""
        mark = self.escape
        if not mark or mark not in text:
            return text
        out: list[str] = []
        position = 0
        while True:
            start = text.find(mark, position)
            stop = text.find(mark, start + 1) if start >= 0 else -1
            if stop < 0:
                out.append(text[position:])
                return "".join(out)
            out.append(text[position:start])
            meaning = self._meaning(text[start + 1 : stop])
            if meaning is None:
                # The second mark may begin a sequence of its own.
                out.append(text[start:stop])
                position = stop
            else:
                out.append(meaning)
                position = stop + 1

    def _meaning(self, sequence: str) -> str | None:
        named = _names(self).get("P" if sequence == "L" else sequence)  # hl7apy writes the truncation character as \L\
        if named is not None:
            return named
        if found := _BREAK.fullmatch(sequence):
            return "\n" * min(int(found[2] or 1), MAX_BREAKS)
        if found := _SKIP.fullmatch(sequence):
            return " " * min(int(found[1] or 1), MAX_BREAKS)
        if found := _HEX.fullmatch(sequence):
            return self._of_bytes(bytes.fromhex(found[1]))
        return "" if _FORMATTING.fullmatch(sequence) else None

    def _of_bytes(self, data: bytes) -> str | None:
        for codec in (self.codec, "utf-8"):
            try:
                return data.decode(codec)
            except UnicodeDecodeError:
                continue
        return None

    def escaped(self, text: str) -> str:
        """The text as the content of a subcomponent: nothing in it can end a field or a segment any more.

        Raises ValueError where the text needs an escape and the message declares no character for it.
        """
        if text.isalnum() or not (_STANDARD_SPECIAL if self is STANDARD else _special(self)).search(text):
            return text
        mark = self.escape
        if not mark:
            raise ValueError("the message declares no escape character, and the text needs one")
        out = text.translate(_table(self))
        if not _CONTROL.search(out):
            return out
        out = out.replace("\r\n", "\n").replace("\r", "\n").replace("\n", f"{mark}.br{mark}")
        # Control characters could end the frame or the segment; they travel as bytes.
        return _CONTROL.sub(lambda found: self.as_bytes(found[0]), out)

    def as_bytes(self, text: str) -> str:
        """The text as the escape that spells its UTF-8 bytes: \\Xhh..\\."""
        return f"{self.escape}X{text.encode('utf-8').hex().upper()}{self.escape}"


def _usable(mark: str) -> bool:
    return mark.isprintable() and not (mark.isalnum() or mark.isspace())


_CONTROLS = "\\x00-\\x08\\x0a-\\x1f"
_CONTROL = re.compile(f"[{_CONTROLS}]")
_STANDARD_HEADER = "MSH|^~\\&|"
STANDARD = Delimiters()


@lru_cache(maxsize=64)
def _standard_in(codec: str) -> Delimiters:
    return Delimiters(codec=codec)


@lru_cache(maxsize=64)
def _names(marks: Delimiters) -> dict[str, str]:
    """What the sequences of one letter mean, of those delimiters that the message declares."""
    letters = {
        "F": marks.field,
        "S": marks.component,
        "T": marks.subcomponent,
        "R": marks.repetition,
        "E": marks.escape,
        "P": marks.truncation,
    }
    return {letter: mark for letter, mark in letters.items() if mark}


@lru_cache(maxsize=64)
def _table(marks: Delimiters) -> dict[int, str]:
    return {ord(mark): f"{marks.escape}{letter}{marks.escape}" for letter, mark in _names(marks).items()}


@lru_cache(maxsize=64)
def _special(marks: Delimiters) -> re.Pattern[str]:
    """What cannot stand in a field as it is."""
    return re.compile(f"[{re.escape(''.join(_names(marks).values()))}{_CONTROLS}]")


_STANDARD_SPECIAL = _special(STANDARD)
