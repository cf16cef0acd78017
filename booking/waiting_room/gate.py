"""Who is turned away from holding: the words of the refusal, and what is certain without the store.

The decision is that of `booking.inventory.decide`, which reads under the hospital's lock whether a room is open, who is admitted
and how many seats each has held. Here only those are refused of whom it is certain: they bring no ticket of the release, or one
that is far from the front.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from booking.inventory.requests import HoldRequest, Refused
from booking.waiting_room.room import Phase, Room

CODE = "waiting_room"
_WHY = {
    "none": "Join the waiting room, and come with the ticket once it is admitted.",
    "waiting": "This ticket is not admitted yet.",
    "expired": "This ticket was admitted, and its time is over: join again.",
    "used": "This ticket has held as many seats as it may: join again.",
}


def room_path(hospital_id: str) -> str:
    """Where a hospital's waiting room is looked at."""
    return f"/v1/hospitals/{hospital_id}/waiting-room"


def turn_away(hospital_id: str, ticket: str) -> Refused:
    """The refusal of a hold; `ticket` is none, waiting, expired or used."""
    return Refused(CODE, _WHY[ticket], {"join": f"{room_path(hospital_id)}/tickets", "ticket": ticket})


class Gate(msgspec.Struct, frozen=True):
    """`rooms` are those that are not closed, by hospital; the clock is the store's, never ahead of it."""

    rooms: Mapping[str, Room]
    now_ms: Callable[[str], int]

    def refuse(self, hospital_id: str, request: HoldRequest) -> Refused | None:
        """The refusal of a hold, if it is certain without the store."""
        room = self.rooms.get(hospital_id)
        if room is None or room.phase(self.now_ms(hospital_id)) is not Phase.OPEN:
            return None
        if request.room_ms != room.release_ms:
            return turn_away(hospital_id, "none")
        return None if room.may_be_admitted(request.rank) else turn_away(hospital_id, "waiting")
