"""The outbox against a scripted HIS: three outcomes, query-back, crashes, fences, order. Time passes only when turned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import update

from booking.settings import Hospital
from booking.stops import apply_stop
from booking.store.engine import Store, StoreUnavailable, Tx
from booking.store.tables import outbox
from connectors.port import HisRefused, HisReplyInvalid, HisUnavailable, QueryBack, Verb
from mappings.canonical import RegistrationStatus, ScheduleStopped, StopScope
from monitoring import metrics
from scheduler_sync.attention import dead_commands, settle_dead
from scheduler_sync.outbox import OutboxWorker
from tests.booking.world import (
    DAY,
    FEE_FEN,
    HOSPITAL,
    LI,
    WANG,
    ZHANG,
    cancel,
    commands,
    fetch,
    figures,
    get,
    hold,
    make_hospital,
    make_slot,
    owed,
    pay,
    put_patient,
    put_slot,
    remaining,
)
from tests.scheduler_sync.peer import Desk, Peer, accept, crash, desk, hang, lose_reply, lose_request, refuse, until
from tests.stores import BEGIN_MS, Wall

LOCK, REGISTER, UNLOCK, CANCEL, LOOK = (
    Verb.LOCK_SLOT, Verb.REGISTER, Verb.UNLOCK_SLOT, Verb.CANCEL_REGISTRATION, Verb.FETCH_REGISTRATION,
)  # fmt: skip


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
async def at(store: Store, hospital: Hospital, peer: Peer, wall: Wall) -> AsyncIterator[Desk]:
    """An open desk at the hospital."""
    async with desk(store, hospital, peer, wall) as it:
        yield it


async def hold_one(at: Desk, slot_id: str | None = None) -> str:
    """A hold, whose lock the worker sends at once; its id."""
    slot_id = slot_id or await put_slot(at.store, 3)
    return (await hold(at.store, at.hospital, slot_id, await put_patient(at.store))).id


def line(booking_id: str) -> str:
    return f"booking:{booking_id}"


async def lock_one(at: Desk, slot_id: str | None = None) -> str:
    """A booking locked at the HIS."""
    booking_id = await hold_one(at, slot_id)
    await at.until_row(line(booking_id), status="done")
    return booking_id


async def book_one(at: Desk, slot_id: str | None = None) -> str:
    """A booking paid and registered."""
    booking_id = await lock_one(at, slot_id)
    await pay(at.store, at.hospital, booking_id)
    await at.until_row(line(booking_id), verb="register", status="done")
    return booking_id


async def stop(at: Desk) -> None:
    async with at.store.write(HOSPITAL) as tx:
        await apply_stop(tx, at.hospital, ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1", date=DAY))


# --- the three outcomes -------------------------------------------------------------------------------------------------


async def test_booking_is_booked_when_every_command_is_accepted(at: Desk) -> None:
    booking_id = await book_one(at)
    seen = await get(at.store, booking_id)
    assert (seen.state, seen.his_state, seen.payment_state) == ("booked", "registered", "paid")
    assert at.peer.calls() == ["lock_slot", "register"]
    assert seen.his_refs == {f"{v}": f"{v}-{seen.order_no}" for v in ("lock_slot", "register")}


async def test_booking_is_rejected_and_its_seat_gone_when_the_his_is_full(at: Desk) -> None:
    at.peer.script(LOCK, refuse("full"))
    slot_id = await put_slot(at.store, 3)
    booking_id = await lock_one(at, slot_id)
    seen = await get(at.store, booking_id)
    assert (seen.state, seen.reason) == ("rejected", "full")
    assert await figures(at.store, slot_id) == (2, 0)


@pytest.mark.parametrize(
    ("code", "retryable"),
    [("busy", True), ("not_sent", False), ("not_open_yet", False), ("busy", False), ("full", True)],
)
async def test_command_is_sent_again_with_growing_pauses_when_the_refusal_may_pass(
    store: Store, peer: Peer, wall: Wall, code: str, retryable: bool
) -> None:
    peer.script(LOCK, *[refuse(code, retryable=retryable)] * 4)
    async with desk(store, make_hospital(lock_wait_s=600), peer, wall) as at:
        booking_id = await hold_one(at)
        for tries, pause_s in enumerate((0.5, 1, 2, 4), 1):
            row = await at.until_row(line(booking_id), status="queued", tries=tries)
            assert row["due_ms"] - wall.now_ms == pause_s * 1000
            assert (await get(store, booking_id)).his_command_status == "queued"
            at.turn(pause_s)
        await at.until_row(line(booking_id), status="done")
    assert peer.calls() == ["lock_slot"] * 5
    assert (await get(store, booking_id)).his_state == "locked"


async def test_time_of_the_lock_begins_with_the_accepted_one_when_earlier_ones_were_refused(
    store: Store, peer: Peer, wall: Wall
) -> None:
    """The HIS's own lock runs from the request that it accepted: counting from the first would kill the hold early."""
    peer.script(LOCK, refuse("not_open_yet"))
    async with desk(store, make_hospital(his_lock_s=60, lock_wait_s=600), peer, wall) as at:
        booking_id = await hold_one(at)
        await at.until_row(line(booking_id), tries=1)
        at.turn(50)
        await at.until_row(line(booking_id), status="done")
    assert (await get(store, booking_id)).pay_by_ms == BEGIN_MS + (50 + 60 - 5) * 1000


