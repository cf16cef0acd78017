"""停诊: a stop heard or seen, carried to the slots and to every live booking."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import Column, Table, select

from booking.bookings import MOST_IN_A_TURN, stop_bookings
from booking.errors import SetAside
from booking.fetches import stop_slots
from booking.rescheduling.carrying import carry_moves
from booking.rescheduling.marking import mark_change
from booking.rescheduling.marks import goes_elsewhere, has_moved
from booking.rescheduling.named import schedules_meant, segments_meant
from booking.rescheduling.orders import move_order
from booking.settings import Hospital
from booking.store.budget import Budget
from booking.store.engine import Store, Tx
from booking.store.tables import bookings, schedules, slots
from mappings.canonical import ScheduleStopped, StopScope

_CHUNK = 200


async def apply_stop(
    tx: Tx, hospital: Hospital, stop: ScheduleStopped, *, pushed: bool = True, budget: Budget | None = None
) -> int:
    """Stop what the HIS stopped; returns how many bookings were stopped. Applying it twice stops none.

    Where it says where they are instead, sessions and segments are only marked: see `booking.rescheduling`.

    `pushed` False is for a stop that every fetch lists anew: it is over when the list no longer has it. With a `budget`,
    bookings may be left when it is spent: applying it again goes on with them (see `carry_stop`).

    Raises SetAside for a stop that does not say what it hits: it must never hit everything.
    """
    named = {
        StopScope.SCHEDULE: stop.schedule_id,
        StopScope.SEGMENT: stop.schedule_id and stop.starts_at,
        StopScope.ORDER: stop.order_no,
    }
    if not named[stop.scope]:
        raise SetAside(f"a stop of one {stop.scope.value} that does not say which")
    if has_moved(stop):
        if stop.scope == StopScope.ORDER:
            return await move_order(tx, hospital, stop)
        await mark_change(tx, stop, pushed=pushed)
        return 0  # `carry_stop` brings it to the bookings
    released = stop.orders_cancelled or not hospital.stop_cancels_at_his

    async def move(
        schedule_id: str | None = None, slot_ids: list[str] | None = None, order_no: str | None = None
    ) -> int:
        return await stop_bookings(
            tx, hospital, schedule_id=schedule_id, slot_ids=slot_ids, order_no=order_no, released=released,
            reason=stop.reason, budget=budget,
        )  # fmt: skip

    if stop.scope == StopScope.ORDER:
        return await move(order_no=stop.order_no)
    moved = 0
    for schedule_id in await schedules_meant(tx, stop):
        if stop.scope == StopScope.SCHEDULE:
            await stop_slots(tx, schedule_id, pushed=pushed)
            moved += await move(schedule_id=schedule_id)
        elif slot_ids := list(await segments_meant(tx, schedule_id, stop)):
            await stop_slots(tx, schedule_id, slot_ids=slot_ids, pushed=pushed)
            moved += await move(slot_ids=slot_ids)
        if budget is not None and budget.spent:
            break
    return moved


async def carry_stop(store: Store, hospital: Hospital, stop: ScheduleStopped, *, pushed: bool = True) -> int:
    """`apply_stop` in as many short transactions as it takes: a session's hundred bookings must not hold up a release.

    The first one takes the seats off the market, so that nobody can book while the others are moved.
    """

    async def some(tx: Tx, budget: Budget) -> int:
        return await apply_stop(tx, hospital, stop, pushed=pushed, budget=budget)

    done = await _in_turns(store, hospital, some)
    if has_moved(stop) and stop.scope != StopScope.ORDER:
        async with store.read(hospital.id) as tx:
            meant = await schedules_meant(tx, stop)
        done += await carry_moves(store, hospital, schedule_ids=meant)
    return done


async def carry_known_stops(
    store: Store, hospital: Hospital, *, schedule_ids: Sequence[str] = (), slot_ids: Sequence[str] = ()
) -> int:
    """Carry stops that a fetch has shown to the bookings of these schedules and slots (our ids), in short transactions."""
    moved = 0
    for schedule_id in schedule_ids:
        moved += await _in_turns(store, hospital, _known(hospital, schedule_id=schedule_id))
    if slot_ids:
        moved += await _in_turns(store, hospital, _known(hospital, slot_ids=list(slot_ids)))
    return moved


async def carry_left_stops(store: Store, hospital: Hospital) -> int:
    """Stop the live bookings of whatever stands as stopped, and carry what was moved: a crash may have left some behind."""
    async with store.read(hospital.id) as tx:
        today = dt.datetime.fromtimestamp(tx.now_ms / 1000, hospital.zone).date()
        left = [await _left(tx, *of, today) for of in _BOOKED_OF]
    stopped = await carry_known_stops(store, hospital, schedule_ids=left[0], slot_ids=left[1])
    return stopped + await carry_moves(store, hospital)


# Of each table the column that names a schedule, and what a booking of it is known by.
_BOOKED_OF = (
    (schedules, schedules.c.id, bookings.c.schedule_id),
    (slots, slots.c.schedule_id, bookings.c.slot_id),
)


async def _left(tx: Tx, table: Table, schedule: Column[str], booked: Column[str], today: dt.date) -> list[str]:
    """The stopped ones from today on that still have live bookings."""
    stopped = await tx.all(
        select(table.c.id, table.c.moved, schedule.label("schedule_id")).where(
            table.c.hospital_id == tx.hospital_id,
            table.c.date >= today.isoformat(),
            table.c.status == "stopped",
            table.c.booked,
        )
    )
    stopped = [row for row in stopped if not goes_elsewhere(row["moved"])]
    found: set[str] = set()
    for start in range(0, len(stopped), _CHUNK):
        some = stopped[start : start + _CHUNK]
        rows = await tx.all(
            select(booked.label("id")).where(
                bookings.c.hospital_id == tx.hospital_id,
                bookings.c.schedule_id.in_(sorted({row["schedule_id"] for row in some})),
                booked.in_([row["id"] for row in some]),
                bookings.c.occupies,
                bookings.c.live,
            )
        )
        found |= {r["id"] for r in rows}
    return sorted(found)


def _known(
    hospital: Hospital, *, schedule_id: str | None = None, slot_ids: list[str] | None = None
) -> Callable[[Tx, Budget], Awaitable[int]]:
    async def some(tx: Tx, budget: Budget) -> int:
        return await stop_bookings(
            tx, hospital, schedule_id=schedule_id, slot_ids=slot_ids, released=not hospital.stop_cancels_at_his,
            reason="schedule_stopped", budget=budget,
        )  # fmt: skip

    return some


async def _in_turns(store: Store, hospital: Hospital, some: Callable[[Tx, Budget], Awaitable[int]]) -> int:
    """Repeat until a turn has had time to spare and found nothing more."""
    total = 0
    while True:
        async with store.write(hospital.id, here=True) as tx:
            budget = Budget()
            moved = await some(tx, budget)
        total += moved
        if moved == 0 or (moved < MOST_IN_A_TURN and not budget.spent):
            return total
