"""What readers are told: the days of departments that look different now, and nothing when nothing does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import select

from booking.fetches import put_departments, put_practitioners, put_schedules, reopen
from booking.settings import Hospital
from booking.stops import apply_stop
from booking.store.engine import Store, changes_topic
from booking.store.tables import fragments
from mappings.canonical import Department, Practitioner, ScheduleStatus, ScheduleStopped, StopScope
from tests.booking.world import (
    DAY,
    FEE_FEN,
    HOSPITAL,
    LI,
    answer,
    booked,
    cancel,
    fetch,
    hold,
    locked,
    make_schedule,
    make_slot,
    pay,
    put_patient,
    put_slot,
    send,
    send_and_answer,
)
from tests.stores import Wall

TODAY = (DAY.isoformat(), "D1")
MASTER = ("", "")


async def seen(store: Store) -> dict[tuple[str, str], int]:
    """The write that changed each fragment last."""
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(fragments).where(fragments.c.hospital_id == HOSPITAL))
    return {(r["date"], r["department_id"]): r["changed"] for r in rows}


async def told_by(store: Store, work: Callable[[], Awaitable[object]]) -> set[tuple[str, str]]:
    """The fragments that this work has changed."""
    before = await seen(store)
    bell = store.bell.listen(changes_topic(HOSPITAL))
    await work()
    after = await seen(store)
    changed = {key for key, number in after.items() if before.get(key) != number}
    assert bell.done() == bool(changed)
    bell.cancel()
    return changed


async def put(store: Store, **changes: Any) -> None:
    async with store.write(HOSPITAL) as tx:
        await put_schedules(tx, [make_schedule(**changes)])


async def apply(store: Store, seats: int, wall: Wall, **changes: object) -> None:
    wall.turn(1)
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(seats, **changes))  # type: ignore[arg-type]


async def test_fetch_that_brings_nothing_new_tells_nobody(store: Store, wall: Wall) -> None:
    await put_slot(store, 5)
    assert await told_by(store, lambda: put(store)) == set()
    assert await told_by(store, lambda: apply(store, 5, wall)) == set()


@pytest.mark.parametrize(
    "changes",
    [{"fee_fen": FEE_FEN + 1}, {"practitioner_name": "李医生"}, {"status": ScheduleStatus.STOPPED}, {"quota": 3}],
)
async def test_day_is_told_when_its_schedule_looks_different(store: Store, changes: dict[str, object]) -> None:
    await put_slot(store, 5)
    assert await told_by(store, lambda: put(store, **changes)) == {TODAY}


async def test_both_days_are_told_when_a_schedule_moves_to_another_department(store: Store) -> None:
    await put_slot(store, 5)
    assert await told_by(store, lambda: put(store, department_id="D2")) == {TODAY, (DAY.isoformat(), "D2")}


async def test_nobody_is_told_when_only_what_is_not_shown_differs(store: Store) -> None:
    await put_slot(store, 5)
    assert await told_by(store, lambda: put(store, his_refs={"x": "1"}, location="三楼")) == set()


async def test_day_is_told_when_seats_or_times_differ(store: Store, wall: Wall) -> None:
    await put_slot(store, 5)
    assert await told_by(store, lambda: apply(store, 4, wall)) == {TODAY}
    assert await told_by(store, lambda: apply(store, 4, wall, status=ScheduleStatus.STOPPED)) == {TODAY}
    assert await told_by(store, lambda: apply(store, 4, wall, slot_id="2", hour=10)) == {TODAY}


async def test_day_is_not_told_when_the_his_has_only_noticed_our_own_booking(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    """(5, 1) becomes (4, 0): other figures, and as many seats on sale as before."""
    slot_id = await put_slot(store, 5)
    await locked(store, hospital, slot_id, await put_patient(store))
    wall.turn(60)
    assert await told_by(store, lambda: apply(store, 4, wall)) == set()


async def test_day_is_told_when_seats_are_taken_and_come_back(store: Store, hospital: Hospital, wall: Wall) -> None:
    slot_id, patient_id = await put_slot(store, 5), await put_patient(store)
    assert await told_by(store, lambda: hold(store, hospital, slot_id, patient_id)) == {TODAY}
    booking = await hold(store, hospital, slot_id, await put_patient(store, LI))
    # The lock, the money and the registration change nothing that others see.
    assert await told_by(store, lambda: send_and_answer(store, hospital, booking.id)) == set()
    assert await told_by(store, lambda: pay(store, hospital, booking.id)) == set()
    assert await told_by(store, lambda: send_and_answer(store, hospital, booking.id)) == set()
    await cancel(store, hospital, booking.id)
    await send(store, booking.id)
    assert await told_by(store, lambda: answer(store, hospital, booking.id)) == {TODAY}


async def test_day_is_told_once_when_a_stop_is_pushed_twice(store: Store, hospital: Hospital) -> None:
    await booked(store, hospital, await put_slot(store, 5), await put_patient(store))
    stop = ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1", date=DAY)

    async def push() -> None:
        async with store.write(HOSPITAL) as tx:
            await apply_stop(tx, hospital, stop)

    assert await told_by(store, push) == {TODAY}
    assert await told_by(store, push) == set()

    async def open_again() -> None:
        async with store.write(HOSPITAL) as tx:
            await reopen(tx, "S1")

    assert await told_by(store, open_again) == set()  # the next fetch says what is on sale
    assert await told_by(store, lambda: put(store)) == {TODAY}


async def test_master_data_is_told_when_it_differs(store: Store) -> None:
    async def departments(name: str, *, only_new: bool = False) -> None:
        async with store.write(HOSPITAL) as tx:
            await put_departments(tx, [Department(id="D1", name=name)], only_new=only_new)

    async def practitioners(title: str | None) -> None:
        async with store.write(HOSPITAL) as tx:
            await put_practitioners(tx, [Practitioner(id="P1", name="王医生", title=title)])

    assert await told_by(store, lambda: departments("内科")) == {MASTER}
    assert await told_by(store, lambda: departments("内科")) == set()
    assert await told_by(store, lambda: departments("外科", only_new=True)) == set()
    assert await told_by(store, lambda: departments("外科")) == {MASTER}
    assert await told_by(store, lambda: practitioners(None)) == {MASTER}
    assert await told_by(store, lambda: practitioners(None)) == set()
    assert await told_by(store, lambda: practitioners("主任医师")) == {MASTER}
