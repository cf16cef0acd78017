"""Money that comes after its hold has ended: it buys the seat if that is still possible, else it goes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest
from sqlalchemy import select

from booking.bookings import expire_due
from booking.fetches import put_schedules
from booking.inventory.requests import Refused
from booking.late_money import Circumstances, may_take_up
from booking.settings import Hospital, Mode, ReserveBy
from booking.store.engine import Store
from booking.store.tables import events
from mappings.canonical import ScheduleStatus
from tests.booking.world import (
    FEE_FEN,
    HOSPITAL,
    LI,
    WANG,
    ZHANG,
    answer,
    commands,
    figures,
    get,
    hold,
    locked,
    make_hospital,
    make_payment,
    make_schedule,
    owed,
    pay,
    put_patient,
    put_slot,
    remaining,
    send,
    send_and_answer,
)
from tests.stores import Wall

WINDOW_S = 900


async def expire(store: Store, hospital: Hospital) -> None:
    async with store.write(HOSPITAL) as tx:
        assert await expire_due(tx, hospital) == 1


async def test_seat_is_bought_when_the_sweep_has_not_run_yet(store: Store, hospital: Hospital, wall: Wall) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    wall.turn(WINDOW_S + 1)
    paid = await pay(store, hospital, booking_id)
    assert (paid.kept, paid.unusable) == (True, None)
    assert (await send_and_answer(store, hospital, booking_id)).state == "booked"


async def test_seat_is_bought_when_its_unlock_has_not_left_yet(store: Store, hospital: Hospital, wall: Wall) -> None:
    slot_id = await put_slot(store, 1)
    booking_id = await locked(store, hospital, slot_id, await put_patient(store))
    order_no = (await get(store, booking_id)).order_no
    wall.turn(WINDOW_S)
    await expire(store, hospital)
    assert (await pay(store, hospital, booking_id)).kept
    seen = await get(store, booking_id)
    assert (seen.state, seen.payment_state, seen.reason, seen.order_no) == ("held", "paid", None, order_no)
    assert await commands(store, seen.line) == [
        ("lock_slot", "done"), ("unlock_slot", "dropped"), ("register", "queued"),
    ]  # fmt: skip
    assert await figures(store, slot_id) == (1, 1)
    assert (await send_and_answer(store, hospital, booking_id)).state == "booked"
    assert await owed(store, booking_id) == []


async def test_lock_that_is_still_under_way_is_used_when_money_comes_after_expiry(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    booking = await hold(store, hospital, await put_slot(store, 1), await put_patient(store))
    await send(store, booking.id)
    wall.turn(hospital.lock_wait_s)
    await expire(store, hospital)
    assert (await pay(store, hospital, booking.id)).kept
    seen = await answer(store, hospital, booking.id)
    assert (seen.state, seen.his_state, seen.his_command) == ("held", "locked", "register")
    assert (await send_and_answer(store, hospital, booking.id)).state == "booked"


async def released(store: Store, hospital: Hospital, wall: Wall, slot_id: str) -> str:
    """A hold that was locked, not paid, and given back at the HIS."""
    booking_id = await locked(store, hospital, slot_id, await put_patient(store))
    wall.turn(WINDOW_S)
    await expire(store, hospital)
    await send_and_answer(store, hospital, booking_id)
    return booking_id


async def test_seat_is_taken_anew_when_the_his_has_got_it_back(store: Store, hospital: Hospital, wall: Wall) -> None:
    slot_id = await put_slot(store, 1)
    booking_id = await released(store, hospital, wall, slot_id)
    before = await get(store, booking_id)
    assert (await pay(store, hospital, booking_id)).kept
    seen = await get(store, booking_id)
    assert (seen.state, seen.his_state, seen.his_command, seen.live) == ("held", "none", "lock", True)
    # A HIS takes a key once: under the old one it would find what it has released.
    assert seen.order_no != before.order_no
    assert seen.his_refs == {}
    assert await remaining(store, slot_id) == 0
    await send_and_answer(store, hospital, booking_id)
    assert (await send_and_answer(store, hospital, booking_id)).state == "booked"
    assert await owed(store, booking_id) == []


async def test_every_step_is_told_when_late_money_takes_a_booking_up(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    booking_id = await released(store, hospital, wall, await put_slot(store, 1))
    await pay(store, hospital, booking_id)
    async with store.read() as tx:
        rows = await tx.all(select(events.c.payload).where(events.c.type == "booking.changed").order_by(events.c.id))
    told = [msgspec.json.decode(r["payload"]) for r in rows]
    assert [(p["state"], p["payment_state"]) for p in told][-2:] == [("expired", "void"), ("held", "paid")]


async def sold(store: Store, hospital: Hospital, wall: Wall, slot_id: str, booking_id: str) -> None:
    await hold(store, hospital, slot_id, await put_patient(store, LI))


async def stopped(store: Store, hospital: Hospital, wall: Wall, slot_id: str, booking_id: str) -> None:
    async with store.write(HOSPITAL) as tx:
        await put_schedules(tx, [make_schedule(status=ScheduleStatus.STOPPED)])


async def begun(store: Store, hospital: Hospital, wall: Wall, slot_id: str, booking_id: str) -> None:
    wall.turn(3 * 24 * 3600)


async def dearer(store: Store, hospital: Hospital, wall: Wall, slot_id: str, booking_id: str) -> None:
    async with store.write(HOSPITAL) as tx:
        await put_schedules(tx, [make_schedule(fee_fen=FEE_FEN + 1)])


async def booked_again(store: Store, hospital: Hospital, wall: Wall, slot_id: str, booking_id: str) -> None:
    other = await put_slot(store, 3, slot_id="2", hour=9)
    await hold(store, hospital, other, (await get(store, booking_id)).patient_id)


Change = Callable[[Store, Hospital, Wall, str, str], Awaitable[None]]


@pytest.mark.parametrize("change", [sold, stopped, begun, dearer, booked_again])
async def test_late_money_goes_back_when_a_rule_forbids_the_seat(
    store: Store, hospital: Hospital, wall: Wall, change: Change
) -> None:
    slot_id = await put_slot(store, 1)
    booking_id = await released(store, hospital, wall, slot_id)
    await change(store, hospital, wall, slot_id, booking_id)
    before = await figures(store, slot_id)
    row = await pay(store, hospital, booking_id)
    assert (row.kept, row.unusable) == (False, "booking_expired")
    seen = await get(store, booking_id)
    assert (seen.state, seen.payment_state, seen.his_command) == ("expired", "refund_due", "none")
    assert await owed(store, booking_id) == [("refund_due", FEE_FEN, "booking_expired")]
    assert await figures(store, slot_id) == before


async def test_late_money_goes_back_when_the_amount_is_wrong(store: Store, hospital: Hospital, wall: Wall) -> None:
    booking_id = await released(store, hospital, wall, await put_slot(store, 1))
    assert (await pay(store, hospital, booking_id, make_payment(1))).unusable == "wrong_amount"
    assert (await get(store, booking_id)).state == "expired"


async def test_late_money_goes_back_when_the_unlock_is_under_way(store: Store, hospital: Hospital, wall: Wall) -> None:
    booking_id = await locked(store, hospital, await put_slot(store, 5), await put_patient(store))
    wall.turn(WINDOW_S)
    await expire(store, hospital)
    await send(store, booking_id)
    assert (await pay(store, hospital, booking_id)).unusable == "booking_expired"


async def test_late_money_goes_back_when_the_lock_has_ended_at_the_his(store: Store, wall: Wall) -> None:
    """What the HIS has freed by itself it may have sold: registering it would be a gamble with a paid patient."""
    hospital = make_hospital(his_lock_s=600)
    booking_id = await locked(store, hospital, await put_slot(store, 5), await put_patient(store))
    wall.turn(594.999)
    assert (await get(store, booking_id)).pay_by_ms == wall.now_ms + 1
    wall.turn(0.001)
    assert (await pay(store, hospital, booking_id)).unusable == "too_late"


async def test_late_money_buys_from_our_own_quota_when_the_hospital_has_given_us_one(store: Store, wall: Wall) -> None:
    hospital = make_hospital(reserve_by=ReserveBy.QUOTA)
    slot_id = await put_slot(store, 1)
    booking = await hold(store, hospital, slot_id, await put_patient(store, WANG))
    wall.turn(WINDOW_S)
    await expire(store, hospital)
    assert await remaining(store, slot_id) == 1
    assert (await pay(store, hospital, booking.id)).kept
    seen = await get(store, booking.id)
    assert (seen.state, seen.his_state, seen.his_command) == ("held", "locked", "register")
    assert await remaining(store, slot_id) == 0


_WELL = Circumstances(mode=Mode.LIVE, foreseen=True, refused=None, lock_over=False, seat_needed=True)


def test_each_rule_alone_forbids_to_take_a_booking_up() -> None:
    assert may_take_up(_WELL)
    assert may_take_up(msgspec.structs.replace(_WELL, seat_needed=False))
    for change in (
        {"mode": Mode.PAUSED}, {"mode": Mode.OBSERVE}, {"foreseen": False}, {"refused": Refused("limit_reached", "")},
        {"seat_needed": False, "lock_over": True},
    ):  # fmt: skip
        assert not may_take_up(msgspec.structs.replace(_WELL, **change)), change


async def test_person_keeps_one_live_booking_when_two_patients_of_theirs_pay_late(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    """The same human at two clients: what one of them holds now, the other one's late money cannot take a second time."""
    slot_id = await put_slot(store, 5)
    first = await released(store, hospital, wall, slot_id)
    other = await put_patient(store, ZHANG, client="other", user="u9")
    await hold(store, hospital, slot_id, other, client="other")
    assert (await pay(store, hospital, first)).unusable == "booking_expired"
