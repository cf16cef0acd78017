"""Seats that come back are sold again when a time drawn by chance has passed; the figures of the seat rule know nothing of it."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking import returned_seats as back
from booking.bookings import expire_due
from booking.catalog import list_slots, remaining_of
from booking.errors import Refusal
from booking.named import slots_named
from booking.rules.settings import BookingRules, ReturnedSeats
from booking.seats_left import count_seats_left
from booking.settings import Hospital, ReserveBy
from booking.snapshots.reading import DayKey, read_days
from booking.store.engine import Store
from booking.store.tables import returned_seats, schedules, slots
from mappings.canonical import Patient
from scheduler_sync.sweeps import return_seats
from tests.booking.world import (
    DAY,
    HOSPITAL,
    LI,
    cancel,
    fetch,
    figures,
    get,
    hold,
    locked,
    make_hospital,
    make_schedule,
    make_slot,
    pay,
    put_patient,
    put_slot,
    send_and_answer,
)
from tests.stores import Wall

HOUR = 3_600


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance draws a quarter: of one to two hours 4,500 s."""
    monkeypatch.setattr(back, "draw", lambda: 0.25)


def holding_back(**changes: Any) -> Hospital:
    rules = msgspec.convert({"returned_seats": {"least_s": HOUR, "most_s": 2 * HOUR}}, BookingRules)
    return make_hospital(rules=rules, **changes)


async def shown(store: Store, slot_id: str) -> set[int]:
    """What is left of a slot, by every way of reading it."""
    async with store.read(HOSPITAL) as tx:
        listed = [row for row in await list_slots(tx, date_from=DAY, date_to=DAY) if row["id"] == slot_id]
        named = (await slots_named(tx, [slot_id]))[slot_id]
    days = await read_days(store, HOSPITAL, [DayKey(HOSPITAL, DAY.isoformat(), "D1")])
    read = [row for rows in days.values() for row in rows if row["id"] == slot_id]
    return {remaining_of(row) for row in (*listed, named, *read)}


async def waiting(store: Store) -> tuple[int, int, int]:
    """Rows of seats that wait, and what slots and schedules count of them."""
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(returned_seats.c.booking_id))
        of_slots = await tx.all(select(slots.c.held_back))
        of_schedules = await tx.all(select(schedules.c.held_back))
    return len(rows), sum(r["held_back"] for r in of_slots), sum(r["held_back"] for r in of_schedules)


@pytest.mark.parametrize(("drawn_by_chance", "after_ms"), [(0.0, 3_600_000), (0.5, 5_400_000), (1.0, 7_200_000)])
def test_time_lies_between_the_two_when_it_is_drawn(drawn_by_chance: float, after_ms: int) -> None:
    assert back.back_after_ms(ReturnedSeats(least_s=HOUR, most_s=2 * HOUR), drawn_by_chance) == after_ms


@pytest.mark.parametrize("reserve_by", [ReserveBy.LOCK, ReserveBy.QUOTA])
async def test_cancelled_seat_is_not_sold_until_its_time_when_the_hospital_holds_back(
    store: Store, wall: Wall, reserve_by: ReserveBy
) -> None:
    hospital = holding_back(reserve_by=reserve_by)
    slot_id = await put_slot(store, 1)
    held = await hold(store, hospital, slot_id, await put_patient(store))
    await cancel(store, hospital, held.id)
    assert await figures(store, slot_id) == (1, 0)
    assert await shown(store, slot_id) == {0}
    assert await waiting(store) == (1, 1, 1)
    li = await put_patient(store, LI)
    wall.turn(4_499.999)
    assert await return_seats(store, hospital) == 0
    with pytest.raises(Refusal, match="slot_sold_out") as raised:
        await hold(store, hospital, slot_id, li)
    assert raised.value.extra == {}
    wall.turn(0.001)
    assert await return_seats(store, hospital) == 1
    assert await shown(store, slot_id) == {1}
    assert await waiting(store) == (0, 0, 0)
    assert (await hold(store, hospital, slot_id, li)).state == "held"


async def test_expired_and_unlocked_seat_waits_and_a_fetch_changes_nothing(store: Store, wall: Wall) -> None:
    hospital = holding_back()
    slot_id = await put_slot(store, 1)
    booking_id = await locked(store, hospital, slot_id, await put_patient(store))
    wall.turn(hospital.pay_window_s)
    async with store.write(HOSPITAL) as tx:
        assert await expire_due(tx, hospital) == 1
    assert await waiting(store) == (0, 0, 0)  # the HIS has not given it back yet
    await send_and_answer(store, hospital, booking_id)
    assert await shown(store, slot_id) == {0}
    wall.turn(60)
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(1))
    assert await figures(store, slot_id) == (1, 0)
    assert await shown(store, slot_id) == {0}
    wall.turn(4_500)
    assert await return_seats(store, hospital) == 1
    assert await shown(store, slot_id) == {1}


