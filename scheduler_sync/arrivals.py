"""Messages of several connections that arrive together are stored together: one commit for all of them.

Whoever finds nobody storing stores: its own message, and those that have come meanwhile. The others wait, and are answered when
that commit is on the disk. Messages are stored in the order in which they arrived; one connection hands over the next message
when it has the answer to the last, so that its own keep theirs. One connection alone waits for nobody. What came in one frame is
handed over together, and nothing of it is stored behind one that may come again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise

from booking.store.engine import StoreUnavailable
from connectors.port import Inbound, InboundAnswer, Refused
from monitoring.traces import stored_here

MOST_TOGETHER = 64
MOST_BYTES = 65_536  # of several together; a longer message is stored by itself


class Overtaking(StoreUnavailable):
    """One that came before it in the same frame was not stored, and may come again."""


class Arrival:
    """A message to be stored. `stored` or `error` is set when it has been tried. `behind`: the one before it in its frame."""

    __slots__ = ("behind", "called", "error", "inbound", "stored", "trace")

    def __init__(self, inbound: Inbound) -> None:
        self.inbound = inbound
        self.trace = stored_here()  # whoever stores it works for somebody else
        self.stored: InboundAnswer | None = None
        self.error: Exception | None = None
        self.called: asyncio.Future[None] | None = None
        self.behind: Arrival | None = None

    @property
    def may_come_again(self) -> bool:
        """Whether it was tried in vain, and its sender keeps it."""
        if isinstance(self.stored, Refused):
            return self.stored.retryable
        return isinstance(self.error, StoreUnavailable)

    @property
    def tried(self) -> bool:
        return self.stored is not None or self.error is not None

    @property
    def is_called(self) -> bool:
        return self.called is not None and self.called.done() and not self.called.cancelled()

    def call(self) -> bool:
        """Let it look: it has been tried, or is the one to store now. False where its caller has been cancelled meanwhile."""
        if self.called is None or self.called.cancelled():
            return False
        if not self.called.done():
            self.called.set_result(None)
        return True


_NOBODY = "whoever stores is the oldest of those who wait"


def _outcome(mine: Arrival) -> InboundAnswer:
    if mine.error is not None:
        raise mine.error
    if mine.stored is None:
        raise RuntimeError(_NOBODY)
    return mine.stored


def _overtakes(one: Arrival) -> bool:
    if one.behind is not None and one.behind.may_come_again:
        one.error = Overtaking("one before it was not stored")
    return one.error is not None


StoreThem = Callable[[Sequence[Arrival]], Awaitable[None]]
"""Stores messages in one transaction and sets `stored` of each; raises where that failed for all, or may have."""


class Arrivals:
    """The messages of one hospital on their way into the message store."""

    def __init__(self, store_them: StoreThem) -> None:
        self._store_them = store_them
        self._waiting: deque[Arrival] = deque()
        self._busy = False  # somebody stores, or has been called to
        self._alone = 0  # so many of the next ones are stored one by one, because together they could not be
        self._peer = ""  # of the newest message
        self._several = False  # whether the one before it came from another

    async def store(self, inbound: Inbound) -> InboundAnswer:
        """Returns when the message is on the disk. Raises what the storing does.

        Whoever is cancelled leaves open whether its message is stored.
        """
        mine = Arrival(inbound)
        self._note_peer(inbound)
        self._waiting.append(mine)
        await self._be_tried(mine)
        return _outcome(mine)

    async def store_together(self, inbounds: Sequence[Inbound]) -> list[InboundAnswer | Exception]:
        """Returns what became of each message of one frame: its answer, or what the storing raised, all in their order.

        Nothing is stored behind one that may come again: that is `Overtaking`. Whoever is cancelled leaves all of it open.
        """
        all_mine = [Arrival(inbound) for inbound in inbounds]
        for before, one in pairwise(all_mine):
            one.behind = before
            one.called = asyncio.get_running_loop().create_future()
        self._note_peer(inbounds[0])
        self._waiting.extend(all_mine)
        try:
            for mine in all_mine:
                if not mine.tried:
                    await self._be_tried(mine)
        except BaseException:
            given_up = [one for one in all_mine if self._give_up(one)]
            if any(one.is_called for one in given_up):
                self._call_next()  # one of them was to store
            raise
        return [mine.stored or mine.error or RuntimeError(_NOBODY) for mine in all_mine]

    def _note_peer(self, inbound: Inbound) -> None:
        self._several, self._peer = self._peer not in ("", inbound.peer), inbound.peer

    async def _be_tried(self, mine: Arrival) -> None:
        if self._busy:
            await self._be_called(mine)
        if not mine.tried:
            self._busy = True
            try:
                await self._store_oldest()
            except BaseException:
                self._give_up(mine)
                raise
            finally:
                self._call_next()

    async def _be_called(self, mine: Arrival) -> None:
        if mine.called is None:
            mine.called = asyncio.get_running_loop().create_future()
        try:
            await mine.called
        except BaseException:
            if self._give_up(mine) and mine.is_called:
                self._call_next()  # it was to store
            raise

    def _give_up(self, mine: Arrival) -> bool:
        """Take it out of the line; whether it stood there."""
        if mine not in self._waiting:
            return False
        self._waiting.remove(mine)
        return True

    def _call_next(self) -> None:
        # A cancelled one may stand here still, where its task has not run yet or it was put back: it would never call another.
        while self._waiting and not self._waiting[0].call():
            self._waiting.popleft()
        self._busy = bool(self._waiting)

    async def _store_oldest(self) -> None:
        if self._several:
            # What several connections send at once is read in one turn of the loop after another.
            there = 0
            while there < len(self._waiting) < MOST_TOGETHER:
                there = len(self._waiting)
                await asyncio.sleep(0)
        batch = self._batch()
        try:
            await self._try(batch)
        except BaseException:
            # Whoever is cancelled here does not take the others along: they are stored again, or found to be stored.
            self._waiting.extendleft(one for one in reversed(batch[1:]) if not one.tried)
            raise
        finally:
            for one in batch:
                if one.tried:
                    one.call()

    def _batch(self) -> list[Arrival]:
        """The oldest ones, taken out: at least one."""
        batch = [self._waiting.popleft()]
        size = len(batch[0].inbound.raw)
        most = 1 if self._alone else MOST_TOGETHER
        while self._waiting and len(batch) < most:
            size += len(self._waiting[0].inbound.raw)
            if size > MOST_BYTES:
                break
            batch.append(self._waiting.popleft())
        self._alone = max(0, self._alone - len(batch))
        return batch

    async def _try(self, batch: Sequence[Arrival]) -> None:
        batch = [one for one in batch if not _overtakes(one)]
        if not batch:
            return
        try:
            await self._store_them(batch)
        except StoreUnavailable as e:
            if len(batch) > 1:
                self._alone = len(batch)  # one of them may be the reason
            for one in batch:
                one.error = e
        except Exception as e:
            if len(batch) == 1:
                batch[0].error = e
                return
            for one in batch:
                await self._try([one])
