"""The bulkhead of one connector: so many calls at once, a bounded queue with deadlines and ranks, and a breaker.

Whoever waits is served by rank (paid registrations first), then by arrival; every `FAIR_EVERY`-th place goes to whoever has
waited longest, so that a crowd of one rank delays the others and starves none. Where the queue is full, a caller of a better
rank takes the place of the last one of the worst.

How many calls may run at once is the limiter's to say; the breaker stops them altogether.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum

import msgspec

from scheduler_sync.breaker import Admission, Breaker
from scheduler_sync.limiter import GradientLimiter

FAIR_EVERY = 8


class Reason(StrEnum):
    """Why a call was not made."""

    QUEUE_FULL = "queue_full"
    DISPLACED = "displaced"  # the queue was full, and somebody of a better rank came
    DEADLINE = "deadline"
    BREAKER_OPEN = "breaker_open"


_TEXTS = {
    Reason.QUEUE_FULL: "the queue is full",
    Reason.DISPLACED: "the queue is full and more urgent calls came",
    Reason.DEADLINE: "no place became free in time",
    Reason.BREAKER_OPEN: "the breaker is open",
}


class NoPlace(Exception):
    """The call was not made, for `reason`. Nothing left our machine."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(_TEXTS[reason])
        self.reason = reason


class _Waiter(msgspec.Struct, eq=False):
    rank: int
    number: int  # by arrival
    served: asyncio.Future[None]


class Visit:
    """One call that holds a place. Tell how it ended with `record`; a call that tells nothing is forgotten."""

    def __init__(self, bulkhead: Bulkhead, began: float, *, probe: bool) -> None:
        self._bulkhead = bulkhead
        self.began = began
        self.probe = probe
        self.era = bulkhead.limiter.era
        self.most = 0  # calls that ran at once while this one did
        self.told = False

    def record(self, verb: str, *, answered: bool) -> None:
        """`answered` means that the HIS said something, were it a refusal."""
        self.told = True
        self._bulkhead.note(self, verb, answered=answered)


class Bulkhead:
    """The places of one connector; at most `queue` callers wait, each for at most `deadline_s`."""

    def __init__(
        self, *, limiter: GradientLimiter, queue: int, deadline_s: float, breaker: Breaker | None = None
    ) -> None:
        self.limiter = limiter
        self.breaker = breaker or Breaker()
        self._queue = queue
        self._deadline_s = deadline_s
        self._inside: Counter[int] = Counter()  # places by the rank that holds them
        self._visits: set[Visit] = set()
        self._waiting: dict[int, deque[_Waiter]] = {}  # by rank, each by arrival
        self.queued = 0
        self._order = itertools.count()
        self._passed_over = 0  # places in a row that did not go to whoever has waited longest
        self._timer: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        """Places taken now."""
        return self._inside.total()

    def room(self, rank: int) -> int:
        """Places that callers of this rank could have before anybody of a worse rank: neither held nor awaited by others.

        Callers of a worse rank are not counted, although they may hold places now: whoever comes is served before those of
        them that wait.
        """
        held = sum(n for r, n in self._inside.items() if r <= rank)
        awaited = sum(len(line) for r, line in self._waiting.items() if r <= rank)
        return max(0, self.limiter.limit - held - awaited)

    @asynccontextmanager
    async def place(self, rank: int, *, within_s: float | None = None) -> AsyncIterator[Visit]:
        """Hold one place for one call; wait for it for `within_s`, if that is less than the deadline of all.

        Raises NoPlace before anything was sent.
        """
        await self._enter(rank, self._deadline_s if within_s is None else min(within_s, self._deadline_s))
        try:
            now = asyncio.get_running_loop().time()
            admission = self.breaker.admit(now)
            if admission is Admission.REFUSED:
                raise NoPlace(Reason.BREAKER_OPEN)
            visit = Visit(self, now, probe=admission is Admission.PROBE)
            self._begin(visit)
            try:
                yield visit
            finally:
                self._visits.discard(visit)
                if not visit.told:  # also a fault of ours: a probe that tells nothing must not keep the breaker shut
                    self.breaker.forget(probe=visit.probe)
        finally:
            self._leave(rank)

    def note(self, visit: Visit, verb: str, *, answered: bool) -> None:
        """A call has ended: what it tells of the HIS. Called by `Visit.record`."""
        now = asyncio.get_running_loop().time()
        self.breaker.record(answered=answered, now=now, probe=visit.probe)
        if answered:
            self.limiter.record(verb, now - visit.began, ended=now, in_flight=visit.most, era=visit.era)
        else:
            self.limiter.record_loss(era=visit.era)

    def _begin(self, visit: Visit) -> None:
        self._visits.add(visit)
        running = len(self._visits)
        for other in self._visits:
            other.most = max(other.most, running)

    # --- the queue ------------------------------------------------------------------------------------------------

    async def _enter(self, rank: int, deadline_s: float) -> None:
        if not self.queued and self._is_free():
            self._inside[rank] += 1
            return
        if self.queued >= self._queue:
            self._displace(rank)
        waiter = _Waiter(rank, next(self._order), asyncio.get_running_loop().create_future())
        self._waiting.setdefault(rank, deque()).append(waiter)
        self.queued += 1
        self._serve()  # the limit may have grown since somebody left last
        try:
            async with asyncio.timeout(deadline_s):
                await waiter.served
        except NoPlace:
            raise
        except BaseException as e:
            if waiter.served.cancelled():
                self._remove(waiter)
            elif waiter.served.exception() is None:
                self._leave(rank)  # the place was given to us in the very moment we gave up
            if isinstance(e, TimeoutError):
                raise NoPlace(Reason.DEADLINE) from None
            raise

    def _displace(self, rank: int) -> None:
        """Make room in a full queue by turning away the last of the worst rank. Raises NoPlace where that is the caller's."""
        worst = max(self._waiting, default=rank)
        if worst <= rank:
            raise NoPlace(Reason.QUEUE_FULL)
        waiter = self._waiting[worst][-1]
        self._remove(waiter)
        if not waiter.served.done():
            waiter.served.set_exception(NoPlace(Reason.DISPLACED))

    def _remove(self, waiter: _Waiter) -> None:
        line = self._waiting.get(waiter.rank, ())
        if waiter in line:
            self._waiting[waiter.rank].remove(waiter)
            self.queued -= 1
            if not self._waiting[waiter.rank]:
                del self._waiting[waiter.rank]

    def _is_free(self) -> bool:
        self.limiter.tick(asyncio.get_running_loop().time())
        return self.in_flight < self.limiter.limit

    def _leave(self, rank: int) -> None:
        self._inside[rank] -= 1
        self._serve()

    def _serve(self) -> None:
        """Hand free places to those who wait."""
        while self.queued and self._is_free():
            waiter = self._next()
            self._remove(waiter)
            if not waiter.served.done():
                self._inside[waiter.rank] += 1
                waiter.served.set_result(None)
        self._serve_later()

    def _next(self) -> _Waiter:
        best = self._waiting[min(self._waiting)][0]
        oldest = min((line[0] for line in self._waiting.values()), key=lambda w: w.number)
        self._passed_over = 0 if best is oldest else self._passed_over + 1
        if self._passed_over < FAIR_EVERY:
            return best
        self._passed_over = 0
        return oldest

    def _serve_later(self) -> None:
        """A look of the limiter may end by the clock, while nobody leaves."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.queued and self.limiter.looks_until is not None:
            self._timer = asyncio.get_running_loop().call_at(self.limiter.looks_until, self._serve)
