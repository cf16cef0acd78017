"""When patients arrive: a rate that changes with time, and the arrivals of a Poisson process of that rate. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import msgspec


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arrivals per second around an opening at time 0 (all in seconds before or after it).

    Quiet at `quiet_per_s`; from `ramp_from_s` a straight ramp to `ramp_per_s` at 0: people come early and wait. At 0 the rate
    jumps to `spike_per_s` and falls to `after_per_s` with the time constant `decay_s`.
    """

    quiet_per_s: float
    ramp_from_s: float
    ramp_per_s: float
    spike_per_s: float
    after_per_s: float
    decay_s: float

    def rate(self, at_s: float) -> float:
        """Arrivals per second at this time."""
        if at_s < self.ramp_from_s:
            return self.quiet_per_s
        if at_s < 0:
            return self.quiet_per_s + (self.ramp_per_s - self.quiet_per_s) * (1 - at_s / self.ramp_from_s)
        return self.after_per_s + (self.spike_per_s - self.after_per_s) * math.exp(-at_s / self.decay_s)

    @property
    def highest_per_s(self) -> float:
        return max(self.quiet_per_s, self.ramp_per_s, self.spike_per_s, self.after_per_s)

    def expected(self, from_s: float, to_s: float, *, step_s: float = 0.01) -> float:
        """How many arrive between two times on average: the integral of the rate (midpoint rule)."""
        steps = max(1, round((to_s - from_s) / step_s))
        width_s = (to_s - from_s) / steps
        return sum(self.rate(from_s + (n + 0.5) * width_s) for n in range(steps)) * width_s


def arrivals(shape: Shape, from_s: float, to_s: float, chance: random.Random) -> Iterator[float]:
    """The instants of an inhomogeneous Poisson process, in order, by thinning (Lewis and Shedler, 1979)."""
    highest = shape.highest_per_s
    if highest <= 0:
        return
    at_s = from_s
    while True:
        at_s += chance.expovariate(highest)
        if at_s >= to_s:
            return
        if chance.random() * highest < shape.rate(at_s):
            yield at_s
