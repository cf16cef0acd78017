"""Whose turn it is to write: one at a time, holds and steps before everything else, and nobody for ever last."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum


class Of(IntEnum):
    """Who asks for a turn."""

    HOLDS = 0
    """A batch of holds."""

    STEPS = 1
    """Somebody with a seat goes on with it: a payment, a cancellation. A step a turn, or all that wait (`booking.steps`)."""

    BINDS = 2
    """A portal makes something known: a patient, an address for news, what a HIS has told live."""

    OTHERS = 3
    """Outcomes of commands, fetches, sweeps."""


# A batch of holds takes at most 20 ms (DESIGN section 4), a step about two, and a hospital's steps together ten: a batch and some
# steps in turn let a second's payments through in a second while a crowd wants seats. One of the others after so many costs the
# crowd little, and a crowd of an hour starves neither expiries nor outcomes of commands; nor does one that makes patients known,
# which waits in a queue of its own.
STEPS_IN_A_ROW = 4
_ROUND = (*(Of.HOLDS, *(Of.STEPS,) * STEPS_IN_A_ROW, Of.BINDS) * 4, Of.OTHERS)


class _Waits:
    """One who waits. `number` keeps its place when it is called in vain."""

    __slots__ = ("called", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.called: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Turn:
    """A lock with a queue for each `Of`, served by rounds; whoever does not wait is passed over.

    Whoever is called runs in the next turn of the event loop, which beside a crowd takes longer than a step does. So the steps
    that follow each other in the round are called `together` where they need no turn of the loop by themselves: each finds the
    lock free that the one before has given back. Where one does stop in between, the others go back to their places, and are
    called before the round goes on.
    """

    def __init__(self, *, together: bool = False) -> None:
        self._most_called = STEPS_IN_A_ROW if together else 1
        self._busy = False
        self._queues: tuple[deque[_Waits], ...] = tuple(deque() for _ in Of)
        self._place = 0  # in the round
        self._called = 0  # who have been called and have not run since
        self._in_vain = 0  # how many of the round's steps were called and found the lock taken
        self._numbers = itertools.count()
        self.on_wanted: Callable[[], None] | None = None
        """Called when somebody begins to wait; set by a holder that could end early."""

    @property
    def wanted(self) -> bool:
        """Whether anybody waits."""
        return self._called > 0 or any(self._queues)

    async def acquire(self, of: Of = Of.OTHERS, *, timeout_s: float) -> None:
        """Wait for the turn; `release` must follow. Raises TimeoutError."""
        if not self._busy and not self._called:
            self._busy = True
            return
        queue, number = self._queues[of], next(self._numbers)
        if self.on_wanted is not None:
            self.on_wanted()
        async with asyncio.timeout(timeout_s):
            while True:
                await self._be_called(queue, _Waits(number))
                if not self._busy:
                    self._busy = True
                    return
                self._in_vain += of is Of.STEPS

    async def _be_called(self, queue: deque[_Waits], one: _Waits) -> None:
        """Wait in the queue to be called. Whoever gives up in the very moment of the call passes it on."""
        behind = next((place for place, other in enumerate(queue) if other.number > one.number), len(queue))
        queue.insert(behind, one)
        try:
            await one.called
        except BaseException:
            if one.called.done() and not one.called.cancelled():
                self._called -= 1
                self._call_next()
            else:
                with suppress(ValueError):  # somebody's call has already passed over it
                    queue.remove(one)
            raise
        self._called -= 1

    def release(self) -> None:
        """Hand the turn to whoever comes next."""
        self._busy = False
        self._call_next()

    def _call_next(self) -> None:
        if self._busy or self._called:
            return  # one of those will call
        if self._in_vain:
            again = min(self._in_vain, len(self._queues[Of.STEPS]))
            self._in_vain = 0
            if sum([self._call(self._queues[Of.STEPS]) for _ in range(again)]):
                return
        while any(self._queues):
            of = self._next()
            queue = self._queues[of]
            called = self._call(queue)
            while of is Of.STEPS and queue and called < self._most_called and _ROUND[self._place] is of:
                self._place = (self._place + 1) % len(_ROUND)
                called += self._call(queue)
            if called:
                return
        self._place = 0

    def _next(self) -> Of:
        while True:
            of = _ROUND[self._place]
            self._place = (self._place + 1) % len(_ROUND)
            if self._queues[of]:
                return of

    def _call(self, queue: deque[_Waits]) -> int:
        one = queue.popleft()
        if one.called.done():
            return 0
        one.called.set_result(None)
        self._called += 1
        return 1
