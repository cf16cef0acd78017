"""A payment goes back in parts, and never more of it than there was. On both engines."""

from __future__ import annotations

import msgspec
import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from booking.billing import BillRow, SetAside, load_bill, pay_bill, put_bill, return_money, settle_payment
from booking.errors import Refusal
from booking.money import TooMuchReturned, find_payment, kept_payment, owe_refund, refunds_of
from booking.refunds import ask_refund, own_refund, report_refund, take_back
from booking.settings import Hospital
from booking.splits import save_split, split_of
from booking.store.engine import Store
from booking.store.tables import outbox, payments
from mappings.canonical import Bill, BillStatus, RefundAsked, Settlement
from tests.booking.world import (
    CLIENT,
    FEE_FEN,
    HOSPITAL,
    booked,
    cancel,
    get,
    locked,
    make_payment,
    owed,
    pay,
    put_patient,
    put_slot,
    send_and_answer,
)

pytestmark = pytest.mark.usefixtures("engine")
BILL = Bill(id="B1", amount_fen=8800, currency="CNY", mrn="M1")
ASKED = RefundAsked(bill_id="B1", mrn="M1")


def taken_back(**changes: object) -> RefundAsked:
    return msgspec.structs.replace(ASKED, **changes)


async def settled_bill(store: Store, *, settled: bool = True) -> BillRow:
    async with store.write(HOSPITAL) as tx:
        bill = await put_bill(tx, BILL, currency="CNY")
        await pay_bill(tx, bill, make_payment(8800, trade_no="T1"), client_id=CLIENT, offered=True)
        await tx.run(outbox.update().values(status="done"))
        if settled:
            await settle_payment(tx, bill, accepted=True, settlement=None, client_id=CLIENT, code=None)
    return bill


async def hear(store: Store, *asked: RefundAsked) -> None:
    for one in asked:
        async with store.write(HOSPITAL) as tx:
            await take_back(tx, one)


async def of_bill(store: Store, bill: BillRow) -> tuple[str, list[tuple[int, str]], int]:
    """The bill's status, its refunds, and what the payment says is returned."""
    async with store.read(HOSPITAL) as tx:
        seen, payment = await load_bill(tx, bill.id), await find_payment(tx, "wechat", "T1")
        assert seen is not None
        assert payment is not None
        owes = sorted((r["amount_fen"], r["reason"]) for r in await refunds_of(tx, bill_id=bill.id))
        return seen.status, owes, payment.returned_fen


# --- the HIS asks (6001, 5003) -----------------------------------------------------------------------------------------


async def test_part_falls_due_once_when_the_his_tells_it_twice(store: Store) -> None:
    bill, part = await settled_bill(store), taken_back(amount_fen=800, his_refund_no="F1")
    await hear(store, part, part, taken_back(amount_fen=800, his_refund_no="F2", trade_no="T1"))
    assert await of_bill(store, bill) == ("paid", [(800, "taken_back_by_his")] * 2, 1600)


@pytest.mark.parametrize("amount_fen", [None, 8800])
async def test_whole_bill_falls_due_once_when_the_his_tells_it_in_both_ways(
    store: Store, amount_fen: int | None
) -> None:
    bill = await settled_bill(store)
    whole = taken_back(amount_fen=amount_fen, his_refund_no="F1")
    await hear(store, whole, whole)
    async with store.write(HOSPITAL) as tx:
        await return_money(
            tx, await put_bill(tx, msgspec.structs.replace(BILL, status=BillStatus.CANCELLED), currency="CNY")
        )
    await hear(store, taken_back(his_refund_no="F9"))
    assert await of_bill(store, bill) == ("cancelled", [(8800, "bill_cancelled")], 8800)


async def test_rest_falls_due_when_a_bill_is_cancelled_of_which_a_part_has_gone_back(store: Store) -> None:
    bill = await settled_bill(store)
    await hear(store, taken_back(amount_fen=800, his_refund_no="F1"))
    async with store.write(HOSPITAL) as tx:
        await return_money(
            tx, await put_bill(tx, msgspec.structs.replace(BILL, status=BillStatus.CANCELLED), currency="CNY")
        )
    assert await of_bill(store, bill) == ("cancelled", [(800, "taken_back_by_his"), (8000, "bill_cancelled")], 8800)


