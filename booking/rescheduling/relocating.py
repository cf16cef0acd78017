"""One booking that is moved: its seat goes along, its order, money and registration stay, and its portal is told."""

from __future__ import annotations

import datetime as dt

import msgspec
from sqlalchemy import select, update

from booking import seats
from booking.commands import OPEN
from booking.gathering import count_taken, load_seats, save_seats, tell_of_booking
from booking.lifecycle import TABLE, Event, State
from booking.moves import apply, save_booking
from booking.news import booking_payload
from booking.records import Booking
from booking.rescheduling.marks import Was
from booking.rescheduling.places import Place, payload_of
from booking.settings import Hospital, MovedWithoutPlace, ReserveBy
from booking.store.engine import Tx
from booking.store.tables import bookings, outbox, schedules, slots

BOOKING_MOVED = "booking.moved"
UNKNOWN, FULL, DUPLICATE = "moved_slot_unknown", "moved_slot_full", "moved_duplicate"
WITHOUT_PLACE = frozenset({UNKNOWN, FULL, DUPLICATE})
"""Why a booking could not follow: its `reason` while it needs attention for it, or with which it was stopped."""

OVER = (State.FULFILLED.value, State.NO_SHOW.value)
"""Visits that are over are not moved, though they occupy a seat."""


async def relocate(tx: Tx, hospital: Hospital, booking: Booking, source: Place, target: Place) -> str | None:
    """Move a booking to another slot; why it cannot be, else None. The HIS's word is its seat there, unless the seats are ours.

    The seat rule of DESIGN section 4: the old slot is uncharged, the new one charged until a fetch that began later shows it.
    """
    elsewhere = target.schedule_id != booking.schedule_id
    if booking.live and elsewhere and await has_another(tx, booking, target.schedule_id):
        return DUPLICATE
    new = await load_seats(tx, target.slot_id)
    if hospital.reserve_by == ReserveBy.QUOTA and booking.occupies and seats.hold(new.figures) is None:
        return FULL
    if booking.occupies:
        old = await load_seats(tx, source.slot_id)
        await save_seats(tx, source.slot_id, old, seats.give_back_unsent(old.figures, charged=booking.charged))
        left, unreflected = new.figures.his_left, new.figures.unreflected
        await save_seats(tx, target.slot_id, new, seats.Seats(left, unreflected + 1))
        await count_taken(tx, source.schedule_id, -1)
        await count_taken(tx, target.schedule_id, +1)
        booking.charged = True
    booking.slot_id, booking.schedule_id = target.slot_id, target.schedule_id
    if booking.lock_reply_ms is not None:
        booking.lock_reply_ms = tx.now_ms  # its word on the new seat: only a fetch that began later has counted it
    await _settle_in(tx, hospital, booking, source, target)
    return None


async def tell_change(tx: Tx, hospital: Hospital, booking: Booking, was: Was, now: Place, *, after_ms: int) -> None:
    """A booking whose slot or practitioner is another now, in its place. It counts as told from after `after_ms` on."""
    await _settle_in(tx, hospital, booking, was.before(now), now, after_ms=after_ms)


def is_news(booking: Booking, was: Was, now: Place) -> bool:
    """Whether a change in its place is one for this booking that it was not told of with its own registration.

    A HIS may tell of the visits one by one, and show the session afterwards.
    """
    if was.before(now) == now:
        return False
    told = None if booking.moved_ms is None else booking.registration
    only_who = was.fields.keys() <= {"practitioner_id", "practitioner_name"}
    return not (only_who and told is not None and told.practitioner_id == now.practitioner_id)


async def count_as_told(tx: Tx, booking: Booking, *, after_ms: int) -> None:
    """A booking for which a change is no news: nobody looks at it again for that."""
    booking.moved_ms = max(tx.now_ms, after_ms + 1)
    where = (bookings.c.hospital_id == tx.hospital_id, bookings.c.id == booking.id)
    await tx.run(update(bookings).where(*where).values(moved_ms=booking.moved_ms))


