"""The waiting room's part in a hold: the ticket that comes with it, and the answer that sends to the room."""

from __future__ import annotations

from typing import Any

from multidict import istr

from booking.api.problems import ApiProblem
from booking.api.routing import Call
from booking.errors import Refusal
from booking.waiting_room.ranks import NONE_YET
from booking.waiting_room.rooms import WaitingRooms

TICKET_FIELD = "Waiting-Room-Ticket"
_TICKET_FIELD = istr(TICKET_FIELD)
RETRY_AFTER_S = 5
_NO_PLACE = (0, NONE_YET)


def place_of(rooms: WaitingRooms | None, call: Call[Any, Any], patient_id: str) -> tuple[int, int]:
    """Release and rank of the ticket that came with a hold for this patient; those of nobody without a good one."""
    if rooms is None or call.hospital_id not in rooms.hospitals:
        return _NO_PLACE
    text = call.request.headers.get(_TICKET_FIELD)
    if text is None:
        return _NO_PLACE
    return rooms.place_for(call.hospital_id, call.caller.id, patient_id, text) or _NO_PLACE


def told_to_wait(refusal: Refusal) -> ApiProblem:
    """429 with the way in: where to join (RFC 6861, `create-form`) and where to look (RFC 8631, `status`)."""
    join = str(refusal.extra["join"])
    links = f'<{join}>; rel="create-form", <{join.rpartition("/")[0]}>; rel="status"'
    return ApiProblem(
        refusal.code, refusal.detail, retry_after_s=RETRY_AFTER_S, extra=refusal.extra, headers={"Link": links}
    )