@pytest.mark.parametrize("amount_fen", [None, 8800, 1000])
async def test_patients_share_falls_due_when_the_bill_of_which_it_is_one_is_taken_back(
    store: Store, amount_fen: int | None
) -> None:
    async with store.write(HOSPITAL) as tx:
        bill = await put_bill(tx, BILL, currency="CNY")
        split = split_of(BILL, Settlement(amount_fen=1000), now_ms=tx.now_ms, valid_s=60)
        await save_split(tx, bill.id, split)
        paid = msgspec.structs.replace(bill, split=split)
        await pay_bill(tx, paid, make_payment(1000, trade_no="T1"), client_id=CLIENT, offered=True)
        await tx.run(outbox.update().values(status="done"))
        await settle_payment(tx, bill, accepted=True, settlement=None, client_id=CLIENT, code=None)
    await hear(store, taken_back(amount_fen=amount_fen, his_refund_no="F1"))
    assert await of_bill(store, bill) == ("cancelled", [(1000, "bill_cancelled")], 1000)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (taken_back(amount_fen=800), "under no number"),
        (taken_back(amount_fen=8801, his_refund_no="F1"), "more is taken back"),
        (taken_back(mrn="M2"), "another patient"),
        (taken_back(trade_no="T9"), "not reported"),
        (taken_back(bill_id="B9", trade_no="T1"), "not reported"),
        (RefundAsked(order_no="9" * 20, trade_no="T1"), "not reported"),
    ],
)
async def test_nothing_falls_due_when_the_his_does_not_say_enough(store: Store, asked: RefundAsked, why: str) -> None:
    bill = await settled_bill(store)
    with pytest.raises(SetAside, match=why):
        await hear(store, asked)
    assert await of_bill(store, bill) == ("paid", [], 0)


async def test_nothing_falls_due_before_it_is_known_that_the_money_was_booked(store: Store) -> None:
    bill = await settled_bill(store, settled=False)
    with pytest.raises(SetAside, match="do not know yet"):
        await hear(store, ASKED)
    assert await of_bill(store, bill) == ("open", [], 0)


async def test_bill_is_cancelled_when_what_was_paid_at_the_window_is_taken_back(store: Store) -> None:
    async with store.write(HOSPITAL) as tx:
        bill = await put_bill(tx, msgspec.structs.replace(BILL, status=BillStatus.PAID), currency="CNY")
    await hear(store, RefundAsked(bill_id="B7"), RefundAsked(order_no="9" * 20))
    await hear(store, taken_back(amount_fen=8799))
    async with store.read(HOSPITAL) as tx:
        assert (await load_bill(tx, bill.id)).status == "paid"  # type: ignore[union-attr]
    await hear(store, taken_back(amount_fen=8800))
    async with store.read(HOSPITAL) as tx:
        assert (await load_bill(tx, bill.id)).status == "cancelled"  # type: ignore[union-attr]
        assert await refunds_of(tx, bill_id=bill.id) == []


async def test_visit_stands_when_some_of_its_fee_goes_back_and_the_rest_with_its_cancellation(
    store: Store, hospital: Hospital
) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    order_no = (await get(store, booking_id)).order_no
    await hear(store, RefundAsked(order_no=order_no, amount_fen=500, his_refund_no="F1"))
    seen = await get(store, booking_id)
    assert (seen.state, seen.payment_state) == ("booked", "refund_due")
    async with store.write(HOSPITAL) as tx:
        [row] = await refunds_of(tx, booking_id=booking_id)
        await report_refund(tx, row, word="refunded", refund_trade_no="R1")
    assert (await get(store, booking_id)).payment_state == "part_refunded"
    await cancel(store, hospital, booking_id)
    await send_and_answer(store, hospital, booking_id)
    assert await owed(store, booking_id) == [
        ("refund_due", FEE_FEN - 500, "patient"),
        ("refunded", 500, "taken_back_by_his"),
    ]
    assert (await get(store, booking_id)).payment_state == "refund_due"
    async with store.write(HOSPITAL) as tx:
        for row in await refunds_of(tx, booking_id=booking_id):
            await report_refund(tx, row, word="refunded", refund_trade_no=None)
    assert (await get(store, booking_id)).payment_state == "refunded"