async def _settle_in(
    tx: Tx, hospital: Hospital, booking: Booking, source: Place, target: Place, *, after_ms: int = 0
) -> None:
    booking.moved_ms = max(tx.now_ms, after_ms + 1)
    if booking.reason in WITHOUT_PLACE:
        booking.reason = None
        booking.needs_attention = await _has_dead_letter(tx, booking)
    _rewrite_registration(booking, source, target)
    await save_booking(tx, booking)
    if booking.live:
        stays = (source.slot_id, source.starts_at_ms) == (target.slot_id, target.starts_at_ms)
        payload = {
            **booking_payload(booking),
            "cause": "substituted" if stays and source.practitioner_id != target.practitioner_id else "moved",
            "from": payload_of(source, hospital.zone),
            "to": payload_of(target, hospital.zone),
        }
        await tell_of_booking(tx, booking, BOOKING_MOVED, payload)


def _rewrite_registration(booking: Booking, source: Place, target: Place) -> None:
    """What the HIS once told of the place, as it is now. A start of its own reckoning is forgotten rather than guessed."""
    told = booking.registration
    if told is None:
        return
    within = told.starts_at is not None and source.covers(round(told.starts_at.timestamp() * 1000))
    moved = source.slot_id != target.slot_id or source.starts_at_ms != target.starts_at_ms
    zone = told.starts_at.tzinfo if told.starts_at is not None else None

    def at(ms: int) -> dt.datetime:
        return dt.datetime.fromtimestamp(ms / 1000, zone or dt.UTC)

    changes: dict[str, object] = {"moved": None}
    if moved:
        changes |= {
            "starts_at": at(target.starts_at_ms) if within else None,
            "ends_at": at(target.ends_at_ms) if within else None,
            "slot_id": None if told.slot_id is None else target.slot_his_id,
            "schedule_id": None if told.schedule_id is None else target.schedule_his_id,
        }
    if source.practitioner_id != target.practitioner_id and told.practitioner_id is not None:
        changes |= {"practitioner_id": target.practitioner_id, "practitioner_name": target.practitioner_name}
    if source.location != target.location and target.location is not None:
        changes["check_in_place"] = target.location
    booking.registration = msgspec.structs.replace(told, **changes)


async def has_another(tx: Tx, booking: Booking, schedule_id: str) -> bool:
    """Whether this person has another live booking on a schedule."""
    other = await tx.first(
        select(bookings.c.id).where(
            bookings.c.hospital_id == tx.hospital_id,
            bookings.c.person_id == booking.person_id,
            bookings.c.schedule_id == schedule_id,
            bookings.c.live,
            bookings.c.id != booking.id,
        )
    )
    return other is not None


async def leave_without_place(tx: Tx, hospital: Hospital, booking: Booking, why: str, *, final: bool = True) -> bool:
    """A booking that cannot follow: it waits for a person, or is stopped with a refund, as the hospital has it set.

    Returns whether anything changed. `final` False: a fetch may still show its place, so that it is not stopped yet.
    """
    if not booking.live:
        return False
    if final and hospital.moved_without_place == MovedWithoutPlace.STOP:
        event = Event.STOPPED if hospital.stop_cancels_at_his else Event.STOPPED_AND_RELEASED
        if (event, booking.axes) in TABLE:
            if booking.reason in WITHOUT_PLACE:
                booking.needs_attention = await _has_dead_letter(tx, booking)
            await apply(tx, hospital, booking, event, reason=why)
            return True
    if booking.needs_attention and booking.reason == why:
        return False
    booking.needs_attention, booking.reason = True, why
    await save_booking(tx, booking)
    return True


async def _has_dead_letter(tx: Tx, booking: Booking) -> bool:
    dead = select(outbox.c.id).where(
        outbox.c.hospital_id == tx.hospital_id, outbox.c.line == booking.line, outbox.c.status.in_(OPEN)
    )
    return await tx.first(dead.where(outbox.c.status == "dead")) is not None


async def keep_for_good(tx: Tx, targets: list[Place]) -> None:
    """Slots and schedules that have bookings are never forgotten."""
    for table, ids in ((slots, {t.slot_id for t in targets}), (schedules, {t.schedule_id for t in targets})):
        if ids:
            await tx.run(
                update(table)
                .where(table.c.hospital_id == tx.hospital_id, table.c.id.in_(sorted(ids)), ~table.c.booked)
                .values(booked=True)
            )
