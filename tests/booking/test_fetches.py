"""Applying what a HIS says of its schedules and seats: recounts, older fetches, stops, and what is never deleted."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import select

from booking.catalog import (
    list_departments,
    list_practitioners,
    list_slots,
    load_slot,
    slot_key,
    slot_status,
)
from booking.fetches import put_departments, put_practitioners, put_schedules
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import schedules
from mappings.canonical import Department, Practitioner, ScheduleStatus
from tests.booking.world import (
    DAY,
    HOSPITAL,
    LI,
    WANG,
    ZHANG,
    ZONE,
    answer,
    cancel,
    fetch,
    figures,
    get,
    hold,
    locked,
    make_hospital,
    make_schedule,
    make_slot,
    put_patient,
    put_slot,
    remaining,
    schedule_id_of,
    send,
    send_and_answer,
)
from tests.stores import BEGIN_MS, Wall


async def test_figures_are_the_his_own_when_a_slot_is_new(store: Store) -> None:
    assert await figures(store, await put_slot(store, 7)) == (7, 0)


async def test_bookings_are_recounted_when_a_fetch_is_applied(store: Store, hospital: Hospital, wall: Wall) -> None:
    """One confirmed before the fetch began is in the HIS's figure; one under way and one unsent are not."""
    slot_id = await put_slot(store, 10)
    confirmed = await locked(store, hospital, slot_id, await put_patient(store, ZHANG))
    flying = await hold(store, hospital, slot_id, await put_patient(store, LI))
    await send(store, flying.id)
    unsent = await hold(store, hospital, slot_id, await put_patient(store, WANG))
    assert await figures(store, slot_id) == (10, 3)
    wall.turn(1)
    async with store.write(HOSPITAL) as tx:
        assert await fetch(tx, make_slot(9)) == 1
    assert await figures(store, slot_id) == (9, 2)
    assert [(await get(store, i)).charged for i in (confirmed, flying.id, unsent.id)] == [False, True, True]


async def test_booking_counts_twice_rather_than_not_when_its_reply_and_the_fetch_share_a_millisecond(
    store: Store, hospital: Hospital
) -> None:
    slot_id = await put_slot(store, 10)
    await locked(store, hospital, slot_id, await put_patient(store))
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(9))
    assert await figures(store, slot_id) == (9, 1)


async def test_booking_stays_charged_when_the_his_counts_from_a_cache(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    slot_id = await put_slot(store, 10)
    await locked(store, hospital, slot_id, await put_patient(store))
    wall.turn(5)
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(10), his_cache_ms=5_000)
    assert await figures(store, slot_id) == (10, 1)
    wall.turn(0.001)
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(9), his_cache_ms=5_000)
    assert await figures(store, slot_id) == (9, 0)


async def test_older_fetch_is_dropped_when_a_later_one_was_applied(store: Store, wall: Wall) -> None:
    slot_id = await put_slot(store, 10)
    wall.turn(10)
    async with store.write(HOSPITAL) as tx:
        assert await fetch(tx, make_slot(4), started_ms=BEGIN_MS + 9_000) == 1
        assert await fetch(tx, make_slot(8), started_ms=BEGIN_MS + 8_999) == 0
    assert await figures(store, slot_id) == (4, 0)


async def test_more_of_ours_than_the_his_has_left_is_no_error_when_a_fetch_says_so(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    slot_id = await put_slot(store, 3)
    for person in (ZHANG, LI, WANG):
        await hold(store, hospital, slot_id, await put_patient(store, person))
    wall.turn(1)
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(1))
    assert await figures(store, slot_id) == (1, 3)
    assert await remaining(store, slot_id) == 0


async def test_unlocked_seat_is_not_counted_twice_when_a_fetch_lies_between(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    slot_id = await put_slot(store, 1)
    wall.turn(1)
    booking_id = await locked(store, hospital, slot_id, await put_patient(store))
    wall.turn(1)
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(0))
    await cancel(store, hospital, booking_id)
    wall.turn(1)
    await send(store, booking_id)
    wall.turn(1)
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(1))  # it sees the seat free already
    asked = store.bell.listen(f"fetch:{HOSPITAL}")
    wall.turn(1)
    await answer(store, hospital, booking_id)
    assert await figures(store, slot_id) == (1, 0)
    assert asked.done()  # only the next fetch can tell


async def test_unlocked_seat_comes_back_at_once_when_it_left_after_the_fetch(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    slot_id = await put_slot(store, 1)
    wall.turn(1)
    booking_id = await locked(store, hospital, slot_id, await put_patient(store))
    wall.turn(1)
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(0))
    await cancel(store, hospital, booking_id)
    wall.turn(1)
    await send(store, booking_id)
    await answer(store, hospital, booking_id)
    assert await figures(store, slot_id) == (1, 0)


async def test_slot_keeps_its_id_and_figures_when_fetches_come_and_go(store: Store, wall: Wall) -> None:
    one = await put_slot(store, 5, slot_id="1")
    two = await put_slot(store, 6, slot_id="2", hour=9)
    wall.turn(1)
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(4, slot_id="1"))  # does not name the other
        await fetch(tx)
    assert await figures(store, one) == (4, 0)
    assert await figures(store, two) == (6, 0)
    assert slot_key(HOSPITAL, make_slot(9, slot_id="1")) == one
    assert slot_key("h2", make_slot(9, slot_id="1")) != one


