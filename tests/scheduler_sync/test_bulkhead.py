"""The bulkhead and its breaker: who gets a place, who is told that there is none, and that no place is ever lost."""

from __future__ import annotations

import asyncio

import pytest

from scheduler_sync.bulkhead import Breaker, Bulkhead, NoPlace


class Room:
    """Callers of one bulkhead: `enter` starts one, `leave` lets it go; `order` is who got in."""

    def __init__(self, *, places: int = 1, queue: int = 10, deadline_s: float = 30) -> None:
        self.bulkhead = Bulkhead(places=places, queue=queue, deadline_s=deadline_s)
        self.order: list[str] = []
        self.inside: set[str] = set()
        self.most = 0
        self._gates: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def enter(self, name: str, rank: int = 0) -> None:
        """Start a caller and let it come as far as it can."""
        self._gates[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._call(name, rank))
        await self._rest()

    async def leave(self, name: str) -> None:
        self._gates[name].set()
        await self._rest()

    async def _call(self, name: str, rank: int) -> None:
        async with self.bulkhead.place(rank):
            self.order.append(name)
            self.inside.add(name)
            self.most = max(self.most, len(self.inside))
            try:
                await self._gates[name].wait()
            finally:
                self.inside.discard(name)

    @staticmethod
    async def _rest() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def close(self) -> None:
        for gate in self._gates.values():
            gate.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def test_no_more_than_its_places_are_used_when_many_come() -> None:
    room = Room(places=2)
    for n in range(6):
        await room.enter(str(n))
    assert room.inside == {"0", "1"}
    assert room.bulkhead.free == 0
    for n in range(6):
        await room.leave(str(n))
    assert room.most == 2
    assert sorted(room.order) == [str(n) for n in range(6)]
    assert room.bulkhead.free == 2
    await room.close()


async def test_rank_goes_before_arrival_when_several_wait() -> None:
    room = Room()
    await room.enter("first", rank=9)
    for name, rank in (("read", 9), ("lock", 3), ("cancel", 1), ("lock 2", 3), ("paid", 0), ("cancel 2", 1)):
        await room.enter(name, rank)
    while len(room.order) < 7:
        await room.leave(room.order[-1])
    assert room.order == ["first", "paid", "cancel", "cancel 2", "lock", "lock 2", "read"]
    await room.close()


async def test_caller_is_turned_away_when_the_queue_is_full() -> None:
    room = Room(queue=1)
    await room.enter("inside")
    await room.enter("waiting")
    with pytest.raises(NoPlace, match="full"):
        async with room.bulkhead.place(0):
            pytest.fail("there was no place")
    await room.leave("inside")
    assert room.order == ["inside", "waiting"]
    await room.close()


async def test_caller_is_turned_away_when_its_deadline_passes() -> None:
    room = Room(deadline_s=0.02)
    await room.enter("inside")
    with pytest.raises(NoPlace, match="in time"):
        async with room.bulkhead.place(0):
            pytest.fail("there was no place")
    await room.leave("inside")
    assert room.bulkhead.free == 1
    await room.enter("next")
    assert room.inside == {"next"}
    await room.close()


async def test_no_place_leaks_when_a_waiting_caller_is_cancelled() -> None:
    room = Room()
    await room.enter("inside")
    await room.enter("waiting")
    await room.enter("behind")
    room.tasks["waiting"].cancel()
    await room.leave("inside")
    assert room.inside == {"behind"}
    await room.leave("behind")
    assert room.bulkhead.free == 1
    await room.close()


async def test_no_place_leaks_when_a_caller_is_cancelled_in_the_moment_it_is_served() -> None:
    room = Room()
    await room.enter("inside")
    await room.enter("waiting")
    await room.enter("behind")
    room._gates["inside"].set()
    await asyncio.sleep(0)  # the place has been handed over, and its new owner has not run yet
    room.tasks["waiting"].cancel()
    await room._rest()
    assert room.inside == {"behind"}
    await room.leave("behind")
    assert room.bulkhead.free == 1
    await room.close()


async def test_no_place_leaks_when_a_call_fails_or_is_cancelled_inside() -> None:
    room = Room()
    with pytest.raises(ValueError, match="broken"):
        async with room.bulkhead.place(0):
            raise ValueError("broken")
    await room.enter("inside")
    room.tasks["inside"].cancel()
    await room._rest()
    assert room.bulkhead.free == 1


# --- breaker -----------------------------------------------------------------------------------------------------------


def test_breaker_stays_closed_when_failures_are_not_in_a_row() -> None:
    breaker = Breaker(trip_after=3)
    for n in range(10):
        breaker.record(answered=n % 3 == 2, now=n)
    assert breaker.admits(10)
    assert breaker.status == "degraded"


def test_breaker_opens_when_enough_calls_in_a_row_found_no_his() -> None:
    breaker = Breaker(trip_after=3, open_s=2)
    for n in range(3):
        assert breaker.admits(n)
        breaker.record(answered=False, now=n)
    assert breaker.status == "down"
    assert not breaker.admits(2)
    assert not breaker.admits(3.999)


def tripped() -> Breaker:
    breaker = Breaker(trip_after=1, open_s=2, longest_s=10)
    breaker.record(answered=False, now=0)
    return breaker


def test_one_call_may_try_when_the_breaker_is_half_open() -> None:
    breaker = tripped()
    assert breaker.admits(2)
    assert not breaker.admits(2)
    assert not breaker.admits(100)
    breaker.record(answered=True, now=3)
    assert breaker.status == "up"
    assert breaker.admits(3)
    assert breaker.admits(3)


def test_pause_doubles_up_to_its_longest_when_probes_fail() -> None:
    breaker, now, pauses = tripped(), 0.0, []
    for expected in (2, 4, 8, 10, 10):
        assert not breaker.admits(now + expected - 0.001)
        now += expected
        assert breaker.admits(now)
        breaker.record(answered=False, now=now)
        pauses.append(expected)
    breaker.record(answered=True, now=now)
    breaker.record(answered=False, now=now)
    assert not breaker.admits(now + 1.999)  # the pause begins anew
    assert breaker.admits(now + 2)


def test_next_call_may_try_when_a_probe_was_cancelled() -> None:
    breaker = tripped()
    assert breaker.admits(2)
    breaker.forget()
    assert breaker.status == "down"
    assert breaker.admits(2)


async def probe_that_fails_with(error: type[BaseException]) -> Bulkhead:
    bulkhead = Bulkhead(places=1, queue=1, deadline_s=1, breaker=Breaker(trip_after=1, open_s=0))
    bulkhead.breaker.record(answered=False, now=0)

    async def probe() -> None:
        async with bulkhead.place(0):
            raise error

    await asyncio.gather(asyncio.create_task(probe()), return_exceptions=True)
    return bulkhead


@pytest.mark.parametrize("error", [asyncio.CancelledError, RuntimeError])
async def test_breaker_is_not_stuck_when_a_probe_ends_without_a_word_of_the_his(error: type[BaseException]) -> None:
    bulkhead = await probe_that_fails_with(error)
    async with bulkhead.place(0) as breaker:
        breaker.record(answered=True, now=0)
    assert breaker.status == "up"


async def test_nothing_is_sent_and_the_place_is_free_when_the_breaker_is_open() -> None:
    bulkhead = Bulkhead(places=1, queue=1, deadline_s=1, breaker=Breaker(trip_after=1, open_s=3600))
    bulkhead.breaker.record(answered=False, now=asyncio.get_running_loop().time())
    with pytest.raises(NoPlace, match="open"):
        async with bulkhead.place(0):
            pytest.fail("the breaker is open")
    assert bulkhead.free == 1
