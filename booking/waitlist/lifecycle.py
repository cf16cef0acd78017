"""The states of an entry on the waitlist, and the one table of what leads from one to another. Pure."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """`waiting`: in line. `offered`: a seat is set aside until a time. The others are ends.

    `accepted`: a hold took the seat. `lapsed`: it was not taken in time. `cancelled`: the portal gave the place up. `cleared`: on
    the evening before, or because the session was stopped or no longer has a waitlist.
    """

    WAITING = "waiting"
    OFFERED = "offered"
    ACCEPTED = "accepted"
    LAPSED = "lapsed"
    CANCELLED = "cancelled"
    CLEARED = "cleared"


LIVE = frozenset({State.WAITING, State.OFFERED})


class Event(StrEnum):
    """What happens to an entry. `withdrawn`: the hospital itself sold the seat that was offered, or stopped its segment."""

    OFFER = "offer"
    ACCEPT = "accept"
    LAPSE = "lapse"
    WITHDRAW = "withdraw"
    LEAVE = "leave"
    CLEAR = "clear"


TABLE: dict[tuple[Event, State], State] = {
    (Event.OFFER, State.WAITING): State.OFFERED,
    (Event.ACCEPT, State.OFFERED): State.ACCEPTED,
    (Event.LAPSE, State.OFFERED): State.LAPSED,
    (Event.WITHDRAW, State.OFFERED): State.WAITING,
    (Event.LEAVE, State.WAITING): State.CANCELLED,
    (Event.LEAVE, State.OFFERED): State.CANCELLED,
    (Event.CLEAR, State.WAITING): State.CLEARED,
    (Event.CLEAR, State.OFFERED): State.CLEARED,
}


def move(event: Event, state: State) -> State:
    """The state after an event. Raises ValueError for what the table does not have."""
    to = TABLE.get((event, state))
    if to is None:
        raise ValueError(f"an entry that is {state} knows no {event}")
    return to
