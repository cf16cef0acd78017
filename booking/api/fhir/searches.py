"""Searches as operations: `GET [base]/[type]?...` and `POST [base]/[type]/_search` (FHIR R4 http.html#search)."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from booking import people
from booking.api.context import Context
from booking.api.fhir.bases import Bases, bases_of
from booking.api.fhir.bundles import Page, render_matches, searchset
from booking.api.fhir.outcomes import FHIR_JSON
from booking.api.fhir.reads import view_of
from booking.api.fhir.search.finders import find, patient_of
from booking.api.fhir.search.including import included
from booking.api.fhir.search.requests import Criterion, SearchRequest, localized, read_search
from booking.api.fhir.search.slots import SlotSearch, fhir_slot_renderer
from booking.api.fhir.search.tables import KINDS
from booking.api.fhir.serving import (
    MOST_KEPT_CHARS,
    Parameters,
    Resource,
    base_of,
    check_wanted,
    fhir_route,
    invalid,
    prefers,
    read_parameters,
)
from booking.api.fhir.view import View
from booking.api.listing import Listing
from booking.api.report_routes import ReportHandlers
from booking.api.routing import AtOnce, Call, Handler, Ready, RequestClass, Route
from booking.feed import ChangeFeed
from booking.report_reads import Outcome, ReadLog
from booking.snapshots import Answers, Days

FORM = "application/x-www-form-urlencoded"
MOST_FORM_BYTES = 32_768
_DAY_PARAMETER = {"Slot": "start", "Schedule": "date"}
_FEW = 64  # resources are rendered and packed on the loop in less time than a thread takes
_WITHOUT_DAY = ("_id", "identifier")


class Searches:
    """All searches. `share` of the snapshots' memory is for days of slots in FHIR, as much for answers."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reports = ReportHandlers(context)
        self._reads = context.reads or ReadLog(context.store)
        self._feed = context.feed or ChangeFeed(context.store, context.hospitals)
        self._days = Days(
            context.store,
            self._feed,
            render=lambda hospital_id: fhir_slot_renderer(context.hospitals[hospital_id]),
            max_bytes=context.snapshot_bytes // 16,
            kind="fhir_days",
        )
        self._answers: Answers[Listing] = Answers(
            self._days, self._feed, max_bytes=context.snapshot_bytes // 16, kind="fhir_answers"
        )

    def of(self, kind: str) -> Handler:
        """The handler for a kind."""

        async def search(call: Call[str, Any]) -> Ready:
            request = self._request(call, kind)
            if kind in ("DiagnosticReport", "Observation") and not request.texts("_id"):
                await self._refresh(call, request)
            async with self._context.store.read(call.hospital_id) as tx:
                view = view_of(self._context, call, tx.now_ms)
                found = await find(tx, view, request)
                beside = await included(tx, view, request, found.resources)

            def render() -> Ready:
                page = Page(render_matches(request, found.resources), found.next, found.total)
                return Listing(searchset(view.base, request, page, beside), FHIR_JSON).reply(call.request.headers)

            few = len(found.resources) + len(beside) <= _FEW
            answer = render() if few else await asyncio.to_thread(render)
            await self._record(call, view, [*found.resources, *beside], answer)
            return answer

        return search

    async def _refresh(self, call: Call[str, Any], request: SearchRequest) -> None:
        """As `/v1`: the hospital is asked where it answers such a question."""
        async with self._context.store.read(call.hospital_id) as tx:
            own = await people.own_patients(tx, call.caller.id, patient_of(request))
        if own:
            await self._reports.refresh(call.hospital_id, own[0][1], call.left_s())

    async def _record(self, call: Call[str, Any], view: View, shown: Sequence[Resource], answer: Ready) -> None:
        """Reports among what was found are on the record before the answer leaves."""
        outcome = Outcome.UNCHANGED if answer.status == 304 else Outcome.GIVEN
        if view.seen is not None:
            await self._reads.record(call.hospital_id, *view.seen.record(call, shown, outcome))

    def slots_at_once(self, call: Call[str, Any]) -> Ready | None:
        """Where the page is there and holds."""
        request = self._request(call, "Slot")
        key = (base_of(call, self._context.public_url), request)
        listing = None if request.includes or not request.is_short else self._answers.get(call.hospital_id, key)
        return None if listing is None else listing.reply(call.request.headers)

    async def slots(self, call: Call[str, Any]) -> Ready:
        request, context = self._request(call, "Slot"), self._context
        base = base_of(call, context.public_url)
        search = SlotSearch(context.store, self._days, self._feed, context.hospital(call), request, base)
        if request.includes or request.texts("_id") or request.texts("identifier") or not request.is_short:
            return await self._slots_with_more(call, request, search)
        listing = self._answers.get(call.hospital_id, (base, request))
        if listing is not None:
            return listing.reply(call.request.headers)
        shown = await self._answers.make(call.hospital_id, (base, request), search)
        return shown.value.reply(call.request.headers, shown.age_s)

    async def _slots_with_more(self, call: Call[str, Any], request: SearchRequest, search: SlotSearch) -> Ready:
        """What is no list of a day, or has other resources beside it: nothing of it is kept."""
        page = await search.page()
        async with self._context.store.read(call.hospital_id) as tx:
            view = view_of(self._context, call, tx.now_ms)
            beside = await included(tx, view, request, [msgspec.json.decode(body) for _, body in page.matches])
        return Listing(searchset(view.base, request, page, beside), FHIR_JSON).reply(call.request.headers)

    def _request(self, call: Call[str, Any], kind: str) -> SearchRequest:
        """What is asked, in the address and in the form; with the days that are meant where none are named."""
        bases = bases_of(call, self._context.public_url)
        strict = prefers(call.request.headers, "handling", ("strict", "lenient")) == "strict"
        if isinstance(call.body, bytes):
            given = read_parameters(call.query) + read_form(call.body)
            check_wanted(call, given)
            request, day = _asked(kind, given, bases, strict=strict)
        else:
            read = _asked_shortly if len(call.query) <= MOST_KEPT_CHARS else _asked_by
            request, day = read(kind, call.query, bases, strict=strict)
        if day is None:
            return request
        hospital = self._context.hospital(call)
        now_s = self._feed.store_now_ms(hospital.id) // 1000
        add = _short_from_today if request.is_short else _from_today
        return add(request, day, dt.datetime.fromtimestamp(now_s, hospital.zone).date(), hospital.horizon_days)


