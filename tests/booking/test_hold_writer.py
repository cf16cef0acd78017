"""The writer of holds: batches, keys, turns, deadlines, and what happens when the store fails in the middle."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, select, text, update

from booking.errors import Refusal
from booking.inventory.outcomes import Batches, CommitUnknown, Violation, Work
from booking.inventory.requests import Answer, HoldRequest, KeyFacts
from booking.inventory.rows import Batch
from booking.inventory.writer import Crowded, HoldWriter
from booking.rules.settings import Wanted
from booking.settings import Hospital
from booking.store.engine import Store, StoreUnavailable
from booking.store.tables import bookings, events, fragments, idempotency_keys, outbox, persons, schedules
from booking.store.turns import Of, Turn
from mappings.canonical import Patient
from tests.booking.api.raw import metric
from tests.booking.world import (
    DAY,
    HOSPITAL,
    figures,
    hold_writer,
    make_hospital,
    make_schedule,
    put_patient,
    put_slot,
    request,
)
from tests.loop_clock import LoopClock
from tests.stores import Wall


def anybody(number: int) -> Patient:
    return Patient(name=f"病人{number}", id_type="passport", id_number=f"E{number:08}", phone="13800001111")


async def put_patients(store: Store, count: int) -> list[str]:
    return [await put_patient(store, anybody(n)) for n in range(count)]


async def outcomes(writer: HoldWriter, hospital: Hospital, requests: Sequence[HoldRequest]) -> list[Answer | str]:
    """What all of them are told who ask at once: an answer, or the code of a refusal."""
    done = await asyncio.gather(*(writer.hold(hospital, r) for r in requests), return_exceptions=True)
    told: list[Answer | str] = []
    for outcome in done:
        if isinstance(outcome, Refusal):
            told.append(outcome.code)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            told.append(outcome)
    return told


async def count(store: Store, table: object) -> int:
    async with store.read(HOSPITAL) as tx:
        return int((await tx.conn.execute(select(func.count()).select_from(table))).scalar_one())  # type: ignore[arg-type]


# --- batches --------------------------------------------------------------------------------------------------------


async def test_as_many_get_a_seat_as_there_are_when_all_ask_at_once(store: Store, hospital: Hospital) -> None:
    slot_id, ids = await put_slot(store, 5), await put_patients(store, 40)
    async with hold_writer(store) as writer:
        told = await outcomes(writer, hospital, [request(slot_id, i) for i in ids])
    assert Counter(t if isinstance(t, str) else "got one" for t in told) == {"got one": 5, "slot_sold_out": 35}
    assert [isinstance(t, Answer) for t in told] == [True] * 5 + [False] * 35  # in the order of arrival
    assert await figures(store, slot_id) == (5, 5)
    assert await count(store, bookings) == await count(store, outbox) == await count(store, events) == 5


async def test_one_write_is_enough_when_many_ask_at_once(store: Store, hospital: Hospital) -> None:
    slot_id, ids = await put_slot(store, 50), await put_patients(store, 50)
    before = await writes(store)
    async with hold_writer(store) as writer:
        await outcomes(writer, hospital, [request(slot_id, i) for i in ids])
    assert await writes(store) == before + 1


async def writes(store: Store) -> int:
    async with store.read(HOSPITAL) as tx:
        row = await tx.first(text("select writes from store_clock where hospital_id = 'h1'"))
    return 0 if row is None else int(row["writes"])


async def test_second_booking_of_a_schedule_is_refused_when_both_are_in_one_batch(
    store: Store, hospital: Hospital
) -> None:
    first, second = await put_slot(store), await put_slot(store, slot_id="2", hour=9)
    patient_id = await put_patient(store)
    async with hold_writer(store) as writer:
        told = await outcomes(writer, hospital, [request(first, patient_id), request(second, patient_id)])
    assert isinstance(told[0], Answer)
    assert told[1] == "duplicate_booking"


async def test_schedules_quota_holds_over_all_its_slots_when_they_are_asked_for_at_once(
    store: Store, hospital: Hospital
) -> None:
    slots = [await put_slot(store, 10, slot_id=str(n), hour=8 + n) for n in range(3)]
    async with store.write(HOSPITAL) as tx:
        await tx.run(update(schedules).values(quota=4))
    ids = await put_patients(store, 9)
    async with hold_writer(store) as writer:
        told = await outcomes(writer, hospital, [request(slots[n % 3], i) for n, i in enumerate(ids)])
    assert Counter(isinstance(t, Answer) for t in told) == {True: 4, False: 5}
    async with store.read(HOSPITAL) as tx:
        assert [r["taken"] for r in await tx.all(select(schedules.c.taken))] == [4]


async def test_readers_learn_what_changed_when_a_hold_commits(store: Store, hospital: Hospital) -> None:
    slot_id, patient_id = await put_slot(store), await put_patient(store)
    async with hold_writer(store) as writer:
        await writer.hold(hospital, request(slot_id, patient_id))
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(fragments).where(fragments.c.date == DAY.isoformat()))
    assert [(r["department_id"], r["changed"]) for r in rows] == [("D1", await writes(store))]


async def test_survivors_booking_counts_when_a_person_was_merged(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store)
    ids = await put_patients(store, 3)
    async with store.write(HOSPITAL) as tx:
        people = [r["id"] for r in await tx.all(select(persons.c.id).order_by(persons.c.created_ms, persons.c.id))]
        for retired, survivor in (people[:2], people[1:]):
            await tx.run(update(persons).where(persons.c.id == retired).values(merged_into=survivor))
    async with hold_writer(store) as writer:
        told = await outcomes(writer, hospital, [request(slot_id, i) for i in reversed(ids)])
    assert isinstance(told[0], Answer)
    assert told[1:] == ["duplicate_booking"] * 2


# --- keys -----------------------------------------------------------------------------------------------------------


async def test_repeat_gets_the_first_success_when_it_comes_in_the_same_batch(store: Store, hospital: Hospital) -> None:
    slot_id, ids = await put_slot(store, 1), await put_patients(store, 2)
    asked = [request(slot_id, ids[0], key="k"), request(slot_id, ids[1]), request(slot_id, ids[0], key="k")]
    async with hold_writer(store) as writer:
        told = await outcomes(writer, hospital, asked)
        later = await writer.hold(hospital, asked[0])
    assert isinstance(told[0], Answer)
    assert isinstance(told[2], Answer)
    assert (told[0].replayed, told[2].replayed, later.replayed) == (False, True, True)
    assert told[0].body == told[2].body == later.body
    assert told[1] == "slot_sold_out"
    assert await figures(store, slot_id) == (1, 1)


async def test_key_is_refused_when_it_comes_with_another_body(store: Store, hospital: Hospital) -> None:
    slot_id, ids = await put_slot(store), await put_patients(store, 2)
    asked = [request(slot_id, ids[0], key="k", digest="one"), request(slot_id, ids[1], key="k", digest="two")]
    async with hold_writer(store) as writer:
        told = await outcomes(writer, hospital, asked)
        assert told[1] == "idempotency_key_reused"
        assert await outcomes(writer, hospital, asked[1:]) == ["idempotency_key_reused"]
        others = [msgspec.structs.replace(asked[1], client_id="another")]
        assert await outcomes(writer, hospital, others) == ["patient_unknown"]  # a key belongs to its client


async def test_key_is_free_again_when_its_request_was_refused_or_its_day_is_over(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    full, free = await put_slot(store, 0), await put_slot(store, schedule=make_schedule("S2"))
    ids = await put_patients(store, 2)
    async with hold_writer(store) as writer:
        assert await outcomes(writer, hospital, [request(full, ids[0], key="k")]) == ["slot_sold_out"]
        assert isinstance((await outcomes(writer, hospital, [request(free, ids[0], key="k", digest="x")]))[0], Answer)
        wall.turn(24 * 3600)
        again = await writer.hold(hospital, request(free, ids[1], key="k", digest="y"))
    assert not again.replayed
    assert await count(store, idempotency_keys) == 1


# --- when the store fails -------------------------------------------------------------------------------------------


class Unlucky:
    """The real batches of a store, which fail at given times: `before` the commit, or `after` it without an answer."""

    def __init__(self, inner: Batches, *failures: str) -> None:
        self._inner = inner
        self._failures = list(failures)
        self.parallel = inner.parallel

    async def start(self) -> None:
        await self._inner.start()

    async def close(self) -> None:
        await self._inner.close()

    async def transact(
        self, hospital_id: str, requests: Sequence[HoldRequest], work: Work, wanted: Wanted | None = None
    ) -> Batch:
        failure = self._failures.pop(0) if self._failures else None
        if failure == "before":
            raise StoreUnavailable("away")
        if failure == "lost before":
            raise CommitUnknown("the connection broke")
        batch = await self._inner.transact(hospital_id, requests, work, wanted)
        if failure == "lost after":
            raise CommitUnknown("the connection broke")
        return batch

    async def recall(self, hospital_id: str, requests: Sequence[HoldRequest]) -> list[KeyFacts | None]:
        if self._failures and self._failures[0] == "away":
            self._failures.pop(0)
            raise StoreUnavailable("away")
        return await self._inner.recall(hospital_id, requests)


def unlucky(store: Store, *failures: str) -> Batches:
    from booking.inventory.postgres import PostgresBatches
    from booking.inventory.sqlite import SqliteBatches

    return Unlucky(SqliteBatches(store) if store.dialect == "sqlite" else PostgresBatches(store), *failures)


async def test_all_are_told_that_nothing_happened_when_the_store_is_away(store: Store, hospital: Hospital) -> None:
    slot_id, ids = await put_slot(store), await put_patients(store, 3)
    async with hold_writer(store, batches=unlucky(store, "before")) as writer:
        done = await asyncio.gather(*(writer.hold(hospital, request(slot_id, i)) for i in ids), return_exceptions=True)
        assert [type(d) for d in done] == [StoreUnavailable] * 3
        assert await count(store, bookings) == 0
        assert isinstance(await writer.hold(hospital, request(slot_id, ids[0])), Answer)


@pytest.mark.parametrize("lost", ["lost before", "lost after"])
async def test_keys_tell_what_happened_when_the_answer_to_the_commit_is_lost(
    store: Store, hospital: Hospital, lost: str
) -> None:
    """Whether it was committed or not: everybody gets a true answer, and nobody a second seat."""
    slot_id, ids = await put_slot(store, 2), await put_patients(store, 4)
    asked = [request(slot_id, i) for i in ids]
    async with hold_writer(store, batches=unlucky(store, lost, "away")) as writer:
        told = await outcomes(writer, hospital, asked)
        assert [isinstance(t, Answer) for t in told] == [True, True, False, False]
        assert told[2:] == ["slot_sold_out"] * 2
        again = await writer.hold(hospital, asked[0])
    assert isinstance(told[0], Answer)
    assert again.body == told[0].body
    assert await figures(store, slot_id) == (2, 2)
    assert await count(store, bookings) == 2


async def test_repeat_is_told_to_wait_when_the_first_one_is_being_settled(store: Store, hospital: Hospital) -> None:
    slot_id, ids = await put_slot(store), await put_patients(store, 1)
    asked = request(slot_id, ids[0])
    looking, may_look = asyncio.Event(), asyncio.Event()

    class Slow(Unlucky):
        async def recall(self, hospital_id: str, requests: Sequence[HoldRequest]) -> list[KeyFacts | None]:
            looking.set()
            await may_look.wait()
            return await super().recall(hospital_id, requests)

    async with hold_writer(store, batches=Slow(unlucky(store), "lost after")) as writer:
        first = asyncio.create_task(writer.hold(hospital, asked))
        await looking.wait()
        assert await outcomes(writer, hospital, [asked]) == ["request_in_progress"]
        may_look.set()
        assert isinstance(await first, Answer)
        assert (await writer.hold(hospital, asked)).replayed


async def test_only_the_culprit_fails_when_a_constraint_refuses_a_batch(
    store: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's own rules are the backstop: should the deciding code ever be wrong, the store halves the batch."""
    from booking.inventory import rows

    slot_id, ids = await put_slot(store, 20), await put_patients(store, 9)
    real = rows._granted

    def wrong(batch: rows.Batch, asked: HoldRequest, *more: Any) -> tuple[Any, ...]:
        values = real(batch, asked, *more)
        of_client = rows._DIFFERS.index("client_id")
        return (*values[:of_client], None, *values[of_client + 1 :]) if asked.patient_id == ids[4] else values

    monkeypatch.setattr(rows, "_granted", wrong)
    async with hold_writer(store) as writer:
        done = await asyncio.gather(*(writer.hold(hospital, request(slot_id, i)) for i in ids), return_exceptions=True)
    assert [isinstance(d, Answer) for d in done] == [n != 4 for n in range(9)]
    assert isinstance(done[4], Violation)
    assert await figures(store, slot_id) == (20, 8)


