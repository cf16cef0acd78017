r"""The delimiters of one message and its escape sequences (HL7 v2.5.1 ch. 2.5.4 and 2.7).

Reading: \F\ \S\ \T\ \R\ \E\ are the delimiters, \Xhh..\ is bytes, \.br\ and \.sp n\ are line breaks; other formatting and
highlighting commands carry no text and are dropped; what is none of these stays as it is, so that nothing gets lost.
"""

from __future__ import annotations

import re

import msgspec

_FORMATTING = re.compile(r"\.(in|ti|fi|nf|ce|sk)[+-]?[0-9 ]*|[HN]")
_BREAK = re.compile(r"\.(br|sp)\+?([0-9]{0,9})")
_HEX = re.compile(r"X((?:[0-9A-Fa-f]{2})+)")
MAX_BREAKS = 100


class Delimiters(msgspec.Struct, frozen=True):
    """The five delimiters; "" for one that the message does not declare."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"

    @classmethod
    def of_header(cls, header: str) -> Delimiters | None:
        """Those that an MSH line declares; None where they cannot be delimiters."""
        if header.startswith(_STANDARD_HEADER):
            return STANDARD
        if len(header) < 5:
            return None
        field = header[3]
        marks = header[4:].split(field, 1)[0].rstrip()
        # A fifth mark is v2.7's truncation character: it is no delimiter.
        used = field + marks[:4]
        if not 1 <= len(marks) <= 5 or any(m.isalnum() or m.isspace() or not m.isprintable() for m in used):
            return None
        if len(set(used)) != len(used):
            return None
        return cls(field, *(marks[n : n + 1] for n in range(4)))

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
        named = {"F": self.field, "S": self.component, "T": self.subcomponent, "R": self.repetition, "E": self.escape}
        if sequence in named:
            return named[sequence]
        if found := _BREAK.fullmatch(sequence):
            return "\n" * min(int(found[2] or 1), MAX_BREAKS)
        if found := _HEX.fullmatch(sequence):
            try:
                return bytes.fromhex(found[1]).decode("utf-8")
            except UnicodeDecodeError:
                return None
        return "" if _FORMATTING.fullmatch(sequence) else None

    def escaped(self, text: str) -> str:
        """The text as the content of a subcomponent: nothing in it can end a field or a segment any more."""
        if text.isalnum() or (self is STANDARD and not _STANDARD_MARKS.search(text)):
            return text
        out = text.translate(
            {
                ord(self.escape): f"{self.escape}E{self.escape}",
                ord(self.field): f"{self.escape}F{self.escape}",
                ord(self.component): f"{self.escape}S{self.escape}",
                ord(self.repetition): f"{self.escape}R{self.escape}",
                ord(self.subcomponent): f"{self.escape}T{self.escape}",
            }
        )
        if not _CONTROL.search(out):
            return out
        out = out.replace("\r\n", "\n").replace("\r", "\n").replace("\n", f"{self.escape}.br{self.escape}")
        # Control characters could end the frame or the segment; they travel as bytes.
        return _CONTROL.sub(lambda found: self.as_bytes(found[0]), out)

    def as_bytes(self, text: str) -> str:
        """The text as the escape that spells its UTF-8 bytes: \\Xhh..\\."""
        return f"{self.escape}X{text.encode('utf-8').hex().upper()}{self.escape}"


_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f]")
_STANDARD_MARKS = re.compile(r"[|^~\\&\x00-\x08\x0a-\x1f]")
_STANDARD_HEADER = "MSH|^~\\&|"
STANDARD = Delimiters()
