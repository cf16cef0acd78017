"""Seats that are ours (`reserve_by = "quota"`), and schedules of which only a part may be sold here (`channel_quota`)."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from booking.bookings import expire_due, payable
from booking.catalog import list_slots, remaining_of, slot_status
from booking.errors import Refusal
from booking.fetches import apply_slots, put_schedules
from booking.lifecycle import Command, CommandStatus, HisState, State
from booking.openings import first_standing
from booking.settings import Hospital, ReserveBy
from booking.stops import apply_stop
from booking.store.engine import Store
from booking.store.tables import outbox, schedules
from mappings.canonical import ScheduleStopped, StopScope
from tests.booking.world import (
    DAY,
    FEE_FEN,
    HOSPITAL,
    LI,
    WANG,
    ZHANG,
    answer,
    cancel,
    commands,
    fetch,
    figures,
    get,
    hold,
    locked,
    make_hospital,
    make_schedule,
    make_slot,
    owed,
    pay,
    put_patient,
    put_slot,
    remaining,
    send,
    send_and_answer,
)
from tests.stores import BEGIN_MS, Wall


@pytest.fixture
def ours() -> Hospital:
    """A hospital that has given us its seats."""
    return make_hospital(reserve_by=ReserveBy.QUOTA)


async def apply_ours(store: Store, seats: int, wall: Wall) -> None:
    wall.turn(1)
    async with store.write(HOSPITAL) as tx:
        await apply_slots(tx, [make_slot(seats)], started_ms=tx.now_ms, ended_ms=tx.now_ms, his_cache_ms=0, ours=True)


# --- seats that are ours -----------------------------------------------------------------------------------------------


async def test_hold_can_be_paid_at_once_when_the_seats_are_ours(store: Store, ours: Hospital, wall: Wall) -> None:
    booking = await hold(store, ours, await put_slot(store, 2), await put_patient(store))
    seen = await get(store, booking.id)
    assert (seen.state, seen.his_state, seen.his_command) == ("held", "locked", "none")
    assert seen.pay_by_ms == seen.expires_at_ms == BEGIN_MS + 900_000
    assert payable(seen, wall.now_ms, kept=False)
    assert await commands(store, seen.line) == []


async def test_his_is_told_when_a_seat_of_ours_is_paid(store: Store, ours: Hospital) -> None:
    slot_id = await put_slot(store, 2)
    booking = await hold(store, ours, slot_id, await put_patient(store))
    await pay(store, ours, booking.id)
    assert await commands(store, booking.line) == [("register", "queued")]
    assert (await send_and_answer(store, ours, booking.id)).state == "booked"
    assert await figures(store, slot_id) == (2, 1)


async def test_registration_waits_for_the_persons_record_when_no_lock_did(store: Store, ours: Hospital) -> None:
    patient_id = await put_patient(store, asks_his=True)
    booking = await hold(store, ours, await put_slot(store, 2), patient_id)
    await pay(store, ours, booking.id)
    person_line = f"person:{(await get(store, booking.id)).person_id}"
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(outbox.c.verb, outbox.c.waits_for, outbox.c.rank).order_by(outbox.c.id))
    # Somebody has paid and waits: the person's record is asked for as early as a registration.
    assert [(r["verb"], r["waits_for"], r["rank"]) for r in rows] == [
        ("create_patient", None, 0), ("register", person_line, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["cancel", "expiry", "stop"])
async def test_seat_is_free_at_once_when_a_hold_of_ours_ends_unregistered(
    store: Store, ours: Hospital, wall: Wall, how: str
) -> None:
    slot_id = await put_slot(store, 1)
    booking = await hold(store, ours, slot_id, await put_patient(store))
    assert await remaining(store, slot_id) == 0
    wall.turn(900)
    if how == "cancel":
        await cancel(store, ours, booking.id)
    async with store.write(HOSPITAL) as tx:
        if how == "expiry":
            assert await expire_due(tx, ours) == 1
        if how == "stop":
            await apply_stop(tx, ours, ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1", date=DAY))
    seen = await get(store, booking.id)
    over = {"cancel": "cancelled", "expiry": "expired", "stop": "stopped"}[how]
    assert (seen.state, seen.his_state, seen.his_command) == (over, "released", "none")
    assert await remaining(store, slot_id) == 1
    assert await commands(store, booking.line) == []


async def test_seat_and_money_come_back_when_the_his_refuses_to_register(store: Store, ours: Hospital) -> None:
    slot_id = await put_slot(store, 1)
    booking = await hold(store, ours, slot_id, await put_patient(store))
    await pay(store, ours, booking.id)
    seen = await send_and_answer(store, ours, booking.id, "full")
    assert (seen.state, seen.his_state, seen.his_command, seen.payment_state) == (
        "rejected", "released", "none", "refund_due",
    )  # fmt: skip
    assert await owed(store, booking.id) == [("refund_due", FEE_FEN, "full")]
    assert await figures(store, slot_id) == (1, 0)


async def test_paid_hold_gives_back_seat_and_money_when_it_is_cancelled_before_the_his_was_told(
    store: Store, ours: Hospital
) -> None:
    slot_id = await put_slot(store, 1)
    booking = await hold(store, ours, slot_id, await put_patient(store))
    await pay(store, ours, booking.id)
    seen = await cancel(store, ours, booking.id)
    assert (seen.state, seen.his_state, seen.payment_state) == ("cancelled", "released", "refund_due")
    assert await commands(store, booking.line) == [("register", "dropped")]
    assert await remaining(store, slot_id) == 1


async def test_his_is_asked_to_cancel_when_it_has_registered(store: Store, ours: Hospital) -> None:
    slot_id = await put_slot(store, 1)
    booking = await hold(store, ours, slot_id, await put_patient(store))
    await pay(store, ours, booking.id)
    await send_and_answer(store, ours, booking.id)
    await cancel(store, ours, booking.id)
    assert (await commands(store, booking.line))[-1] == ("cancel_registration", "queued")
    assert await remaining(store, slot_id) == 0
    await send_and_answer(store, ours, booking.id)
    assert await figures(store, slot_id) == (1, 0)


async def test_cancel_waits_when_the_registration_is_under_way(store: Store, ours: Hospital) -> None:
    slot_id = await put_slot(store, 1)
    booking = await hold(store, ours, slot_id, await put_patient(store))
    await pay(store, ours, booking.id)
    await send(store, booking.id)
    assert (await cancel(store, ours, booking.id)).state == "cancelling"
    assert await remaining(store, slot_id) == 0
    seen = await answer(store, ours, booking.id, "full")
    assert (seen.state, seen.his_state) == ("cancelled", "released")
    assert await remaining(store, slot_id) == 1


async def test_visit_that_costs_nothing_is_registered_at_once_when_the_seats_are_ours(
    store: Store, ours: Hospital
) -> None:
    slot_id = await put_slot(store, 1, schedule=make_schedule(fee_fen=0))
    booking = await hold(store, ours, slot_id, await put_patient(store))
    assert await commands(store, booking.line) == [("register", "queued")]
    assert (await send_and_answer(store, ours, booking.id)).state == "booked"


async def test_figure_of_the_his_is_not_used_again_when_it_falls_with_our_own_registrations(
    store: Store, ours: Hospital, wall: Wall
) -> None:
    slot_id = await put_slot(store, 3)
    booking = await hold(store, ours, slot_id, await put_patient(store))
    await pay(store, ours, booking.id)
    await send_and_answer(store, ours, booking.id)
    await apply_ours(store, 2, wall)  # the HIS has counted our registration
    assert await figures(store, slot_id) == (3, 1)
    await apply_ours(store, 5, wall)  # and has given us more
    assert await figures(store, slot_id) == (5, 1)
    assert (await get(store, booking.id)).charged


def test_new_booking_stands_where_its_hospital_holds_seats() -> None:
    waits = first_standing(make_hospital(lock_wait_s=60), 1_000, FEE_FEN, 5_000)
    assert (waits.axes.his_state, waits.axes.command, waits.axes.status) == (
        HisState.NONE, Command.LOCK, CommandStatus.QUEUED,
    )  # fmt: skip
    assert (waits.lock_by_ms, waits.pay_by_ms, waits.expires_at_ms, waits.verb) == (61_000, None, 61_000, "lock_slot")
    free = first_standing(make_hospital(reserve_by=ReserveBy.QUOTA), 1_000, 0, 5_000)
    assert (free.pay_by_ms, free.expires_at_ms) == (6_000, 6_000)
    assert (free.axes.state, free.axes.his_state, free.axes.command, free.verb) == (
        State.HELD, HisState.LOCKED, Command.REGISTER, "register",
    )  # fmt: skip
    assert first_standing(make_hospital(reserve_by=ReserveBy.BOOK), 1_000, 0, 5_000).verb == "book"


# --- a part of a schedule ----------------------------------------------------------------------------------------------


async def taken(store: Store) -> int:
    async with store.read(HOSPITAL) as tx:
        row = await tx.first(select(schedules.c.taken).where(schedules.c.hospital_id == HOSPITAL))
    assert row is not None
    return int(row["taken"])


async def put_limited(store: Store, quota: int | None, channel_quota: int | None = None) -> list[str]:
    """A schedule with two slots of 5 seats each."""
    first = await put_slot(store, 5)
    second = await put_slot(store, 5, slot_id="2", hour=9)
    async with store.write(HOSPITAL) as tx:
        await put_schedules(tx, [make_schedule(quota=quota)], channel_quota=channel_quota)
    return [first, second]


async def shown(store: Store) -> list[tuple[int, str]]:
    """(remaining, status) of every slot."""
    async with store.read(HOSPITAL) as tx:
        rows = await list_slots(tx, date_from=DAY, date_to=DAY)
    return [(remaining_of(r), slot_status(r, BEGIN_MS)) for r in rows]


async def test_schedule_is_sold_out_when_its_quota_is_used_up_though_its_slots_are_not(
    store: Store, hospital: Hospital
) -> None:
    one, two = await put_limited(store, quota=2)
    assert await shown(store) == [(2, "open"), (2, "open")]
    await locked(store, hospital, one, await put_patient(store, ZHANG))
    assert await shown(store) == [(1, "open"), (1, "open")]
    await locked(store, hospital, two, await put_patient(store, LI))
    assert await shown(store) == [(0, "sold_out"), (0, "sold_out")]
    third = await put_patient(store, WANG)
    for slot_id in (one, two):
        with pytest.raises(Refusal, match="slot_sold_out"):
            await hold(store, hospital, slot_id, third)


@pytest.mark.parametrize(("of_his", "of_channel", "effective"), [(3, None, 3), (None, 2, 2), (3, 2, 2), (1, 2, 1)])
async def test_smaller_quota_counts_when_the_hospital_and_the_settings_have_one(
    store: Store, of_his: int | None, of_channel: int | None, effective: int
) -> None:
    await put_limited(store, of_his, of_channel)
    assert await shown(store) == [(effective, "open")] * 2


async def test_taken_falls_only_when_a_seat_is_certainly_back(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store, 5)
    booking_id = await locked(store, hospital, slot_id, await put_patient(store))
    assert await taken(store) == 1
    await cancel(store, hospital, booking_id)
    await send(store, booking_id)
    assert await taken(store) == 1
    await answer(store, hospital, booking_id)
    assert await taken(store) == 0
    refused = await hold(store, hospital, slot_id, await put_patient(store, LI))
    assert await taken(store) == 1
    await send_and_answer(store, hospital, refused.id, "full")
    assert await taken(store) == 0


async def test_taken_stays_when_a_fetch_brings_the_schedule_again(store: Store, hospital: Hospital, wall: Wall) -> None:
    slot_id = await put_slot(store, 5)
    await locked(store, hospital, slot_id, await put_patient(store))
    wall.turn(60)
    async with store.write(HOSPITAL) as tx:
        await put_schedules(tx, [make_schedule(fee_fen=FEE_FEN + 1)])
        await fetch(tx, make_slot(4))
    assert await taken(store) == 1
