"""The bulkhead: who gets a place, who is told that there is none, and that no place is ever lost."""

from __future__ import annotations

import asyncio

import pytest

from scheduler_sync.breaker import Breaker
from scheduler_sync.bulkhead import FAIR_EVERY, Bulkhead, NoPlace, Reason
from scheduler_sync.limiter import GradientLimiter

WORST = 9  # the rank of reads


def make_bulkhead(
    places: int, *, floor: int = 1, queue: int = 10, deadline_s: float = 30, breaker: Breaker | None = None
) -> Bulkhead:
    limiter = GradientLimiter(floor=min(floor, places), ceiling=places)
    return Bulkhead(limiter=limiter, queue=queue, deadline_s=deadline_s, breaker=breaker)


class Room:
    """Callers of one bulkhead: `enter` starts one, `leave` lets it go; `order` is who got in."""

    def __init__(self, *, places: int = 1, queue: int = 10, deadline_s: float = 30) -> None:
        self.bulkhead = make_bulkhead(places, queue=queue, deadline_s=deadline_s)
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
        async with self.bulkhead.place(rank) as visit:
            self.order.append(name)
            self.inside.add(name)
            self.most = max(self.most, len(self.inside))
            try:
                await self._gates[name].wait()
                visit.record("lock_slot", answered=True)
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
    assert room.bulkhead.room(WORST) == 0
    for n in range(6):
        await room.leave(str(n))
    assert room.most == 2
    assert sorted(room.order) == [str(n) for n in range(6)]
    assert room.bulkhead.room(WORST) == 2
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
    assert room.bulkhead.room(WORST) == 1
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
    assert room.bulkhead.room(WORST) == 1
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
    assert room.bulkhead.room(WORST) == 1
    await room.close()


async def test_no_place_leaks_when_a_call_fails_or_is_cancelled_inside() -> None:
    room = Room()
    with pytest.raises(ValueError, match="broken"):
        async with room.bulkhead.place(0):
            raise ValueError("broken")
    await room.enter("inside")
    room.tasks["inside"].cancel()
    await room._rest()
    assert room.bulkhead.room(WORST) == 1


# --- more than a full queue --------------------------------------------------------------------------------------------


async def test_last_of_the_worst_rank_gives_way_when_the_queue_is_full_and_a_better_one_comes() -> None:
    room = Room(queue=3)
    await room.enter("inside")
    for name, rank in (("read 1", 9), ("lock", 3), ("read 2", 9)):
        await room.enter(name, rank)
    await room.enter("paid", 0)
    with pytest.raises(NoPlace) as turned_away:
        await room.tasks["read 2"]
    assert turned_away.value.reason is Reason.DISPLACED
    with pytest.raises(NoPlace) as refused:  # one of the same rank does not push another out
        async with room.bulkhead.place(9):
            pytest.fail("there was no place")
    assert refused.value.reason is Reason.QUEUE_FULL
    assert room.bulkhead.queued == 3
    while len(room.order) < 4:
        await room.leave(room.order[-1])
    assert room.order == ["inside", "paid", "lock", "read 1"]
    await room.close()


async def test_one_who_waits_long_is_served_when_better_ranks_keep_coming() -> None:
    room = Room(queue=100)
    await room.enter("paid 0", 0)
    await room.enter("read", 9)
    await room.enter("lock", 3)
    for n in range(1, 40):
        await room.enter(f"paid {n}", 0)
    while len(room.order) < 42:
        await room.leave(room.order[-1])
    # Seven of the crowd, then whoever has waited longest; and again.
    assert room.order.index("read") == FAIR_EVERY
    assert room.order.index("lock") == 2 * FAIR_EVERY
    rest = [name for name in room.order if name.startswith("paid")]
    assert rest == [f"paid {n}" for n in range(40)]
    await room.close()


async def test_room_counts_only_equal_and_better_ranks_when_commands_are_claimed() -> None:
    room = Room(places=3)
    for n in range(3):
        await room.enter(f"read {n}", 9)
    await room.enter("waiting", 9)
    assert room.bulkhead.room(9) == 0
    assert room.bulkhead.room(3) == 3  # portals' reads do not keep commands from being claimed
    await room.enter("lock", 3)
    assert (room.bulkhead.room(3), room.bulkhead.room(0)) == (2, 3)
    await room.leave("read 0")
    assert "lock" in room.inside
    assert (room.bulkhead.room(3), room.bulkhead.room(0)) == (2, 3)
    await room.close()


