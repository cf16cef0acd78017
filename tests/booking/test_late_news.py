"""What the HIS says at an awkward moment: during a command, after the end, or long after it did it. On both engines."""

from __future__ import annotations

import msgspec
import pytest
from sqlalchemy import select

from booking.bookings import CommandResult, find_by_visit, hear_registration, settle_command
from booking.errors import Refusal
from booking.fetches import apply_slots, put_schedules, reopen
from booking.moves import load_booking
from booking.settings import Hospital, ReserveBy
from booking.stops import apply_stop
from booking.store.engine import Store
from booking.store.tables import events, outbox
from mappings.canonical import Registration, RegistrationStatus, ScheduleStatus, ScheduleStopped, StopScope
from tests.booking.world import (
    DAY,
    HOSPITAL,
    answer,
    booked,
    cancel,
    commands,
    fetch,
    figures,
    get,
    hold,
    locked,
    make_schedule,
    make_slot,
    pay,
    put_patient,
    put_slot,
    remaining,
    schedule_id_of,
    send,
)
from tests.stores import Wall

pytestmark = pytest.mark.usefixtures("engine")


async def tell(
    store: Store, hospital: Hospital, booking_id: str, status: RegistrationStatus, *, paid: bool | None = None
) -> None:
    """The HIS speaks of a booking unasked."""
    async with store.write(HOSPITAL) as tx:
        booking = await load_booking(tx, booking_id)
        assert booking is not None
        told = Registration(status=status, order_no=booking.order_no, paid=paid)
        await hear_registration(tx, hospital, booking, told)


async def test_seat_is_not_credited_when_the_his_had_freed_it_long_before(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    """The HIS's own lock lapsed, a fetch showed the seat free, and only then do we unlock."""
    slot_id = await put_slot(store, 1)
    booking_id = await locked(store, hospital, slot_id, await put_patient(store))
    wall.turn(600)
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(1))
    assert await figures(store, slot_id) == (1, 0)
    wall.turn(300)
    await cancel(store, hospital, booking_id)
    await send(store, booking_id)
    async with store.write(HOSPITAL) as tx:
        booking = await load_booking(tx, booking_id)
        assert booking is not None
        await tx.run(outbox.update().where(outbox.c.subject_id == booking_id).values(status="done"))
        await settle_command(tx, hospital, booking, CommandResult(accepted=True, gone_already=True))
    assert await figures(store, slot_id) == (1, 0)  # one seat, not two


async def test_release_heard_during_a_registration_counts_when_the_registration_is_accepted(
    store: Store, hospital: Hospital
) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    await pay(store, hospital, booking_id)
    await send(store, booking_id)
    await tell(store, hospital, booking_id, RegistrationStatus.RELEASED)
    assert (await get(store, booking_id)).state == "held"
    over = await answer(store, hospital, booking_id)
    assert (over.state, over.his_state, over.payment_state) == ("cancelled", "released", "refund_due")


async def test_check_in_heard_during_a_cancel_counts_when_the_cancel_is_refused(
    store: Store, hospital: Hospital
) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    await cancel(store, hospital, booking_id)
    await send(store, booking_id)
    await tell(store, hospital, booking_id, RegistrationStatus.CHECKED_IN)
    over = await answer(store, hospital, booking_id, "too_late")
    assert (over.state, over.his_state) == ("checked_in", "registered")


@pytest.mark.parametrize(
    ("status", "verb"),
    [(RegistrationStatus.LOCKED, "unlock_slot"), (RegistrationStatus.REGISTERED, "cancel_registration")],
)
async def test_what_the_his_holds_is_given_back_when_the_booking_was_over(
    store: Store, hospital: Hospital, status: RegistrationStatus, verb: str
) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    await send(store, booking.id)
    assert (await answer(store, hospital, booking.id, "refused")).state == "rejected"
    await tell(store, hospital, booking.id, status)
    seen = await get(store, booking.id)
    assert (seen.state, seen.occupies) == ("rejected", True)
    assert (verb, "queued") in await commands(store, f"booking:{booking.id}")


async def test_patient_who_checked_in_unpaid_is_not_expired_when_paid_at_the_window(
    store: Store, hospital: Hospital
) -> None:
    hospital = msgspec.structs.replace(hospital, reserve_by=ReserveBy.BOOK)
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    await tell(store, hospital, booking_id, RegistrationStatus.CHECKED_IN)
    seen = await get(store, booking_id)
    assert (seen.state, seen.his_state, seen.payment_state) == ("checked_in", "registered", "paid_at_window")


@pytest.mark.parametrize("paid", [True, False, None])
async def test_unpaid_booking_is_booked_when_the_his_says_that_it_was_paid_at_the_window(
    store: Store, hospital: Hospital, paid: bool | None
) -> None:
    hospital = msgspec.structs.replace(hospital, reserve_by=ReserveBy.BOOK)
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    await tell(store, hospital, booking_id, RegistrationStatus.REGISTERED, paid=paid)
    seen = await get(store, booking_id)
    expected = ("booked", "registered", "paid_at_window") if paid else ("held", "locked", "due")
    assert (seen.state, seen.his_state, seen.payment_state) == expected


async def test_booking_is_booked_when_the_window_is_paid_before_the_reply_to_the_booking_comes(
    store: Store, hospital: Hospital
) -> None:
    hospital = msgspec.structs.replace(hospital, reserve_by=ReserveBy.BOOK)
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    await send(store, booking.id)
    await tell(store, hospital, booking.id, RegistrationStatus.REGISTERED, paid=True)
    seen = await get(store, booking.id)
    assert (seen.state, seen.his_state, seen.payment_state) == ("booked", "registered", "paid_at_window")


