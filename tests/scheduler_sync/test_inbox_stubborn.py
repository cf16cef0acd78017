"""One message on which the store gives up again and again holds up neither its hospital nor the start."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text

from booking.settings import Hospital
from booking.store.engine import Store, StoreBusy, StoreUnavailable, Tx
from connectors.port import Stored
from scheduler_sync import applying, stubborn
from scheduler_sync import inbox as module
from scheduler_sync.inbox import Inbox
from scheduler_sync.leases import NotOurs
from scheduler_sync.messages.store import store_message
from scheduler_sync.stubborn import TRIES, Stubborn
from tests.booking.world import HOSPITAL
from tests.scheduler_sync.peer import until
from tests.scheduler_sync.test_inbox import message, name_of, patient, states

BAD = "张坏"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(stubborn, "OVER_S", 0.05)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server cancels a statement of each message that names the patient so, as it does with one that takes too long."""
    real = applying.apply_event

    async def apply(tx: Tx, hospital: Hospital, event: Any, **more: Any) -> None:
        if event.patient.name == BAD:
            if tx.dialect == "sqlite":
                raise StoreUnavailable("OperationalError: interrupted") from sqlite3.OperationalError("interrupted")
            await tx.conn.execute(text("set local statement_timeout = 10"))
            await tx.conn.execute(text("select pg_sleep(10)"))
        await real(tx, hospital, event, **more)

    monkeypatch.setattr(applying, "apply_event", apply)


async def leave(messages: Store, *names: str) -> None:
    """Stored, and then the process died."""
    for name in names:
        async with messages.write(HOSPITAL) as tx:
            await store_message(tx, message(patient(name, mrn=name), key=name))


async def until_states(messages: Store, *wanted: str) -> None:
    async def done() -> bool:
        return [state for state, _ in await states(messages)] == list(wanted)

    await until(done)


async def test_others_are_applied_in_order_when_one_message_fails_for_ever(
    store: Store, messages: Store, hospital: Hospital, poison: None
) -> None:
    inbox = Inbox(store, messages, hospital)
    await inbox.heal()
    told = [patient("张一"), patient(BAD), patient("张三"), patient("张四")]
    for n, event in enumerate(told):
        assert await inbox.handle(message(event, key=f"k{n}")) == Stored()
    await until_states(messages, "applied", "quarantined", "applied", "applied")
    reason = (await states(messages))[1][1] or ""
    assert reason.startswith("cannot be applied (")
    assert reason.endswith(f"Error, {TRIES} times)")
    assert await name_of(store, "M1") == "张四"
    await inbox.close()


async def test_hospital_starts_when_what_was_left_fails_for_ever(
    store: Store, messages: Store, hospital: Hospital, poison: None
) -> None:
    await leave(messages, "张一", BAD, "张三")
    inbox = Inbox(store, messages, hospital)
    await inbox.heal()
    assert await inbox.handle(message(patient("张四"), key="k4")) == Stored()
    await until_states(messages, "applied", "quarantined", "applied", "applied")
    assert await name_of(store, "M1") == "张四"
    await inbox.close()


async def test_hospital_starts_when_what_was_left_takes_too_long(
    store: Store, messages: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, released = applying.apply_event, asyncio.Event()

    async def slow(*args: Any, **more: Any) -> None:
        await released.wait()
        await real(*args, **more)

    monkeypatch.setattr(applying, "apply_event", slow)
    monkeypatch.setattr(module, "HEAL_WITHIN_S", 0.05)
    await leave(messages, "张一")
    inbox = Inbox(store, messages, hospital)
    async with asyncio.timeout(10):
        assert await inbox.heal() == 0
    released.set()
    await until_states(messages, "applied")
    await inbox.close()


@pytest.mark.parametrize("error", [ValueError("odd"), StoreUnavailable("for ever")], ids=["broken", "away"])
async def test_messages_are_applied_when_a_stop_that_was_left_cannot_be_carried_out(
    store: Store, messages: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tries: list[int] = []

    async def fail(*args: Any) -> int:
        tries.append(1)
        raise error

    monkeypatch.setattr(module, "carry_left_stops", fail)
    inbox = Inbox(store, messages, hospital)
    await inbox.heal()
    assert await inbox.handle(message(patient("张一"))) == Stored()
    await until_states(messages, "applied")
    assert len(tries) == 1 or len(tries) >= TRIES
    await inbox.close()


@pytest.mark.parametrize(
    "error",
    [
        StoreBusy("no turn"),
        NotOurs("another process works this hospital"),
        "disk full",
    ],
    ids=["busy", "another's", "disk full"],
)
async def test_message_is_kept_when_it_is_the_store_that_fails(error: StoreUnavailable | str) -> None:
    if isinstance(error, str):
        connection = sqlite3.connect(":memory:")
        connection.executescript("create table t (a); pragma max_page_count = 2;")
        full = StoreUnavailable(error)
        with pytest.raises(sqlite3.OperationalError) as raised:
            connection.execute("insert into t values (zeroblob(100000))")
        connection.close()
        full.__cause__ = raised.value
        error = full
    it = Stubborn()
    for _ in range(2 * TRIES):
        it.note("m1", error)
        await asyncio.sleep(0.01)
    assert it.reason("m1") is None


async def test_message_is_kept_when_its_failures_are_close_together_or_another_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stubborn, "OVER_S", 3600.0)
    it = Stubborn()
    for _ in range(2 * TRIES):
        it.note("m1", StoreUnavailable("gone"))
    assert it.reason("m1") is None
    monkeypatch.setattr(stubborn, "OVER_S", 0.0)
    assert it.reason("m2") is None
    it.note("m2", StoreUnavailable("gone"))
    assert (it.reason("m1"), it.reason("m2")) == (None, None)


async def test_other_processes_find_the_file_free_when_a_stream_is_applied(
    store: Store, messages: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for a SQLite file can only try now and then: it must be free for long enough, and often."""
    if store.dialect != "sqlite":
        return  # there who waits is told when it is free
    monkeypatch.setattr(module, "GATHER_S", 0.03)
    monkeypatch.setattr(module, "STREAM_S", 0.09)
    held: list[tuple[float, float]] = []
    real = Store.write

    @asynccontextmanager
    async def timed(self: Store, hospital_id: str, **more: Any) -> AsyncIterator[Tx]:
        began = time.monotonic()
        async with real(self, hospital_id, **more) as tx:
            yield tx
        if self is store:
            held.append((began, time.monotonic()))

    inbox = Inbox(store, messages, hospital)
    await inbox.heal()
    monkeypatch.setattr(Store, "write", timed)
    ends = time.monotonic() + 0.5
    sent = 0
    while time.monotonic() < ends:
        assert await inbox.handle(message(patient(f"张{sent}"), key=f"k{sent}")) == Stored()
        sent += 1
        await asyncio.sleep(0.001)
    free = [began - ended for (_, ended), (began, _) in itertools.pairwise(held)]
    await inbox.close()
    assert len(free) >= 2
    assert min(free) > 0.025
