"""What hl7apy reads, place by place, what its tables say of a place, and messages made from those tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

from hl7apy import get_default_encoding_chars, load_library
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message, parse_segment

Place = tuple[int, int, int, int]
"""Field, repetition, component, subcomponent, from 1. hl7apy gives what has no name in its tables the number 0."""
Leaves = dict[Place, str]

_WITHDRAWN = (None, "wd")
_NUMBERED = re.compile(r".*_([0-9]+)")


def knows(version: str, segment: str) -> bool:
    """Whether the tables of a version have a segment."""
    return segment in load_library(version).SEGMENTS


def has_structure(version: str, structure: str) -> bool:
    """Whether the tables of a version have a message structure by this name."""
    return structure in load_library(version).MESSAGES


def read_segment(raw: str, version: str) -> Leaves:
    """One segment as hl7apy reads it without a structure around it."""
    marks = get_default_encoding_chars(
        "2.5"
    )  # those of 2.7 have the truncation character, which the message must declare
    return leaves_of(parse_segment(raw, version, marks, VALIDATION_LEVEL.TOLERANT))


def read_message(text: str) -> list[tuple[str, Leaves]]:
    """The segments of a message as hl7apy finds them with its groups, in their order."""
    message = parse_message(text, validation_level=VALIDATION_LEVEL.TOLERANT)
    return [(segment.name, leaves_of(segment)) for segment in _segments(message)]


def _segments(element: Any) -> Iterator[Any]:
    for child in element.children:
        if child.classname == "Segment":
            yield child
        else:
            yield from _segments(child)


def leaves_of(segment: Any) -> Leaves:
    """What is not empty in one segment of hl7apy's."""
    leaves: Leaves = {}
    repetitions: Counter[int] = Counter()
    for field in segment.children:
        number = _number(field.name)
        repetitions[number] += 1
        for component in field.children:
            for part in component.children:
                text = part.to_er7()
                if text:
                    leaves[number, repetitions[number], _number(component.name), _number(part.name)] = text
    return leaves


def _number(name: str | None) -> int:
    if name is None:
        return 0
    found = _NUMBERED.fullmatch(name)
    return int(found[1]) if found else 1  # a base type is its own only part: ST, NM ...


def field_type(version: str, segment: str, field: int) -> Any:
    """The table's entry of a field, None where the version has none or has withdrawn it."""
    for name, entry, *_ in load_library(version).SEGMENTS[segment][1]:
        if _number(name) == field:
            return None if entry[2] in _WITHDRAWN else entry
    return None


def part_type(entry: Any, number: int) -> Any:
    """The entry of a part of a field or component, None where the tables have none. What is a leaf is its own part 1."""
    if entry is None:
        return None
    if entry[2] == "varies":
        return entry
    if not _parts(entry):
        return entry if number == 1 else None
    for name, inner, *_ in _parts(entry):
        if _number(name) == number:
            return None if inner[2] in _WITHDRAWN else inner
    return None


def _is_broken(entry: Any) -> bool:
    """TQ1-1 of 2.7 is a type of parts without parts in hl7apy's tables: it raises TypeError where a message has the field."""
    return entry[0] == "sequence" and entry[1] is None


def _parts(entry: Any) -> tuple[Any, ...]:
    """The table of a type's parts; () of a leaf, which the tables write in several ways."""
    return entry[1] if isinstance(entry[1], tuple) else ()


# --- messages from the tables ------------------------------------------------------------------------------------

_TEXTS = ("a", "Li", "张伟", "x y", "O'Neil", "1.2.840", "a\\F\\b", "\\E\\", '""', "100%", "é", "-", "#1", "A_b-c.d")
_DAYS = ("20260105", "19491231", "20240229")


def make_message(random: Random, version: str, structure: str, name: tuple[str, str]) -> str:
    """A message of a structure: every segment that must be there and some that may, with some of their fields."""
    lines = [_header(version, structure, name)]
    for segment in _draw(random, load_library(version).MESSAGES[structure]):
        if segment != "MSH":
            lines.append(make_segment(random, version, segment))
    return "".join(line + "\r" for line in lines)


def _header(version: str, structure: str, name: tuple[str, str]) -> str:
    third = f"^{structure}" if version >= "2.4" else ""
    return f"MSH|^~\\&|A|B|C|D|20260105080000||{name[0]}^{name[1]}{third}|1|P|{version}"


def _draw(random: Random, entry: Any) -> Iterator[str]:
    kind, children = entry[0], entry[1]
    if kind == "choice":
        children = (random.choice(children),)
    for name, inner, (least, most), what in children:
        times = max(least, random.choice((0, 1)))
        if times and most != 1 and random.random() < 0.3:
            times += 1
        for _ in range(times):
            if what == "SEG":
                yield name
            else:
                yield from _draw(random, inner)


def make_segment(random: Random, version: str, segment: str) -> str:
    fields: list[str] = []
    for name, entry, (least, most), _ in load_library(version).SEGMENTS[segment][1]:
        number = _number(name)
        if entry[2] in _WITHDRAWN or _is_broken(entry) or not (least or random.random() < 0.4):
            continue
        fields += [""] * (number - len(fields))
        repetitions = 2 if most != 1 and random.random() < 0.3 else 1
        fields[number - 1] = "~".join(_value(random, entry, "^") for _ in range(repetitions))
    return "|".join((segment, *fields)) if any(fields) else f"{segment}|1"


def _value(random: Random, entry: Any, mark: str) -> str:
    """A value with some of its parts; never empty, as the first part that may be is always written."""
    if not _parts(entry):
        return _leaf(random, entry[2])
    parts: list[str] = []
    for name, inner, *_ in _parts(entry):
        number = _number(name)
        if inner[2] in _WITHDRAWN or (any(parts) and random.random() < 0.6):
            continue
        parts += [""] * (number - len(parts))
        parts[number - 1] = _value(random, inner, "&") if mark == "^" or not _parts(inner) else "x"
    return mark.join(parts)


def _leaf(random: Random, kind: str) -> str:
    if kind in ("SI", "NM"):
        return str(random.randrange(0, 10_000))
    if kind == "DT":
        return random.choice(_DAYS)
    if kind in ("DTM", "TS", "TM"):
        clock = random.choice(("08", "0830", "083015", "083015.5", "083015+0800"))
        return clock if kind == "TM" else random.choice(_DAYS) + random.choice(("", clock))
    return random.choice(_TEXTS)
