"""How lines end: on the evening before, by a stop, with the rule; and what goes with a patient."""

from __future__ import annotations

import asyncio
import datetime as dt
from zoneinfo import ZoneInfo

import msgspec
import pytest

from booking import returned_seats as back
from booking.bookings import expire_due
from booking.errors import Refusal
from booking.people import hear_patient, merge_persons
from booking.retention import KEEP_WAITLIST_DAYS, forget_waitlist
from booking.rules.settings import WaitlistRule
from booking.settings import Hospital, Mode, ReserveBy
from booking.stops import apply_stop
from booking.store.engine import Store
from booking.waitlist.joining import clears_at
from booking.waitlist.records import Entry
from mappings.canonical import ScheduleStopped, Session, StopScope
from scheduler_sync.sweeps import clear_without_rule, return_seats
from tests.booking.rules.test_returned_seats import shown
from tests.booking.waitlist.lines import accept, counts, join_line, joined, look, someone, states, sweep, with_line
from tests.booking.world import (
    DAY,
    HOSPITAL,
    LI,
    cancel,
    get,
    hold,
    locked,
    make_hospital,
    make_slot,
    pay,
    put_patient,
    put_slot,
    send_and_answer,
)
from tests.stores import Wall

HOUR = 3_600


@pytest.mark.parametrize(
    ("cleared_at", "date", "zone", "expected"),
    [
        ("20:00", "2031-03-04", "Asia/Shanghai", "2031-03-03T12:00+00:00"),
        ("24:00", "2031-03-04", "Asia/Shanghai", "2031-03-03T16:00+00:00"),
        ("20:00", "2031-03-31", "Europe/Berlin", "2031-03-30T18:00+00:00"),  # summer time since that morning
        ("20:00", "2031-03-30", "Europe/Berlin", "2031-03-29T19:00+00:00"),
    ],
)
def test_line_ends_on_the_evening_before_by_the_hospitals_clock(
    cleared_at: str, date: str, zone: str, expected: str
) -> None:
    at_ms = clears_at(WaitlistRule(cleared_at=cleared_at), date, ZoneInfo(zone))
    assert at_ms == dt.datetime.fromisoformat(expected).timestamp() * 1000


@pytest.mark.parametrize("early_ms", [1, 0, -1])
async def test_everybody_is_cleared_on_the_evening_before_and_not_a_millisecond_sooner(
    store: Store, wall: Wall, early_ms: int
) -> None:
    hospital = with_line({"accept_s": 604_800})
    slot_id, entries = await offered_and_waiting(store, hospital)
    evening_ms = round(dt.datetime(2031, 3, 3, 20, tzinfo=ZoneInfo("Asia/Shanghai")).timestamp() * 1000)
    wall.now_ms = evening_ms - early_ms
    late = await put_patient(store, someone(9))
    if early_ms > 0:
        await join_line(store, hospital, late)
        assert await sweep(store, hospital) == 0
        assert await states(store, *entries) == ["offered", "waiting"]
        return
    with pytest.raises(Refusal, match="offer_over"):
        await accept(store, hospital, entries[0])
    with pytest.raises(Refusal, match="waitlist_closed"):
        await join_line(store, hospital, late)
    assert await sweep(store, hospital) == 2
    assert [(e.state, e.reason) for e in [await look(store, e) for e in entries]] == [("cleared", "evening_before")] * 2
    assert (await counts(store), await shown(store, slot_id)) == ((0, 0), {1})
    assert (await hold(store, hospital, slot_id, await put_patient(store, LI))).state == "held"


async def offered_and_waiting(store: Store, hospital: Hospital) -> tuple[str, list[Entry]]:
    """A session of one seat: the first in line is offered it, the second waits."""
    slot_id = await put_slot(store, 1)
    taken = await hold(store, hospital, slot_id, await put_patient(store))
    entries = [await joined(store, hospital, 1), await joined(store, hospital, 2)]
    await cancel(store, hospital, taken.id)
    await sweep(store, hospital)
    assert await states(store, *entries) == ["offered", "waiting"]
    return slot_id, entries


async def test_line_is_cleared_when_the_session_is_stopped(store: Store) -> None:
    hospital = with_line()
    _, entries = await offered_and_waiting(store, hospital)
    stop = ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1", date=DAY, session=Session.AM)
    async with store.write(HOSPITAL) as tx:
        await apply_stop(tx, hospital, stop)
    with pytest.raises(Refusal, match="schedule_stopped"):
        await accept(store, hospital, entries[0])
    assert await sweep(store, hospital) == 2
    assert {(await look(store, entry)).reason for entry in entries} == {"schedule_stopped"}
    assert await counts(store) == (0, 0)


