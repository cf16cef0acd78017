"""Steps of several people in one transaction: each gets its own answer, and none leaves anything in another's commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from sqlalchemy.exc import IntegrityError

from booking.bookings import cancel_booking, expire_due, pay_booking
from booking.errors import Refusal
from booking.records import Booking
from booking.settings import Hospital
from booking.steps import MOST_TOGETHER, Step, Steps
from booking.store.engine import Store, StoreBusy, StoreUnavailable, Tx
from booking.store.tables import payments
from booking.store.turns import Of
from mappings.canonical import Patient, Payment
from monitoring import metrics
from monitoring.logs import request_id
from monitoring.trace_context import TraceContext, here
from tests.booking.world import (
    CLIENT,
    HOSPITAL,
    LI,
    WANG,
    ZHANG,
    get,
    hold,
    locked,
    make_payment,
    make_schedule,
    owed,
    put_patient,
    put_slot,
    send_and_answer,
)
from tests.loop_clock import LoopClock
from tests.stores import UrlOf, Wall, make_vault

PATIENCE_S = 15.0


async def seated(store: Store, hospital: Hospital, n: int) -> list[str]:
    """Bookings whose seats are locked, of as many people."""
    slot_id = await put_slot(store, n)
    people = [await put_patient(store, Patient(name=f"张{i}", id_type="other", id_number=f"X{i}")) for i in range(n)]
    return [await locked(store, hospital, slot_id, person) for person in people]


class Written:
    """Counts the transactions of a store that were begun for steps."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        write = store.write

        def counted(hospital_id: str, *, here: bool = False, of: Of = Of.OTHERS) -> Any:
            self.begun += of is Of.STEPS
            return write(hospital_id, here=here, of=of)

        monkeypatch.setattr(store, "write", counted)


def paying(hospital: Hospital, booking_id: str, payment: Payment, client: str = CLIENT) -> Step:
    async def work(tx: Tx, booking: Booking) -> str:
        await pay_booking(tx, hospital, booking, payment)
        return booking.id

    return Step(client, booking_id, work, [(payment.channel, payment.trade_no)])


def cancelling(hospital: Hospital, booking_id: str) -> Step:
    async def work(tx: Tx, booking: Booking) -> str:
        await cancel_booking(tx, hospital, booking, "patient")
        return booking.id

    return Step(CLIENT, booking_id, work)


@asynccontextmanager
async def somebody_writing(store: Store) -> AsyncIterator[None]:
    """Nobody else has their turn before the end of the block."""
    turn = store.turn(HOSPITAL)
    await turn.acquire(Of.OTHERS, timeout_s=PATIENCE_S)
    try:
        yield
    finally:
        turn.release()


