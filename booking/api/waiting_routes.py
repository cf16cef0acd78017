"""The waiting room: looking at it, joining it, and asking where a ticket stands."""

from __future__ import annotations

import datetime as dt
from functools import partial
from typing import Any

from booking.api.classes import RequestClass
from booking.api.context import Context
from booking.api.present import instant
from booking.api.routing import Call, Pending, Reply, Route
from booking.api.views.waiting import JoinWaitingRoom, TicketView, WaitingRoomView, WaitView
from booking.waiting_room.joins import Place
from booking.waiting_room.records import Joined
from booking.waiting_room.room import Phase
from booking.waiting_room.rooms import Shown, WaitingRooms
from booking.waiting_room.tickets import Ticket


class WaitingRoomHandlers:
    """What a portal's waiting page asks. All but joining is answered from memory."""

    def __init__(self, context: Context, rooms: WaitingRooms) -> None:
        self._context = context
        self._rooms = rooms

    def look_at_once(self, call: Call[None, None]) -> WaitingRoomView:
        return _room_view(self._rooms.look(call.hospital_id), self._context.hospital(call).zone)

    async def look(self, call: Call[None, None]) -> WaitingRoomView:
        return self.look_at_once(call)

    def join_at_once(self, call: Call[None, JoinWaitingRoom]) -> Pending:
        """Asks for a place, and waits for nothing but the commit."""
        joined = self._rooms.join(self._context.hospital(call), call.caller.id, call.body.patient_id)
        return Pending(joined, partial(self._told, call))

    async def join(self, call: Call[None, JoinWaitingRoom]) -> Reply:
        place = await self._rooms.join(self._context.hospital(call), call.caller.id, call.body.patient_id)
        return self._told(call, place)

    def _told(self, call: Call[None, JoinWaitingRoom], place: Place) -> Reply:
        """201 for a new place, 200 for the one that the patient has. Raises Refusal."""
        hospital, patient_id = self._context.hospital(call), call.body.patient_id
        ticket, text = self._rooms.ticket_of(hospital, call.caller.id, patient_id, place)
        is_new = isinstance(place, Joined) and place.is_new
        where = f"{call.address}/{text}"
        return Reply(self._ticket_view(call, ticket, text), status=201 if is_new else 200, headers={"Location": where})

    def standing_at_once(self, call: Call[None, None]) -> TicketView:
        text = call.path["ticket"]
        return self._ticket_view(call, self._rooms.read(call.hospital_id, call.caller.id, text), text)

    async def standing(self, call: Call[None, None]) -> TicketView:
        return self.standing_at_once(call)

    def _ticket_view(self, call: Call[Any, Any], ticket: Ticket, text: str) -> TicketView:
        standing, zone = self._rooms.standing(ticket), self._context.hospitals[ticket.hospital_id].zone
        wait = standing.wait
        return TicketView(
            ticket=text,
            patient_id=ticket.patient_id,
            state=standing.state.value,
            opens_at=instant(ticket.release_ms, zone),
            position=standing.position,
            estimated_wait_s=None if wait is None else WaitView(from_s=wait.from_s, to_s=wait.to_s),
            poll_after_s=standing.poll_after_s,
            admitted_until=instant(standing.admitted_until_ms, zone),
            closed_because=self._rooms.closed_because(ticket),
        )


def _room_view(shown: Shown, zone: dt.tzinfo) -> WaitingRoomView:
    room, is_open = shown.room, shown.phase is not Phase.CLOSED
    return WaitingRoomView(
        state=shown.phase.value,
        opens_at=None if room is None else instant(room.release_ms, zone),
        opened_by=None if room is None else room.opened_by.value,
        waiting=room.waiting if room is not None and is_open else 0,
        closed_because=None if room is None or room.closed_because is None else room.closed_because.value,
        poll_after_s=shown.poll_after_s,
    )


def waiting_routes(context: Context) -> list[Route]:
    """The routes of this group."""
    if context.rooms is None:
        return []
    handlers, scopes = WaitingRoomHandlers(context, context.rooms), ("booking",)
    of = "/v1/hospitals/{hospital_id}/waiting-room"
    return [
        Route("GET", of, handlers.look, at_once=handlers.look_at_once, summary="The hospital's waiting room",
              request_class=RequestClass.READ, tag="waiting room", response=WaitingRoomView, scopes=scopes,
              description="While it is `open`, a hold needs an admitted ticket; while it is `gathering` or `closed`, none."),
        Route("POST", of + "/tickets", handlers.join, at_once=handlers.join_at_once, summary="Join the waiting room",
              request_class=RequestClass.HOLD, identified_by=("user_ref", "patient_id"),
              tag="waiting room", request=JoinWaitingRoom, response=TicketView, status=201, repeated=200, scopes=scopes,
              errors=("waiting_room_closed", "patient_unknown"),
              description="One place for a person: who joins again, by whichever way, gets the same one (200)."),
        Route("GET", of + "/tickets/{ticket}", handlers.standing, at_once=handlers.standing_at_once,
              request_class=RequestClass.READ, summary="Where a ticket stands", tag="waiting room", response=TicketView,
              scopes=scopes,
              errors=("ticket_unknown",),
              description="Ask again after `poll_after_s`, not before."),
    ]  # fmt: skip
