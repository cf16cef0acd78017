"""Messages of several connections are stored together, in their order; nobody pays for another's message."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from booking.settings import Hospital
from booking.store.engine import Store, StoreUnavailable
from connectors.port import Inbound, InboundAnswer, Refused, Series, Stored
from scheduler_sync import inbox as module
from scheduler_sync.arrivals import MOST_BYTES, MOST_TOGETHER, Arrival, Arrivals, Overtaking
from scheduler_sync.backlog import Backlog
from scheduler_sync.inbox import Inbox
from scheduler_sync.messages.journal import take_messages
from tests.booking.world import HOSPITAL
from tests.scheduler_sync.test_inbox import message, name_of, patient, states


def from_peer(number: int, **more: Any) -> Inbound:
    return message(patient(f"张{number}"), key=f"k{number}", peer=f"127.0.0.1:{number}", **more)


class Disk:
    """Where messages are stored, as long as it is let; `refuses` is raised for any batch with one of these keys."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.free = asyncio.Event()
        self.free.set()
        self.refuses: dict[str, Exception] = {}

    async def store(self, batch: Sequence[Arrival]) -> None:
        keys = [one.inbound.dedup_key for one in batch]
        self.batches.append(keys)
        await self.free.wait()
        for key in keys:
            if key in self.refuses:
                raise self.refuses[key]
        for one in batch:
            one.stored = Stored()


@pytest.fixture
def disk() -> Disk:
    return Disk()


async def begin(arrivals: Arrivals, *numbers: int, **more: Any) -> list[asyncio.Task[InboundAnswer]]:
    """Messages that have arrived, each from a connection of its own."""
    tasks = [asyncio.create_task(arrivals.store(from_peer(n, **more))) for n in numbers]
    for _ in range(10):
        await asyncio.sleep(0)
    return tasks


async def test_messages_share_a_commit_when_they_come_while_another_is_stored(disk: Disk) -> None:
    disk.free.clear()
    arrivals = Arrivals(disk.store)
    tasks = await begin(arrivals, 1, 2, 3, 4)
    assert disk.batches == [["k1"]]
    disk.free.set()
    assert await asyncio.gather(*tasks) == [Stored()] * 4
    assert disk.batches == [["k1"], ["k2", "k3", "k4"]]


async def test_all_share_a_commit_when_several_connections_send_at_once(disk: Disk) -> None:
    arrivals = Arrivals(disk.store)
    await asyncio.gather(*await begin(arrivals, 1, 2))
    disk.batches.clear()
    await asyncio.gather(*await begin(arrivals, 1, 2, 3, 4))
    assert disk.batches == [["k1", "k2", "k3", "k4"]]


async def test_a_commit_takes_no_more_than_its_most_when_a_crowd_waits(disk: Disk) -> None:
    disk.free.clear()
    arrivals = Arrivals(disk.store)
    tasks = await begin(arrivals, *range(MOST_TOGETHER + 10))
    disk.free.set()
    await asyncio.gather(*tasks)
    assert [len(keys) for keys in disk.batches] == [1, MOST_TOGETHER, 9]


async def test_a_long_message_is_stored_by_itself_when_others_wait(disk: Disk) -> None:
    disk.free.clear()
    arrivals = Arrivals(disk.store)
    tasks = await begin(arrivals, 1, 2)
    tasks += await begin(arrivals, 3, raw=b"x" * (MOST_BYTES + 1))
    tasks += await begin(arrivals, 4)
    disk.free.set()
    await asyncio.gather(*tasks)
    assert disk.batches == [["k1"], ["k2"], ["k3"], ["k4"]]


async def test_only_the_one_that_cannot_be_stored_is_refused_when_it_came_with_others(disk: Disk) -> None:
    disk.refuses["k3"] = ValueError("a value that no column takes")
    disk.free.clear()
    arrivals = Arrivals(disk.store)
    tasks = await begin(arrivals, 1, 2, 3, 4)
    disk.free.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [answers[0], answers[1], answers[3]] == [Stored()] * 3
    assert isinstance(answers[2], ValueError)
    assert disk.batches == [["k1"], ["k2", "k3", "k4"], ["k2"], ["k3"], ["k4"]]


async def test_the_next_ones_are_stored_one_by_one_when_a_commit_of_several_failed(disk: Disk) -> None:
    disk.refuses["k3"] = StoreUnavailable("full")
    disk.free.clear()
    arrivals = Arrivals(disk.store)
    tasks = await begin(arrivals, 1, 2, 3)
    disk.free.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(a) for a in answers] == [Stored, StoreUnavailable, StoreUnavailable]
    disk.batches.clear()
    answers = await asyncio.gather(*await begin(arrivals, 2, 3, 5), return_exceptions=True)
    assert [type(a) for a in answers] == [Stored, StoreUnavailable, Stored]
    assert disk.batches == [["k2"], ["k3"], ["k5"]]


