"""Moulds: rows and texts that are alike but for a few values, taken apart once and cast as often as wanted.

The bookings of a batch differ in their ids and in little else. Making each one as a record, and from it rows, a view and JSON,
takes ten times what it takes to put a handful of texts where they belong. So one of them is made in full, by the very functions
that make any other, with holes for what differs; what comes out is cut at the holes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import msgspec

_MARK = "\x7f"  # never part of what a mould is made of: all of it is text of ours
_encode = msgspec.json.Encoder().encode


def hole(name: str) -> str:
    """What stands for the value `name` in a sample."""
    return f"{_MARK}{name}{_MARK}"


def could_be_cut(row: Mapping[str, Any]) -> bool:
    """Whether a text of a row could be taken for a hole: no mould is made of such a row."""
    return any(isinstance(value, str) and _MARK in value for value in row.values())


def row_mould(
    columns: Sequence[str], sample: Mapping[str, Any], names: Sequence[str]
) -> Callable[[tuple[Any, ...]], Any]:
    """Casts rows: tuples in the order of `columns`, as `sample` says, with `values` in the holes.

    The function returned takes the values in the order of `names`, more than there are holes for if need be. Raises KeyError
    here for a column that the sample lacks, ValueError for a hole that has no name.
    """
    holes = {hole(name): place for place, name in enumerate(names)}
    alike: list[Any] = []
    places: list[int] = []
    for column in columns:
        value = sample[column]
        if isinstance(value, str) and value in holes:
            places.append(holes[value])
            continue
        _refuse_unknown(value)
        places.append(len(names) + len(alike))
        alike.append(value)
    pick, constants = itemgetter(*places), tuple(alike)

    def cast(values: tuple[Any, ...]) -> Any:
        return pick(values + constants)

    return cast


def json_mould(sample: bytes, names: Sequence[str]) -> Callable[[tuple[bytes, ...]], bytes]:
    """Casts JSON: `sample` with values in the place of its holes, each a JSON string with its quotes.

    The function returned takes the values in the order of `names`. Raises ValueError here for a hole that has no name.
    """
    places: list[int] = []
    pieces: list[bytes] = []
    rest = sample
    while found := _first_hole(rest, names):
        before, place, rest = found
        pieces.append(before)
        places += (len(names) + len(pieces) - 1, place)
    _refuse_unknown(rest.decode())
    pieces.append(rest)
    places.append(len(names) + len(pieces) - 1)
    pick, constants, join = itemgetter(*places), tuple(pieces), b"".join
    if len(places) == 1:
        return lambda values: rest

    def cast(values: tuple[bytes, ...]) -> bytes:
        return join(pick(values + constants))

    return cast


def text_mould(sample: bytes, names: Sequence[str]) -> Callable[[tuple[bytes, ...]], bytes]:
    """Casts texts: `sample` with values in the place of its holes, which may stand within strings, each as often as it comes.

    Values are put in as they are: in JSON they must be ones that need no escapes. Otherwise as `json_mould`.
    """
    known = b"|".join(re.escape(name.encode()) for name in names)
    cuts = re.split(b"%b(%b)%b" % (_MARK.encode(), known, _MARK.encode()), sample)
    pieces = cuts[0::2]
    places = [len(names)]
    for number, name in enumerate(cuts[1::2], len(names) + 1):
        places += (names.index(name.decode()), number)
    pick, constants, join = itemgetter(*places), tuple(pieces), b"".join
    if len(places) == 1:
        return lambda values: sample

    def cast(values: tuple[bytes, ...]) -> bytes:
        return join(pick(values + constants))

    return cast


def _first_hole(text: bytes, names: Sequence[str]) -> tuple[bytes, int, bytes] | None:
    """What stands before the first hole, which one it is, and what stands behind it."""
    found = [(at, place) for place, name in enumerate(names) if (at := text.find(_encode(hole(name)))) >= 0]
    if not found:
        return None
    at, place = min(found)
    return text[:at], place, text[at + len(_encode(hole(names[place]))) :]


def _refuse_unknown(value: object) -> None:
    if isinstance(value, str) and _MARK in value:
        raise ValueError("a sample has a hole that no value is given for")
