"""One verb's time: its requests share it."""

from __future__ import annotations

import asyncio


class Deadline:
    """`timeout_s` seconds from now, on the loop's clock."""

    def __init__(self, timeout_s: float) -> None:
        self._clock = asyncio.get_running_loop().time
        self._ends = self._clock() + timeout_s

    def left_s(self) -> float:
        """Seconds that are left, never below 0."""
        return max(0.0, self._ends - self._clock())
