"""What a release has left, as the board shows it: of the visits that are about to open or have just opened."""

from __future__ import annotations

import datetime as dt

import pytest

from booking.fetches import put_schedules
from booking.seats_left import SeatsLeft, count_seats_left
from booking.settings import Hospital
from booking.store.engine import Store
from mappings.canonical import Schedule, ScheduleStatus
from monitoring import metrics
from scheduler_sync.sweeps import measure_seats
from tests.booking.world import DAY, HOSPITAL, ZONE, fetch, hold, make_schedule, make_slot, put_patient, put_slot
from tests.stores import Wall

# The clock begins at 06:00; `DAY` is the day after.
SEVEN = dt.datetime.combine(DAY - dt.timedelta(days=1), dt.time(7), ZONE)
HOUR_S = 3600


def opening(at: dt.datetime | None = SEVEN, schedule_id: str = "S1") -> Schedule:
    return make_schedule(schedule_id, opens_at=at)


async def put_slots(store: Store, schedule: Schedule, *seats: int, quota: int | None = None) -> None:
    """A schedule with a slot for each number of seats."""
    records = [make_slot(number, schedule_id=schedule.id, slot_id=f"{n}", hour=8 + n) for n, number in enumerate(seats)]
    async with store.write(HOSPITAL) as tx:
        await put_schedules(tx, [schedule], channel_quota=quota)
        await fetch(tx, *records)


async def test_seats_are_coming_before_the_opening_and_fresh_after_it(store: Store, wall: Wall) -> None:
    await put_slots(store, opening(), 5, 7)
    assert await count_seats_left(store, HOSPITAL) == SeatsLeft(coming=12)
    wall.turn(HOUR_S - 0.001)
    assert await count_seats_left(store, HOSPITAL) == SeatsLeft(coming=12)
    wall.turn(0.001)
    assert await count_seats_left(store, HOSPITAL) == SeatsLeft(fresh=12)
    wall.turn(HOUR_S)
    assert await count_seats_left(store, HOSPITAL) == SeatsLeft(fresh=12)
    wall.turn(0.001)
    assert await count_seats_left(store, HOSPITAL) == SeatsLeft()


async def test_next_days_opening_is_not_counted_when_todays_has_just_been(store: Store, wall: Wall) -> None:
    await put_slots(store, opening(), 5)
    await put_slots(store, opening(SEVEN + dt.timedelta(days=1), "S2"), 9)
    wall.turn(HOUR_S)
    assert await count_seats_left(store, HOSPITAL) == SeatsLeft(fresh=5)


async def test_a_seat_is_gone_when_it_is_held(store: Store, hospital: Hospital, wall: Wall) -> None:
    slot_id = await put_slot(store, 5, schedule=opening())
    wall.turn(HOUR_S)
    await hold(store, hospital, slot_id, await put_patient(store))
    assert await count_seats_left(store, HOSPITAL) == SeatsLeft(fresh=4)


async def test_a_slot_with_more_bookings_than_seats_takes_none_from_another(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store, 5, schedule=make_schedule())
    await hold(store, hospital, slot_id, await put_patient(store))
    async with store.write(HOSPITAL) as tx:
        # The HIS has none left and does not know of ours: 0 - 1, beside a slot with 3.
        await put_schedules(tx, [opening()])
        await fetch(tx, make_slot(0), make_slot(3, slot_id="2", hour=9))
    assert await count_seats_left(store, HOSPITAL) == SeatsLeft(coming=3)


async def test_quota_of_the_schedule_bounds_its_slots_together(store: Store) -> None:
    await put_slots(store, opening(), 5, 7, quota=8)
    await put_slots(store, opening(schedule_id="S2"), 2, quota=8)
    assert await count_seats_left(store, HOSPITAL) == SeatsLeft(coming=8 + 2)


@pytest.mark.parametrize(
    "schedule",
    [
        make_schedule(),  # open for ever
        make_schedule(opens_at=SEVEN, status=ScheduleStatus.STOPPED),
        make_schedule(opens_at=SEVEN + dt.timedelta(hours=12)),
    ],
    ids=["no opening", "stopped", "too far off"],
)
async def test_nothing_is_left_when_no_visit_opens(store: Store, schedule: Schedule) -> None:
    await put_slots(store, schedule, 5)
    assert await count_seats_left(store, HOSPITAL) == SeatsLeft()


async def test_gauge_tells_both_windows_until_another_process_works_the_hospital(store: Store, wall: Wall) -> None:
    def shown(window: str) -> float | None:
        return metrics.REGISTRY.get_sample_value("hisbridge_seats_left", {"hospital": HOSPITAL, "window": window})

    await put_slots(store, opening(), 5)
    await measure_seats(store, HOSPITAL)
    assert (shown("coming"), shown("fresh")) == (5, 0)
    wall.turn(HOUR_S)
    await measure_seats(store, HOSPITAL)
    assert (shown("coming"), shown("fresh")) == (0, 5)
    metrics.forget_hospital(HOSPITAL)
    assert (shown("coming"), shown("fresh")) == (None, None)
