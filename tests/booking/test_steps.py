"""Steps of several people in one transaction: each gets its own answer, and none leaves anything in another's commit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from booking.bookings import cancel_booking, pay_booking
from booking.errors import Refusal
from booking.records import Booking
from booking.settings import Hospital
from booking.steps import MOST_TOGETHER, Step, Steps
from booking.store.engine import Store, StoreBusy, StoreUnavailable, Tx
from booking.store.turns import Of
from mappings.canonical import Patient, Payment
from monitoring.logs import request_id
from monitoring.trace_context import TraceContext, here
from tests.booking.world import CLIENT, HOSPITAL, get, hold, locked, make_payment, put_patient, put_slot
from tests.stores import UrlOf, make_vault

PATIENCE_S = 15.0


async def seated(store: Store, hospital: Hospital, n: int) -> list[str]:
    """Bookings whose seats are locked, of as many people."""
    slot_id = await put_slot(store, n)
    people = [await put_patient(store, Patient(name=f"张{i}", id_type="other", id_number=f"X{i}")) for i in range(n)]
    return [await locked(store, hospital, slot_id, person) for person in people]


class Written:
    """Counts the transactions of a store that were committed as steps."""

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


async def together(store: Store, steps: Steps, asked: list[Step]) -> list[Any]:
    """Ask for all of them while somebody else writes; their answers, or what was raised."""
    turn = store.turn(HOSPITAL)
    await turn.acquire(Of.OTHERS, timeout_s=PATIENCE_S)
    tasks = [asyncio.create_task(steps.take(HOSPITAL, one)) for one in asked]
    await asyncio.sleep(0.05)
    turn.release()
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
    states = [(await get(store, i)).payment_state for i in ids]
    assert states == ["paid", "paid", "due", "due", "paid", states[5]]
    assert (await get(store, ids[5])).state == "cancelling"


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


async def test_others_are_served_when_whoever_came_first_goes_away(store: Store, hospital: Hospital) -> None:
    ids, steps = await seated(store, hospital, 4), Steps(store)
    turn = store.turn(HOSPITAL)
    await turn.acquire(Of.OTHERS, timeout_s=PATIENCE_S)
    tasks = [asyncio.create_task(steps.take(HOSPITAL, paying(hospital, i, make_payment()))) for i in ids]
    await asyncio.sleep(0.05)
    for gone in (tasks[0], tasks[2]):
        gone.cancel()
    await asyncio.sleep(0.05)
    turn.release()
    async with asyncio.timeout(PATIENCE_S):
        assert [await tasks[1], await tasks[3]] == [ids[1], ids[3]]
    assert [(await get(store, i)).payment_state for i in ids] == ["due", "paid", "due", "paid"]


async def test_nobody_waits_for_a_turn_for_ever(
    store: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("booking.steps.WRITER_TIMEOUT_S", 0.2)
    monkeypatch.setattr("booking.store.engine.WRITER_TIMEOUT_S", 0.2)
    ids, steps = await seated(store, hospital, 3), Steps(store)
    turn = store.turn(HOSPITAL)
    await turn.acquire(Of.OTHERS, timeout_s=PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        answers = await asyncio.gather(
            *(steps.take(HOSPITAL, paying(hospital, i, make_payment())) for i in ids), return_exceptions=True
        )
    assert [type(answer) for answer in answers] == [StoreBusy] * 3
    turn.release()
    assert await steps.take(HOSPITAL, paying(hospital, ids[0], make_payment())) == ids[0]
    assert [(await get(store, i)).payment_state for i in ids] == ["paid", "due", "due"]


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
    slot_id, person = await put_slot(store, 1), await put_patient(store)
    booking_id = (await hold(store, hospital, slot_id, person)).id
    steps = Steps(store)
    for _ in range(3):
        assert await steps.take(HOSPITAL, cancelling(hospital, booking_id)) == booking_id
    assert (await get(store, booking_id)).state in ("cancelling", "cancelled")
