"""What portals are told of their money: enough to keep its state without asking. On both engines."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import select

from booking.refunds import load_refund, note_his, report_refund
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import events
from tests.booking.world import (
    FEE_FEN,
    HOSPITAL,
    cancel,
    locked,
    make_payment,
    pay,
    put_patient,
    put_slot,
    send_and_answer,
)


async def told(store: Store, kind: str) -> list[dict[str, Any]]:
    """What the events of a kind say, oldest first."""
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(events.c.payload).where(events.c.type == kind).order_by(events.c.id))
    return [msgspec.json.decode(row["payload"]) for row in rows]


async def test_payment_is_told_when_it_is_reported_settled_or_cannot_be_used(store: Store, hospital: Hospital) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    await pay(store, hospital, booking_id, make_payment(FEE_FEN, trade_no="A"))
    await send_and_answer(store, hospital, booking_id)
    await pay(store, hospital, booking_id, make_payment(1, trade_no="B"))
    await pay(store, hospital, booking_id, make_payment(1, trade_no="B"))  # a repeat is no news
    of = {"channel": "wechat", "booking_id": booking_id, "bill_id": None}
    assert await told(store, "payment.changed") == [
        {**of, "trade_no": "A", "amount_fen": FEE_FEN, "settlement": "pending", "unusable": None},
        {**of, "trade_no": "A", "amount_fen": FEE_FEN, "settlement": "settled", "unusable": None},
        {**of, "trade_no": "B", "amount_fen": 1, "settlement": "none", "unusable": "second_payment"},
    ]


async def test_refund_is_told_when_it_is_done_and_when_the_his_knows_of_it(store: Store, hospital: Hospital) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    await pay(store, hospital, booking_id, make_payment(FEE_FEN, trade_no="A"))
    await send_and_answer(store, hospital, booking_id)
    await cancel(store, hospital, booking_id)
    await send_and_answer(store, hospital, booking_id)
    refund_id = (await told(store, "refund.changed"))[0]["refund_id"]
    async with store.write(HOSPITAL) as tx:
        row = await load_refund(tx, refund_id)
        assert row is not None
        await report_refund(tx, row, word="refunded", refund_trade_no="R", tells_his=True)
    for _ in range(2):
        async with store.write(HOSPITAL) as tx:
            await note_his(tx, refund_id, "told")
    seen = await told(store, "refund.changed")
    assert [(one["status"], one["refund_trade_no"], one["his"]) for one in seen] == [
        ("refund_due", None, "none"), ("refunded", "R", "pending"), ("refunded", "R", "told"),
    ]  # fmt: skip
    assert {(one["channel"], one["trade_no"], one["amount_fen"], one["reason"]) for one in seen} == {
        ("wechat", "A", FEE_FEN, "patient")
    }
