"""Measures how long requests wait, and says which classes are turned away because of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

import msgspec

from booking.api.classes import RequestClass
from booking.api.ladder import Ladder
from monitoring.logs import get_logger
from monitoring.metrics import queue_delay_seconds, shed_level

log = get_logger("shedding")

LOOK_EVERY_S = 0.05
# The cheapest first; a step of what somebody has paid for is never turned away.
LOOP_RUNGS = (RequestClass.BULK, RequestClass.READ, RequestClass.LIVE, RequestClass.HOLD)
# Holds wait for the store's writer. Reads come from memory: to turn them away would not make it faster.
HOLD_RUNGS = (RequestClass.BULK, RequestClass.HOLD)


class SheddingLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the same names explain them; a delay of 0 switches one off."""

    shed_loop_delay_s: float = 0.2
    shed_hold_delay_s: float = 0.5
    shed_after_s: float = 0.5


class Shedding:
    """Looks at the delays of one process; `away` is what `Admission` asks, and empty unless there is too much to do.

    `loop`: how late a timer fires, which is how long everything waits that the event loop has to do. `holds`: how long the oldest
    hold has waited for its batch (`oldest_hold_s`).
    """

    def __init__(self, limits: SheddingLimits, *, oldest_hold_s: Callable[[], float] = lambda: 0.0) -> None:
        self.away: dict[RequestClass, str] = {}
        """The classes that are turned away now, each with the reason that is counted."""
        self._oldest_hold_s = oldest_hold_s
        after_s = limits.shed_after_s
        self._loop_ladder = Ladder(LOOP_RUNGS, target_s=limits.shed_loop_delay_s, after_s=after_s)
        self._hold_ladder = Ladder(HOLD_RUNGS, target_s=limits.shed_hold_delay_s, after_s=after_s)
        self._loop_delay, self._hold_delay = (queue_delay_seconds.labels(queue) for queue in ("loop", "holds"))
        for queue, ladder in (("loop", self._loop_ladder), ("holds", self._hold_ladder)):
            shed_level.labels(queue).set_function(partial(_level, ladder))
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look. Call it inside the running loop."""
        self._due_s = time.monotonic() + LOOK_EVERY_S
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now_s = time.monotonic()
        self.note(now_s, loop_s=max(0.0, now_s - self._due_s), hold_s=self._oldest_hold_s())
        self.start()

    def note(self, now_s: float, *, loop_s: float, hold_s: float) -> None:
        """One look at both queues."""
        self._loop_delay.set(loop_s)
        self._hold_delay.set(hold_s)
        before = self._loop_ladder.level, self._hold_ladder.level
        after = self._loop_ladder.observe(now_s, loop_s), self._hold_ladder.observe(now_s, hold_s)
        if after == before:
            return
        # In place: whoever lets requests in keeps it.
        self.away.clear()
        self.away.update(dict.fromkeys(self._hold_ladder.shed, "hold_delay"))
        self.away.update(dict.fromkeys(self._loop_ladder.shed, "loop_delay"))
        if not any(before):
            log.warning("shedding", classes=sorted(self.away), loop_s=round(loop_s, 3), hold_s=round(hold_s, 3))
        elif not any(after):
            log.info("shedding_ended")


def _level(ladder: Ladder) -> float:
    return float(ladder.level)
