"""Which of our schedules and slots a HIS's word is about."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from booking.store.engine import Tx
from booking.store.tables import schedules, slots
from mappings.canonical import ScheduleStopped


async def schedules_meant(tx: Tx, stop: ScheduleStopped) -> list[str]:
    """Our ids of the schedules that a stop or a move names."""
    query = select(schedules.c.id).where(
        schedules.c.hospital_id == tx.hospital_id, schedules.c.his_id == stop.schedule_id
    )
    if stop.date is not None:
        query = query.where(schedules.c.date == stop.date.isoformat())
    if stop.session is not None:
        query = query.where(schedules.c.session == stop.session.value)
    return [r["id"] for r in await tx.all(query)]


async def segments_meant(tx: Tx, schedule_id: str, starts_at_ms: int) -> list[str]:
    """Our ids of the slots of a schedule that begin then."""
    rows = await tx.all(
        select(slots.c.id).where(
            slots.c.hospital_id == tx.hospital_id,
            slots.c.schedule_id == schedule_id,
            slots.c.starts_at_ms == starts_at_ms,
        )
    )
    return [r["id"] for r in rows]


async def his_schedules(tx: Tx, his_ids: Sequence[str], date: str | None = None) -> list[str]:
    """Our ids of the schedules of these ids of the HIS's, on one day or on all."""
    query = select(schedules.c.id).where(schedules.c.hospital_id == tx.hospital_id, schedules.c.his_id.in_(his_ids))
    if date is not None:
        query = query.where(schedules.c.date == date)
    return [r["id"] for r in await tx.all(query)]