# --- queues ---------------------------------------------------------------------------------------------------------


async def test_gone_caller_changes_nothing_when_it_was_decided_for(store: Store, hospital: Hospital) -> None:
    slot_id, ids = await put_slot(store), await put_patients(store, 1)
    asked = request(slot_id, ids[0])
    async with hold_writer(store) as writer:
        gone = asyncio.create_task(writer.hold(hospital, asked))
        await asyncio.sleep(0)
        gone.cancel()
        again = await writer.hold(hospital, asked)
    assert again.replayed
    assert await count(store, bookings) == 1


async def test_request_is_shed_when_the_queue_is_full(store: Store, hospital: Hospital) -> None:
    slot_id, ids = await put_slot(store, 20), await put_patients(store, 5)
    async with hold_writer(store, queue=3) as writer:
        done = await asyncio.gather(*(writer.hold(hospital, request(slot_id, i)) for i in ids), return_exceptions=True)
    assert [type(d) for d in done] == [Answer] * 3 + [Crowded] * 2


TIME_S = 2.5  # a caller's; the batch that has begun waits for its turn for twice as long


async def test_request_is_turned_away_when_its_turn_comes_too_late(store: Store, hospital: Hospital) -> None:
    slot_id, ids = await put_slot(store), await put_patients(store, 2)
    turn = store.turn(HOSPITAL)
    await turn.acquire(timeout_s=1)  # somebody else writes, and goes on writing
    async with hold_writer(store, deadline_s=TIME_S) as writer:
        first = asyncio.create_task(writer.hold(hospital, request(slot_id, ids[0])))
        await asyncio.sleep(0)
        while writer.waiting(HOSPITAL):  # noqa: ASYNC110 - until it is in a batch
            await asyncio.sleep(0)
        second = asyncio.create_task(writer.hold(hospital, request(slot_id, ids[1])))
        await asyncio.sleep(0)
        LoopClock().turn(TIME_S)
        with pytest.raises(Crowded):
            await second
        turn.release()
        assert isinstance(await first, Answer)


