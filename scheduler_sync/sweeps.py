"""What the clock does: expiring holds, numbering events, measuring, and forgetting what is past its keep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from booking.bookings import any_due, expire_due
from booking.idempotency import forget_keys
from booking.news import forget_events, number_events
from booking.settings import Hospital
from booking.store.engine import Store, StoreUnavailable
from monitoring.logs import get_logger

log = get_logger("sweeps")

EXPIRE_EVERY_S = 0.5
NUMBER_EVERY_S = 0.1
MEASURE_EVERY_S = 5.0
FORGET_EVERY_S = 600.0


async def repeat(
    stopping: asyncio.Event, every_s: float, work: Callable[[], Awaitable[object]], *, name: str, hospital_id: str = ""
) -> None:
    """Do `work` every so often until `stopping`. A store that is away is logged and tried again."""
    while not stopping.is_set():
        try:
            await work()
        except StoreUnavailable as e:
            log.error("store_unavailable", sweep=name, hospital=hospital_id, reason=str(e))
        try:
            async with asyncio.timeout(every_s):
                await stopping.wait()
        except TimeoutError:
            continue


async def expire_holds(store: Store, hospital: Hospital) -> int:
    """Expire what is due at one hospital, in small transactions."""
    total = 0
    async with store.read(hospital.id) as tx:
        due = await any_due(tx)
    while due:
        async with store.write(hospital.id) as tx:
            expired = await expire_due(tx, hospital)
        total += expired
        due = expired > 0
    return total


async def forget_old(store: Store, hospitals: Sequence[Hospital]) -> None:
    """Delete what is past its keep, a few rows at a time."""
    await forget_events(store)
    for hospital in hospitals:
        await forget_keys(store, hospital.id)


def sweeps(store: Store, hospitals: Sequence[Hospital], stopping: asyncio.Event) -> list[Awaitable[None]]:
    """All clock-driven work of one process."""
    work: list[Awaitable[None]] = [
        repeat(stopping, NUMBER_EVERY_S, lambda: number_events(store), name="number_events"),
        repeat(stopping, FORGET_EVERY_S, lambda: forget_old(store, hospitals), name="forget"),
    ]
    for h in hospitals:
        work.append(
            repeat(
                stopping,
                EXPIRE_EVERY_S,
                lambda h=h: expire_holds(store, h),  # type: ignore[misc]
                name="expire",
                hospital_id=h.id,
            )
        )
    return work
