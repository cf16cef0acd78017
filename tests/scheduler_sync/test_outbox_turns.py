"""How the outbox claims and records: under its fence, as many as there are places for, together, and without sorting a queue."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import insert, select, text

from booking.commands import new_command
from booking.settings import Hospital, ReserveBy
from booking.store.direct import direct_of
from booking.store.engine import Store, Tx
from booking.store.fixed import Fixed
from booking.store.tables import outbox
from connectors.port import Verb
from mappings.canonical import Patient
from scheduler_sync.commands import Verdict
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.outbox import _DUE, IN_VAIN_BURST, IN_VAIN_PER_S, OutboxWorker
from scheduler_sync.verdicts import Row, record_settled, record_verdict
from tests.booking.world import (
    HOSPITAL,
    cancel,
    commands,
    get,
    hold,
    make_hospital,
    pay,
    put_patient,
    put_slot,
    send,
)
from tests.scheduler_sync.peer import Desk, Peer, desk, hang, lose_request, until
from tests.stores import Wall

LOCK = Verb.LOCK_SLOT


@pytest.fixture
def peer() -> Peer:
    return Peer()


async def holds(store: Store, hospital: Hospital, n: int) -> list[str]:
    slot_id = await put_slot(store, n)
    made = []
    for i in range(n):
        patient_id = await put_patient(store, Patient(name=f"张{i}", id_type="other", id_number=f"X{i}"))
        made.append((await hold(store, hospital, slot_id, patient_id)).id)
    return made


async def statuses(store: Store) -> list[str]:
    async with store.read(HOSPITAL) as tx:
        return sorted(r["status"] for r in await tx.all(select(outbox.c.status)))


async def test_nothing_is_claimed_when_the_fence_says_the_hospital_is_not_ours(
    store: Store, hospital: Hospital, peer: Peer
) -> None:
    asked: list[str] = []

    async def fence(tx: Tx) -> bool:
        asked.append(tx.hospital_id)
        return len(asked) > 2

    (booking_id,) = await holds(store, hospital, 1)
    worker = OutboxWorker(store, hospital, HospitalLink(hospital, {peer.name: peer}), fence=fence)
    stopping = asyncio.Event()
    task = asyncio.create_task(worker.run(stopping))

    async def asked_once() -> bool:
        return len(asked) >= 1

    await until(asked_once)
    assert await statuses(store) == ["queued"]
    assert peer.seen == []
    while (await get(store, booking_id)).his_state != "locked":
        store.bell.ring(f"outbox:{HOSPITAL}")
        await asyncio.sleep(0.005)
    assert len(asked) >= 3
    stopping.set()
    store.bell.ring(f"outbox:{HOSPITAL}")
    await task


async def test_outcome_is_recorded_when_the_hospital_was_lost_meanwhile(
    store: Store, hospital: Hospital, peer: Peer
) -> None:
    """What the HIS has done is true whoever works it now; the attempt's number keeps it from overwriting a later word."""
    ours, gate = [True], asyncio.Event()

    async def fence(tx: Tx) -> bool:
        return ours[0]

    peer.script(LOCK, hang(gate))
    first, second = await holds(store, make_hospital(his_concurrency=1), 2)
    one = make_hospital(his_concurrency=1)
    worker = OutboxWorker(store, one, HospitalLink(one, {peer.name: peer}), fence=fence)
    stopping = asyncio.Event()
    task = asyncio.create_task(worker.run(stopping))

    async def seen() -> bool:
        return len(peer.seen) == 1

    await until(seen)
    ours[0] = False
    gate.set()

    async def locked() -> bool:
        return (await get(store, first)).his_state == "locked"

    await until(locked)
    assert (await get(store, second)).his_state == "none"
    assert await statuses(store) == ["done", "queued"]
    stopping.set()
    store.bell.ring(f"outbox:{HOSPITAL}")
    await task


