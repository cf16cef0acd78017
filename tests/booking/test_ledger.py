"""The ledger: every fen that was reported stands in exactly one place, whatever happens to it and however often."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from booking.errors import Refusal
from booking.ledger import Balance, Imbalance, balances, expected_of, imbalances, post_received, post_refunded
from booking.money import find_payment, owe_refund, record_payment, reject_settlement, set_settlement
from booking.refunds import report_refund
from booking.settings import Hospital
from booking.store.engine import Store, Tx
from booking.store.tables import ledger, payments, refunds
from tests.booking.world import (
    FEE_FEN,
    HOSPITAL,
    booked,
    cancel,
    make_payment,
    pay,
    put_patient,
    put_slot,
    send_and_answer,
)
from tests.stores import UrlOf, opened

_numbers = itertools.count(1)
WORDS = ("refunding", "refunded", "unknown", "failed")
DOINGS = st.sampled_from(["pending", "settled", "rejected", "unknown", "reject", "owe", *WORDS, "again"])
HISTORY = st.lists(
    st.tuples(
        st.sampled_from(["wechat", "alipay"]), st.integers(1, 10**9), st.booleans(), st.lists(DOINGS, max_size=6)
    ),
    min_size=1,
    max_size=4,
)


class Lost(Exception):
    """The process died before the commit."""


async def held_in(store: Store) -> dict[tuple[str, str], int]:
    async with store.read(HOSPITAL) as tx:
        return {(b.account, b.channel): b.amount_fen for b in await balances(tx)}


async def faults(store: Store) -> list[Imbalance]:
    return [one async for one in imbalances(store, HOSPITAL)]


async def do(tx: Tx, channel: str, trade_no: str, doing: str) -> None:
    """One thing that happens to a payment, if it can."""
    payment = await find_payment(tx, channel, trade_no)
    assert payment is not None
    match doing:
        case "pending" | "settled" | "unknown":
            if payment.kept and payment.settlement != "settled":
                await set_settlement(tx, payment, doing)
        case "rejected":
            if payment.settlement != "settled":
                await set_settlement(tx, payment, doing)
        case "reject":
            if payment.settlement != "settled":
                await reject_settlement(tx, payment)
        case "owe" | "again":
            await owe_refund(tx, payment, client_id="c", reason="patient")
        case _:
            row = await tx.first(
                select(refunds).where(
                    refunds.c.hospital_id == HOSPITAL, refunds.c.channel == channel, refunds.c.trade_no == trade_no
                )
            )
            if row is not None:
                await report_refund(tx, row, word=doing, refund_trade_no=None)


async def live_through(store: Store, history: list[tuple[str, int, bool, list[str]]]) -> int:
    """Everything is tried in a transaction that is lost, and then done twice; returns what was paid."""
    paid = 0
    for channel, amount_fen, usable, doings in history:
        n = next(_numbers)
        trade_no = f"T{n}"
        payment = make_payment(amount_fen, trade_no=trade_no, channel=channel)
        async with store.write(HOSPITAL) as tx:
            unusable = None if usable else "wrong_amount"
            await record_payment(tx, payment, client_id="c", bill_id=f"b{n}", unusable=unusable)
        paid += amount_fen
        for doing in doings:
            for lost in (True, False):
                try:
                    async with store.write(HOSPITAL) as tx:
                        await do(tx, channel, trade_no, doing)
                        await do(tx, channel, trade_no, doing)
                        if lost:
                            raise Lost
                except (Lost, Refusal):
                    pass
    return paid


def test_money_in_is_where_the_books_say_when_anything_happens(database: UrlOf) -> None:
    """In one database for all examples: what happened in earlier ones must still balance."""
    with asyncio.Runner() as runner:
        opening = opened(database("store"))
        store = runner.run(opening.__aenter__())

        @given(history=HISTORY)
        def lives(history: list[tuple[str, int, bool, list[str]]]) -> None:
            runner.run(_lives(store, history))

        try:
            lives()
        finally:
            runner.run(opening.__aexit__(None, None, None))


async def _lives(store: Store, history: list[tuple[str, int, bool, list[str]]]) -> None:
    before = await held_in(store)
    paid = await live_through(store, history)
    assert await faults(store) == []
    after = await held_in(store)
    held = sum(fen for (account, _), fen in after.items() if account == "merchant_clearing")
    owed = sum(fen for (account, _), fen in after.items() if account != "merchant_clearing")
    assert held == owed  # settled + pending + to be returned: all of what the channels hold for us
    assert all(fen >= 0 for fen in after.values())
    async with store.read(HOSPITAL) as tx:
        returned = await tx.all(
            select(refunds.c.amount_fen).where(refunds.c.hospital_id == HOSPITAL, refunds.c.status == "refunded")
        )
        all_paid = await tx.all(select(payments.c.amount_fen).where(payments.c.hospital_id == HOSPITAL))
    assert held + sum(row["amount_fen"] for row in returned) == sum(row["amount_fen"] for row in all_paid) >= paid
    assert before.keys() <= after.keys()


async def test_visit_is_in_the_books_when_it_is_paid_settled_cancelled_and_refunded(
    store: Store, hospital: Hospital
) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    assert await held_in(store) == {
        ("merchant_clearing", "wechat"): FEE_FEN, ("receipts", "wechat"): 0, ("his_settlement", "wechat"): FEE_FEN,
    }  # fmt: skip
    await cancel(store, hospital, booking_id)
    await send_and_answer(store, hospital, booking_id)
    assert (await held_in(store))["refunds_payable", "wechat"] == FEE_FEN
    async with store.write(HOSPITAL) as tx:
        row = await tx.first(select(refunds).where(refunds.c.hospital_id == HOSPITAL))
        assert row is not None
        await report_refund(tx, row, word="refunded", refund_trade_no="R1")
    assert set((await held_in(store)).values()) == {0}
    assert await faults(store) == []


async def test_posting_changes_nothing_when_it_is_made_twice(store: Store) -> None:
    for _ in range(2):
        async with store.write(HOSPITAL) as tx:
            await post_received(tx, "wechat", "T1", 700)
    async with store.write(HOSPITAL) as tx:
        await post_received(tx, "wechat", "T1", 701)  # nor does another amount under the same key
        await post_refunded(tx, "wechat", "T1", 200, refund_id="rf_1")
    async with store.read(HOSPITAL) as tx:
        assert await balances(tx) == [
            Balance("merchant_clearing", "wechat", 500), Balance("receipts", "wechat", 700),
            Balance("refunds_payable", "wechat", -200),
        ]  # fmt: skip
    async with store.read("another") as tx:
        assert await balances(tx) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount_fen": 0},
        {"amount_fen": -1},
        {"debit": "receipts"},
        {"credit": "merchant_clearing"},
        {"entry": "gift"},
        {"entry": "refund_due"},
        {"refund_id": "rf_1"},
    ],
    ids=str,
)
async def test_store_refuses_an_entry_that_is_none(store: Store, wrong: dict[str, object]) -> None:
    row = {
        "hospital_id": HOSPITAL, "channel": "wechat", "trade_no": "T1", "entry": "received", "refund_id": "",
        "debit": "merchant_clearing", "credit": "receipts", "amount_fen": 1, "at_ms": 1,
    }  # fmt: skip
    with pytest.raises(IntegrityError):
        async with store.write(HOSPITAL) as tx:
            await tx.run(insert(ledger), {**row, **wrong})


async def test_payment_is_named_when_its_ledger_is_not_what_its_records_say(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store)
    first = await booked(store, hospital, slot_id, await put_patient(store))
    assert await faults(store) == []
    async with store.write(HOSPITAL) as tx:
        await tx.run(delete(ledger).where(ledger.c.hospital_id == HOSPITAL, ledger.c.entry == "settled"))
        row = await tx.first(select(payments.c.trade_no).where(payments.c.booking_id == first))
    assert row is not None
    of = {"channel": "wechat", "trade_no": row["trade_no"]}
    assert await faults(store) == [
        Imbalance(**of, account="receipts", ledger_fen=FEE_FEN, records_fen=0),
        Imbalance(**of, account="his_settlement", ledger_fen=0, records_fen=FEE_FEN),
    ]
    async with store.write(HOSPITAL) as tx:
        await tx.run(update(payments).where(payments.c.hospital_id == HOSPITAL).values(settlement="pending"))
    assert await faults(store) == []


async def test_all_payments_are_looked_through_when_there_are_many(store: Store) -> None:
    rows = [
        {
            "hospital_id": HOSPITAL, "channel": channel, "trade_no": f"T{n:04}", "client_id": "c", "bill_id": f"{channel}{n}",
            "amount_fen": 5, "paid_at_ms": 1, "kept": True, "settlement": "pending", "created_ms": 1,
        }
        for channel in ("alipay", "wechat")
        for n in range(600)
    ]  # fmt: skip
    async with store.write(HOSPITAL) as tx:
        await tx.run(insert(payments), rows)
    found = await faults(store)  # none has an entry
    assert len({(one.channel, one.trade_no) for one in found}) == 1_000 // 2
    assert len([one async for one in imbalances(store, HOSPITAL, limit=10_000)]) == 2 * 1_200


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # amount, settlement, due, refunded -> clearing, receipts, at the HIS, payable
        ((100, "none", 100, 0), (100, 0, 0, 100)),
        ((100, "pending", 0, 0), (100, 100, 0, 0)),
        ((100, "settled", 0, 0), (100, 0, 100, 0)),
        ((100, "settled", 30, 10), (90, 0, 70, 20)),
        ((100, "rejected", 100, 100), (0, 0, 0, 0)),
    ],
)
def test_accounts_follow_from_the_records(row: tuple[int, str, int, int], expected: tuple[int, ...]) -> None:
    given_row = dict(zip(("amount_fen", "settlement", "due", "refunded"), row, strict=True))
    assert tuple(expected_of(given_row).values()) == expected


async def test_second_payment_goes_back_from_receipts_when_it_was_never_settled(
    store: Store, hospital: Hospital
) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    await pay(store, hospital, booking_id, make_payment(channel="alipay"))
    held = await held_in(store)
    assert (held["receipts", "alipay"], held["refunds_payable", "alipay"]) == (0, FEE_FEN)
    assert held["his_settlement", "wechat"] == FEE_FEN
