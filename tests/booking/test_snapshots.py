"""Ready-made days: their faces by the clock, one reading for a whole crowd, and a bound on what they take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.dialects import postgresql

from booking.feed import ChangeFeed
from booking.snapshots.day import FOREVER_MS, Day, make_day, next_change_ms
from booking.snapshots.days import REREAD_BURST, SHOWN_AFTER_CHANGE_S, Days
from booking.snapshots.reading import FIXED, STATEMENTS, DayKey, read_days
from booking.snapshots.shelf import Shelf
from booking.store.engine import Store, StoreUnavailable, Tx
from monitoring.metrics import REGISTRY
from tests.booking.world import DAY, HOSPITAL, fetch, make_schedule, make_slot, put_slot

D1 = DayKey(HOSPITAL, DAY.isoformat(), "D1")

# --- a day and its faces ----------------------------------------------------------------------------------------------


def row(starts_at_ms: int, opens_at_ms: int | None = None, slot_id: str = "sl") -> dict[str, Any]:
    return {"starts_at_ms": starts_at_ms, "opens_at_ms": opens_at_ms, "id": slot_id, "practitioner_id": None}


def status(of: dict[str, Any], now_ms: int) -> bytes:
    """What a reader would be shown: the three things that the clock can make of a slot."""
    if of["starts_at_ms"] <= now_ms:
        return b"past"
    return b"closed" if of["opens_at_ms"] is not None and now_ms < of["opens_at_ms"] else b"open"


def faces(day: Day, now_ms: int) -> list[bytes]:
    return [item.json for item in day.shown(now_ms).items]


def test_every_face_is_shown_to_the_millisecond_when_only_the_clock_moves() -> None:
    day = make_day([row(2_000_000, 1_000_000)], status, 900_000, tick=1, read_s=0)
    shown = [(now_ms, faces(day, now_ms)) for now_ms in (900_000, 999_999, 1_000_000, 1_999_999, 2_000_000, 9_000_000)]
    assert [(now_ms, json) for now_ms, (json,) in shown] == [
        (900_000, b"closed"), (999_999, b"closed"), (1_000_000, b"open"), (1_999_999, b"open"), (2_000_000, b"past"),
        (9_000_000, b"past"),
    ]  # fmt: skip


def test_day_says_until_when_it_stays_as_it_is() -> None:
    day = make_day([row(9_000_000, 5_000_000, "a"), row(8_000_000, None, "b")], status, 1_000_000, tick=1, read_s=0)
    spans = [(day.shown(at).from_ms, day.shown(at).until_ms) for at in (1_000_000, 5_000_000, 8_500_000, 9_000_000)]
    assert spans == [(0, 5_000_000), (5_000_000, 8_000_000), (8_000_000, 9_000_000), (9_000_000, FOREVER_MS)]


def test_day_is_rendered_once_while_it_stays_as_it_is() -> None:
    day = make_day([row(2_000_000)], status, 0, tick=1, read_s=0)
    assert day.shown(1) is day.shown(1_999_999)
    assert day.shown(2_000_000) is not day.shown(1)


def test_next_change_is_the_opening_then_the_visit_then_nothing() -> None:
    slot = row(200, 100)
    assert [next_change_ms(slot, at) for at in (0, 99, 100, 199, 200)] == [100, 100, 200, 200, FOREVER_MS]
    assert next_change_ms(row(200, 300), 200) == 300


# --- the shelf --------------------------------------------------------------------------------------------------------


class Thing:
    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


def test_shelf_never_takes_more_than_its_bound_and_keeps_what_is_used() -> None:
    shelf: Shelf[int, Thing] = Shelf("test", 1_000)
    shelf.put(0, Thing(300))
    for n in range(1, 50):
        shelf.put(n, Thing(200))
        assert shelf.get(0) is not None
        assert shelf.nbytes <= 1_000
        assert REGISTRY.get_sample_value("hisbridge_snapshot_bytes", {"kind": "test"}) == shelf.nbytes
    assert [n for n in range(50) if shelf.peek(n)] == [0, 47, 48, 49]
    shelf.put(0, Thing(100))
    assert shelf.nbytes == 700
    shelf.put(1, Thing(1_001))
    assert (shelf.peek(1), shelf.nbytes) == (None, 700)


# --- reading ----------------------------------------------------------------------------------------------------------


async def test_days_are_read_together_and_only_they(store: Store) -> None:
    first = await put_slot(store, schedule=make_schedule("S1"))
    second = await put_slot(store, schedule=make_schedule("S2", department_id="D'2"), hour=9)
    await put_slot(store, schedule=make_schedule("S3", department_id="D3"))
    keys = [D1, D1._replace(department_id="D'2"), D1._replace(date="2031-03-05")]
    found = await read_days(store, HOSPITAL, keys)
    assert {key: [r["id"] for r in rows] for key, rows in found.items()} == dict(
        zip(keys, ([first], [second], []), strict=True)
    )


async def test_reading_scans_no_table_when_it_was_prepared_on_an_empty_one(store: Store, engine: str) -> None:
    statement = STATEMENTS[engine]
    if engine == "sqlite":
        async with store.read() as tx:
            plan = await tx.all(
                text("explain query plan " + statement), {"hospital_id": HOSPITAL, "days": '[["2031-03-04","D1"]]'}
            )
        steps = [r["detail"] for r in plan]
        assert not [step for step in steps if step.startswith(("SCAN s", "SCAN x"))], steps
        assert any("department_id=?" in step for step in steps), steps
        assert any("schedule_id=?" in step for step in steps), steps
        return
    compiled = str(text(statement).compile(dialect=postgresql.dialect(paramstyle="named")))  # type: ignore[no-untyped-call]
    prepared = compiled.replace(":days", "$1").replace(":hospital_id", "$2")
    connection = await asyncpg.connect(store.url.render_as_string(hide_password=False))
    try:
        await connection.execute("set plan_cache_mode = force_generic_plan")
        await connection.execute(f"prepare days (text, text) as {prepared}")
        asked = """execute days ('[["2031-03-04","D1"]]', 'h1')"""
        await connection.execute(asked)
        await fill_postgres(connection)
        plan = [line[0] for line in await connection.fetch("explain " + asked)]
        assert not [line for line in plan if "Seq Scan" in line], plan
    finally:
        await connection.close()


async def fill_postgres(connection: Any) -> None:
    """A hundred thousand slots, and no statistics of them yet."""
    await connection.execute(
        "insert into schedules (hospital_id, id, his_id, date, session, department_id, status, seen_ms)"
        " select 'h1', 's' || n, 's' || n, 'd' || n % 100, 'am', 'D' || n % 50, 'open', 0"
        " from generate_series(1, 10000) n"
    )
    await connection.execute(
        "insert into slots (hospital_id, id, schedule_id, his_id, date, starts_at_ms, ends_at_ms, status, his_left,"
        " fetch_started_ms, fetch_ended_ms) select 'h1', 'x' || n, 's' || n % 10000, 'x' || n, 'd', n, n + 1, 'open', 1, 0, 0"
        " from generate_series(1, 100000) n"
    )


# --- days, as current as the feed -------------------------------------------------------------------------------------


@contextmanager
def counted_reads() -> Iterator[list[str]]:
    """Every reading of days that goes to the database."""
    reads: list[str] = []
    read = Tx.all

    async def noted(tx: Tx, statement: Any, params: Any = None) -> list[dict[str, Any]]:
        if statement in FIXED.values():
            reads.append(str(statement.statement))
        return await read(tx, statement, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tx, "all", noted)
        yield reads


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def shown_id(of: dict[str, Any], _now_ms: int) -> bytes:
    """A slot by its seats, so that a reading shows which state it saw."""
    return b"%d" % of["his_left"]


@asynccontextmanager
async def days_of(store: Store, *, clock: Clock | None = None) -> AsyncIterator[tuple[Days, ChangeFeed]]:
    """Days behind a feed that has caught up."""
    options: dict[str, Any] = {} if clock is None else {"monotonic_s": clock}
    feed = ChangeFeed(store, [HOSPITAL], **options)
    days = Days(store, feed, render=lambda _: shown_id, max_bytes=1_000_000, **options)
    await feed.start()
    try:
        await feed.catch_up(10)
        yield days, feed
    finally:
        await feed.close()


async def seats_shown(days: Days) -> list[bytes]:
    (day,) = await days.get(HOSPITAL, [D1])
    return faces(day, 0)


async def change_seats(store: Store, feed: ChangeFeed, seats: int) -> None:
    """A fetch brings another figure, and the feed has seen it."""
    async with store.write(HOSPITAL) as tx:
        await fetch(tx, make_slot(seats))
        seq = tx.seq
    while feed.seen(HOSPITAL) < seq:
        await feed.catch_up(10)


async def test_day_is_read_once_when_a_crowd_asks_for_it(store: Store) -> None:
    await put_slot(store, 5)
    async with days_of(store) as (days, feed):
        with counted_reads() as reads:
            crowd = await asyncio.gather(*(seats_shown(days) for _ in range(200)))
            assert (crowd, len(reads)) == ([[b"5"]] * 200, 1)
            await change_seats(store, feed, 4)
            crowd = await asyncio.gather(*(seats_shown(days) for _ in range(200)))
            assert (crowd, len(reads)) == ([[b"4"]] * 200, 2)


async def test_nothing_is_read_when_nothing_has_changed_or_nothing_is_there(store: Store) -> None:
    await put_slot(store, 5)
    async with days_of(store) as (days, _):
        await seats_shown(days)
        with counted_reads() as reads:
            assert await seats_shown(days) == [b"5"]
            nowhere = [D1._replace(department_id="D9"), D1._replace(date="1999-01-01")]
            assert [faces(day, 0) for day in await days.get(HOSPITAL, nowhere)] == [[], []]
            assert days.departments(HOSPITAL, D1.date) == ("D1",)
            assert reads == []


async def test_reading_is_finished_for_the_others_when_the_first_reader_has_gone(store: Store) -> None:
    await put_slot(store, 5)
    async with days_of(store) as (days, _):
        with counted_reads() as reads:
            first, second = (asyncio.create_task(seats_shown(days)) for _ in range(2))
            await asyncio.sleep(0)
            first.cancel()
            assert await second == [b"5"]
            assert len(reads) == 1


async def test_change_is_not_lost_when_it_comes_during_the_reading(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reading has seen the old state, and the feed tells of the new one before the reading ends."""
    await put_slot(store, 5)
    clock = Clock()
    async with days_of(store, clock=clock) as (days, feed):

        async def read_then_change(*args: Any) -> Any:
            monkeypatch.undo()
            rows = await read_days(*args)
            await change_seats(store, feed, 4)
            return rows

        monkeypatch.setattr("booking.snapshots.days.read_days", read_then_change)
        assert await seats_shown(days) == [b"5"]
        assert await seats_shown(days) == [b"4"]