async def test_caller_is_turned_away_and_nothing_done_when_its_own_time_is_over_before_its_batch_begins(
    store: Store, hospital: Hospital
) -> None:
    slot_id, ids = await put_slot(store, 10), await put_patients(store, 4)
    before = metric("hisbridge_shed_total", request_class="hold", reason="deadline")
    turn = store.turn(HOSPITAL)
    await turn.acquire(timeout_s=1)  # somebody else writes, and goes on writing
    async with hold_writer(store, deadline_s=30) as writer:
        begun = asyncio.create_task(writer.hold(hospital, request(slot_id, ids[0]), within_s=TIME_S))
        await asyncio.sleep(0)
        while writer.waiting(HOSPITAL):  # noqa: ASYNC110 - until it is in a batch
            await asyncio.sleep(0)
        patient = [asyncio.create_task(writer.hold(hospital, request(slot_id, ids[n]))) for n in (1, 2)]
        asked = writer.hold(hospital, request(slot_id, ids[3], key="impatient"), within_s=TIME_S)
        impatient = asyncio.create_task(asked)
        await asyncio.sleep(0)
        LoopClock().turn(TIME_S)
        with pytest.raises(Crowded):
            await impatient
        assert writer.waiting(HOSPITAL) == 2
        assert writer.oldest_s() >= TIME_S
        assert not begun.done()  # its time is over too, but what has begun is decided
        turn.release()
        assert [type(await hold) for hold in (begun, *patient)] == [Answer] * 3
        assert writer.oldest_s() == 0
        assert await count(store, bookings) == 3
        again = await writer.hold(hospital, request(slot_id, ids[3], key="impatient"))
        assert (again.status, again.replayed) == (201, False)
    assert metric("hisbridge_shed_total", request_class="hold", reason="deadline") == before + 1