async def test_offer_is_taken_back_and_the_place_kept_when_only_its_segment_is_stopped(store: Store) -> None:
    hospital = with_line()
    _, entries = await offered_and_waiting(store, hospital)
    stop = ScheduleStopped(
        scope=StopScope.SEGMENT, schedule_id="S1", date=DAY, session=Session.AM, starts_at=make_slot(1).starts_at
    )
    async with store.write(HOSPITAL) as tx:
        await apply_stop(tx, hospital, stop)
    assert await sweep(store, hospital) == 1
    assert await states(store, *entries) == ["waiting", "waiting"]
    assert await counts(store) == (2, 0)


async def test_line_is_cleared_at_the_start_when_the_hospital_has_no_waitlist_any_more(store: Store) -> None:
    slot_id, entries = await offered_and_waiting(store, with_line())
    await clear_without_rule(store, make_hospital(), asyncio.Event())
    assert {(await look(store, entry)).reason for entry in entries} == {"not_offered"}
    assert (await counts(store), await shown(store, slot_id)) == ((0, 0), {1})


async def test_nothing_is_offered_and_nobody_may_join_when_the_hospital_is_paused(store: Store) -> None:
    hospital = with_line()
    slot_id = await put_slot(store, 1)
    taken = await hold(store, hospital, slot_id, await put_patient(store))
    entry = await joined(store, hospital, 1)
    await cancel(store, hospital, taken.id)
    paused = msgspec.structs.replace(hospital, mode=Mode.PAUSED)
    assert await sweep(store, paused) == 0
    with pytest.raises(Refusal, match="hospital_paused"):
        await joined(store, paused, 2)
    with pytest.raises(Refusal, match="not_offered_by_hospital"):
        await joined(store, make_hospital(), 2)
    await sweep(store, hospital)
    assert await states(store, entry) == ["offered"]


async def test_place_goes_to_the_survivor_when_two_numbers_are_one_person(store: Store) -> None:
    hospital = with_line()
    slot_id = await put_slot(store, 1)
    taken = await hold(store, hospital, slot_id, await put_patient(store))
    patients = [await put_patient(store, someone(n)) for n in (1, 2)]
    async with store.write(HOSPITAL) as tx:
        for n in (1, 2):
            await hear_patient(tx, msgspec.structs.replace(someone(n), mrn=f"M{n}"))
    entry = await join_line(store, hospital, patients[0])
    async with store.write(HOSPITAL) as tx:
        await merge_persons(tx, surviving_mrn="M2", retired_mrn="M1")
    assert (await look(store, entry)).person_id != entry.person_id
    with pytest.raises(Refusal, match="already_waiting"):
        await join_line(store, hospital, patients[1])
    await cancel(store, hospital, taken.id)
    await sweep(store, hospital)
    assert (await accept(store, hospital, entry)).patient_id == patients[0]


async def test_late_money_does_not_pass_those_who_wait_when_its_seat_has_come_back(store: Store, wall: Wall) -> None:
    hospital = with_line()
    slot_id = await put_slot(store, 1)
    booking_id = await locked(store, hospital, slot_id, await put_patient(store))
    entry = await joined(store, hospital, 1)
    wall.turn(hospital.pay_window_s)
    async with store.write(HOSPITAL) as tx:
        await expire_due(tx, hospital)
    await send_and_answer(store, hospital, booking_id)
    assert not (await pay(store, hospital, booking_id)).kept
    assert (await get(store, booking_id)).payment_state == "refund_due"
    await sweep(store, hospital)
    assert await states(store, entry) == ["offered"]


async def test_random_time_delays_no_offer_but_the_seat_that_nobody_took(
    store: Store, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(back, "draw", lambda: 0.0)
    hospital = with_line({"accept_s": HOUR}, rules={"returned_seats": {"least_s": HOUR, "most_s": HOUR}})
    slot_id = await put_slot(store, 1)
    taken = await hold(store, hospital, slot_id, await put_patient(store))
    entry = await joined(store, hospital, 1)
    await cancel(store, hospital, taken.id)
    await sweep(store, hospital)
    assert await states(store, entry) == ["offered"]
    wall.turn(HOUR)
    await sweep(store, hospital)
    assert await states(store, entry) == ["lapsed"]
    assert await shown(store, slot_id) == {0}  # nobody waits, and nobody can catch it
    wall.turn(HOUR)
    assert await return_seats(store, hospital) == 1
    assert (await counts(store), await shown(store, slot_id)) == ((0, 0), {1})


async def test_entries_are_forgotten_after_their_days_when_they_are_over(store: Store, wall: Wall) -> None:
    hospital = with_line(reserve_by=ReserveBy.QUOTA)
    _, entries = await offered_and_waiting(store, hospital)
    await accept(store, hospital, entries[0])
    wall.turn(KEEP_WAITLIST_DAYS * 24 * HOUR)
    assert await forget_waitlist(store, HOSPITAL) == 0
    wall.turn(0.001)
    assert await forget_waitlist(store, HOSPITAL) == 1  # the one that waits stays, however old
    with pytest.raises(Refusal, match="waitlist_entry_unknown"):
        await look(store, entries[0])
