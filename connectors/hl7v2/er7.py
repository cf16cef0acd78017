"""ER7, the pipe-and-hat encoding of HL7 v2 (v2.5.1 ch. 2.5 to 2.7): a lazy reader that keeps every byte.

A message is split into segments at once and into fields only where somebody looks. What was read can be rendered again
byte for byte. Positions are the message's own: no structure table is consulted, so Z segments and unknown versions read
like everything else.
"""

from __future__ import annotations

import datetime as dt
import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import cast

import msgspec

from connectors.hl7v2.escapes import Delimiters

_SEGMENT_NAME = re.compile(r"[A-Z][A-Z0-9]{2}")
_LINE_END = re.compile(r"\r\n?|\n")
_CR = re.compile(r"\r")
MAX_SEGMENTS = 100_000
NULL = '""'
"""A field with two double quotes: "delete what you have" (v2.5.1 ch. 2.5.3). As a value it is absent."""


class ER7Error(ValueError):
    """The text is no ER7 message. `code` is of table 0357 (100 segment sequence, 102 data type)."""

    def __init__(self, text: str, code: str = "100") -> None:
        super().__init__(text)
        self.code = code


class Segment:
    """One segment: its name, and its fields on demand."""

    __slots__ = ("_fields", "delimiters", "name", "raw")

    def __init__(self, raw: str, delimiters: Delimiters) -> None:
        self.raw = raw
        self.name = raw[:3]
        self.delimiters = delimiters
        self._fields: list[str] | None = None

    def fields(self) -> list[str]:
        """The pieces between separators; piece 0 is the name. In MSH, field n is piece n - 1 (MSH-1 is the separator)."""
        if self._fields is None:
            self._fields = self.raw.split(self.delimiters.field)
        return self._fields

    def field(self, number: int) -> str:
        """The raw text of one field, "" where it is not there."""
        if self.name == "MSH":
            if number == 1:
                return self.delimiters.field
            number -= 1
        fields = self.fields()
        return fields[number] if number < len(fields) else ""

    def repetitions(self, number: int) -> list[str]:
        """The raw repetitions of one field; [] where the field is empty or absent. MSH-1 and MSH-2 never split."""
        raw = self.field(number)
        if not raw:
            return []
        if (self.name == "MSH" and number <= 2) or not self.delimiters.repetition:
            return [raw]
        return raw.split(self.delimiters.repetition)

    def render(self) -> str:
        """The segment again, from its fields."""
        return self.delimiters.field.join(self.fields())


class Group:
    """A run of segments `start <= n < stop` of one message: what an `each` over a segment name walks."""

    __slots__ = ("_message", "start", "stop")

    def __init__(self, message: Message | None, start: int, stop: int) -> None:
        self._message = message
        self.start = start
        self.stop = stop

    @property
    def message(self) -> Message:
        """The message; of a message itself too."""
        # A message that held itself would be left to the collector of garbage, with all its segments.
        return self._message or cast("Message", self)

    def positions(self, name: str) -> list[int]:
        """Where in the message segments of this name stand, within the group."""
        places = self.message.index.get(name)
        if not places:
            return []
        if self.start == 0 and self.stop == len(self.message.segments):
            return places
        return places[bisect_left(places, self.start) : bisect_left(places, self.stop)]


class Message(Group):
    """A whole message. `segments` keep their order; `index` lists the positions of each name."""

    __slots__ = ("_ends", "delimiters", "index", "segments")

    def __init__(self, segments: list[Segment], ends: list[str], delimiters: Delimiters) -> None:
        self.segments = segments
        self.delimiters = delimiters
        self._ends = ends
        self.index: dict[str, list[int]] = {}
        for place, segment in enumerate(segments):
            self.index.setdefault(segment.name, []).append(place)
        super().__init__(None, 0, len(segments))

    def positions(self, name: str) -> list[int]:
        """Where the segments of this name stand."""
        return self.index.get(name, [])

    @property
    def msh(self) -> Segment:
        return self.segments[0]

    def value(self, name: str, field: int, component: int = 1) -> str:
        """The text of one component of the first segment of a name, unescaped; "" where it is absent."""
        places = self.index.get(name)
        if not places:
            return ""
        raw = self.segments[places[0]].field(field)
        if not raw or (name == "MSH" and field <= 2):
            return raw
        mark = self.delimiters.repetition
        return leaf_of(raw.partition(mark)[0] if mark else raw, self.delimiters, component, 1)

    def render(self) -> str:
        """The message again, as it was read."""
        return "".join(segment.render() + end for segment, end in zip(self.segments, self._ends, strict=True))


