"""Writes whose statements run on the event loop (SQLite): the same promises as any other write."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import threading
import uuid
import weakref
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, select
from sqlalchemy.exc import IntegrityError

from booking.store import here as on_loop
from booking.store.engine import Store, StoreUnavailable, Tx, changes_topic
from booking.store.fixed import Fixed
from booking.store.here import LOOK_EVERY, Disk, raw_of
from booking.store.tables import bookings, fragments, store_clock
from tests.booking.world import HOSPITAL, hold, make_hospital, put_patient, put_slot
from tests.stores import BEGIN_MS, UrlOf, Wall, opened, unreachable

A_CLOCK: dict[str, object] = {"hospital_id": "h2", "last_ms": 1}


async def clocks(store: Store) -> list[str]:
    async with store.read() as tx:
        return sorted(r["hospital_id"] for r in await tx.all(select(store_clock)))


async def test_write_is_kept_and_told_when_it_runs_here(store: Store) -> None:
    told, topic = store.bell.listen(changes_topic(HOSPITAL)), store.bell.listen("topic")
    async with store.write(HOSPITAL, here=True) as tx:
        assert (raw_of(tx.conn) is not None) == (store.dialect == "sqlite")
        assert (tx.now_ms, tx.seq) == (BEGIN_MS, 1)
        await tx.insert(store_clock, A_CLOCK)
        tx.touch("2031-03-04", "D1")
        tx.ring("topic")
        assert not topic.done()
    assert told.done()
    assert topic.done()
    assert await clocks(store) == [HOSPITAL, "h2"]
    async with store.read(HOSPITAL) as tx:
        assert [r["changed"] for r in await tx.all(select(fragments))] == [1]


async def test_nothing_is_kept_and_nobody_woken_when_it_fails_here(store: Store) -> None:
    topic = store.bell.listen("topic")

    async def fail() -> None:
        async with store.write(HOSPITAL, here=True) as tx:
            await tx.insert(store_clock, A_CLOCK)
            tx.ring("topic")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await fail()
    assert await clocks(store) == []
    assert not topic.done()


async def test_constraint_is_told_as_such_and_the_next_write_works_when_it_is_broken_here(store: Store) -> None:
    async def twice() -> None:
        async with store.write(HOSPITAL, here=True) as tx:
            await tx.insert(store_clock, A_CLOCK)
            await tx.insert(store_clock, A_CLOCK)

    with pytest.raises(IntegrityError):
        await twice()
    async with store.write(HOSPITAL, here=True) as tx:
        await tx.insert(store_clock, A_CLOCK)
    assert await clocks(store) == [HOSPITAL, "h2"]


async def test_nested_work_is_undone_alone_when_it_fails_here(store: Store) -> None:
    async with store.write(HOSPITAL, here=True) as tx:
        await tx.insert(store_clock, A_CLOCK)
        with pytest.raises(IntegrityError):
            await _insert_nested(tx, {"hospital_id": "h3", "last_ms": 1}, A_CLOCK)
    assert await clocks(store) == [HOSPITAL, "h2"]


async def _insert_nested(tx: Tx, *rows: dict[str, object]) -> None:
    async with tx.conn.begin_nested():
        for row in rows:
            await tx.insert(store_clock, row)


async def test_writes_here_and_there_take_turns(store: Store) -> None:
    async def one(here: bool) -> int:
        async with store.write(HOSPITAL, here=here) as tx:
            await asyncio.sleep(0)
            return tx.seq

    numbers = await asyncio.gather(*(one(here=n % 2 == 0) for n in range(20)))
    assert sorted(numbers) == list(range(1, 21))


async def test_clock_stands_on_the_committed_time_when_the_wall_is_turned_back(store: Store, wall: Wall) -> None:
    async with store.write(HOSPITAL, here=True):
        pass
    wall.turn(-60)
    for here in (True, False):
        async with store.write(HOSPITAL, here=here) as tx:
            assert tx.now_ms == BEGIN_MS
    async with store.read(HOSPITAL) as tx:
        assert tx.now_ms == BEGIN_MS


async def test_caller_that_gives_up_leaves_nothing_behind(store: Store) -> None:
    async def wait_inside() -> None:
        async with store.write(HOSPITAL, here=True) as tx:
            await tx.insert(store_clock, A_CLOCK)
            await asyncio.sleep(60)

    task = asyncio.create_task(wait_inside())
    while not store.turn(HOSPITAL)._busy:  # noqa: ASYNC110 - no one rings when a turn is taken
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(5):
        async with store.write(HOSPITAL, here=True):
            pass
    assert await clocks(store) == [HOSPITAL]


async def test_store_is_unavailable_when_it_cannot_be_opened(engine: str, tmp_path: Path) -> None:
    async with unreachable(engine, tmp_path) as gone:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                async with gone.write(HOSPITAL, here=True):
                    pass


async def test_another_process_is_waited_for_when_it_is_writing(database: UrlOf, engine: str, wall: Wall) -> None:
    if engine != "sqlite":  # there, the hospital's advisory lock is what is waited for, here as elsewhere
        return
    url = database("store")
    async with opened(url, wall=wall) as store:
        other = sqlite3.connect(str(store.url.database), isolation_level=None)
        other.execute("begin immediate")

        async def write() -> None:
            async with store.write(HOSPITAL, here=True):
                pass

        task = asyncio.create_task(write())
        for _ in range(20):
            await asyncio.sleep(0)  # the loop goes on while it waits
        assert not task.done()
        other.execute("rollback")
        other.close()
        await asyncio.wait_for(task, 10)
        assert await clocks(store) == [HOSPITAL]


# --- reads, commits, checkpoints, fixed statements ------------------------------------------------------------------


async def test_reads_here_see_what_was_committed_and_nothing_else(store: Store) -> None:
    async with store.write(HOSPITAL, here=True) as tx:
        await tx.insert(store_clock, A_CLOCK)
        async with store.read("h2", here=True) as seen:
            assert await seen.all(select(store_clock).where(store_clock.c.hospital_id == "h2")) == []
    async with store.read("h2", here=True) as seen:
        assert seen.now_ms >= BEGIN_MS
        assert len(await seen.all(select(store_clock))) == 2


async def test_reads_here_take_turns_and_survive_one_that_fails(store: Store) -> None:
    async def look(fails: bool) -> int:
        async with store.read(HOSPITAL, here=True) as tx:
            await asyncio.sleep(0)
            if fails:
                raise RuntimeError("no")
            return len(await tx.all(select(store_clock)))

    found = await asyncio.gather(*(look(fails=n % 3 == 0) for n in range(12)), return_exceptions=True)
    assert [f if isinstance(f, int) else type(f) for f in found] == [RuntimeError, 0, 0] * 4


@pytest.mark.parametrize(
    ("commits_s", "quick"),
    [
        ([], False),  # not before it has shown so
        ([0.0002] * 100, True),
        ([0.0002] * 100 + [0.2], False),
        ([0.0002] * 100 + [0.2] + [0.0002] * 200, True),
        ([0.004] * 200, False),  # no hiccup: a disk like that
    ],
)
def test_commits_leave_the_loop_while_the_disk_is_slow(commits_s: list[float], quick: bool) -> None:
    disk = Disk()
    for commit_s in commits_s:
        disk.note(commit_s)
    assert disk.is_quick is quick


async def test_frames_are_those_of_the_present_round_when_the_log_has_begun_anew(store: Store) -> None:
    if store.dialect != "sqlite":
        return
    log = f"{store.url.database}-wal"

    async def write(size: int) -> None:
        async with store.write(HOSPITAL, here=True) as tx:
            await tx.insert(store_clock, {"hospital_id": uuid.uuid4().hex + "x" * size, "last_ms": 1})

    before = on_loop.frames_in(log)
    await write(400_000)
    long = on_loop.frames_in(log)
    assert long - before >= 400_000 // 4_096
    other = sqlite3.connect(store.url.database or "")
    assert other.execute("pragma wal_checkpoint(passive)").fetchone() == (
        0,
        on_loop.frames_in(log),
        on_loop.frames_in(log),
    )
    other.close()
    await write(10)
    assert 0 < on_loop.frames_in(log) < 20
    assert on_loop.frames_in("no such file") == 0


_ALONE = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="locks of another kind")
async def test_other_processes_see_that_somebody_is_there_when_the_length_of_the_log_was_looked_at(
    store: Store,
) -> None:
    """SQLite's "dead man's switch", byte 128 of the WAL index: who gets it alone cuts the file, and kills whoever uses it."""
    if store.dialect != "sqlite":
        return
    for _ in range(2 * LOOK_EVERY + 1):
        async with store.write(HOSPITAL, here=True) as tx:
            await tx.insert(store_clock, {"hospital_id": uuid.uuid4().hex, "last_ms": 1})
    command = (sys.executable, "-c", _ALONE, f"{store.url.database}-shm")
    child = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, said = await child.communicate()
    assert said.endswith(b"Resource temporarily unavailable\n")


