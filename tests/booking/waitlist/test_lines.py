"""Who finds a session sold out waits in line: first come, first served, and nobody jumps it."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest
from sqlalchemy import select

from booking.errors import Refusal
from booking.store.engine import Store
from booking.store.tables import bookings, events
from booking.waitlist.lifecycle import TABLE, Event, State, move
from tests.booking.rules.test_returned_seats import shown
from tests.booking.waitlist.lines import (
    accept,
    accept_by,
    counts,
    join_line,
    joined,
    leave_line,
    look,
    position,
    someone,
    states,
    sweep,
    with_line,
)
from tests.booking.world import HOSPITAL, LI, cancel, fetch, hold, hold_writer, make_slot, put_patient, put_slot
from tests.stores import Wall

HOUR = 3_600


@pytest.mark.parametrize(("event", "state"), [*itertools.product(Event, State)])
def test_nothing_but_the_table_moves_an_entry(event: Event, state: State) -> None:
    if (event, state) in TABLE:
        assert move(event, state) == TABLE[event, state] != state
    else:
        with pytest.raises(ValueError, match=state):
            move(event, state)


async def test_seat_goes_to_the_first_in_line_and_to_nobody_else_when_it_comes_back(store: Store, wall: Wall) -> None:
    hospital = with_line({"accept_s": HOUR})
    slot_id = await put_slot(store, 1)
    taken = await hold(store, hospital, slot_id, await put_patient(store))
    first, second = await joined(store, hospital, 1), await joined(store, hospital, 2)
    assert [await position(store, entry) for entry in (first, second)] == [1, 2]
    assert await sweep(store, hospital) == 0
    await cancel(store, hospital, taken.id)
    stranger = await put_patient(store, LI)
    for _ in range(2):  # before the sweep, and after it
        assert await shown(store, slot_id) == {0}
        with pytest.raises(Refusal, match="slot_sold_out"):
            await hold(store, hospital, slot_id, stranger)
        await sweep(store, hospital)
    assert await states(store, first, second) == ["offered", "waiting"]
    assert await position(store, second) == 1
    assert await counts(store) == (1, 1)
    with pytest.raises(Refusal, match="offer_over"):
        await accept(store, hospital, second, slot_id=slot_id)
    wall.turn(HOUR - 0.001)
    assert await sweep(store, hospital) == 0
    wall.turn(0.001)
    with pytest.raises(Refusal, match="offer_over") as raised:  # before the sweep has seen it
        await accept(store, hospital, first)
    assert raised.value.extra == {"state": "lapsed"}
    assert await sweep(store, hospital) == 2
    assert await states(store, first, second) == ["lapsed", "offered"]
    booking = await accept(store, hospital, second)
    assert (booking.state, booking.patient_id, booking.slot_id) == ("held", second.patient_id, slot_id)
    ended = await look(store, second)
    assert (ended.state, ended.booking_id, ended.due_ms) == ("accepted", booking.id, None)
    assert await counts(store) == (0, 0)
    assert await shown(store, slot_id) == {0}
    await cancel(store, hospital, booking.id)
    assert await shown(store, slot_id) == {1}  # nobody waits any more
    assert (await hold(store, hospital, slot_id, stranger)).state == "held"


async def test_seats_that_the_hospital_adds_go_down_the_line_when_there_are_more_than_wait(store: Store) -> None:
    hospital = with_line()
    slot_id = await put_slot(store, 1)
    await hold(store, hospital, slot_id, await put_patient(store))
    entries = [await joined(store, hospital, n) for n in range(3)]
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(5))  # of which one is ours
    await sweep(store, hospital)
    assert await states(store, *entries) == ["offered"] * 3
    assert await counts(store) == (0, 3)
    assert await shown(store, slot_id) == {1}  # the fourth is for anybody
    await asyncio.gather(*(accept(store, hospital, entry) for entry in entries))
    assert await counts(store) == (0, 0)
    assert await shown(store, slot_id) == {1}


async def test_seat_is_for_all_at_once_when_the_only_one_in_line_leaves(store: Store) -> None:
    hospital = with_line()
    slot_id = await put_slot(store, 1)
    taken = await hold(store, hospital, slot_id, await put_patient(store))
    entry = await joined(store, hospital, 1)
    await cancel(store, hospital, taken.id)
    await sweep(store, hospital)
    assert await leave_line(store, hospital, entry) == "cancelled"
    assert await leave_line(store, hospital, entry) == "cancelled"
    assert (await counts(store), await shown(store, slot_id)) == ((0, 0), {1})
    with pytest.raises(Refusal, match="offer_over"):
        await accept(store, hospital, entry, slot_id=slot_id)


async def test_offer_is_taken_back_and_the_place_kept_when_the_hospital_sells_the_seat(
    store: Store, wall: Wall
) -> None:
    hospital = with_line()
    slot_id = await put_slot(store, 1)
    taken = await hold(store, hospital, slot_id, await put_patient(store))
    first, second = await joined(store, hospital, 1), await joined(store, hospital, 2)
    await cancel(store, hospital, taken.id)
    await sweep(store, hospital)
    wall.turn(60)
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(0))
    with pytest.raises(Refusal, match="slot_sold_out"):
        await accept(store, hospital, first)
    assert await sweep(store, hospital) == 1
    assert await states(store, first, second) == ["waiting", "waiting"]
    assert [await position(store, entry) for entry in (first, second)] == [1, 2]
    assert (await look(store, first)).reason == "seat_gone"
    wall.turn(60)
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(1))
    await sweep(store, hospital)
    assert await states(store, first, second) == ["offered", "waiting"]


async def test_two_accepts_make_one_booking_when_they_come_at_once(store: Store) -> None:
    hospital = with_line()
    slot_id = await put_slot(store, 1)
    taken = await hold(store, hospital, slot_id, await put_patient(store))
    entry = await joined(store, hospital, 1)
    await cancel(store, hospital, taken.id)
    await sweep(store, hospital)
    entry = await look(store, entry)
    async with hold_writer(store) as writer:
        told = await asyncio.gather(
            *(accept_by(writer, store, hospital, entry, key=key) for key in ("a", "b", "a")), return_exceptions=True
        )
    made = {one.id for one in told if not isinstance(one, BaseException)}
    assert len(made) == 1
    assert sorted(str(one).split(":")[0] for one in told if isinstance(one, BaseException)) in (
        ["offer_over"],  # key a was first, and its repeat gets its answer
        ["offer_over", "offer_over"],  # key b was
    )
    async with store.read(HOSPITAL) as tx:
        live = await tx.all(select(bookings.c.id).where(bookings.c.hospital_id == HOSPITAL, bookings.c.live))
    assert {row["id"] for row in live} == made
    assert await counts(store) == (0, 0)


@pytest.mark.parametrize("early_ms", [1, 0, -1])
async def test_accept_or_lapse_but_never_both_when_they_meet(store: Store, wall: Wall, early_ms: int) -> None:
    hospital = with_line({"accept_s": HOUR})
    slot_id = await put_slot(store, 1)
    taken = await hold(store, hospital, slot_id, await put_patient(store))
    entry = await joined(store, hospital, 1)
    await cancel(store, hospital, taken.id)
    await sweep(store, hospital)
    wall.turn(HOUR - early_ms / 1000)
    told, _ = await asyncio.gather(accept(store, hospital, entry), sweep(store, hospital), return_exceptions=True)
    accepted = early_ms > 0
    assert isinstance(told, Refusal) != accepted
    assert await states(store, entry) == ["accepted" if accepted else "lapsed"]
    assert await shown(store, slot_id) == {0 if accepted else 1}


async def test_events_tell_the_way_of_an_entry_in_order(store: Store) -> None:
    hospital = with_line()
    slot_id = await put_slot(store, 1)
    taken = await hold(store, hospital, slot_id, await put_patient(store))
    entry = await joined(store, hospital, 1)
    await cancel(store, hospital, taken.id)
    await sweep(store, hospital)
    await accept(store, hospital, entry)
    async with store.read() as tx:
        rows = await tx.all(select(events).where(events.c.type == "waitlist.changed").order_by(events.c.id))

    told = [msgspec.json.decode(row["payload"]) for row in rows]
    assert [(one["version"], one["state"]) for one in told] == [(1, "waiting"), (2, "offered"), (3, "accepted")]
    assert {one["entry_id"] for one in told} == {entry.id}
    # 20:00 on the evening before Tuesday 4 March 2031, which is less than a day from now.
    assert (told[1]["slot_id"], told[1]["accept_by"]) == (slot_id, "2031-03-03T20:00:00+08:00")
    assert told[2]["booking_id"]


async def test_joining_is_refused_with_the_reason(store: Store, wall: Wall) -> None:
    hospital = with_line({"per_patient": 1, "most": 2})
    slot_id = await put_slot(store, 1)
    patient = await put_patient(store, someone(1))

    async def why(patient_id: str, **changes: str) -> str:
        with pytest.raises(Refusal) as raised:
            await join_line(store, hospital, patient_id, **changes)
        return raised.value.code

    assert await why(patient) == "not_sold_out"
    assert await why(patient, session="sc_none") == "schedule_unknown"
    booker = await put_patient(store)
    await hold(store, hospital, slot_id, booker)
    assert await why(booker) == "duplicate_booking"
    assert await why("pt_none") == "patient_unknown"
    await join_line(store, hospital, patient)
    assert await why(patient) == "already_waiting"
    again = await put_patient(store, someone(1), client="another")
    with pytest.raises(Refusal, match="already_waiting") as raised:
        await join_line(store, hospital, again, client="another")
    assert raised.value.extra == {}  # nobody learns through which portal
    await joined(store, hospital, 2)
    assert await why(await put_patient(store, someone(3))) == "waitlist_full"
