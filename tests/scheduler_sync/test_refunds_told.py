"""The HIS is told of money that has gone back: once, whatever becomes of its answers. On both engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking.billing import load_bill, pay_bill, put_bill, settle_payment
from booking.money import kept_payment, owe_refund, refunds_of
from booking.open_refunds import UNTOLD, book_by_hand, open_refunds
from booking.refunds import ask_refund, load_refund, report_refund, take_back
from booking.settings import Hospital
from booking.stops import carry_stop
from booking.store.engine import Store
from booking.store.tables import events, outbox
from connectors.port import Verb
from mappings.canonical import Bill, RefundAsked, RegistrationStatus, ScheduleStopped, StopScope
from monitoring import metrics
from scheduler_sync.attention import settle_dead
from scheduler_sync.truth import Truth
from tests.booking.world import (
    CLIENT,
    FEE_FEN,
    HOSPITAL,
    answer,
    booked,
    cancel,
    commands,
    get,
    locked,
    make_payment,
    pay,
    put_patient,
    put_slot,
    send,
    send_and_answer,
)
from tests.scheduler_sync.peer import Desk, Peer, desk, lose_reply, lose_request, refuse
from tests.stores import Wall

pytestmark = pytest.mark.usefixtures("engine")
REFUND, LOOK = Verb.REFUND, Verb.FETCH_REFUND


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
async def at(store: Store, hospital: Hospital, peer: Peer, wall: Wall) -> AsyncIterator[Desk]:
    """Closed: a test opens it when its world is ready."""
    it = Desk(store, hospital, peer, wall)
    try:
        yield it
    finally:
        await it.die()


async def cancelled(store: Store, hospital: Hospital) -> str:
    """A booking that was registered, paid and given back."""
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    await cancel(store, hospital, booking_id)
    await send_and_answer(store, hospital, booking_id)
    return booking_id


async def report(store: Store, word: str = "refunded", **of: Any) -> str:
    """The portal's word on the only refund; its id."""
    async with store.write(HOSPITAL) as tx:
        [row] = await refunds_of(tx, **of)
        await report_refund(tx, row, word=word, refund_trade_no="R1", tells_his=True)
    return str(row["id"])


async def his(at: Desk, refund_id: str) -> str:
    async with at.store.read(HOSPITAL) as tx:
        row = await load_refund(tx, refund_id)
    assert row is not None
    return str(row["his"])


async def test_his_is_told_once_when_the_money_is_back(at: Desk) -> None:
    booking_id = await cancelled(at.store, at.hospital)
    for word in ("refunding", "unknown", "failed"):
        refund_id = await report(at.store, word, booking_id=booking_id)
        assert (await his(at, refund_id), await commands(at.store, f"refund:{refund_id}")) == ("none", [])
    for _ in range(2):
        await report(at.store, booking_id=booking_id)
    assert await his(at, refund_id) == "pending"
    at.open()
    await at.until_row(f"refund:{refund_id}", status="done")
    assert await his(at, refund_id) == "told"
    [told] = at.peer.refunded.values()
    assert (told.refund.refund_no, told.refund.amount_fen, told.refund.reason) == (refund_id, FEE_FEN, "patient")
    assert told.order is not None
    assert told.order.order_no == (await get(at.store, booking_id)).order_no
    assert at.peer.calls(REFUND, LOOK) == ["refund"]


