"""The grammar of HL7 paths, in one place for whoever reads (paths.py), changes (editing.py) or writes (writer.py) by them.

docs/mappings.md and paths.py say what the forms mean.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

_NUMBER = r"[0-9]{1,3}"
_NAME = r"[A-Z][A-Z0-9]{2}"
_TEST = rf"(?P<test>{_NUMBER}(?:\.{_NUMBER})?)=(?P<wanted>[^\]]*)"
_SEGMENT = rf"(?P<name>{_NAME})(?:\[{_TEST}\])?"
_PLACE = rf"(?:\((?P<place>{_NUMBER}|\*)\))?"
_FIELD = (
    rf"(?P<field>{_NUMBER})(?:\[(?P<part>{_NUMBER}(?:\.{_NUMBER})?)=(?P<value>[^\]]*)\])?"
    rf"(?:\((?P<repetition>{_NUMBER}|\*)\))?"
)
_PARTS = rf"(?:\.(?P<component>{_NUMBER})(?:\.(?P<subcomponent>{_NUMBER}))?)?"
_FULL = re.compile(rf"(?P<root>[/<])?{_SEGMENT}{_PLACE}-{_FIELD}{_PARTS}")
_RELATIVE = re.compile(rf"\.(?P<component>{_NUMBER})(?:\.(?P<subcomponent>{_NUMBER}))?")
_UNTIL = rf"\s+until\s+(?P<until>{_NAME}(?:\s*,\s*{_NAME})*)"
_GROUP = re.compile(rf"(?P<root>/)?{_SEGMENT}(?:{_UNTIL})?")
_BOUNDED = re.compile(rf"(?P<address>\S.*?){_UNTIL}")
_CHOSEN = re.compile(rf"{_SEGMENT}{_PLACE}")

EVERY = 0
"""The place `(*)`: all of them."""
Pair = tuple[int, int]


class Segments(msgspec.Struct, frozen=True):
    """Which segments of a name: those whose part `test` (field, component) is `wanted`, and of these one, or EVERY.

    `place` counts from 1; None, where the path gives none, means the first.
    """

    name: str
    test: Pair | None = None
    wanted: str = ""
    place: int | None = None


class FieldAddress(msgspec.Struct, frozen=True):
    """`PID-3[5=MR](2).1.1`, with `root` "/" or "<" where the path begins so.

    `part` (component, subcomponent) must be `value` in a repetition; `repetition` counts those that pass, from 1, or is EVERY.
    What the path does not give is None. `until`: only segments before the first of these count; with "<", after the last.
    """

    root: str
    segments: Segments
    field: int
    part: Pair | None
    value: str
    repetition: int | None
    component: int | None
    subcomponent: int | None
    until: tuple[str, ...] = ()


class GroupAddress(msgspec.Struct, frozen=True):
    """`OBX until SPM`: groups that begin with a segment, none after the first of the segments `until`."""

    root: str
    segments: Segments
    until: tuple[str, ...]


class PartAddress(msgspec.Struct, frozen=True):
    """`.4.2`, within a repetition."""

    component: int
    subcomponent: int


def parse_path(path: str) -> FieldAddress | GroupAddress | PartAddress:
    """Read a path of a profile. Raises ValueError with a reason."""
    if found := _RELATIVE.fullmatch(path):
        return PartAddress(_number(found["component"]), _number(found["subcomponent"] or "1"))
    if found := _GROUP.fullmatch(path):
        return GroupAddress(found["root"] or "", _segments(found), _names(found["until"]))
    if _FULL.fullmatch(path):
        return field_address(path)
    if (found := _BOUNDED.fullmatch(path)) and _FULL.fullmatch(found["address"]):
        return msgspec.structs.replace(field_address(found["address"]), until=_names(found["until"]))
    raise ValueError("not an HL7 path: expected for example SCH-11.4, PID-3[5=MR].1, PID-3(2).1, OBX or .1")


@lru_cache(maxsize=8192)  # addresses come from profiles and from the code, not from messages
def field_address(path: str) -> FieldAddress:
    """Read the address of a field, or of a part of one. Raises ValueError with a reason."""
    found = _FULL.fullmatch(path)
    if found is None:
        raise ValueError(f"not a field address: {path}")
    return FieldAddress(
        found["root"] or "",
        _segments(found),
        _number(found["field"]),
        _pair(found["part"]),
        found["value"] or "",
        _place(found["repetition"]),
        _number(found["component"]) if found["component"] else None,
        _number(found["subcomponent"]) if found["subcomponent"] else None,
    )


def segment_address(path: str) -> Segments:
    """Read which segments are meant: `OBX`, `OBX(2)`, `OBX[3=GLU]`, `NTE(*)`. Raises ValueError with a reason."""
    found = _CHOSEN.fullmatch(path)
    if found is None:
        raise ValueError(f"not the address of a segment: {path}")
    return _segments(found)


def _segments(found: re.Match[str]) -> Segments:
    return Segments(found["name"], _pair(found["test"]), found["wanted"] or "", _place(found.groupdict().get("place")))


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _place(text: str | None) -> int | None:
    return None if text is None else EVERY if text == "*" else _number(text)


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError("positions count from 1")
    return number


def _pair(text: str | None) -> Pair | None:
    if text is None:
        return None
    first, _, second = text.partition(".")
    return _number(first), _number(second or "1")