async def test_the_others_are_stored_when_the_one_that_stores_for_all_is_cancelled(disk: Disk) -> None:
    arrivals = Arrivals(disk.store)
    await asyncio.gather(*await begin(arrivals, 8, 9))
    disk.batches.clear()
    disk.free.clear()
    tasks = await begin(arrivals, 1, 2, 3)
    assert disk.batches == [["k1", "k2", "k3"]]
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    disk.free.set()
    assert await asyncio.gather(*tasks[1:]) == [Stored()] * 2
    assert disk.batches[1:] == [["k2", "k3"]]


@pytest.mark.parametrize("place", [1, 2])
async def test_one_that_is_cancelled_while_it_waits_is_not_stored(disk: Disk, place: int) -> None:
    disk.free.clear()
    arrivals = Arrivals(disk.store)
    tasks = await begin(arrivals, 1, 2, 3)
    tasks[place].cancel()
    disk.free.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(a) for a in answers].count(Stored) == 2
    assert disk.batches == [["k1"], ["k3"] if place == 1 else ["k2"]]


@pytest.mark.parametrize("turns", [1, 2, 3, 4])
async def test_another_stores_when_the_one_that_was_called_to_is_cancelled(disk: Disk, turns: int) -> None:
    disk.free.clear()
    arrivals = Arrivals(disk.store)
    tasks = await begin(arrivals, 1, 2, 3)
    disk.free.set()
    for _ in range(turns):  # called and not run yet, gathering, storing
        await asyncio.sleep(0)
    tasks[1].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [answers[0], answers[2]] == [Stored()] * 2
    assert await asyncio.wait_for(arrivals.store(from_peer(4)), 5) == Stored()


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("gone", [[0, 1], [1, 0], [0, 1, 2]])
async def test_the_next_one_stores_when_several_are_cancelled_in_one_turn(
    disk: Disk, gone: list[int], together: bool
) -> None:
    arrivals = Arrivals(disk.store)
    if together:  # all are being stored, not only the first one
        await asyncio.gather(*await begin(arrivals, 8, 9))
    disk.free.clear()
    tasks = await begin(arrivals, 1, 2, 3, 4)
    for n in gone:
        tasks[n].cancel()
    disk.free.set()
    left = [task for n, task in enumerate(tasks) if n not in gone]
    assert await asyncio.wait_for(asyncio.gather(*left), 5) == [Stored()] * len(left)
    assert await asyncio.wait_for(arrivals.store(from_peer(5)), 5) == Stored()
    await asyncio.gather(*tasks, return_exceptions=True)


# --- what came in one frame --------------------------------------------------------------------------------------------


def of_one_peer(*numbers: int) -> list[Inbound]:
    return [message(patient(f"张{n}"), key=f"k{n}") for n in numbers]


async def together(arrivals: Arrivals, *numbers: int) -> asyncio.Task[list[InboundAnswer | Exception]]:
    task = asyncio.create_task(arrivals.store_together(of_one_peer(*numbers)))
    for _ in range(10):
        await asyncio.sleep(0)
    return task


async def test_messages_of_one_frame_share_commits(disk: Disk) -> None:
    arrivals = Arrivals(disk.store)
    numbers = range(MOST_TOGETHER + 10)
    assert await arrivals.store_together(of_one_peer(*numbers)) == [Stored()] * len(numbers)
    keys = [f"k{n}" for n in numbers]
    assert disk.batches == [keys[:MOST_TOGETHER], keys[MOST_TOGETHER:]]


async def test_messages_of_one_frame_take_their_place_in_the_line_when_others_wait(disk: Disk) -> None:
    disk.free.clear()
    arrivals = Arrivals(disk.store)
    first = await begin(arrivals, 1, 2)
    frame = await together(arrivals, 10, 11, 12)
    last = await begin(arrivals, 3)
    disk.free.set()
    assert await asyncio.gather(*first, *last) == [Stored()] * 3
    assert await frame == [Stored()] * 3
    assert disk.batches == [["k1"], ["k2", "k10", "k11", "k12", "k3"]]


async def test_nothing_of_a_frame_is_stored_behind_what_could_not_be(disk: Disk) -> None:
    disk.refuses["k5"] = StoreUnavailable("full")
    arrivals = Arrivals(disk.store)
    found = await arrivals.store_together(of_one_peer(*range(MOST_TOGETHER + 10)))
    assert disk.batches == [[f"k{n}" for n in range(MOST_TOGETHER)]]
    assert all(isinstance(one, StoreUnavailable) for one in found)
    # Tried anew they are stored one by one, as far as it goes.
    disk.batches.clear()
    found = await arrivals.store_together(of_one_peer(4, 5, 6, 7))
    assert [type(one) for one in found] == [Stored, StoreUnavailable, Overtaking, Overtaking]
    assert disk.batches == [["k4"], ["k5"]]


async def test_others_are_stored_when_a_frame_cannot_be(disk: Disk) -> None:
    disk.refuses["k10"] = StoreUnavailable("full")
    disk.free.clear()
    arrivals = Arrivals(disk.store)
    arrivals._alone = 10
    first = await begin(arrivals, 1)
    frame = await together(arrivals, 10, 11)
    last = await begin(arrivals, 3)
    disk.free.set()
    assert await asyncio.gather(*first, *last) == [Stored()] * 2
    assert [type(one) for one in await frame] == [StoreUnavailable, Overtaking]
    assert disk.batches == [["k1"], ["k10"], ["k3"]]


