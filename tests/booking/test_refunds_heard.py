"""A HIS that tells of a bill's refund (12320 6001) which a portal began: it is that one, and no fen goes back twice."""

from __future__ import annotations

import msgspec
import pytest
from sqlalchemy import select

from booking.billing import BillRow, load_bill, pay_bill, put_bill, settle_payment
from booking.money import find_payment, kept_payment, refunds_of
from booking.open_refunds import book_by_hand, count_open
from booking.refunds import ask_refund, load_refund, report_refund, take_back
from booking.store.engine import Store
from booking.store.tables import events, outbox
from mappings.canonical import Bill, RefundAsked
from tests.booking.world import CLIENT, HOSPITAL, make_payment

pytestmark = pytest.mark.usefixtures("engine")
BILL = Bill(id="B1", amount_fen=8800, currency="CNY", mrn="M1")


async def settled_bill(store: Store) -> BillRow:
    async with store.write(HOSPITAL) as tx:
        bill = await put_bill(tx, BILL, currency="CNY")
        await pay_bill(tx, bill, make_payment(8800, trade_no="T1"), client_id=CLIENT, offered=True)
        await tx.run(outbox.update().values(status="done"))
        await settle_payment(tx, bill, accepted=True, settlement=None, client_id=CLIENT, code=None)
    return bill


async def asks(store: Store, bill: BillRow, amount_fen: int, part: str) -> str:
    """The portal gives a part back; the refund's id."""
    async with store.write(HOSPITAL) as tx:
        payment = await kept_payment(tx, bill_id=bill.id)
        row = await ask_refund(tx, payment, amount_fen=amount_fen, reason="by_portal", part=part)
    return str(row["id"])


async def reports(store: Store, refund_id: str, *, tells_his: bool = False) -> None:
    """It has carried it out, at a hospital without a message for it."""
    async with store.write(HOSPITAL) as tx:
        row = await load_refund(tx, refund_id)
        assert row is not None
        await report_refund(tx, row, word="refunded", refund_trade_no=f"R{refund_id[-4:]}", tells_his=tells_his)


async def hear(store: Store, number: str, amount_fen: int | None = 800, times: int = 2) -> None:
    """The HIS calls, and again."""
    for _ in range(times):
        async with store.write(HOSPITAL) as tx:
            await take_back(tx, RefundAsked(bill_id="B1", mrn="M1", amount_fen=amount_fen, his_refund_no=number))


async def shown(store: Store, bill: BillRow) -> list[tuple[int, str, str]]:
    async with store.read(HOSPITAL) as tx:
        rows = await refunds_of(tx, bill_id=bill.id)
    return sorted((row["amount_fen"], row["status"], row["his"]) for row in rows)


async def returned(store: Store) -> int:
    async with store.read(HOSPITAL) as tx:
        payment = await find_payment(tx, "wechat", "T1")
    assert payment is not None
    return payment.returned_fen


@pytest.mark.parametrize("by_hand", [False, True])
async def test_refund_of_a_portal_is_ended_when_the_his_tells_that_it_was_booked(store: Store, by_hand: bool) -> None:
    bill = await settled_bill(store)
    refund_id = await asks(store, bill, 800, "p1")
    await reports(store, refund_id)
    assert await shown(store, bill) == [(800, "refunded", "rejected")]
    if by_hand:  # somebody has said so before the call comes
        async with store.write(HOSPITAL) as tx:
            assert await book_by_hand(tx, refund_id)
    await hear(store, "F1")
    assert (await shown(store, bill), await returned(store)) == ([(800, "refunded", "told")], 800)
    async with store.read(HOSPITAL) as tx:
        assert (await count_open(tx)).untold["rejected"] == 0
        told = await tx.all(select(events.c.payload).where(events.c.type == "refund.changed").order_by(events.c.id))
    assert msgspec.json.decode(told[-1]["payload"])["his"] == "told"
    # Another one of the same amount is another one.
    await hear(store, "F2")
    assert (await shown(store, bill), await returned(store)) == (
        [(800, "refund_due", "none"), (800, "refunded", "told")], 1600,
    )  # fmt: skip


async def test_refund_that_is_not_carried_out_yet_is_the_one_that_the_his_tells(store: Store) -> None:
    """The window books it while the portal is at it: once it is done, the HIS knows of it already."""
    bill = await settled_bill(store)
    refund_id = await asks(store, bill, 800, "p1")
    await hear(store, "F1")
    assert (await shown(store, bill), await returned(store)) == ([(800, "refund_due", "none")], 800)
    await reports(store, refund_id, tells_his=True)
    assert await shown(store, bill) == [(800, "refunded", "told")]
    async with store.read(HOSPITAL) as tx:
        assert await tx.all(select(outbox.c.id).where(outbox.c.verb == "refund")) == []  # nothing to tell


async def test_each_call_is_for_one_refund_when_two_are_of_the_same_amount(store: Store) -> None:
    bill = await settled_bill(store)
    for part in ("p1", "p2"):
        await reports(store, await asks(store, bill, 800, part))
    await hear(store, "F1")
    assert await shown(store, bill) == [(800, "refunded", "rejected"), (800, "refunded", "told")]
    await hear(store, "F2")
    assert (await shown(store, bill), await returned(store)) == ([(800, "refunded", "told")] * 2, 1600)


async def test_another_amount_is_another_refund(store: Store) -> None:
    bill = await settled_bill(store)
    await reports(store, await asks(store, bill, 800, "p1"))
    await hear(store, "F1", 700)
    assert (await shown(store, bill), await returned(store)) == (
        [(700, "refund_due", "none"), (800, "refunded", "rejected")], 1500,
    )  # fmt: skip


@pytest.mark.parametrize("amount_fen", [None, 8800])
async def test_whole_bill_is_ended_when_the_his_tells_that_it_was_booked(store: Store, amount_fen: int | None) -> None:
    bill = await settled_bill(store)
    await reports(store, await asks(store, bill, 8800, "all"))
    await hear(store, "F1", amount_fen)
    assert (await shown(store, bill), await returned(store)) == ([(8800, "refunded", "told")], 8800)
    async with store.read(HOSPITAL) as tx:
        seen = await load_bill(tx, bill.id)
    assert seen is not None
    assert seen.status == "cancelled"


async def test_part_that_the_his_took_back_itself_is_never_taken_for_another(store: Store) -> None:
    """F1 is owed and carried out; F2 of the same amount is another part."""
    bill = await settled_bill(store)
    await hear(store, "F1")
    async with store.read(HOSPITAL) as tx:
        [row] = await refunds_of(tx, bill_id=bill.id)
    await reports(store, row["id"])
    await hear(store, "F2")
    assert (await shown(store, bill), await returned(store)) == (
        [(800, "refund_due", "none"), (800, "refunded", "none")], 1600,
    )  # fmt: skip