async def test_other_hospitals_are_served_in_turn_when_one_has_a_crowd(store: Store) -> None:
    """Batch by batch in turn: whoever asks alone waits for one batch of the crowd, not for all of them."""
    crowd, quiet = make_hospital(), make_hospital(id="h2")
    order: list[tuple[str, int]] = []

    class Watching(Unlucky):
        async def transact(
            self, hospital_id: str, requests: Sequence[HoldRequest], work: Work, wanted: Wanted | None = None
        ) -> Batch:
            order.append((hospital_id, len(requests)))
            return await super().transact(hospital_id, requests, work, wanted)

    inner = unlucky(store)
    async with hold_writer(store, batches=Watching(inner)) as writer:
        asked = [writer.hold(crowd, request("none", "nobody")) for _ in range(2_000)]
        asked.insert(1_999, writer.hold(quiet, request("none", "nobody")))
        await asyncio.gather(*asked, return_exceptions=True)
    place = order.index(("h2", 1))
    assert place <= 1
    assert sum(n for hospital_id, n in order if hospital_id == "h1") == 2_000
    assert max(n for _, n in order) == 256


async def test_hold_goes_first_when_others_wait_to_write_as_well(store: Store, hospital: Hospital) -> None:
    turn = store.turn(HOSPITAL)
    served: list[Of] = []

    async def wait(of: Of) -> None:
        await turn.acquire(of, timeout_s=5)
        served.append(of)
        turn.release()

    async def served_of(*waiting: Of) -> list[Of]:
        served.clear()
        await turn.acquire(timeout_s=5)
        tasks = []
        for of in waiting:
            tasks.append(asyncio.create_task(wait(of)))
            await asyncio.sleep(0)
        turn.release()
        await asyncio.gather(*tasks)
        return served[:]

    hold, step, bind, sync = Of
    assert await served_of(*[sync] * 2, *[hold] * 6) == [*[hold] * 4, sync, *[hold] * 2, sync]
    # Whoever has a seat goes on with it while a crowd wants one, and neither of them starves the other, or the rest.
    assert await served_of(*[sync] * 2, *[step] * 9, *[hold] * 2) == [hold, *[step] * 4, hold, *[step] * 5, sync, sync]
    assert await served_of(*[sync] * 2, *[step] * 18) == [*[step] * 16, sync, *[step] * 2, sync]
    # A crowd that makes patients known has a queue of its own.
    assert await served_of(*[bind] * 6, *[sync] * 2, *[step] * 2) == [*[step] * 2, *[bind] * 4, sync, *[bind] * 2, sync]


