"""停诊: a stop heard or seen, carried to the slots and to every live booking."""

from __future__ import annotations

from sqlalchemy import select

from booking.billing import SetAside
from booking.bookings import stop_bookings
from booking.catalog import stop_slots
from booking.settings import Hospital
from booking.store.engine import Tx
from booking.store.tables import schedules, slots
from mappings.canonical import ScheduleStopped, StopScope


async def apply_stop(tx: Tx, hospital: Hospital, stop: ScheduleStopped, *, pushed: bool = True) -> int:
    """Stop what the HIS stopped; returns how many bookings were moved. Applying it twice moves none.

    `pushed` False is for a stop that every fetch lists anew: it is over when the list no longer has it.

    Raises SetAside for a stop that does not say what it hits: it must never hit everything.
    """
    named = {
        StopScope.SCHEDULE: stop.schedule_id,
        StopScope.SEGMENT: stop.schedule_id and stop.starts_at,
        StopScope.ORDER: stop.order_no,
    }
    if not named[stop.scope]:
        raise SetAside(f"a stop of one {stop.scope.value} that does not say which")
    released = stop.orders_cancelled or not hospital.stop_cancels_at_his
    if stop.scope == StopScope.ORDER:
        return await stop_bookings(tx, hospital, order_no=stop.order_no, released=released, reason=stop.reason)
    moved = 0
    for schedule_id in await _schedules(tx, stop):
        if stop.scope == StopScope.SCHEDULE:
            await stop_slots(tx, schedule_id, pushed=pushed)
            moved += await stop_bookings(tx, hospital, schedule_id=schedule_id, released=released, reason=stop.reason)
        elif stop.starts_at is not None:
            starts_at_ms = round(stop.starts_at.timestamp() * 1000)
            await stop_slots(tx, schedule_id, starts_at_ms=starts_at_ms, pushed=pushed)
            slot_ids = [
                r["id"]
                for r in await tx.all(
                    select(slots.c.id).where(
                        slots.c.hospital_id == tx.hospital_id,
                        slots.c.schedule_id == schedule_id,
                        slots.c.starts_at_ms == starts_at_ms,
                    )
                )
            ]
            moved += await stop_bookings(tx, hospital, slot_ids=slot_ids, released=released, reason=stop.reason)
    return moved


async def stop_known_schedules(tx: Tx, hospital: Hospital, schedule_ids: list[str]) -> int:
    """Carry stops that a fetch has shown to the bookings of these schedules (our ids)."""
    moved = 0
    for schedule_id in schedule_ids:
        moved += await stop_bookings(
            tx, hospital, schedule_id=schedule_id, released=not hospital.stop_cancels_at_his, reason="schedule_stopped"
        )
    return moved


async def stop_known_slots(tx: Tx, hospital: Hospital, slot_ids: list[str]) -> int:
    """Carry stops that a fetch has shown to the bookings of these slots."""
    if not slot_ids:
        return 0
    released = not hospital.stop_cancels_at_his
    return await stop_bookings(tx, hospital, slot_ids=slot_ids, released=released, reason="schedule_stopped")


async def _schedules(tx: Tx, stop: ScheduleStopped) -> list[str]:
    query = select(schedules.c.id).where(
        schedules.c.hospital_id == tx.hospital_id, schedules.c.his_id == stop.schedule_id
    )
    if stop.date is not None:
        query = query.where(schedules.c.date == stop.date.isoformat())
    if stop.session is not None:
        query = query.where(schedules.c.session == stop.session.value)
    return [r["id"] for r in await tx.all(query)]
