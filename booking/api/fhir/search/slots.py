"""Searches of slots, from ready-made days: the fragments of `/v1`, in FHIR.

Pages go by date and id, which a slot keeps whatever its HIS changes of it: nothing is missed and nothing comes twice. Within a
page slots stand by their start. `_sort=start` has all pages go by date, start and id: then a slot that the HIS moves to another
hour may come twice or be missed, as in any list that is sorted by what changes.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from booking import catalog
from booking.api.cursors import decode_cursor, encode_cursor
from booking.api.fhir.bundles import Page, searchset
from booking.api.fhir.ids import code_of, row_id_of, row_id_to_fhir
from booking.api.fhir.outcomes import FHIR_JSON
from booking.api.fhir.resources.elements import SLOT_SYSTEM, his_system
from booking.api.fhir.resources.slot import slot_resource
from booking.api.fhir.search.criteria import FOREVER_MS, split_values, unescape
from booking.api.fhir.search.finders import values_of
from booking.api.fhir.search.fits import check_values, fits, places, spans, tokens
from booking.api.fhir.search.requests import SearchRequest
from booking.api.fhir.search.scanning import MOST_COUNTED
from booking.api.fhir.serving import invalid, render_resource
from booking.api.fhir.subsets import is_partial, subset
from booking.api.listing import Listing
from booking.feed import ChangeFeed
from booking.named import slots_named
from booking.settings import Hospital
from booking.snapshots import Days, Made
from booking.snapshots.day import FOREVER_MS as ALWAYS_MS
from booking.snapshots.day import Render, next_change_ms
from booking.snapshots.days import DAYS_AT_ONCE
from booking.snapshots.reading import DayKey
from booking.store.engine import Store, Tx

MAX_DAYS = 94  # of what is composed; what reaches further is read through the store
MOST_LOOKED_AT = 5_000  # for one page; what is left is for the next one, be this one as short as it likes
_AT_ONCE = 500
_LAST_ID = "zz"  # behind every id of a date, whatever the store's collation: all begin with sl_
_ONE_DAY = dt.timedelta(days=1)
_Step = tuple[dt.date, list[DayKey]]
SlotKey = tuple[str, str] | tuple[str, int, str]


def fhir_slot_renderer(hospital: Hospital) -> Render:
    """How a slot of this hospital is shown to those who speak FHIR."""

    def render(row: dict[str, Any], now_ms: int) -> bytes:
        return render_resource(slot_resource(hospital, row, now_ms))

    return render


class Shown(NamedTuple):
    """A slot that may be in the page. `json` is the resource, whole."""

    date: str
    id: str
    starts_at_ms: int
    department_id: str
    practitioner_id: str | None
    json: bytes


class Choice:
    """What a search wants of slots, looked at as cheaply as can be: thousands are looked at for one page."""

    def __init__(self, request: SearchRequest, hospital: Hospital) -> None:
        """Raises ApiProblem invalid_field."""
        zone = hospital.zone
        check_values(request, zone)
        self._request = request
        self._zone = zone
        self._spans = [spans(one, zone) for one in request.texts("start")]
        self._actors = [_actors(one) for one in request.texts("schedule.actor")]
        self._schedules = [
            tuple(
                b'"schedule":{"reference":"Schedule/%b"' % p.id.encode()
                for p in places(one)
                if p.kind in (None, "Schedule")
            )
            for one in request.texts("schedule")
        ]
        system = his_system(hospital.id, "department")
        plain = [one for one in request.texts("service-type") if not one.modifier]
        self._departments = [
            frozenset(t.code for t in tokens(one) if t.code and t.system in (None, system)) for one in plain
        ]
        statuses = [one for one in request.texts("status") if not one.modifier]
        self._statuses = [
            tuple(b'"status":"%b"' % t.code.encode() for t in tokens(one) if t.code and not t.system)
            for one in statuses
        ]
        looked_at = {"start", "schedule.actor", "schedule"}
        looked_at |= {"service-type"} if len(plain) == len(request.texts("service-type")) else set()
        looked_at |= {"status"} if len(statuses) == len(request.texts("status")) else set()
        self._looked_at = looked_at
        self._rest = any(one.name not in looked_at for one in request.criteria)

    def has_department(self, department_id: str) -> bool:
        return all(department_id in wanted for wanted in self._departments)

    def takes(self, slot: Shown) -> bool:
        return (
            self.has_department(slot.department_id)
            and all(any(span.fits(slot.starts_at_ms) for span in one) for one in self._spans)
            and all(any(status in slot.json for status in one) for one in self._statuses)
            and all(any(schedule in slot.json for schedule in one) for one in self._schedules)
            and all(
                slot.practitioner_id in doctors or slot.department_id in clinics for doctors, clinics in self._actors
            )
            and (not self._rest or self._fits(slot))
        )

    def _fits(self, slot: Shown) -> bool:
        return fits(self._request, msgspec.json.decode(slot.json), self._zone, but=self._looked_at)

    def dates(self) -> tuple[dt.date | None, dt.date | None]:
        """The schedules' days that can have such slots: those of a night begin on the day before."""
        from_ms, until_ms = -FOREVER_MS, FOREVER_MS
        for one in self._spans:
            from_ms = max(from_ms, min(span.bounds()[0] for span in one))
            until_ms = min(until_ms, max(span.bounds()[1] for span in one))
        first = None if from_ms <= -FOREVER_MS else self._day(from_ms) - _ONE_DAY
        return first, None if until_ms >= FOREVER_MS else self._day(until_ms - 1)

    def _day(self, at_ms: int) -> dt.date:
        return dt.datetime.fromtimestamp(at_ms / 1000, self._zone).date()


