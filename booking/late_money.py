"""Money that comes after its hold has ended: whether the booking can be taken up again, by all the rules of a new hold."""

from __future__ import annotations

import msgspec
from sqlalchemy import select

from booking import catalog
from booking.gathering import write_now
from booking.lifecycle import TABLE, Event, State
from booking.moves import is_lock_over
from booking.records import Booking
from booking.settings import Hospital, Mode
from booking.store.engine import Tx
from booking.store.tables import bookings, schedules, slots


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules look at, read in the transaction that records the money."""

    mode: str
    foreseen: bool
    stopped: bool
    begun: bool
    price_changed: bool
    booked_again: bool
    lock_over: bool
    seat_needed: bool
    remaining: int


def may_take_up(now: Circumstances) -> bool:
    """Whether money that came late still buys its seat. Pure.

    A seat that the HIS still locks for us is used as it is; else a new one must be free, as for any other patient.
    """
    if now.mode != Mode.LIVE or not now.foreseen or now.stopped or now.begun or now.price_changed or now.booked_again:
        return False
    return now.remaining > 0 if now.seat_needed else not now.lock_over


async def can_be_taken_up(tx: Tx, hospital: Hospital, booking: Booking) -> bool:
    """Whether a hold that has run out, or expired, can go on now that its money is there."""
    await write_now(tx)  # others of this transaction may have taken the last seat of the quota, or given one back
    row = await tx.first(
        select(
            slots, schedules.c.fee_fen, schedules.c.quota, schedules.c.taken, schedules.c.status.label("of_schedule")
        )
        .select_from(
            slots.join(
                schedules, (schedules.c.hospital_id == slots.c.hospital_id) & (schedules.c.id == slots.c.schedule_id)
            )
        )
        .where(slots.c.hospital_id == tx.hospital_id, slots.c.id == booking.slot_id)
    )
    if row is None:
        return False
    other = await tx.first(
        select(bookings.c.id).where(
            bookings.c.hospital_id == tx.hospital_id,
            bookings.c.person_id == booking.person_id,
            bookings.c.schedule_id == booking.schedule_id,
            bookings.c.live,
            bookings.c.id != booking.id,
        )
    )
    event = Event.MONEY_USABLE if booking.state == State.HELD else Event.LATE_MONEY_USABLE
    return may_take_up(
        Circumstances(
            mode=hospital.mode,
            foreseen=(event, booking.axes) in TABLE,
            stopped="stopped" in (row["status"], row["of_schedule"]),
            begun=row["starts_at_ms"] <= tx.now_ms,
            price_changed=row["fee_fen"] != booking.fee_fen,
            booked_again=other is not None,
            lock_over=is_lock_over(hospital, booking, tx.now_ms),
            seat_needed=not booking.occupies,
            remaining=catalog.remaining_of(row),
        )
    )
