"""改诊 and 替诊: bookings follow their session, and everybody is told."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking.bookings import hear_registration
from booking.catalog import list_slots
from booking.errors import Refusal
from booking.fetches import put_schedules
from booking.inventory.requests import Answer
from booking.inventory.writer import HoldWriter
from booking.moves import load_booking
from booking.rescheduling.carrying import carry_moves
from booking.rescheduling.orders import follow_again
from booking.rules.settings import BookingRules, CancelCutoff
from booking.settings import Hospital, MovedWithoutPlace, ReserveBy
from booking.stops import apply_stop, carry_left_stops, carry_stop
from booking.store.engine import Store
from booking.store.tables import events, schedules, slots
from mappings.canonical import (
    NewPlace,
    Patient,
    Registration,
    RegistrationStatus,
    ScheduleStopped,
    Session,
    StopScope,
)
from tests.booking.world import (
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
    fetch,
    figures,
    get,
    hold,
    hold_writer,
    locked,
    make_hospital,
    make_schedule,
    make_slot,
    owed,
    pay,
    put_patient,
    put_slot,
    remaining,
    request,
    send,
    send_and_answer,
)
from tests.stores import Wall

NEXT = DAY + dt.timedelta(days=1)


def at(hour: int, day: dt.date = DAY, minute: int = 0) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(hour, minute), ZONE)


def moved(scope: StopScope = StopScope.SCHEDULE, begins: dt.datetime | None = None, /, **to: Any) -> ScheduleStopped:
    return ScheduleStopped(
        scope=scope, schedule_id="S1", date=DAY, session=Session.AM, starts_at=begins, moved_to=NewPlace(**to)
    )


async def put_next(store: Store, seats: int = 5, *, slot_id: str = "1", hour: int = 8, **changes: Any) -> str:
    """The same session a day later, or whatever the changes say."""
    schedule = make_schedule(**{"date": NEXT, **changes})
    starts_at = at(hour, schedule.date)
    return await put_slot(
        store, seats, schedule=schedule, slot_id=slot_id, date=schedule.date, session=schedule.session,
        starts_at=starts_at, ends_at=starts_at + dt.timedelta(minutes=30),
    )  # fmt: skip


async def told(store: Store, kind: str = "booking.moved") -> list[dict[str, Any]]:
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(events.c.payload).where(events.c.type == kind).order_by(events.c.id))
    return [msgspec.json.decode(row["payload"]) for row in rows]


async def taken(store: Store, slot_id: str) -> int:
    async with store.read(HOSPITAL) as tx:
        row = await tx.first(
            select(schedules.c.taken).where(
                schedules.c.id == select(slots.c.schedule_id).where(slots.c.id == slot_id).scalar_subquery()
            )
        )
    assert row is not None
    return int(row["taken"])


# --- a session goes elsewhere ------------------------------------------------------------------------------------------


async def test_bookings_keep_order_money_and_registration_when_their_session_moves(
    store: Store, hospital: Hospital
) -> None:
    old, new = await put_slot(store), await put_next(store)
    booking_id = await booked(store, hospital, old, await put_patient(store))
    before = await get(store, booking_id)
    assert await carry_stop(store, hospital, moved(date=NEXT)) == 1
    after = await get(store, booking_id)
    assert (after.slot_id, after.state, after.his_state) == (new, "booked", "registered")
    assert (after.order_no, after.payment_state, after.fee_fen) == (before.order_no, "paid", FEE_FEN)
    assert after.moved_ms is not None
    assert await owed(store, booking_id) == []
    (event,) = await told(store)
    assert (event["booking_id"], event["version"], event["cause"]) == (booking_id, after.version, "moved")
    assert (event["from"]["slot_id"], event["to"]["slot_id"]) == (old, new)
    assert event["from"]["starts_at"] == at(8).isoformat()
    assert event["to"]["starts_at"] == at(8, NEXT).isoformat()


async def test_nothing_changes_when_a_move_is_told_twice(store: Store, hospital: Hospital) -> None:
    old, new = await put_slot(store), await put_next(store)
    booking_id = await booked(store, hospital, old, await put_patient(store))
    await carry_stop(store, hospital, moved(date=NEXT))
    seen, seats = await get(store, booking_id), [await figures(store, slot) for slot in (old, new)]
    assert await carry_stop(store, hospital, moved(date=NEXT)) == 0
    assert await carry_left_stops(store, hospital) == 0
    assert await get(store, booking_id) == seen
    assert [await figures(store, slot) for slot in (old, new)] == seats
    assert len(await told(store)) == 1


async def test_seats_follow_when_bookings_move(store: Store, hospital: Hospital) -> None:
    """5 and 5 seats, three of ours under way on the first: all three are charged on the second, none on the first."""
    old, new = await put_slot(store), await put_next(store)
    for patient in (ZHANG, LI, WANG):
        await locked(store, hospital, old, await put_patient(store, patient))
    assert (await figures(store, old), await figures(store, new)) == ((5, 3), (5, 0))
    await carry_stop(store, hospital, moved(date=NEXT))
    assert (await figures(store, old), await figures(store, new)) == ((5, 0), (5, 3))
    assert (await taken(store, old), await taken(store, new)) == (0, 3)
    with pytest.raises(Refusal, match="schedule_stopped"):
        await hold(store, hospital, old, await put_patient(store, Patient(name="赵", id_type="other", id_number="X")))


async def test_seat_is_sold_once_when_a_fetch_had_begun_before_the_move(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    """The hospital counted two free seats of the new session, then moved one of ours into it: one is left."""
    old = await put_slot(store)
    new = await put_next(store, 2)
    booking_id = await booked(store, hospital, old, await put_patient(store))
    wall.turn(10)
    began_ms = wall.now_ms
    wall.turn(1)
    await carry_stop(store, hospital, moved(date=NEXT))
    starts = at(8, NEXT)
    record = make_slot(2, date=NEXT, starts_at=starts, ends_at=starts + dt.timedelta(minutes=30))
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, record, started_ms=began_ms)
    assert await remaining(store, new) == 1
    wall.turn(1)
    async with store.write(HOSPITAL) as tx:  # one that began after it has counted ours
        await fetch(tx, msgspec.structs.replace(record, seats_left=1))
    assert (await figures(store, new), (await get(store, booking_id)).charged) == ((1, 0), False)


async def test_only_the_segment_moves_when_the_move_names_one(store: Store, hospital: Hospital) -> None:
    early, late = await put_slot(store, slot_id="1", hour=8), await put_slot(store, slot_id="2", hour=9)
    later = await put_slot(store, slot_id="3", hour=10)
    one = await booked(store, hospital, early, await put_patient(store, ZHANG))
    two = await booked(store, hospital, late, await put_patient(store, LI))
    await carry_stop(store, hospital, moved(StopScope.SEGMENT, at(9), starts_at=at(10)))
    assert [(await get(store, b)).slot_id for b in (one, two)] == [early, later]
    with pytest.raises(Refusal, match="schedule_stopped"):
        await hold(store, hospital, late, await put_patient(store, WANG))
    assert (await hold(store, hospital, early, await put_patient(store, WANG))).state == "held"


async def test_only_the_order_moves_when_the_move_names_one(store: Store, hospital: Hospital) -> None:
    old, new = await put_slot(store), await put_next(store)
    one = await booked(store, hospital, old, await put_patient(store, ZHANG))
    two = await booked(store, hospital, old, await put_patient(store, LI))
    event = ScheduleStopped(
        scope=StopScope.ORDER, order_no=(await get(store, one)).order_no, moved_to=NewPlace(date=NEXT)
    )
    assert await carry_stop(store, hospital, event) == 1
    assert await carry_stop(store, hospital, event) == 0
    assert [(await get(store, b)).slot_id for b in (one, two)] == [new, old]
    assert (await hold(store, hospital, old, await put_patient(store, WANG))).state == "held"


@pytest.mark.parametrize(
    ("hours", "to", "ends_at_hours"),
    [
        pytest.param((8, 9), {"date": NEXT}, (8, 9), id="the same times of another day"),
        pytest.param((13, 14), {"session": Session.PM}, (13, 14), id="as far from the beginning"),
        pytest.param((9, 11), {"date": NEXT}, (9, 11), id="as many segments"),
        pytest.param((13, 14), {"schedule_id": "S9"}, (13, 14), id="another schedule"),
    ],
)
async def test_segments_follow_one_by_one_when_a_session_moves(
    store: Store, hospital: Hospital, hours: tuple[int, int], to: dict[str, Any], ends_at_hours: tuple[int, int]
) -> None:
    olds = [await put_slot(store, slot_id=str(hour), hour=hour) for hour in (8, 9)]
    changes = {
        "date": to.get("date", DAY),
        "session": to.get("session", Session.AM),
        "schedule_id": to.get("schedule_id", "S1"),
    }
    news = [await put_next(store, slot_id=str(hour), hour=hour, **changes) for hour in hours]
    ids = [
        await booked(store, hospital, old, await put_patient(store, who))
        for old, who in zip(olds, (ZHANG, LI), strict=True)
    ]
    await carry_stop(store, hospital, moved(**to))
    assert [(await get(store, i)).slot_id for i in ids] == news


async def test_late_outcomes_find_their_booking_when_it_has_moved_meanwhile(store: Store, hospital: Hospital) -> None:
    """A lock under way, a payment under way, a release under way: each ends as it would have, at the new slot."""
    old, new = await put_slot(store), await put_next(store)
    flying = (await hold(store, hospital, old, await put_patient(store, ZHANG))).id
    await send(store, flying)
    paying = await locked(store, hospital, old, await put_patient(store, LI))
    await pay(store, hospital, paying)
    await send(store, paying)
    leaving = await booked(store, hospital, old, await put_patient(store, WANG))
    await cancel(store, hospital, leaving)
    await send(store, leaving)
    await carry_stop(store, hospital, moved(date=NEXT))
    assert (await figures(store, old), await figures(store, new)) == ((5, 0), (5, 3))
    ends = [await answer(store, hospital, i) for i in (flying, paying, leaving)]
    assert [(b.slot_id, b.state) for b in ends] == [(new, "held"), (new, "booked"), (new, "cancelled")]
    assert await figures(store, new) == (5, 2)
    refused = (await hold(store, hospital, new, await put_patient(store, WANG))).id
    assert (await send_and_answer(store, hospital, refused, "full")).state == "rejected"


async def test_visits_that_are_over_stay_when_their_session_moves(store: Store, hospital: Hospital) -> None:
    old, new = await put_slot(store), await put_next(store)
    booking_id = await booked(store, hospital, old, await put_patient(store))
    await hear(store, hospital, booking_id, RegistrationStatus.FULFILLED)
    await carry_stop(store, hospital, moved(date=NEXT))
    assert ((await get(store, booking_id)).slot_id, await figures(store, new)) == (old, (5, 0))


# --- where it cannot follow --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", list(MovedWithoutPlace))
async def test_answer_is_defined_when_the_person_has_another_booking_there(
    store: Store, rule: MovedWithoutPlace
) -> None:
    hospital = make_hospital(moved_without_place=rule)
    old, new = await put_slot(store), await put_next(store)
    patient = await put_patient(store)
    other, booking_id = await booked(store, hospital, new, patient), await booked(store, hospital, old, patient)
    await carry_stop(store, hospital, moved(date=NEXT))
    seen = await get(store, booking_id)
    assert (seen.slot_id, seen.reason) == (old, "moved_duplicate")
    if rule == MovedWithoutPlace.ATTENTION:
        assert (seen.state, seen.needs_attention) == ("booked", True)
        assert await carry_left_stops(store, hospital) == 0  # it waits for a person, and is not stopped by the way
        await cancel(store, hospital, other)
        await send_and_answer(store, hospital, other)
        assert await carry_left_stops(store, hospital) == 1
        seen = await get(store, booking_id)
        assert (seen.slot_id, seen.reason, seen.needs_attention) == (new, None, False)
    else:
        assert (seen.state, seen.needs_attention) == ("stopped", False)
        assert await owed(store, booking_id) == [("refund_due", FEE_FEN, "moved_duplicate")]


@pytest.mark.parametrize("rule", list(MovedWithoutPlace))
async def test_booking_waits_for_a_fetch_when_the_new_place_is_not_known(
    store: Store, rule: MovedWithoutPlace, wall: Wall
) -> None:
    hospital = make_hospital(moved_without_place=rule)
    old = await put_slot(store)
    booking_id = await booked(store, hospital, old, await put_patient(store))
    await carry_stop(store, hospital, moved(date=NEXT))
    seen = await get(store, booking_id)
    assert (seen.slot_id, seen.state, seen.needs_attention, seen.reason) == (old, "booked", True, "moved_slot_unknown")
    wall.turn(5)
    if rule == MovedWithoutPlace.STOP:
        await carry_moves(store, hospital, fetched_ms=wall.now_ms)  # a whole fetch has not shown it
        assert (await get(store, booking_id)).state == "stopped"
        assert await owed(store, booking_id) == [("refund_due", FEE_FEN, "moved_slot_unknown")]
        return
    new = await put_next(store)
    assert await carry_moves(store, hospital, fetched_ms=wall.now_ms) == 1
    seen = await get(store, booking_id)
    assert (seen.slot_id, seen.needs_attention, seen.reason) == (new, False, None)
    assert (await figures(store, old), await figures(store, new)) == ((5, 0), (5, 1))


async def test_last_of_our_own_seats_is_not_given_twice_when_the_new_slot_is_full(store: Store) -> None:
    hospital = make_hospital(reserve_by=ReserveBy.QUOTA)
    old, new = await put_slot(store, 2), await put_next(store, 1)
    ids = [(await hold(store, hospital, old, await put_patient(store, who))).id for who in (ZHANG, LI)]
    await carry_stop(store, hospital, moved(date=NEXT))
    seen = [await get(store, i) for i in ids]
    assert [(b.slot_id, b.reason) for b in seen] == [(new, None), (old, "moved_slot_full")]
    assert (await figures(store, old), await figures(store, new)) == ((2, 1), (1, 1))


async def test_hospitals_word_is_the_seat_when_its_figure_shows_none(store: Store, hospital: Hospital) -> None:
    """It counted those whom it has moved already: none is left to sell, and nobody is turned away."""
    old, new = await put_slot(store), await put_next(store, 0)
    booking_id = await booked(store, hospital, old, await put_patient(store))
    await carry_stop(store, hospital, moved(date=NEXT))
    assert ((await get(store, booking_id)).slot_id, await remaining(store, new)) == (new, 0)


async def test_stop_reaches_those_who_could_not_follow_when_the_session_is_stopped_after_all(
    store: Store, hospital: Hospital
) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    await carry_stop(store, hospital, moved(date=NEXT))
    await carry_stop(store, hospital, ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1", date=DAY))
    assert (await get(store, booking_id)).state == "stopped"


async def test_a_move_that_names_nothing_is_a_stop(store: Store, hospital: Hospital) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    await carry_stop(store, hospital, moved())
    assert (await get(store, booking_id)).state == "stopped"


# --- another practitioner ----------------------------------------------------------------------------------------------


async def shown(store: Store, slot_id: str) -> tuple[Any, ...]:
    async with store.read(HOSPITAL) as tx:
        rows = await list_slots(tx, date_from=DAY, date_to=NEXT)
    return next((r["practitioner_id"], r["practitioner_name"], r["status"]) for r in rows if r["id"] == slot_id)


@pytest.mark.parametrize("scope", [StopScope.SCHEDULE, StopScope.SEGMENT])
async def test_bookings_and_slots_show_the_substitute_when_one_is_pushed(
    store: Store, hospital: Hospital, scope: StopScope
) -> None:
    slot_id, other = await put_slot(store), await put_slot(store, slot_id="2", hour=9)
    booking_id = await booked(store, hospital, slot_id, await put_patient(store))
    starts_at = at(8) if scope == StopScope.SEGMENT else None
    event = moved(scope, starts_at, practitioner_id="P2", practitioner_name="李医生")
    assert await carry_stop(store, hospital, event) == 1
    assert await carry_stop(store, hospital, event) == 0
    assert await shown(store, slot_id) == ("P2", "李医生", "open")
    assert (await shown(store, other))[0] == ("P2" if scope == StopScope.SCHEDULE else "P1")
    (news,) = await told(store)
    assert news["cause"] == "substituted"
    assert [news[side]["practitioner_id"] for side in ("from", "to")] == ["P1", "P2"]
    assert [news[side]["practitioner_name"] for side in ("from", "to")] == ["王医生", "李医生"]
    seen = await get(store, booking_id)
    assert (seen.slot_id, seen.state, seen.moved_ms is not None) == (slot_id, "booked", True)
    assert (await hold(store, hospital, slot_id, await put_patient(store, LI))).moved_ms is None


async def test_bookings_are_told_when_a_fetch_shows_another_practitioner_or_room(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    slot_id = await put_slot(store, schedule=make_schedule(location="3F"))
    booking_id = await booked(store, hospital, slot_id, await put_patient(store))
    for schedule in (
        make_schedule(location="3F", practitioner_id="P2", practitioner_name="李医生"),
        make_schedule(location="5F", practitioner_id="P2", practitioner_name="李医生"),
    ):
        for _ in range(2):
            wall.turn(60)
            async with store.write(HOSPITAL) as tx:
                assert await put_schedules(tx, [schedule]) == []
            await carry_moves(store, hospital)
    assert [(n["cause"], n["to"]["practitioner_id"], n["to"]["location"]) for n in await told(store)] == [
        ("substituted", "P2", "3F"),
        ("moved", "P2", "5F"),
    ]
    assert (await get(store, booking_id)).state == "booked"


async def test_pushed_substitute_stands_until_the_hospitals_list_knows_somebody_new(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    slot_id = await put_slot(store)
    await booked(store, hospital, slot_id, await put_patient(store))
    await carry_stop(store, hospital, moved(practitioner_id="P2", practitioner_name="李医生"))
    for practitioner, after in (("P1", "P2"), ("P2", "P2"), ("P3", "P3"), ("P1", "P1")):
        wall.turn(60)
        async with store.write(HOSPITAL) as tx:
            await put_schedules(tx, [make_schedule(practitioner_id=practitioner, practitioner_name=practitioner)])
        await carry_moves(store, hospital)
        assert (await shown(store, slot_id))[0] == after
    assert [n["to"]["practitioner_id"] for n in await told(store)] == ["P2", "P3", "P1"]


async def test_older_word_is_dropped_when_it_comes_late(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store)
    for minute, practitioner in ((2, "P3"), (1, "P2")):
        event = msgspec.structs.replace(moved(practitioner_id=practitioner), occurred_at=at(6, minute=minute))
        await carry_stop(store, hospital, event)
    assert (await shown(store, slot_id))[0] == "P3"


async def test_bookings_are_told_when_a_fetch_shows_their_segment_at_another_time(
    store: Store, hospital: Hospital
) -> None:
    slot_id = await put_slot(store)
    await booked(store, hospital, slot_id, await put_patient(store))
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(5, hour=10))
    assert await carry_moves(store, hospital) == 1
    assert await carry_moves(store, hospital) == 0
    (news,) = await told(store)
    assert [news[side]["starts_at"] for side in ("from", "to")] == [at(8).isoformat(), at(10).isoformat()]


# --- seen in a registration --------------------------------------------------------------------------------------------


async def hear(store: Store, hospital: Hospital, booking_id: str, status: RegistrationStatus, **said: Any) -> None:
    async with store.write(HOSPITAL) as tx:
        booking = await load_booking(tx, booking_id)
        assert booking is not None
        await hear_registration(tx, hospital, booking, Registration(status=status, **said))


@pytest.mark.parametrize("says_so", [True, False], ids=["S13", "S14 after another start"])
async def test_booking_moves_when_its_registration_is_elsewhere(
    store: Store, hospital: Hospital, says_so: bool
) -> None:
    old, new = await put_slot(store), await put_next(store)
    booking_id = await booked(store, hospital, old, await put_patient(store))
    if not says_so:
        await hear(store, hospital, booking_id, RegistrationStatus.REGISTERED, starts_at=at(8, minute=5))
        assert (await get(store, booking_id)).slot_id == old
    for _ in range(2):
        await hear(
            store, hospital, booking_id, RegistrationStatus.REGISTERED,
            starts_at=at(8, NEXT, 10), moved=says_so or None, queue_no="12",
        )  # fmt: skip
    seen = await get(store, booking_id)
    assert (seen.slot_id, seen.state) == (new, "booked")
    assert seen.registration is not None
    assert (seen.registration.queue_no, seen.registration.starts_at) == ("12", at(8, NEXT, 10))
    assert len(await told(store)) == 1


async def test_nobody_moves_when_the_hospital_tells_the_beginning_of_the_session(
    store: Store, hospital: Hospital
) -> None:
    await put_slot(store, slot_id="1", hour=8)
    slot_id = await put_slot(store, slot_id="2", hour=10)
    booking_id = await booked(store, hospital, slot_id, await put_patient(store))
    for _ in range(2):
        await hear(store, hospital, booking_id, RegistrationStatus.REGISTERED, starts_at=at(8))
    seen = await get(store, booking_id)
    assert (seen.slot_id, seen.needs_attention, await told(store)) == (slot_id, False, [])


async def test_booking_follows_later_when_its_new_place_was_not_known(store: Store, hospital: Hospital) -> None:
    old = await put_slot(store)
    booking_id = await booked(store, hospital, old, await put_patient(store))
    await hear(store, hospital, booking_id, RegistrationStatus.REGISTERED, starts_at=at(8, NEXT), moved=True)
    seen = await get(store, booking_id)
    assert (seen.slot_id, seen.state, seen.needs_attention, seen.reason) == (old, "booked", True, "moved_slot_unknown")
    assert await follow_again(store, hospital) == 0
    new = await put_next(store)
    assert await follow_again(store, hospital) == 1
    seen = await get(store, booking_id)
    assert (seen.slot_id, seen.needs_attention) == (new, False)


async def test_booking_shows_the_substitute_when_its_registration_names_one(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store)
    booking_id = await booked(store, hospital, slot_id, await put_patient(store))
    for practitioner in ("P1", "P2", "P2"):
        await hear(
            store, hospital, booking_id, RegistrationStatus.REGISTERED,
            practitioner_id=practitioner, practitioner_name=f"{practitioner} 医生",
        )  # fmt: skip
    (news,) = await told(store)
    assert (news["cause"], news["from"]["practitioner_id"], news["to"]["practitioner_id"]) == (
        "substituted",
        "P1",
        "P2",
    )


# --- beside holds ------------------------------------------------------------------------------------------------------


async def at_once(
    store: Store,
    hospital: Hospital,
    slot_id: str,
    patients: list[str],
    change: ScheduleStopped,
    wall: Wall,
    *,
    first: str,
) -> list[str]:
    """Holds that wait for the lock while a change is made, or that are made while it waits; the ids of the bookings made."""
    async with hold_writer(store) as writer:
        if first == "holds":
            async with store.write(HOSPITAL):  # both wait behind this one, and holds come first
                asked = [writer.ask(hospital, request(slot_id, patient)) for patient in patients]
                changing = asyncio.create_task(carry_stop(store, hospital, change))
                await waits(writer)
            await changing
        else:
            async with store.write(HOSPITAL) as tx:
                await apply_stop(tx, hospital, change)
                wall.turn(0.001)
                asked = [writer.ask(hospital, request(slot_id, patient)) for patient in patients]
                await waits(writer)
            await carry_stop(store, hospital, change)  # goes on beside them
        answers = await asyncio.gather(*asked)
    return [msgspec.json.decode(a.body)["id"] for a in answers if isinstance(a, Answer)]


async def waits(writer: HoldWriter) -> None:
    """Until the batch has been taken from the queue, and waits for the lock."""
    for _ in range(200):
        await asyncio.sleep(0.005)
        if not writer.waiting(HOSPITAL):
            return


@pytest.mark.parametrize("first", ["holds", "change"])
@pytest.mark.parametrize("kind", ["move", "stop", "substitution"])
async def test_nobody_is_lost_when_a_change_comes_while_holds_are_made(
    store: Store, hospital: Hospital, kind: str, first: str, wall: Wall
) -> None:
    """Whoever got a seat is moved, stopped or told; whoever came after is refused, or booked with the substitute."""
    old, new = await put_slot(store, 9), await put_next(store, 9)
    patients = [await put_patient(store, Patient(name=f"张{i}", id_type="other", id_number=f"X{i}")) for i in range(4)]
    change = {
        "move": moved(date=NEXT),
        "stop": ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1", date=DAY),
        "substitution": moved(practitioner_id="P2", practitioner_name="李医生"),
    }[kind]
    made = await at_once(store, hospital, old, patients, change, wall, first=first)
    seen = [await get(store, booking_id) for booking_id in made]
    if kind == "substitution":
        assert len(made) == 4
        before = [b for b in seen if b.moved_ms is not None]
        assert sorted(n["booking_id"] for n in await told(store)) == sorted(b.id for b in before)
        assert len(before) == (4 if first == "holds" else 0)
    else:
        assert len(made) == (4 if first == "holds" else 0)
        expected = ("held", new) if kind == "move" else ("stopped", old)
        assert {(b.state, b.slot_id) for b in seen} <= {expected}
    assert await carry_left_stops(store, hospital) == 0
    charged = sum(b.charged for b in seen)
    assert (await figures(store, old))[1] + (await figures(store, new))[1] == charged


async def test_nobody_is_left_behind_when_a_crash_cuts_a_move_off(store: Store, hospital: Hospital) -> None:
    old, new = await put_slot(store), await put_next(store)
    booking_id = await booked(store, hospital, old, await put_patient(store))
    async with store.write(HOSPITAL) as tx:
        await apply_stop(tx, hospital, moved(date=NEXT))  # and then we die
    assert (await get(store, booking_id)).slot_id == old
    assert await carry_left_stops(store, hospital) == 1
    assert ((await get(store, booking_id)).slot_id, len(await told(store))) == (new, 1)


async def test_moved_booking_may_be_cancelled_when_the_cutoff_is_over(store: Store, hospital: Hospital) -> None:
    """Closed a month before the visit for everybody but those whom the hospital has moved."""
    closed = make_hospital(rules=BookingRules(cancel_cutoffs=(CancelCutoff(before_s=2_678_400.0),)))
    old = await put_slot(store)
    await put_next(store)
    booking_id = await booked(store, closed, old, await put_patient(store))
    with pytest.raises(Refusal, match="cancel_too_late"):
        await cancel(store, closed, booking_id)
    await carry_stop(store, closed, moved(date=NEXT))
    assert (await cancel(store, closed, booking_id)).state == "cancelling"
