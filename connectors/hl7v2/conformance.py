"""Whether a message is what the standard's tables say: which segments and fields there must be, and of what kind they are.

The tables are hl7apy's, for 2.1 to 2.8.2; positions are our reader's, as hl7apy loses some (its parser takes many times as long,
too, and what it reports on messages that others wrote is mostly about itself). Each finding has a code of table 0357 and a place:

    100    a segment is missing that the structure of MSH-9.3 requires, or one is there that it does not have
    101    a required field is empty
    102    a number, date or time that is none (fields, and components of fields), or repetitions of a field that has none

Not looked at: lengths (no longer normative since v2.7), values of tables (sites extend them), the order of segments, fields that
the version has withdrawn, Z segments, and what CONDITIONAL lists. To be called where it may take its time: tables of a version
take a tenth of a second to load.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import hl7apy
from hl7apy.exceptions import ChildNotFound, UnsupportedVersion

from connectors.hl7v2.er7 import Message
from connectors.hl7v2.findings import Finding
from connectors.hl7v2.header import Header

MOST_FINDINGS = 20

CONDITIONAL = frozenset({"OBX_2", "OBX_4"})
"""Fields that hl7apy's tables of some versions require, and the standard under conditions only (v2.5.1 ch. 7.4.2)."""

_ALIASES = {
    **dict.fromkeys(("ADT_A04", "ADT_A08"), "ADT_A01"),
    **dict.fromkeys(("ADT_A28", "ADT_A31"), "ADT_A05"),
    "ADT_A40": "ADT_A39",
    **{f"SIU_S{number}": "SIU_S12" for number in range(13, 27)},
}

_DATE = r"[0-9]{4}(?:[01][0-9](?:[0-3][0-9])?)?"
_TIME = r"[0-2][0-9](?:[0-5][0-9](?:[0-6][0-9](?:\.[0-9]{1,4})?)?)?"
_ZONE = r"(?:[+-][0-9]{4})?"
_STAMP = rf"{_DATE}|[0-9]{{8}}{_TIME}{_ZONE}|{_DATE}{_ZONE}"
_KINDS = {
    "DT": re.compile(_DATE),
    "TM": re.compile(_TIME + _ZONE),
    "DTM": re.compile(_STAMP),
    "TS": re.compile(_STAMP),
    "NM": re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"),
    "SI": re.compile(r"[0-9]+"),
}


def find_faults(message: Message) -> list[Finding] | None:
    """The first MOST_FINDINGS, the structure's first. None where no tables exist for the version of the message."""
    version = ".".join(map(str, Header.of(message).edition))
    if not _has_tables(version):
        return None
    findings: list[Finding] = []
    for finding in (*_structure_faults(message, version), *_segment_faults(message, version)):
        findings.append(finding)
        if len(findings) == MOST_FINDINGS:
            break
    return findings


# --- structure -----------------------------------------------------------------------------------------------------------


def _structure_faults(message: Message, version: str) -> Iterator[Finding]:
    structure = _structure(message, version)
    if structure is None:
        return
    required, known = _segments_of(version, structure)
    for name in required:
        if name not in message.index:
            yield Finding("100", name)
    for name in message.index:
        if name not in known and not name.startswith("Z"):
            yield Finding("100", f"{name}^1")


def _structure(message: Message, version: str) -> str | None:
    code, trigger = message.value("MSH", 9), message.value("MSH", 9, 2)
    event = f"{code}_{trigger}"
    for name in (message.value("MSH", 9, 3), event, _ALIASES.get(event, "")):
        if name and _reference(name, "Message", version) is not None:
            return name
    return None


@lru_cache(maxsize=256)
def _segments_of(version: str, structure: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """The segments that must be there, and all that may be."""
    required: list[str] = []
    known: set[str] = set()

    def walk(reference: Any, must: bool) -> None:
        for name, inner, (least, _), kind in reference[1]:
            needed = must and least > 0 and reference[0] == "sequence"
            if kind == "SEG":
                known.add(name)
                if needed:
                    required.append(name)
            else:
                walk(inner, needed)

    walk(_reference(structure, "Message", version), True)
    return tuple(required), frozenset(known)


# --- segments ------------------------------------------------------------------------------------------------------------


def _segment_faults(message: Message, version: str) -> Iterator[Finding]:
    seen: Counter[str] = Counter()
    for segment in message.segments:
        seen[segment.name] += 1
        for number, least, most, kind, parts in _fields_of(version, segment.name):
            place = f"{segment.name}^{seen[segment.name]}^{number}"
            raw = segment.field(number)
            if not raw:
                if least:
                    yield Finding("101", place)
                continue
            if segment.name == "MSH" and number <= 2:
                continue
            repetitions = segment.repetitions(number)
            if most == 1 and len(repetitions) > 1:
                yield Finding("102", place)
            for count, repetition in enumerate(repetitions, 1):
                yield from _value_faults(message, f"{place}^{count}", repetition, kind, parts)


def _value_faults(
    message: Message, place: str, raw: str, kind: str, parts: tuple[tuple[int, str], ...]
) -> Iterator[Finding]:
    if raw == '""':
        return
    pieces = raw.split(message.delimiters.component)
    for number, part_kind in parts or ((1, kind),):
        text = pieces[number - 1].strip() if number <= len(pieces) else ""
        if message.delimiters.subcomponent:
            text = text.split(message.delimiters.subcomponent, 1)[0]
        pattern = _KINDS.get(part_kind)
        if text and text != '""' and pattern is not None and not pattern.fullmatch(text):
            yield Finding("102", f"{place}^{number}" if parts else place)


@lru_cache(maxsize=2048)
def _fields_of(version: str, name: str) -> tuple[tuple[int, int, int, str, tuple[tuple[int, str], ...]], ...]:
    """Of each field that can be judged: number, least and most occurrences, kind, and the kinds of its components.

    Withdrawn fields (at most 0) are left out.
    """
    reference = _reference(name, "Segment", version)
    if reference is None or reference[0] != "sequence":
        return ()
    fields = []
    for child, inner, (least, most), _ in reference[1]:
        if most == 0:
            continue
        parts: tuple[tuple[int, str], ...] = ()
        if inner[0] == "sequence":
            parts = tuple((place, part[1][2]) for place, part in enumerate(inner[1], 1) if part[1][2] in _KINDS)
        must = 0 if child in CONDITIONAL else least
        fields.append((int(child.rpartition("_")[2]), must, most, inner[2] or "", parts))
    return tuple(fields)


@lru_cache(maxsize=32)
def _has_tables(version: str) -> bool:
    try:
        hl7apy.load_library(version)
    except UnsupportedVersion:
        return False
    return True


@lru_cache(maxsize=2048)
def _reference(name: str, kind: str, version: str) -> Any:
    try:
        return hl7apy.load_reference(name, kind, version)
    except ChildNotFound:
        return None
