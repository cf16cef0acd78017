"""How a page of slots is made: from ready-made days, or through the store. Both give the same bytes."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

import msgspec

from booking import catalog
from booking.api.cursors import decode_cursor, encode_cursor
from booking.api.listing import Listing
from booking.api.present import slot_view
from booking.api.problems import ApiProblem, FieldError
from booking.api.views.bookable import SlotQuery
from booking.feed import ChangeFeed
from booking.settings import Hospital
from booking.snapshots import Days, Made
from booking.snapshots.day import FOREVER_MS, Item, Render, next_change_ms
from booking.snapshots.days import DAYS_AT_ONCE
from booking.snapshots.reading import DayKey
from booking.store.engine import Store

MAX_DAYS = 92
_ONE_DAY = dt.timedelta(days=1)
_encode = msgspec.json.Encoder().encode
_place = itemgetter(0, 1)


def slot_renderer(hospital: Hospital) -> Render:
    """How a slot of this hospital is shown."""
    zone = hospital.zone

    def render(row: dict[str, Any], now_ms: int) -> bytes:
        return _encode(slot_view(row, now_ms, zone))

    return render


class SlotPage:
    """One page of slots of a hospital. Raises ApiProblem where the query cannot be answered at any time."""

    def __init__(self, store: Store, days: Days, feed: ChangeFeed, hospital: Hospital, query: SlotQuery) -> None:
        self.here = store.dialect == "sqlite"
        self._store = store
        self._days = days
        self._feed = feed
        self._hospital = hospital
        self._query = query
        self._after: Any = None if query.cursor is None else decode_cursor(query.cursor, int, str)
        self._zone = hospital.zone
        self._span(feed.store_now_ms(hospital.id))

    async def compose(self) -> Made[Listing]:
        """From ready-made days, date by date, and no further than the page reaches."""
        hospital_id, days, limit = self._hospital.id, self._days, self._query.limit
        known_s = self._feed.sure_s
        now_ms = self._feed.store_now_ms(hospital_id)
        first, last = self._span(now_ms)
        shown, ticks, departments = [], dict[DayKey, int](), dict[str, tuple[str, ...]]()
        items: list[Item] = []
        for next_date, keys in self._steps(first, last, departments):
            for key, day in zip(keys, await days.get(hospital_id, keys), strict=True):
                ticks[key] = day.tick
                shown.append(day.shown(now_ms))
                items += self._select(shown[-1].items)
            # What is dated later begins later: a visit does not begin before its own date.
            settled_ms = self._midnight_ms(next_date)
            if len(items) > limit and sum(item.starts_at_ms < settled_ms for item in items) > limit:
                break
        items.sort(key=_place)
        return Made(
            Listing(
                self._body([item.json for item in items[:limit]], items[limit - 1] if len(items) > limit else None)
            ),
            known_s=known_s,
            ticks=ticks,
            departments=departments,
            from_ms=max((day.from_ms for day in shown), default=0),
            until_ms=min(self._until_ms(first), min((day.until_ms for day in shown), default=FOREVER_MS)),
        )

    async def read(self) -> Made[Listing]:
        """Through the store."""
        query, known_s = self._query, time.monotonic()
        async with self._store.read(self._hospital.id) as tx:
            now_ms = tx.now_ms
            first, last = self._span(now_ms)
            rows = await catalog.list_slots(
                tx,
                date_from=first,
                date_to=last,
                department_id=query.department_id,
                practitioner_id=query.practitioner_id,
                after=self._after,
                limit=query.limit + 1,
            )
        page = rows[: query.limit]
        render = slot_renderer(self._hospital)
        end = (page[-1]["starts_at_ms"], page[-1]["id"]) if len(rows) > query.limit else None
        return Made(
            Listing(self._body([render(row, now_ms) for row in page], end)),
            known_s=known_s,
            until_ms=min([self._until_ms(first), *(next_change_ms(row, now_ms) for row in page)]),
            through=True,
        )

    def _span(self, now_ms: int) -> tuple[dt.date, dt.date]:
        """The first and the last date that is asked for."""
        query = self._query
        first = query.from_ or dt.datetime.fromtimestamp(now_ms / 1000, self._zone).date()
        last = query.to or first + dt.timedelta(days=self._hospital.horizon_days)
        if last < first or (last - first).days > MAX_DAYS:
            raise ApiProblem(
                "invalid_field", errors=(FieldError(path="?to", expected=f"at most {MAX_DAYS} days after `from`"),)
            )
        return first, last

    def _until_ms(self, first: dt.date) -> int:
        """When "from today" means another day."""
        return FOREVER_MS if self._query.from_ is not None else self._midnight_ms(first + _ONE_DAY)

    def _midnight_ms(self, date: dt.date) -> int:
        return round(dt.datetime.combine(date, dt.time(), self._zone).timestamp() * 1000)

    def _steps(
        self, date: dt.date, last: dt.date, departments: dict[str, tuple[str, ...]]
    ) -> Iterator[tuple[dt.date, list[DayKey]]]:
        """The days to look at, some at a time, each time with the first date that is not among them.

        Notes in `departments` what was looked at, where the query names no department.
        """
        hospital_id, department_id = self._hospital.id, self._query.department_id
        keys: list[DayKey] = []
        while date <= last:
            on = date.isoformat()
            if department_id is None:
                departments[on] = self._days.departments(hospital_id, on)
            keys += [DayKey(hospital_id, on, d) for d in departments.get(on, (department_id or "",))]
            date += _ONE_DAY
            if len(keys) >= DAYS_AT_ONCE or date > last:
                yield date, keys
                keys = []

    def _select(self, items: Sequence[Item]) -> Sequence[Item]:
        practitioner_id, after = self._query.practitioner_id, self._after
        if practitioner_id is not None:
            items = [item for item in items if item.practitioner_id == practitioner_id]
        if after is not None:
            items = [item for item in items if _place(item) > after]
        return items

    def _body(self, items: list[bytes], end: Item | tuple[int, str] | None) -> bytes:
        after = None if end is None else encode_cursor(end[0], end[1])
        return b'{"items":[%b],"next":%b}' % (b",".join(items), _encode(after))
