"""Moves of single bookings: by an order's number, or seen in what the HIS tells of a registration."""

from __future__ import annotations

import msgspec
from sqlalchemy import bindparam, select

from booking.gathering import load_booking
from booking.lifecycle import State
from booking.moves import fetch_topic
from booking.records import Booking, booking_from_row
from booking.rescheduling.carrying import segments_meant_by
from booking.rescheduling.marks import Was, is_elsewhere
from booking.rescheduling.named import his_schedules
from booking.rescheduling.places import Place, places_of, segment_at, segments_of, segments_on
from booking.rescheduling.relocating import (
    UNKNOWN,
    keep_for_good,
    leave_without_place,
    relocate,
    tell_change,
)
from booking.settings import Hospital
from booking.store.engine import Store, Tx
from booking.store.fixed import Fixed
from booking.store.tables import bookings
from mappings.canonical import Registration, RegistrationStatus, ScheduleStopped

_BY_ORDER_NO = Fixed(
    select(bookings).where(
        bookings.c.hospital_id == bindparam("of_hospital"), bookings.c.order_no == bindparam("of_order")
    )
)
_MOVABLE = frozenset({State.HELD, State.BOOKED, State.CHECKED_IN, State.CANCELLING})
_SAYS_NOTHING = frozenset(
    {RegistrationStatus.RELEASED, RegistrationStatus.ENTERED_IN_ERROR, RegistrationStatus.WAITLISTED}
)
MOST_AGAIN = 50


async def move_order(tx: Tx, hospital: Hospital, stop: ScheduleStopped) -> int:
    """Move one order, or give it another practitioner; how many bookings have changed. Twice changes nothing."""
    row = await tx.first(_BY_ORDER_NO, {"of_hospital": tx.hospital_id, "of_order": stop.order_no})
    booking = None if row is None else booking_from_row(tx, row)
    if booking is None or booking.state not in _MOVABLE or (to := stop.moved_to) is None:
        return 0
    source = (await places_of(tx, [booking.slot_id])).get(booking.slot_id)
    if source is None:
        return 0
    if is_elsewhere(stop):
        candidates = await segments_meant_by(tx, source, to, hospital.zone)
        return await _follow(tx, hospital, booking, source, segment_at(source, candidates, to, hospital.zone))
    told = Registration(
        status=RegistrationStatus.REGISTERED,
        practitioner_id=to.practitioner_id,
        practitioner_name=to.practitioner_name,
        check_in_place=to.location,
    )
    return await _stand_in(tx, hospital, booking, seen(source, booking.registration), told)


def seen(place: Place, told: Registration | None) -> Place:
    """The place of a booking as the HIS told it last for this very booking."""
    if told is None:
        return place
    changes = {}
    if told.practitioner_id is not None:
        changes = {"practitioner_id": told.practitioner_id, "practitioner_name": told.practitioner_name}
    if told.check_in_place is not None:
        changes["location"] = told.check_in_place
    return msgspec.structs.replace(place, **changes)


async def _follow(tx: Tx, hospital: Hospital, booking: Booking, source: Place, target: Place | None) -> int:
    if target is not None and target.slot_id == source.slot_id:
        return 0
    why = UNKNOWN
    if target is not None:
        await keep_for_good(tx, [target])
        moved = await relocate(tx, hospital, booking, source, target)
        if moved is None:
            return 1
        why = moved
    else:
        tx.ring(fetch_topic(tx.hospital_id))
    return await leave_without_place(tx, hospital, booking, why, final=why != UNKNOWN)


async def _stand_in(tx: Tx, hospital: Hospital, booking: Booking, source: Place, told: Registration) -> int:
    """Another practitioner for one booking: its registration shows it from now on."""
    was = _differs(source, told)
    if was is None:
        return 0
    known = booking.registration or Registration(status=RegistrationStatus.LOCKED)
    booking.registration = msgspec.structs.replace(
        known,
        practitioner_id=told.practitioner_id or known.practitioner_id,
        practitioner_name=told.practitioner_name if told.practitioner_id is not None else known.practitioner_name,
        check_in_place=told.check_in_place or known.check_in_place,
    )
    await tell_change(tx, hospital, booking, was, seen(source, booking.registration), after_ms=0)
    return 1