def _asked_by(kind: str, query: str, bases: Bases, *, strict: bool) -> tuple[SearchRequest, str | None]:
    return _asked(kind, read_parameters(query), bases, strict=strict)


_asked_shortly = lru_cache(maxsize=2048)(_asked_by)  # a crowd asks for few days, in the same words


def _asked(kind: str, given: Parameters, bases: Bases, *, strict: bool) -> tuple[SearchRequest, str | None]:
    """The search, and the parameter of the day where it should name one and does not. Raises ApiProblem."""
    request = read_search(kind, localized(kind, given, bases), strict=strict)
    day = _DAY_PARAMETER.get(kind)
    named = any(one.name == day or one.name in _WITHOUT_DAY for one in request.criteria)
    return request, None if named else day


def _from_today(request: SearchRequest, name: str, today: dt.date, horizon_days: int) -> SearchRequest:
    """The days that are meant where none are named: the self link tells them, and the next links keep to them."""
    last = today + dt.timedelta(days=horizon_days)
    added = (Criterion(name, "", f"ge{today}"), Criterion(name, "", f"le{last}"))
    return msgspec.structs.replace(request, criteria=(*request.criteria, *added))


_short_from_today = lru_cache(maxsize=4096)(_from_today)


def read_form(data: bytes) -> tuple[tuple[str, str], ...]:
    """The parameters of a form. Raises ApiProblem invalid_field."""
    try:
        return read_parameters(data.decode())
    except UnicodeDecodeError:
        raise invalid("$", "a form in UTF-8") from None


def search_routes(context: Context) -> list[Route]:
    """The routes of this group; slots first, because a crowd asks for them."""
    searches, routes = Searches(context), list[Route]()
    for kind in KINDS.values():
        live = kind.name in ("DiagnosticReport", "Observation")
        handler: Handler = searches.slots if kind.name == "Slot" else searches.of(kind.name)
        at_once: AtOnce | None = searches.slots_at_once if kind.name == "Slot" else None
        options: dict[str, Any] = {
            "scopes": (kind.scope,),
            "request_class": RequestClass.LIVE if live else RequestClass.READ,
            "heeds_wait": live,
        }
        routes += fhir_route("GET", kind.name, handler, at_once=at_once, tagged=True, **options)
        routes += fhir_route(
            "POST",
            f"{kind.name}/_search",
            handler,
            request=bytes,
            accepts=(FORM, "application/octet-stream"),
            max_body_bytes=MOST_FORM_BYTES,
            **options,
        )
    return routes