async def test_hold_that_nobody_opened_expires_when_its_time_is_over(at: Desk) -> None:
    at.peer.script(LOCK, refuse("not_open_yet"))
    slot_id = await put_slot(at.store, 1)
    booking_id = await hold_one(at, slot_id)
    await at.until_row(line(booking_id), tries=1)
    at.wall.turn(60)
    assert await at.expire() == 1
    assert (await at.row(line(booking_id)))["status"] == "dropped"
    assert (await get(at.store, booking_id)).state == "expired"
    assert await remaining(at.store, slot_id) == 1


# --- unknown ------------------------------------------------------------------------------------------------------------


async def test_lock_is_found_and_not_sent_again_when_only_the_reply_was_lost(at: Desk) -> None:
    at.peer.script(LOCK, lose_reply)
    booking_id = await hold_one(at)
    row = await at.until_row(line(booking_id), status="unknown")
    assert row["due_ms"] - at.wall.now_ms == 1_000
    assert (await get(at.store, booking_id)).his_command_status == "unknown"
    at.turn(1)
    await at.until_row(line(booking_id), status="done")
    seen = await get(at.store, booking_id)
    assert (seen.his_state, seen.his_refs) == ("locked", {"back": "1"})
    assert at.peer.calls() == ["lock_slot", "fetch_registration"]


async def test_lock_is_sent_once_more_when_two_looks_after_settling_find_nothing(at: Desk) -> None:
    """his_settle_s is 30: the look at 1 s does not count alone, nor do those before 30 s."""
    at.peer.script(LOCK, lose_request)
    booking_id = await hold_one(at)
    await at.until_row(line(booking_id), status="unknown")
    at.turn(1)
    await at.until_row(line(booking_id), looks=1)
    for looks in range(2, 7):
        at.turn(5)
        await at.until_row(line(booking_id), looks=looks)
    assert at.wall.now_ms == BEGIN_MS + 26_000
    assert at.peer.calls(LOCK) == ["lock_slot"]
    at.turn(3.999)  # 29.999 s
    await at.expire()
    assert (await at.row(line(booking_id)))["status"] == "unknown"
    at.turn(0.001)
    await at.until_row(line(booking_id), status="done")
    assert at.peer.calls(LOCK) == ["lock_slot"] * 2
    assert (await get(at.store, booking_id)).his_state == "locked"


async def test_unknown_outcome_is_told_with_its_age_until_it_is_known(at: Desk) -> None:
    def told() -> tuple[float | None, float | None]:
        labels = {"hospital": HOSPITAL}
        read = metrics.REGISTRY.get_sample_value
        return read("hisbridge_his_unknown", labels), read("hisbridge_his_unknown_oldest_seconds", labels)

    at.peer.script(LOCK, lose_request)
    booking_id = await hold_one(at)
    await at.until_row(line(booking_id), status="unknown")
    at.turn(20)
    await at.until_row(line(booking_id), looks=1)
    await at.worker.measure()
    assert told() == (1, 20)  # since it was sent, not since the look
    metrics.forget_hospital(HOSPITAL)
    assert told() == (None, None)
    await OutboxWorker(at.store, at.hospital, at.link).measure()  # as after a restart
    assert told() == (1, 20)
    at.turn(10)
    await at.until_row(line(booking_id), status="done")
    await at.worker.measure()
    assert told() == (0, 0)


async def test_one_look_is_not_enough_when_it_comes_after_settling(at: Desk) -> None:
    at.peer.script(LOCK, lose_request)
    booking_id = await hold_one(at)
    await at.until_row(line(booking_id), status="unknown")
    at.turn(50)
    row = await at.until_row(line(booking_id), looks=1)
    assert row["status"] == "unknown"
    assert at.peer.calls(LOCK) == ["lock_slot"]


