"""What goes from the message store by age and by size, and what never does: what waits, and what failed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest
from sqlalchemy import select

from booking.settings import Hospital
from booking.store.engine import Store
from connectors.port import Direction, Passed
from scheduler_sync.inbox import Inbox
from scheduler_sync.messages import retention
from scheduler_sync.messages.groups import read_totals
from scheduler_sync.messages.recorder import Recorder
from scheduler_sync.messages.retention import forget_for_size, forget_refused
from scheduler_sync.messages.search import Wanted, find_messages
from scheduler_sync.messages.tables import message_links, message_notes
from scheduler_sync.sweeps import Forgetting
from tests.booking.world import HOSPITAL
from tests.scheduler_sync.test_inbox import message, patient
from tests.scheduler_sync.test_recorder import exchange
from tests.stores import Wall

DAY_S = 24 * 3600
KEEP_DAYS = 100


@pytest.fixture
def wall() -> Wall:
    """Ids begin with the machine's time: the stores begin with it too, and are turned forward."""
    return Wall(time.time_ns() // 1_000_000)


async def fill(store: Store, messages: Store, hospital: Hospital, count: int = 3) -> None:
    """Of every state of messages and exchanges so many, one after the other."""
    recorder = Recorder(messages, HOSPITAL, flush_after_s=0.01)
    inbox = Inbox(store, messages, hospital, recorder=recorder)
    await inbox.heal()
    for n in range(count):
        await inbox.handle(message(patient(), key=f"a{n}", control_id=f"A{n}"))
        await inbox.handle(message(key=f"q{n}", control_id=f"Q{n}", problem="PID-5 is missing"))
        for state in (Passed.DONE, Passed.FAILED, Passed.UNKNOWN):
            recorder.record(exchange(state=state, control_id=f"{state.value}{n}"))
        for state in (Passed.REFUSED, Passed.DUPLICATE):
            recorder.record(exchange(state=state, direction=Direction.IN, control_id=f"{state.value}{n}"))
    await inbox.apply_all()
    await inbox.close()
    await recorder.close()


async def left(messages: Store) -> Counter[str]:
    found = (await find_messages(messages, HOSPITAL, Wanted(), limit=1_000)).found
    return Counter(one.state for one in found)


async def sweep(store: Store, messages: Store, hospital: Hospital, mb: int = 0) -> None:
    await Forgetting(
        store, messages, [hospital], asyncio.Event(), keep_messages_days=KEEP_DAYS, keep_messages_mb=mb
    ).forget_old()


async def test_each_state_goes_by_its_own_age_and_what_waits_stays(
    store: Store, messages: Store, hospital: Hospital, wall: Wall
) -> None:
    await fill(store, messages, hospital)
    every = dict.fromkeys(("applied", "quarantined", "done", "failed", "unknown", "refused", "duplicate"), 3)
    await sweep(store, messages, hospital)
    assert await left(messages) == every
    wall.turn(31 * DAY_S)
    await sweep(store, messages, hospital)
    assert await left(messages) == {k: n for k, n in every.items() if k not in ("refused", "duplicate")}
    wall.turn(70 * DAY_S)
    await sweep(store, messages, hospital)
    assert await left(messages) == {"quarantined": 3, "failed": 3, "unknown": 3}
    wall.turn(300 * DAY_S)
    await sweep(store, messages, hospital)
    assert await left(messages) == {"quarantined": 3}


async def test_notes_and_links_go_with_their_messages_and_the_total_follows(
    store: Store, messages: Store, hospital: Hospital, wall: Wall
) -> None:
    await fill(store, messages, hospital)
    wall.turn(1_000 * DAY_S)
    await sweep(store, messages, hospital)
    found = (await find_messages(messages, HOSPITAL, Wanted())).found
    async with messages.read(HOSPITAL) as tx:
        noted = {row["message_id"] for row in await tx.all(select(message_notes.c.message_id))}
        linked = {row["message_id"] for row in await tx.all(select(message_links.c.message_id))}
        totals = await read_totals(tx, HOSPITAL)
    assert noted == linked == {one.id for one in found}
    assert totals == {"messages": sum(one.size_bytes or 0 for one in found), "exchanges": 0}


async def test_oldest_go_until_the_rest_fits_when_there_is_too_much(
    store: Store, messages: Store, hospital: Hospital, wall: Wall
) -> None:
    await fill(store, messages, hospital, count=10)
    wall.turn(8 * DAY_S)
    async with messages.read(HOSPITAL) as tx:
        before = sum((await read_totals(tx, HOSPITAL)).values())
    most_bytes = before - 500
    while await forget_for_size(messages, HOSPITAL, most_bytes=most_bytes, limit=1):
        pass
    async with messages.read(HOSPITAL) as tx:
        after = sum((await read_totals(tx, HOSPITAL)).values())
    assert most_bytes - 500 < after <= most_bytes  # no more went than had to
    found = (await find_messages(messages, HOSPITAL, Wanted(), limit=1_000)).found
    gone = {f"A{n}" for n in range(10)} | {f"done{n}" for n in range(10)}
    gone -= {one.control_id for one in found}
    assert gone  # of both kinds, the oldest
    for kind in ("A", "done"):
        numbers = sorted(int(one.removeprefix(kind)) for one in gone if one.startswith(kind))
        assert numbers == list(range(len(numbers)))


async def test_nothing_that_failed_waits_or_is_of_this_week_goes_when_there_is_too_much(
    store: Store, messages: Store, hospital: Hospital, wall: Wall
) -> None:
    await fill(store, messages, hospital)
    for _ in range(20):
        await forget_for_size(messages, HOSPITAL, most_bytes=1)
    assert await left(messages) == {
        "applied": 3, "quarantined": 3, "failed": 3, "unknown": 3, "refused": 3, "duplicate": 3,
    }  # fmt: skip
    wall.turn(7 * DAY_S + 60)
    while await forget_for_size(messages, HOSPITAL, most_bytes=1):
        pass
    assert await left(messages) == {"quarantined": 3, "failed": 3, "unknown": 3, "refused": 3, "duplicate": 3}
    assert await forget_for_size(messages, HOSPITAL, most_bytes=0) == 0


async def test_only_the_newest_of_what_was_refused_stay_when_there_are_many(
    store: Store, messages: Store, hospital: Hospital
) -> None:
    await fill(store, messages, hospital, count=10)
    while await forget_refused(messages, HOSPITAL, most=4, limit=3):
        pass
    found = (await find_messages(messages, HOSPITAL, Wanted(state="refused"))).found
    assert [one.control_id for one in found] == ["refused9", "refused8", "refused7", "refused6"]
    assert (await left(messages))["duplicate"] == 4


async def test_sweep_by_size_ends_when_nothing_more_may_go(
    store: Store, messages: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store, messages, hospital)
    monkeypatch.setattr("scheduler_sync.sweeps.MB", 1)
    assert retention.CHUNK == 100
    await sweep(store, messages, hospital, mb=1)
    assert (await left(messages))["quarantined"] == 3
