"""Refusals from memory: quick, at most 200 ms old, and never instead of a first success."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from booking.errors import Refusal
from booking.feed import FRESH_MS, ChangeFeed
from booking.inventory.bloom import DAY_S, Bloom
from booking.inventory.memory import Memory
from booking.inventory.writer import HoldWriter
from booking.settings import Hospital
from booking.store.engine import Store
from monitoring import metrics
from tests.booking.test_hold_writer import put_patients
from tests.booking.world import (
    HOSPITAL,
    ZONE,
    cancel,
    get,
    hold,
    hold_writer,
    make_schedule,
    put_slot,
    request,
    send_and_answer,
)
from tests.stores import Wall


def from_memory() -> float:
    return float(metrics.holds.labels(HOSPITAL, "refused_from_memory")._value.get())


@asynccontextmanager
async def remembering(store: Store) -> AsyncIterator[tuple[HoldWriter, ChangeFeed]]:
    """A writer with memory and a running feed that has caught up."""
    feed = ChangeFeed(store, [HOSPITAL])
    memory = Memory(feed)
    feed.listen(on_fragment=memory.on_fragment, on_key=memory.on_key)
    await feed.start()
    try:
        async with hold_writer(store, memory=memory) as writer:
            await catch_up(feed)
            yield writer, feed
    finally:
        await feed.close()


async def catch_up(feed: ChangeFeed) -> None:
    """Let the feed see everything that is committed now."""
    for _ in range(3):
        await feed.catch_up(5)
    assert feed.age_ms() <= FRESH_MS


async def code_of(writer: HoldWriter, hospital: Hospital, slot_id: str, patient_id: str, key: str = "") -> str:
    try:
        await writer.hold(hospital, request(slot_id, patient_id, key=key))
    except Refusal as refusal:
        return refusal.code
    return "held"


async def test_sold_out_is_answered_from_memory_once_the_store_has_said_so(store: Store, hospital: Hospital) -> None:
    slot_id, ids = await put_slot(store, 1), await put_patients(store, 3)
    async with remembering(store) as (writer, feed):
        assert await code_of(writer, hospital, slot_id, ids[0]) == "held"
        await catch_up(feed)
        before = from_memory()
        assert await code_of(writer, hospital, slot_id, ids[1]) == "slot_sold_out"
        assert await code_of(writer, hospital, slot_id, ids[2]) == "slot_sold_out"
        assert from_memory() - before == 2


async def test_first_success_is_given_again_when_the_slot_is_sold_out_by_memory(
    store: Store, hospital: Hospital
) -> None:
    slot_id, ids = await put_slot(store, 1), await put_patients(store, 2)
    async with remembering(store) as (writer, feed):
        first = await writer.hold(hospital, request(slot_id, ids[0], key="k"))
        await catch_up(feed)
        assert await code_of(writer, hospital, slot_id, ids[1]) == "slot_sold_out"
        again = await writer.hold(hospital, request(slot_id, ids[0], key="k"))
        assert (again.body, again.replayed) == (first.body, True)
        with pytest.raises(Refusal, match="idempotency_key_reused"):
            await writer.hold(hospital, request(slot_id, ids[1], key="k", digest="other"))


@pytest.mark.parametrize("engine", ["postgresql"])  # where there are other processes
async def test_key_accepted_by_another_process_goes_to_the_store_when_the_slot_is_sold_out(
    store: Store, hospital: Hospital
) -> None:
    slot_id, ids = await put_slot(store, 1), await put_patients(store, 2)
    async with remembering(store) as (writer, feed):
        async with hold_writer(store) as other:
            first = await other.hold(hospital, request(slot_id, ids[0], key="k"))
        await catch_up(feed)
        assert await code_of(writer, hospital, slot_id, ids[1]) == "slot_sold_out"
        assert (await writer.hold(hospital, request(slot_id, ids[0], key="k"))).body == first.body


async def test_keys_of_yesterday_evening_are_known_when_the_process_has_just_started(
    store: Store, hospital: Hospital
) -> None:
    slot_id, ids = await put_slot(store, 1), await put_patients(store, 2)
    async with hold_writer(store) as earlier:
        first = await earlier.hold(hospital, request(slot_id, ids[0], key="k"))
    async with remembering(store) as (writer, feed):
        assert await code_of(writer, hospital, slot_id, ids[1]) == "slot_sold_out"
        await catch_up(feed)
        assert (await writer.hold(hospital, request(slot_id, ids[0], key="k"))).body == first.body


async def test_returned_seat_is_sold_when_the_feed_has_shown_it(store: Store, hospital: Hospital) -> None:
    slot_id, ids = await put_slot(store, 1), await put_patients(store, 2)
    booking = await hold(store, hospital, slot_id, ids[0])
    async with remembering(store) as (writer, feed):
        assert await code_of(writer, hospital, slot_id, ids[1]) == "slot_sold_out"
        await cancel(store, hospital, booking.id)
        await catch_up(feed)
        assert await code_of(writer, hospital, slot_id, ids[1]) == "held"


async def test_store_is_asked_when_the_feed_is_behind(store: Store, hospital: Hospital) -> None:
    slot_id, ids = await put_slot(store, 1), await put_patients(store, 3)
    async with remembering(store) as (writer, feed):
        booking = await get(store, (await id_of(writer, hospital, slot_id, ids[0])))
        await catch_up(feed)
        assert await code_of(writer, hospital, slot_id, ids[1]) == "slot_sold_out"
        await feed.close()
        await cancel(store, hospital, booking.id)
        await asyncio.sleep(FRESH_MS / 1000)
        assert feed.age_ms() > FRESH_MS
        assert await code_of(writer, hospital, slot_id, ids[1]) == "held"


async def id_of(writer: HoldWriter, hospital: Hospital, slot_id: str, patient_id: str) -> str:
    import msgspec

    answered = await writer.hold(hospital, request(slot_id, patient_id))
    return str(msgspec.json.decode(answered.body)["id"])


async def test_not_released_is_answered_from_memory_until_the_clock_opens(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    opens = dt.datetime(2031, 3, 3, 7, tzinfo=ZONE)
    slot_id, ids = await put_slot(store, schedule=make_schedule(opens_at=opens)), await put_patients(store, 2)
    async with remembering(store) as (writer, feed):
        assert await code_of(writer, hospital, slot_id, ids[0]) == "slot_not_released"
        before = from_memory()
        with pytest.raises(Refusal) as refused:
            await writer.hold(hospital, request(slot_id, ids[1]))
        assert from_memory() - before == 1
        told = refused.value.extra["opens_at"]
        assert isinstance(told, dt.datetime)
        assert (told, told.tzinfo) == (opens, hospital.zone)  # as the rules tell it
        wall.turn(3_599.999)
        await catch_up(feed)
        assert await code_of(writer, hospital, slot_id, ids[0]) == "slot_not_released"
        wall.turn(0.001)
        assert await code_of(writer, hospital, slot_id, ids[0]) == "held"


async def test_memory_forgets_when_a_lock_is_refused_or_released(store: Store, hospital: Hospital) -> None:
    slot_id, ids = await put_slot(store, 1), await put_patients(store, 2)
    booking = await hold(store, hospital, slot_id, ids[0])
    async with remembering(store) as (writer, feed):
        assert await code_of(writer, hospital, slot_id, ids[1]) == "slot_sold_out"
        await send_and_answer(store, hospital, booking.id, "patient_blocked")
        await catch_up(feed)
        assert await code_of(writer, hospital, slot_id, ids[1]) == "held"


# --- the set of keys ------------------------------------------------------------------------------------------------


def test_set_knows_all_that_were_put_in_and_few_others() -> None:
    known = Bloom(bits=1 << 16)
    for n in range(5_000):
        known.add(f"in {n}")
    assert all(f"in {n}" in known for n in range(5_000))
    assert sum(f"out {n}" in known for n in range(5_000)) < 250


def test_set_keeps_a_text_for_a_day_and_forgets_it_after_two() -> None:
    now_s = 0.0
    known = Bloom(clock=lambda: now_s)
    now_s = DAY_S - 1
    known.add("late")
    now_s += DAY_S
    known.add("later")
    assert "late" in known
    now_s += DAY_S
    known.add("latest")
    assert "late" not in known
    assert "later" in known