async def test_booking_is_found_by_the_his_s_own_id_when_news_carries_no_order_number(
    store: Store, hospital: Hospital
) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    await send(store, booking.id)
    told = Registration(status=RegistrationStatus.LOCKED, his_id="SCH-77")
    await answer(store, hospital, booking.id, registration=told)
    async with store.read(HOSPITAL) as tx:
        found = await find_by_visit(tx, Registration(status=RegistrationStatus.RELEASED, his_id="SCH-77"))
        other = await find_by_visit(tx, Registration(status=RegistrationStatus.RELEASED, his_id="SCH-78"))
    assert found is not None
    assert found.id == booking.id
    assert other is None


async def test_pushed_stop_stands_until_it_is_reopened_when_an_older_list_says_open(
    store: Store, hospital: Hospital
) -> None:
    slot_id = await put_slot(store)
    patient_id = await put_patient(store)
    async with store.write(HOSPITAL) as tx:
        started_ms = tx.now_ms
        await apply_stop(tx, hospital, ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1", date=DAY))
        await put_schedules(tx, [make_schedule()])
        await fetch(tx, make_slot(5), started_ms=started_ms)
    with pytest.raises(Refusal, match="schedule_stopped"):
        await hold(store, hospital, slot_id, patient_id)
    async with store.write(HOSPITAL) as tx:
        await reopen(tx, "S1")
        await put_schedules(tx, [make_schedule()])
    assert (await hold(store, hospital, slot_id, patient_id)).state == "held"


async def test_stop_in_the_list_of_stops_keeps_seats_off_sale_when_the_schedules_do_not_show_it(store: Store) -> None:
    stop = ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1", date=DAY)
    async with store.write(HOSPITAL) as tx:
        assert await put_schedules(tx, [make_schedule()]) == []
        assert await put_schedules(tx, [make_schedule()], stops=[stop]) == [schedule_id_of(make_schedule())]
        assert await put_schedules(tx, [make_schedule()]) == []  # the list no longer has it: open again


async def test_bookings_of_a_segment_are_named_when_a_fetch_shows_it_stopped(store: Store) -> None:
    slot_id = await put_slot(store)
    async with store.write(HOSPITAL) as tx:
        stopped = make_slot(0, status=ScheduleStatus.STOPPED)
        later = tx.now_ms + 1
        assert await apply_slots(tx, [stopped], started_ms=later, ended_ms=later, his_cache_ms=0) == [slot_id]
        assert await apply_slots(tx, [stopped], started_ms=later, ended_ms=later, his_cache_ms=0) == []


async def test_hold_is_refused_when_the_hospital_has_not_said_the_fee(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store, schedule=make_schedule(fee_fen=None))
    with pytest.raises(Refusal, match="fee_unknown"):
        await hold(store, hospital, slot_id, await put_patient(store))
    assert await remaining(store, slot_id) == 5


async def test_reads_see_the_clock_of_writes_when_the_wall_clock_is_put_back(store: Store, wall: Wall) -> None:
    wall.turn(300)
    async with store.write(HOSPITAL) as tx:
        written_ms = tx.now_ms
    wall.turn(-300)
    async with store.read(HOSPITAL) as tx:
        assert tx.now_ms == written_ms


@pytest.mark.parametrize(
    ("status", "state"), [(RegistrationStatus.CHECKED_IN, "checked_in"), (RegistrationStatus.FULFILLED, "fulfilled")]
)
async def test_missed_visit_is_corrected_and_told_when_the_patient_came_after_all(
    store: Store, hospital: Hospital, status: RegistrationStatus, state: str
) -> None:
    slot_id = await put_slot(store)
    booking_id = await booked(store, hospital, slot_id, await put_patient(store))
    charged = await figures(store, slot_id)
    await tell(store, hospital, booking_id, RegistrationStatus.NO_SHOW)
    missed = await get(store, booking_id)
    assert (missed.state, missed.live) == ("no_show", False)
    for _ in range(2):
        await tell(store, hospital, booking_id, status)
        seen = await get(store, booking_id)
        assert (seen.state, seen.his_state, seen.payment_state) == (state, "registered", "paid")
    assert seen.live == (state == "checked_in")
    await tell(store, hospital, booking_id, RegistrationStatus.REGISTERED)
    assert (await get(store, booking_id)).state == state
    assert await figures(store, slot_id) == charged
    async with store.read(HOSPITAL) as tx:
        told = await tx.all(select(events.c.payload).where(events.c.type == "booking.changed").order_by(events.c.id))
    states = [msgspec.json.decode(row["payload"])["state"] for row in told]
    assert states.count("no_show") == 1
    assert states.index("no_show") < states.index(state)


async def test_late_patient_is_not_in_a_session_twice_when_another_seat_of_it_was_taken_since(
    store: Store, hospital: Hospital
) -> None:
    first, patient_id = await put_slot(store), await put_patient(store)
    booking_id = await booked(store, hospital, first, patient_id)
    await tell(store, hospital, booking_id, RegistrationStatus.NO_SHOW)
    again = await booked(store, hospital, await put_slot(store, slot_id="2", hour=9), patient_id)
    await tell(store, hospital, booking_id, RegistrationStatus.CHECKED_IN)
    assert [(await get(store, one)).state for one in (booking_id, again)] == ["no_show", "booked"]
    await tell(store, hospital, booking_id, RegistrationStatus.FULFILLED)
    assert [(await get(store, one)).state for one in (booking_id, again)] == ["fulfilled", "booked"]
