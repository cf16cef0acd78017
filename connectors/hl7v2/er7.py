"""ER7, the pipe-and-hat encoding of HL7 v2 (v2.5.1 ch. 2.5 to 2.7): a lazy reader that keeps every byte.

A message is one text. Reading it finds out where its segments stand, and nothing else is cut out before somebody looks. What
was read can be rendered again byte for byte. Positions are the message's own: no structure table is consulted, so Z segments
and unknown versions read like everything else.
"""

from __future__ import annotations

import datetime as dt
import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from typing import cast

from connectors.hl7v2.escapes import Delimiters
from connectors.hl7v2.segments import HEADERS, Segment, Span, T, leaf_of

_SEGMENT_NAME = re.compile(r"[A-Z][A-Z0-9]{2}")
_LINE_END = re.compile(r"\r\n?|\n")
_CR = re.compile(r"\r")
MAX_SEGMENTS = 100_000
_NOWHERE: list[int] = []
MAX_KNOWN = 1_000
_known: dict[str, set[str]] = {}
"""Names of segments that were looked at, with the separator after them, by that separator."""


class ER7Error(ValueError):
    """The text is no ER7 message. `code` is of table 0357 (100 segment sequence, 102 data type)."""

    def __init__(self, text: str, code: str = "100") -> None:
        super().__init__(text)
        self.code = code


class Group:
    """A run of segments `start <= n < stop` of one message: what an `each` over a segment name walks.

    `firsts` remembers the first segment of each name that was asked for.
    """

    __slots__ = ("_message", "firsts", "start", "stop")

    def __init__(self, message: Message | None, start: int, stop: int) -> None:
        self._message = message
        self.start = start
        self.stop = stop
        self.firsts: dict[str, Segment | None] = {}

    @property
    def message(self) -> Message:
        """The message; of a message itself too."""
        # A message that held itself would be left to the collector of garbage, with all its segments.
        return self._message or cast("Message", self)

    def positions(self, name: str) -> list[int]:
        """Where in the message segments of this name stand, within the group."""
        places = self.message.index.get(name)
        if not places or places[-1] < self.start or places[0] >= self.stop:
            return _NOWHERE
        return places[bisect_left(places, self.start) : bisect_left(places, self.stop)]

    def first(self, name: str) -> Segment | None:
        """The first segment of this name within the group."""
        try:
            return self.firsts[name]
        except KeyError:
            message = self.message
            places = message.index.get(name, _NOWHERE)
            number = bisect_left(places, self.start)
            found = message.segment(places[number]) if number < len(places) and places[number] < self.stop else None
            self.firsts[name] = found
            return found


class Message(Group):
    """A whole message. `spans` tells where in `text` segments stand, `index` the places of each name.

    What stands between segments (their ends, blank lines) belongs to none of them and is kept.
    """

    __slots__ = ("_segments", "delimiters", "index", "spans", "text")

    def __init__(self, text: str, spans: list[Span], delimiters: Delimiters) -> None:
        self.text = text
        self.spans = spans
        self.delimiters = delimiters
        self.index: dict[str, list[int]] = {}
        index = self.index
        for place, (start, _) in enumerate(spans):
            name = text[start : start + 3]
            if name in index:
                index[name].append(place)
            else:
                index[name] = [place]
        self._segments: list[Segment | None] = [None] * len(spans)
        super().__init__(None, 0, len(spans))

    def segment(self, place: int) -> Segment:
        """The segment at a place from 0, made at the first call."""
        segment = self._segments[place]
        if segment is None:
            start, stop = self.spans[place]
            segment = self._segments[place] = Segment(self.text, start, stop, self.delimiters)
        return segment

    @property
    def segments(self) -> list[Segment]:
        """All segments in their order: a new list at each call, so take `segment` for one of them."""
        return [self.segment(place) for place in range(len(self.spans))]

    def positions(self, name: str) -> list[int]:
        """Where the segments of this name stand."""
        return self.index.get(name, _NOWHERE)

    @property
    def msh(self) -> Segment:
        return self.segment(0)

    def value(self, name: str, field: int, component: int = 1) -> str:
        """The text of one component of the first segment of a name, unescaped; "" where it is absent."""
        segment = self.first(name)
        if segment is None:
            return ""
        raw = segment.field(field)
        if not raw or (field <= 2 and name in HEADERS):
            return raw
        mark = self.delimiters.repetition
        return leaf_of(raw.partition(mark)[0] if mark else raw, self.delimiters, component, 1)

    def values(self, name: str, field: int, kind: type[T]) -> list[T]:
        """The repetitions of a field of the first segment of a name as `kind`, a type of datatypes.py. Raises DataError."""
        segment = self.first(name)
        return [] if segment is None else segment.values(field, kind)

    def render(self) -> str:
        """The message again, as it was read: each segment from its fields, and what stands between segments."""
        out: list[str] = []
        position = 0
        for place, (start, stop) in enumerate(self.spans):
            out += self.text[position:start], self.segment(place).render()
            position = stop
        return "".join((*out, self.text[position:]))


