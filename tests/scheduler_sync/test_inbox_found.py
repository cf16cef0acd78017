"""Stored and not known to be: answers that were lost, handlers cut off, processes that have lost the hospital."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from booking.settings import Hospital
from booking.store.engine import Store, StoreUnavailable, Tx
from connectors.port import Refused, Stored
from monitoring.metrics import REGISTRY
from scheduler_sync import inbox as module
from scheduler_sync.inbox import Inbox
from scheduler_sync.messages.journal import take_messages
from scheduler_sync.messages.retention import forget_messages
from scheduler_sync.messages.store import store_message
from tests.booking.world import HOSPITAL
from tests.scheduler_sync.peer import until
from tests.scheduler_sync.test_inbox import message, name_of, patient, states
from tests.stores import Wall, unreachable


async def all_applied(messages: Store, count: int) -> None:
    async def done() -> bool:
        return await states(messages) == [("applied", None)] * count

    await until(done)


def gauge(name: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"hospital": HOSPITAL})


# --- answers that were lost --------------------------------------------------------------------------------------------


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer of the next storing commit is lost."""

    async def take(*args: Any) -> Any:
        monkeypatch.setattr(module, "take_messages", take_messages)
        await take_messages(*args)
        raise StoreUnavailable("connection lost in the commit")

    monkeypatch.setattr(module, "take_messages", take)


async def test_message_is_applied_when_the_answer_of_its_storing_was_lost(
    inbox: Inbox, store: Store, messages: Store, lost: None
) -> None:
    answer = await inbox.handle(message(patient("张一"), key="k1"))
    assert isinstance(answer, Refused)
    assert answer.retryable
    await all_applied(messages, 1)
    assert await inbox.handle(message(patient("张一"), key="k1")) == Stored(duplicate=True)
    assert await name_of(store, "M1") == "张一"


async def test_newer_one_is_applied_last_when_the_answer_of_the_older_one_was_lost(
    inbox: Inbox, store: Store, messages: Store, lost: None
) -> None:
    first = inbox.handle(message(patient("张一"), key="k1"))
    answers = await asyncio.gather(first, *(inbox.handle(message(patient(n), key=n)) for n in ("张二", "张三")))
    assert isinstance(answers[0], Refused)
    assert answers[1:] == [Stored(), Stored()]
    await all_applied(messages, 3)
    assert await name_of(store, "M1") == "张三"


