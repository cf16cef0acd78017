"""停诊, 改诊 and 替诊 of a part of a session: what begins in the hours that are named, and nothing else."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking.bookings import hear_registration
from booking.catalog import list_slots
from booking.errors import Refusal
from booking.fetches import apply_slots, put_schedules
from booking.moves import load_booking
from booking.rescheduling.carrying import carry_moves
from booking.settings import Hospital
from booking.stops import carry_stop
from booking.store.engine import Store
from booking.store.tables import events
from mappings.canonical import NewPlace, Registration, RegistrationStatus, ScheduleStopped, Session, Slot, StopScope
from tests.booking.world import (
    DAY,
    HOSPITAL,
    LI,
    WANG,
    ZHANG,
    ZONE,
    booked,
    fetch,
    get,
    hold,
    make_schedule,
    make_slot,
    put_patient,
    put_slot,
)
from tests.stores import Wall

pytestmark = pytest.mark.usefixtures("engine")
HOURS = (8, 9, 10)
PEOPLE = (ZHANG, LI, WANG)
NEXT = DAY + dt.timedelta(days=1)


def at(hour: int, minute: int = 0, *, day: dt.date = DAY) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(hour, minute), ZONE)


def segments(begin: dt.datetime, end: dt.datetime | None, **to: Any) -> ScheduleStopped:
    return ScheduleStopped(
        scope=StopScope.SEGMENT, schedule_id="S1", date=DAY, session=Session.AM, starts_at=begin, ends_at=end,
        moved_to=NewPlace(**to) if to else None,
    )  # fmt: skip


async def morning(store: Store, hospital: Hospital) -> list[str]:
    """A session at 8, 9 and 10, each with a booking; the bookings."""
    return [
        await booked(
            store, hospital, await put_slot(store, slot_id=str(hour), hour=hour), await put_patient(store, who)
        )
        for hour, who in zip(HOURS, PEOPLE, strict=True)
    ]


async def told(store: Store, booking_id: str) -> list[dict[str, Any]]:
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(events.c.payload).where(events.c.type == "booking.moved").order_by(events.c.id))
    news = [msgspec.json.decode(row["payload"]) for row in rows]
    return [one for one in news if one["booking_id"] == booking_id]


async def holders(store: Store) -> list[str]:
    """Who holds the segments of the day, in their order, as portals see it."""
    async with store.read(HOSPITAL) as tx:
        return [row["practitioner_id"] for row in await list_slots(tx, date_from=DAY, date_to=DAY)]


@pytest.mark.parametrize(
    ("begin", "end", "hit"),
    [
        (at(8), None, [8]),
        (at(8), at(9), [8]),  # one that begins when it ends is not in it
        (at(8), at(9, 1), [8, 9]),
        (at(8, 30), at(11), [9, 10]),
        (at(7), at(12), [8, 9, 10]),
        (at(8, 1), at(9), []),
        (at(9), at(8), [9]),  # an end before its beginning is no end
        (at(8, day=NEXT), at(12, day=NEXT), []),
    ],
)
async def test_stop_hits_what_begins_in_its_hours(
    store: Store, hospital: Hospital, begin: dt.datetime, end: dt.datetime | None, hit: list[int]
) -> None:
    ids = await morning(store, hospital)
    for times in (len(hit), 0):
        assert await carry_stop(store, hospital, segments(begin, end)) == times
    states = {hour: (await get(store, i)).state for hour, i in zip(HOURS, ids, strict=True)}
    assert states == {hour: "stopped" if hour in hit else "booked" for hour in HOURS}


async def test_fetch_keeps_off_sale_what_begins_in_the_hours_of_a_listed_stop(store: Store, hospital: Hospital) -> None:
    await morning(store, hospital)
    slot_ids = [await put_slot(store, slot_id=f"{hour}", hour=hour) for hour in HOURS]
    async with store.write(HOSPITAL) as tx:
        records = [make_slot(5, slot_id=str(hour), hour=hour) for hour in HOURS]
        stopped = await apply_slots(
            tx, records, started_ms=tx.now_ms, ended_ms=tx.now_ms, his_cache_ms=0, stops=[segments(at(8), at(10))]
        )
    assert set(stopped) == set(slot_ids[:2])


async def test_those_who_begin_later_follow_as_far_behind_when_hours_move(store: Store, hospital: Hospital) -> None:
    """From 9 and 10 to 14 and 15."""
    ids = await morning(store, hospital)
    afternoon = make_schedule(session=Session.PM)
    news = [
        await put_slot(store, schedule=afternoon, slot_id=f"p{hour}", hour=hour, session=Session.PM)
        for hour in (13, 14, 15)
    ]
    event = segments(at(9), at(11), session=Session.PM, starts_at=at(14))
    assert await carry_stop(store, hospital, event) == 2
    assert await carry_stop(store, hospital, event) == 0
    seen = [await get(store, i) for i in ids]
    assert [one.slot_id for one in seen][1:] == news[1:]
    assert (seen[0].moved_ms, seen[1].state, seen[2].payment_state) == (None, "booked", "paid")


async def test_segment_follows_to_its_like_when_no_time_is_named(store: Store, hospital: Hospital) -> None:
    """The second of three is the second of three in the afternoon."""
    ids = await morning(store, hospital)
    afternoon = make_schedule(session=Session.PM)
    news = [
        await put_slot(store, schedule=afternoon, slot_id=f"p{hour}", hour=hour, session=Session.PM)
        for hour in (13, 14, 15)
    ]
    assert await carry_stop(store, hospital, segments(at(9), at(9, 30), session=Session.PM)) == 1
    assert (await get(store, ids[1])).slot_id == news[1]


async def test_hours_that_stay_where_they_are_only_change_hands(store: Store, hospital: Hospital) -> None:
    """A site may repeat when it is: the same time is no other place."""
    ids = await morning(store, hospital)
    event = segments(at(9), at(11), date=DAY, starts_at=at(9), practitioner_id="P2", practitioner_name="李医生")
    assert await carry_stop(store, hospital, event) == 2
    assert await holders(store) == ["P1", "P2", "P2"]
    assert [[one["cause"] for one in await told(store, i)] for i in ids] == [[], ["substituted"], ["substituted"]]
    with pytest.raises(Refusal, match="duplicate_booking"):  # and it is still on sale
        await hold(store, hospital, (await get(store, ids[2])).slot_id, await put_patient(store, WANG))


# --- where a hospital lists who holds each segment -----------------------------------------------------------------------


def listed(hour: int, practitioner: str | None) -> Slot:
    return make_slot(5, slot_id=str(hour), hour=hour, practitioner_id=practitioner, practitioner_name=practitioner)


async def show(store: Store, hospital: Hospital, wall: Wall, schedules: str, *slots: str | None) -> None:
    """A fetch: whose the session is, and who holds its segments; afterwards the bookings are told."""
    wall.turn(60)
    async with store.write(HOSPITAL) as tx:
        await put_schedules(tx, [make_schedule(practitioner_id=schedules, practitioner_name=schedules)])
        await fetch(tx, *(listed(hour, who) for hour, who in zip(HOURS, slots, strict=True)))
    await carry_moves(store, hospital)


async def test_only_those_are_told_whose_segment_somebody_else_holds(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    ids = await morning(store, hospital)

    async def news() -> list[list[tuple[str, str]]]:
        return [
            [(one["from"]["practitioner_id"], one["to"]["practitioner_id"]) for one in await told(store, i)]
            for i in ids
        ]

    for _ in range(2):
        await show(store, hospital, wall, "P1", "P1", "P2", "P1")
        assert (await holders(store), await news()) == (["P1", "P2", "P1"], [[], [("P1", "P2")], []])
    # Now most of it is the substitute's, so that the session is: the last patient is told, the first one not.
    for _ in range(2):
        await show(store, hospital, wall, "P2", "P1", "P2", "P2")
        assert (await holders(store), await news()) == (["P1", "P2", "P2"], [[], [("P1", "P2")], [("P1", "P2")]])
    # A list that does not say so of each segment changes nothing of them.
    await show(store, hospital, wall, "P2", None, None, None)
    assert await holders(store) == ["P1", "P2", "P2"]
    # And all of it is the first one's again.
    await show(store, hospital, wall, "P1", "P1", "P1", "P1")
    assert await holders(store) == ["P1", "P1", "P1"]
    back = [("P1", "P2"), ("P2", "P1")]
    assert await news() == [[], back, back]


async def test_substitute_is_told_once_when_the_visit_is_told_before_the_list_shows_it(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    ids = await morning(store, hospital)
    order_no = (await get(store, ids[1])).order_no
    for who in ("P1", "P2"):
        async with store.write(HOSPITAL) as tx:
            booking = await load_booking(tx, ids[1])
            assert booking is not None
            said = Registration(
                status=RegistrationStatus.REGISTERED, order_no=order_no, practitioner_id=who, practitioner_name=who
            )
            await hear_registration(tx, hospital, booking, said)
    version = (await get(store, ids[1])).version
    for _ in range(2):
        await show(store, hospital, wall, "P1", "P1", "P2", "P1")
    assert [one["to"]["practitioner_id"] for one in await told(store, ids[1])] == ["P2"]
    assert (await get(store, ids[1])).version == version


async def test_pushed_substitute_of_a_segment_stands_until_the_list_knows_somebody_new(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    await morning(store, hospital)
    await carry_stop(store, hospital, segments(at(9), None, practitioner_id="P2", practitioner_name="P2"))
    for said, after in (("P1", "P2"), ("P2", "P2"), ("P3", "P3"), ("P1", "P1")):
        await show(store, hospital, wall, "P1", "P1", said, "P1")
        assert await holders(store) == ["P1", after, "P1"]
