"""What one page of Slots gives: checked, mapped, and what must be doubted. Pure, and done beside the event loop.

A Slot that cannot be read may be the free one of its Schedule: that all others are unavailable stops nothing. So records are
kept by Schedule until the last page has been read.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from connectors.config import HospitalContext
from connectors.fhir.documents import Document, Json
from connectors.fhir.inventory import schedule_of
from connectors.fhir.validation import Flaw, Rules, flaws_of
from mappings.engine import MapContext, RecordMap

T = TypeVar("T")

MOST_TOLD = 10
"""So many problems of a page are told in words."""


class Sifted(msgspec.Struct, Generic[T], kw_only=True):
    """The records of one page by the Schedule that their Slots name; None stands for one that cannot be told.

    `size` is how many resources there were, `flaws` are theirs, by place. `doubted` are Schedules with a Slot that could not be
    read.
    """

    size: int = 0
    groups: list[tuple[str | None, list[T]]] = []
    flaws: list[Flaw] = []
    problems: list[str] = []
    problem_count: int = 0
    doubted: list[str | None] = []


def map_context(hospital: HospitalContext, connection: dict[str, Any]) -> MapContext:
    """The facts around one message, with a fresh `new.uuid`."""
    return MapContext(
        hospital_id=hospital.id,
        zone=hospital.zone,
        currency=hospital.currency,
        now=dt.datetime.now(hospital.zone),
        connection=connection,
        extra={"new.uuid": str(uuid.uuid4())},
    )


def sift(
    entries: list[Json],
    beside: Document | None,
    reply: RecordMap,
    rules: Rules | None,
    context: MapContext,
    pause: Callable[[], None],
) -> Sifted[Any]:
    """Check and map one page's entries; references may also lead to what is `beside`. `pause` is called now and then.

    Without `rules` they have been checked.
    """
    flaws = [] if rules is None else flaws_of([entry["resource"] for entry in entries], rules, pause)
    out = {flaw.at for flaw in flaws}
    found: Sifted[Any] = Sifted(size=len(entries), flaws=flaws)
    found.doubted = [schedule_of(entries[at]["resource"]) for at in out if _may_be_slot(entries[at]["resource"])]
    groups: dict[str | None, list[Json]] = {}
    others: list[Json] = []
    for at, entry in enumerate(entries):
        if at not in out:
            is_slot = entry["resource"].get("resourceType") == "Slot"
            (groups.setdefault(schedule_of(entry["resource"]), []) if is_slot else others).append(entry)
    around = Document.of(others, beside=beside) if others else beside
    if others:
        found.groups.append((None, _mapped(reply, Document.of(others, beside=beside), context, pause, found)))
    for schedule, slots in groups.items():
        before = found.problem_count
        found.groups.append((schedule, _mapped(reply, Document.of(slots, beside=around), context, pause, found)))
        if found.problem_count > before:
            found.doubted.append(schedule)
    return found


def _mapped(
    reply: RecordMap, document: Document, context: MapContext, pause: Callable[[], None], found: Sifted[Any]
) -> list[Any]:
    mapped = reply.read_aside(document, context, pause)
    found.problem_count += len(mapped.problems)
    found.problems += [str(problem) for problem in mapped.problems[: MOST_TOLD - len(found.problems)]]
    return list(mapped.records)


def _may_be_slot(resource: Json) -> bool:
    kind = resource.get("resourceType")
    return kind == "Slot" or not isinstance(kind, str)
