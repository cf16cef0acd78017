"""When a person is asked about a booking no more: nothing is left that they could settle. On both engines."""

from __future__ import annotations

import pytest

from booking.bookings import expire_due, hear_registration
from booking.moves import load_booking
from booking.settings import Hospital
from booking.stops import apply_stop
from booking.store.engine import Store
from mappings.canonical import NewPlace, Registration, RegistrationStatus, ScheduleStopped, StopScope
from tests.booking.world import DAY, HOSPITAL, cancel, get, locked, put_patient, put_slot, send_and_answer
from tests.stores import Wall


async def left_without_place(store: Store, hospital: Hospital) -> str:
    """A hold that the HIS has locked and then moved to a session that does not exist; its id."""
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    booking = await get(store, booking_id)
    to = NewPlace(schedule_id="S9", date=DAY, slot_id="9")
    async with store.write(HOSPITAL) as tx:
        await apply_stop(tx, hospital, ScheduleStopped(scope=StopScope.ORDER, order_no=booking.order_no, moved_to=to))
    assert (await get(store, booking_id)).needs_attention
    return booking_id


@pytest.mark.parametrize("how", ["expiry", "cancel"])
async def test_nobody_is_asked_about_a_moved_hold_when_it_is_over_and_given_back(
    store: Store, hospital: Hospital, wall: Wall, how: str
) -> None:
    booking_id = await left_without_place(store, hospital)
    if how == "cancel":
        await cancel(store, hospital, booking_id)
    else:
        wall.turn(900)
        async with store.write(HOSPITAL) as tx:
            assert await expire_due(tx, hospital) == 1
    assert (await get(store, booking_id)).needs_attention  # the seat may still be ours, and where is not known
    seen = await send_and_answer(store, hospital, booking_id)
    assert (seen.his_state, seen.needs_attention) == ("released", False)


async def test_nobody_is_asked_when_the_hospital_has_given_back_what_it_had_refused_to(
    store: Store, hospital: Hospital
) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    await cancel(store, hospital, booking_id)
    seen = await send_and_answer(store, hospital, booking_id, "refused")
    assert (seen.state, seen.his_state, seen.needs_attention) == ("cancelled", "locked", True)
    async with store.write(HOSPITAL) as tx:
        booking = await load_booking(tx, booking_id)
        assert booking is not None
        told = Registration(status=RegistrationStatus.RELEASED, order_no=booking.order_no)
        await hear_registration(tx, hospital, booking, told)
    seen = await get(store, booking_id)
    assert (seen.his_state, seen.needs_attention) == ("released", False)
