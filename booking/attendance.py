"""Who came: the visits whose outcome is not known yet, and what an answer of the HIS, or the hospital's rule, makes of one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import msgspec
from sqlalchemy import bindparam, or_, select

from booking.bookings import event_of, merge_told
from booking.lifecycle import TABLE, Command, Event, State
from booking.moves import apply, load_booking
from booking.records import Booking
from booking.settings import Hospital
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.tables import bookings, schedules, slots
from booking.visit_rules import missed_from_ms
from booking.visits import hear_visit
from mappings.canonical import Registration

OPEN_OUTCOME = (State.BOOKED.value, State.CHECKED_IN.value, State.NO_SHOW.value)
"""A visit that was missed may have been kept after all: who comes late is entered late."""


class Awaited(msgspec.Struct, frozen=True):
    """One visit to ask about, as it was then: an answer to a booking that has changed since says nothing of it."""

    booking_id: str
    version: int
    state: str
    date: dt.date


async def schedules_of_day(tx: Tx, date: dt.date) -> Sequence[str]:
    """The ids of the schedules of a day, in order."""
    rows = await tx.all(_SCHEDULES, {"of_hospital": tx.hospital_id, "of_date": date.isoformat()})
    return sorted(row["id"] for row in rows)


async def visits_awaited(tx: Tx, schedule_id: str, *, begin_by_ms: int) -> Sequence[Awaited]:
    """Those visits of one schedule that begin by then and have nothing under way at the HIS, in order of their begin."""
    given = {"of_hospital": tx.hospital_id, "of_schedule": schedule_id, "begin_by_ms": begin_by_ms}
    rows = await tx.all(_VISITS, given)
    return [Awaited(row["id"], row["version"], row["state"], dt.date.fromisoformat(row["date"])) for row in rows]


# In no order: one by id would lead SQLite through all schedules of the hospital.
_SCHEDULES = Fixed(
    select(schedules.c.id).where(
        schedules.c.hospital_id == bindparam("of_hospital"), schedules.c.date == bindparam("of_date")
    )
)
_VISITS = Fixed(
    select(bookings.c.id, bookings.c.version, bookings.c.state, slots.c.date)
    .select_from(
        bookings.join(slots, (slots.c.hospital_id == bookings.c.hospital_id) & (slots.c.id == bookings.c.slot_id))
    )
    .where(
        bookings.c.hospital_id == bindparam("of_hospital"),
        bookings.c.schedule_id == bindparam("of_schedule"),
        bookings.c.occupies,
        or_(*(bookings.c.state == state for state in OPEN_OUTCOME)),
        bookings.c.his_command == Command.NONE.value,
        slots.c.starts_at_ms <= bindparam("begin_by_ms"),
    )
    .order_by(slots.c.starts_at_ms, bookings.c.id)
)


async def settle_visit(tx: Tx, hospital: Hospital, awaited: Awaited, told: Registration | None) -> str | None:
    """Apply what the HIS has answered about a visit (None: it is not asked), then the hospital's rule; its new state, or None.

    What the HIS has said before is not heard again: nobody is told of it twice.
    """
    booking = await load_booking(tx, awaited.booking_id)
    if booking is None or booking.version != awaited.version:
        return None
    if told is not None and await _says_more(tx, hospital, booking, told):
        mine = msgspec.structs.replace(told, order_no=booking.order_no)
        await hear_visit(tx, hospital, mine, occurred_at=None)
        booking = await load_booking(tx, awaited.booking_id) or booking
    missed_ms = missed_from_ms(hospital.visits, awaited.date, hospital.zone)
    if missed_ms is not None and tx.now_ms >= missed_ms and (Event.MISSED, booking.axes) in TABLE:
        await apply(tx, hospital, booking, Event.MISSED)
    return None if booking.state == awaited.state else booking.state.value


async def _says_more(tx: Tx, hospital: Hospital, booking: Booking, told: Registration) -> bool:
    """Whether an answer about this booking moves it, or tells of it what is not known."""
    if told.order_no not in (None, booking.order_no):
        return False
    if await event_of(tx, hospital, booking, told.status) is not None:
        return True
    known = booking.registration
    if known is None:
        return False
    as_known = {"status": known.status, "his_refs": known.his_refs, "order_no": known.order_no}
    return msgspec.structs.replace(merge_told(known, told), **as_known) != known
