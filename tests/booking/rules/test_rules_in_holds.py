"""The rules on a store: what a batch reads for them, what its items count of each other, and what late money is told."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import msgspec
import pytest

from booking.bookings import expire_due, find_bookings
from booking.errors import Refusal
from booking.inventory.requests import HoldRequest
from booking.lifecycle import Event
from booking.moves import apply, load_booking
from booking.rules.settings import NO_RULES, BookingRules, wanted_by
from booking.settings import Hospital
from booking.store.engine import Store
from tests.booking.world import (
    CLIENT,
    DAY,
    HOSPITAL,
    LI,
    WANG,
    ZHANG,
    ZONE,
    answer,
    booked,
    cancel,
    hold,
    hold_writer,
    locked,
    make_hospital,
    make_schedule,
    pay,
    put_patient,
    put_slot,
    request,
    send,
    send_and_answer,
)
from tests.stores import Wall

DAILY = {"limits": [{"per": "patient", "within": "day", "most": 1}]}


def ruled(rules: dict[str, Any], **changes: Any) -> Hospital:
    return make_hospital(rules=msgspec.convert(rules, BookingRules), **changes)


async def slot_of(store: Store, schedule_id: str, **changes: Any) -> str:
    """One slot of another schedule, on the same day unless `changes` say so."""
    date = changes.get("date", DAY)
    starts_at = dt.datetime.combine(date, dt.time(8), ZONE)
    ends_at = starts_at + dt.timedelta(minutes=30)
    schedule = make_schedule(schedule_id, **changes)
    return await put_slot(store, schedule=schedule, date=date, starts_at=starts_at, ends_at=ends_at)


async def refused(store: Store, hospital: Hospital, slot_id: str, patient_id: str, *, client: str = CLIENT) -> Refusal:
    with pytest.raises(Refusal) as raised:
        await hold(store, hospital, slot_id, patient_id, client=client)
    return raised.value


async def together(store: Store, hospital: Hospital, *requests: HoldRequest) -> list[str]:
    """What becomes of requests that come at once, in one batch: "held" or a code."""
    async with hold_writer(store) as writer:
        asked = [writer.ask(hospital, one) for one in requests]
        answers = await asyncio.gather(*asked)
    return [getattr(one, "code", "held") for one in answers]


async def test_bookings_of_one_batch_count_each_other_when_a_limit_is_on(store: Store) -> None:
    hospital, first, second = ruled(DAILY), await slot_of(store, "S1"), await slot_of(store, "S2")
    mine, theirs = await put_patient(store), await put_patient(store, client="other")
    li = await put_patient(store, LI)
    asked = [request(first, mine), request(second, theirs, client="other"), request(second, li)]
    assert await together(store, hospital, *asked) == ["held", "limit_reached", "held"]


async def test_limit_of_a_patient_counts_what_other_portals_booked_when_it_is_the_same_person(store: Store) -> None:
    hospital, theirs = ruled(DAILY), await put_patient(store, client="other", user="u9")
    held = await hold(store, hospital, await slot_of(store, "S1"), theirs, client="other")
    mine, second = await put_patient(store), await slot_of(store, "S2")
    told = await refused(store, hospital, second, mine)
    assert told.code == "limit_reached"
    assert "allowed_at" not in told.extra  # only the other booking's end would allow it
    next_day = await slot_of(store, "S3", date=DAY + dt.timedelta(days=1))
    assert (await hold(store, hospital, next_day, mine)).state == "held"
    await cancel(store, hospital, held.id)
    assert (await hold(store, hospital, second, mine)).state == "held"


async def test_limit_of_a_user_counts_all_their_patients_when_another_portal_has_the_same_ref(store: Store) -> None:
    hospital = ruled({"limits": [{"per": "user", "within": "day", "by": "booking", "most": 2}]})
    slots = [await slot_of(store, f"S{n}") for n in range(3)]
    mine = [await put_patient(store, who) for who in (ZHANG, LI, WANG)]
    theirs = await put_patient(store, WANG, client="other")
    await hold(store, hospital, slots[0], theirs, client="other")
    assert await together(store, hospital, *(request(slots[n], mine[n]) for n in range(3))) == [
        "held", "held", "limit_reached",
    ]  # fmt: skip
    told = await refused(store, hospital, slots[2], mine[2])
    assert told.extra["allowed_at"] == dt.datetime(2031, 3, 4, tzinfo=ZONE)


@pytest.mark.parametrize("written", ["+86 138-0000-1111", "１３８-٠٠٠٠-1١１1"])
async def test_limit_of_a_phone_counts_every_patient_with_it_when_it_is_written_otherwise(
    store: Store, written: str
) -> None:
    hospital = ruled({"limits": [{"per": "phone", "within": "month", "most": 1}]})
    same = msgspec.structs.replace(LI, phone=written)
    zhang, li, wang = [await put_patient(store, who) for who in (ZHANG, same, WANG)]
    first, second = await slot_of(store, "S1"), await slot_of(store, "S2")
    await hold(store, hospital, first, zhang)
    assert (await refused(store, hospital, second, li)).code == "limit_reached"
    assert (await hold(store, hospital, second, wang)).state == "held"


async def test_patient_waits_when_they_have_cancelled_and_not_when_the_hospital_refused_it(
    store: Store, wall: Wall
) -> None:
    hospital, patient_id = ruled({"wait_after_cancel_s": 7200}), await put_patient(store)
    first, second = await slot_of(store, "S1"), await slot_of(store, "S2")
    booking_id = await booked(store, hospital, first, patient_id)
    await cancel(store, hospital, booking_id)
    assert (await refused(store, hospital, second, patient_id)).code == "wait_after_cancellation"
    assert (await send_and_answer(store, hospital, booking_id, "not_allowed")).state == "booked"
    assert (await hold(store, hospital, second, patient_id)).state == "held"
    asked_ms = wall.now_ms
    await cancel(store, hospital, booking_id)
    wall.turn(60)
    await send_and_answer(store, hospital, booking_id)
    third = await slot_of(store, "S3")
    wall.now_ms = asked_ms + 7_200_000 - 1
    told = await refused(store, hospital, third, patient_id)
    assert told.extra == {"allowed_at": dt.datetime.fromtimestamp((asked_ms + 7_200_000) / 1000, dt.UTC)}
    wall.turn(0.001)
    assert (await hold(store, hospital, third, patient_id)).state == "held"


async def test_patient_is_blocked_when_they_did_not_come(store: Store) -> None:
    hospital = ruled({"blocks": [{"after": "no_shows", "count": 1, "within": "1 day", "lasts": "3 months"}]})
    patient_id, first = await put_patient(store), await slot_of(store, "S1")
    booking_id = await booked(store, hospital, first, patient_id)
    async with store.write(HOSPITAL) as tx:
        booking = await load_booking(tx, booking_id)
        assert booking is not None
        await apply(tx, hospital, booking, Event.HIS_NO_SHOW)
    told = await refused(store, hospital, await slot_of(store, "S2"), patient_id)
    assert (told.code, told.extra) == (
        "patient_blocked",
        {"rule": "no_shows", "allowed_at": dt.datetime(2031, 6, 4, tzinfo=ZONE)},
    )


async def test_clinic_is_refused_by_the_identity_card_when_it_is_for_others(store: Store) -> None:
    rules = {"eligibility": [{"departments": ["D1"], "sex": "female"}, {"clinic_types": ["儿科"], "max_age": 13}]}
    hospital, zhang, li = ruled(rules), await put_patient(store), await put_patient(store, LI)
    first = await slot_of(store, "S1")
    told = await refused(store, hospital, first, zhang)
    assert (told.code, told.extra) == ("patient_not_eligible", {"rule": "sex", "sex": "female"})
    assert (await hold(store, hospital, first, li)).state == "held"
    children = await slot_of(store, "S2", department_id="D2", clinic_type="儿科")
    told = await refused(store, hospital, children, zhang)
    assert (told.code, told.extra) == ("patient_not_eligible", {"rule": "age", "max_age": 13})


async def test_channel_gets_its_share_and_no_more_when_holds_come_together_and_seats_come_back(store: Store) -> None:
    hospital = ruled({"channel_quotas": [{"clients": [CLIENT], "most": 2}]})
    slot_id = await slot_of(store, "S1")
    zhang, li, wang = [await put_patient(store, who) for who in (ZHANG, LI, WANG)]
    asked = [request(slot_id, patient_id) for patient_id in (zhang, li, wang)]
    assert await together(store, hospital, *asked) == ["held", "held", "channel_quota_reached"]
    assert (await refused(store, hospital, slot_id, wang)).extra == {"most": 2, "of": "schedule"}
    theirs = await put_patient(store, WANG, client="other")
    held = await hold(store, hospital, slot_id, theirs, client="other")
    await cancel(store, hospital, held.id)
    async with store.read(HOSPITAL) as tx:
        mine = await find_bookings(tx, CLIENT, patient_id=zhang)
    await cancel(store, hospital, mine[0].id)
    assert (await hold(store, hospital, slot_id, wang)).state == "held"


@pytest.mark.parametrize("rules", [DAILY, {"wait_after_cancel_s": 7200}])
async def test_late_money_goes_back_when_a_rule_would_refuse_a_new_hold(
    store: Store, wall: Wall, rules: dict[str, Any]
) -> None:
    hospital, patient_id = ruled(rules), await put_patient(store)
    booking_id = await locked(store, hospital, await slot_of(store, "S1"), patient_id)
    wall.turn(hospital.pay_window_s)
    async with store.write(HOSPITAL) as tx:
        assert await expire_due(tx, hospital) == 1
    await send_and_answer(store, hospital, booking_id)
    other = await hold(store, hospital, await slot_of(store, "S2"), patient_id)
    if rules != DAILY:
        await cancel(store, hospital, other.id)
    paid = await pay(store, hospital, booking_id)
    assert (paid.kept, paid.unusable) == (False, "booking_expired")


async def test_late_money_is_not_stopped_by_its_own_booking_when_that_is_what_the_limit_counts(
    store: Store, wall: Wall
) -> None:
    hospital = ruled(DAILY)
    booking_id = await locked(store, hospital, await slot_of(store, "S1"), await put_patient(store))
    wall.turn(hospital.pay_window_s + 1)
    assert (await pay(store, hospital, booking_id)).kept
    await send(store, booking_id)
    assert (await answer(store, hospital, booking_id)).state == "booked"


def test_nothing_more_is_read_when_a_hospital_has_no_such_rule() -> None:
    assert wanted_by(NO_RULES) is None
    assert wanted_by(BookingRules()) is None
