"""Joining in groups: whoever comes while a transaction runs shares the next one, as holds do (ADR-0011).

Joining is repeatable by nature, so that a commit whose answer was lost needs no settling: who joins again gets the same place.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import msgspec

from booking.inventory.writer import LET_IN_S, MOST_IN_BATCH, Crowded
from booking.settings import Hospital
from booking.store.engine import Store, StoreUnavailable
from booking.waiting_room.records import Joined, JoinRequest, NotJoined, join
from monitoring.logs import get_logger

log = get_logger("waiting_room")

MOST_WAITING = 20_000
DEADLINE_S = 5.0

Place = Joined | NotJoined


class _Item(msgspec.Struct):
    request: JoinRequest
    deadline_s: float
    answer: asyncio.Future[Place]


class Joins:
    """Those who join, of all hospitals in one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, deque[_Item]] = {}
        self._drains: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    async def close(self) -> None:
        """Place whoever has asked, then stop."""
        self._closing = True
        if self._drains:
            await asyncio.wait(list(self._drains.values()))

    def ask(self, hospital: Hospital, request: JoinRequest) -> asyncio.Future[Place]:
        """Ask for a place. The future raises StoreUnavailable or Crowded: nothing is known, ask again. Raises Crowded at once."""
        waiting = self._waiting.setdefault(hospital.id, deque())
        if self._closing or len(waiting) >= MOST_WAITING:
            raise Crowded("too many join this waiting room at once")
        loop = asyncio.get_running_loop()
        item = _Item(request, loop.time() + DEADLINE_S, loop.create_future())
        waiting.append(item)
        if hospital.id not in self._drains:
            self._drains[hospital.id] = asyncio.create_task(self._drain(hospital), name=f"joins {hospital.id}")
        return item.answer

    async def _drain(self, hospital: Hospital) -> None:
        waiting, loop = self._waiting[hospital.id], asyncio.get_running_loop()
        while waiting:
            ends_s, there = loop.time() + LET_IN_S, 0
            while there < len(waiting) < MOST_IN_BATCH and loop.time() < ends_s:
                there = len(waiting)
                await asyncio.sleep(0)
            items = [waiting.popleft() for _ in range(min(len(waiting), MOST_IN_BATCH))]
            late = [item for item in items if item.deadline_s <= loop.time()]
            _fail(late, Crowded("the turn of this request did not come in time"))
            await self._place(hospital, [item for item in items if not item.answer.done()])
        del self._drains[hospital.id]

    async def _place(self, hospital: Hospital, items: Sequence[_Item]) -> None:
        if not items:
            return
        try:
            async with self._store.write(hospital.id, here=True) as tx:
                places = await join(tx, [item.request for item in items], hospital.waiting_room)
        except StoreUnavailable as error:
            _fail(items, error)
        except Exception as error:  # a fault of ours must not leave those who come later without an answer
            log.error("joins_failed", hospital=hospital.id, exc_info=error)
            _fail(items, error)
        else:
            for item, place in zip(items, places, strict=True):
                if not item.answer.done():
                    item.answer.set_result(place)


def _fail(items: Sequence[_Item], error: Exception) -> None:
    for item in items:
        if not item.answer.done():
            item.answer.set_exception(error)
            item.answer.exception()  # a caller that has gone leaves nobody to be told