async def test_stop_is_told_once_when_a_schedule_turns_from_open_to_stopped(store: Store) -> None:
    stopped = make_schedule(status=ScheduleStatus.STOPPED)
    async with store.write(HOSPITAL) as tx:
        assert await put_schedules(tx, [make_schedule()]) == []
        assert await put_schedules(tx, [stopped]) == [schedule_id_of(stopped)]
        assert await put_schedules(tx, [stopped]) == []
        assert await put_schedules(tx, [make_schedule("S9", status=ScheduleStatus.STOPPED)]) == []
        assert await put_schedules(tx, [make_schedule()]) == []
        assert [r["status"] for r in await tx.all(select(schedules).where(schedules.c.his_id == "S1"))] == ["open"]


async def test_slots_are_listed_by_day_and_start_when_asked_for(store: Store) -> None:
    late = await put_slot(store, slot_id="2", hour=10)
    early = await put_slot(store, slot_id="1", hour=8)
    other = await put_slot(store, schedule=make_schedule("S2", department_id="D2", practitioner_id=None), hour=9)
    async with store.read(HOSPITAL) as tx:

        async def ids(**kw: object) -> list[str]:
            rows = await list_slots(tx, date_from=DAY, date_to=DAY, **kw)  # type: ignore[arg-type]
            return [r["id"] for r in rows]

        assert await ids() == [early, other, late]
        assert await ids(limit=1) == [early]
        first = (await list_slots(tx, date_from=DAY, date_to=DAY, limit=1))[0]
        assert await ids(after=(first["starts_at_ms"], first["id"])) == [other, late]
        assert await ids(department_id="D2") == [other]
        assert await ids(practitioner_id="P1") == [early, late]
        tomorrow = DAY + dt.timedelta(days=1)
        assert await list_slots(tx, date_from=tomorrow, date_to=tomorrow) == []


async def test_status_follows_the_clock_when_a_slot_opens_sells_and_begins(store: Store) -> None:
    opens = dt.datetime(2031, 3, 3, 7, tzinfo=ZONE)
    slot_id = await put_slot(store, 1, schedule=make_schedule(opens_at=opens))
    async with store.read(HOSPITAL) as tx:
        row = (await list_slots(tx, date_from=DAY, date_to=DAY))[0]
    assert row["id"] == slot_id
    opens_ms = round(opens.timestamp() * 1000)
    assert slot_status(row, opens_ms - 1) == "not_released"
    assert slot_status(row, opens_ms) == "open"
    assert slot_status(row, row["starts_at_ms"] - 1) == "open"
    assert slot_status(row, row["starts_at_ms"]) == "stopped"
    assert slot_status(row | {"unreflected": 1}, opens_ms) == "sold_out"
    assert slot_status(row | {"schedule_status": "stopped"}, opens_ms) == "stopped"
    assert slot_status(row | {"status": "stopped"}, opens_ms - 1) == "stopped"


async def test_his_own_keys_come_back_when_a_command_needs_them(store: Store) -> None:
    schedule = make_schedule(his_refs={"code": "100||7"})
    slot_id = await put_slot(store, 4, schedule=schedule, his_refs={"range": "R1"})
    async with store.read(HOSPITAL) as tx:
        found, slot = await load_slot(tx, slot_id, ZONE)
    assert found == schedule
    assert slot == make_slot(4, his_refs={"range": "R1"})


async def test_master_data_stays_when_a_fetch_does_not_name_it(store: Store) -> None:
    async with store.write(HOSPITAL) as tx:
        await put_departments(tx, [Department(id="D1", name="内科"), Department(id="D2", name="外科")])
        await put_departments(tx, [Department(id="D1", name="内一科", campus="东院")])
        await put_departments(tx, [Department(id="D2", name="?"), Department(id="D3", name="儿科")], only_new=True)
        await put_practitioners(tx, [Practitioner(id="P1", name="王医生", department_id="D1")])
        await put_practitioners(tx, [])
        assert [(d["id"], d["name"], d["campus"]) for d in await list_departments(tx)] == [
            ("D1", "内一科", "东院"), ("D2", "外科", None), ("D3", "儿科", None),
        ]  # fmt: skip
        assert [p["name"] for p in await list_practitioners(tx, "D1")] == ["王医生"]
        assert await list_practitioners(tx, "D2") == []


@pytest.mark.parametrize(
    ("after_s", "seats"), [(30, (1, 0)), (60, (0, 0))], ids=["within its time", "when it may be over"]
)
async def test_release_gives_a_seat_back_only_while_the_lock_cannot_have_lapsed(
    store: Store, wall: Wall, after_s: float, seats: tuple[int, int]
) -> None:
    """A HIS that says a plain "yes" to the release of a lapsed lock may have sold that seat already: a fetch will tell."""
    hospital = make_hospital(his_lock_s=60)
    slot_id = await put_slot(store, 1)
    booking_id = await locked(store, hospital, slot_id, await put_patient(store))
    wall.turn(1)
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(0))
    assert await figures(store, slot_id) == (0, 0)
    wall.turn(after_s)
    await cancel(store, hospital, booking_id)
    await send_and_answer(store, hospital, booking_id)
    assert await figures(store, slot_id) == seats
