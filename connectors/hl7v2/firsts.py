"""Short ways to the first text at a path: what record maps ask for most, without making nodes.

A test compares each with the long way of paths.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from connectors.hl7v2.addresses import EVERY, FieldAddress
from connectors.hl7v2.er7 import Group
from connectors.hl7v2.segments import HEADERS, NULL, leaf_of

Find = Callable[[Any, Any], list[Any]]
First = Callable[[Any, Any], str | None]


def first_reader(address: FieldAddress, find: Find) -> First | None:
    """The first text that is not blank at a path of a common form, by a shorter way: no nodes are made. None for other forms.

    They are called with the run of a mapping, which they do not look at, and a node. The forms: a field, or a part of it, of the
    first segment of a name; of the repetitions that pass a test; of all repetitions as one text; and of all segments of a name.
    """
    wanted, part = address.segments, address.part
    header = wanted.name in HEADERS
    if wanted.test or address.root or address.repetition or (header and address.field <= 2):
        return None
    if wanted.place is not None:
        return _of_all_segments(wanted.name, find) if wanted.place == EVERY else None
    if address.until:
        return None
    place = address.field - 1 if header else address.field
    where = (wanted.name, place, address.component or 1, address.subcomponent or 1)
    if part is not None:
        return _of_passing(*where, part, address.value) if address.repetition is None else None
    return _of_repetitions(*where) if address.repetition == EVERY else _of_first(*where)


def _of_first(name: str, place: int, component: int, subcomponent: int) -> First:
    """A part of the first repetition that has it. Nearly every field of a record map is read here."""
    whole = component == subcomponent == 1
    before = component - 1

    def first(_run: Any, node: Any) -> str | None:
        try:
            segment = node.firsts[name]
        except KeyError:
            segment = node.first(name)
        except AttributeError:  # a repetition or a text: it has no segments
            return None
        if segment is None:
            return None
        pieces = segment.split or segment.pieces()
        if pieces is None:
            return _first_text(segment.leaves(place, component, subcomponent, None, ""))
        raw = pieces[place] if place < len(pieces) else ""
        if raw.isalnum():  # no delimiter is a letter or a digit: it is one part
            return raw if whole else None
        if not raw:
            return None
        marks = segment.delimiters
        if marks.repetition in raw or marks.subcomponent in raw:  # where one is not declared too
            return _first_text(leaf_of(one, marks, component, subcomponent) for one in _split(raw, marks.repetition))
        if subcomponent > 1:
            return None
        parts = raw.split(marks.component, component)
        text = parts[before] if before < len(parts) else ""
        if text.isalnum():
            return text
        if not text or text == NULL:
            return None
        text = marks.unescape(text)
        return text if text and not text.isspace() else None

    return first


def _of_passing(name: str, place: int, component: int, subcomponent: int, part: tuple[int, int], value: str) -> First:
    """A part of the first repetition that passes a test and has it."""

    def first(_run: Any, node: Any) -> str | None:
        segment = node.first(name) if isinstance(node, Group) else None
        if segment is None:
            return None
        pieces = segment.split or segment.pieces()
        if pieces is None:
            return _first_text(segment.leaves(place, component, subcomponent, part, value))
        raw = pieces[place] if place < len(pieces) else ""
        if not raw:
            return None
        marks = segment.delimiters
        for one in _split(raw, marks.repetition):
            # What neither holds the text nor any escape cannot mean it.
            if (value in one or marks.escape in one) and leaf_of(one, marks, *part) == value:
                text = leaf_of(one, marks, component, subcomponent)
                if text and not text.isspace():
                    return text
        return None

    return first


def _of_repetitions(name: str, place: int, component: int, subcomponent: int) -> First:
    """A part of all repetitions as one text, a line each."""
    of_first = _of_first(name, place, component, subcomponent)

    def first(run: Any, node: Any) -> str | None:
        segment = node.first(name) if isinstance(node, Group) else None
        if segment is None:
            return None
        pieces = segment.split or segment.pieces()
        marks = segment.delimiters
        if pieces is None:
            texts: Iterable[str] = segment.leaves(place, component, subcomponent, None, "")
        elif place >= len(pieces) or marks.repetition not in pieces[place]:
            return of_first(run, node)
        else:
            texts = (leaf_of(one, marks, component, subcomponent) for one in _split(pieces[place], marks.repetition))
        text = "\n".join(filter(None, texts))
        return text if text and not text.isspace() else None

    return first


def _of_all_segments(name: str, find: Find) -> First:
    """A part of all segments of a name as one text, a line each. Most groups have none: notes beside a result."""

    def first(_run: Any, node: Any) -> str | None:
        if not isinstance(node, Group) or node.first(name) is None:
            return None
        return _first_text(find(None, node))

    return first


def _split(raw: str, mark: str) -> list[str] | tuple[str]:
    return raw.split(mark) if mark and mark in raw else (raw,)


def _first_text(texts: Iterable[str]) -> str | None:
    return next((text for text in texts if text and not text.isspace()), None)
