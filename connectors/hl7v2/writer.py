"""Writes ER7: a list of segments, each a dictionary of field addresses, becomes a message with everything escaped.

    [{"MSH-9.1": "SRM", ...}, {"ARQ-1.1": "20260105...", "PID-3(2).1": "..."}]

A mapping from names of one's own to segments does as well ({"ARQ": {...}, "PID": {...}}): a profile that extends another can then
change one field of it. It keeps their order; an MSH goes to the front from wherever it is.
Addresses are `SEG-f`, `SEG-f.c`, `SEG-f.c.s`, each optionally with a repetition `SEG-f(r)`. A segment's name is that of its
addresses; a dictionary without any becomes nothing. Values are text, numbers or booleans (Y/N, table 0136); the text `""`
is the null that clears a field; lists are taken apart (an `each` of the request tree gives one).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from connectors.hl7v2.addresses import EVERY, Segments, field_address
from connectors.hl7v2.escapes import STANDARD, Delimiters
from connectors.hl7v2.segments import NULL

MAX_POSITION = 200

_Cells = dict[int, dict[int, dict[int, dict[int, str]]]]


def check_tree(tree: Any) -> None:
    """Raise ValueError when a request tree has an address that cannot be written: called when a profile is loaded."""
    for item in tree if isinstance(tree, list) else [tree]:
        if isinstance(item, list):
            check_tree(item)
        elif isinstance(item, Mapping):
            if "tree" in item:
                check_tree(item["tree"])
            elif _is_group(item):
                check_tree(list(item.values()))
            else:
                _name_of(item)
        else:
            raise ValueError("a request is a list of segments, each a mapping of field addresses")


def write_message(tree: Any) -> str:
    """The message, segments ended by CR. MSH-1 and MSH-2 are ours. Raises ValueError for a bad address."""
    segments = [segment for segment in (_write_segment(item) for item in _flatten(tree)) if segment]
    return "".join(segment + "\r" for segment in segments)


def merge_header(tree: Any, header: Mapping[str, Any]) -> list[Any]:
    """The tree with an MSH whose missing fields come from `header`; the profile's own addresses win."""
    items = list(_flatten(tree))
    written = next((item for item in items if next(iter(item), "").startswith("MSH-")), {})
    own = {_field_of(address) for address in written}
    rest = {address: value for address, value in header.items() if _field_of(address) not in own}
    return [{**rest, **written}, *(item for item in items if item is not written)]


@lru_cache(maxsize=8192)
def _field_of(address: str) -> str:
    return re.split(r"[.(]", address, maxsplit=1)[0]


def _flatten(tree: Any) -> Iterable[Mapping[str, Any]]:
    if tree is None:
        return
    if isinstance(tree, list):
        for item in tree:
            yield from _flatten(item)
    elif isinstance(tree, Mapping) and _is_group(tree):
        yield from _flatten(list(tree.values()))
    elif isinstance(tree, Mapping):
        yield tree
    else:
        raise ValueError("a request is a list of segments, each a mapping of field addresses")


def _is_group(tree: Mapping[str, Any]) -> bool:
    """Whether this is a mapping of segments and not a segment: no key is an address, and each value is a segment, or a list."""
    return bool(tree) and all("-" not in key and isinstance(tree[key], Mapping | list | None) for key in tree)


def _name_of(item: Mapping[str, Any]) -> str:
    names = {_parse(address)[0] for address in item}
    if len(names) > 1:
        raise ValueError(f"one segment has addresses of several: {', '.join(sorted(names))}")
    return next(iter(names), "")


@lru_cache(maxsize=8192)  # addresses come from profiles, and from a few places here
def _parse(address: str) -> tuple[str, int, int, int, int]:
    found = field_address(address)
    wanted = found.segments
    if found.root or wanted != Segments(wanted.name) or found.part or found.repetition == EVERY:
        raise ValueError(f"not a field address that can be written: {address}")
    numbers = (found.field, found.repetition or 1, found.component or 1, found.subcomponent or 1)
    if max(numbers) > MAX_POSITION:
        raise ValueError(f"a position of {address} is out of range")
    return (wanted.name, *numbers)


def _write_segment(item: Mapping[str, Any]) -> str:
    name = _name_of(item)
    cells: _Cells = {}
    for address, value in item.items():
        _, field, repetition, component, subcomponent = _parse(address)
        if name == "MSH" and field <= 2:
            continue
        text = _text(value)
        if text is not None:
            place = cells.setdefault(field, {}).setdefault(repetition, {}).setdefault(component, {})
            place[subcomponent] = text
    if name == "MSH":
        marks = STANDARD.component + STANDARD.repetition + STANDARD.escape + STANDARD.subcomponent
        return STANDARD.field.join(["MSH", marks, *_fields(cells, first=3)])
    # The name alone says nothing: a segment all of whose values are absent is left out.
    return STANDARD.field.join([name, *_fields(cells, first=1)]) if cells else ""


def _fields(cells: _Cells, first: int) -> list[str]:
    return [_field(cells.get(number, {}), STANDARD) for number in range(first, max(cells, default=0) + 1)]


def _field(repetitions: Mapping[int, Mapping[int, Mapping[int, str]]], marks: Delimiters) -> str:
    out = []
    for repetition in range(1, max(repetitions, default=0) + 1):
        components = repetitions.get(repetition, {})
        pieces = []
        for component in range(1, max(components, default=0) + 1):
            parts = components.get(component, {})
            inner = [parts.get(n, "") for n in range(1, max(parts, default=0) + 1)]
            pieces.append(marks.subcomponent.join(inner).rstrip(marks.subcomponent))
        out.append(marks.component.join(pieces).rstrip(marks.component))
    return marks.repetition.join(out)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if value == NULL:
        return NULL
    if isinstance(value, bool):
        return "Y" if value else "N"
    if isinstance(value, (str, int, float, Decimal)):
        return STANDARD.escaped(str(value))
    raise ValueError(f"a field takes a text or a number, not {type(value).__name__}")
