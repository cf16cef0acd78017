"""Python's collector of cyclic garbage, kept out of a crowd's way.

A pass stops the whole process. Of a young generation it takes a few milliseconds; of everything that a release has made, half a
second on a busy machine. So the young are looked at often and in small numbers, and everything only while there is little to do.

Thresholds as in CPython 3.11 to 3.13 (https://docs.python.org/3/library/gc.html#gc.set_threshold).
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from monitoring.metrics import garbage_pause_seconds

# A batch of holds makes thousands of objects and no cycle: with the usual 700 the collector looks at each batch ten times.
YOUNG = 20_000
MIDDLE = 2  # what three passes of the young have left, at most 60,000 objects, and not the 400,000 of twenty
SELDOM = 400  # passes of the middle generation before a full one, in a process without FullPasses
NEVER = 2**31 - 1  # by itself: FullPasses does it
IS_OURS = sys.version_info < (3, 14)
"""Later collectors work bit by bit and count otherwise: they are left alone."""


LOOK_EVERY_S = 1.0
LITTLE_TO_DO = 0.25  # of one core, in the second before
EVERY_S = 60.0
MOST_PASSES = 100
"""After so many passes of the middle generation, 6,000,000 new objects, without a quiet second everything is looked at anyway."""

GENERATIONS = ("young", "middle", "full")


def take_over() -> None:
    """Turn the collector on, with our thresholds. To be called once in a process, before its loop."""
    if IS_OURS:
        gc.set_threshold(YOUNG, MIDDLE, SELDOM)
    gc.enable()


@contextmanager
def loading() -> Iterator[None]:
    """For code that is loaded late, in a thread beside the loop: what is made of it lives as long as the process.

    Of a library of models that are tens of thousands of objects. No pass looks at them while they are made, nor afterwards; nor
    at what else there was just then: cyclic garbage among it is kept. So this is for what is loaded once.
    """
    with _loading:
        was_on = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            gc.freeze()
            if was_on:
                gc.enable()


_loading = threading.Lock()


class Pauses:
    """Measures the passes: to be one of `gc.callbacks`, and to be told of now and then.

    A pass may begin wherever something is made, under the lock of a metric too: what is called then must not want that lock.
    """

    def __init__(self) -> None:
        self._began_s = 0.0
        self._found: deque[tuple[int, float]] = deque(maxlen=10_000)
        self._metrics = [garbage_pause_seconds.labels(generation) for generation in GENERATIONS]

    def __call__(self, phase: str, told: Mapping[str, Any]) -> None:
        if phase == "start":
            self._began_s = time.perf_counter()
        else:
            self._found.append((told["generation"], time.perf_counter() - self._began_s))

    def tell(self) -> None:
        """Into the metrics."""
        while self._found:
            generation, seconds = self._found.popleft()
            self._metrics[generation].observe(seconds)


class FullPasses:
    """Decides when everything is looked at: in a quiet second, where there is anything new, and once a minute at most.

    `pending` says how many passes of the middle generation there have been since the last full one.
    """

    def __init__(
        self,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        computed_s: Callable[[], float] = time.process_time,
        pending: Callable[[], int] = lambda: gc.get_count()[2],
        collect: Callable[[], object] = gc.collect,
    ) -> None:
        self._clock_s, self._computed_s, self._pending, self._collect = clock_s, computed_s, pending, collect
        self._last_s = clock_s()
        self._seen = clock_s(), computed_s()

    async def run(self) -> None:
        """Look, and measure all passes, until cancelled."""
        pauses = Pauses()
        gc.callbacks.append(pauses)
        thresholds = gc.get_threshold()
        if IS_OURS:
            gc.set_threshold(*thresholds[:2], NEVER)
        try:
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                if IS_OURS:
                    self.look()
                pauses.tell()
        finally:
            gc.set_threshold(*thresholds)
            gc.callbacks.remove(pauses)

    def look(self) -> bool:
        """One look; whether there was a full pass."""
        now_s, computed_s = self._clock_s(), self._computed_s()
        passed_s = now_s - self._seen[0]
        busy = (computed_s - self._seen[1]) / max(passed_s, 1e-3)
        pending = self._pending()
        # Who looks late was kept waiting: a machine that has no time for us is not quiet.
        is_quiet = busy < LITTLE_TO_DO and passed_s < 1.5 * LOOK_EVERY_S and now_s - self._last_s >= EVERY_S
        due = pending >= MOST_PASSES or (pending > 0 and is_quiet)
        if due:
            self._collect()
            now_s, computed_s = self._clock_s(), self._computed_s()
            self._last_s = now_s
        self._seen = now_s, computed_s
        return due
