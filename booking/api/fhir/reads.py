"""Reads of single resources: `GET [base]/[type]/[id]`."""

from __future__ import annotations

from typing import Any

from booking.api.context import Context
from booking.api.fhir.ids import row_id_of
from booking.api.fhir.resources.appointment import appointment_resource
from booking.api.fhir.resources.slot import slot_resource
from booking.api.fhir.serving import fhir_route, reply_resource, unknown_resource
from booking.api.routing import Call, Ready, RequestClass, Route
from booking.bookings import own_booking
from booking.catalog import slots_named
from booking.errors import Refusal


class Reads:
    """One resource of each kind."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def slot(self, call: Call[str, None]) -> Ready:
        slot_id = row_id_of(call.path["id"])
        async with self._context.store.read(call.hospital_id) as tx:
            row = (await slots_named(tx, [slot_id])).get(slot_id)
        if row is None:
            raise unknown_resource("Slot", call.path["id"])
        return self._reply(call, slot_resource(self._context.hospital(call), row, tx.now_ms))

    async def appointment(self, call: Call[str, None]) -> Ready:
        async with self._context.store.read(call.hospital_id) as tx:
            try:
                booking = await own_booking(tx, call.caller.id, call.path["id"])
            except Refusal:
                raise unknown_resource("Appointment", call.path["id"]) from None
            slot = (await slots_named(tx, [booking.slot_id]))[booking.slot_id]
        return self._reply(call, appointment_resource(self._context.hospital(call), booking, slot))

    def _reply(self, call: Call[str, None], resource: dict[str, Any]) -> Ready:
        return reply_resource(call.request.headers, resource)


def read_routes(context: Context) -> list[Route]:
    """The routes of this group."""
    reads = Reads(context)
    kinds = (("Slot", reads.slot, "booking"), ("Appointment", reads.appointment, "booking"))
    return [
        route
        for kind, handler, scope in kinds
        for route in fhir_route("GET", f"{kind}/{{id}}", handler, scopes=(scope,), request_class=RequestClass.READ)
    ]
