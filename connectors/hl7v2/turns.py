"""Fair turns of the event loop, for connections that have more to do than others should wait for."""

from __future__ import annotations

import asyncio
from collections import deque

SLICE_S = 0.003


class Turns:
    """Lets one connection a turn of the loop go on; those that wait go on in the order in which they came."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()

    def begin(self) -> float:
        """When the slice of one that begins has ended: at once where others wait for a turn."""
        return self._loop.time() + (0.0 if self._waiting else SLICE_S)

    async def go_on(self, ends_at: float) -> float:
        """Between two pieces of work: give the loop back when the slice is over. When the slice then has ended."""
        if self._loop.time() < ends_at:
            return ends_at
        turn = self._loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._next)
        await turn
        return self._loop.time() + SLICE_S

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                break
        if self._waiting:
            self._loop.call_soon(self._next)