async def test_his_is_told_when_the_money_was_back_before_it_was_known_that_the_his_had_booked_it(at: Desk) -> None:
    store, hospital = at.store, at.hospital
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    await pay(store, hospital, booking_id)
    await send(store, booking_id)  # its registration is under way when the clinic is stopped
    stop = ScheduleStopped(scope=StopScope.ORDER, order_no=(await get(store, booking_id)).order_no)
    await carry_stop(store, hospital, stop)
    refund_id = await report(store, booking_id=booking_id)
    assert (await his(at, refund_id), await commands(store, f"refund:{refund_id}")) == ("none", [])
    await answer(store, hospital, booking_id)
    assert (await his(at, refund_id), await commands(store, f"refund:{refund_id}")) == (
        "pending",
        [("refund", "queued")],
    )
    async with store.read(HOSPITAL) as tx:
        told = await tx.all(select(events).where(events.c.type == "refund.changed").order_by(events.c.id))
    assert [msgspec.json.decode(one["payload"])["his"] for one in told] == ["none", "none", "pending"]
    await send_and_answer(store, hospital, booking_id)  # the registration is given back
    at.open()
    await at.until_row(f"refund:{refund_id}", status="done")
    assert (await his(at, refund_id), at.peer.calls(REFUND)) == ("told", ["refund"])


async def his_and_code(at: Desk, refund_id: str) -> tuple[str, str | None]:
    async with at.store.read(HOSPITAL) as tx:
        row = await load_refund(tx, refund_id)
    assert row is not None
    return row["his"], row["his_code"]


async def test_refund_is_looked_up_and_not_told_again_when_its_reply_was_lost(at: Desk) -> None:
    refund_id = await report(at.store, booking_id=await cancelled(at.store, at.hospital))
    at.peer.script(REFUND, lose_reply)
    at.open()
    await at.until_row(f"refund:{refund_id}", status="unknown")
    assert await his(at, refund_id) == "unknown"
    at.turn(1)
    await at.until_row(f"refund:{refund_id}", status="done")
    assert await his(at, refund_id) == "told"
    assert at.peer.calls(REFUND, LOOK) == ["refund", "fetch_refund"]


async def test_refund_is_told_again_when_the_his_has_not_heard_of_it_on_two_looks(at: Desk) -> None:
    refund_id = await report(at.store, booking_id=await cancelled(at.store, at.hospital))
    line = f"refund:{refund_id}"
    at.peer.script(REFUND, lose_request)
    at.open()
    await at.until_row(line, status="unknown")
    at.turn(1)
    await at.until_row(line, looks=1)
    assert at.peer.calls(REFUND) == ["refund"]
    at.turn(31)
    await at.until_row(line, status="done")
    assert at.peer.calls(REFUND, LOOK) == ["refund", "fetch_refund", "fetch_refund", "refund"]
    assert (await his(at, refund_id), len(at.peer.refunded)) == ("told", 1)


@pytest.mark.parametrize("code", ["already_done", "already_exists"])
async def test_refund_is_told_when_the_his_says_that_it_was_made_before(at: Desk, code: str) -> None:
    refund_id = await report(at.store, booking_id=await cancelled(at.store, at.hospital))
    at.peer.script(REFUND, refuse(code))
    at.open()
    await at.until_row(f"refund:{refund_id}", status="done")
    assert (await his(at, refund_id), at.peer.calls(REFUND, LOOK)) == ("told", ["refund"])


@pytest.mark.parametrize(
    ("code", "shown"), [("price_changed", ("rejected", "price_changed")), ("not_offered", ("none", None))]
)
async def test_money_stays_back_when_the_his_refuses_to_hear_of_it(
    at: Desk, code: str, shown: tuple[str, str | None]
) -> None:
    booking_id = await cancelled(at.store, at.hospital)
    refund_id = await report(at.store, booking_id=booking_id)
    at.peer.script(REFUND, refuse(code))
    at.open()
    await at.until_row(f"refund:{refund_id}", status="done")
    assert await his_and_code(at, refund_id) == shown
    assert (await get(at.store, booking_id)).payment_state == "refunded"


