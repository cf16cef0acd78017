"""Rests of a thread beside a busy loop. The clocks are turned by hand; the last test has a real loop and a real thread."""

from __future__ import annotations

import asyncio
import sqlite3
import time

import pytest

from mappings.courtesy import LEAST_REST, MOST_REST, WORK_S, courtesy


class Clocks:
    """A thread, what it and its process have computed, and how long it has rested."""

    def __init__(self, busy: float) -> None:
        self.busy = busy  # how much of the time that is left to them the others use
        self.now_s = self.mine_s = self.others_s = 0.0
        self.rests: list[float] = []
        self.pause = courtesy(
            now_s=lambda: self.now_s,
            mine_s=lambda: self.mine_s,
            all_s=lambda: self.mine_s + self.others_s,
            rest=self._rest,
        )

    def _rest(self, seconds: float) -> None:
        self.now_s += seconds
        self.others_s += seconds * self.busy
        self.rests.append(seconds)

    def work(self, seconds: float = 1.001 * WORK_S) -> None:
        self.now_s += seconds
        self.mine_s += seconds
        self.pause()


def test_thread_hardly_rests_when_nobody_wants_the_interpreter() -> None:
    clocks = Clocks(busy=0.0)
    for _ in range(10):
        clocks.work()
    assert clocks.rests[1:] == pytest.approx([WORK_S * LEAST_REST] * 9)


def test_thread_rests_the_longer_the_busier_the_others_are() -> None:
    clocks = Clocks(busy=1.0)
    rests = []
    for busy in (1.0, 0.5, 0.1, 0.0, 1.0):
        clocks.busy = busy
        clocks.work()
        clocks.work()
        rests.append(clocks.rests[-1] / WORK_S)
    assert rests == pytest.approx([MOST_REST, MOST_REST / 2, MOST_REST / 10, LEAST_REST, MOST_REST])


def test_thread_looks_up_only_after_a_while() -> None:
    clocks = Clocks(busy=1.0)
    for _ in range(7):
        clocks.work(WORK_S / 8)
    assert clocks.rests == []
    clocks.work(WORK_S / 4)
    assert len(clocks.rests) == 1


async def test_loop_keeps_most_of_its_speed_beside_a_courteous_thread() -> None:
    """Against the same thread without courtesy: a ratio, as a machine may be slow."""
    database = sqlite3.connect(":memory:")
    database.execute("create table numbers (n integer)")
    database.executemany("insert into numbers values (?)", [(n,) for n in range(1_000)])

    async def turns_beside(*, courteous: bool) -> int:
        over = False

        def compute() -> None:
            pause = courtesy() if courteous else lambda: None
            while not over:
                sum(range(300))
                pause()

        thread = asyncio.ensure_future(asyncio.to_thread(compute))
        await asyncio.sleep(0.05)
        turns, ends = 0, time.perf_counter() + 0.5
        while time.perf_counter() < ends:
            database.execute("select count(*) from numbers where n > 5").fetchall()  # gives the interpreter away
            await asyncio.sleep(0)
            turns += 1
        over = True
        await thread
        return turns

    try:
        assert await turns_beside(courteous=True) > 5 * await turns_beside(courteous=False)
    finally:
        database.close()
