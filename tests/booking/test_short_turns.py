"""Work on many bookings goes on over many short transactions, and a crash between two of them leaves nothing behind."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from booking import bookings as rules
from booking.bookings import expire_due, stop_bookings
from booking.fetches import stop_slots
from booking.gathering import booking_rows, gathered
from booking.moves import load_booking
from booking.settings import Hospital
from booking.stops import carry_known_stops, carry_left_stops, carry_stop
from booking.store.budget import Budget
from booking.store.engine import Store
from booking.store.tables import bookings, schedules, store_clock
from mappings.canonical import Patient, Registration, RegistrationStatus, ScheduleStopped, StopScope
from scheduler_sync.sweeps import expire_holds
from tests.booking.world import (
    DAY,
    FEE_FEN,
    HOSPITAL,
    booked,
    figures,
    get,
    hold,
    locked,
    make_schedule,
    owed,
    put_patient,
    put_slot,
    remaining,
    schedule_id_of,
)
from tests.stores import Wall

STOP = ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1", date=DAY)
SPENT = Budget(0)


async def people(store: Store, n: int) -> list[str]:
    return [await put_patient(store, Patient(name=f"张{i}", id_type="other", id_number=f"X{i}")) for i in range(n)]


async def writes(store: Store) -> int:
    async with store.read() as tx:
        row = await tx.first(select(store_clock.c.writes).where(store_clock.c.hospital_id == HOSPITAL))
    return 0 if row is None else int(row["writes"])


async def states(store: Store) -> list[str]:
    async with store.read(HOSPITAL) as tx:
        return sorted(r["state"] for r in await tx.all(select(bookings.c.state)))


async def test_one_booking_is_moved_in_each_turn_when_there_is_no_time_for_more(
    store: Store, hospital: Hospital
) -> None:
    slot_id = await put_slot(store, 5)
    for patient_id in await people(store, 3):
        await booked(store, hospital, slot_id, patient_id)
    of = schedule_id_of(make_schedule())
    for left in (2, 1, 0):
        async with store.write(HOSPITAL) as tx:
            moved = await stop_bookings(tx, hospital, schedule_id=of, released=False, reason=None, budget=SPENT)
        assert moved == 1
        assert await states(store) == ["booked"] * left + ["stopped"] * (3 - left)


async def test_every_booking_is_stopped_when_they_are_more_than_one_turn_takes(
    store: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("booking.bookings.MOST_IN_A_TURN", 2)
    monkeypatch.setattr("booking.stops.MOST_IN_A_TURN", 2)
    slot_id = await put_slot(store, 9)
    for patient_id in await people(store, 5):
        await locked(store, hospital, slot_id, patient_id)
    before = await writes(store)
    assert await carry_stop(store, hospital, STOP) == 5
    assert await writes(store) - before >= 3
    assert await states(store) == ["stopped"] * 5
    assert await carry_stop(store, hospital, STOP) == 0


async def test_nobody_can_book_when_a_stop_has_only_begun(store: Store, hospital: Hospital) -> None:
    """The first of its transactions takes the seats off the market."""
    slot_id = await put_slot(store, 9)
    ids = await people(store, 2)
    await locked(store, hospital, slot_id, ids[0])
    async with store.write(HOSPITAL) as tx:
        await stop_slots(tx, schedule_id_of(make_schedule()))
    with pytest.raises(Exception, match="schedule_stopped"):
        await hold(store, hospital, slot_id, ids[1])


@pytest.mark.parametrize("of", ["schedule", "segment"])
async def test_rest_of_a_stop_is_carried_out_when_a_crash_cut_it_off(store: Store, hospital: Hospital, of: str) -> None:
    slot_id = await put_slot(store, 5)
    booking_id = await booked(store, hospital, slot_id, await put_patient(store))
    other = await booked(
        store, hospital, await put_slot(store, 5, schedule=make_schedule("S2")), await put_patient(store)
    )
    async with store.write(HOSPITAL) as tx:
        slot_ids = None if of == "schedule" else [slot_id]
        await stop_slots(tx, schedule_id_of(make_schedule()), slot_ids=slot_ids)
    assert await carry_left_stops(store, hospital) == 1
    assert (await get(store, booking_id)).state == "stopped"
    assert (await get(store, other)).state == "booked"
    assert await carry_left_stops(store, hospital) == 0


async def test_patient_at_the_desk_is_told_and_paid_back_when_the_session_stops(
    store: Store, hospital: Hospital
) -> None:
    booking_id = await booked(store, hospital, await put_slot(store, 5), await put_patient(store))
    async with store.write(HOSPITAL) as tx:
        booking = await load_booking(tx, booking_id)
        assert booking is not None
        told = Registration(status=RegistrationStatus.CHECKED_IN, order_no=booking.order_no)
        await rules.hear_registration(tx, hospital, booking, told)
    assert (await get(store, booking_id)).state == "checked_in"
    assert await carry_known_stops(store, hospital, schedule_ids=[schedule_id_of(make_schedule())]) == 1
    seen = await get(store, booking_id)
    assert (seen.state, seen.his_command, seen.payment_state) == ("stopped", "cancel", "refund_due")
    assert await owed(store, booking_id) == [("refund_due", FEE_FEN, "schedule_stopped")]


async def test_all_holds_expire_in_one_sweep_when_a_crowd_did_not_pay(
    store: Store, hospital: Hospital, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("booking.bookings.MOST_IN_A_TURN", 3)
    slot_id = await put_slot(store, 20)
    for patient_id in await people(store, 10):
        await hold(store, hospital, slot_id, patient_id)
    wall.turn(hospital.lock_wait_s)
    assert await expire_holds(store, hospital) == 10
    assert await states(store) == ["expired"] * 10
    assert await figures(store, slot_id) == (20, 0)
    async with store.read(HOSPITAL) as tx:
        row = await tx.first(select(schedules.c.taken))
    assert row == {"taken": 0}


async def test_one_hold_expires_in_each_turn_when_there_is_no_time_for_more(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    slot_id = await put_slot(store, 5)
    for patient_id in await people(store, 3):
        await hold(store, hospital, slot_id, patient_id)
    wall.turn(hospital.lock_wait_s)
    async with store.write(HOSPITAL) as tx:
        assert await expire_due(tx, hospital, budget=SPENT) == 1
    assert await remaining(store, slot_id) == 3


async def test_others_expire_when_one_booking_cannot_be_read(store: Store, hospital: Hospital, wall: Wall) -> None:
    slot_id = await put_slot(store, 5)
    first, second = [await hold(store, hospital, slot_id, p) for p in await people(store, 2)]
    async with store.write(HOSPITAL) as tx:
        await tx.run(update(bookings).where(bookings.c.id == first.id).values(sealed_his_refs=b"\x01\x02k9rubbish"))
    wall.turn(hospital.lock_wait_s)
    assert await expire_holds(store, hospital) == 1
    assert (await get(store, second.id)).state == "expired"


async def test_nothing_of_a_gathering_is_kept_when_it_fails_half_way(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store, 5)
    held = [await hold(store, hospital, slot_id, p) for p in await people(store, 2)]

    async def fail() -> None:
        async with store.write(HOSPITAL) as tx, gathered(tx, await booking_rows(tx, [b.id for b in held])) as them:
            for booking in them.bookings.values():
                await rules.cancel_booking(them, hospital, booking, "patient")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        await fail()
    assert await states(store) == ["held", "held"]
    assert await figures(store, slot_id) == (5, 2)
