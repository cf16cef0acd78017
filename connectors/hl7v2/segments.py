"""One segment of an ER7 message, and one repetition of a field: parts are cut out when somebody asks for them.

A short segment is split at its first reading. A long one (an OBX-5 of several megabytes) never is: its separators are looked
for from the left, as far as the field that is asked for, and only that field is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, Self, TypeVar

import msgspec

from connectors.hl7v2.escapes import Delimiters

NULL = '""'
"""A field with two double quotes: "delete what you have" (v2.5.1 ch. 2.5.3). As a value it is absent."""
HEADERS = frozenset({"MSH", "FHS", "BHS"})
"""Segments whose field 1 is the separator itself and field 2 the other delimiters (v2.5.1 ch. 2.15.9, 2.15.5, 2.15.2)."""
LONG = 4096
"""Characters from which on a segment is not split as a whole."""

Span = tuple[int, int]


class DataError(ValueError):
    """A field is not of the type that it is read as. The text names the place and what was expected, never the value."""


class DataType(Protocol):
    """A type of datatypes.py."""

    @classmethod
    def of(cls, repetition: Repetition) -> Self | None:
        """Read one repetition of a field; None where it says nothing. Raises DataError with what was expected."""
        ...


T = TypeVar("T", bound=DataType)


class Segment:
    """The characters `start <= n < stop` of a message's text: a name, and fields on demand.

    Pieces are what stands between separators; piece 0 is the name. In MSH field n is piece n - 1, as MSH-1 is the separator.
    `split` holds all pieces once a short segment has been read.
    """

    __slots__ = ("_ends", "_text", "delimiters", "name", "split", "start", "stop")

    def __init__(self, text: str, start: int, stop: int, delimiters: Delimiters) -> None:
        self._text = text
        self.start = start
        self.stop = stop
        self.name = text[start : start + 3]
        self.delimiters = delimiters
        self.split: list[str] | None = None
        self._ends: list[int] = []

    @property
    def raw(self) -> str:
        """The whole segment as it was sent."""
        return self._text[self.start : self.stop]

    def pieces(self) -> list[str] | None:
        """All pieces of a short segment; None for a long one, which is read by `span`."""
        pieces = self.split
        if pieces is None and self.stop - self.start <= LONG:
            pieces = self.split = self._text[self.start : self.stop].split(self.delimiters.field)
        return pieces

    def fields(self) -> list[str]:
        """All pieces, however long the segment is."""
        return self.pieces() or self.raw.split(self.delimiters.field)

    def span(self, place: int) -> Span:
        """Where in the message's text a piece stands; an empty span at the segment's end where it is not there."""
        ends = self._ends
        while len(ends) <= place:
            begin = ends[-1] + 1 if ends else self.start
            if begin > self.stop:
                return self.stop, self.stop
            found = self._text.find(self.delimiters.field, begin, self.stop)
            ends.append(found if found >= 0 else self.stop)
        return ends[place - 1] + 1 if place else self.start, ends[place]

    def piece(self, place: int) -> str:
        """What stands between separators, "" where it is not there."""
        pieces = self.pieces()
        if pieces is None:
            start, stop = self.span(place)
            return self._text[start:stop]
        return pieces[place] if place < len(pieces) else ""

    def missing(self, place: int) -> int:
        """How many separators the segment is short of having a piece; 0 where it has it."""
        self.span(place)
        return max(place + 1 - len(self._ends), 0)

    def field(self, number: int) -> str:
        """The raw text of one field, "" where it is not there."""
        if self.name in HEADERS:
            if number == 1:
                return self.delimiters.field
            number -= 1
        return self.piece(number)

    def repetitions(self, number: int) -> list[str]:
        """The raw repetitions of one field; [] where the field is empty or absent. MSH-1 and MSH-2 never split."""
        raw = self.field(number)
        if not raw:
            return []
        if (number <= 2 and self.name in HEADERS) or not self.delimiters.repetition:
            return [raw]
        return raw.split(self.delimiters.repetition)

    def values(self, number: int, kind: type[T]) -> list[T]:
        """The repetitions of a field as `kind`, a type of datatypes.py, those that say nothing left out. Raises DataError."""
        found = []
        for n, raw in enumerate(self.repetitions(number), 1):
            try:
                value = kind.of(Repetition(raw, self.delimiters))
            except DataError as error:
                raise DataError(f"{self.name}-{number}({n}) {error}") from None
            if value is not None:
                found.append(value)
        return found

    def leaves(self, place: int, component: int, subcomponent: int, part: Span | None, value: str) -> Iterator[str]:
        """A part of each repetition of a piece, or of those whose `part` (component, subcomponent) is `value`.

        For long segments: nothing but these parts is copied.
        """
        text, marks = self._text, self.delimiters
        begin, stop = self.span(place)
        while begin <= stop:
            found = text.find(marks.repetition, begin, stop) if marks.repetition else -1
            end = found if found >= 0 else stop
            if end == begin and (value or part is None):  # an empty repetition has no text, and passes no test
                begin = end + 1
                continue
            if part is None or _leaf_between(text, (begin, end), marks, *part) == value:
                yield _leaf_between(text, (begin, end), marks, component, subcomponent)
            begin = end + 1

    def render(self) -> str:
        """The segment again, from its fields."""
        return self.delimiters.field.join(self.fields())


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


def _leaf_between(text: str, span: Span, marks: Delimiters, component: int, subcomponent: int) -> str:
    """`leaf_of` of a repetition that stands in a text."""
    outer = nth_piece(text, marks.component, component, span)
    inner = nth_piece(text, marks.subcomponent, subcomponent, outer) if outer else None
    if inner is None:
        return ""
    leaf = text[inner[0] : inner[1]]
    return "" if leaf == NULL else marks.unescape(leaf)


def nth_piece(text: str, mark: str, number: int, span: Span) -> Span | None:
    """Where the piece `number` (from 1) between marks stands within a span, None where there are fewer pieces."""
    start, stop = span
    if not mark:  # a delimiter that the message does not declare
        return span if number == 1 else None
    for _ in range(number - 1):
        start = text.find(mark, start, stop) + 1
        if not start:
            return None
    end = text.find(mark, start, stop)
    return start, end if end >= 0 else stop