async def test_late_commit_is_found_when_the_his_said_not_found_before(at: Desk) -> None:
    at.peer.script(LOCK, lose_request)
    booking_id = await hold_one(at)
    order_no = (await get(at.store, booking_id)).order_no
    await at.until_row(line(booking_id), status="unknown")
    at.turn(1)
    await at.until_row(line(booking_id), looks=1)
    at.peer.orders[order_no] = RegistrationStatus.LOCKED  # it commits seconds later
    at.turn(5)
    await at.until_row(line(booking_id), status="done")
    assert at.peer.calls(LOCK) == ["lock_slot"]
    assert (await get(at.store, booking_id)).his_state == "locked"


@pytest.mark.parametrize("error", [HisUnavailable("away"), HisReplyInvalid("html"), HisRefused("no", code="busy")])
async def test_look_that_fails_counts_for_nothing_when_the_his_is_away(
    at: Desk, error: HisUnavailable | HisReplyInvalid | HisRefused
) -> None:
    at.peer.script(LOCK, lose_request)
    at.peer.read_errors[LOOK].extend([error] * 3)
    booking_id = await hold_one(at)
    await at.until_row(line(booking_id), status="unknown")
    for looked, seconds in enumerate((40, 40, 40), 1):
        at.turn(seconds)
        row = await at.until_row(line(booking_id), tries=looked)
        assert (row["status"], row["looks"]) == ("unknown", 0)
    assert at.peer.calls(LOCK) == ["lock_slot"]


async def test_refusal_not_found_is_an_answer_when_the_his_is_asked_by_key(at: Desk) -> None:
    at.peer.script(LOCK, lose_request)
    at.peer.read_errors[LOOK].append(HisRefused("no such order", code="not_found"))
    booking_id = await hold_one(at)
    await at.until_row(line(booking_id), status="unknown")
    at.turn(1)
    assert (await at.until_row(line(booking_id), looks=1))["status"] == "unknown"


async def test_his_own_answer_is_taken_when_it_says_already_exists(at: Desk) -> None:
    at.peer.script(LOCK, refuse("already_exists"))
    booking_id = await hold_one(at)
    row = await at.until_row(line(booking_id), status="unknown")
    assert row["due_ms"] - at.wall.now_ms == 200
    at.peer.orders[(await get(at.store, booking_id)).order_no] = RegistrationStatus.LOCKED
    at.turn(0.2)
    await at.until_row(line(booking_id), status="done")
    assert at.peer.calls() == ["lock_slot", "fetch_registration"]


async def test_booking_ends_registered_once_when_the_reply_to_the_registration_was_lost(at: Desk) -> None:
    at.peer.script(REGISTER, lose_reply)
    booking_id = await lock_one(at)
    await pay(at.store, at.hospital, booking_id)
    await at.until_row(line(booking_id), verb="register", status="unknown")
    at.turn(1)
    await at.until_row(line(booking_id), verb="register", status="done")
    assert (await get(at.store, booking_id)).state == "booked"
    assert at.peer.calls(REGISTER) == ["register"]


async def test_registration_is_sent_again_when_the_his_still_has_only_the_lock(at: Desk) -> None:
    at.peer.script(REGISTER, lose_request)
    booking_id = await lock_one(at)
    await pay(at.store, at.hospital, booking_id)
    await at.until_row(line(booking_id), verb="register", status="unknown")
    at.turn(30)
    await at.until_row(line(booking_id), looks=1)
    at.turn(1)
    await at.until_row(line(booking_id), status="done")
    assert at.peer.calls(REGISTER) == ["register"] * 2
    assert (await get(at.store, booking_id)).state == "booked"


async def test_registration_is_not_sent_again_when_the_patient_has_cancelled_meanwhile(at: Desk) -> None:
    at.peer.script(REGISTER, lose_request)
    booking_id = await lock_one(at)
    await pay(at.store, at.hospital, booking_id)
    await at.until_row(line(booking_id), verb="register", status="unknown")
    assert (await cancel(at.store, at.hospital, booking_id)).state == "cancelling"
    at.turn(30)
    await at.until_row(line(booking_id), looks=1)
    at.turn(1)
    await at.until_row(line(booking_id), verb="unlock_slot", status="done")
    assert at.peer.calls(REGISTER) == ["register"]
    assert (await get(at.store, booking_id)).state == "cancelled"
    assert [r[:2] for r in await owed(at.store, booking_id)] == [("refund_due", FEE_FEN)]