async def test_his_is_told_after_the_cancellation_when_that_is_under_way(at: Desk) -> None:
    """The message for a refund releases the visit at many a HIS: never before our own command has ended."""
    booking_id = await booked(at.store, at.hospital, await put_slot(at.store), await put_patient(at.store))
    order_no = (await get(at.store, booking_id)).order_no
    await at_the_his(at, order_no)
    async with at.store.write(HOSPITAL) as tx:  # the portal may pay back a stop at once
        payment = await kept_payment(tx, booking_id=booking_id)
        assert payment is not None
        await owe_refund(tx, payment, client_id=CLIENT, reason="schedule_stopped")
    await cancel(at.store, at.hospital, booking_id)
    refund_id = await report(at.store, booking_id=booking_id)
    at.open()
    await at.until_row(f"refund:{refund_id}", status="done")
    assert [v for v in at.peer.calls() if v in ("cancel_registration", "refund")] == ["cancel_registration", "refund"]
    assert await his(at, refund_id) == "told"


async def at_the_his(at: Desk, order_no: str) -> None:
    """What the tests' own world has settled without the peer."""
    at.peer.orders[order_no] = RegistrationStatus.REGISTERED


async def test_visit_that_stands_is_not_released_when_its_whole_fee_went_back(at: Desk) -> None:
    booking_id = await booked(at.store, at.hospital, await put_slot(at.store), await put_patient(at.store))
    async with at.store.write(HOSPITAL) as tx:
        payment = await kept_payment(tx, booking_id=booking_id)
        await ask_refund(tx, payment, amount_fen=FEE_FEN, reason="r", part="a")
    refund_id = await report(at.store, booking_id=booking_id)
    at.open()
    await at.until_row(f"refund:{refund_id}", status="done")
    assert (await his_and_code(at, refund_id), at.peer.calls(REFUND)) == (("rejected", "still_registered"), [])
    assert (await get(at.store, booking_id)).state == "booked"


async def settled_bill(store: Store) -> str:
    async with store.write(HOSPITAL) as tx:
        bill = await put_bill(tx, Bill(id="B1", amount_fen=8800, currency="CNY", mrn="M1"), currency="CNY")
        await pay_bill(tx, bill, make_payment(8800), client_id=CLIENT, offered=True)
        await tx.run(outbox.update().values(status="done"))
        await settle_payment(tx, bill, accepted=True, settlement=None, client_id=CLIENT, code=None)
    return bill.id


async def test_his_is_told_of_each_part_of_a_bill_that_a_portal_gives_back(at: Desk) -> None:
    bill_id = await settled_bill(at.store)
    async with at.store.write(HOSPITAL) as tx:
        for part, amount in (("a", 800), ("b", 1)):
            payment = await kept_payment(tx, bill_id=bill_id)
            row = await ask_refund(tx, payment, amount_fen=amount, reason="r", part=part)
            await report_refund(tx, row, word="refunded", refund_trade_no=part, tells_his=True)
    at.open()
    await at.until_seen(REFUND, 2)
    await at.until_row(f"refund:{row['id']}", status="done")
    assert sorted(told.refund.amount_fen for told in at.peer.refunded.values()) == [1, 800]
    assert all(told.order is None and told.bill is not None for told in at.peer.refunded.values())


async def test_his_is_not_told_of_money_that_it_never_had_or_took_back_itself(at: Desk) -> None:
    booking_id = await booked(at.store, at.hospital, await put_slot(at.store), await put_patient(at.store))
    await pay(at.store, at.hospital, booking_id)  # a second payment
    unusable = await report(at.store, booking_id=booking_id)
    bill_id = await settled_bill(at.store)
    async with at.store.write(HOSPITAL) as tx:
        await take_back(tx, RefundAsked(bill_id="B1", amount_fen=100, his_refund_no="F1"))
        assert await load_bill(tx, bill_id) is not None
    taken = await report(at.store, bill_id=bill_id)
    assert [await his(at, one) for one in (unusable, taken)] == ["none", "none"]
    assert [await commands(at.store, f"refund:{one}") for one in (unusable, taken)] == [[], []]