# --- a portal asks -----------------------------------------------------------------------------------------------------


async def ask(store: Store, bill: BillRow, amount_fen: int, part: str) -> str:
    async with store.write(HOSPITAL) as tx:
        payment = await kept_payment(tx, bill_id=bill.id)
        return str((await ask_refund(tx, payment, amount_fen=amount_fen, reason="双方同意", part=part))["id"])


async def test_parts_fall_due_to_the_last_fen_and_not_beyond_when_a_portal_asks(store: Store) -> None:
    bill = await settled_bill(store)
    first = await ask(store, bill, 8000, "a")
    assert await ask(store, bill, 8000, "a") == first
    with pytest.raises(Refusal, match="refund_too_large") as refused:
        await ask(store, bill, 801, "b")
    assert refused.value.extra == {"left_fen": 800}
    assert await ask(store, bill, 800, "b") != first
    with pytest.raises(Refusal, match="refund_too_large"):
        await ask(store, bill, 1, "c")
    assert (await of_bill(store, bill))[2] == 8800


async def test_nothing_goes_back_when_the_hospital_has_not_booked_it(store: Store, hospital: Hospital) -> None:
    with pytest.raises(Refusal, match="nothing_to_refund"):
        await ask(store, await settled_bill(store, settled=False), 1, "a")
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    await pay(store, hospital, booking_id)
    async with store.write(HOSPITAL) as tx:
        payment = await kept_payment(tx, booking_id=booking_id)
        with pytest.raises(Refusal, match="nothing_to_refund"):
            await ask_refund(tx, payment, amount_fen=1, reason="r", part="a")
        with pytest.raises(Refusal, match="nothing_to_refund"):
            await ask_refund(tx, None, amount_fen=1, reason="r", part="a")


# --- the store ---------------------------------------------------------------------------------------------------------


async def test_store_refuses_when_more_of_a_payment_would_go_back_than_there_was(store: Store) -> None:
    """Whatever the rules say: the figure that every refund moves has a CHECK."""
    await settled_bill(store)
    for wrong in (8801, -1):
        with pytest.raises(IntegrityError):
            async with store.write(HOSPITAL) as tx:
                await tx.run(update(payments).values(returned_fen=wrong))
    async with store.write(HOSPITAL) as tx:
        payment = await find_payment(tx, "wechat", "T1")
        assert payment is not None
        with pytest.raises(TooMuchReturned):
            await owe_refund(tx, payment, client_id=CLIENT, reason="r", amount_fen=8801, part="a")
        assert payment.returned_fen == 0
        await owe_refund(tx, payment, client_id=CLIENT, reason="r", amount_fen=8800, part="a")
        assert await owe_refund(tx, payment, client_id=CLIENT, reason="r") is None  # nothing is left
        row = await tx.first(select(payments.c.returned_fen))
        assert row == {"returned_fen": 8800}


async def test_refund_of_a_part_is_finished_for_itself_when_the_portal_reports_it(store: Store) -> None:
    bill = await settled_bill(store)
    one, two = await ask(store, bill, 10, "a"), await ask(store, bill, 20, "b")
    async with store.write(HOSPITAL) as tx:
        await report_refund(tx, await own_refund(tx, CLIENT, one), word="unknown", refund_trade_no=None)
        await report_refund(tx, await own_refund(tx, CLIENT, two), word="refunded", refund_trade_no="R2")
        rows = {r["id"]: r["status"] for r in await refunds_of(tx, bill_id=bill.id)}
    assert rows == {one: "refund_unknown", two: "refunded"}