async def test_turn_is_one_at_a_time_and_in_order_when_those_who_are_called_together_stop_in_between() -> None:
    """A step whose commit goes to a thread keeps the others out; they keep their places."""
    turn = Turn(together=True)
    inside = 0
    served: list[int] = []

    async def step(number: int, stops: int) -> None:
        nonlocal inside
        await turn.acquire(Of.STEPS, timeout_s=5)
        inside += 1
        assert inside == 1
        served.append(number)
        for _ in range(stops):
            await asyncio.sleep(0)
        assert inside == 1
        inside -= 1
        turn.release()

    await turn.acquire(timeout_s=5)
    tasks = []
    for number in range(20):
        tasks.append(asyncio.create_task(step(number, number % 3)))
        await asyncio.sleep(0)
    turn.release()
    await asyncio.gather(*tasks)
    assert served == list(range(20))
    assert not turn.wanted


async def test_steps_get_their_share_of_the_turns_when_each_of_them_stops_in_between() -> None:
    """As on a disk that is slow, whose commits go to a thread."""
    turn = Turn(together=True)
    served: list[Of] = []

    async def work(of: Of) -> None:
        while len(served) < 100:
            await turn.acquire(of, timeout_s=5)
            served.append(of)
            await asyncio.sleep(0.001)
            turn.release()

    await asyncio.gather(*(work(Of.STEPS) for _ in range(20)), *(work(Of.HOLDS) for _ in range(3)))
    assert 75 <= served[:100].count(Of.STEPS) <= 85