# --- a limit that moves ------------------------------------------------------------------------------------------------


async def lose_calls(bulkhead: Bulkhead) -> None:
    """As many calls without a reply as halve a small limit."""
    for _ in range(2):
        async with bulkhead.place(0) as visit:
            visit.record("lock_slot", answered=False)


async def test_fewer_are_let_in_when_the_limit_has_shrunk() -> None:
    room = Room(places=4)
    await lose_calls(room.bulkhead)
    assert room.bulkhead.limiter.limit == 2
    for n in range(4):
        await room.enter(str(n))
    assert room.inside == {"0", "1"}
    await room.close()
    assert room.most == 2


async def test_nobody_is_thrown_out_when_the_limit_shrinks_below_those_inside() -> None:
    room = Room(places=4)
    for n in range(3):
        await room.enter(str(n))
    await lose_calls(room.bulkhead)
    await room.enter("3")
    assert room.inside == {"0", "1", "2"}
    await room.leave("0")
    assert room.inside == {"1", "2"}  # two are as many as there may be now
    await room.leave("1")
    assert room.inside == {"2", "3"}
    await room.close()


async def test_several_are_let_in_when_the_limit_grows() -> None:
    room = Room(places=4)
    await lose_calls(room.bulkhead)
    for n in range(6):
        await room.enter(str(n))
    room.bulkhead.limiter = GradientLimiter(floor=1, ceiling=4)
    await room.leave("0")
    assert room.inside == {"1", "2", "3", "4"}
    await room.close()


class Hesitant(GradientLimiter):
    """In a look that ends by the clock alone."""

    def __init__(self, until: float) -> None:
        super().__init__(floor=1, ceiling=2)
        self.looks_until = until


async def test_waiting_caller_is_served_when_a_look_ends_while_a_call_hangs() -> None:
    room = Room()
    room.bulkhead.limiter = Hesitant(asyncio.get_running_loop().time() + 0.02)
    await room.enter("hangs")
    await room.enter("waiting")
    assert room.inside == {"hangs"}
    async with asyncio.timeout(10):
        while "waiting" not in room.inside:  # noqa: ASYNC110 - the limiter's clock is the loop's
            await asyncio.sleep(0.005)
    await room.close()


# --- the breaker at the door -------------------------------------------------------------------------------------------


def tripped(*, open_s: float, now: float = 0) -> Breaker:
    breaker = Breaker(trip_after=1, open_s=open_s)
    breaker.record(answered=False, now=now)
    return breaker


async def probe_that_fails_with(error: type[BaseException]) -> Bulkhead:
    bulkhead = make_bulkhead(1, breaker=tripped(open_s=0))

    async def probe() -> None:
        async with bulkhead.place(0):
            raise error

    await asyncio.gather(asyncio.create_task(probe()), return_exceptions=True)
    return bulkhead


@pytest.mark.parametrize("error", [asyncio.CancelledError, RuntimeError])
async def test_breaker_is_not_stuck_when_a_probe_ends_without_a_word_of_the_his(error: type[BaseException]) -> None:
    bulkhead = await probe_that_fails_with(error)
    async with bulkhead.place(0) as visit:
        visit.record("ping", answered=True)
    assert bulkhead.breaker.status == "up"


async def test_nothing_is_sent_and_the_place_is_free_when_the_breaker_is_open() -> None:
    bulkhead = make_bulkhead(1, breaker=tripped(open_s=3600, now=asyncio.get_running_loop().time()))
    with pytest.raises(NoPlace, match="open") as refused:
        async with bulkhead.place(0):
            pytest.fail("the breaker is open")
    assert refused.value.reason is Reason.BREAKER_OPEN
    assert bulkhead.room(WORST) == 1


async def test_one_call_at_a_time_may_try_when_the_breaker_is_half_open() -> None:
    room = Room(places=3)
    room.bulkhead.breaker = tripped(open_s=0)
    await room.enter("probe")
    with pytest.raises(NoPlace, match="open"):
        async with room.bulkhead.place(0):
            pytest.fail("one is enough")
    await room.leave("probe")
    await room.enter("next")
    await room.enter("another")
    assert room.inside == {"next", "another"}
    await room.close()