async def test_looks_are_few_when_a_crowd_rings_and_no_place_is_free(
    store: Store, peer: Peer, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital, gate = make_hospital(his_concurrency=1), asyncio.Event()
    peer.script(LOCK, hang(gate))
    await holds(store, hospital, 2)
    looks = 0
    look = OutboxWorker._due

    def count(*call: Any) -> Any:
        nonlocal looks
        looks += 1
        return look(*call)

    async with desk(store, hospital, peer, wall) as at:
        await at.until_seen(LOCK, 1)
        monkeypatch.setattr(OutboxWorker, "_due", count)
        ends_s = time.monotonic() + 2.0
        while time.monotonic() < ends_s:
            store.bell.ring(f"outbox:{HOSPITAL}")
            await asyncio.sleep(0.005)
        assert looks <= IN_VAIN_BURST + 2.0 * IN_VAIN_PER_S + 1
        freed_s = time.monotonic()
        gate.set()
        await at.until_seen(LOCK, 2)
        assert time.monotonic() - freed_s < 1 / IN_VAIN_PER_S  # the freed place is a turn by itself


async def test_no_more_are_claimed_than_there_are_places_when_many_wait(store: Store, peer: Peer, wall: Wall) -> None:
    hospital, gate = make_hospital(his_concurrency=3), asyncio.Event()
    peer.script(LOCK, *[hang(gate)] * 3)
    ids = await holds(store, hospital, 8)
    async with desk(store, hospital, peer, wall) as at:
        await at.until_seen(LOCK, 3)
        assert await statuses(store) == ["queued"] * 5 + ["sent"] * 3
        gate.set()

        async def all_done() -> bool:
            return await statuses(store) == ["done"] * 8

        await until(all_done)
    orders = [(await get(store, i)).order_no for i in ids]
    assert {key for _, key in peer.seen[:3]} == set(orders[:3])  # who came first is served first
    assert sorted(key for _, key in peer.seen) == sorted(orders)


async def test_commands_stay_queued_when_the_breaker_is_open(store: Store, peer: Peer, wall: Wall) -> None:
    """They can still be dropped by an expiry, and need not wait out a backoff when the HIS is back."""
    hospital = make_hospital(his_concurrency=5)
    peer.script(LOCK, *[lose_request] * 5)
    await holds(store, hospital, 9)
    async with desk(store, hospital, peer, wall) as at:

        async def tripped() -> bool:
            return at.link.status == "down"

        await until(tripped)

        async def recorded() -> bool:
            return await statuses(store) == ["queued"] * 4 + ["unknown"] * 5

        await until(recorded)
        async with store.read(HOSPITAL) as tx:
            rows = await tx.all(select(outbox.c.attempt).where(outbox.c.status == "queued"))
        assert [r["attempt"] for r in rows] == [0] * 4


async def test_others_are_recorded_when_one_outcome_cannot_be(
    store: Store, hospital: Hospital, peer: Peer, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await holds(store, hospital, 3)
    bad = ids[1]
    real_many, real_one = record_settled, record_verdict

    async def many(tx: Tx, of: Hospital, settled: list[tuple[Row, Verdict]]) -> None:
        await real_many(tx, of, settled)
        if any(row.subject_id == bad for row, _ in settled):
            raise RuntimeError("a fault of ours")

    async def one(tx: Tx, of: Hospital, row: Row, verdict: Verdict) -> None:
        await real_one(tx, of, row, verdict)
        if row.subject_id == bad:
            raise RuntimeError("a fault of ours")

    monkeypatch.setattr("scheduler_sync.outbox.record_settled", many)
    monkeypatch.setattr("scheduler_sync.outbox.record_verdict", one)
    async with desk(store, hospital, peer, wall):

        async def others_done() -> bool:
            return await statuses(store) == ["done", "done", "sent"]

        await until(others_done)
    # Its row stays `sent`: when its lease has run out it is looked at, as after a crash.
    assert (await get(store, bad)).his_state == "none"


async def test_late_word_is_ignored_among_others_that_count(store: Store, hospital: Hospital, wall: Wall) -> None:
    late, well = await holds(store, hospital, 2)
    for booking_id in (late, well):
        await send(store, booking_id)
    async with store.write(HOSPITAL) as tx:
        rows = {r["subject_id"]: r for r in await tx.all(select(outbox))}
        await tx.run(outbox.update().where(outbox.c.subject_id == late).values(attempt=2))
        settled = [(as_row(rows[i]), Verdict.accepted()) for i in (late, well)]
        await record_settled(tx, hospital, settled)
    assert [(await get(store, i)).his_state for i in (late, well)] == ["none", "locked"]
    assert [await commands(store, f"booking:{i}") for i in (late, well)] == [
        [("lock_slot", "sent")], [("lock_slot", "done")],
    ]  # fmt: skip


def as_row(row: dict[str, object]) -> Row:
    return Row(
        id=str(row["id"]), line=str(row["line"]), verb=LOCK, subject_id=str(row["subject_id"]), attempt=0, tries=0, looks=0,
        was="queued", mark=None, lease_s=30, last_sent_ms=None, created_ms=0,
    )  # fmt: skip


# --- the HIS is told of seats that are ours ----------------------------------------------------------------------------


@pytest.fixture
async def ours(store: Store, wall: Wall) -> AsyncIterator[Desk]:
    hospital = make_hospital(reserve_by=ReserveBy.QUOTA)
    async with desk(store, hospital, Peer(), wall) as at:
        yield at


async def test_his_hears_of_a_seat_of_ours_only_when_it_is_paid(ours: Desk, store: Store) -> None:
    booking = await hold(store, ours.hospital, await put_slot(store), await put_patient(store))
    await pay(store, ours.hospital, booking.id)
    await ours.until_row(f"booking:{booking.id}", status="done")
    assert ours.peer.calls() == ["register"]
    await cancel(store, ours.hospital, booking.id)
    await ours.until_row(f"booking:{booking.id}", verb="cancel_registration", status="done")
    assert (await get(store, booking.id)).state == "cancelled"


async def test_his_is_told_by_booking_when_it_knows_no_other_message(store: Store, wall: Wall) -> None:
    hospital, peer = make_hospital(reserve_by=ReserveBy.QUOTA), Peer(off=(Verb.REGISTER,))
    async with desk(store, hospital, peer, wall) as at:
        booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
        await pay(store, hospital, booking.id)
        await at.until_row(f"booking:{booking.id}", status="done")
    assert peer.calls() == ["book"]
    assert (await get(store, booking.id)).state == "booked"


# --- plans -------------------------------------------------------------------------------------------------------------


async def explained(tx: Tx, statement: Fixed, values: dict[str, Any], *, analyze: bool = False) -> str:
    """How the engine would execute it, with these values; on PostgreSQL also how it did."""
    direct = direct_of(tx.conn)
    if direct is not None:
        sql, own, names = statement.for_postgresql
        return str(
            await direct.raw.fetch(f"explain {'analyze ' * analyze}{sql}", *({**own, **values}[name] for name in names))
        )
    sql, own, _ = statement._text
    given = {name: json.dumps(v) if isinstance(v, list) else v for name, v in {**own, **values}.items()}
    return str((await tx.conn.exec_driver_sql(f"explain query plan {sql}", given)).fetchall())


@pytest.mark.parametrize("engine", ["postgresql"])
async def test_only_the_head_of_the_queue_is_read_when_it_has_grown_since_the_last_analyze(
    store: Store, hospital: Hospital, peer: Peer
) -> None:
    """As in the first minute of a release: the planner still believes that nothing waits."""
    async with store.write(HOSPITAL) as tx:
        await tx.run(text("analyze outbox"))
        for start in range(0, 5_000, 1_000):
            rows = [new_command(HOSPITAL, f"booking:{n}", "lock_slot", str(n), 0) for n in range(start, start + 1_000)]
            await tx.conn.execute(insert(outbox), [row | {"waits_for": f"person:{row['line']}"} for row in rows])
    worker = OutboxWorker(store, hospital, HospitalLink(hospital, {peer.name: peer}))
    async with store.read(HOSPITAL) as tx:
        plan = await explained(tx, _DUE, worker._due(tx, worker._room(), 4), analyze=True)
    read = [int(n) for n in re.findall(r"actual .*?rows=(\d+)", plan)]
    assert read, plan
    assert max(read) <= 4, plan


async def test_head_of_the_queue_is_found_without_sorting_it_when_it_is_long(
    store: Store, hospital: Hospital, peer: Peer
) -> None:
    """The very statement that the worker executes, on 20,000 waiting commands."""
    rows = [
        new_command(HOSPITAL, f"booking:{n}", "lock_slot", str(n), 0, waits_for=f"person:{n}") | {"waits_for": None}
        for n in range(20_000)
    ]
    async with store.write(HOSPITAL) as tx:
        for start in range(0, len(rows), 1_000):
            await tx.conn.execute(insert(outbox), rows[start : start + 1_000])
    async with store.write(HOSPITAL) as tx:
        await tx.run(text("analyze outbox"))
    worker = OutboxWorker(store, hospital, HospitalLink(hospital, {peer.name: peer}))
    assert await worker._is_any_due(worker._room())
    async with store.read(HOSPITAL) as tx:
        plan = await explained(tx, _DUE, worker._due(tx, worker._room(), 1))
    assert "ix_outbox_turn" in plan, plan
    assert "TEMP B-TREE" not in plan, plan
    assert "Sort" not in plan, plan
    assert "ux_outbox_open_line" in plan, plan
