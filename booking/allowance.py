"""How often something may be done at once: a token bucket on a clock that is handed in."""

from __future__ import annotations


class Allowance:
    """`per_s` times a second for ever, and `burst` times in a row after a rest. Times are seconds of one monotonic clock."""

    __slots__ = ("_at_s", "_burst", "_left", "_per_s")

    def __init__(self, per_s: float, burst: int, now_s: float) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._left = float(burst)
        self._at_s = now_s

    def wait_s(self, now_s: float) -> float:
        """How long until it may be done; 0: now."""
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return max(0.0, (1.0 - self._left) / self._per_s)

    def take(self, now_s: float) -> None:
        """It is done now, allowed or not."""
        self.wait_s(now_s)
        self._left = max(-self._burst, self._left - 1.0)
