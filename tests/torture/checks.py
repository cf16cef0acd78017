"""What must hold when everything has settled after a crash: acknowledged is stored, nothing twice, the hospital agrees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

TAKEN = ("locked", "registered")


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A booking as the store has it."""

    id: str
    order_no: str
    person_id: str
    schedule_id: str
    slot_id: str
    state: str
    his_state: str
    live: bool


@dataclass(frozen=True)
class Theirs:
    """A visit as the hospital has it: our order number and locked, registered or released."""

    order_no: str
    state: str


@dataclass(frozen=True, kw_only=True)
class Aftermath:
    """One hospital after a round. `given`: by key the booking that a patient was told of; `paid`: those whose money was
    taken; `left`: those somebody asked to cancel; `seats` what each slot had to sell, `remaining` what it shows now."""

    given: Mapping[str, str]
    paid: Collection[str]
    left: Collection[str]
    ours: Sequence[Ours]
    theirs: Sequence[Theirs]
    oversold: int
    seats: Mapping[str, int] = field(default_factory=dict)
    remaining: Mapping[str, int] = field(default_factory=dict)


def faults(after: Aftermath) -> list[str]:
    """Everything that is wrong, in words; [] when nothing is."""
    return [*_acknowledged(after), *_twice(after), *_promises(after), *_agreement(after), *_seats(after)]


def _acknowledged(after: Aftermath) -> Iterator[str]:
    stored = {booking.id for booking in after.ours}
    told = set(after.given.values())
    yield from (f"booking {lost} was acknowledged and is gone" for lost in sorted(told - stored))
    yield from (f"booking {extra} exists and nobody was told of it" for extra in sorted(stored - told))


def _twice(after: Aftermath) -> Iterator[str]:
    for booking, count in Counter(after.given.values()).items():
        if count > 1:
            yield f"booking {booking} was given to {count} keys"
    for (person, schedule), count in Counter((b.person_id, b.schedule_id) for b in after.ours if b.live).items():
        if count > 1:
            yield f"person {person} has {count} live bookings on {schedule}"
    for order_no, count in Counter(b.order_no for b in after.ours).items():
        if count > 1:
            yield f"order {order_no} is {count} bookings"


def _promises(after: Aftermath) -> Iterator[str]:
    for booking in after.ours:
        if booking.id in after.paid and booking.id not in after.left and booking.state != "booked":
            yield f"booking {booking.id} is paid, was never cancelled, and is {booking.state}"
        if booking.state == "rejected":
            # Nobody else sells here: a hospital that has no seat for one of ours has been promised more than it has.
            yield f"booking {booking.id} was rejected by the hospital"


def _agreement(after: Aftermath) -> Iterator[str]:
    if after.oversold:
        yield f"the hospital has oversold {after.oversold} seats"
    visits: dict[str, list[str]] = {}
    for visit in after.theirs:
        visits.setdefault(visit.order_no, []).append(visit.state)
    for booking in after.ours:
        there = [state for state in visits.pop(booking.order_no, []) if state in TAKEN]
        here = [booking.his_state] if booking.his_state in TAKEN else []
        if there != here:
            yield f"booking {booking.id} is {booking.state}/{booking.his_state} here, {there or 'nothing'} there"
        elif there and booking.state in ("cancelled", "expired", "rejected", "stopped"):
            yield f"booking {booking.id} is {booking.state} and still {there} there"
    yield from (f"order {order_no} is {states} there and unknown here" for order_no, states in visits.items())


def _seats(after: Aftermath) -> Iterator[str]:
    used = Counter(b.slot_id for b in after.ours if b.his_state in TAKEN)
    for slot, seats in after.seats.items():
        if used[slot] > seats:
            yield f"slot {slot}: {used[slot]} taken of {seats}"
        elif after.remaining.get(slot, 0) != seats - used[slot]:
            yield f"slot {slot}: {used[slot]} taken of {seats}, and {after.remaining.get(slot, 0)} on sale"