async def test_message_is_applied_when_its_handler_was_cut_off_in_the_storing(
    inbox: Inbox, store: Store, messages: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = asyncio.Event()

    async def take(*args: Any) -> Any:
        monkeypatch.setattr(module, "take_messages", take_messages)
        await take_messages(*args)
        stored.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(module, "take_messages", take)
    handler = asyncio.create_task(inbox.handle(message(patient())))
    await stored.wait()
    handler.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handler
    await all_applied(messages, 1)
    assert await name_of(store, "M1") == "张伟"


async def test_message_that_is_only_stored_is_applied_when_its_sender_repeats_it(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    async with messages.write(HOSPITAL) as tx:
        await store_message(tx, message(patient()))
    assert await inbox.handle(message(patient())) == Stored(duplicate=True)
    await all_applied(messages, 1)
    assert await name_of(store, "M1") == "张伟"


async def test_message_that_is_only_stored_is_applied_when_it_is_found(
    inbox: Inbox, store: Store, messages: Store, wall: Wall
) -> None:
    async with messages.write(HOSPITAL) as tx:
        await store_message(tx, message(patient()))
    wall.turn(90)
    await inbox.measure()
    assert (gauge("hisbridge_inbox_waiting"), gauge("hisbridge_inbox_oldest_seconds")) == (1, 90)
    await all_applied(messages, 1)
    assert await name_of(store, "M1") == "张伟"
    await inbox.measure()
    assert (gauge("hisbridge_inbox_waiting"), gauge("hisbridge_inbox_oldest_seconds")) == (0, 0)


async def test_what_waits_is_counted_and_not_looked_for_when_it_is_known(
    engine: str, messages: Store, hospital: Hospital, wall: Wall, tmp_path: Path
) -> None:
    async with messages.write(HOSPITAL):
        pass  # opens its connections here, apart from the failing one's
    async with unreachable(engine, tmp_path) as gone:
        inbox = Inbox(gone, messages, hospital)
        assert await inbox.heal() == 0
        for n in range(3):
            assert await inbox.handle(message(patient(), key=f"k{n}")) == Stored()
            wall.turn(10)
        await inbox.measure()
        await inbox.close()
    assert (gauge("hisbridge_inbox_waiting"), gauge("hisbridge_inbox_oldest_seconds")) == (3, 30)


# --- processes that have lost the hospital -----------------------------------------------------------------------------


class Lease:
    """The lease of one process, as its inbox asks for it."""

    def __init__(self) -> None:
        self.held = True
        self.asked = 0

    async def fence(self, tx: Tx) -> bool:
        self.asked += 1
        return self.held


async def overtaken(store: Store, messages: Store, hospital: Hospital) -> Inbox:
    """The inbox of a process that worked the hospital, and has lost the lease without noticing."""
    lease = Lease()
    inbox = Inbox(store, messages, hospital, fence=lease.fence)
    await inbox.heal()
    lease.held = False
    return inbox


async def test_message_is_refused_and_not_stored_when_another_process_has_taken_the_hospital_over(
    store: Store, messages: Store, hospital: Hospital
) -> None:
    frozen = await overtaken(store, messages, hospital)
    owner = Inbox(store, messages, hospital, fence=Lease().fence)
    assert await owner.heal() == 0
    answer = await frozen.handle(message(patient("张一"), key="k1"))
    assert isinstance(answer, Refused)
    assert answer.retryable
    assert await states(messages) == []
    await frozen.close(drain=False)
    # The sender has kept it, and comes to the owner.
    for name in ("张一", "张二"):
        assert await owner.handle(message(patient(name), key=name)) == Stored()
    await all_applied(messages, 2)
    assert await name_of(store, "M1") == "张二"
    await owner.close()


async def test_new_owner_applies_it_when_a_message_was_acknowledged_before_the_hospital_changed_hands(
    store: Store, messages: Store, hospital: Hospital
) -> None:
    frozen = await overtaken(store, messages, hospital)
    assert await frozen.handle(message(patient("张一"), key="k1")) == Stored()  # nobody has looked yet
    await frozen.close(drain=False)
    owner = Inbox(store, messages, hospital, fence=Lease().fence)
    assert await owner.heal() == 1
    await all_applied(messages, 1)
    await owner.close()


async def test_lease_is_asked_for_only_when_somebody_else_has_written(
    store: Store, messages: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease()
    monkeypatch.setattr(Inbox, "_work", lambda self: asyncio.sleep(3600))  # applying asks too
    inbox = Inbox(store, messages, hospital, fence=lease.fence)
    await inbox.heal()
    lease.asked = 0
    for n in range(3):
        assert await inbox.handle(message(patient(), key=f"k{n}")) == Stored()
    assert lease.asked == 0
    await forget_messages(messages, HOSPITAL, keep_days=180)
    for n in range(3, 6):
        assert await inbox.handle(message(patient(), key=f"k{n}")) == Stored()
    assert lease.asked == 1
    await inbox.close(drain=False)


async def test_nothing_is_set_aside_when_another_process_has_taken_the_hospital_over(
    store: Store, messages: Store, hospital: Hospital
) -> None:
    lease = Lease()
    frozen = Inbox(store, messages, hospital, fence=lease.fence)
    await frozen.heal()
    await frozen.handle(message(patient(), key="k1", problem=None))
    await frozen.apply_all()
    lease.held = False
    owner = Inbox(store, messages, hospital, fence=Lease().fence)
    await owner.heal()
    assert isinstance(await frozen.handle(message(key="k2", problem="PID-3 is missing")), Refused)
    assert await states(messages) == [("applied", None)]
    for it in (frozen, owner):
        await it.close(drain=False)