def _differs(source: Place, told: Registration) -> Was | None:
    if told.practitioner_id is not None and told.practitioner_id != source.practitioner_id:
        return Was(practitioner_id=source.practitioner_id, practitioner_name=source.practitioner_name)
    if told.check_in_place is not None and told.check_in_place != source.location:
        return Was(location=source.location)
    return None


# --- seen in a registration --------------------------------------------------------------------------------------------


async def hear_place(tx: Tx, hospital: Hospital, booking: Booking, told: Registration) -> bool:
    """Move a booking where the HIS's word on its registration says that it is elsewhere; whether it has changed.

    A start that lies in the booking's own segment is no move. Another one is, where the HIS says so (`moved`) or has told another
    start before: systems that give every registration the session's beginning move nobody by it. The same for practitioners.
    """
    if booking.state not in _MOVABLE or told.status in _SAYS_NOTHING:
        return False
    known = booking.registration
    if told.starts_at is None or not (
        told.moved or (known is not None and known.starts_at not in (None, told.starts_at))
    ):
        return await _hear_practitioner(tx, hospital, booking, told)
    source = (await places_of(tx, [booking.slot_id])).get(booking.slot_id)
    if source is None or source.covers(round(told.starts_at.timestamp() * 1000)):
        return await _hear_practitioner(tx, hospital, booking, told)
    return bool(await _follow(tx, hospital, booking, source, await _segment_told(tx, hospital, source, told)))


async def _hear_practitioner(tx: Tx, hospital: Hospital, booking: Booking, told: Registration) -> bool:
    known = booking.registration
    if known is None or None in (known.practitioner_id, told.practitioner_id):
        return False
    if known.practitioner_id == told.practitioner_id or (
        known.practitioner_name is not None and known.practitioner_name == told.practitioner_name
    ):
        return False
    source = (await places_of(tx, [booking.slot_id])).get(booking.slot_id)
    if source is None:
        return False
    only = Registration(
        status=told.status, practitioner_id=told.practitioner_id, practitioner_name=told.practitioner_name
    )
    return bool(await _stand_in(tx, hospital, booking, seen(source, known), only))


async def _segment_told(tx: Tx, hospital: Hospital, source: Place, told: Registration) -> Place | None:
    """The one segment that a registration's start and ids can mean; None where none can, or several."""
    if told.starts_at is None:
        return None
    at_ms = round(told.starts_at.timestamp() * 1000)
    date = told.starts_at.astimezone(hospital.zone).date().isoformat()
    if told.schedule_id is not None and (ids := await his_schedules(tx, [told.schedule_id], date)):
        segments = await segments_of(tx, ids)
    else:
        segments = await segments_on(tx, date, told.department_id or source.department_id)
    found = [s for s in segments if s.covers(at_ms)]
    if len(found) > 1 and told.slot_id is not None:
        found = [s for s in found if s.slot_his_id == told.slot_id] or found
    if len(found) > 1:
        found = [s for s in found if s.practitioner_id == (told.practitioner_id or source.practitioner_id)]
    return found[0] if len(found) == 1 else None


async def follow_again(store: Store, hospital: Hospital) -> int:
    """Bookings whose new place was not known when the HIS told it: a fetch may have shown it since. How many have moved."""
    async with store.read(hospital.id) as tx:
        waiting = await tx.all(
            select(bookings.c.id)
            .where(
                bookings.c.hospital_id == hospital.id,
                bookings.c.needs_attention,
                bookings.c.reason == UNKNOWN,
            )
            .limit(MOST_AGAIN)
        )
    done = 0
    for row in waiting:
        async with store.write(hospital.id, here=True) as tx:
            booking = await load_booking(tx, row["id"])
            told = None if booking is None else booking.registration
            if booking is not None and told is not None and booking.reason == UNKNOWN:
                done += await hear_place(tx, hospital, booking, msgspec.structs.replace(told, moved=True))
    return done


def without_move(told: Registration) -> Registration:
    """What is kept of a word: that it told of a move is over once it was heard."""
    return told if told.moved is None else msgspec.structs.replace(told, moved=None)
