"""Many callers of two processes at one hospital's money, all at once: no fen is lost, doubled, or two portals'."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import select

from booking.errors import Refusal
from booking.ledger import imbalances
from booking.money import kept_payment, refunds_of
from booking.refunds import ask_refund, own_refund, report_refund
from booking.settings import Hospital
from booking.stops import carry_stop
from booking.store.engine import Store
from booking.store.tables import bookings, events, ledger, payments, refunds
from mappings.canonical import ScheduleStopped, StopScope
from tests.booking.test_part_refunds import settled_bill
from tests.booking.world import (
    CLIENT,
    FEE_FEN,
    HOSPITAL,
    LI,
    WANG,
    ZHANG,
    booked,
    cancel,
    get,
    locked,
    make_payment,
    pay,
    put_patient,
    put_slot,
    send_and_answer,
)
from tests.stores import Wall, opened

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
async def two(store: Store, wall: Wall) -> AsyncIterator[Sequence[Store]]:
    """Two processes that share a database; a SQLite file has one writer, which is then both."""
    if store.dialect == "sqlite":
        yield (store, store)
        return
    async with opened(store.url.render_as_string(hide_password=False), wall=wall) as other:
        yield (store, other)


async def outcomes(*work: Awaitable[Any]) -> Counter[str]:
    """How all of them ended, by the code of a refusal."""
    told = await asyncio.gather(*work, return_exceptions=True)
    for one in told:
        if isinstance(one, BaseException) and not isinstance(one, Refusal):
            raise one
    return Counter(one.code if isinstance(one, Refusal) else "done" for one in told)


async def wrong(store: Store) -> list[Any]:
    return [one async for one in imbalances(store, HOSPITAL)]


async def test_no_more_goes_back_than_was_paid_when_many_ask_at_once(two: Sequence[Store]) -> None:
    bill = await settled_bill(two[0])

    async def ask(store: Store, part: str) -> None:
        async with store.write(HOSPITAL) as tx:
            payment = await kept_payment(tx, bill_id=bill.id)
            await ask_refund(tx, payment, amount_fen=1000, reason="r", part=part)

    found = await outcomes(*(ask(two[n % 2], f"p{n % 12}") for n in range(24)))
    assert found == {"done": 16, "refund_too_large": 8}
    async with two[0].read(HOSPITAL) as tx:
        assert sum(r["amount_fen"] for r in await refunds_of(tx, bill_id=bill.id)) == 8000
    assert await wrong(two[0]) == []


async def test_one_refund_is_refunded_once_when_all_words_come_at_once(two: Sequence[Store]) -> None:
    bill = await settled_bill(two[0])
    async with two[0].write(HOSPITAL) as tx:
        payment = await kept_payment(tx, bill_id=bill.id)
        row = await ask_refund(tx, payment, amount_fen=8800, reason="r", part="a")

    async def report(store: Store, word: str) -> None:
        async with store.write(HOSPITAL) as tx:
            await report_refund(
                tx, await own_refund(tx, CLIENT, row["id"]), word=word, refund_trade_no="R1", tells_his=True
            )

    words = ("refunding", "failed", "unknown", "refunded")
    await outcomes(*(report(two[n % 2], words[n // 2 % 4]) for n in range(16)))
    async with two[0].read(HOSPITAL) as tx:
        assert (await own_refund(tx, CLIENT, row["id"]))["status"] == "refunded"
        posted = await tx.all(select(ledger.c.entry).where(ledger.c.entry == "refunded"))
    assert len(posted) == 1
    assert await wrong(two[0]) == []


async def test_one_trade_number_pays_for_one_booking_when_two_report_it_at_once(
    two: Sequence[Store], hospital: Hospital
) -> None:
    slot = await put_slot(two[0])
    ids = [await locked(two[0], hospital, slot, await put_patient(two[0], who)) for who in (ZHANG, LI)]
    payment = make_payment(trade_no="T1")
    found = await outcomes(*(pay(two[n % 2], hospital, ids[n // 2 % 2], payment) for n in range(8)))
    assert found == {"done": 4, "payment_conflict": 4}
    async with two[0].read(HOSPITAL) as tx:
        assert len(await tx.all(select(payments))) == 1
        assert len(await tx.all(select(ledger))) == 1


@pytest.mark.parametrize("order", range(3))
async def test_all_money_is_somewhere_when_a_stop_meets_cancels_and_payments(
    two: Sequence[Store], hospital: Hospital, order: int
) -> None:
    slot = await put_slot(two[0])
    ids = [
        await booked(two[0], hospital, slot, await put_patient(two[0], ZHANG)),
        await locked(two[0], hospital, slot, await put_patient(two[0], LI)),
        await locked(two[0], hospital, slot, await put_patient(two[0], WANG)),
    ]
    stop = ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1")
    steps: list[Callable[[Store], Awaitable[Any]]] = [lambda s: carry_stop(s, hospital, stop)]
    for booking_id in ids:
        steps += [
            lambda s, i=booking_id: cancel(s, hospital, i),  # type: ignore[misc]
            lambda s, i=booking_id: pay(s, hospital, i, make_payment(trade_no=f"A{i}")),  # type: ignore[misc]
            lambda s, i=booking_id: pay(s, hospital, i, make_payment(trade_no=f"B{i}")),  # type: ignore[misc]
        ]
    steps = steps[order * 3 :] + steps[: order * 3]
    await outcomes(*(step(two[n % 2]) for n, step in enumerate(steps)))
    for booking_id in ids:
        while (await get(two[0], booking_id)).his_command != "none":
            await send_and_answer(two[0], hospital, booking_id)
    async with two[0].read(HOSPITAL) as tx:
        paid = await tx.all(select(payments))
        due = await tx.all(select(refunds))
        assert (
            len(await tx.all(select(bookings.c.id).where(bookings.c.state == "stopped")))
            + len(await tx.all(select(bookings.c.id).where(bookings.c.state == "cancelled")))
            == 3
        )
        told = await tx.all(select(events.c.id).where(events.c.type == "refund.changed"))
    assert sum(p["amount_fen"] for p in paid) == sum(r["amount_fen"] for r in due) == 7 * FEE_FEN
    assert len(told) == len(due) == 7
    assert await wrong(two[0]) == []
