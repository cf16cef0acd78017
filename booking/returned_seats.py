"""Seats that have come back are sold again after a while that nobody knows: whoever gives one up cannot catch it.

Beside the two figures of the seat rule, which it never touches, each slot and each schedule counts the seats that are held back;
that is subtracted wherever seats are sold or shown. A row for each says when it is over; the sweep takes rows away and counts
down with them. So what is held back can only make fewer seats to sell, never more.
"""

from __future__ import annotations

import random
from collections import Counter

from sqlalchemy import bindparam, select, update

from booking.records import Booking
from booking.rules.settings import ReturnedSeats
from booking.settings import Hospital
from booking.store.engine import Tx
from booking.store.fixed import Fixed, is_one_of
from booking.store.tables import returned_seats, schedules, slots

MOST_IN_A_TURN = 50
draw = random.SystemRandom().random
"""From 0 to 1, and nobody can guess it."""


def back_after_ms(rule: ReturnedSeats, drawn: float) -> int:
    """How long a seat is held back, by a number from 0 to 1."""
    return round((rule.least_s + (rule.most_s - rule.least_s) * drawn) * 1000)


def _counting(table: str) -> Fixed:
    of = {"slots": slots, "schedules": schedules}[table]
    return Fixed(
        update(of)
        .where(of.c.hospital_id == bindparam("of_hospital"), of.c.id == bindparam("of_id"))
        .values(held_back=of.c.held_back + bindparam("change"))
    )


_ROW = Fixed(
    select(returned_seats.c.due_ms).where(
        returned_seats.c.hospital_id == bindparam("of_hospital"), returned_seats.c.booking_id == bindparam("of_booking")
    )
)
_POSTPONE = Fixed(
    update(returned_seats)
    .where(
        returned_seats.c.hospital_id == bindparam("of_hospital"), returned_seats.c.booking_id == bindparam("of_booking")
    )
    .values(due_ms=bindparam("until"))
)
_OVER = Fixed(
    returned_seats.delete().where(
        returned_seats.c.hospital_id == bindparam("of_hospital"), is_one_of(returned_seats.c.booking_id, "ids")
    )
)
_ANY_DUE = Fixed(
    select(returned_seats.c.booking_id)
    .where(returned_seats.c.hospital_id == bindparam("of_hospital"), returned_seats.c.due_ms <= bindparam("now"))
    .limit(1)
)
_DAYS = Fixed(
    select(schedules.c.date, schedules.c.department_id).where(
        schedules.c.hospital_id == bindparam("of_hospital"), is_one_of(schedules.c.id, "ids")
    )
)
_WAITING = Fixed(
    select(schedules.c.waiting).where(
        schedules.c.hospital_id == bindparam("of_hospital"), schedules.c.id == bindparam("of_schedule")
    )
)
_OF_SLOTS, _OF_SCHEDULES = _counting("slots"), _counting("schedules")


async def hold_back(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    """The seat of a booking comes back: it is not sold before a time drawn by chance, where the hospital wants it so."""
    rule = hospital.rules.returned_seats
    if rule is None or (hospital.rules.waitlist is not None and await _has_line(tx, booking.schedule_id)):
        return  # whoever is first in line gets it: there is nothing to catch
    until_ms = tx.now_ms + back_after_ms(rule, draw())
    of = {"of_hospital": tx.hospital_id, "of_booking": booking.id}
    if await tx.first(_ROW, of) is not None:
        await tx.run(_POSTPONE, {**of, "until": until_ms})
        return
    await _wait(tx, booking.id, booking.slot_id, booking.schedule_id, until_ms)
    await _count(tx, {booking.slot_id: 1}, {booking.schedule_id: 1})


async def offer_is_over(tx: Tx, hospital: Hospital, *, entry_id: str, slot_id: str, schedule_id: str) -> None:
    """The seat that was set aside for an entry of the waitlist is for others: for the next in line, if there is one.

    Else it waits as one that was booked does, where the hospital wants it so.
    """
    rule = hospital.rules.returned_seats
    if rule is None or await _has_line(tx, schedule_id):
        await _count(tx, {slot_id: -1}, {schedule_id: -1})
    else:
        await _wait(tx, entry_id, slot_id, schedule_id, tx.now_ms + back_after_ms(rule, draw()))


async def set_aside(tx: Tx, slot_id: str, schedule_id: str) -> None:
    """A seat is offered to somebody: it is for nobody else."""
    await _count(tx, {slot_id: 1}, {schedule_id: 1})


async def _has_line(tx: Tx, schedule_id: str) -> bool:
    row = await tx.first(_WAITING, {"of_hospital": tx.hospital_id, "of_schedule": schedule_id})
    return row is not None and row["waiting"] > 0


async def _wait(tx: Tx, subject_id: str, slot_id: str, schedule_id: str, until_ms: int) -> None:
    await tx.add(
        returned_seats,
        {
            "hospital_id": tx.hospital_id,
            "booking_id": subject_id,
            "slot_id": slot_id,
            "schedule_id": schedule_id,
            "due_ms": until_ms,
        },
    )


async def is_held_back(tx: Tx, booking: Booking) -> bool:
    """Whether the seat that this booking gave back waits: its own late money may still buy it."""
    return await tx.first(_ROW, {"of_hospital": tx.hospital_id, "of_booking": booking.id}) is not None


async def take_back(tx: Tx, booking: Booking) -> None:
    """A booking takes a seat anew: the one that it gave back waits no more."""
    if await is_held_back(tx, booking):
        await tx.run(_OVER, {"of_hospital": tx.hospital_id, "ids": [booking.id]})
        await _count(tx, {booking.slot_id: -1}, {booking.schedule_id: -1})


async def any_back(tx: Tx) -> bool:
    """Whether a seat has waited long enough."""
    return await tx.first(_ANY_DUE, {"of_hospital": tx.hospital_id, "now": tx.now_ms}) is not None


async def sell_again(tx: Tx) -> int:
    """Sell those again whose time has come, `MOST_IN_A_TURN` at most; returns how many."""
    rows = await tx.all(
        select(returned_seats)
        .where(returned_seats.c.hospital_id == tx.hospital_id, returned_seats.c.due_ms <= tx.now_ms)
        .order_by(returned_seats.c.due_ms)
        .limit(MOST_IN_A_TURN)
    )
    if not rows:
        return 0
    await tx.run(_OVER, {"of_hospital": tx.hospital_id, "ids": [row["booking_id"] for row in rows]})
    of_slots, of_schedules = (Counter(row[name] for row in rows) for name in ("slot_id", "schedule_id"))
    await _count(tx, {i: -n for i, n in of_slots.items()}, {i: -n for i, n in of_schedules.items()})
    for day in await tx.all(_DAYS, {"of_hospital": tx.hospital_id, "ids": sorted(of_schedules)}):
        tx.touch(day["date"], day["department_id"])
    return len(rows)


async def _count(tx: Tx, of_slots: dict[str, int], of_schedules: dict[str, int]) -> None:
    for statement, changes in ((_OF_SLOTS, of_slots), (_OF_SCHEDULES, of_schedules)):
        values = [{"of_hospital": tx.hospital_id, "of_id": i, "change": n} for i, n in sorted(changes.items())]
        await tx.later(statement, values)
