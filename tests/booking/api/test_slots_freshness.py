"""Every change shows in another process within 200 ms, and what the clock changes shows to the millisecond."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from booking.feed.poller import Clocks, Poller
from booking.fetches import put_departments, put_practitioners, put_schedules
from booking.settings import Hospital
from booking.stops import apply_stop
from booking.store.engine import Store, StoreUnavailable
from mappings.canonical import Department, Practitioner, ScheduleStopped, StopScope
from tests.booking.api.catalogue_site import Site, another_process, serve_catalogue
from tests.booking.world import (
    DAY,
    HOSPITAL,
    ZHANG,
    ZONE,
    cancel,
    fetch,
    hold,
    make_schedule,
    make_slot,
    put_patient,
    put_slot,
)
from tests.stores import BEGIN_MS, Wall, unreachable

SLOTS = "/v1/hospitals/h1/slots?from=2031-03-04&to=2031-03-04&department_id=D1"
MOST_S = 0.2

Change = Callable[[Store, Hospital, str, str], Awaitable[Any]]


async def shows(site: Site, path: str, shown: Callable[[list[dict[str, Any]]], bool]) -> None:
    """Ask from the commit on until it shows: no answer that is asked for more than 200 ms after it may be without it."""
    committed_s = time.monotonic()
    while True:
        asked_s = time.monotonic()
        items = (await site.ask(path)).items
        if shown(items):
            return
        assert asked_s - committed_s <= MOST_S, items


async def refetch(store: Store, *_: Any) -> None:
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(3))


async def stop(store: Store, hospital: Hospital, *_: Any) -> None:
    async with store.write(HOSPITAL) as tx:
        await apply_stop(tx, hospital, ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1"))


async def raise_price(store: Store, *_: Any) -> None:
    async with store.write(HOSPITAL) as tx:
        await put_schedules(tx, [make_schedule(fee_fen=9_900)])


async def add_slot(store: Store, *_: Any) -> None:
    await put_slot(store, 2, slot_id="2", hour=9)


async def hold_seat(store: Store, hospital: Hospital, slot_id: str, patient_id: str) -> None:
    await hold(store, hospital, slot_id, patient_id)


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        (hold_seat, "remaining", 4),
        (refetch, "remaining", 3),
        (stop, "status", "stopped"),
        (raise_price, "fee_fen", 9_900),
    ],
)
async def test_change_shows_within_200_ms_when_another_process_writes_it(
    store: Store, hospital: Hospital, wall: Wall, change: Change, field: str, value: Any
) -> None:
    slot_id, patient_id = await put_slot(store, 5), await put_patient(store)
    async with another_process(store, hospital, wall) as site:
        (before,) = (await site.ask(SLOTS)).items
        assert before[field] != value
        wall.turn(1)  # a fetch at the very instant of the one before would be the older one
        await change(store, hospital, slot_id, patient_id)
        await shows(site, SLOTS, lambda items: items[0][field] == value)


async def test_seat_is_shown_again_when_its_hold_is_cancelled(store: Store, hospital: Hospital, wall: Wall) -> None:
    slot_id, patient_id = await put_slot(store, 1), await put_patient(store)
    async with another_process(store, hospital, wall) as site:
        booking = await hold(store, hospital, slot_id, patient_id)
        await shows(site, SLOTS, lambda items: items[0]["status"] == "sold_out")
        await cancel(store, hospital, booking.id)
        await shows(site, SLOTS, lambda items: (items[0]["status"], items[0]["remaining"]) == ("open", 1))


@pytest.mark.parametrize("department", ["", "&department_id=D7"])
async def test_department_is_shown_when_it_gets_its_first_slot(
    store: Store, hospital: Hospital, wall: Wall, department: str
) -> None:
    path = "/v1/hospitals/h1/slots?from=2031-03-04&to=2031-03-04" + department
    async with another_process(store, hospital, wall) as site:
        assert (await site.ask(path)).items == []
        await put_slot(store, 1, schedule=make_schedule("S7", department_id="D7"))
        await shows(site, path, lambda items: [i["department_id"] for i in items] == ["D7"])


async def test_master_lists_show_a_change_within_200_ms(store: Store, hospital: Hospital, wall: Wall) -> None:
    async with another_process(store, hospital, wall) as site:
        of = "/v1/hospitals/h1"
        for path in ("departments", "practitioners", "practitioners?department_id=D1"):
            assert (await site.ask(f"{of}/{path}")).items == []
        async with store.write(HOSPITAL) as tx:
            await put_departments(tx, [Department(id="D1", name="内科")])
        await shows(site, f"{of}/departments", lambda items: [i["name"] for i in items] == ["内科"])
        async with store.write(HOSPITAL) as tx:
            await put_practitioners(tx, [Practitioner(id="P1", name="王医生", department_id="D1")])
        await shows(site, f"{of}/practitioners?department_id=D1", lambda items: [i["id"] for i in items] == ["P1"])


async def test_own_hold_shows_at_once_when_there_is_no_crowd(store: Store, hospital: Hospital) -> None:
    """Somebody who has just booked looks again: the seat is gone, and not two tenths of a second later."""
    slot_id, patient_id = await put_slot(store, 5), await put_patient(store)
    async with serve_catalogue(store, hospital) as site:
        assert [i["remaining"] for i in await site.slots()] == [5]
        booking = await hold(store, hospital, slot_id, patient_id)
        assert [i["remaining"] for i in await site.slots()] == [4]
        await cancel(store, hospital, booking.id)
        assert [i["remaining"] for i in await site.slots()] == [5]


# --- the clock --------------------------------------------------------------------------------------------------------


async def test_opening_shows_to_the_millisecond_when_nothing_is_written_or_read(
    store: Store, hospital: Hospital, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens_at = dt.datetime.combine(DAY - dt.timedelta(days=1), dt.time(7), ZONE)
    opens_ms = round(opens_at.timestamp() * 1000)
    begins_ms = round(dt.datetime.combine(DAY, dt.time(8), ZONE).timestamp() * 1000)
    assert BEGIN_MS < opens_ms < begins_ms
    await put_slot(store, 5, schedule=make_schedule(opens_at=opens_at))
    async with another_process(store, hospital, wall) as site:
        assert [i["status"] for i in (await site.ask(SLOTS)).items] == ["not_released"]

        def never(*_: Any) -> None:
            raise AssertionError("read the store")

        monkeypatch.setattr(Store, "read", never)
        shown = []
        for at_ms in (opens_ms - 1, opens_ms, begins_ms - 1, begins_ms):
            wall.now_ms = at_ms
            (item,) = (await site.ask(SLOTS)).items
            shown.append((item["status"], item["remaining"]))
        assert shown == [("not_released", 5), ("open", 5), ("open", 5), ("stopped", 0)]


async def test_list_from_today_begins_with_the_new_day_when_midnight_has_passed(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    """The day is the hospital's, by the store's clock."""
    today = dt.datetime.fromtimestamp(BEGIN_MS / 1000, ZONE).date()
    for n, day in enumerate((today, today + dt.timedelta(days=1))):
        starts_at = dt.datetime.combine(day, dt.time(23, 59), ZONE)
        ends_at = starts_at + dt.timedelta(minutes=30)
        schedule = make_schedule(f"S{n}", date=day)
        await put_slot(store, 1, schedule=schedule, date=day, starts_at=starts_at, ends_at=ends_at)
    async with another_process(store, hospital, wall) as site:
        assert len(await site.slots("department_id=D1")) == 2
        midnight = dt.datetime.combine(today + dt.timedelta(days=1), dt.time(), ZONE)
        wall.now_ms = round(midnight.timestamp() * 1000) - 1
        assert len(await site.slots("department_id=D1")) == 2
        wall.now_ms += 1
        assert len(await site.slots("department_id=D1")) == 1


# --- when the feed or the store is away -------------------------------------------------------------------------------


async def test_lists_are_read_through_the_store_when_the_feed_is_behind(
    store: Store, hospital: Hospital, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot_id, patient_id = await put_slot(store, 5), await put_patient(store, ZHANG)
    async with another_process(store, hospital, wall) as site:
        assert (await site.ask(SLOTS)).items[0]["remaining"] == 5
        clocks = Poller.clocks

        async def fail(self: Poller) -> Clocks:
            raise OSError("away")

        monkeypatch.setattr(Poller, "clocks", fail)
        booking = await hold(store, hospital, slot_id, patient_id)
        await shows(site, SLOTS, lambda items: items[0]["remaining"] == 4)
        await cancel(store, hospital, booking.id)
        await shows(site, SLOTS, lambda items: items[0]["remaining"] == 5)
        monkeypatch.setattr(Poller, "clocks", clocks)
        await hold(store, hospital, slot_id, patient_id)
        await shows(site, SLOTS, lambda items: items[0]["remaining"] == 4)


async def test_last_list_is_shown_with_its_age_for_a_while_when_neither_feed_nor_store_answer(
    store: Store, hospital: Hospital, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put_slot(store, 5)
    other = SLOTS + "&practitioner_id=nobody"  # nobody has asked for this list before
    async with another_process(store, hospital, wall) as site:
        before = await site.ask(SLOTS)
        assert (before.status, before.headers.get("Age")) == (200, None)

        async def fail(self: Poller) -> Clocks:
            raise OSError("away")

        def refuse(*_: Any) -> None:
            raise StoreUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr("booking.snapshots.answers.STALE_S", 1.5)
            patch.setattr(Poller, "clocks", fail)
            patch.setattr(Store, "read", refuse)
            gone_s, ages = time.monotonic(), list[str | None]()
            while (answer := await site.ask(SLOTS)).status == 200:
                ages.append(answer.headers.get("Age"))
                assert answer.items == before.items
                assert time.monotonic() - gone_s < 10
            assert time.monotonic() - gone_s >= 1.0  # the last poll that succeeded began a little before
            assert (answer.status, answer.json["code"]) == (503, "store_unavailable")
            # As it was for what may still be known, then with a second, then with two; rounded up.
            assert list(dict.fromkeys(ages)) == [None, "1", "2"]
            assert (await site.ask(other)).status == 503
        while (answer := await site.ask(SLOTS)).status != 200:  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.01)
        await shows(site, SLOTS, lambda items: len(items) == 1)


async def test_last_list_is_shown_to_who_asked_before_it_was_known_that_the_store_says_nothing(
    store: Store, hospital: Hospital, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is frozen takes every question: the feed knows it only when its own poll has taken too long."""
    await put_slot(store, 5)
    thaws = asyncio.Event()
    async with another_process(store, hospital, wall) as site:
        before = await site.ask(SLOTS)
        clocks, read = Poller.clocks, Store.read

        async def wait_and_tell(self: Poller) -> Clocks:
            await thaws.wait()
            return await clocks(self)

        @asynccontextmanager
        async def wait_and_read(self: Store, *args: Any, **options: Any) -> AsyncIterator[Any]:
            await thaws.wait()
            async with read(self, *args, **options) as tx:
                yield tx

        with monkeypatch.context() as patch:
            patch.setattr("booking.feed.changes.POLL_TIMEOUT_S", 1.5)
            patch.setattr(Poller, "clocks", wait_and_tell)
            patch.setattr(Store, "read", wait_and_read)
            asked = [asyncio.create_task(site.ask(SLOTS))]
            while not site.feed.is_away:
                await asyncio.sleep(0.1)
                asked.append(asyncio.create_task(site.ask(SLOTS)))
            try:
                async with asyncio.timeout(20):
                    answers = await asyncio.gather(*asked)
            finally:
                thaws.set()
            assert {answer.status for answer in answers} == {200}
            assert all(answer.items == before.items for answer in answers)
            assert answers[-1].headers.get("Age") is not None


