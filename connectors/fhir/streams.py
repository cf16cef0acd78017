"""Searches for Slots, page by page: the next page is asked for while one is checked and mapped, and none is kept.

A hospital's horizon may have a hundred thousand of them. What is kept are their records, by Schedule, until the last page tells
which Schedules must be doubted (see `sifting`).

Rows that go while pages are read are missed, and the free Slot of a session may be one of them. So a stop that is new is believed
only of a reading that was whole (see `readings`); of any other the search is made once more, and where that one was not whole
either nothing is stopped.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any, Generic, TypeVar

import msgspec

from connectors.fhir.calls import ParameterMissing, Request
from connectors.fhir.client import ExchangeError, Reply
from connectors.fhir.deadlines import Deadline
from connectors.fhir.documents import Document, Json
from connectors.fhir.exchange import Exchange, entries_of_page, read_failed
from connectors.fhir.inventory import merge_schedules, without_stops
from connectors.fhir.outcomes import error_of_read
from connectors.fhir.readings import Reading
from connectors.fhir.sifter import Search
from connectors.fhir.sifting import MOST_TOLD, Sifted
from connectors.port import HisRefused, HisReplyInvalid
from mappings.canonical import Schedule
from mappings.courtesy import courtesy
from mappings.engine import MappingError

T = TypeVar("T")
Pause = Callable[[], None]
Finish = Callable[[dict[str, Iterator[Any]], Pause], T]
Stops = Callable[[T], frozenset[Any]]
_NOTHING_KNOWN: frozenset[Any] = frozenset()


class Wanted(msgspec.Struct, Generic[T], kw_only=True):
    """What is read of the Slots of a window.

    `verbs` are those whose mappings read each Slot, with what stands beside the Slots for them. `finish` makes something of their
    records, beside the event loop; `stops` names the stops in it, of which `known` need no proof.
    """

    verbs: dict[str, Document | None]
    finish: Finish[T]
    stops: Stops[T]
    known: frozenset[Any] = _NOTHING_KNOWN


async def read_slots(exchange: Exchange, request: Request, deadline: Deadline, wanted: Wanted[T]) -> T:
    """What `wanted.finish` makes of the records of the Slots of a window, which are those of `fetch_slots`.

    None of them is stopped whose Schedule has a Slot that could not be read.
    """
    gathered, reading = await _gather(exchange, request, deadline, wanted)
    result = await _finished(gathered, wanted)
    if reading.is_whole or not wanted.stops(result) - wanted.known:
        return result
    del result  # a hundred thousand records need not be there twice
    exchange.warn("fhir_slots_read_again", pages=reading.pages, slots=reading.count)
    gathered, again = await _gather(exchange, request, deadline, wanted)
    if not (again.is_whole or again.confirms(reading)):
        exchange.warn("fhir_stops_not_believed", pages=again.pages, slots=again.count)
        gathered.doubt_all()
    return await _finished(gathered, wanted)


async def _finished(gathered: _Gathered, wanted: Wanted[T]) -> T:
    return await asyncio.to_thread(lambda: wanted.finish(gathered.records(), courtesy()))


async def _gather(
    exchange: Exchange, request: Request, deadline: Deadline, wanted: Wanted[Any]
) -> tuple[_Gathered, Reading]:
    call = exchange.calls["fetch_slots"]
    searches = {verb: Search(verb, exchange.calls[verb], beside) for verb, beside in wanted.verbs.items()}
    gathered, reading = _Gathered(exchange, list(searches)), Reading("Slot")
    try:
        params = call.search_params(request, exchange.context())
        pages = exchange.client.pages(call.resource, params, deadline=deadline, fresh=call.fresh)
        async with aclosing(_ahead(pages)) as replies:
            async for reply in replies:
                exchange.note(reply, f"GET {call.resource}")
                if reply.status != 200:
                    raise error_of_read(reply, call.codes, call.issue_types)
                entries = reading.note(reply.body, entries_of_page(reply.body, call, exchange.rules))
                if reading.is_circle:
                    raise HisReplyInvalid("the search gives the same page again and again")
                await _sift(exchange, searches, entries, gathered, deadline)
    except (MappingError, ParameterMissing) as error:
        raise HisRefused(str(error), code="invalid_request") from error
    except ExchangeError as error:
        raise read_failed(error) from error
    gathered.judge()
    return gathered, reading


async def _sift(
    exchange: Exchange, searches: dict[str, Search], entries: list[Json], gathered: _Gathered, deadline: Deadline
) -> None:
    """One page, for each verb; the first has its resources checked, the others get those that are left."""
    left = entries
    for number, (verb, search) in enumerate(searches.items()):
        at, out = 0, set[int]()
        for sifted in await exchange.sifter.sift(search, left, deadline, checked=number > 0):
            gathered.take(verb, left[at:], sifted)
            out |= {at + flaw.at for flaw in sifted.flaws}
            at += sifted.size
        left = [entry for place, entry in enumerate(left) if place not in out] if out else left


async def _ahead(pages: AsyncGenerator[Reply, None]) -> AsyncGenerator[Reply, None]:
    """The pages, one of them ahead of whoever takes them."""
    async with aclosing(pages):
        coming = asyncio.ensure_future(anext(pages, None))
        try:
            while (page := await coming) is not None:
                coming = asyncio.ensure_future(anext(pages, None))
                yield page
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


class _Gathered:
    """What the pages have given so far, for each verb."""

    def __init__(self, exchange: Exchange, verbs: list[str]) -> None:
        self._exchange = exchange
        self._verbs = verbs
        self._groups: dict[str, dict[str | None, list[Any]]] = {verb: {} for verb in verbs}
        self._doubted: set[str | None] = set()
        self._resources = 0
        self._left_out = 0
        self._problems: list[str] = []
        self._problem_counts: Counter[str] = Counter()
        self._first_flaw = ""

    def take(self, verb: str, entries: list[Json], sifted: Sifted[Any]) -> None:
        """Add what a piece of a page, whose first entries these are, has given. Raises HisReplyInvalid when strict and flawed."""
        if verb == self._verbs[0]:
            self._resources += sifted.size
        if sifted.flaws:
            self._left_out += len(sifted.flaws)
            first = sifted.flaws[0]
            self._first_flaw = self._first_flaw or f"{first.resource_type}: {first.reason}"
            self._exchange.leave_out(entries, sifted.flaws)
            if self._exchange.rules.mode == "strict":
                raise HisReplyInvalid(self._first_flaw)
        groups = self._groups[verb]
        for schedule, records in sifted.groups:
            known = groups.setdefault(schedule, [])
            known.extend(records)
            if records and isinstance(records[0], Schedule):
                groups[schedule] = merge_schedules(known)  # each of its Slots tells of the same few sessions
        self._doubted.update(sifted.doubted)
        self._problem_counts[verb] += sifted.problem_count
        self._problems += sifted.problems[: MOST_TOLD - len(self._problems)]

    def judge(self) -> None:
        """Tell what was left out. Raises HisReplyInvalid where nothing is left."""
        self._exchange.tell_unmapped(self._problems, self._problem_counts.total())
        if self._left_out and self._left_out == self._resources:
            raise HisReplyInvalid(self._first_flaw)
        if any(self._problem_counts[verb] and not any(groups.values()) for verb, groups in self._groups.items()):
            raise HisReplyInvalid(self._problems[0])
        if self._doubted:
            named = self._groups[self._verbs[0]].keys()
            in_doubt = len(named) if None in self._doubted else len(self._doubted & named)
            self._exchange.warn("fhir_stops_not_inferred", schedules=in_doubt)

    def doubt_all(self) -> None:
        """No stop is to be read out of any of them."""
        self._doubted.add(None)

    def records(self) -> dict[str, Iterator[Any]]:
        """All records by verb, which are let go as they are taken; those of doubted Schedules are not stopped."""
        return {verb: self._let_go(groups) for verb, groups in self._groups.items()}

    def _let_go(self, groups: dict[str | None, list[Any]]) -> Iterator[Any]:
        for schedule in list(groups):
            doubted = schedule in self._doubted or None in self._doubted
            records = groups.pop(schedule)
            yield from without_stops(records) if doubted else records
