"""The life of a booking on the store: lock, pay, register, cancel, expire, stop, refund, with seats and money told apart."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import select

from booking.bookings import any_due, expire_due, find_bookings, find_by_visit, hear_registration, own_booking, payable
from booking.errors import Refusal, SetAside
from booking.lifecycle import CommandStatus, IllegalMove, State
from booking.money import refund_id
from booking.moves import RuleBroken, load_booking, note_command, save_booking
from booking.refunds import load_refund, own_refund, report_refund
from booking.settings import Hospital, Mode
from booking.stops import apply_stop, carry_known_stops
from booking.store.engine import Store
from booking.store.tables import payments
from mappings.canonical import Registration, RegistrationStatus, ScheduleStopped, Session, StopScope
from tests.booking.world import (
    CLIENT,
    DAY,
    FEE_FEN,
    HOSPITAL,
    LI,
    WANG,
    ZHANG,
    ZONE,
    answer,
    booked,
    cancel,
    commands,
    fetch,
    figures,
    get,
    hold,
    locked,
    make_hospital,
    make_payment,
    make_schedule,
    make_slot,
    owed,
    pay,
    put_patient,
    put_slot,
    remaining,
    schedule_id_of,
    send,
    send_and_answer,
)
from tests.stores import BEGIN_MS, Wall


async def expire(store: Store, hospital: Hospital) -> int:
    async with store.write(HOSPITAL) as tx:
        return await expire_due(tx, hospital)


async def stop(store: Store, hospital: Hospital, event: ScheduleStopped) -> int:
    async with store.write(HOSPITAL) as tx:
        return await apply_stop(tx, hospital, event)


def stopped(scope: StopScope = StopScope.SCHEDULE, **values: object) -> ScheduleStopped:
    known: dict[str, object] = {"schedule_id": "S1", "date": DAY, "session": Session.AM, "reason": "停诊"}
    return ScheduleStopped(scope=scope, **{**known, **values})  # type: ignore[arg-type]


# --- the way to booked -------------------------------------------------------------------------------------------------


async def test_booking_is_booked_when_it_was_locked_paid_and_registered(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store, 3)
    booking = await hold(store, hospital, slot_id, await put_patient(store))
    await send(store, booking.id)
    seen = await answer(store, hospital, booking.id, his_refs={"lock": "L1"})
    assert (seen.state, seen.his_state, seen.his_command, seen.payment_state) == ("held", "locked", "none", "due")
    await pay(store, hospital, booking.id)
    seen = await get(store, booking.id)
    assert (seen.state, seen.his_command, seen.payment_state) == ("held", "register", "paid")
    await send(store, booking.id)
    told = Registration(status=RegistrationStatus.REGISTERED, queue_no="7")
    seen = await answer(store, hospital, booking.id, his_refs={"order": "O1"}, registration=told)
    assert (seen.state, seen.his_state, seen.his_command, seen.payment_state) == (
        "booked", "registered", "none", "paid",
    )  # fmt: skip
    assert seen.his_refs == {"lock": "L1", "order": "O1"}
    assert seen.registration is not None
    assert seen.registration.queue_no == "7"
    assert await commands(store, booking.line) == [("lock_slot", "done"), ("register", "done")]
    async with store.read(HOSPITAL) as tx:
        assert [r["settlement"] for r in await tx.all(select(payments))] == ["settled"]
    assert await owed(store, booking.id) == []
    assert await remaining(store, slot_id) == 2


async def test_registration_follows_the_lock_at_once_when_nothing_is_due(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store, schedule=make_schedule(fee_fen=0))
    booking_id = await locked(store, hospital, slot_id, await put_patient(store))
    seen = await get(store, booking_id)
    assert (seen.his_command, seen.payment_state) == ("register", "not_required")


async def test_registration_follows_the_lock_when_money_came_first(store: Store, hospital: Hospital) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    await pay(store, hospital, booking.id)
    assert (await get(store, booking.id)).his_command == "lock"
    seen = await send_and_answer(store, hospital, booking.id)
    assert (seen.state, seen.his_command) == ("held", "register")


@pytest.mark.parametrize(
    ("window_s", "his_lock_s", "sent_s", "reply_s", "expected_s"),
    [
        (900, None, 0, 4, 904),  # lock accepted + pay window
        (900, 600, 0, 4, 595),  # lock sent + the HIS's own lock - 5 s margin
        (900, 600, 30, 34, 625),
        (300, 600, 0, 4, 304),
    ],
)
async def test_time_to_pay_is_the_shorter_of_ours_and_the_his_lock(
    store: Store, wall: Wall, window_s: float, his_lock_s: float | None, sent_s: float, reply_s: float, expected_s: int
) -> None:
    hospital = make_hospital(pay_window_s=window_s, his_lock_s=his_lock_s, lock_wait_s=600)
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    wall.turn(sent_s)
    await send(store, booking.id)
    wall.turn(reply_s - sent_s)
    seen = await answer(store, hospital, booking.id)
    assert seen.pay_by_ms == seen.expires_at_ms == BEGIN_MS + expected_s * 1000


async def test_time_to_pay_ends_before_the_his_lock_when_the_his_tells_its_end(
    store: Store, hospital: Hospital
) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    await send(store, booking.id)
    ends = dt.datetime.fromtimestamp(BEGIN_MS / 1000, ZONE) + dt.timedelta(minutes=10)
    told = Registration(status=RegistrationStatus.LOCKED, lock_expires_at=ends)
    seen = await answer(store, hospital, booking.id, registration=told)
    assert seen.pay_by_ms == BEGIN_MS + 595_000


async def test_money_makes_sense_only_when_the_seat_is_locked_and_time_is_left(
    store: Store, hospital: Hospital
) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    assert not payable(booking, BEGIN_MS, False)
    seen = await send_and_answer(store, hospital, booking.id)
    assert payable(seen, BEGIN_MS, False)
    assert not payable(seen, BEGIN_MS, True)
    assert seen.pay_by_ms is not None
    assert payable(seen, seen.pay_by_ms - 1, False)
    assert not payable(seen, seen.pay_by_ms, False)


# --- refusals of the HIS -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "left"), [("full", 2), ("taken", 2), ("limit_reached", 3)])
async def test_seat_is_settled_when_the_his_refuses_the_lock(
    store: Store, hospital: Hospital, code: str, left: int
) -> None:
    slot_id = await put_slot(store, 3)
    booking = await hold(store, hospital, slot_id, await put_patient(store))
    rung = store.bell.listen(f"fetch:{HOSPITAL}")
    seen = await send_and_answer(store, hospital, booking.id, code)
    assert (seen.state, seen.his_state, seen.reason, seen.payment_state) == ("rejected", "rejected", code, "void")
    assert await figures(store, slot_id) == (left, 0)
    assert rung.done() == (left == 2)
    rung.cancel()


async def test_money_goes_back_when_the_his_refuses_the_lock_of_a_paid_hold(store: Store, hospital: Hospital) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    await pay(store, hospital, booking.id)
    seen = await send_and_answer(store, hospital, booking.id, "full")
    assert (seen.state, seen.payment_state) == ("rejected", "refund_due")
    assert await owed(store, booking.id) == [("refund_due", FEE_FEN, "full")]


async def test_lock_is_given_back_and_money_too_when_the_registration_is_refused(
    store: Store, hospital: Hospital
) -> None:
    slot_id = await put_slot(store, 3)
    booking_id = await locked(store, hospital, slot_id, await put_patient(store))
    await pay(store, hospital, booking_id)
    seen = await send_and_answer(store, hospital, booking_id, "limit_reached")
    assert (seen.state, seen.his_state, seen.his_command) == ("rejected", "locked", "unlock")
    assert await owed(store, booking_id) == [("refund_due", FEE_FEN, "limit_reached")]
    assert await remaining(store, slot_id) == 2
    seen = await send_and_answer(store, hospital, booking_id)
    assert (seen.state, seen.his_state) == ("rejected", "released")
    assert await remaining(store, slot_id) == 3
    async with store.read(HOSPITAL) as tx:
        assert [r["settlement"] for r in await tx.all(select(payments))] == ["rejected"]


# --- cancelling --------------------------------------------------------------------------------------------------------


async def test_seat_is_free_at_once_when_a_hold_is_cancelled_that_never_left(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store, 1)
    booking = await hold(store, hospital, slot_id, await put_patient(store))
    seen = await cancel(store, hospital, booking.id)
    assert (seen.state, seen.his_state, seen.payment_state) == ("cancelled", "none", "void")
    assert await commands(store, booking.line) == [("lock_slot", "dropped")]
    assert (await hold(store, hospital, slot_id, await put_patient(store, LI))).state == "held"


async def test_cancel_waits_for_the_lock_when_it_is_under_way(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store, 1)
    booking = await hold(store, hospital, slot_id, await put_patient(store))
    await send(store, booking.id)
    assert (await cancel(store, hospital, booking.id)).state == "cancelling"
    assert await remaining(store, slot_id) == 0
    seen = await answer(store, hospital, booking.id)
    assert (seen.state, seen.his_command) == ("cancelling", "unlock")
    seen = await send_and_answer(store, hospital, booking.id)
    assert (seen.state, seen.his_state) == ("cancelled", "released")
    assert await remaining(store, slot_id) == 1
    assert await commands(store, booking.line) == [("lock_slot", "done"), ("unlock_slot", "done")]


async def test_refund_falls_due_only_when_the_his_has_released_the_seat(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store, 3)
    booking_id = await booked(store, hospital, slot_id, await put_patient(store))
    seen = await cancel(store, hospital, booking_id)
    assert (seen.state, seen.payment_state) == ("cancelling", "paid")
    assert await owed(store, booking_id) == []
    seen = await send_and_answer(store, hospital, booking_id)
    assert (seen.state, seen.his_state, seen.payment_state) == ("cancelled", "released", "refund_due")
    assert await owed(store, booking_id) == [("refund_due", FEE_FEN, "patient")]
    assert await remaining(store, slot_id) == 3


async def test_booking_stays_booked_and_paid_when_the_his_refuses_the_cancel(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store, 3)
    booking_id = await booked(store, hospital, slot_id, await put_patient(store))
    await cancel(store, hospital, booking_id)
    seen = await send_and_answer(store, hospital, booking_id, "too_late")
    assert (seen.state, seen.his_state, seen.payment_state, seen.reason) == ("booked", "registered", "paid", "too_late")
    assert await owed(store, booking_id) == []
    assert await remaining(store, slot_id) == 2
    assert (await cancel(store, hospital, booking_id)).state == "cancelling"  # it may be asked for again


async def test_cancel_is_harmless_when_it_is_asked_for_twice(store: Store, hospital: Hospital) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    first = await cancel(store, hospital, booking_id)
    assert await cancel(store, hospital, booking_id) == first
    done = await send_and_answer(store, hospital, booking_id)
    assert await cancel(store, hospital, booking_id) == done


async def test_cancel_is_refused_when_the_booking_is_over(store: Store, hospital: Hospital, wall: Wall) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    wall.turn(60)
    await expire(store, hospital)
    with pytest.raises(Refusal, match="not_cancellable"):
        await cancel(store, hospital, booking.id)


@pytest.mark.parametrize(("mode", "code"), [(Mode.PAUSED, "hospital_paused"), (Mode.OBSERVE, "hospital_observe_only")])
async def test_cancel_is_refused_when_the_hospital_is_not_live(
    store: Store, hospital: Hospital, mode: Mode, code: str
) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    with pytest.raises(Refusal, match=code):
        await cancel(store, make_hospital(mode=mode), booking_id)


async def test_unpaid_booking_is_cancelled_at_the_his_when_the_hospital_reserves_by_booking(store: Store) -> None:
    hospital = make_hospital(reserve_by="book")
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    seen = await cancel(store, hospital, booking_id)
    assert await commands(store, seen.line) == [("book", "done"), ("cancel_registration", "queued")]


async def test_waiting_registration_is_dropped_when_the_patient_cancels(store: Store, hospital: Hospital) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    await pay(store, hospital, booking_id)
    seen = await cancel(store, hospital, booking_id)
    assert await commands(store, seen.line) == [
        ("lock_slot", "done"), ("register", "dropped"), ("unlock_slot", "queued"),
    ]  # fmt: skip
    assert await owed(store, booking_id) == []
    await send_and_answer(store, hospital, booking_id)
    assert await owed(store, booking_id) == [("refund_due", FEE_FEN, "patient")]


async def test_person_is_called_when_the_his_will_not_give_back_a_cancelled_lock(
    store: Store, hospital: Hospital
) -> None:
    slot_id = await put_slot(store, 1)
    booking_id = await locked(store, hospital, slot_id, await put_patient(store))
    await cancel(store, hospital, booking_id)
    seen = await send_and_answer(store, hospital, booking_id, "refused")
    assert (seen.state, seen.his_state, seen.needs_attention) == ("cancelled", "locked", True)
    assert await remaining(store, slot_id) == 0  # the seat may still be taken there


# --- the unlock and the fetch ------------------------------------------------------------------------------------------


async def test_first_send_of_an_unlock_counts_when_it_was_sent_again_after_a_fetch(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    """The HIS may have done it the first time, and the fetch may have seen it: crediting it again would sell it twice."""
    slot_id = await put_slot(store, 1)
    wall.turn(1)
    booking_id = await locked(store, hospital, slot_id, await put_patient(store))
    wall.turn(1)
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(0))
    await cancel(store, hospital, booking_id)
    wall.turn(1)
    await send(store, booking_id)  # its answer is lost; the HIS has released the seat
    wall.turn(1)
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(1))
    wall.turn(60)
    async with store.write(HOSPITAL) as tx:
        booking = await load_booking(tx, booking_id)
        assert booking is not None
        await note_command(tx, booking, CommandStatus.QUEUED)
    await send(store, booking_id)  # sent once more: "already done"
    await answer(store, hospital, booking_id)
    assert await figures(store, slot_id) == (1, 0)


# --- money -------------------------------------------------------------------------------------------------------------


async def test_same_report_gives_the_same_row_when_it_comes_twice(store: Store, hospital: Hospital) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    payment = make_payment()
    first = await pay(store, hospital, booking_id, payment)
    assert await pay(store, hospital, booking_id, payment) == first
    seen = await get(store, booking_id)
    assert await commands(store, seen.line) == [("lock_slot", "done"), ("register", "queued")]


@pytest.mark.parametrize("amount_fen", [FEE_FEN - 1, FEE_FEN + 1])
async def test_wrong_amount_goes_back_when_it_cannot_pay(store: Store, hospital: Hospital, amount_fen: int) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    row = await pay(store, hospital, booking_id, make_payment(amount_fen))
    assert (row.kept, row.unusable) == (False, "wrong_amount")
    assert await owed(store, booking_id) == [("refund_due", amount_fen, "wrong_amount")]
    await pay(store, hospital, booking_id)  # the right amount still can
    seen = await get(store, booking_id)
    assert (seen.his_command, seen.payment_state) == ("register", "paid")


async def test_second_payment_goes_back_when_the_first_is_kept(store: Store, hospital: Hospital) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    await pay(store, hospital, booking_id)
    row = await pay(store, hospital, booking_id)
    assert (row.kept, row.unusable) == (False, "second_payment")
    assert await owed(store, booking_id) == [("refund_due", FEE_FEN, "second_payment")]
    assert (await get(store, booking_id)).payment_state == "paid"


async def test_money_goes_back_when_nothing_was_due(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store, schedule=make_schedule(fee_fen=0))
    booking_id = await locked(store, hospital, slot_id, await put_patient(store))
    assert (await pay(store, hospital, booking_id)).unusable == "nothing_due"
    assert await owed(store, booking_id) == [("refund_due", FEE_FEN, "nothing_due")]


@pytest.mark.parametrize("change", [{"amount_fen": FEE_FEN + 1}, {"other_booking": True}])
async def test_trade_number_is_a_conflict_when_it_paid_for_something_else(
    store: Store, hospital: Hospital, change: dict[str, object]
) -> None:
    slot_id = await put_slot(store)
    one = await locked(store, hospital, slot_id, await put_patient(store))
    two = await locked(store, hospital, slot_id, await put_patient(store, LI))
    await pay(store, hospital, one, make_payment(trade_no="T-1"))
    again = make_payment(FEE_FEN + 1 if "amount_fen" in change else FEE_FEN, trade_no="T-1")
    with pytest.raises(Refusal, match="payment_conflict"):
        await pay(store, hospital, two if change.get("other_booking") else one, again)
    await pay(store, hospital, two, make_payment(trade_no="T-1", channel="alipay"))  # another channel, another payment
    assert (await get(store, two)).payment_state == "paid"


async def test_money_during_a_cancel_is_recorded_and_due_back(store: Store, hospital: Hospital) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    await cancel(store, hospital, booking_id)
    assert (await pay(store, hospital, booking_id)).unusable == "booking_cancelling"
    assert (await get(store, booking_id)).state == "cancelling"


async def test_payment_at_the_window_is_shown_when_the_his_registers_by_itself(
    store: Store, hospital: Hospital
) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    assert await hear(store, hospital, booking_id, RegistrationStatus.REGISTERED)
    seen = await get(store, booking_id)
    assert (seen.state, seen.payment_state) == ("booked", "paid_at_window")


# --- the clock ---------------------------------------------------------------------------------------------------------


async def test_hold_expires_by_the_stores_clock_when_its_lock_takes_too_long(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    slot_id = await put_slot(store, 1)
    booking = await hold(store, hospital, slot_id, await put_patient(store))
    wall.turn(59.999)
    assert await expire(store, hospital) == 0
    wall.turn(0.001)
    async with store.read(HOSPITAL) as tx:
        assert await any_due(tx)
    assert await expire(store, hospital) == 1
    assert await expire(store, hospital) == 0
    seen = await get(store, booking.id)
    assert (seen.state, seen.his_state, seen.reason, seen.payment_state, seen.expires_at_ms) == (
        "expired", "none", "not_locked_in_time", "void", None,
    )  # fmt: skip
    assert await commands(store, booking.line) == [("lock_slot", "dropped")]
    assert await remaining(store, slot_id) == 1


async def test_seat_stays_taken_when_a_hold_expires_whose_lock_is_under_way(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    slot_id = await put_slot(store, 1)
    booking = await hold(store, hospital, slot_id, await put_patient(store))
    await send(store, booking.id)
    wall.turn(60)
    assert await expire(store, hospital) == 1
    assert await remaining(store, slot_id) == 0
    seen = await answer(store, hospital, booking.id)
    assert (seen.state, seen.his_state, seen.his_command) == ("expired", "locked", "unlock")
    await send_and_answer(store, hospital, booking.id)
    assert await remaining(store, slot_id) == 1


async def test_unpaid_lock_expires_and_is_given_back_when_the_window_closes(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    wall.turn(899)
    assert await expire(store, hospital) == 0
    wall.turn(1)
    assert await expire(store, hospital) == 1
    seen = await get(store, booking_id)
    assert (seen.state, seen.his_state, seen.his_command) == ("expired", "locked", "unlock")


@pytest.mark.parametrize("his_knows", [True, False])
async def test_hold_never_expires_when_money_was_recorded(
    store: Store, hospital: Hospital, wall: Wall, his_knows: bool
) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    if his_knows:
        await send_and_answer(store, hospital, booking.id)
    await pay(store, hospital, booking.id)
    wall.turn(24 * 3600)
    assert await expire(store, hospital) == 0
    assert (await get(store, booking.id)).state == "held"
    async with store.read(HOSPITAL) as tx:
        assert not await any_due(tx)  # and the sweep does not look at it for ever


async def test_wrong_money_does_not_keep_a_hold_alive(store: Store, hospital: Hospital, wall: Wall) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    await pay(store, hospital, booking_id, make_payment(1))
    wall.turn(900)
    assert await expire(store, hospital) == 1
    seen = await get(store, booking_id)
    assert (seen.state, seen.payment_state) == ("expired", "refund_due")


# --- 停诊 --------------------------------------------------------------------------------------------------------------


async def test_paid_booking_is_stopped_and_due_back_when_its_schedule_stops(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store)
    paid = await booked(store, hospital, slot_id, await put_patient(store, ZHANG))
    unpaid = await locked(store, hospital, slot_id, await put_patient(store, LI))
    fresh = await hold(store, hospital, slot_id, await put_patient(store, WANG))
    assert await stop(store, hospital, stopped()) == 3
    one, two, three = [await get(store, i) for i in (paid, unpaid, fresh.id)]
    assert (one.state, one.his_command, one.payment_state) == ("stopped", "cancel", "refund_due")
    assert (two.state, two.his_command, two.payment_state) == ("stopped", "unlock", "void")
    assert (three.state, three.his_command, three.payment_state) == ("stopped", "none", "void")
    assert await owed(store, paid) == [("refund_due", FEE_FEN, "停诊")]
    with pytest.raises(Refusal, match="schedule_stopped"):
        await hold(store, hospital, slot_id, await put_patient(store))
    assert await stop(store, hospital, stopped()) == 0  # twice is once
    assert await owed(store, paid) == [("refund_due", FEE_FEN, "停诊")]


@pytest.mark.parametrize("told_by", ["event", "profile"])
async def test_nothing_is_asked_of_the_his_when_it_has_cancelled_the_orders_itself(store: Store, told_by: str) -> None:
    hospital = make_hospital(stop_cancels_at_his=told_by == "event")
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    await stop(store, hospital, stopped(orders_cancelled=told_by == "event"))
    seen = await get(store, booking_id)
    assert (seen.state, seen.his_state, seen.his_command) == ("stopped", "released", "none")
    assert await owed(store, booking_id) == [("refund_due", FEE_FEN, "停诊")]


async def test_only_the_segment_is_stopped_when_the_stop_names_one(store: Store, hospital: Hospital) -> None:
    early, late = await put_slot(store, slot_id="1", hour=8), await put_slot(store, slot_id="2", hour=9)
    one = await locked(store, hospital, early, await put_patient(store, ZHANG))
    two = await locked(store, hospital, late, await put_patient(store, LI))
    starts_at = dt.datetime.combine(DAY, dt.time(9), ZONE)
    assert await stop(store, hospital, stopped(StopScope.SEGMENT, starts_at=starts_at)) == 1
    assert ((await get(store, one)).state, (await get(store, two)).state) == ("held", "stopped")
    with pytest.raises(Refusal, match="schedule_stopped"):
        await hold(store, hospital, late, await put_patient(store, WANG))
    assert (await hold(store, hospital, early, await put_patient(store, WANG))).state == "held"


async def test_only_the_order_is_stopped_when_the_stop_names_one(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store)
    one = await locked(store, hospital, slot_id, await put_patient(store, ZHANG))
    two = await locked(store, hospital, slot_id, await put_patient(store, LI))
    event = ScheduleStopped(scope=StopScope.ORDER, order_no=(await get(store, one)).order_no)
    assert await stop(store, hospital, event) == 1
    assert ((await get(store, one)).state, (await get(store, two)).state) == ("stopped", "held")
    assert (await hold(store, hospital, slot_id, await put_patient(store, WANG))).state == "held"


@pytest.mark.parametrize(
    "vague",
    [
        ScheduleStopped(scope=StopScope.ORDER),
        ScheduleStopped(scope=StopScope.SCHEDULE),
        ScheduleStopped(scope=StopScope.SEGMENT, schedule_id="S1"),
        ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S-other", date=DAY),
    ],
)
async def test_no_booking_is_stopped_when_the_stop_does_not_say_which(
    store: Store, hospital: Hospital, vague: ScheduleStopped
) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    try:
        assert await stop(store, hospital, vague) == 0
    except SetAside:
        assert vague.schedule_id != "S-other"
    assert (await get(store, booking_id)).state == "booked"
    assert await owed(store, booking_id) == []


async def test_stop_reaches_the_bookings_when_a_fetch_has_shown_it(store: Store, hospital: Hospital) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    assert await carry_known_stops(store, hospital, schedule_ids=[schedule_id_of(make_schedule())]) == 1
    assert (await get(store, booking_id)).state == "stopped"


async def test_late_registration_is_cancelled_when_the_schedule_has_stopped_meanwhile(
    store: Store, hospital: Hospital
) -> None:
    slot_id = await put_slot(store, 2)
    booking_id = await locked(store, hospital, slot_id, await put_patient(store))
    await pay(store, hospital, booking_id)
    await send(store, booking_id)
    await stop(store, hospital, stopped())
    assert (await get(store, booking_id)).payment_state == "refund_due"
    seen = await answer(store, hospital, booking_id)
    assert (seen.state, seen.his_state, seen.his_command) == ("stopped", "registered", "cancel")
    seen = await send_and_answer(store, hospital, booking_id)
    assert (seen.state, seen.his_state) == ("stopped", "released")
    assert await owed(store, booking_id) == [("refund_due", FEE_FEN, "停诊")]


# --- news from the HIS -------------------------------------------------------------------------------------------------


async def hear(store: Store, hospital: Hospital, booking_id: str, status: RegistrationStatus) -> bool:
    async with store.write(HOSPITAL) as tx:
        booking = await load_booking(tx, booking_id)
        assert booking is not None
        return await hear_registration(tx, hospital, booking, Registration(status=status))


async def test_visit_is_followed_to_its_end_when_the_his_tells_of_it(store: Store, hospital: Hospital) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    for told, state in (
        (RegistrationStatus.CHECKED_IN, "checked_in"),
        (RegistrationStatus.FULFILLED, "fulfilled"),
    ):
        assert await hear(store, hospital, booking_id, told)
        assert (await get(store, booking_id)).state == state
    assert not await hear(store, hospital, booking_id, RegistrationStatus.CHECKED_IN)
    assert (await get(store, booking_id)).state == "fulfilled"


async def test_no_show_is_taken_over_when_the_his_tells_of_it(store: Store, hospital: Hospital) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    assert await hear(store, hospital, booking_id, RegistrationStatus.NO_SHOW)
    assert (await get(store, booking_id)).state == "no_show"


async def test_booking_is_cancelled_and_due_back_when_the_his_released_it_unasked(
    store: Store, hospital: Hospital
) -> None:
    slot_id = await put_slot(store, 3)
    booking_id = await booked(store, hospital, slot_id, await put_patient(store))
    assert await hear(store, hospital, booking_id, RegistrationStatus.RELEASED)
    seen = await get(store, booking_id)
    assert (seen.state, seen.his_state, seen.reason, seen.payment_state) == (
        "cancelled",
        "released",
        "his",
        "refund_due",
    )
    assert await remaining(store, slot_id) == 3


async def test_news_settles_our_own_command_when_it_is_the_answer_to_it(store: Store, hospital: Hospital) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    line = (await cancel(store, hospital, booking_id)).line
    await send(store, booking_id)
    assert await hear(store, hospital, booking_id, RegistrationStatus.RELEASED)
    assert (await get(store, booking_id)).state == "cancelled"
    assert (await commands(store, line))[-1] == ("cancel_registration", "done")
    assert await owed(store, booking_id) == [("refund_due", FEE_FEN, "patient")]


async def test_news_waits_for_our_own_command_when_it_answers_another_question(
    store: Store, hospital: Hospital
) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    await cancel(store, hospital, booking_id)
    await send(store, booking_id)
    assert not await hear(store, hospital, booking_id, RegistrationStatus.CHECKED_IN)
    assert not await hear(store, hospital, booking_id, RegistrationStatus.REGISTERED)
    assert (await get(store, booking_id)).state == "cancelling"
    assert (await answer(store, hospital, booking_id)).state == "cancelled"


async def test_news_does_not_settle_a_command_when_it_has_not_left_yet(store: Store, hospital: Hospital) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    assert not await hear(store, hospital, booking.id, RegistrationStatus.LOCKED)
    assert (await get(store, booking.id)).his_state == "none"


async def test_unpaid_booking_is_not_booked_when_the_his_tells_that_it_has_it(store: Store) -> None:
    hospital = make_hospital(reserve_by="book")
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    assert not await hear(store, hospital, booking_id, RegistrationStatus.REGISTERED)
    seen = await get(store, booking_id)
    assert (seen.state, seen.payment_state) == ("held", "due")


async def test_outcome_is_refused_when_no_command_is_under_way(store: Store, hospital: Hospital) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    before = await get(store, booking_id)
    with pytest.raises(IllegalMove):
        await answer(store, hospital, booking_id)
    assert await get(store, booking_id) == before


async def test_nothing_is_saved_when_a_combination_must_not_be(store: Store, hospital: Hospital) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    before = await get(store, booking_id)
    wrong = await get(store, booking_id)
    wrong.state = State.BOOKED
    with pytest.raises(RuleBroken, match="booked_is_registered"):
        async with store.write(HOSPITAL) as tx:
            await save_booking(tx, wrong)
    assert await get(store, booking_id) == before


# --- refunds -----------------------------------------------------------------------------------------------------------


async def refunded_booking(store: Store, hospital: Hospital) -> tuple[str, str]:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    await stop(store, hospital, stopped(orders_cancelled=True))
    async with store.read(HOSPITAL) as tx:
        row = await tx.first(select(payments))
    assert row is not None
    return booking_id, refund_id(HOSPITAL, row["channel"], row["trade_no"])


async def report(store: Store, row_id: str, word: str, trade_no: str | None = None) -> str:
    async with store.write(HOSPITAL) as tx:
        row = await own_refund(tx, CLIENT, row_id)
        return str((await report_refund(tx, row, word=word, refund_trade_no=trade_no))["status"])


async def test_refund_is_finished_when_the_portal_reports_it(store: Store, hospital: Hospital) -> None:
    booking_id, row_id = await refunded_booking(store, hospital)
    assert await report(store, row_id, "refunding") == "refunding"
    assert (await get(store, booking_id)).payment_state == "refund_due"
    assert await report(store, row_id, "unknown") == "refund_unknown"
    assert await report(store, row_id, "failed") == "refund_failed"
    assert await report(store, row_id, "refunded", "R1") == "refunded"
    assert await report(store, row_id, "refunded", "R1") == "refunded"  # the same word again
    assert await report(store, row_id, "refunded") == "refunded"
    assert (await get(store, booking_id)).payment_state == "refunded"


async def test_number_of_a_refund_is_added_when_it_was_done_without_one(store: Store, hospital: Hospital) -> None:
    _, row_id = await refunded_booking(store, hospital)
    await report(store, row_id, "refunded")
    async with store.read(HOSPITAL) as tx:
        told = await load_refund(tx, row_id)
    for _ in range(2):
        await report(store, row_id, "refunded", "R1")
    async with store.read(HOSPITAL) as tx:
        assert await load_refund(tx, row_id) == {**(told or {}), "refund_trade_no": "R1"}
    with pytest.raises(Refusal, match="under another refund_trade_no"):
        await report(store, row_id, "refunded", "R2")


@pytest.mark.parametrize("word", ["refunding", "unknown", "failed"])
async def test_finished_refund_is_not_undone_when_a_late_word_comes(
    store: Store, hospital: Hospital, word: str
) -> None:
    booking_id, row_id = await refunded_booking(store, hospital)
    await report(store, row_id, "refunded", "R1")
    with pytest.raises(Refusal, match="refund_conflict"):
        await report(store, row_id, word)
    with pytest.raises(Refusal, match="refund_conflict"):
        await report(store, row_id, "refunded", "R2")
    assert (await get(store, booking_id)).payment_state == "refunded"


async def test_refund_is_unknown_when_another_client_asks(store: Store, hospital: Hospital) -> None:
    _, row_id = await refunded_booking(store, hospital)
    with pytest.raises(Refusal, match="refund_unknown"):
        async with store.read(HOSPITAL) as tx:
            await own_refund(tx, "another", row_id)


# --- finding -----------------------------------------------------------------------------------------------------------


async def test_bookings_are_found_newest_first_when_a_client_asks(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store)
    zhang, li = await put_patient(store, ZHANG), await put_patient(store, LI)
    one, two = await hold(store, hospital, slot_id, zhang), await hold(store, hospital, slot_id, li)
    await cancel(store, hospital, one.id)
    async with store.read(HOSPITAL) as tx:
        assert [b.id for b in await find_bookings(tx, CLIENT)] == [two.id, one.id]
        assert [b.id for b in await find_bookings(tx, CLIENT, after=two.id)] == [one.id]
        assert [b.id for b in await find_bookings(tx, CLIENT, patient_id=zhang)] == [one.id]
        assert [b.id for b in await find_bookings(tx, CLIENT, state="held")] == [two.id]
        assert [b.id for b in await find_bookings(tx, CLIENT, user_ref="u2")] == []
        assert await find_bookings(tx, "another") == []
        by_order = await find_by_visit(tx, Registration(status=RegistrationStatus.LOCKED, order_no=one.order_no))
        assert by_order is not None
        assert by_order.id == one.id
        with pytest.raises(Refusal, match="booking_unknown"):
            await own_booking(tx, "another", one.id)