async def test_release_is_done_when_the_his_shows_it_released(at: Desk) -> None:
    booking_id = await book_one(at)
    at.peer.script(CANCEL, lose_reply)
    await cancel(at.store, at.hospital, booking_id)
    await at.until_row(line(booking_id), verb="cancel_registration", status="unknown")
    assert await owed(at.store, booking_id) == []
    at.turn(1)
    await at.until_row(line(booking_id), verb="cancel_registration", status="done")
    assert (await get(at.store, booking_id)).state == "cancelled"
    assert at.peer.calls(CANCEL) == ["cancel_registration"]


async def test_release_is_done_when_the_his_says_already_done(at: Desk) -> None:
    booking_id = await book_one(at)
    at.peer.script(CANCEL, refuse("already_done"))
    await cancel(at.store, at.hospital, booking_id)
    await at.until_row(line(booking_id), verb="cancel_registration", status="done")
    assert (await get(at.store, booking_id)).state == "cancelled"


async def test_release_of_what_the_his_does_not_know_is_done_only_after_two_looks(at: Desk) -> None:
    booking_id = await lock_one(at)
    at.peer.orders.clear()
    await cancel(at.store, at.hospital, booking_id)
    await at.until_row(line(booking_id), verb="unlock_slot", status="unknown")
    at.turn(30)
    await at.until_row(line(booking_id), looks=1)
    assert (await get(at.store, booking_id)).state == "cancelling"
    at.turn(1)
    await at.until_row(line(booking_id), status="done")
    assert (await get(at.store, booking_id)).state == "cancelled"
    assert at.peer.calls(UNLOCK) == ["unlock_slot"]


async def test_seat_is_not_credited_twice_when_an_unlock_is_repeated_after_a_fetch(
    store: Store, peer: Peer, wall: Wall
) -> None:
    async with desk(store, make_hospital(), peer, wall) as at:
        slot_id = await put_slot(store, 1)
        wall.turn(1)
        booking_id = await lock_one(at, slot_id)
        wall.turn(1)
        async with store.write(HOSPITAL) as tx:
            await fetch(tx, make_slot(0))
        peer.script(UNLOCK, refuse("busy"))
        wall.turn(1)
        await cancel(store, at.hospital, booking_id)
        await at.until_row(line(booking_id), verb="unlock_slot", tries=1)
        wall.turn(0.1)
        async with store.write(HOSPITAL) as tx:
            await fetch(tx, make_slot(1))
        at.turn(1)
        await at.until_row(line(booking_id), verb="unlock_slot", status="done")
        # The first attempt may have done it, and this fetch may have seen it.
        assert await figures(store, slot_id) == (1, 0)


# --- where nothing can be asked ----------------------------------------------------------------------------------------


@pytest.fixture
def mute() -> Peer:
    """A HIS that offers no query-back."""
    return Peer(query_back=QueryBack.NONE)


async def dead_lock(at: Desk, slot_id: str) -> str:
    """A lock whose outcome no machine can settle; the booking's id."""
    at.peer.script(LOCK, lose_request)
    booking_id = await hold_one(at, slot_id)
    await at.until_row(line(booking_id), status="unknown")
    at.turn(1)
    await at.until_row(line(booking_id), status="dead")
    return booking_id


async def test_command_waits_for_a_person_and_keeps_its_seat_when_nothing_can_be_asked(
    store: Store, hospital: Hospital, mute: Peer, wall: Wall
) -> None:
    async with desk(store, hospital, mute, wall) as at:
        slot_id = await put_slot(store, 1)
        booking_id = await dead_lock(at, slot_id)
        seen = await get(store, booking_id)
        assert (seen.state, seen.needs_attention, seen.his_command_status) == ("held", True, "unknown")
        at.turn(3600)
        assert await at.expire() == 1
        assert await remaining(store, slot_id) == 0
        assert mute.calls() == ["lock_slot"]
        (dead,) = await dead_commands(store, HOSPITAL)
        assert (dead["verb"], dead["line"], dead["order_no"]) == ("lock_slot", line(booking_id), seen.order_no)
        assert dead["reason"] != ""


async def test_lock_is_over_when_the_his_own_lock_time_has_passed(store: Store, mute: Peer, wall: Wall) -> None:
    async with desk(store, make_hospital(his_lock_s=120), mute, wall) as at:
        mute.script(LOCK, lose_reply)
        slot_id = await put_slot(store, 1)
        booking_id = await hold_one(at, slot_id)
        await at.until_row(line(booking_id), status="unknown")
        at.turn(120)
        row = await at.until_row(line(booking_id), tries=1)
        assert row["status"] == "unknown"
        assert await remaining(store, slot_id) == 0
        at.turn(30)
        await at.until_row(line(booking_id), status="done")
        seen = await get(store, booking_id)
        assert (seen.state, seen.reason) == ("rejected", "lock_expired")
        assert await remaining(store, slot_id) == 1
        assert mute.calls() == ["lock_slot"]