async def test_reader_sees_what_was_there_before_it_asked_when_a_reading_is_under_way(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put_slot(store, 5)
    async with days_of(store) as (days, feed):
        old, changed = asyncio.Event(), asyncio.Event()

        async def read_slowly(*args: Any) -> Any:
            monkeypatch.undo()
            rows = await read_days(*args)
            old.set()
            await changed.wait()
            return rows

        monkeypatch.setattr("booking.snapshots.days.read_days", read_slowly)
        first = asyncio.create_task(seats_shown(days))
        await old.wait()
        await change_seats(store, feed, 4)
        second = asyncio.create_task(seats_shown(days))
        await asyncio.sleep(0)
        changed.set()
        assert (await first, await second) == ([b"5"], [b"4"])


@pytest.mark.parametrize("reread_per_s", [10.0, 0.001])
async def test_day_that_changes_all_the_time_is_read_a_few_times_a_second_and_never_shown_long(
    store: Store, monkeypatch: pytest.MonkeyPatch, reread_per_s: float
) -> None:
    """A hundred changes within a second, each with a crowd of readers behind it; 200 ms hold whatever was allowed."""
    monkeypatch.setattr("booking.snapshots.days.REREAD_PER_S", reread_per_s)
    await put_slot(store, 1_000)
    clock = Clock()
    async with days_of(store, clock=clock) as (days, feed):
        with counted_reads() as reads:
            committed: list[tuple[float, int]] = []
            for n in range(100):
                await change_seats(store, feed, 900 - n)
                committed.append((clock.now_s, 900 - n))
                clock.now_s += 0.01
                shown = {int(json) for _ in range(5) for json in await seats_shown(days)}
                assert max(shown) <= min(
                    (seats for at_s, seats in committed if at_s <= clock.now_s - 0.2), default=1_000
                )
    # At once while it is allowed, then as often as that, and never less often than what is shown must be young.
    assert len(reads) <= REREAD_BURST + 1 + 1.0 * max(reread_per_s, 1 / SHOWN_AFTER_CHANGE_S)


async def test_reading_fails_for_all_who_wait_when_the_store_is_away_and_works_when_it_is_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put_slot(store, 5)
    async with days_of(store) as (days, _):

        async def fail(*_: Any) -> Any:
            await asyncio.sleep(0)
            raise StoreUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr("booking.snapshots.days.read_days", fail)
            failed = await asyncio.gather(*(seats_shown(days) for _ in range(3)), return_exceptions=True)
            assert [type(error) for error in failed] == [StoreUnavailable] * 3
        assert await seats_shown(days) == [b"5"]