@pytest.mark.parametrize("seed", range(20))
async def test_turn_is_passed_on_whoever_gives_up_or_fails(seed: int) -> None:
    turn, chance = Turn(together=True), random.Random(seed)
    inside = done = 0

    async def work(of: Of, stops: int) -> None:
        nonlocal inside, done
        await turn.acquire(of, timeout_s=chance.choice((0.001, 5)))
        try:
            inside += 1
            assert inside == 1
            for _ in range(stops):
                await asyncio.sleep(0)
        finally:
            inside -= 1
            done += 1
            turn.release()

    tasks = []
    for _ in range(200):
        tasks.append(asyncio.create_task(work(chance.choice(tuple(Of)), chance.randrange(3))))
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        if chance.random() < 0.3:
            chance.choice(tasks).cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ends} <= {type(None), TimeoutError, asyncio.CancelledError}
    assert done >= sum(end is None for end in ends) > 20
    assert not turn.wanted
    await turn.acquire(timeout_s=1)


@pytest.mark.parametrize("of", Of)
async def test_turn_is_given_up_cleanly_when_it_is_passed_on_in_the_same_moment(of: Of) -> None:
    turn = Turn()
    await turn.acquire(timeout_s=1)
    waits = asyncio.create_task(turn.acquire(of, timeout_s=60))
    await asyncio.sleep(0)
    waits.cancel()
    turn.release()  # before the one who gives up has run again
    with pytest.raises(asyncio.CancelledError):
        await waits
    await turn.acquire(timeout_s=1)


async def test_metrics_tell_what_became_of_holds(store: Store, hospital: Hospital) -> None:
    from monitoring import metrics

    def value(outcome: str) -> float:
        return float(metrics.holds.labels(HOSPITAL, outcome)._value.get())

    before = {o: value(o) for o in ("granted", "replayed", "refused", "shed")}
    slot_id, ids = await put_slot(store, 2), await put_patients(store, 4)
    asked = [request(slot_id, i) for i in ids]
    async with hold_writer(store) as writer:
        await outcomes(writer, hospital, [*asked, asked[0]])
    assert {o: value(o) - n for o, n in before.items()} == {"granted": 2, "replayed": 1, "refused": 2, "shed": 0}


async def test_batch_holds_all_of_a_crowd_who_ask_again_when_they_are_answered(store: Store) -> None:
    sizes: list[int] = []

    class Watching(Unlucky):
        async def transact(
            self, hospital_id: str, requests: Sequence[HoldRequest], work: Work, wanted: Wanted | None = None
        ) -> Batch:
            sizes.append(len(requests))
            return await super().transact(hospital_id, requests, work, wanted)

    crowd = make_hospital()
    async with hold_writer(store, batches=Watching(unlucky(store))) as writer:

        async def caller() -> None:
            for _ in range(12):
                with pytest.raises(Refusal):
                    await writer.hold(crowd, request("none", "nobody"))

        await asyncio.gather(*(caller() for _ in range(64)))
    assert sum(sizes) == 64 * 12
    assert Counter(sizes).most_common(1)[0][0] == 64