async def test_lock_time_counts_from_the_last_attempt_when_the_first_was_refused(
    store: Store, mute: Peer, wall: Wall
) -> None:
    async with desk(store, make_hospital(his_lock_s=60, lock_wait_s=600), mute, wall) as at:
        mute.script(LOCK, refuse("busy"), lose_reply)
        slot_id = await put_slot(store, 1)
        booking_id = await hold_one(at, slot_id)
        await at.until_row(line(booking_id), tries=1)
        at.turn(61)
        await at.until_row(line(booking_id), status="unknown")
        at.turn(59)
        row = await at.until_row(line(booking_id), tries=1, status="unknown")
        assert row["reason"] == "waiting for the end of the HIS's own lock"
        assert await remaining(store, slot_id) == 0


@pytest.mark.parametrize(
    ("outcome", "state", "his_state"), [("accepted", "held", "locked"), ("rejected", "rejected", "rejected")]
)
async def test_booking_moves_on_when_a_person_settles_the_dead_letter(
    store: Store, hospital: Hospital, mute: Peer, wall: Wall, outcome: str, state: str, his_state: str
) -> None:
    async with desk(store, hospital, mute, wall) as at:
        booking_id = await dead_lock(at, await put_slot(store, 1))
        (dead,) = await dead_commands(store, HOSPITAL)
        assert await settle_dead(store, hospital, dead["id"], outcome)
        seen = await get(store, booking_id)
        assert (seen.state, seen.his_state, seen.needs_attention) == (state, his_state, False)
        assert await dead_commands(store, HOSPITAL) == []
        assert not await settle_dead(store, hospital, dead["id"], outcome)  # it is no dead letter any more


async def test_command_is_sent_again_when_a_person_says_retry(
    store: Store, hospital: Hospital, mute: Peer, wall: Wall
) -> None:
    async with desk(store, hospital, mute, wall) as at:
        booking_id = await dead_lock(at, await put_slot(store, 1))
        (dead,) = await dead_commands(store, HOSPITAL)
        assert await settle_dead(store, hospital, dead["id"], "retry")
        at.turn(1)
        await at.until_row(line(booking_id), status="done")
        seen = await get(store, booking_id)
        assert (seen.his_state, seen.needs_attention) == ("locked", False)
        assert mute.calls() == ["lock_slot"] * 2


# --- a store that goes away --------------------------------------------------------------------------------------------


def is_worker(task: asyncio.Task[Any] | None) -> bool:
    """Whether it is the worker's own, which claims and records."""
    return "OutboxWorker.run" in repr(None if task is None else task.get_coro())


class _Away:
    """Stands before the store's readings: while it is `on`, each fails as a connection does that is lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failed = 0
        self.on = False
        read = Store.read

        def fail(store: Store, hospital_id: str = "", **how: Any) -> Any:
            # Commands read by the hospital's id, in a task of their own; the test and the worker's turn are others.
            current = asyncio.current_task()
            if self.on and current is not None and current.get_name().startswith("outbox "):
                self.failed += 1
                raise StoreUnavailable("connection reset")
            return read(store, hospital_id, **how)

        monkeypatch.setattr(Store, "read", fail)

    async def until_met(self) -> None:
        async def check() -> bool:
            return self.failed > 0

        await until(check)


async def test_command_is_sent_as_soon_as_the_store_is_back_when_it_went_before_the_sending(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seat must not stay unlocked, nor a paid visit unregistered, for the minutes of a lease that nobody needs."""
    away = _Away(monkeypatch)
    away.on = True
    booking_id = await hold_one(at)
    await away.until_met()
    away.on = False
    await at.until_row(line(booking_id), status="queued", tries=1)
    at.turn(0.5)
    await at.until_row(line(booking_id), status="done")
    assert at.peer.calls() == ["lock_slot"]
    assert (await get(at.store, booking_id)).his_state == "locked"