async def together(store: Store, steps: Steps, asked: list[Step]) -> list[Any]:
    """Ask for all of them while somebody else writes; their answers, or what was raised."""
    async with somebody_writing(store):
        tasks = [asyncio.create_task(steps.take(HOSPITAL, one)) for one in asked]
        await asyncio.sleep(0.05)
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_those_who_wait_are_served_in_one_transaction(
    store: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, written = await seated(store, hospital, 9), Written(store, monkeypatch)
    asked = [paying(hospital, i, make_payment()) for i in ids[:8]]
    assert await together(store, Steps(store), [*asked, cancelling(hospital, ids[8])]) == ids
    assert written.begun == 2  # the first, and all who came after it
    assert [(await get(store, i)).payment_state for i in ids[:8]] == ["paid"] * 8
    assert (await get(store, ids[8])).state == "cancelling"


async def test_no_transaction_is_without_bound(
    store: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, written = await seated(store, hospital, MOST_TOGETHER + 3), Written(store, monkeypatch)
    assert await together(store, Steps(store), [paying(hospital, i, make_payment()) for i in ids]) == ids
    assert written.begun == 3


async def test_refused_step_is_refused_alone(store: Store, hospital: Hospital) -> None:
    """One that asks for another client's booking, one whose trade number has paid for something else, and one too late."""
    ids, taken = await seated(store, hospital, 6), make_payment()
    steps = Steps(store)
    await steps.take(HOSPITAL, paying(hospital, ids[0], taken))
    answers = await together(
        store,
        steps,
        [
            paying(hospital, ids[1], make_payment()),
            paying(hospital, ids[2], make_payment(), client="somebody"),
            paying(hospital, ids[3], taken),
            paying(hospital, "bk_none", make_payment()),
            paying(hospital, ids[4], make_payment()),
            cancelling(hospital, ids[5]),
        ],
    )
    codes = [answer.code if isinstance(answer, Refusal) else answer for answer in answers]
    assert codes == [ids[1], "booking_unknown", "payment_conflict", "booking_unknown", ids[4], ids[5]]
    states = [(await get(store, i)).payment_state for i in ids[:5]]
    assert states == ["paid", "paid", "due", "due", "paid"]
    assert (await get(store, ids[5])).state == "cancelling"


async def test_others_keep_together_when_one_is_refused(
    store: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, taken = await seated(store, hospital, 10), make_payment()
    await Steps(store).take(HOSPITAL, paying(hospital, ids[0], taken))
    written = Written(store, monkeypatch)
    asked = [paying(hospital, i, make_payment()) for i in ids[1:]]
    asked[5] = paying(hospital, ids[6], taken)
    answers = await together(store, Steps(store), asked)
    assert [answer if isinstance(answer, str) else answer.code for answer in answers] == [
        *ids[1:6], "payment_conflict", *ids[7:],
    ]  # fmt: skip
    assert written.begun == 4  # the first; all others, in vain; the one that is refused; the rest


async def test_what_was_rolled_back_is_not_counted(store: Store, hospital: Hospital) -> None:
    ids, taken = await seated(store, hospital, 4), make_payment()
    await Steps(store).take(HOSPITAL, paying(hospital, ids[0], taken))
    cancelling_now = metrics.bookings.labels(hospital=HOSPITAL, state="cancelling")
    before = cancelling_now._value.get()
    answers = await together(
        store,
        Steps(store),
        [paying(hospital, ids[1], make_payment()), cancelling(hospital, ids[2]), paying(hospital, ids[3], taken)],
    )
    assert answers[:2] == [ids[1], ids[2]]
    assert isinstance(answers[2], Refusal)
    assert cancelling_now._value.get() - before == 1


async def test_last_seat_of_a_quota_is_bought_once_by_two_who_pay_late(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    schedule = make_schedule(quota=2)
    slot_id = await put_slot(store, 5, schedule=schedule)
    one, two = [await locked(store, hospital, slot_id, await put_patient(store, who)) for who in (ZHANG, LI)]
    wall.turn(901)
    async with store.write(HOSPITAL) as tx:
        assert await expire_due(tx, hospital) == 2
    for booking_id in (one, two):
        await send_and_answer(store, hospital, booking_id)
    three = await locked(store, hospital, slot_id, await put_patient(store, WANG))
    answers = await together(
        store,
        Steps(store),
        [cancelling(hospital, "bk_none"), *(paying(hospital, i, make_payment()) for i in (one, two))],
    )
    assert answers[1:] == [one, two]
    assert [(await get(store, i)).state for i in (one, two, three)] == ["held", "expired", "held"]
    assert len(await owed(store, two)) == 1


async def test_seat_that_is_given_back_is_bought_by_who_pays_late_after_it(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    slot_id = await put_slot(store, 5, schedule=make_schedule(quota=1))
    one = await locked(store, hospital, slot_id, await put_patient(store, ZHANG))
    wall.turn(901)
    async with store.write(HOSPITAL) as tx:
        assert await expire_due(tx, hospital) == 1
    await send_and_answer(store, hospital, one)
    two = (await hold(store, hospital, slot_id, await put_patient(store, LI))).id  # nothing of it has left yet
    answers = await together(
        store,
        Steps(store),
        [cancelling(hospital, "bk_none"), cancelling(hospital, two), paying(hospital, one, make_payment())],
    )
    assert answers[1:] == [two, one]
    assert [(await get(store, i)).state for i in (one, two)] == ["held", "cancelled"]


async def test_same_trade_number_pays_for_one_of_two(store: Store, hospital: Hospital) -> None:
    ids, payment = await seated(store, hospital, 3), make_payment()
    answers = await together(
        store,
        Steps(store),
        [paying(hospital, ids[0], make_payment()), *(paying(hospital, i, payment) for i in ids[1:])],
    )
    assert answers[:2] == ids[:2]
    assert isinstance(answers[2], Refusal)
    assert answers[2].code == "payment_conflict"
    assert [(await get(store, i)).payment_state for i in ids] == ["paid", "paid", "due"]


async def test_two_steps_of_one_booking_are_made_one_after_the_other(store: Store, hospital: Hospital) -> None:
    ids, payment = await seated(store, hospital, 2), make_payment()
    answers = await together(
        store,
        Steps(store),
        [
            paying(hospital, ids[0], make_payment()),
            paying(hospital, ids[1], payment),
            paying(hospital, ids[1], payment),
            cancelling(hospital, ids[1]),
        ],
    )
    assert answers == [ids[0], ids[1], ids[1], ids[1]]
    assert (await get(store, ids[1])).state == "cancelling"


async def test_failure_of_one_is_not_the_failure_of_others(store: Store, hospital: Hospital) -> None:
    ids = await seated(store, hospital, 4)

    async def broken(tx: Tx, booking: Booking) -> None:
        await pay_booking(tx, hospital, booking, make_payment())
        raise ZeroDivisionError

    asked = [paying(hospital, i, make_payment()) for i in ids]
    asked[2] = Step(CLIENT, ids[2], broken)
    answers = await together(store, Steps(store), asked)
    assert answers[:2] == ids[:2]
    assert isinstance(answers[2], ZeroDivisionError)
    assert answers[3] == ids[3]
    assert [(await get(store, i)).payment_state for i in ids] == ["paid", "paid", "due", "paid"]


async def test_others_are_served_when_the_commit_of_all_fails(store: Store, hospital: Hospital) -> None:
    """On PostgreSQL what is added is only sent with the commit: nobody knows whose it was."""
    ids = await seated(store, hospital, 4)

    async def twice(tx: Tx, booking: Booking) -> None:
        row = await pay_booking(tx, hospital, booking, make_payment())
        await tx.add(payments, msgspec.to_builtins(row) | {"trade_no": "another"})  # two that are kept

    asked = [paying(hospital, i, make_payment()) for i in ids]
    asked[3] = Step(CLIENT, ids[3], twice)
    answers = await together(store, Steps(store), asked)
    assert answers[:3] == ids[:3]
    assert isinstance(answers[3], IntegrityError)
    assert [(await get(store, i)).payment_state for i in ids] == ["paid", "paid", "paid", "due"]


async def test_everybody_is_told_when_no_transaction_can_be_begun(
    store: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, steps = await seated(store, hospital, 3), Steps(store)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no transaction")

    with monkeypatch.context() as now:
        now.setattr(store, "write", broken)
        answers = await together(store, steps, [paying(hospital, i, make_payment()) for i in ids])
    assert [type(answer) for answer in answers] == [RuntimeError] * 3
    assert await steps.take(HOSPITAL, paying(hospital, ids[0], make_payment())) == ids[0]


async def test_step_that_has_begun_is_made_though_whoever_asked_goes_away(store: Store, hospital: Hospital) -> None:
    ids, steps, begun = await seated(store, hospital, 3), Steps(store), asyncio.Event()

    async def slow(tx: Tx, booking: Booking) -> None:
        begun.set()
        await asyncio.sleep(0.05)
        await pay_booking(tx, hospital, booking, make_payment())

    asked = [
        paying(hospital, ids[0], make_payment()),
        Step(CLIENT, ids[1], slow),
        paying(hospital, ids[2], make_payment()),
    ]
    async with somebody_writing(store):
        tasks = [asyncio.create_task(steps.take(HOSPITAL, one)) for one in asked]
        await asyncio.sleep(0.05)
    async with asyncio.timeout(PATIENCE_S):
        await begun.wait()
        tasks[1].cancel()
        assert [await tasks[0], await tasks[2]] == [ids[0], ids[2]]
    assert tasks[1].cancelled()
    assert [(await get(store, i)).payment_state for i in ids] == ["paid"] * 3


async def test_others_are_served_when_whoever_came_first_goes_away(store: Store, hospital: Hospital) -> None:
    ids, steps = await seated(store, hospital, 4), Steps(store)
    async with somebody_writing(store):
        tasks = [asyncio.create_task(steps.take(HOSPITAL, paying(hospital, i, make_payment()))) for i in ids]
        await asyncio.sleep(0.05)
        for gone in (tasks[0], tasks[2]):
            gone.cancel()
        await asyncio.sleep(0.05)
    async with asyncio.timeout(PATIENCE_S):
        assert [await tasks[1], await tasks[3]] == [ids[1], ids[3]]
    assert [(await get(store, i)).payment_state for i in ids] == ["due", "paid", "due", "paid"]


async def test_nobody_waits_for_a_turn_for_ever(
    store: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("booking.steps.WRITER_TIMEOUT_S", 0.2)
    monkeypatch.setattr("booking.store.engine.WRITER_TIMEOUT_S", 0.2)
    ids, steps = await seated(store, hospital, 3), Steps(store)
    async with somebody_writing(store), asyncio.timeout(PATIENCE_S):
        answers = await asyncio.gather(
            *(steps.take(HOSPITAL, paying(hospital, i, make_payment())) for i in ids), return_exceptions=True
        )
    assert [type(answer) for answer in answers] == [StoreBusy] * 3
    assert await steps.take(HOSPITAL, paying(hospital, ids[0], make_payment())) == ids[0]
    assert [(await get(store, i)).payment_state for i in ids] == ["paid", "due", "due"]


async def test_nobody_is_told_that_all_are_busy_before_having_waited(
    store: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who comes in the last moment of a stall is served after it."""
    monkeypatch.setattr("booking.steps.WRITER_TIMEOUT_S", 60.0)
    monkeypatch.setattr("booking.store.engine.WRITER_TIMEOUT_S", 60.0)
    ids, steps, clock = await seated(store, hospital, 3), Steps(store), LoopClock()

    def ask(booking_id: str) -> asyncio.Task[Any]:
        return asyncio.create_task(steps.take(HOSPITAL, paying(hospital, booking_id, make_payment())))

    async with somebody_writing(store):
        first, second = ask(ids[0]), ask(ids[1])
        await asyncio.sleep(0.05)
        clock.turn(60)
        await asyncio.wait([first])  # now the task that serves the others begins to wait for the turn, for a minute
        await asyncio.sleep(0.05)
        clock.turn(48)
        late = ask(ids[2])
        await asyncio.sleep(0.05)
        clock.turn(24)
        await asyncio.sleep(0.05)  # it has waited in vain
        assert not late.done()
    async with asyncio.timeout(PATIENCE_S):
        assert await late == ids[2]
        assert [type(e) for e in await asyncio.gather(first, second, return_exceptions=True)] == [StoreBusy] * 2


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_everybody_is_told_when_the_store_is_away(database: UrlOf, hospital: Hospital) -> None:
    store = Store(database("store") + "_gone", make_vault())
    try:
        steps = Steps(store)
        answers = await asyncio.gather(
            *(steps.take(HOSPITAL, paying(hospital, f"bk_{n}", make_payment())) for n in range(3)),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
        with pytest.raises(StoreUnavailable):
            await steps.take(HOSPITAL, paying(hospital, "bk_later", make_payment()))
    finally:
        await store.close()


async def test_each_step_belongs_to_the_request_that_asked(store: Store, hospital: Hospital) -> None:
    ids, seen = await seated(store, hospital, 3), {}

    def noting(booking_id: str) -> Step:
        async def work(tx: Tx, booking: Booking) -> str:
            seen[booking.id] = (request_id.get(), here.get())
            return booking.id

        return Step(CLIENT, booking_id, work)

    traces = {i: TraceContext(f"{n + 1:032x}", f"{n + 1:016x}", True) for n, i in enumerate(ids)}
    asked = []
    for i in ids:
        request_id.set(f"req-{i}")
        here.set(traces[i])
        asked.append(noting(i))
    request_id.set(None)
    here.set(None)
    assert await together(store, Steps(store), asked) == ids
    assert {i: seen[i] for i in ids[1:]} == {i: (f"req-{i}", traces[i]) for i in ids[1:]}


async def test_step_of_nobody_else_is_made_at_once(store: Store, hospital: Hospital) -> None:
    """By the very task that asks: another one would begin a turn of the event loop later."""
    [booking_id], steps = await seated(store, hospital, 1), Steps(store)
    made_by = []

    async def work(tx: Tx, booking: Booking) -> None:
        made_by.append(asyncio.current_task())

    for _ in range(3):
        await steps.take(HOSPITAL, Step(CLIENT, booking_id, work))
    assert made_by == [asyncio.current_task()] * 3