async def test_person_settles_it_when_the_his_cannot_be_asked(store: Store, hospital: Hospital, wall: Wall) -> None:
    refund_id = await report(store, booking_id=await cancelled(store, hospital))
    peer = Peer(off=[LOOK])
    peer.script(REFUND, lose_reply)
    async with desk(store, hospital, peer, wall) as at:
        await at.until_row(f"refund:{refund_id}", status="unknown")
        at.turn(1)
        row = await at.until_row(f"refund:{refund_id}", status="dead")
        assert await settle_dead(store, hospital, row["id"], "accepted")
        assert (await his(at, refund_id), peer.calls(REFUND)) == ("told", ["refund"])


async def part_of_bill_back(store: Store, *, tells_his: bool) -> str:
    """A portal has given back 800 fen of a settled bill; the refund's id."""
    bill_id = await settled_bill(store)
    async with store.write(HOSPITAL) as tx:
        payment = await kept_payment(tx, bill_id=bill_id)
        row = await ask_refund(tx, payment, amount_fen=800, reason="r", part="a")
        await report_refund(tx, row, word="refunded", refund_trade_no="R1", tells_his=tells_his)
    return str(row["id"])


@pytest.mark.parametrize("tells_his", [True, False], ids=["refused_there", "no_message"])
async def test_refunded_bill_waits_for_a_person_when_the_his_cannot_be_told_of_bills(at: Desk, tells_his: bool) -> None:
    refund_id = await part_of_bill_back(at.store, tells_his=tells_his)
    at.peer.script(REFUND, refuse("not_offered"))
    at.open()
    if tells_his:
        await at.until_row(f"refund:{refund_id}", status="done")
    assert await his_and_code(at, refund_id) == ("rejected", "not_offered_by_hospital")
    assert await untold(at) == (0, {"pending": 0, "unknown": 0, "rejected": 1})
    async with at.store.read(HOSPITAL) as tx:
        assert [row["id"] for row in await open_refunds(tx, client_id=CLIENT)] == [refund_id]
        assert await open_refunds(tx, client_id="another") == []
    async with at.store.write(HOSPITAL) as tx:
        assert not await book_by_hand(tx, "rf_x")
        assert await book_by_hand(tx, refund_id)
        assert not await book_by_hand(tx, refund_id)
    assert await his(at, refund_id) == "told"
    assert await untold(at) == (0, {"pending": 0, "unknown": 0, "rejected": 0})


async def untold(at: Desk) -> tuple[float | None, dict[str, float | None]]:
    """What the metrics say: refunds owed, and those untold by what the HIS knows."""
    await Truth(at.store, at.hospital).measure()

    def value(name: str, **labels: str) -> float | None:
        return metrics.REGISTRY.get_sample_value(f"hisbridge_{name}", {"hospital": HOSPITAL, **labels})

    return value("refunds_owed"), {word: value("refunds_untold", his=word) for word in UNTOLD}


async def test_refund_is_owed_with_its_age_until_the_portal_has_carried_it_out(at: Desk) -> None:
    booking_id = await cancelled(at.store, at.hospital)
    at.wall.turn(50)
    for word in ("refunding", "unknown", "failed"):
        await report(at.store, word, booking_id=booking_id)
        assert await untold(at) == (1, dict.fromkeys(UNTOLD, 0))
    age = {"hospital": HOSPITAL}
    assert metrics.REGISTRY.get_sample_value("hisbridge_refunds_owed_oldest_seconds", age) == 50
    refund_id = await report(at.store, booking_id=booking_id)
    assert await untold(at) == (0, {"pending": 1, "unknown": 0, "rejected": 0})
    at.open()
    await at.until_row(f"refund:{refund_id}", status="done")
    assert await untold(at) == (0, dict.fromkeys(UNTOLD, 0))
    assert metrics.REGISTRY.get_sample_value("hisbridge_refunds_owed_oldest_seconds", age) == 0