def parse(text: str, codec: str = "utf-8") -> Message:
    """Read one message; `codec` is what it was decoded by, and what escaped bytes in it are read by. Raises ER7Error.

    Segments end with CR (v2.5.1 ch. 2.4); what peers send besides is told by the message itself: where MSH ends with a bare
    LF, every LF ends a segment; where CRLF occurs, an LF does before what looks like a segment; else LF is content.
    """
    if not text.startswith("MSH"):
        raise ER7Error("the message does not begin with MSH")
    returns, feeds = text.count("\r"), text.count("\n")
    if returns + feeds >= MAX_SEGMENTS:
        raise ER7Error("too many segments")
    ends = [end for end in (text.find("\r") if returns else -1, text.find("\n") if feeds else -1) if end >= 0]
    first = min(ends) if ends else len(text)
    delimiters = Delimiters.of_header(text[:first], codec)
    if delimiters is None:
        raise ER7Error("MSH-1 and MSH-2 declare no usable delimiters")
    spans = None
    if not feeds:
        spans = _plain(text, "\r", delimiters.field)
    elif not returns:
        spans = _plain(text, "\n", delimiters.field)
    elif returns == feeds == text.count("\r\n"):
        spans = _plain(text, "\r\n", delimiters.field)
    if spans is None:
        spans = list(_spans(text, _ends_of(text, text[first : first + 1], delimiters), delimiters.field))
    return Message(text, spans, delimiters)


def _plain(text: str, end: str, field: str) -> list[Span] | None:
    """Where segments stand in the form of nearly every message: all ends are alike, and no line is blank. Else None."""
    spans: list[Span] = []
    known = _known.setdefault(field, set())
    start, size, width = 0, len(text), len(end)
    while start < size:
        head = text[start : start + 4]
        if head not in known:
            if head[3:] != field or not _SEGMENT_NAME.match(head):
                return None
            if len(known) < MAX_KNOWN:
                known.add(head)
        stop = text.find(end, start)
        if stop < 0:
            stop = size
        spans.append((start, stop))
        start = stop + width
    return spans


def _spans(text: str, ends: re.Pattern[str], field: str) -> Iterator[Span]:
    """Where segments stand in a message with blank lines, bare names or mixed ends. Raises ER7Error."""
    for number, (start, stop) in enumerate(_lines(text, ends), 1):
        # A line feed beside a segment is no content: what reads as an end elsewhere was doubled here.
        while start < stop and text[start] == "\n":
            start += 1
        while start < stop and text[stop - 1] == "\n":
            stop -= 1
        if _SEGMENT_NAME.match(text, start, stop) and (stop == start + 3 or text[start + 3] == field):
            yield start, stop
        elif text[start:stop].strip():
            raise ER7Error(f"line {number} is no segment")


_OFFSET = re.compile(r"[0-9.]{4,19}([+-])([0-9]{2})([0-9]{2})")


def _ends_of(text: str, first: str, delimiters: Delimiters) -> re.Pattern[str]:
    """What ends a segment in this message; `first` is what ended MSH."""
    if first == "\n":
        return _LINE_END
    if "\r\n" not in text:
        return _CR
    return re.compile(rf"\r\n?|\n(?=[A-Z][A-Z0-9]{{2}}{re.escape(delimiters.field)})")


def _lines(text: str, ends: re.Pattern[str]) -> Iterator[Span]:
    """Where each line stands, without its end; the last may have none."""
    start = 0
    for end in ends.finditer(text):
        yield start, end.start()
        start = end.end()
    yield start, len(text)


def declared_offset(message: Message) -> dt.tzinfo | None:
    """The time zone that MSH-7 declares for the whole message (v2.5.1 ch. 2.15.9.7), None where it declares none."""
    found = _OFFSET.fullmatch(message.value("MSH", 7))
    return None if found is None else _zone(*found.groups())


@lru_cache(maxsize=64)
def _zone(sign: str, hours: str, minutes: str) -> dt.tzinfo | None:
    if int(hours) > 15 or int(minutes) > 59:
        return None
    offset = dt.timedelta(hours=int(hours), minutes=int(minutes))
    return dt.timezone(-offset if sign == "-" else offset)