async def test_other_seats_of_a_session_wait_as_well_when_its_quota_is_what_is_scarce(store: Store) -> None:
    hospital = holding_back()
    first = await put_slot(store, 3, slot_id="1")
    second = await put_slot(store, 3, slot_id="2", hour=9)
    async with store.write(HOSPITAL) as tx:
        await tx.run(schedules.update().where(schedules.c.hospital_id == HOSPITAL).values(quota=1))
    held = await hold(store, hospital, first, await put_patient(store))
    await cancel(store, hospital, held.id)
    assert (await shown(store, first), await shown(store, second)) == ({0}, {0})
    with pytest.raises(Refusal, match="slot_sold_out"):
        await hold(store, hospital, second, await put_patient(store, LI))


async def test_late_money_buys_its_own_seat_when_that_is_the_one_that_waits(store: Store, wall: Wall) -> None:
    hospital = holding_back()
    slot_id = await put_slot(store, 1)
    booking_id = await locked(store, hospital, slot_id, await put_patient(store))
    wall.turn(hospital.pay_window_s)
    async with store.write(HOSPITAL) as tx:
        await expire_due(tx, hospital)
    await send_and_answer(store, hospital, booking_id)
    assert await waiting(store) == (1, 1, 1)
    assert (await pay(store, hospital, booking_id)).kept
    assert (await get(store, booking_id)).state == "held"
    assert await waiting(store) == (0, 0, 0)
    assert await shown(store, slot_id) == {0}


async def test_seat_is_free_at_once_when_the_hospital_does_not_hold_back(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store, 1)
    held = await hold(store, hospital, slot_id, await put_patient(store))
    await cancel(store, hospital, held.id)
    assert await shown(store, slot_id) == {1}
    assert await waiting(store) == (0, 0, 0)


async def test_watchers_count_no_seat_that_waits(store: Store) -> None:
    hospital = holding_back()
    async with store.read(HOSPITAL) as tx:
        opened = tx.now_ms - 1_000
    slot_id = await put_slot(store, 2, schedule=make_schedule())
    async with store.write(HOSPITAL) as tx:
        await tx.run(schedules.update().where(schedules.c.hospital_id == HOSPITAL).values(opens_at_ms=opened))
    assert (await count_seats_left(store, HOSPITAL)).fresh == 2
    held = await hold(store, hospital, slot_id, await put_patient(store))
    await cancel(store, hospital, held.id)
    assert (await count_seats_left(store, HOSPITAL)).fresh == 1


@pytest.mark.parametrize("seed", range(3))
async def test_counts_are_those_of_the_rows_and_the_figures_as_without_when_much_happens(
    store: Store, wall: Wall, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """What is held back only ever takes from what may be sold."""
    chance = random.Random(seed)
    monkeypatch.setattr(back, "draw", chance.random)
    hospital = holding_back(reserve_by=ReserveBy.QUOTA)
    slot_id = await put_slot(store, 4)
    live: list[str] = []
    for n in range(25):
        match chance.choice(("hold", "hold", "cancel", "expire", "sweep")):
            case "hold":
                who = Patient(name="张三", id_type="passport", id_number=f"E{seed}{n:07d}", phone="13800000000")
                patient_id = await put_patient(store, who)
                if await shown(store, slot_id) == {0}:
                    with pytest.raises(Refusal, match="slot_sold_out"):
                        await hold(store, hospital, slot_id, patient_id)
                else:
                    live.append((await hold(store, hospital, slot_id, patient_id)).id)
            case "cancel" if live:
                await cancel(store, hospital, live.pop(chance.randrange(len(live))))
            case "expire":
                wall.turn(hospital.pay_window_s)
                async with store.write(HOSPITAL) as tx:
                    await expire_due(tx, hospital)
                live.clear()
            case _:
                wall.turn(chance.randrange(2 * HOUR))
                async with store.write(HOSPITAL) as tx:
                    await expire_due(tx, hospital)
                live = [one for one in live if (await get(store, one)).state == "held"]
                await return_seats(store, hospital)
        rows, of_slots, of_schedules = await waiting(store)
        assert rows == of_slots == of_schedules
        assert await figures(store, slot_id) == (4, len(live))
        assert await shown(store, slot_id) == {max(0, 4 - len(live) - rows)}