def _actors(criterion: Any) -> tuple[frozenset[str | None], frozenset[str]]:
    """The doctors and the clinics that a chained actor may be."""
    doctors, clinics = set[str | None](), set[str]()
    for place in places(criterion):
        code = code_of(place.id)
        if code is None:
            continue
        if place.kind in (None, "Practitioner", "PractitionerRole"):
            doctors.add(code)
        if place.kind in (None, "HealthcareService"):
            clinics.add(code)
    return frozenset(doctors), frozenset(clinics)


class SlotSearch:
    """One page of a search of slots; a recipe of `Answers`."""

    def __init__(
        self, store: Store, days: Days, feed: ChangeFeed, hospital: Hospital, request: SearchRequest, base: str
    ) -> None:
        """Raises ApiProblem where the search cannot be answered at any time."""
        self.here = store.dialect == "sqlite"
        self._store = store
        self._days = days
        self._feed = feed
        self._hospital = hospital
        self._request = request
        self._base = base
        self._choice = Choice(request, hospital)
        types: tuple[type, ...] = (str, int, str) if request.sort else (str, str)
        self._after: Any = None if request.cursor is None else decode_cursor(request.cursor, *types)
        self._counts = request.counts_only or (request.total != "none" and request.cursor is None)

    async def compose(self) -> Made[Listing]:
        """From ready-made days, date by date, and no further than the page reaches."""
        first, last = self._choice.dates()
        if first is None or last is None or (last - first).days > MAX_DAYS:
            return await self.read()
        hospital_id = self._hospital.id
        known_s, now_ms = self._feed.sure_s, self._feed.store_now_ms(hospital_id)
        ticks, departments = dict[DayKey, int](), dict[str, tuple[str, ...]]()
        from_ms, until_ms = 0, ALWAYS_MS
        found, resume, looked_at = list[Shown](), None, 0
        for date, keys in self._steps(first, last, departments):
            for key, day in zip(keys, await self._days.get(hospital_id, keys), strict=True):
                ticks[key], shown = day.tick, day.shown(now_ms)
                from_ms, until_ms = max(from_ms, shown.from_ms), min(until_ms, shown.until_ms)
                looked_at += len(shown.items)
                items = (
                    Shown(key.date, i.id, i.starts_at_ms, key.department_id, i.practitioner_id, i.json)
                    for i in shown.items
                )
                found += [slot for slot in items if self._choice.takes(slot) and self._is_behind(slot)]
            if not self._counts and (len(found) > self._request.count or looked_at >= MOST_LOOKED_AT):
                resume = self._end_of(date.isoformat()) if date < last else None
                break
            await asyncio.sleep(0)  # so many slots are looked at in a millisecond or two; others may go between
        return Made(
            self._listing(self._page(found, resume)),
            known_s=known_s,
            ticks=ticks,
            departments=departments,
            from_ms=from_ms,
            until_ms=until_ms,
        )

    def _is_behind(self, slot: Shown) -> bool:
        return self._after is None or self._key(slot) > self._after

    def _key(self, slot: Shown) -> SlotKey:
        """Where a slot stands among the pages."""
        return (slot.date, slot.starts_at_ms, slot.id) if self._request.sort else (slot.date, slot.id)

    def _end_of(self, date: str) -> SlotKey:
        """Behind all slots of a date."""
        return (date, FOREVER_MS, _LAST_ID) if self._request.sort else (date, _LAST_ID)

    def _steps(self, date: dt.date, last: dt.date, departments: dict[str, tuple[str, ...]]) -> Iterator[_Step]:
        """The days to look at, a whole date at least at a time, with the last of them; notes in `departments` what there was."""
        hospital_id = self._hospital.id
        if self._after is not None:
            on, slot_id = self._after[0], self._after[-1]
            behind = _date_of(on, date)
            date = max(date, behind + _ONE_DAY if slot_id == _LAST_ID else behind)
        keys: list[DayKey] = []
        while date <= last:
            on = date.isoformat()
            departments[on] = self._days.departments(hospital_id, on)
            keys += [DayKey(hospital_id, on, d) for d in departments[on] if self._choice.has_department(d)]
            if len(keys) >= DAYS_AT_ONCE or date == last:
                yield date, keys
                keys = []
            date += _ONE_DAY

    async def read(self) -> Made[Listing]:
        """Through the store."""
        known_s = time.monotonic()
        async with self._store.read(self._hospital.id) as tx:
            found, resume, until_ms = await self._scan(tx)
        return Made(self._listing(self._page(found, resume)), known_s=known_s, until_ms=until_ms, through=True)

    async def page(self) -> Page:
        """The page itself, through the store: what `_id` and `identifier` name, or what the rest finds."""
        async with self._store.read(self._hospital.id) as tx:
            if not (self._request.texts("_id") or self._request.texts("identifier")):
                found, resume, _ = await self._scan(tx)
                return self._page(found, resume)
            rows = (await slots_named(tx, self._named())).values()
            return self._page(self._chosen(rows, tx.now_ms), None)

    def _named(self) -> list[str]:
        """The slots that `_id` and `identifier` name."""
        named: list[str] = []
        for one in self._request.texts("_id")[:1]:
            named += [row_id_of(unescape(text)) for text in split_values(one.text)]
        return named or values_of(self._request, SLOT_SYSTEM)

    async def _scan(self, tx: Tx) -> tuple[list[Shown], SlotKey | None, int]:
        """What fits, where it goes on if not all was looked at, and until when it holds."""
        first, last = self._choice.dates()
        found, after, until_ms, looked_at = list[Shown](), self._after, ALWAYS_MS, 0
        if after is not None and self._request.sort:  # a date in the order of starts is read whole
            after = (after[0], _LAST_ID if after[-1] == _LAST_ID else "")
        most = MOST_COUNTED if self._counts else MOST_LOOKED_AT
        while True:
            rows = await catalog.slots_by_date(tx, date_from=first, date_to=last, after=after, limit=_AT_ONCE)
            found += self._chosen(rows, tx.now_ms)
            until_ms = min([until_ms, *(next_change_ms(row, tx.now_ms) for row in rows)])
            looked_at += len(rows)
            if len(rows) < _AT_ONCE:
                return found, None, until_ms
            after, begun = (rows[-1]["date"], rows[-1]["id"]), rows[0]["date"]
            if looked_at >= most or (len(found) > self._request.count and not self._counts):
                if not self._request.sort or self._counts:
                    break
                if begun < after[0]:  # the dates up to the last one are whole
                    whole = [slot for slot in found if slot.date < after[0]]
                    return whole, self._end_of(max(row["date"] for row in rows if row["date"] < after[0])), until_ms
        if self._counts:
            raise invalid("?start", f"a narrower search: no more than {MOST_COUNTED} are counted")
        return found, after, until_ms

    def _chosen(self, rows: Iterable[dict[str, Any]], now_ms: int) -> list[Shown]:
        render = fhir_slot_renderer(self._hospital)
        shown = (
            Shown(r["date"], r["id"], r["starts_at_ms"], r["department_id"], r["practitioner_id"], render(r, now_ms))
            for r in rows
        )
        return [slot for slot in shown if self._choice.takes(slot) and self._is_behind(slot)]

    def _page(self, found: list[Shown], resume: SlotKey | None) -> Page:
        """`resume`: behind this key nothing was looked at, and there may be more."""
        request = self._request
        found.sort(key=self._key)
        page, rest = found[: request.count], found[request.count :]
        behind = self._key(page[-1]) if page and rest else resume
        following = None if behind is None or request.counts_only else encode_cursor(*behind)
        total = len(found) if self._counts or (request.cursor is None and following is None) else None
        page.sort(key=lambda slot: (slot.starts_at_ms, slot.id))
        return Page([] if request.counts_only else self._parts(page), following, total)

    def _listing(self, page: Page) -> Listing:
        return Listing(searchset(self._base, self._request, page), FHIR_JSON)

    def _parts(self, page: Sequence[Shown]) -> list[tuple[str, bytes]]:
        if not is_partial(self._request):
            return [(row_id_to_fhir(slot.id), slot.json) for slot in page]
        parts = (subset(msgspec.json.decode(slot.json), self._request) for slot in page)
        return [(part["id"], msgspec.json.encode(part)) for part in parts]


def _date_of(text: str, otherwise: dt.date) -> dt.date:
    try:
        return min(dt.date.fromisoformat(text), dt.date.max - _ONE_DAY)
    except ValueError:
        return otherwise
