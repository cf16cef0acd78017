"""The clock of a test's own event loop, which its test turns: time-outs end when they are over, and not when a machine is slow.

It goes on by itself as well, so that a test gives limits of a minute, which no stall of the machine reaches, and turns it by as
much. It is for what runs on the loop of its test; another process or thread has its own time.
"""

from __future__ import annotations

import asyncio


class LoopClock:
    """The running loop's clock, from now on."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._real_s = loop.time
        self._turned_s = 0.0
        loop.time = self._time  # type: ignore[method-assign]

    def _time(self) -> float:
        return self._real_s() + self._turned_s

    def turn(self, seconds: float) -> None:
        """Let so much time pass; what is due then happens at the loop's next turn."""
        self._turned_s += seconds
