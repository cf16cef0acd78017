"""Whose turn it is to write: one at a time, holds before everything else, and nobody for ever last."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

# Everything that is not a batch of holds takes at most 20 ms (DESIGN section 4), so that one of it between so many batches
# costs a crowd little, and a crowd of an hour starves neither expiries nor outcomes of commands.
MOST_FIRST_IN_A_ROW = 4


class Turn:
    """A lock with two queues. `first` is for batches of holds."""

    def __init__(self) -> None:
        self._busy = False
        self._first: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()
        self._in_a_row = 0
        self.on_wanted: Callable[[], None] | None = None
        """Called when somebody begins to wait; set by a holder that could end early."""

    @property
    def wanted(self) -> bool:
        """Whether anybody waits."""
        return bool(self._first or self._others)

    async def acquire(self, *, first: bool = False, timeout_s: float) -> None:
        """Wait for the turn; `release` must follow. Raises TimeoutError."""
        if not self._busy:
            self._busy = True
            return
        queue = self._first if first else self._others
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(future)
        if self.on_wanted is not None:
            self.on_wanted()
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except BaseException:
            if future.done() and not future.cancelled():
                self.release()  # the turn was given to us in the very moment we gave up
            else:
                with suppress(ValueError):  # somebody's release has already passed over it
                    queue.remove(future)
            raise

    def release(self) -> None:
        """Hand the turn to the next one who waits."""
        while self._first or self._others:
            future = self._next()
            if not future.done():
                future.set_result(None)
                return
        self._busy = False
        self._in_a_row = 0

    def _next(self) -> asyncio.Future[None]:
        if self._first and (not self._others or self._in_a_row < MOST_FIRST_IN_A_ROW):
            self._in_a_row += 1
            return self._first.popleft()
        self._in_a_row = 0
        return self._others.popleft()