async def test_the_rest_of_a_frame_is_stored_behind_one_that_must_not_come_again(disk: Disk) -> None:
    disk.refuses["k2"] = ValueError("a value that no column takes")
    arrivals = Arrivals(disk.store)
    found = await arrivals.store_together(of_one_peer(1, 2, 3))
    assert [type(one) for one in found] == [Stored, ValueError, Stored]
    assert disk.batches == [["k1", "k2", "k3"], ["k1"], ["k2"], ["k3"]]


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("behind", [False, True])
async def test_others_go_on_when_the_one_with_a_frame_is_cancelled(disk: Disk, turns: int, behind: bool) -> None:
    disk.free.clear()
    arrivals = Arrivals(disk.store)
    before = await begin(arrivals, 1) if behind else []
    frame = await together(arrivals, *range(100, 100 + 2 * MOST_TOGETHER))
    after = await begin(arrivals, 2, 3)
    disk.free.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    frame.cancel()
    assert await asyncio.wait_for(asyncio.gather(*before, *after), 5) == [Stored()] * (len(before) + 2)
    await asyncio.gather(frame, return_exceptions=True)
    assert await asyncio.wait_for(arrivals.store(from_peer(4)), 5) == Stored()
    assert not arrivals._waiting


# --- with the stores ---------------------------------------------------------------------------------------------------


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages each commit was to store."""
    sizes: list[int] = []

    async def take(ledger: Any, inbounds: Sequence[Inbound], marks: Any) -> Any:
        sizes.append(len(inbounds))
        return await take_messages(ledger, inbounds, marks)

    monkeypatch.setattr(module, "take_messages", take)
    return sizes


async def test_messages_are_applied_in_the_order_of_arrival_when_they_were_stored_together(
    inbox: Inbox, store: Store, messages: Store, commits: list[int]
) -> None:
    answers = await asyncio.gather(*(inbox.handle(from_peer(n)) for n in range(20)))
    assert answers == [Stored()] * 20
    assert sum(commits) == 20
    assert len(commits) < 20
    await inbox.apply_all()
    assert await states(messages) == [("applied", None)] * 20
    assert await name_of(store, "M1") == "张19"


async def test_a_repeat_is_told_as_one_when_it_is_stored_with_the_first(
    inbox: Inbox, messages: Store, commits: list[int]
) -> None:
    await asyncio.gather(inbox.handle(from_peer(1)), inbox.handle(from_peer(2)))
    commits.clear()
    again = [message(patient("张三"), key="k3", peer=f"127.0.0.1:{n}") for n in (3, 4, 5)]
    answers = await asyncio.gather(*(inbox.handle(one) for one in again))
    assert answers == [Stored(), Stored(duplicate=True), Stored(duplicate=True)]
    assert commits == [3]
    await inbox.apply_all()
    assert await states(messages) == [("applied", None)] * 3


async def test_frame_is_put_off_behind_the_first_when_the_store_is_away(
    inbox: Inbox, messages: Store, commits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> Any:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(module, "take_messages", away)
        (refused,) = await inbox.handle_together(of_one_peer(1, 2, 3))
    assert refused == Refused(code="store_unavailable", text="the message could not be stored", retryable=True)
    commits.clear()
    assert await inbox.handle_together(of_one_peer(1, 2, 3)) == [Stored()] * 3
    assert await inbox.handle_together(of_one_peer(3, 4)) == [Stored(duplicate=True), Stored()]
    assert commits == [1, 1, 1, 2]
    await inbox.apply_all()
    assert await states(messages) == [("applied", None)] * 4


async def test_frame_waits_as_a_message_does_when_too_much_is_not_applied(
    store: Store, messages: Store, hospital: Hospital
) -> None:
    inbox = Inbox(store, messages, hospital, backlog=Backlog(most=1), room_within_s=0.01)
    await inbox.heal()
    async with store.write(HOSPITAL):
        assert await inbox.handle_together(of_one_peer(1, 2)) == [Stored()] * 2
        (refused,) = await inbox.handle_together(of_one_peer(3, 4))
    assert isinstance(refused, Refused)
    assert (refused.code, refused.retryable) == ("backlog_full", True)
    await inbox.close()


async def test_numbered_messages_of_a_frame_are_judged_one_by_one(
    inbox: Inbox, messages: Store, commits: list[int]
) -> None:
    told = [
        msgspec.structs.replace(one, series=Series(key="HIS", number=n))
        for one, n in zip(of_one_peer(1, 2, 3, 4), (1, 2, 4, 3), strict=True)
    ]
    answers = await inbox.handle_together(told)
    assert [type(one) for one in answers] == [Stored, Stored, Refused]
    assert len(await states(messages)) == 2
    assert commits == [1, 1, 1]
