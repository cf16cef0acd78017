"""What goes, what stays, and that large deletions and large bills leave room for bookings."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest
from sqlalchemy import func, select, update

from booking.fetches import put_departments
from booking.idempotency import forget_keys, remember
from booking.merchant_bills import forget_merchant_bills, put_merchant_bill
from booking.news import forget_events, number_all, number_events, tell
from booking.reconciliation import Entry
from booking.retention import forget_commands, forget_slots
from booking.settings import Hospital
from booking.store.engine import Store, changes_topic
from booking.store.tables import events, fragments, idempotency_keys, merchant_lines, outbox, schedules, slots
from mappings.canonical import Department
from tests.booking.bills import merchant_entries
from tests.booking.world import CLIENT, DAY, HOSPITAL, booked, make_schedule, put_patient, put_slot
from tests.stores import Wall

DAY_S = 24 * 3600
SENT = dt.date(2031, 3, 3)


async def count(store: Store, table: Any) -> int:
    async with store.read(HOSPITAL) as tx:
        row = await tx.first(select(func.count().label("n")).select_from(table))
    assert row is not None
    return int(row["n"])


async def drain(forget: Any) -> list[int]:
    """What each call deleted, until nothing is left."""
    found = []
    while deleted := await forget():
        found.append(deleted)
    return found


# --- growth ------------------------------------------------------------------------------------------------------------


async def test_settled_commands_go_and_open_ones_stay_when_thirty_days_have_passed(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    await booked(store, hospital, await put_slot(store), await put_patient(store))  # lock and register, both done
    async with store.write(HOSPITAL) as tx:
        for n, status in enumerate(("queued", "sent", "unknown", "dead", "dropped")):
            await tx.insert(
                outbox,
                {
                    "hospital_id": HOSPITAL, "id": f"0000-{n}", "line": f"x:{n}", "verb": "register", "subject_id": "b",
                    "rank": 0, "status": status, "due_ms": 0, "created_ms": 0, "updated_ms": tx.now_ms,
                },
            )  # fmt: skip
    wall.turn(30 * DAY_S)
    assert await drain(lambda: forget_commands(store, HOSPITAL)) == []
    wall.turn(0.001)
    assert await drain(lambda: forget_commands(store, HOSPITAL, limit=2)) == [2, 1]
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(outbox.c.status))
    assert {r["status"] for r in rows} == {"queued", "sent", "unknown", "dead"}


async def test_past_slots_go_and_what_was_booked_stays_when_their_day_is_long_over(
    store: Store, hospital: Hospital
) -> None:
    kept = await put_slot(store)
    await put_slot(store, slot_id="2", hour=9)  # of the same schedule, never booked
    await put_slot(store, schedule=make_schedule("S2"))
    await booked(store, hospital, kept, await put_patient(store))
    assert await drain(lambda: forget_slots(store, HOSPITAL, before=DAY)) == []
    after = DAY + dt.timedelta(days=1)
    assert await drain(lambda: forget_slots(store, HOSPITAL, before=after, since=after)) == []
    assert sum(await drain(lambda: forget_slots(store, HOSPITAL, before=after, limit=1))) == 3
    async with store.read(HOSPITAL) as tx:
        assert [r["id"] for r in await tx.all(select(slots.c.id))] == [kept]
        assert [r["his_id"] for r in await tx.all(select(schedules.c.his_id))] == ["S1"]


async def test_readers_forget_a_day_when_nothing_is_left_of_it(store: Store, hospital: Hospital) -> None:
    kept = await put_slot(store)
    await booked(store, hospital, kept, await put_patient(store))
    await put_slot(store, schedule=make_schedule("S2", department_id="D2"))
    async with store.write(HOSPITAL) as tx:
        await put_departments(tx, [Department(id="D1", name="内科")])
        before_seq = tx.seq
    after = DAY + dt.timedelta(days=1)
    told = store.bell.listen(changes_topic(HOSPITAL))
    assert await forget_slots(store, HOSPITAL, before=after) == 1
    assert told.done()  # who shows the day must look again
    async with store.read(HOSPITAL) as tx:
        changed = {r["department_id"]: r["changed"] for r in await tx.all(select(fragments))}
    assert changed["D2"] > before_seq > changed["D1"]
    await drain(lambda: forget_slots(store, HOSPITAL, before=after))
    async with store.read(HOSPITAL) as tx:
        left = {(r["date"], r["department_id"]) for r in await tx.all(select(fragments))}
    assert left == {("", ""), (DAY.isoformat(), "D1")}


async def test_old_keys_all_go_when_there_are_more_than_one_round(store: Store, wall: Wall) -> None:
    async with store.write(HOSPITAL) as tx:
        for n in range(7):
            await remember(tx, CLIENT, f"k{n}", "d", 201, b"{}")
    wall.turn(DAY_S)
    async with store.write(HOSPITAL) as tx:
        await remember(tx, "another", "k1", "d", 201, b"{}")
    assert await drain(lambda: forget_keys(store, HOSPITAL, limit=3)) == [3, 3, 1]
    assert await count(store, idempotency_keys) == 1


async def test_old_events_all_go_when_there_are_more_than_one_round(store: Store, wall: Wall) -> None:
    for _ in range(2):
        async with store.write(HOSPITAL) as tx:
            for n in range(7):
                await tell(tx, CLIENT, "test.said", {"n": n})
        await number_all(store)
        wall.turn(30 * DAY_S + 1)
    assert sum(await drain(lambda: forget_events(store, limit=3))) == 13
    assert await count(store, events) == 1  # the newest carries the last number


async def test_events_are_numbered_in_small_rounds_when_there_are_many(store: Store) -> None:
    async with store.write(HOSPITAL) as tx:
        for n in range(250):
            await tell(tx, CLIENT, "test.said", {"n": n})
    assert await number_events(store) == 100
    await number_all(store)
    async with store.read() as tx:
        rows = await tx.all(select(events.c.seq).order_by(events.c.id))
    assert [r["seq"] for r in rows] == list(range(1, 251))


async def test_a_ring_is_heard_when_an_event_is_written(store: Store) -> None:
    asked, numbered = store.bell.listen("#events"), store.bell.listen("#numbered")
    async with store.write(HOSPITAL) as tx:
        await tell(tx, CLIENT, "test.said", {})
        assert not asked.done()  # only what is committed can be numbered
    assert asked.done()
    await number_events(store)
    assert numbered.done()


# --- merchants' bills --------------------------------------------------------------------------------------------------


def lines(n: int) -> list[tuple[str, str, str, int, int | None]]:
    return [("payment", "wechat", f"T{i:05}", 1, None) for i in range(n)]


async def seen(store: Store) -> list[Entry] | None:
    return await merchant_entries(store, SENT)


async def test_bill_before_stands_when_the_next_breaks_off(store: Store) -> None:
    await put_merchant_bill(store, HOSPITAL, SENT, lines(3))
    broken: list[Any] = [*lines(600), ("payment", "wechat", None, 1, None)]  # no such line can be stored
    with pytest.raises(Exception, match=r"(?i)not.null"):
        await put_merchant_bill(store, HOSPITAL, SENT, broken)
    assert await seen(store) == [Entry(f"T{i:05}", "wechat", 1) for i in range(3)]
    await put_merchant_bill(store, HOSPITAL, SENT, lines(2))
    assert await seen(store) == [Entry(f"T{i:05}", "wechat", 1) for i in range(2)]
    assert await count(store, merchant_lines) == 4  # two lines, and two that mark the revision


async def test_bookings_go_on_when_a_large_bill_is_stored(store: Store) -> None:
    """Another writer gets its turn between any two chunks, and reads the bill before until the new one is whole."""
    await put_merchant_bill(store, HOSPITAL, SENT, lines(1))
    large = asyncio.create_task(put_merchant_bill(store, HOSPITAL, SENT, lines(5_000)))
    turns, sizes = 0, set()
    while not large.done():
        async with store.write("another"):
            turns += 1
        found = await seen(store)
        assert found is not None
        sizes.add(len(found))
    await large
    assert turns >= 5
    assert sizes <= {1, 5_000}
    found = await seen(store)
    assert found is not None
    assert len(found) == 5_000


async def test_one_of_two_bills_is_whole_when_both_are_sent_at_once(store: Store) -> None:
    await asyncio.gather(*(put_merchant_bill(store, HOSPITAL, SENT, lines(n)) for n in (700, 1_200)))
    found = await seen(store)
    assert found is not None
    assert len(found) in (700, 1_200)
    assert len(set(found)) == len(found)


async def test_bill_of_a_day_without_money_is_known_when_it_was_sent(store: Store) -> None:
    assert await seen(store) is None
    await put_merchant_bill(store, HOSPITAL, SENT, [])
    assert await seen(store) == []


async def test_old_bills_go_whole_when_their_days_are_over(store: Store) -> None:
    await put_merchant_bill(store, HOSPITAL, SENT, lines(600))
    await put_merchant_bill(store, HOSPITAL, SENT + dt.timedelta(days=1), lines(1))
    assert await drain(lambda: forget_merchant_bills(store, HOSPITAL, before=SENT)) == []
    before = SENT + dt.timedelta(days=1)
    assert sum(await drain(lambda: forget_merchant_bills(store, HOSPITAL, before=before))) == 602
    assert await seen(store) is None
    assert await count(store, merchant_lines) == 3


async def test_nothing_of_another_hospital_goes_when_one_is_swept(store: Store, wall: Wall) -> None:
    await put_merchant_bill(store, HOSPITAL, SENT, lines(1))
    await put_slot(store)
    async with store.write(HOSPITAL) as tx:
        await remember(tx, CLIENT, "k1", "d", 201, b"{}")
        await tx.run(update(slots).values(date="2020-01-01"))
    wall.turn(900 * DAY_S)
    far = DAY + dt.timedelta(days=900)
    assert await forget_slots(store, "another", before=far) == 0
    assert await forget_merchant_bills(store, "another", before=far) == 0
    assert await forget_keys(store, "another") == 0
