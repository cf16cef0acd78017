"""Hospitals, departments, practitioners, slots."""

from __future__ import annotations

import datetime as dt
from typing import Any

from booking import catalog
from booking.api.context import Context
from booking.api.cursors import decode_cursor, encode_cursor
from booking.api.present import slot_view
from booking.api.problems import ApiProblem, FieldError
from booking.api.routing import Call, Route
from booking.api.views import (
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

MAX_DAYS = 92


class CatalogHandlers:
    """Reads of what can be booked."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def hospitals(self, call: Call[None, None]) -> HospitalList:
        live = self._context.live
        return HospitalList(
            items=[
                HospitalView(
                    id=h.id,
                    name=h.name,
                    campuses=tuple(CampusView(id=c.id, name=c.name, address=c.address) for c in h.campuses),
                    time_zone=h.time_zone,
                    currency=h.currency,
                    mode=h.mode.value,
                    capabilities=live.capabilities(h.id),
                    his_status=live.his_status(h.id),
                )
                for h in self._context.hospitals.values()
                if call.caller.may_use(h.id)
            ]
        )

    async def departments(self, call: Call[None, None]) -> DepartmentList:
        async with self._context.store.read(call.hospital_id) as tx:
            rows = await catalog.list_departments(tx)
        return DepartmentList(
            items=[
                DepartmentView(id=r["id"], name=r["name"], parent_id=r["parent_id"], campus=r["campus"]) for r in rows
            ]
        )

    async def practitioners(self, call: Call[PractitionerQuery, None]) -> PractitionerList:
        async with self._context.store.read(call.hospital_id) as tx:
            rows = await catalog.list_practitioners(tx, call.query.department_id)
        return PractitionerList(
            items=[
                PractitionerView(id=r["id"], name=r["name"], department_id=r["department_id"], title=r["title"])
                for r in rows
            ]
        )

    async def slots(self, call: Call[SlotQuery, None]) -> SlotList:
        query, hospital = call.query, self._context.hospital(call)
        zone = hospital.zone
        first = query.from_ or dt.datetime.now(zone).date()
        last = query.to or first + dt.timedelta(days=hospital.horizon_days)
        if last < first or (last - first).days > MAX_DAYS:
            raise ApiProblem(
                "invalid_field", errors=(FieldError(path="?to", expected=f"at most {MAX_DAYS} days after `from`"),)
            )
        after: Any = decode_cursor(query.cursor, int, str) if query.cursor is not None else None
        async with self._context.store.read(call.hospital_id) as tx:
            rows = await catalog.list_slots(
                tx,
                date_from=first,
                date_to=last,
                department_id=query.department_id,
                practitioner_id=query.practitioner_id,
                after=after,
                limit=query.limit + 1,
            )
            now_ms = tx.now_ms
        page = rows[: query.limit]
        more = len(rows) > query.limit
        return SlotList(
            items=[slot_view(r, now_ms, zone) for r in page],
            next=encode_cursor(page[-1]["starts_at_ms"], page[-1]["id"]) if more else None,
        )


def catalog_routes(context: Context) -> list[Route]:
    """The routes of this group."""
    handlers, scopes = CatalogHandlers(context), ("booking",)
    of = "/v1/hospitals/{hospital_id}"
    return [
        Route("GET", f"{of}/slots", handlers.slots, summary="Slots of some days", tag="catalogue", query=SlotQuery,
              response=SlotList, scopes=scopes, errors=("cursor_invalid",)),
        Route("GET", "/v1/hospitals", handlers.hospitals, summary="The hospitals of this key", tag="catalogue",
              response=HospitalList, scopes=scopes),
        Route("GET", f"{of}/departments", handlers.departments, summary="Departments", tag="catalogue",
              response=DepartmentList, scopes=scopes),
        Route("GET", f"{of}/practitioners", handlers.practitioners, summary="Practitioners", tag="catalogue",
              query=PractitionerQuery, response=PractitionerList, scopes=scopes),
    ]  # fmt: skip
