"""Pages of what is read in the order of a key that never changes: complete and without repeats, whatever changes meanwhile."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple, TypeVar

from booking.api.cursors import decode_cursor, encode_cursor
from booking.api.fhir.search.fits import fits, order_of
from booking.api.fhir.search.requests import SearchRequest
from booking.api.fhir.serving import Resource, invalid

Key = tuple[str, ...]
Row = tuple[Key, Resource]
Batch = Callable[[Key | None, int], Awaitable[Sequence[Row]]]
"""The rows behind a key, in the order of their keys, so many at the most."""

AT_ONCE = 200
MOST_LOOKED_AT = 1_000  # for one page; what is left is for the next one, be this one as short as it likes
MOST_COUNTED = 20_000
MOST_SORTED = 2_000
FEW_ROWS = 50  # a report has dozens of lines


class Found(NamedTuple):
    """The matches of a page, the cursor of the next one, and how many there are in all, if that is known."""

    resources: list[Resource]
    next: str | None = None
    total: int | None = None


T = TypeVar("T")


def after_of(request: SearchRequest, parts: int) -> Key | None:
    """The key that the cursor carries. Raises ApiProblem(cursor_invalid)."""
    return None if request.cursor is None else tuple(map(str, decode_cursor(request.cursor, *[str] * parts)))


async def scan(
    request: SearchRequest, batch: Batch, zone: dt.tzinfo, *, parts: int = 1, but: Iterable[str] = (), few: bool = False
) -> Found:
    """The page that is asked for. Keys have so many `parts`; criteria named in `but` are the batch's own business. Where the
    rows are `few`, each page has the total.
    """
    after = after_of(request, parts)
    if request.counts_only:
        return Found([], total=await _count(request, batch, zone, but))
    matches: list[tuple[Key, Resource]] = []
    looked_at, more = 0, True
    while more and len(matches) <= request.count and looked_at < MOST_LOOKED_AT:
        rows = await batch(after, AT_ONCE)
        matches += [row for row in rows if fits(request, row[1], zone, but=but)]
        looked_at, more = looked_at + len(rows), len(rows) == AT_ONCE
        after = rows[-1][0] if rows else after
    page = [resource for _, resource in matches[: request.count]]
    if len(matches) > request.count:
        after, more = matches[request.count - 1][0], True
    total = len(page) if request.cursor is None and not more else None
    if total is None and (few or (request.total != "none" and request.cursor is None)):
        total = await _count(request, batch, zone, but)
    return Found(page, encode_cursor(*after) if more and after is not None else None, total)


async def _count(request: SearchRequest, batch: Batch, zone: dt.tzinfo, but: Iterable[str]) -> int:
    after: Key | None = None
    found = looked_at = 0
    while rows := await batch(after, AT_ONCE):
        found += sum(fits(request, resource, zone, but=but) for _, resource in rows)
        looked_at, after = looked_at + len(rows), rows[-1][0]
        if len(rows) < AT_ONCE:
            break
        if looked_at >= MOST_COUNTED:
            raise invalid("?_total", f"a narrower search: no more than {MOST_COUNTED} are counted")
    return found


async def sort_all(request: SearchRequest, batch: Batch, zone: dt.tzinfo) -> Found:
    """The same in the order that is asked for. Raises ApiProblem invalid_field where there are too many rows to sort."""
    found, after = list[Resource](), None
    while rows := await batch(after, AT_ONCE):
        found += [resource for _, resource in rows]
        after = rows[-1][0]
        if len(rows) < AT_ONCE:
            break
        if len(found) >= MOST_SORTED:
            raise invalid("?_sort", f"a narrower search: no more than {MOST_SORTED} are sorted")
    return await asyncio.to_thread(page_of, request, found, zone)


async def page_of_many(
    request: SearchRequest, rows: Sequence[T], show: Callable[[T], Iterable[Resource]], zone: dt.tzinfo
) -> Found:
    """`page_of` the resources that rows are shown as; many are shown and compared in a thread."""
    shown = (one for row in rows for one in show(row))
    few = len(rows) <= FEW_ROWS
    return page_of(request, shown, zone) if few else await asyncio.to_thread(page_of, request, shown, zone)


def page_of(
    request: SearchRequest, resources: Iterable[Resource], zone: dt.tzinfo, *, but: Iterable[str] = ()
) -> Found:
    """The same of few, which are all there, by their ids or in the order that is asked for."""
    order = order_of(request, zone)
    types: tuple[type, ...] = (int, str) if request.sort else (str,)
    after = None if request.cursor is None else decode_cursor(request.cursor, *types)
    keyed = [(order(one), one) for one in resources if fits(request, one, zone, but=but)]
    keyed.sort(key=itemgetter(0))
    if request.counts_only:
        return Found([], total=len(keyed))
    rest = [row for row in keyed if after is None or row[0] > after]
    page = rest[: request.count]
    behind = encode_cursor(*page[-1][0]) if len(rest) > request.count else None
    return Found([resource for _, resource in page], behind, len(keyed))
