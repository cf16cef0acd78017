"""Searches for Slots, page by page: the next page is asked for while one is checked and mapped, and none is kept.

A hospital's horizon may have a hundred thousand of them. What is kept are their records, by Schedule, until the last page tells
which Schedules must be doubted (see `sifting`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

from connectors.fhir.calls import Call, ParameterMissing, Request
from connectors.fhir.client import ExchangeError, Reply
from connectors.fhir.deadlines import Deadline
from connectors.fhir.documents import Document, Json
from connectors.fhir.exchange import Exchange, entries_of_page, read_failed
from connectors.fhir.inventory import without_stops
from connectors.fhir.outcomes import error_of_read
from connectors.fhir.sifter import Search
from connectors.fhir.sifting import MOST_TOLD, Sifted
from connectors.port import HisRefused, HisReplyInvalid
from mappings.courtesy import courtesy
from mappings.engine import MappingError

T = TypeVar("T")
Pause = Callable[[], None]


async def read_slots(
    exchange: Exchange,
    verb: str,
    request: Request,
    deadline: Deadline,
    finish: Callable[[Iterable[Any], Pause], T],
    beside: Document | None = None,
) -> T:
    """What `finish` makes, beside the event loop, of the records that `verb`'s mapping gives for the Slots of a window.

    The Slots are those of `fetch_slots`. None of their records is stopped whose Schedule has a Slot that could not be read.
    """
    call = exchange.calls["fetch_slots"]
    search = Search(verb, exchange.calls[verb], beside)
    gathered = _Gathered(exchange)
    try:
        params = call.search_params(request, exchange.context())
        pages = exchange.client.pages(call.resource, params, deadline=deadline, fresh=call.fresh)
        async with aclosing(_ahead(pages)) as replies:
            async for reply in replies:
                exchange.note(reply, f"GET {call.resource}")
                if reply.status != 200:
                    raise error_of_read(reply, call.codes, call.issue_types)
                await _take_page(exchange, search, reply, call, gathered, deadline)
    except (MappingError, ParameterMissing) as error:
        raise HisRefused(str(error), code="invalid_request") from error
    except ExchangeError as error:
        raise read_failed(error) from error
    gathered.judge()
    return await asyncio.to_thread(lambda: finish(gathered.records(), courtesy()))


async def _take_page(
    exchange: Exchange, search: Search, reply: Reply, call: Call, gathered: _Gathered, deadline: Deadline
) -> None:
    entries = gathered.new_of(entries_of_page(reply.body, call, exchange.rules))
    at = 0
    for sifted in await exchange.sifter.sift(search, entries, deadline):
        gathered.take(entries[at:], sifted)
        at += sifted.size


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
    """What the pages have given so far."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._known: set[str] = set()
        self._groups: dict[str | None, list[Any]] = {}
        self._doubted: set[str | None] = set()
        self._resources = 0
        self._left_out = 0
        self._problems: list[str] = []
        self._problem_count = 0
        self._first_flaw = ""

    def new_of(self, entries: list[Json]) -> list[Json]:
        """Those that no earlier page had. What is included is looked up on its own page, and may come with each."""
        found = []
        for entry in entries:
            resource = entry["resource"]
            own = resource.get("id")
            if resource.get("resourceType") == "Slot" and isinstance(own, str):
                if own in self._known:
                    continue
                self._known.add(own)
            found.append(entry)
        return found

    def take(self, entries: list[Json], sifted: Sifted[Any]) -> None:
        """Add what a piece of a page, whose first entries these are, has given. Raises HisReplyInvalid when strict and flawed."""
        self._resources += sifted.size
        if sifted.flaws:
            self._left_out += len(sifted.flaws)
            first = sifted.flaws[0]
            self._first_flaw = self._first_flaw or f"{first.resource_type}: {first.reason}"
            self._exchange.leave_out(entries, sifted.flaws)
            if self._exchange.rules.mode == "strict":
                raise HisReplyInvalid(self._first_flaw)
        for schedule, records in sifted.groups:
            self._groups.setdefault(schedule, []).extend(records)
        self._doubted.update(sifted.doubted)
        self._problem_count += sifted.problem_count
        self._problems += sifted.problems[: MOST_TOLD - len(self._problems)]

    def judge(self) -> None:
        """Tell what was left out. Raises HisReplyInvalid where nothing is left."""
        self._exchange.tell_unmapped(self._problems, self._problem_count)
        if self._left_out and self._left_out == self._resources:
            raise HisReplyInvalid(self._first_flaw)
        if self._problem_count and not any(self._groups.values()):
            raise HisReplyInvalid(self._problems[0])
        if self._doubted:
            in_doubt = len(self._groups) if None in self._doubted else len(self._doubted & self._groups.keys())
            self._exchange.warn("fhir_stops_not_inferred", schedules=in_doubt)

    def records(self) -> Iterator[Any]:
        """All records, which are let go here; those of doubted Schedules are not stopped."""
        self._known.clear()
        for schedule in list(self._groups):
            doubted = schedule in self._doubted or None in self._doubted
            records = self._groups.pop(schedule)
            yield from without_stops(records) if doubted else records
