"""What a HIS is told of refunds when it asks: by registration, by bill, of one payment."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from booking.billing import pay_bill, put_bill, return_money, settle_payment
from booking.money import refunds_of
from booking.refunds import report_refund
from booking.stops import apply_stop
from booking.store.engine import Store
from booking.store.tables import outbox
from connectors.port import Refused
from mappings.canonical import Bill, BillStatus, RefundQuestion, RefundState, RefundStatus, ScheduleStopped, StopScope
from scheduler_sync.questions import Questions
from tests.booking.world import CLIENT, HOSPITAL, booked, get, make_hospital, make_payment, put_patient, put_slot
from tests.stores import unreachable


async def asked(store: Store, **question: str) -> Sequence[RefundState]:
    found = await Questions(store, HOSPITAL).refunds(RefundQuestion(**question))
    assert not isinstance(found, Refused)
    return found


async def test_refund_of_a_registration_is_told_as_the_portal_has_reported_it(store: Store) -> None:
    hospital = make_hospital()
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    booking = await get(store, booking_id)
    assert await asked(store, order_no=booking.order_no) == []
    async with store.write(HOSPITAL) as tx:
        stop = ScheduleStopped(scope=StopScope.ORDER, order_no=booking.order_no)
        assert await apply_stop(tx, hospital, stop) == 1
    [due] = await asked(store, order_no=booking.order_no)
    assert (due.status, due.amount_fen, due.refund_trade_no) == (RefundStatus.DUE, booking.fee_fen, None)
    async with store.write(HOSPITAL) as tx:
        [row] = await refunds_of(tx, booking_id=booking_id)
        await report_refund(tx, row, word="refunded", refund_trade_no="R1")
    [done] = await asked(store, order_no=booking.order_no, trade_no=due.trade_no)
    assert (done.refund_no, done.status, done.refund_trade_no) == (due.refund_no, RefundStatus.REFUNDED, "R1")
    assert done.changed_at.tzinfo is dt.UTC
    assert await asked(store, order_no=booking.order_no, trade_no="another") == []
    assert await asked(store, order_no="20310303000000000099") == []


async def test_refund_of_a_bill_is_told_by_the_bills_number(store: Store) -> None:
    money = make_payment(8800)
    bill = Bill(id="B1", amount_fen=8800, currency="CNY", mrn="M1")
    async with store.write(HOSPITAL) as tx:
        row = await put_bill(tx, bill, currency="CNY")
        await pay_bill(tx, row, money, client_id=CLIENT, offered=True)
    async with store.write(HOSPITAL) as tx:
        await tx.run(outbox.update().values(status="done"))
        await settle_payment(tx, row, accepted=True, settlement=None, client_id=CLIENT, code=None)
    async with store.write(HOSPITAL) as tx:
        cancelled = Bill(id="B1", amount_fen=8800, currency="CNY", mrn="M1", status=BillStatus.CANCELLED)
        await return_money(tx, await put_bill(tx, cancelled, currency="CNY"))
    [due] = await asked(store, bill_id="B1")
    assert (due.status, due.amount_fen, due.channel, due.trade_no) == (
        "refund_due",
        8800,
        money.channel,
        money.trade_no,
    )
    assert await asked(store, bill_id="B2") == []
    assert await asked(store) == []


async def test_question_is_to_come_again_when_the_store_is_away(engine: str, tmp_path: Path) -> None:
    async with unreachable(engine, tmp_path) as gone:
        found = await Questions(gone, HOSPITAL).refunds(RefundQuestion(order_no="20310303000000000001"))
    assert isinstance(found, Refused)
    assert found.retryable
