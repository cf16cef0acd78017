"""What is long over goes day by day, and every day is come to."""

from __future__ import annotations

import asyncio
import datetime as dt

from sqlalchemy import select, text

from booking.retention import KEEP_CATALOGUE_DAYS, oldest_day
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import fragments, schedules, slots
from scheduler_sync.sweeps import Forgetting
from tests.booking.world import DAY, HOSPITAL, booked, make_schedule, put_patient, put_slot
from tests.stores import Wall

ONE, QUARTER = dt.timedelta(days=1), dt.timedelta(minutes=15)
DAYS = [DAY + n * ONE for n in (0, 1, 4, 5)]


async def put_days(store: Store, hospital: Hospital) -> list[str]:
    """A slot on each day; on all but the second a second one that is booked, and stays. Returns those."""
    kept = []
    patient_id = await put_patient(store)
    for n, day in enumerate(DAYS):
        starts_at = dt.datetime.combine(day, dt.time(9), hospital.zone)
        schedule = make_schedule(f"S{n}", date=day)
        await put_slot(
            store, schedule=schedule, slot_id="1", date=day, starts_at=starts_at, ends_at=starts_at + QUARTER
        )
        if n != 1:
            later = starts_at + dt.timedelta(hours=1)
            slot_id = await put_slot(
                store, schedule=schedule, slot_id="2", date=day, starts_at=later, ends_at=later + QUARTER
            )
            await booked(store, hospital, slot_id, patient_id)
            kept.append(slot_id)
    return kept


async def test_every_old_day_is_swept_and_no_other(
    store: Store, messages: Store, hospital: Hospital, wall: Wall
) -> None:
    kept = await put_days(store, hospital)
    wall.turn((4 + KEEP_CATALOGUE_DAYS) * 24 * 3600)  # today is one on which the first three are over
    forgetting = Forgetting(store, messages, [hospital], asyncio.Event(), keep_messages_days=180)
    await forgetting.forget_old()
    async with store.read(HOSPITAL) as tx:
        now = dt.datetime.fromtimestamp(tx.now_ms / 1000, hospital.zone).date()
        left = {(r["date"], r["id"] in kept) for r in await tx.all(select(slots))}
        days = {r["date"] for r in await tx.all(select(schedules.c.date))}
        shown = {r["date"] for r in await tx.all(select(fragments.c.date))} - {""}
    over = [day for day in DAYS if day < now - KEEP_CATALOGUE_DAYS * ONE]
    assert 2 <= len(over) < len(DAYS)
    assert left == {(d.isoformat(), True) for d in DAYS if d != DAYS[1]} | {
        (d.isoformat(), False) for d in DAYS if d not in over
    }
    assert days == shown == {d.isoformat() for d in DAYS if d != DAYS[1] or d not in over}


async def test_oldest_day_is_that_of_a_slot_a_schedule_or_what_readers_keep(store: Store, hospital: Hospital) -> None:
    await put_days(store, hospital)
    end = DAYS[-1] + ONE
    assert await oldest_day(store, HOSPITAL, before=end) == DAYS[0]
    assert await oldest_day(store, HOSPITAL, since=DAYS[0] + ONE, before=end) == DAYS[1]
    assert await oldest_day(store, HOSPITAL, since=DAYS[1] + ONE, before=end) == DAYS[2]
    assert await oldest_day(store, HOSPITAL, before=DAYS[0]) is None
    assert await oldest_day(store, "another", before=end) is None
    async with store.write(HOSPITAL) as tx:
        await tx.run(text("delete from slots where date = :d").bindparams(d=DAYS[1].isoformat()))
    assert await oldest_day(store, HOSPITAL, since=DAYS[0] + ONE, before=end) == DAYS[1]
    async with store.write(HOSPITAL) as tx:
        await tx.run(text("delete from schedules where date = :d").bindparams(d=DAYS[1].isoformat()))
    assert await oldest_day(store, HOSPITAL, since=DAYS[0] + ONE, before=end) == DAYS[1]
    async with store.write(HOSPITAL) as tx:
        await tx.run(text("delete from fragments where date = :d").bindparams(d=DAYS[1].isoformat()))
    assert await oldest_day(store, HOSPITAL, since=DAYS[0] + ONE, before=end) == DAYS[2]