class Repetition(msgspec.Struct, frozen=True):
    """One repetition of a field: components within, subcomponents within those."""

    raw: str
    delimiters: Delimiters

    def part(self, component: int, subcomponent: int | None = None) -> str:
        """The raw text of a component or subcomponent, "" where it is not there."""
        return _part(self.raw, self.delimiters, component, subcomponent)

    def leaf(self, component: int = 1, subcomponent: int = 1) -> str:
        """The text, unescaped. What is addressed less deeply than it goes means its first part (v2.5.1 ch. 2.8.1)."""
        return leaf_of(self.raw, self.delimiters, component, subcomponent)


def leaf_of(raw: str, delimiters: Delimiters, component: int, subcomponent: int) -> str:
    """`Repetition.leaf` of a raw repetition, for whoever needs nothing else of it."""
    if raw.isalnum():  # no delimiter is a letter or a digit: it has no parts
        return raw if component == 1 and subcomponent == 1 else ""
    text = _part(raw, delimiters, component, subcomponent)
    return "" if text == NULL else delimiters.unescape(text)


def _part(raw: str, delimiters: Delimiters, component: int, subcomponent: int | None) -> str:
    if delimiters.component in raw:
        pieces = raw.split(delimiters.component, component)
        if component > len(pieces):
            return ""
        raw = pieces[component - 1]
    elif component > 1:
        return ""
    mark = delimiters.subcomponent
    if subcomponent is None:
        return raw
    if not mark or mark not in raw:
        return raw if subcomponent == 1 else ""
    inner = raw.split(mark, subcomponent)
    return inner[subcomponent - 1] if subcomponent <= len(inner) else ""


def parse(text: str) -> Message:
    """Read one message. Raises ER7Error.

    Segments end with CR (v2.5.1 ch. 2.4); what peers send besides is told by the message itself: where MSH ends with a bare
    LF, every LF ends a segment; where CRLF occurs, an LF does before what looks like a segment; else LF is content.
    """
    if not text.startswith("MSH"):
        raise ER7Error("the message does not begin with MSH")
    if text.count("\r") + text.count("\n") >= MAX_SEGMENTS:
        raise ER7Error("too many segments")
    first = _LINE_END.search(text)
    delimiters = Delimiters.of_header(text[: first.start()] if first else text)
    if delimiters is None:
        raise ER7Error("MSH-1 and MSH-2 declare no usable delimiters")
    if "\n" not in text:
        plain = _plain(text, delimiters)
        if plain is not None:
            return plain
    lines = _lines(text, _ends_of(text, first[0] if first else "", delimiters))
    segments: list[Segment] = []
    ends: list[str] = []
    for number, (line, end) in enumerate(lines):
        content = line.strip("\n")
        # Blank lines are kept with the terminator beside them, so that rendering gives them back.
        before = len(line) - len(line.lstrip("\n"))
        if segments:
            ends[-1] += line[:before]
        end = line[before + len(content) :] + end
        if not content.strip():
            if segments:
                ends[-1] += content + end
            continue
        if not _SEGMENT_NAME.match(content) or (len(content) > 3 and content[3] != delimiters.field):
            raise ER7Error(f"line {number + 1} is no segment")
        segments.append(Segment(content, delimiters))
        ends.append(end)
    return Message(segments, ends, delimiters)


def _plain(text: str, delimiters: Delimiters) -> Message | None:
    """`parse` for the form of nearly every message, by a shorter way: segments end with CR, and no line is blank."""
    *lines, rest = text.split("\r")
    ends = ["\r"] * len(lines)
    if rest:
        lines.append(rest)
        ends.append("")
    segments = []
    for line in lines:
        if line[3:4] != delimiters.field or not _SEGMENT_NAME.match(line):
            return None
        segments.append(Segment(line, delimiters))
    return Message(segments, ends, delimiters)


_OFFSET = re.compile(r"[0-9.]{4,19}([+-])([0-9]{2})([0-9]{2})")


def _ends_of(text: str, first: str, delimiters: Delimiters) -> re.Pattern[str]:
    """What ends a segment in this message; `first` is what ended MSH."""
    if first == "\n":
        return _LINE_END
    if "\r\n" not in text:
        return _CR
    return re.compile(rf"\r\n?|\n(?=[A-Z][A-Z0-9]{{2}}{re.escape(delimiters.field)})")


def _lines(text: str, ends: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Each line with its own end; the last may have none."""
    start = 0
    for end in ends.finditer(text):
        yield text[start : end.start()], end[0]
        start = end.end()
    yield text[start:], ""


def declared_offset(message: Message) -> dt.tzinfo | None:
    """The time zone that MSH-7 declares for the whole message (v2.5.1 ch. 2.15.9.7), None where it declares none."""
    found = _OFFSET.fullmatch(message.value("MSH", 7))
    if found is None:
        return None
    sign, hours, minutes = found.groups()
    if int(hours) > 15 or int(minutes) > 59:
        return None
    offset = dt.timedelta(hours=int(hours), minutes=int(minutes))
    return dt.timezone(-offset if sign == "-" else offset)
