"""What else happens to a line: its session moves, its patients are unbound or become one, its hospital is away."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest
from sqlalchemy import select

from booking.people import hear_patient, merge_persons, unbind_patient
from booking.stops import carry_stop
from booking.store.engine import Store
from booking.store.tables import events, outbox
from booking.waitlist.records import Entry
from mappings.canonical import NewPlace, ScheduleStopped, Session, StopScope
from tests.booking.rules.test_returned_seats import shown
from tests.booking.waitlist.lines import (
    accept,
    counts,
    join_line,
    joined,
    look,
    position,
    someone,
    states,
    sweep,
    with_line,
)
from tests.booking.world import CLIENT, DAY, HOSPITAL, cancel, hold, make_schedule, put_patient, put_slot

OTHER = "another"


async def told(store: Store, entry: Entry) -> list[tuple[str, str | None]]:
    """(state, reason) of what the portal was told of an entry."""
    async with store.read() as tx:
        rows = await tx.all(select(events).where(events.c.type == "waitlist.changed").order_by(events.c.id))
    news = [msgspec.json.decode(row["payload"]) for row in rows]
    return [(one["state"], one.get("reason")) for one in news if one["entry_id"] == entry.id]


async def whole_line_is_over(store: Store, entries: list[Entry]) -> None:
    for _ in range(5):
        await sweep(store, with_line())
    assert await states(store, *entries) == ["cleared"] * len(entries)
    assert await counts(store) == (0, 0)


@pytest.mark.parametrize(
    ("to", "reason"),
    [(NewPlace(date=DAY + dt.timedelta(days=1)), "schedule_moved"), (None, "schedule_stopped")],
)
async def test_line_is_cleared_with_the_reason_when_its_session_is_held_elsewhere(
    store: Store, to: NewPlace | None, reason: str
) -> None:
    """There, there may be seats for all; and whoever cannot come then would be in the way of who can."""
    hospital = with_line()
    slot_id = await put_slot(store, 1)
    await put_slot(store, 5, schedule=make_schedule(date=DAY + dt.timedelta(days=1)), date=DAY + dt.timedelta(days=1))
    taken = await hold(store, hospital, slot_id, await put_patient(store))
    entries = [await joined(store, hospital, n) for n in (1, 2)]
    await cancel(store, hospital, taken.id)
    await sweep(store, hospital)
    await carry_stop(
        store, hospital,
        ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1", date=DAY, session=Session.AM, moved_to=to),
    )  # fmt: skip
    await whole_line_is_over(store, entries)
    assert await told(store, entries[0]) == [("waiting", None), ("offered", None), ("cleared", reason)]
    assert await told(store, entries[1]) == [("waiting", None), ("cleared", reason)]


@pytest.mark.parametrize("offered", [False, True])
async def test_place_of_an_unbound_patient_goes_to_the_next(store: Store, offered: bool) -> None:
    """Nobody could accept for them, and a seat would lie for a day."""
    hospital = with_line()
    slot_id = await put_slot(store, 1)
    taken = await hold(store, hospital, slot_id, await put_patient(store))
    gone, next_one = await joined(store, hospital, 1), await joined(store, hospital, 2)
    if offered:
        await cancel(store, hospital, taken.id)
        await sweep(store, hospital)
        assert await states(store, gone, next_one) == ["offered", "waiting"]
    async with store.write(HOSPITAL) as tx:
        await unbind_patient(tx, CLIENT, gone.patient_id)
    if not offered:
        await cancel(store, hospital, taken.id)
    for _ in range(3):
        await sweep(store, hospital)
    assert await states(store, gone, next_one) == ["cleared", "offered"]
    assert (await told(store, gone))[-1] == ("cleared", "patient_unbound")


@pytest.mark.parametrize("first_is_retired", [True, False])
@pytest.mark.parametrize("offered", [False, True])
async def test_two_who_become_one_person_have_the_earlier_place_alone(
    store: Store, first_is_retired: bool, offered: bool
) -> None:
    hospital = with_line()
    slot_id = await put_slot(store, 1)
    taken = await hold(store, hospital, slot_id, await put_patient(store))
    patients = [await put_patient(store, someone(n), client=who) for n, who in ((1, CLIENT), (2, OTHER))]
    async with store.write(HOSPITAL) as tx:
        for n in (1, 2):
            await hear_patient(tx, msgspec.structs.replace(someone(n), mrn=f"M{n}"))
    first = await join_line(store, hospital, patients[0])
    between = await joined(store, hospital, 3)
    second = await join_line(store, hospital, patients[1], client=OTHER)
    if offered:
        await cancel(store, hospital, taken.id)
        await sweep(store, hospital)
    async with store.write(HOSPITAL) as tx:
        surviving, retired = ("M2", "M1") if first_is_retired else ("M1", "M2")
        await merge_persons(tx, surviving_mrn=surviving, retired_mrn=retired)
    for _ in range(4):
        await sweep(store, hospital)
    assert await states(store, first, between, second) == ["offered" if offered else "waiting", "waiting", "cleared"]
    assert (await told(store, second))[-1] == ("cleared", "already_waiting")
    assert await position(store, between) == (1 if offered else 2)
    assert await counts(store) == ((1, 1) if offered else (2, 0))
    if not offered:
        await cancel(store, hospital, taken.id)
        await sweep(store, hospital)
    assert (await accept(store, hospital, first)).patient_id == patients[0]
    assert await shown(store, slot_id) == {0}
    assert await sweep(store, hospital) == 0


async def test_offer_and_accept_ask_nothing_of_a_hospital_that_is_away(store: Store) -> None:
    """Nothing of a line asks the hospital: the hold that accepts waits for its lock as any other does."""
    hospital = with_line()
    slot_id = await put_slot(store, 1)
    taken = await hold(store, hospital, slot_id, await put_patient(store))  # its lock was never sent
    entry = await joined(store, hospital, 1)
    await cancel(store, hospital, taken.id)
    await sweep(store, hospital)
    assert await states(store, entry) == ["offered"]
    booking = await accept(store, hospital, entry)
    assert (booking.state, booking.his_state, booking.his_command) == ("held", "none", "lock")
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(outbox.c.verb, outbox.c.status).where(outbox.c.line == f"booking:{booking.id}"))
    assert [(row["verb"], row["status"]) for row in rows] == [("lock_slot", "queued")]
    assert (await look(store, entry)).booking_id == booking.id
