"""Hospitals, departments, practitioners, slots: ready-made where nothing has changed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from booking import catalog
from booking.api.context import Context
from booking.api.listing import Listing
from booking.api.routing import Call, Ready, RequestClass, Route
from booking.api.slot_lists import SlotPage, slot_renderer
from booking.api.views.bookable import (
    CampusView,
    DepartmentList,
    DepartmentView,
    HospitalList,
    HospitalView,
    PractitionerList,
    PractitionerQuery,
    PractitionerView,
    SlotList,
    SlotQuery,
)
from booking.feed import ChangeFeed
from booking.snapshots import Answers, Days, Made
from booking.snapshots.reading import DayKey
from booking.store.engine import Store, Tx

_encode = msgspec.json.Encoder().encode


class CatalogHandlers:
    """Reads of what can be booked."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._feed = context.feed or ChangeFeed(context.store, context.hospitals)
        self._days = Days(
            context.store,
            self._feed,
            render=lambda hospital_id: slot_renderer(context.hospitals[hospital_id]),
            max_bytes=context.snapshot_bytes * 3 // 8,  # the rest is the FHIR facade's
        )
        self._answers: Answers[Listing] = Answers(self._days, self._feed, max_bytes=context.snapshot_bytes * 3 // 8)

    async def hospitals(self, call: Call[None, None]) -> Ready:
        live = self._context.live
        mine = HospitalList(
            items=[
                HospitalView(
                    id=h.id,
                    name=h.name,
                    campuses=tuple(CampusView(id=c.id, name=c.name, address=c.address) for c in h.campuses),
                    time_zone=h.time_zone,
                    currency=h.currency,
                    mode=h.mode.value,
                    capabilities=live.capabilities(h.id),
                    waitlist=h.rules.waitlist is not None,
                    portal_refunds=h.portal_refunds,
                    his_status=live.his_status(h.id),
                )
                for h in self._context.hospitals.values()
                if call.caller.may_use(h.id)
            ]
        )

        return Listing(_encode(mine)).reply(call.request.headers)

    async def departments(self, call: Call[None, None]) -> Ready:
        return await self._list(call, _read_departments)

    async def practitioners(self, call: Call[PractitionerQuery, None]) -> Ready:
        department_id = call.query.department_id
        return await self._list(call, lambda tx: _read_practitioners(tx, department_id))

    async def _list(self, call: Call[Any, Any], read: Callable[[Tx], Awaitable[msgspec.Struct]]) -> Ready:
        hospital_id, query = call.hospital_id, call.query
        listing = self._answers.get(hospital_id, query)
        if listing is None:
            recipe = WholeList(self._context.store, self._days, hospital_id, read)
            shown = await self._answers.make(hospital_id, query, recipe)
            return shown.value.reply(call.request.headers, shown.age_s)
        return listing.reply(call.request.headers)

    def slots_at_once(self, call: Call[SlotQuery, None]) -> Ready | None:
        """Where the list is there and holds."""
        listing = self._answers.get(call.hospital_id, call.query)
        return None if listing is None else listing.reply(call.request.headers)

    async def slots(self, call: Call[SlotQuery, None]) -> Ready:
        hospital_id, query = call.hospital_id, call.query
        listing = self._answers.get(hospital_id, query)
        if listing is None:
            page = SlotPage(self._context.store, self._days, self._feed, self._context.hospital(call), query)
            shown = await self._answers.make(hospital_id, query, page)
            return shown.value.reply(call.request.headers, shown.age_s)
        return listing.reply(call.request.headers)


class WholeList:
    """A list that changes with the sync alone; its changes are noted under no date and no department."""

    here = False

    def __init__(
        self, store: Store, days: Days, hospital_id: str, read: Callable[[Tx], Awaitable[msgspec.Struct]]
    ) -> None:
        self._store = store
        self._days = days
        self._hospital_id = hospital_id
        self._read = read

    async def compose(self) -> Made[Listing]:
        """As the feed knows it."""
        key = DayKey(self._hospital_id, "", "")
        ticks = {key: self._days.tick_of(key)}
        known_s = time.monotonic()
        return Made(await self._listing(), known_s=known_s, ticks=ticks)

    async def read(self) -> Made[Listing]:
        """As it is in the store."""
        known_s = time.monotonic()
        return Made(await self._listing(), known_s=known_s, through=True)

    async def _listing(self) -> Listing:
        async with self._store.read(self._hospital_id) as tx:
            return Listing(_encode(await self._read(tx)))


async def _read_departments(tx: Tx) -> DepartmentList:
    rows = await catalog.list_departments(tx)
    return DepartmentList(
        items=[DepartmentView(id=r["id"], name=r["name"], parent_id=r["parent_id"], campus=r["campus"]) for r in rows]
    )


async def _read_practitioners(tx: Tx, department_id: str | None) -> PractitionerList:
    rows = await catalog.list_practitioners(tx, department_id)
    return PractitionerList(
        items=[
            PractitionerView(id=r["id"], name=r["name"], department_id=r["department_id"], title=r["title"])
            for r in rows
        ]
    )


def catalog_routes(context: Context) -> list[Route]:
    """The routes of this group."""
    handlers, scopes = CatalogHandlers(context), ("booking",)
    of = "/v1/hospitals/{hospital_id}"
    return [
        Route("GET", f"{of}/slots", handlers.slots, summary="Slots of some days", tag="catalogue",
              request_class=RequestClass.READ, query=SlotQuery,
              response=SlotList, scopes=scopes, tagged=True, at_once=handlers.slots_at_once, errors=("cursor_invalid",)),
        Route("GET", "/v1/hospitals", handlers.hospitals, summary="The hospitals of this key", tag="catalogue",
              request_class=RequestClass.READ,
              response=HospitalList, scopes=scopes, tagged=True),
        Route("GET", f"{of}/departments", handlers.departments, summary="Departments", tag="catalogue",
              request_class=RequestClass.READ,
              response=DepartmentList, scopes=scopes, tagged=True),
        Route("GET", f"{of}/practitioners", handlers.practitioners, summary="Practitioners", tag="catalogue",
              request_class=RequestClass.READ,
              query=PractitionerQuery, response=PractitionerList, scopes=scopes, tagged=True),
    ]  # fmt: skip
