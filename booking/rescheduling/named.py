"""Which of our schedules and slots a HIS's word is about."""

from __future__ import annotations

import datetime as dt
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


async def segments_meant(tx: Tx, schedule_id: str, stop: ScheduleStopped) -> dict[str, int]:
    """Of the slots of a schedule those that a stop or a move of segments names: our ids, and when each begins (ms)."""
    rows = await tx.all(
        select(slots.c.id, slots.c.starts_at_ms)
        .where(slots.c.hospital_id == tx.hospital_id, slots.c.schedule_id == schedule_id)
        .order_by(slots.c.starts_at_ms, slots.c.id)
    )
    return {row["id"]: row["starts_at_ms"] for row in rows if stop.hits_start(instant_of(row["starts_at_ms"]))}


def instant_of(at_ms: int) -> dt.datetime:
    """The instant of so many milliseconds of the epoch."""
    return dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC)


async def his_schedules(tx: Tx, his_ids: Sequence[str], date: str | None = None) -> list[str]:
    """Our ids of the schedules of these ids of the HIS's, on one day or on all."""
    query = select(schedules.c.id).where(schedules.c.hospital_id == tx.hospital_id, schedules.c.his_id.in_(his_ids))
    if date is not None:
        query = query.where(schedules.c.date == date)
    return [r["id"] for r in await tx.all(query)]
