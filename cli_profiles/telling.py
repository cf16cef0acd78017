"""What `hisbridge profile try` prints of a sample."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Iterator
from typing import Any

from cli_profiles.hints import problem_lines
from cli_profiles.passed import sentence
from cli_profiles.samples import Tried, fields_of
from connectors.masking import mask_text, visible
from connectors.soap.rules import Refusal
from mappings.tracing import TracedField, TracedRecord
from mappings.values import field_types

MOST_RECORDS = 20
LONGEST_VALUE = 60


def lines_of(tried: Tried, *, masked: bool, most: int = MOST_RECORDS) -> Iterator[str]:
    """How it was read and judged, each record, the problems, and what was left unmapped."""
    for name, text in tried.told:
        yield f"{name + ':':<9}{visible(text)}"
    if tried.refusal is not None:
        yield f"{'judged:':<9}{_refusal(tried.refusal, tried.known, masked)}"
    records = [] if tried.traced is None else tried.traced.records
    for number, record in enumerate(records[:most], 1):
        yield ""
        yield from _record(record, str(number), tried, masked, "")
    if len(records) > most:
        yield f"\n... {len(records) - most} more records: --most shows them"
    if tried.traced is not None and not records:
        yield "\nNo record was found: the map's `each` matches nothing, or its `when` holds for none."
    yield from _problems(records)
    yield from _unmapped(tried)


def _refusal(refusal: Refusal, known: tuple[str, ...], masked: bool) -> str:
    again = ", to be tried again" if refusal.retryable else ""
    said = sentence(refusal.text, known, masked=masked, coded=refusal.code == "refused")
    return f"not done: {refusal.code}{again} ({said})"


def _record(record: TracedRecord, number: str, tried: Tried, masked: bool, indent: str) -> Iterator[str]:
    yield f"{indent}{record.record.__name__} {number}"
    told = {one.name: one for one in record.fields}
    for name, kind in field_types(record.record).items():
        one = told.get(name)
        if one is None:
            yield f"{indent}  {name:<20}{'-':<23} no field of the map fills it"
            continue
        if one.problem is not None:
            raw = ", ".join(_shown(text, masked) for text in tried.texts.get(id(one), []))
            yield f"{indent}  {name:<20}{f'! {raw}':<23} {_places(one, tried)}"
        elif kind.record is not None and (one.value is not None or one.records):
            yield f"{indent}  {name:<20}{len(one.records)} inside"
        else:
            yield f"{indent}  {name:<20}{_shown(one.value, masked):<23} {_places(one, tried)}"
        for count, inner in enumerate(one.records, 1):
            yield from _record(inner, f"{number}.{count}", tried, masked, indent + "    ")


def _places(one: TracedField, tried: Tried) -> str:
    """Where its texts stand; else at which paths nothing is."""
    places = tried.places.get(id(one), [])
    if places:
        return ", ".join(places)
    found = dict.fromkeys(read.path for read in one.reads if read.nodes)
    paths = found or dict.fromkeys(read.path for read in one.reads)
    if not paths:
        return "the profile's own value"
    return f"{'at' if found else 'nothing at'} {' | '.join(paths)}"


def _shown(value: Any, masked: bool) -> str:
    if value is None or value == {} or value == ():
        return "-"
    text = _text(value)
    if masked and not isinstance(value, enum.Enum | bool):
        return mask_text(text)
    return visible(text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}...")


def _text(value: Any) -> str:
    match value:
        case enum.Enum():
            return str(value.value)
        case dt.datetime() | dt.date():
            return value.isoformat()
        case dict():
            return ", ".join(f"{name}={text}" for name, text in value.items())
        case bytes():
            return f"{len(value)} bytes"
        case bool():
            return "true" if value else "false"
    return str(value)


def _problems(records: list[TracedRecord]) -> Iterator[str]:
    found = [one.problem for one in fields_of(records) if one.problem is not None]
    counts = {problem: found.count(problem) for problem in dict.fromkeys(found)}
    if counts:
        yield f"\nProblems: {len(found)}"
    for problem, count in counts.items():
        first, *more = problem_lines(problem)
        yield f"  {first}" + (f" ({count} times)" if count > 1 else "")
        yield from (f"  {line}" for line in more)


def _unmapped(tried: Tried) -> Iterator[str]:
    if tried.unmapped is None:
        return
    yield f"\nLeft unmapped: {len(tried.unmapped) or 'nothing'}"
    for path, count in tried.unmapped.items():
        yield f"  {visible(path)}" + (f" ({count} times)" if count > 1 else "")