async def test_look_is_repeated_as_soon_as_the_store_is_back_when_it_went_before_the_look(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = _Away(monkeypatch)
    at.peer.script(LOCK, lose_reply)
    booking_id = await hold_one(at)
    await at.until_row(line(booking_id), status="unknown")
    away.on = True
    at.turn(1)
    await away.until_met()
    away.on = False
    row = await at.until_row(line(booking_id), status="unknown", tries=1, looks=0)
    assert row["due_ms"] - at.wall.now_ms == 200
    at.turn(0.2)
    await at.until_row(line(booking_id), status="done")
    assert at.peer.calls() == ["lock_slot", "fetch_registration"]


@pytest.mark.parametrize("lost", [1, 2])
async def test_command_is_sent_as_soon_as_the_store_is_back_when_the_answer_to_its_claim_was_lost(
    at: Desk, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """Committed, and the worker was told that the store is away: the command is its own, and nobody has sent it."""
    write, answers = Store.write, 0

    @asynccontextmanager
    async def lose_answers(store: Store, hospital_id: str, **how: Any) -> AsyncIterator[Tx]:
        nonlocal answers
        async with write(store, hospital_id, **how) as tx:
            yield tx
        current = asyncio.current_task()
        if answers < lost and is_worker(current):
            answers += 1
            raise StoreUnavailable("connection reset")

    monkeypatch.setattr(Store, "write", lose_answers)
    booking_id = await hold_one(at)
    row = await at.until_row(line(booking_id), status="done")
    assert (answers, row["attempt"], at.peer.calls()) == (lost, 1, ["lock_slot"])


async def test_claim_whose_answer_was_lost_is_left_alone_when_another_worker_has_it(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, lost = Store.write, asyncio.Event()

    @asynccontextmanager
    async def lose_one_answer(store: Store, hospital_id: str, **how: Any) -> AsyncIterator[Tx]:
        async with write(store, hospital_id, **how) as tx:
            yield tx
        current = asyncio.current_task()
        if not lost.is_set() and is_worker(current):
            async with write(store, hospital_id) as tx:  # its lease ran out, and somebody else has claimed it
                await tx.run(update(outbox).values(attempt=outbox.c.attempt + 1))
            lost.set()
            raise StoreUnavailable("connection reset")

    monkeypatch.setattr(Store, "write", lose_one_answer)
    booking_id = await hold_one(at)
    await asyncio.wait_for(lost.wait(), 10)
    for _ in range(20):
        at.turn(0)
        await asyncio.sleep(0.02)
    assert (await at.row(line(booking_id)))["status"] == "sent"
    assert at.peer.calls() == []


# --- crashes and fences ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reached_his", [True, False])
async def test_new_worker_looks_first_when_the_old_one_died_after_sending(
    store: Store, hospital: Hospital, peer: Peer, wall: Wall, reached_his: bool
) -> None:
    """`sent` was committed before the first byte: what came of it is unknown, and is never sent again blind."""
    never = asyncio.Event()
    peer.script(LOCK, hang(never, first=accept if reached_his else None))
    async with desk(store, hospital, peer, wall) as old:
        booking_id = await hold_one(old)
        await old.until_seen(LOCK)
    assert (await old.row(line(booking_id)))["status"] == "sent"
    wall.turn(60)  # past the lease, which outlasts the call
    async with desk(store, hospital, peer, wall) as new:
        if reached_his:
            await new.until_row(line(booking_id), status="done")
            assert peer.calls() == ["lock_slot", "fetch_registration"]
        else:
            await new.until_row(line(booking_id), looks=1)
            new.turn(5)
            # The last byte may have left shortly before the crash: 30 s count from when we took over, not from the claim.
            await new.until_row(line(booking_id), looks=2)
            assert peer.calls(LOCK) == ["lock_slot"]
            new.turn(25)
            await new.until_row(line(booking_id), status="done")
            assert peer.calls(LOCK) == ["lock_slot"] * 2
    assert (await get(store, booking_id)).his_state == "locked"


async def test_late_outcome_is_ignored_when_another_worker_has_taken_over(
    store: Store, hospital: Hospital, peer: Peer, wall: Wall
) -> None:
    gate = asyncio.Event()
    peer.script(LOCK, hang(gate, refuse("full"), first=accept))
    async with desk(store, hospital, peer, wall) as old:
        booking_id = await hold_one(old)
        await old.until_seen(LOCK)
        wall.turn(60)
        async with desk(store, hospital, peer, wall) as new:
            row = await new.until_row(line(booking_id), status="done")
            assert (await get(store, booking_id)).his_state == "locked"
            gate.set()
            await old.close()
            assert await new.row(line(booking_id)) == row
    seen = await get(store, booking_id)
    assert (seen.state, seen.his_state) == ("held", "locked")


async def test_two_workers_send_a_command_once_when_both_want_it(
    store: Store, hospital: Hospital, peer: Peer, wall: Wall
) -> None:
    async with desk(store, hospital, peer, wall) as one, desk(store, hospital, peer, wall):
        slot_id = await put_slot(store, 3)
        ids = [(await hold(store, hospital, slot_id, await put_patient(store, p))).id for p in (ZHANG, LI, WANG)]
        for booking_id in ids:
            await one.until_row(line(booking_id), status="done")
    assert peer.calls() == ["lock_slot"] * 3


async def test_work_goes_on_when_a_connector_has_a_fault(
    store: Store, hospital: Hospital, peer: Peer, wall: Wall
) -> None:
    peer.script(LOCK, crash)
    async with desk(store, hospital, peer, wall) as at:
        slot_id = await put_slot(store, 3)
        broken = await hold_one(at, slot_id)
        await at.until_seen(LOCK)
        good = (await hold(store, hospital, slot_id, await put_patient(store, LI))).id
        await at.until_row(line(good), status="done")
        assert (await at.row(line(broken)))["status"] == "sent"
        at.turn(60)
        await at.until_row(line(broken), looks=1)  # its outcome is looked for, not assumed


async def test_what_is_in_flight_finishes_when_the_worker_is_stopped(
    store: Store, hospital: Hospital, peer: Peer, wall: Wall
) -> None:
    gate = asyncio.Event()
    peer.script(LOCK, hang(gate))
    async with desk(store, hospital, peer, wall) as at:
        booking_id = await hold_one(at)
        await at.until_seen(LOCK)
        closing = asyncio.create_task(at.close())
        gate.set()
        await closing
    assert (await get(store, booking_id)).his_state == "locked"


# --- order -------------------------------------------------------------------------------------------------------------


async def test_one_booking_never_has_two_commands_at_the_his_when_everything_comes_at_once(at: Desk) -> None:
    gate = asyncio.Event()
    at.peer.script(LOCK, hang(gate))
    booking_id = await hold_one(at)
    await at.until_seen(LOCK)
    await pay(at.store, at.hospital, booking_id)
    await cancel(at.store, at.hospital, booking_id)
    await stop(at)
    at.turn(10)
    assert at.peer.calls() == ["lock_slot"]
    gate.set()
    await at.until_row(line(booking_id), verb="unlock_slot", status="done")
    assert at.peer.calls() == ["lock_slot", "unlock_slot"]
    assert at.peer.overlaps == 0
    seen = await get(at.store, booking_id)
    assert (seen.state, seen.his_state, seen.payment_state) == ("stopped", "released", "refund_due")


async def test_paid_registration_goes_before_waiting_locks_when_the_his_is_busy(
    store: Store, peer: Peer, wall: Wall
) -> None:
    hospital = make_hospital(his_concurrency=1)
    async with desk(store, hospital, peer, wall) as at:
        slot_id = await put_slot(store, 9)
        first = await lock_one(at, slot_id)
        gate = asyncio.Event()
        peer.script(LOCK, hang(gate))
        others = [(await hold(store, hospital, slot_id, await put_patient(store, p))).id for p in (LI, WANG)]
        await at.until_seen(LOCK, 2)
        await pay(store, hospital, first)
        gate.set()
        for booking_id in others:
            await at.until_row(line(booking_id), status="done")
    assert peer.calls() == ["lock_slot", "lock_slot", "register", "lock_slot"]


async def test_other_bookings_go_on_when_one_is_stuck(at: Desk) -> None:
    at.peer.script(LOCK, lose_request)
    slot_id = await put_slot(at.store, 3)
    stuck = await hold_one(at, slot_id)
    await at.until_row(line(stuck), status="unknown")
    good = (await hold(at.store, at.hospital, slot_id, await put_patient(at.store, LI))).id
    await at.until_row(line(good), status="done")
    assert (await get(at.store, good)).his_state == "locked"


async def test_nothing_is_sent_when_the_hospital_is_not_live(store: Store, peer: Peer, wall: Wall) -> None:
    booking = await hold(store, make_hospital(), await put_slot(store), await put_patient(store))
    async with desk(store, make_hospital(mode="paused"), peer, wall) as at:
        at.turn(1)
        await at.close()
    assert peer.seen == []
    assert await commands(store, booking.line) == [("lock_slot", "queued")]


# --- outcomes that come too late ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended_by", ["cancel", "expiry", "stop"])
async def test_late_lock_is_given_back_when_its_hold_is_over(
    store: Store, peer: Peer, wall: Wall, ended_by: str
) -> None:
    # Its hold ends within the lock's lease. With time turned past that, the worker would be right to look at once.
    async with desk(store, make_hospital(his_queue_deadline_s=30), peer, wall) as at:
        gate = asyncio.Event()
        at.peer.script(LOCK, hang(gate))
        slot_id = await put_slot(at.store, 1)
        booking_id = await hold_one(at, slot_id)
        await at.until_seen(LOCK)
        at.wall.turn(1)
        if ended_by == "cancel":
            await cancel(at.store, at.hospital, booking_id)
        elif ended_by == "stop":
            await stop(at)
        else:
            at.wall.turn(60)
            assert await at.expire() == 1
        assert await remaining(at.store, slot_id) == 0
        gate.set()
        await at.until_row(line(booking_id), verb="unlock_slot", status="done")
        seen = await get(at.store, booking_id)
        assert seen.state == {"cancel": "cancelled", "expiry": "expired", "stop": "stopped"}[ended_by]
        assert seen.his_state == "released"
        assert at.peer.orders[seen.order_no] == RegistrationStatus.RELEASED
        assert await remaining(at.store, slot_id) == 1


@pytest.mark.parametrize("ended_by", ["cancel", "expiry"])
async def test_refused_lock_is_not_asked_for_again_when_its_hold_is_over(
    store: Store, peer: Peer, wall: Wall, ended_by: str
) -> None:
    # Its hold ends within the lock's lease, as above; past it: the next test.
    async with desk(store, make_hospital(his_queue_deadline_s=30), peer, wall) as at:
        gate = asyncio.Event()
        at.peer.script(LOCK, hang(gate, refuse("busy")))
        slot_id = await put_slot(at.store, 1)
        booking_id = await hold_one(at, slot_id)
        await at.until_seen(LOCK)
        if ended_by == "cancel":
            await cancel(at.store, at.hospital, booking_id)
        else:
            at.wall.turn(60)
            assert await at.expire() == 1
        gate.set()
        await at.until_row(line(booking_id), status="done")
        seen = await get(at.store, booking_id)
        assert seen.state == {"cancel": "cancelled", "expiry": "expired"}[ended_by]
        assert at.peer.calls() == ["lock_slot"]
        assert await remaining(at.store, slot_id) == 1


async def test_lock_is_looked_for_and_not_asked_for_again_when_its_lease_and_its_hold_are_over(at: Desk) -> None:
    gate = asyncio.Event()
    at.peer.script(LOCK, hang(gate, refuse("busy")))
    slot_id = await put_slot(at.store, 1)
    booking_id = await hold_one(at, slot_id)
    await at.until_seen(LOCK)
    at.turn(60)
    assert await at.expire() == 1
    await at.until_row(line(booking_id), looks=1)
    gate.set()  # its own word comes too late to count
    at.turn(30)
    await at.until_row(line(booking_id), status="done")
    assert (await get(at.store, booking_id)).state == "expired"
    assert at.peer.calls() == ["lock_slot", "fetch_registration", "fetch_registration"]
    assert await remaining(at.store, slot_id) == 1


async def test_late_registration_is_cancelled_and_refunded_once_when_the_schedule_has_stopped(at: Desk) -> None:
    gate = asyncio.Event()
    at.peer.script(REGISTER, hang(gate))
    booking_id = await lock_one(at)
    await pay(at.store, at.hospital, booking_id)
    await at.until_seen(REGISTER)
    await stop(at)
    gate.set()
    await at.until_row(line(booking_id), verb="cancel_registration", status="done")
    seen = await get(at.store, booking_id)
    assert (seen.state, seen.his_state, seen.payment_state) == ("stopped", "released", "refund_due")
    assert at.peer.calls() == ["lock_slot", "register", "cancel_registration"]
    assert len(await owed(at.store, booking_id)) == 1


async def test_booking_stays_booked_when_the_his_refuses_the_cancel(at: Desk) -> None:
    booking_id = await book_one(at)
    at.peer.script(CANCEL, refuse("too_late"))
    await cancel(at.store, at.hospital, booking_id)
    await at.until_row(line(booking_id), verb="cancel_registration", status="done")
    seen = await get(at.store, booking_id)
    assert (seen.state, seen.payment_state, seen.reason) == ("booked", "paid", "too_late")


async def test_refused_registration_gives_the_lock_back_when_the_his_says_no(at: Desk) -> None:
    at.peer.script(REGISTER, refuse("limit_reached"))
    booking_id = await lock_one(at)
    await pay(at.store, at.hospital, booking_id)
    await at.until_row(line(booking_id), verb="unlock_slot", status="done")
    seen = await get(at.store, booking_id)
    assert (seen.state, seen.his_state, seen.payment_state) == ("rejected", "released", "refund_due")


async def test_nothing_more_is_sent_when_an_unpaid_booking_counts_as_registered(store: Store, wall: Wall) -> None:
    peer = Peer(off=[REGISTER])
    async with desk(store, make_hospital(reserve_by="book"), peer, wall) as at:
        booking_id = await book_one(at)
    assert peer.calls() == ["book"]
    assert (await get(store, booking_id)).state == "booked"