async def test_opening_is_not_missed_when_the_store_is_away(
    store: Store, hospital: Hospital, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the clock has made another is not shown as it was: nobody is told "not released" after the opening."""
    opens_at = dt.datetime.combine(DAY - dt.timedelta(days=1), dt.time(7), ZONE)
    await put_slot(store, 5, schedule=make_schedule(opens_at=opens_at))
    async with another_process(store, hospital, wall) as site:
        assert [i["status"] for i in (await site.ask(SLOTS)).items] == ["not_released"]

        async def fail(self: Poller) -> Clocks:
            raise OSError("away")

        def refuse(*_: Any) -> None:
            raise StoreUnavailable("away")

        monkeypatch.setattr(Poller, "clocks", fail)
        monkeypatch.setattr(Store, "read", refuse)
        while (answer := await site.ask(SLOTS)).headers.get("Age") is None:
            assert answer.status == 200
            await asyncio.sleep(0.01)
        wall.now_ms = round(opens_at.timestamp() * 1000)
        assert (await site.ask(SLOTS)).status == 503


async def test_answer_is_503_when_the_store_was_never_reached(engine: str, tmp_path: Any, hospital: Hospital) -> None:
    async with unreachable(engine, tmp_path) as store, serve_catalogue(store, hospital) as site:
        for path in ("slots", "departments", "practitioners"):
            answer = await site.ask(f"/v1/hospitals/h1/{path}")
            assert (answer.status, answer.json["code"]) == (503, "store_unavailable")
            assert "ETag" not in answer.headers


async def test_crowd_reads_once_when_the_feed_is_behind(
    store: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put_slot(store, 5)
    reads = 0
    async with serve_catalogue(store, hospital, feeds=False) as site:
        read = Store.read

        def counted(self: Store, hospital_id: str = "", **how: Any) -> Any:
            nonlocal reads
            reads += hospital_id == HOSPITAL
            return read(self, hospital_id, **how)

        monkeypatch.setattr(Store, "read", counted)
        begun_s = time.monotonic()
        answers = await asyncio.gather(*(site.ask(SLOTS) for _ in range(100)))
        took_s = time.monotonic() - begun_s
        assert {len(answer.items) for answer in answers} == {1}
        assert 1 <= reads <= 1 + took_s / MOST_S
