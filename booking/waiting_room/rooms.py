"""The rooms that one process knows, and what it does for those who wait: tickets, standings, places for holds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping

import msgspec

from booking.errors import Refusal
from booking.settings import Hospital
from booking.store.engine import Store
from booking.waiting_room.gate import Gate
from booking.waiting_room.joins import Joins, Place
from booking.waiting_room.records import Joined, JoinRequest
from booking.waiting_room.room import OVER_S, Phase, Room, Standing, TicketState
from booking.waiting_room.rules import WaitingRoomRule
from booking.waiting_room.tickets import Ticket, TicketForged, read_ticket, write_ticket
from monitoring import metrics

CLOSED_POLL_S = 30.0


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A hospital's room as everybody may see it."""

    phase: Phase
    room: Room | None
    poll_after_s: float


class WaitingRooms:
    """What handlers ask. `keeper.Keeper` keeps it up to date with the store."""

    def __init__(
        self,
        store: Store,
        hospitals: Mapping[str, Hospital],
        now_ms: Callable[[str], int],
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`now_ms` is the store's clock as it is known here, never ahead of it."""
        self.hospitals = {id_: hospital for id_, hospital in hospitals.items() if hospital.waiting_room.is_used}
        self.now_ms = now_ms
        self.current: dict[str, Room] = {}
        """The room of each hospital that is not closed."""
        self.known: dict[tuple[str, int], Room] = {}
        self.joins = Joins(store)
        self.gate = Gate(self.current, now_ms)
        self._vault = store.vault
        self._chance = chance
        self._joined = {id_: metrics.waiting_room_joined.labels(id_) for id_ in self.hospitals}

    def look(self, hospital_id: str) -> Shown:
        """The room that is open, or that was last."""
        room, now_ms = self.current.get(hospital_id), self.now_ms(hospital_id)
        if room is None:
            closed = [r for (of, _), r in self.known.items() if of == hospital_id]
            last = max(closed, key=lambda r: r.release_ms, default=None)
            return Shown(phase=Phase.CLOSED, room=last, poll_after_s=CLOSED_POLL_S)
        phase = room.phase(now_ms)
        wait_s = room.gathering_poll_s(now_ms, self._chance) if phase is Phase.GATHERING else CLOSED_POLL_S
        return Shown(phase=phase, room=room, poll_after_s=wait_s)

    def join(self, hospital: Hospital, client_id: str, patient_id: str) -> asyncio.Future[Place]:
        """Ask for a place; `ticket_of` makes the ticket of it. Raises Refusal and Crowded at once."""
        if hospital.id not in self.hospitals:
            raise Refusal("waiting_room_closed", "This hospital has no waiting room: no ticket is needed.")
        return self.joins.ask(hospital, JoinRequest(client_id, patient_id))

    def ticket_of(self, hospital: Hospital, client_id: str, patient_id: str, place: Place) -> tuple[Ticket, str]:
        """The ticket of a place, and its text. Raises Refusal where none was given."""
        if not isinstance(place, Joined):
            raise Refusal(place.code, place.detail)
        if place.is_new:
            self._joined[hospital.id].inc()
        ticket = Ticket(
            hospital_id=hospital.id,
            client_id=client_id,
            patient_id=patient_id,
            release_ms=place.release_ms,
            expires_ms=expires_ms(hospital.waiting_room, place.release_ms),
            rank=place.rank,
        )
        return ticket, write_ticket(self._vault, ticket)

    def read(self, hospital_id: str, client_id: str, text: str) -> Ticket:
        """A ticket of ours. Raises Refusal."""
        try:
            return read_ticket(self._vault, text, hospital_id=hospital_id, client_id=client_id)
        except TicketForged:
            raise Refusal("ticket_unknown", "This is no ticket of yours at this hospital.") from None

    def place_for(self, hospital_id: str, client_id: str, patient_id: str, text: str) -> tuple[int, int] | None:
        """Release and rank of a ticket that came with a hold for this patient; None for one that is not good for that."""
        if hospital_id not in self.hospitals:
            return None
        try:
            ticket = read_ticket(self._vault, text, hospital_id=hospital_id, client_id=client_id)
        except TicketForged:
            return None
        return (ticket.release_ms, ticket.rank) if ticket.patient_id == patient_id else None

    def standing(self, ticket: Ticket) -> Standing:
        """Where a ticket stands now. A room that is not known here has closed, or opened in the last half second."""
        hospital, now_ms = self.hospitals.get(ticket.hospital_id), self.now_ms(ticket.hospital_id)
        room = self.known.get((ticket.hospital_id, ticket.release_ms))
        if hospital is None:
            return Standing(state=TicketState.CLOSED, poll_after_s=OVER_S)
        if room is None:
            if now_ms >= ticket.expires_ms:
                return Standing(state=TicketState.CLOSED, poll_after_s=OVER_S)
            room = Room(ticket.hospital_id, ticket.release_ms)
        return room.standing(
            ticket.rank, hospital.waiting_room, now_ms=now_ms, expires_ms=ticket.expires_ms, chance=self._chance
        )

    def closed_because(self, ticket: Ticket) -> str | None:
        """Why the room of a ticket is closed."""
        room = self.known.get((ticket.hospital_id, ticket.release_ms))
        return None if room is None or room.closed_because is None else room.closed_because.value


def expires_ms(rule: WaitingRoomRule, release_ms: int) -> int:
    """Until when a ticket of this release can be admitted: as long as the room may be open."""
    return release_ms + int(rule.lasts_s * 1000)
