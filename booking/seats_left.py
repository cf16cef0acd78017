"""How many seats a release has left, for whoever watches it."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import case, func, select

from booking.store.engine import Store
from booking.store.tables import schedules, slots

COMING_MS = 12 * 3_600_000  # less than the day to the next release: at the opening, what is coming falls to nothing
FRESH_MS = 3_600_000


class SeatsLeft(msgspec.Struct, frozen=True):
    """Seats that may be sold, of visits that open within 12 hours (`coming`) or have opened within the last one (`fresh`)."""

    coming: int = 0
    fresh: int = 0


async def count_seats_left(store: Store, hospital_id: str) -> SeatsLeft:
    """One statement over the schedules of those openings, by ix_schedules_opens. Raises StoreUnavailable."""
    async with store.read(hospital_id) as tx:
        rows = await tx.all(_of_openings(hospital_id, tx.now_ms))
        coming = sum(_left(row) for row in rows if row["opens_at_ms"] > tx.now_ms)
        return SeatsLeft(coming, sum(map(_left, rows)) - coming)


def _of_openings(hospital_id: str, now_ms: int) -> Any:
    """Each schedule with what its own slots have left. A subquery of its own, so that no planner begins with the slots."""
    own = slots.c.his_left - slots.c.held_back - slots.c.unreflected
    left = (
        select(func.coalesce(func.sum(case((own > 0, own), else_=0)), 0))
        .where(
            slots.c.hospital_id == hospital_id,
            slots.c.schedule_id == schedules.c.id,
            slots.c.status == "open",
            slots.c.starts_at_ms > now_ms,
        )
        .correlate(schedules)
        .scalar_subquery()
    )
    quota = (schedules.c.quota - schedules.c.held_back).label("quota")
    return select(schedules.c.opens_at_ms, quota, schedules.c.taken, left.label("left")).where(
        schedules.c.hospital_id == hospital_id,
        schedules.c.opens_at_ms.is_not(None),
        schedules.c.opens_at_ms.between(now_ms - FRESH_MS, now_ms + COMING_MS),
        schedules.c.status == "open",
        schedules.c.waiting == 0,
    )


def _left(row: dict[str, Any]) -> int:
    """All slots of a schedule draw on its own counter as well, if it has one."""
    left = int(row["left"])
    return left if row["quota"] is None else max(0, min(left, row["quota"] - row["taken"]))