@pytest.mark.parametrize("quick", [True, False])
async def test_loop_waits_for_a_commit_where_the_disk_is_quick(
    store: Store, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store.dialect != "sqlite" or store._here is None:
        return
    monkeypatch.setattr(on_loop, "STANDS_STILL_S", 5.0)  # however slow the machine
    store._here._disk._mean_s = 0.0 if quick else 1.0
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    async with store.write(HOSPITAL, here=True):
        asyncio.get_running_loop().call_soon(turn)
    assert (turns == 0) is quick


async def test_loop_goes_on_while_a_quick_disk_stops(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers are answered, and the write is certain when its caller hears of it."""
    if store.dialect != "sqlite" or store._here is None:
        return
    goes_on = threading.Event()
    commit = on_loop._commit

    def stop(*arguments: Any) -> None:
        assert goes_on.wait(30)
        commit(*arguments)

    monkeypatch.setattr(on_loop, "_commit", stop)
    store._here._disk._mean_s = 0.0

    async def write() -> None:
        async with store.write(HOSPITAL, here=True) as tx:
            await tx.insert(store_clock, {"hospital_id": "written", "last_ms": 1})

    async def seen() -> bool:
        async with store.read(HOSPITAL, here=True) as tx:
            return bool(await tx.all(select(store_clock).where(store_clock.c.hospital_id == "written")))

    writes = asyncio.create_task(write())
    for _ in range(10):
        await asyncio.sleep(0.001)
        assert not await seen()
    writes.cancel()  # whoever gives up waits for the end of it: the connection is not free before
    await asyncio.sleep(0.01)
    assert not writes.done()
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writes
    assert await seen()
    async with store.write(HOSPITAL, here=True) as tx:
        await tx.insert(store_clock, {"hospital_id": "again", "last_ms": 1})


_FLAGS = Fixed(select(bookings.c.live, bookings.c.reason).where(bookings.c.id == bindparam("of_id")))


async def test_fixed_statement_gives_the_same_here_and_there(store: Store) -> None:
    booking = await hold(store, make_hospital(), await put_slot(store), await put_patient(store))
    for here in (False, True):
        async with store.read(HOSPITAL, here=here) as tx:
            (row,) = await tx.all(_FLAGS, {"of_id": booking.id})
            assert row == {"live": True, "reason": None}
            assert type(row["live"]) is bool


def test_fixed_statement_takes_no_list_of_values() -> None:
    several = Fixed(select(bookings.c.id).where(bookings.c.id.in_(bindparam("ids", expanding=True))))
    with pytest.raises(TypeError, match="list of values"):
        several.rows(sqlite3.connect(":memory:"), {"ids": ["a"]})


class _Seen:
    """Something that a transaction is to be told of, of which one can tell whether it is still there."""


async def test_transaction_is_gone_with_its_last_user_when_it_counted_something(store: Store) -> None:
    """Without a pass of the collector, which would stop everything."""
    left: list[weakref.ref[_Seen]] = []

    async def work(*, fails: bool) -> None:
        async with store.write(HOSPITAL, here=True) as tx:
            seen = _Seen()
            tx.count(lambda: (tx, seen))
            left.append(weakref.ref(seen))
            if fails:
                raise LookupError

    gc.disable()
    try:
        await work(fails=False)
        with pytest.raises(LookupError):
            await work(fails=True)
        assert [one() for one in left] == [None, None]
    finally:
        gc.enable()
