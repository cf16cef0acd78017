"""The bulkhead of one connector: so many calls at once, a bounded queue with deadlines, and a breaker.

Whoever waits is served by rank (paid registrations first), then by arrival. The breaker opens after `trip_after` calls in a
row that found no HIS; while open nothing is sent; after `open_s` one call at a time may try (half-open), and its success
closes it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class NoPlace(Exception):
    """The call was not made: the queue is full, the deadline passed, or the breaker is open. Nothing left our machine."""


class Breaker:
    """Counts calls that found no HIS. `clock` is monotonic seconds."""

    def __init__(self, *, trip_after: int = 5, open_s: float = 2.0, longest_s: float = 30.0) -> None:
        self._trip_after = trip_after
        self._open_s = open_s
        self._longest_s = longest_s
        self._failures = 0
        self._open_until = 0.0
        self._probing = False
        self._pause_s = open_s

    @property
    def status(self) -> str:
        """`up`, `degraded` (some calls failed) or `down` (open or probing)."""
        if self._failures >= self._trip_after:
            return "down"
        return "degraded" if self._failures else "up"

    def admits(self, now: float) -> bool:
        """Whether a call may go out now. A half-open breaker lets one through at a time."""
        if self._failures < self._trip_after:
            return True
        if now < self._open_until or self._probing:
            return False
        self._probing = True
        return True

    def record(self, *, answered: bool, now: float) -> None:
        """Note how a call ended: `answered` means that the HIS said something, were it a refusal."""
        self._probing = False
        if answered:
            self._failures, self._pause_s = 0, self._open_s
            return
        self._failures += 1
        if self._failures >= self._trip_after:
            self._open_until = now + self._pause_s
            self._pause_s = min(self._pause_s * 2, self._longest_s)

    def forget(self) -> None:
        """A call ended without telling anything of the HIS (it was cancelled, or failed on our side)."""
        self._probing = False


class Bulkhead:
    """`places` calls at once; at most `queue` wait, each for at most `deadline_s`."""

    def __init__(self, *, places: int, queue: int, deadline_s: float, breaker: Breaker | None = None) -> None:
        self._places = places
        self._queue = queue
        self._deadline_s = deadline_s
        self._busy = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self.breaker = breaker or Breaker()

    @property
    def free(self) -> int:
        """Places that nobody uses or waits for."""
        return max(0, self._places - self._busy - len(self._waiting))

    @asynccontextmanager
    async def place(self, rank: int) -> AsyncIterator[Breaker]:
        """Hold one place for one call. Raises NoPlace before anything was sent."""
        await self._enter(rank)
        try:
            if not self.breaker.admits(asyncio.get_running_loop().time()):
                raise NoPlace("the breaker is open")
            try:
                yield self.breaker
            except BaseException:  # also a fault of ours: a probe that tells nothing must not keep the breaker shut
                self.breaker.forget()
                raise
        finally:
            self._leave()

    async def _enter(self, rank: int) -> None:
        if self._busy < self._places and not self._waiting:
            self._busy += 1
            return
        if len(self._waiting) >= self._queue:
            raise NoPlace("the queue is full")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._order), future))
        try:
            async with asyncio.timeout(self._deadline_s):
                await future
        except BaseException as e:
            if future.done() and not future.cancelled():
                self._leave()  # the place was given to us in the very moment we gave up
            else:
                future.cancel()
                self._waiting = [entry for entry in self._waiting if entry[2] is not future]
                heapq.heapify(self._waiting)
            if isinstance(e, TimeoutError):
                raise NoPlace("no place became free in time") from None
            raise

    def _leave(self) -> None:
        while self._waiting:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)  # the place is handed over, `_busy` stays
                return
        self._busy -= 1
