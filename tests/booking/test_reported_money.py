"""What becomes of money that a portal reports: the table of the API guide, case by case. On both engines."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import update

from booking.billing import bill_key, load_bill, pay_bill, put_bill
from booking.bookings import expire_due, hear_registration
from booking.errors import Refusal
from booking.money import PaymentRow, kept_payment, refunds_of
from booking.moves import load_booking
from booking.settings import Hospital
from booking.splits import save_split, split_of
from booking.store.engine import Store
from booking.store.tables import bookings
from mappings.canonical import Bill, BillStatus, Registration, RegistrationStatus, Settlement
from tests.booking.world import (
    CLIENT,
    FEE_FEN,
    HOSPITAL,
    booked,
    cancel,
    hold,
    locked,
    make_payment,
    make_schedule,
    pay,
    put_patient,
    put_slot,
    send_and_answer,
)
from tests.stores import Wall

pytestmark = pytest.mark.usefixtures("engine")
GUIDE = Path(__file__).parents[2] / "docs" / "api-guide.md"
BILL = Bill(id="B1", amount_fen=8800, currency="CNY", mrn="M1")
VALID_S = 1800.0


class World:
    """A store with a hospital, where money is reported for one thing after the other."""

    def __init__(self, store: Store, hospital: Hospital, wall: Wall) -> None:
        self.store, self.hospital, self.wall = store, hospital, wall

    async def put(self, **changes: Any) -> str:
        async with self.store.write(HOSPITAL) as tx:
            return (await put_bill(tx, msgspec.structs.replace(BILL, **changes), currency="CNY")).id

    async def for_bill(self, amount_fen: int = 8800, **money: Any) -> PaymentRow:
        offered = money.pop("offered", True)
        async with self.store.write(HOSPITAL) as tx:
            bill = await load_bill(tx, bill_key(HOSPITAL, BILL.id))
            assert bill is not None
            return await pay_bill(tx, bill, make_payment(amount_fen, **money), client_id=CLIENT, offered=offered)

    async def split(self, **told: Any) -> None:
        async with self.store.write(HOSPITAL) as tx:
            made = split_of(BILL, Settlement(**told), now_ms=tx.now_ms, valid_s=VALID_S)
            await save_split(tx, bill_key(HOSPITAL, BILL.id), made)

    async def seat(self, *, free: bool = False) -> tuple[str, str]:
        slot = await put_slot(self.store, 1, schedule=make_schedule(fee_fen=0) if free else None)
        return slot, await put_patient(self.store)

    async def expired(self) -> str:
        slot, patient = await self.seat()
        booking_id = await locked(self.store, self.hospital, slot, patient)
        self.wall.turn(901)
        async with self.store.write(HOSPITAL) as tx:
            await expire_due(tx, self.hospital)
        await send_and_answer(self.store, self.hospital, booking_id)
        return booking_id


Case = Callable[[World], Awaitable[PaymentRow]]


async def wrong_amount(of: World) -> PaymentRow:
    booking_id = await locked(of.store, of.hospital, *await of.seat())
    return await pay(of.store, of.hospital, booking_id, make_payment(FEE_FEN + 1))


async def wrong_amount_of_bill(of: World) -> PaymentRow:
    await of.put()
    return await of.for_bill(8799)


async def wrong_amount_of_split(of: World) -> PaymentRow:
    """The whole bill, where the insurance pays some of it."""
    await of.put()
    await of.split(amount_fen=1000, fund_fen=7800)
    return await of.for_bill(8800)


async def second_payment(of: World) -> PaymentRow:
    booking_id = await booked(of.store, of.hospital, *await of.seat())
    return await pay(of.store, of.hospital, booking_id)


async def second_payment_of_bill(of: World) -> PaymentRow:
    await of.put()
    await of.for_bill()
    return await of.for_bill()


async def nothing_due(of: World) -> PaymentRow:
    booking = await hold(of.store, of.hospital, *await of.seat(free=True))
    return await pay(of.store, of.hospital, booking.id, make_payment(1))


async def too_late(of: World) -> PaymentRow:
    """Nobody has expired it yet, and its clinic has another price by now."""
    booking_id = await locked(of.store, of.hospital, *await of.seat())
    of.wall.turn(901)
    async with of.store.write(HOSPITAL) as tx:
        await tx.run(update(bookings).values(fee_fen=FEE_FEN + 1))
    return await pay(of.store, of.hospital, booking_id, make_payment(FEE_FEN + 1))


async def booking_expired(of: World) -> PaymentRow:
    booking_id = await of.expired()
    of.wall.turn(14 * 86400)  # the visit is long over
    return await pay(of.store, of.hospital, booking_id)


async def booking_cancelled(of: World) -> PaymentRow:
    booking = await hold(of.store, of.hospital, *await of.seat())
    await cancel(of.store, of.hospital, booking.id)
    return await pay(of.store, of.hospital, booking.id)


async def booking_booked(of: World) -> PaymentRow:
    """Paid at the window meanwhile (5005)."""
    booking_id = await locked(of.store, of.hospital, *await of.seat())
    async with of.store.write(HOSPITAL) as tx:
        booking = await load_booking(tx, booking_id)
        assert booking is not None
        told = Registration(status=RegistrationStatus.REGISTERED, order_no=booking.order_no, paid=True)
        await hear_registration(tx, of.hospital, booking, told)
    return await pay(of.store, of.hospital, booking_id)


async def bill_paid(of: World) -> PaymentRow:
    await of.put(status=BillStatus.PAID)
    return await of.for_bill()


async def bill_cancelled(of: World) -> PaymentRow:
    await of.put(status=BillStatus.CANCELLED)
    return await of.for_bill()


async def split_stale(of: World) -> PaymentRow:
    await of.put()
    await of.split(amount_fen=1000, fund_fen=7800)
    of.wall.turn(VALID_S)
    return await of.for_bill(1000)


async def split_stale_of_changed_bill(of: World) -> PaymentRow:
    await of.put()
    await of.split(amount_fen=1000, fund_fen=7800)
    await of.put(amount_fen=8900)
    return await of.for_bill(1000)


async def not_offered_by_hospital(of: World) -> PaymentRow:
    await of.put()
    return await of.for_bill(offered=False)


UNUSABLE: dict[str, tuple[Case, ...]] = {
    "wrong_amount": (wrong_amount, wrong_amount_of_bill, wrong_amount_of_split),
    "second_payment": (second_payment, second_payment_of_bill),
    "nothing_due": (nothing_due,),
    "too_late": (too_late,),
    "booking_expired": (booking_expired,),
    "booking_cancelled": (booking_cancelled,),
    "booking_booked": (booking_booked,),
    "bill_paid": (bill_paid,),
    "bill_cancelled": (bill_cancelled,),
    "split_stale": (split_stale, split_stale_of_changed_bill),
    "not_offered_by_hospital": (not_offered_by_hospital,),
}
CASES = [(code, case) for code, cases in UNUSABLE.items() for case in cases]


@pytest.fixture
def of(store: Store, hospital: Hospital, wall: Wall) -> World:
    return World(store, hospital, wall)


@pytest.mark.parametrize(("code", "case"), CASES, ids=[case.__name__ for _, case in CASES])
async def test_money_is_recorded_and_goes_back_when_it_cannot_pay(of: World, code: str, case: Case) -> None:
    row = await case(of)
    assert (row.unusable, row.kept, row.settlement) == (code, False, "none")
    async with of.store.read(HOSPITAL) as tx:
        owed = await refunds_of(tx, booking_id=row.booking_id, bill_id=row.bill_id)
    mine = [(r["amount_fen"], r["status"], r["reason"]) for r in owed if r["trade_no"] == row.trade_no]
    assert mine == [(row.amount_fen, "refund_due", code)]


async def test_guide_names_every_reason_when_money_cannot_pay() -> None:
    told = GUIDE.read_text(encoding="utf-8")
    table = told[told.index("| `unusable` | why |") :]
    rows = table[: table.index("\n\n")].splitlines()[2:]
    assert {code for row in rows for code in re.findall(r"`([a-z_]+)`", row.split("|")[1])} == set(UNUSABLE)


async def test_trade_number_is_refused_and_changes_nothing_when_it_stands_for_something_else(of: World) -> None:
    await of.put()
    known = await of.for_bill(trade_no="T9")
    assert await of.for_bill(trade_no="T9") == known
    booking_id = await locked(of.store, of.hospital, *await of.seat())
    with pytest.raises(Refusal, match="payment_conflict"):
        await of.for_bill(8799, trade_no="T9")
    with pytest.raises(Refusal, match="payment_conflict"):
        await pay(of.store, of.hospital, booking_id, make_payment(FEE_FEN, trade_no="T9"))
    async with of.store.read(HOSPITAL) as tx:
        assert await kept_payment(tx, booking_id=booking_id) is None
        assert await kept_payment(tx, bill_id=known.bill_id) == known


@pytest.mark.parametrize(
    ("told", "paid_fen"),
    [
        ({"amount_fen": 1000, "fund_fen": 5000, "account_fen": 2800}, 1000),
        ({"fund_fen": 5000, "account_fen": 2800}, 1000),
        ({}, 8800),
    ],
)
async def test_patients_share_pays_when_the_split_holds(of: World, told: dict[str, int], paid_fen: int) -> None:
    await of.put()
    await of.split(**told)
    of.wall.turn(VALID_S - 1)
    row = await of.for_bill(paid_fen)
    assert (row.unusable, row.kept, row.settlement) == (None, True, "pending")


async def test_whole_bill_pays_when_the_split_has_run_out(of: World) -> None:
    await of.put()
    await of.split(amount_fen=1000, fund_fen=7800)
    of.wall.turn(VALID_S)
    assert (await of.for_bill(8800)).unusable is None


@pytest.mark.parametrize(
    "told",
    [
        {"amount_fen": 8801},
        {"amount_fen": -1},
        {"fund_fen": 8801},
        {"fund_fen": -1, "amount_fen": 8800},
        {"amount_fen": 8000, "fund_fen": 500, "account_fen": 301},
    ],
)
async def test_split_is_refused_when_its_shares_do_not_fit_the_bill(told: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        split_of(BILL, Settlement(**told), now_ms=0, valid_s=VALID_S)  # type: ignore[arg-type]
