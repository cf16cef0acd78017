"""The circuit breaker: a HIS that does not answer is left alone, and asked from time to time whether it is back."""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import IntEnum


class BreakerState(IntEnum):
    """As the metric shows it."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Admission(IntEnum):
    """Whether a call may go out, and whether it is a half-open breaker's probe."""

    REFUSED = 0
    CALL = 1
    PROBE = 2


class Breaker:
    """Counts calls in a row that found no HIS; every `now` is monotonic seconds.

    It opens after `trip_after` of them: nothing is sent for a pause. Then one call at a time may try (half-open): its success
    closes the breaker, its failure doubles the pause, from `open_s` to `longest_s`. A pause is shortened or lengthened by up to
    a quarter, by `chance` (0 to 1), so that the breakers of many connectors to one system do not try in step: the first is
    1.5 to 2.5 s.
    """

    def __init__(
        self,
        *,
        trip_after: int = 5,
        open_s: float = 2.0,
        longest_s: float = 30.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._trip_after = trip_after
        self._open_s = open_s
        self._longest_s = longest_s
        self._chance = chance
        self._failures = 0
        self._open_until = 0.0
        self._pause_s = open_s
        self._probing = False

    @property
    def status(self) -> str:
        """`up`, `degraded` (some calls failed) or `down` (open or half-open)."""
        if self._is_tripped():
            return "down"
        return "degraded" if self._failures else "up"

    def state(self, now: float) -> BreakerState:
        """What would happen to a call now."""
        if not self._is_tripped():
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._open_until else BreakerState.HALF_OPEN

    def admit(self, now: float) -> Admission:
        """Whether a call may go out now."""
        if not self._is_tripped():
            return Admission.CALL
        if now < self._open_until or self._probing:
            return Admission.REFUSED
        self._probing = True
        return Admission.PROBE

    def record(self, *, answered: bool, now: float, probe: bool = False) -> None:
        """Note how a call ended: `answered` means that the HIS said something, were it a refusal."""
        if probe:
            self._probing = False
        if answered:
            self._failures, self._pause_s = 0, self._open_s
            return
        late = self._is_tripped() and not probe  # it was in flight when the breaker opened, and tells nothing new
        if late:
            return
        self._failures += 1
        if self._is_tripped():
            self._open_until = now + self._pause_s * (0.75 + self._chance() / 2)
            self._pause_s = min(self._pause_s * 2, self._longest_s)

    def forget(self, *, probe: bool) -> None:
        """A call ended without telling anything of the HIS (it was cancelled, or failed on our side)."""
        if probe:
            self._probing = False

    def _is_tripped(self) -> bool:
        return self._failures >= self._trip_after
