"""When a SQLite store's log is brought into its database: beside those who write, and whole in a pause."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import uuid
from typing import NamedTuple

import pytest
from sqlalchemy import select

from booking.store import here as on_loop
from booking.store.engine import Store
from booking.store.here import LOOK_EVERY
from booking.store.tables import store_clock
from tests.booking.world import HOSPITAL


@pytest.fixture
def engine() -> str:
    """PostgreSQL brings its log in by itself."""
    return "sqlite"


def _bytes_of(file: str) -> int:
    return os.path.getsize(file)


class Brought(NamedTuple):
    """How long the log was each time that it was brought in: beside the writes, and with the turn held."""

    beside: list[int]
    whole: list[int]


def _checkpoints(store: Store, monkeypatch: pytest.MonkeyPatch) -> Brought:
    """What is brought in from now on."""
    made = Brought([], [])

    def count(raw: sqlite3.Connection) -> int | None:
        (made.whole if raw is ours() else made.beside).append(on_loop.frames_in(f"{store.url.database}-wal"))
        return checkpoint(raw)

    def ours() -> sqlite3.Connection:
        assert store.on_loop._connection is not None
        return on_loop._raw(store.on_loop._connection)

    checkpoint = on_loop._checkpoint
    monkeypatch.setattr(on_loop, "_checkpoint", count)
    return made


async def _write(store: Store, times: int, size: int) -> None:
    for _ in range(times):
        async with store.write(HOSPITAL, here=True) as tx:
            await tx.insert(store_clock, {"hospital_id": uuid.uuid4().hex + "x" * size, "last_ms": 1})


async def _brought_in(store: Store) -> None:
    """What is under way beside the writes has ended."""
    if (under_way := store.on_loop._bringing) is not None:
        await asyncio.wrap_future(under_way)


LONG = 1_000_000  # in characters: 245 pages


async def test_log_is_brought_in_beside_a_crowd_and_whole_by_the_first_pause(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _checkpoints(store, monkeypatch)
    monkeypatch.setattr(on_loop, "PAUSE_S", 60.0)  # however slow the machine: no pause
    await _write(store, 4 * LOOK_EVERY, LONG)
    await _brought_in(store)
    assert made.whole == []
    assert made.beside
    assert made.beside[0] > on_loop.CHECKPOINT_FRAMES
    monkeypatch.setattr(on_loop, "PAUSE_S", 0.0)
    for _ in range(5):
        await _write(store, LOOK_EVERY, 10)
        await _brought_in(store)
    assert len(made.whole) == 1
    assert on_loop.frames_in(f"{store.url.database}-wal") < on_loop.CHECKPOINT_FRAMES


async def test_writes_go_on_while_the_log_is_brought_in_beside_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end, made = threading.Event(), _checkpoints(store, monkeypatch)
    checkpoint = on_loop._checkpoint

    def hold_up(raw: sqlite3.Connection) -> int | None:
        assert may_end.wait(30)
        return checkpoint(raw)

    monkeypatch.setattr(on_loop, "_checkpoint", hold_up)
    await _write(store, 4 * LOOK_EVERY, LONG)
    assert store.on_loop._bringing is not None
    await _write(store, 4 * LOOK_EVERY, 10)
    assert made == Brought([], [])
    may_end.set()
    await _brought_in(store)
    assert len(made.beside) == 1


async def test_log_that_is_a_burden_is_brought_in_whole_without_a_pause(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _checkpoints(store, monkeypatch)
    monkeypatch.setattr(on_loop, "PAUSE_S", 60.0)
    monkeypatch.setattr(on_loop, "MOST_FRAMES", 10_000)
    for _ in range(20):
        await _write(store, LOOK_EVERY, LONG // 8)
        await _brought_in(store)  # little is left
    assert made.whole
    assert min(made.whole) > 10_000


async def test_log_that_cannot_be_brought_in_is_tried_again_when_there_is_more_of_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_loop, "PAUSE_S", 0.0)
    checkpoint, tried = on_loop._checkpoint, [0]

    def fail(_: sqlite3.Connection) -> None:
        tried[0] += 1

    async def write(times: int, size: int) -> None:
        for _ in range(times):
            await _write(store, LOOK_EVERY, size)
            await _brought_in(store)

    monkeypatch.setattr(on_loop, "_checkpoint", fail)
    await write(4, LONG // 2)
    await write(3, 10)  # all that was written has been looked at
    before = tried[0]
    assert before >= 2  # beside the writes, and then with the turn
    await write(4, 10)
    assert tried[0] == before
    monkeypatch.setattr(on_loop, "_checkpoint", checkpoint)
    await write(4, LONG // 2)
    await write(2, 10)
    assert on_loop.frames_in(f"{store.url.database}-wal") < on_loop.CHECKPOINT_FRAMES


async def test_log_is_short_again_when_a_reader_that_kept_it_is_gone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _checkpoints(store, monkeypatch)
    monkeypatch.setattr(on_loop, "PAUSE_S", 0.0)
    async with store.read(HOSPITAL) as tx:
        await tx.all(select(store_clock.c.last_ms).limit(1))
        for _ in range(8):
            await _write(store, LOOK_EVERY, LONG // 2)
            await _brought_in(store)
        tries = len(made.beside) + len(made.whole)
        assert 2 <= tries <= 8
    for _ in range(6):
        await _write(store, LOOK_EVERY, LONG // 2)
        await _brought_in(store)
    await _write(store, 2 * LOOK_EVERY, 10)
    assert on_loop.frames_in(f"{store.url.database}-wal") < 2 * on_loop.CHECKPOINT_FRAMES


async def test_log_has_an_end_when_a_disk_is_slower_than_those_who_write(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes while a part is brought in is never little: then all is brought in with the turn held."""
    made = _checkpoints(store, monkeypatch)
    monkeypatch.setattr(on_loop, "PAUSE_S", 60.0)
    monkeypatch.setattr(on_loop, "MOST_FRAMES", 10_000)
    monkeypatch.setattr(on_loop, "LITTLE_FRAMES", 0)
    for _ in range(12):
        await _write(store, LOOK_EVERY, LONG // 2)
        await _brought_in(store)
    assert made.whole
    assert max(made.whole) < 30_000


async def test_log_is_brought_in_once_each_time_it_has_grown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at every look from the first time on: the log must become short again, though its file stays."""
    made = _checkpoints(store, monkeypatch)
    log = f"{store.url.database}-wal"
    monkeypatch.setattr(on_loop, "PAUSE_S", 0.0)

    for _ in range(8):
        await _write(store, LOOK_EVERY, LONG)  # of 245 pages each: two looks find the log half full, and too long
        await _brought_in(store)
    assert 2 <= len(made.whole) <= 5
    assert max(made.whole) < 3 * on_loop.CHECKPOINT_FRAMES
    before = len(made.whole)
    for _ in range(20):
        await _write(store, LOOK_EVERY, 10)
        await _brought_in(store)
    assert len(made.whole) <= before + 1
    assert on_loop.frames_in(log) < on_loop.CHECKPOINT_FRAMES
    assert _bytes_of(f"{store.url.database}-wal") < 4 * on_loop.CHECKPOINT_FRAMES * 4_096
