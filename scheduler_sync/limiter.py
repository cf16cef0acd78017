"""How many calls at once a HIS bears, found from its own answers: a gradient on latency between a floor and a ceiling.

Each verb has a baseline: what it takes while at most `floor` calls are in flight, when nothing of ours loads the HIS. How
far recent calls exceed their verbs' baselines is the gradient, so that verbs of different cost can share one limit. Both are
midmeans (the mean of the middle half): one slow answer among many says nothing.

    limit' = limit * clamp(TOLERANCE / slowdown, SHRINK_AT_MOST, 1) + allowance        allowance = max(1, limit / 10)

A HIS that serves k calls side by side and queues the rest slows down by limit / k, so that the limit comes to rest at
TOLERANCE * k + allowance: for k = 4 at 6. It grows by the allowance, and only while all of it is used; it shrinks at once.
Calls without a usable reply halve it when they are more than LOSSES_BORNE of a window: a HIS that chokes loses most of what is
in flight, one that has faults loses one call in twenty for ever, however few there are at once. Calls that began before the
last change are not counted: they show the limit before it.

Under lasting load no call is alone any more, and a HIS that has become slower cannot be told from one that we load. So the
limiter looks from time to time: for a few calls it goes down to the floor, and the baselines are measured anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from statistics import fmean
from typing import NamedTuple

TOLERANCE = 1.25  # the slowdown that is put down to chance
SHRINK_AT_MOST = 0.5
WINDOW = 5  # calls, or as many as run at once: one round of them
LOSSES_BORNE = 0.25  # of a window
BASELINE_CALLS = 15  # the latest of a verb that its baseline is made of


class Look(NamedTuple):
    """How looks are made: so often, at most every so many calls' time, until so many calls were alone.

    It is given up after twice the time that these calls take: one that hangs must not keep all others waiting.
    """

    every_s: float
    every_calls: int
    calls: int


FIRST_LOOK = Look(every_s=5.0, every_calls=20, calls=6)  # while a verb has hardly been seen alone
LATER_LOOK = Look(every_s=60.0, every_calls=100, calls=2)


class Baseline:
    """What a verb takes when nothing of ours loads the HIS, in seconds. Until it was seen so, the quickest call stands in."""

    def __init__(self, seconds: float) -> None:
        self._alone: deque[float] = deque(maxlen=BASELINE_CALLS)
        self.seconds = seconds

    @property
    def look(self) -> Look:
        """How to look for it: two calls by which a first impression is refined are not enough to make one."""
        return LATER_LOOK if len(self._alone) >= FIRST_LOOK.calls // 2 else FIRST_LOOK

    def note(self, seconds: float, *, alone: bool) -> None:
        """Take one answered call into account."""
        if alone:
            self._alone.append(seconds)
            self.seconds = midmean(self._alone)
        elif not self._alone:
            self.seconds = min(self.seconds, seconds)


class GradientLimiter:
    """The limit of one connector. Pure: every instant is given, in seconds of one monotonic clock.

    It begins at the ceiling, which the operator has vouched for: a HIS whose first call hangs is no reason to hold back all
    others.
    """

    def __init__(self, *, floor: int, ceiling: int) -> None:
        if not 1 <= floor <= ceiling:
            raise ValueError("a limit needs 1 <= floor <= ceiling")
        self.floor, self.ceiling = floor, ceiling
        self.era = 0  # counts the changes of the limit: what began in an earlier one shows the limit of then
        self._limit = float(ceiling)
        self._baselines: dict[str, Baseline] = {}
        self._slowdowns: list[float] = []
        self._losses = 0
        self._most = 0
        self._typical_s = 0.0
        self._looked_at: float | None = None  # the end of the last look, or when load began
        self.looks_until: float | None = None  # when a look that goes on now is given up
        self._still_to_see = 0  # calls alone that end the look

    @property
    def limit(self) -> int:
        """Calls that may be in flight now."""
        return self.floor if self.looks_until is not None else int(self._limit)

    def record(self, verb: str, seconds: float, *, ended: float, in_flight: int, era: int) -> None:
        """An answered call. `in_flight` is the most that ran at once while it did, itself included; `era` when it began."""
        seconds = max(seconds, 1e-6)
        baseline = self._baselines.setdefault(verb, Baseline(seconds))
        alone = in_flight <= self.floor
        baseline.note(seconds, alone=alone)
        self._typical_s = 0.9 * self._typical_s + 0.1 * seconds if self._typical_s else seconds
        self._look(baseline, alone=alone, now=ended)
        if era < self.era or self.looks_until is not None:
            return
        self._slowdowns.append(seconds / baseline.seconds)
        self._most = max(self._most, in_flight)
        if len(self._slowdowns) >= self._window:
            self._adjust()

    def record_loss(self, *, era: int) -> None:
        """A call without a usable reply: where there are many, the HIS may be choking. Those that follow count no more."""
        if era != self.era:
            return
        self._losses += 1
        if self._losses > LOSSES_BORNE * self._window:
            self.looks_until = None
            self._change(self._limit * SHRINK_AT_MOST)
            self.era += 1  # also at the floor

    def tick(self, now: float) -> None:
        """Give up a look that takes too long. To be called before `limit` is read when calls wait."""
        if self.looks_until is not None and now >= self.looks_until:
            self._end_look(now)

    @property
    def _window(self) -> int:
        """Answered calls that are judged together."""
        return max(WINDOW, int(self._limit))

    # --- the gradient ---------------------------------------------------------------------------------------------

    def _adjust(self) -> None:
        gradient = min(1.0, max(SHRINK_AT_MOST, TOLERANCE / midmean(self._slowdowns)))
        wanted = self._limit * gradient + max(1.0, self._limit / 10)
        # What is not used has shown neither that the HIS would bear more, nor that it is we who slow it down.
        needed = int(self._limit) if wanted > self._limit else self._limit / 2
        self._change(wanted if self._most >= needed else self._limit)

    def _change(self, wanted: float) -> None:
        self._slowdowns, self._losses, self._most = [], 0, 0
        limit = min(float(self.ceiling), max(float(self.floor), wanted))
        if int(limit) != int(self._limit):
            self.era += 1
        self._limit = limit

    # --- looking --------------------------------------------------------------------------------------------------

    def _look(self, baseline: Baseline, *, alone: bool, now: float) -> None:
        if alone:
            self._looked_at = now
            self._still_to_see -= 1
            if self.looks_until is not None and self._still_to_see <= 0:
                self._end_look(now)
            return
        if self._looked_at is None:
            self._looked_at = now
        if self.looks_until is not None:
            self.tick(now)
            return
        look = baseline.look
        if now - self._looked_at >= max(look.every_s, look.every_calls * self._typical_s):
            self.looks_until = now + 2 * look.calls * self._typical_s
            self._still_to_see = look.calls

    def _end_look(self, now: float) -> None:
        self.looks_until = None
        self._looked_at = now
        # What was in flight in the look shows the floor and not the limit.
        self.era += 1
        self._slowdowns, self._losses, self._most = [], 0, 0


def midmean(values: Collection[float]) -> float:
    """The mean of the middle half, of at least one value."""
    ordered = sorted(values)
    cut = (len(ordered) - 1) // 4
    return fmean(ordered[cut : len(ordered) - cut])
