"""The waitlist (候补): joining the line of a session, looking where one stands, leaving. Offers are accepted by holding."""

from __future__ import annotations

import datetime as dt

from booking.api.context import Context
from booking.api.cursors import decode_cursor, encode_cursor
from booking.api.holding import terms_by
from booking.api.routing import Call, Reply, RequestClass, Route
from booking.api.views.waitlist import JoinWaitlist, OfferView, WaitlistEntries, WaitlistEntryView, WaitlistQuery
from booking.store.engine import Tx
from booking.waitlist.joining import join, leave
from booking.waitlist.lifecycle import State
from booking.waitlist.records import Placed, entries_of, own_entry


class WaitlistHandlers:
    """A portal's own entries."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._terms = terms_by(context.live)

    async def join(self, call: Call[None, JoinWaitlist]) -> Reply:
        hospital, body = self._context.hospital(call), call.body

        async def work(tx: Tx) -> WaitlistEntryView:
            placed = await join(
                tx,
                hospital,
                self._terms(hospital, tx.now_ms),
                client_id=call.caller.id,
                user_ref=body.user_ref,
                patient_id=body.patient_id,
                schedule_id=body.schedule_id,
            )
            return entry_view(placed, hospital.zone)

        return await self._context.once(call, 201, work)

    async def list(self, call: Call[WaitlistQuery, None]) -> WaitlistEntries:
        query, zone = call.query, self._context.hospital(call).zone
        after = None if query.cursor is None else int(str(decode_cursor(query.cursor, int)[0]))
        async with self._context.store.read(call.hospital_id) as tx:
            found = await entries_of(tx, call.caller.id, query.patient_id, after=after, limit=query.limit + 1)
        page = found[: query.limit]
        return WaitlistEntries(
            items=[entry_view(placed, zone) for placed in page],
            next=encode_cursor(page[-1][0].number) if len(found) > query.limit else None,
        )

    async def get(self, call: Call[None, None]) -> WaitlistEntryView:
        async with self._context.store.read(call.hospital_id) as tx:
            placed = await own_entry(tx, call.caller.id, call.path["entry_id"])
        return entry_view(placed, self._context.hospital(call).zone)

    async def leave(self, call: Call[None, None]) -> WaitlistEntryView:
        hospital = self._context.hospital(call)
        async with self._context.store.write(call.hospital_id, here=True) as tx:
            placed = await leave(tx, hospital, call.caller.id, call.path["entry_id"])
        return entry_view(placed, hospital.zone)


def entry_view(placed: Placed, zone: dt.tzinfo) -> WaitlistEntryView:
    """An entry as it is shown, in the hospital's zone."""
    entry, position = placed

    def at(ms: int) -> dt.datetime:
        return dt.datetime.fromtimestamp(ms / 1000, zone)

    offer = None
    if entry.state == State.OFFERED and entry.slot_id is not None and entry.due_ms is not None:
        offer = OfferView(slot_id=entry.slot_id, accept_by=at(entry.due_ms))
    return WaitlistEntryView(
        id=entry.id,
        version=entry.version,
        state=entry.state.value,
        patient_id=entry.patient_id,
        user_ref=entry.user_ref,
        schedule_id=entry.schedule_id,
        clears_at=at(entry.clears_ms),
        created_at=at(entry.created_ms),
        updated_at=at(entry.updated_ms),
        position=position,
        offer=offer,
        booking_id=entry.booking_id,
        reason=entry.reason,
    )


def waitlist_routes(context: Context) -> list[Route]:
    """The routes of this group."""
    handlers, scopes = WaitlistHandlers(context), ("booking",)
    of = "/v1/hospitals/{hospital_id}/waitlist"
    join_errors = (
        "not_sold_out", "waitlist_closed", "waitlist_full", "already_waiting", "schedule_unknown", "patient_unknown",
        "slot_not_released", "hospital_closed", "schedule_stopped", "slot_in_past", "duplicate_booking", "fee_unknown",
        "limit_reached", "patient_not_eligible", "patient_blocked", "wait_after_cancellation", "patient_rejected",
        "hospital_paused", "hospital_observe_only", "not_offered_by_hospital",
    )  # fmt: skip
    return [
        Route("POST", of, handlers.join, summary="Wait in line for a seat of a session that is sold out", tag="waitlist",
              request_class=RequestClass.STEP, request=JoinWaitlist, response=WaitlistEntryView, status=201, scopes=scopes,
              idempotent=True, identified_by=("user_ref", "patient_id"), errors=join_errors,
              description="First come, first served. A seat that comes back is offered to the first in line (event "
              "`waitlist.changed`); it is accepted by holding it with `waitlist_entry_id`."),
        Route("GET", of, handlers.list, summary="A patient's places in lines", tag="waitlist",
              request_class=RequestClass.READ, query=WaitlistQuery, response=WaitlistEntries, scopes=scopes,
              errors=("cursor_invalid",)),
        Route("GET", of + "/{entry_id}", handlers.get, summary="A place in line, and what is offered", tag="waitlist",
              request_class=RequestClass.READ, response=WaitlistEntryView, scopes=scopes,
              errors=("waitlist_entry_unknown",)),
        Route("DELETE", of + "/{entry_id}", handlers.leave, summary="Leave a line", tag="waitlist",
              request_class=RequestClass.STEP, response=WaitlistEntryView, scopes=scopes, identified_by=("entry_id",),
              errors=("waitlist_entry_unknown",)),
    ]  # fmt: skip
