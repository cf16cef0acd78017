"""When everything is looked at for garbage: never in a crowd, and not never."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys

import pytest

from monitoring.garbage import EVERY_S, GENERATIONS, LITTLE_TO_DO, MOST_PASSES, FullPasses, Pauses
from monitoring.metrics import REGISTRY


class Process:
    """A process whose time, computing and garbage are made up."""

    def __init__(self) -> None:
        self.now_s, self.computed_s, self.pending, self.passes = 100.0, 5.0, 0, 0
        self.passing = FullPasses(
            clock_s=lambda: self.now_s,
            computed_s=lambda: self.computed_s,
            pending=lambda: self.pending,
            collect=self.collect,
        )

    def collect(self) -> None:
        self.passes += 1
        self.pending = 0
        self.now_s += 0.3
        self.computed_s += 0.3

    def goes_on(self, seconds: int, *, busy: float, growing: int = 0) -> None:
        for _ in range(seconds):
            self.now_s += 1.0
            self.computed_s += busy
            self.pending += growing
            self.passing.look()


def test_everything_is_looked_at_once_a_minute_when_there_is_little_to_do_and_something_new() -> None:
    process = Process()
    process.goes_on(10 * int(EVERY_S), busy=LITTLE_TO_DO / 2)
    assert process.passes == 0  # nothing new
    process.goes_on(10 * int(EVERY_S), busy=LITTLE_TO_DO / 2, growing=1)
    assert process.passes in (10, 9)


def test_crowd_is_left_alone_when_it_comes() -> None:
    process = Process()
    process.goes_on(int(EVERY_S) + 1, busy=0.0, growing=1)
    assert process.passes == 1
    process.goes_on(MOST_PASSES - 2, busy=0.9, growing=1)
    assert process.passes == 1
    process.goes_on(2, busy=0.1)
    assert process.passes == 2  # as soon as it has gone


def test_starved_process_is_not_taken_for_a_quiet_one_when_it_looks_late() -> None:
    process = Process()
    for _ in range(int(EVERY_S)):
        process.now_s += 2.0
        process.pending = 1
        process.passing.look()
    assert process.passes == 0
    process.goes_on(1, busy=0.0)
    assert process.passes == 1


def test_everything_is_looked_at_when_no_quiet_second_ever_comes() -> None:
    process = Process()
    process.goes_on(3 * MOST_PASSES, busy=1.0, growing=1)
    assert process.passes == 3


async def test_passes_are_measured_when_they_happen() -> None:
    def counted() -> list[float]:
        name = "hisbridge_garbage_pause_seconds_count"
        return [REGISTRY.get_sample_value(name, {"generation": generation}) or 0.0 for generation in GENERATIONS]

    pauses, before = Pauses(), counted()
    gc.callbacks.append(pauses)
    try:
        for generation in (0, 1, 1, 2):
            gc.collect(generation)
    finally:
        gc.callbacks.remove(pauses)
    pauses.tell()
    young, middle, full = (after - was for after, was in zip(counted(), before, strict=True))
    assert (young >= 1, middle, full) == (True, 2, 1)


async def test_nothing_is_left_behind_when_the_process_ends() -> None:
    before, thresholds = list(gc.callbacks), gc.get_threshold()
    task = asyncio.create_task(FullPasses().run())
    await asyncio.sleep(0)
    assert len(gc.callbacks) == len(before) + 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (gc.callbacks, gc.get_threshold()) == (before, thresholds)


def test_collector_never_looks_at_everything_by_itself_when_we_have_taken_over() -> None:
    """In a process of its own: the thresholds are those of a process."""
    program = """
import gc
from monitoring import garbage
garbage.take_over()
full = gc.get_stats()[2]["collections"]
kept = [[n] for n in range(3_000_000)]
middle = gc.get_stats()[1]["collections"]
assert middle > 20, middle
assert gc.get_count()[2] > 20, gc.get_count()
assert gc.get_stats()[2]["collections"] == full, gc.get_stats()
gc.collect()
assert gc.get_count()[2] == 0
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_was_loaded_is_never_looked_at_when_passes_go_on() -> None:
    program = """
import gc
from monitoring import garbage
garbage.take_over()
passes = []
gc.callbacks.append(lambda phase, told: passes.append(told))
with garbage.loading():
    loaded = [[n] for n in range(300_000)]
    assert not passes
assert gc.isenabled()
assert gc.get_freeze_count() >= 300_000
gc.collect()
assert not any(one is loaded for one in gc.get_objects())
gc.disable()
try:
    with garbage.loading():
        raise ImportError
except ImportError:
    pass
assert not gc.isenabled()  # as it was
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
