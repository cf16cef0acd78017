"""When to turn requests away: by how long the others wait, after the rule of CoDel (RFC 8289). Pure: time is given."""

from __future__ import annotations

import math
from collections.abc import Sequence

from booking.api.classes import RequestClass

EASE = 5.0  # a rung is left in this part of the time that it takes to come to the first one


class Ladder:
    """Classes that are turned away one after the other, the first of `rungs` first, while a queue's delay stays above a target.

    A burst is no overload: the delay must have been above `target_s` for all of `after_s` before the first class goes, and again
    for after_s / sqrt(2), after_s / sqrt(3) ... before the second, the third. One look at or below the target takes back one
    class, and so does each further after_s / 5 that it stays there. With 0.5 s that is: away after 0.5, 0.85, 1.14 and 1.39 s,
    and all back within 0.3 s. A class that is away for a tenth of a second and there for half a second loses a sixth of its
    requests: so it finds how much must go.

    A target of 0 means that nothing is ever turned away.
    """

    def __init__(self, rungs: Sequence[RequestClass], *, target_s: float, after_s: float) -> None:
        self.rungs = tuple(rungs)
        self.level = 0
        self._target_s = target_s
        self._after_s = after_s
        self._rise_s: float | None = None  # when the next class goes, if the delay stays above the target until then
        self._ease_s = -math.inf  # from when on a look below the target takes one back

    @property
    def shed(self) -> tuple[RequestClass, ...]:
        """The classes that are turned away now."""
        return self.rungs[: self.level]

    def observe(self, now_s: float, delay_s: float) -> int:
        """One look at the queue; the level from now on. `now_s` must not go back."""
        if delay_s <= self._target_s or not self._target_s:
            self._rise_s = None
            if self.level and now_s >= self._ease_s:
                self.level -= 1
                self._ease_s = now_s + self._after_s / EASE
        elif self._rise_s is None:
            self._rise_s = now_s + self._pause_s
        elif now_s >= self._rise_s and self.level < len(self.rungs):
            self.level += 1
            self._rise_s = now_s + self._pause_s
        return self.level

    @property
    def _pause_s(self) -> float:
        return self._after_s / math.sqrt(self.level + 1)
