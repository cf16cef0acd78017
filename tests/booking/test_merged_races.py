"""One trade number, reported by many of two processes at once, and by one that dies: recorded whole and once, or not at all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking.billing import BillRow, load_bill, pay_bill, put_bill, settle_payment
from booking.errors import Refusal, SetAside
from booking.ledger import imbalances
from booking.merged_payments import pay_bills
from booking.money import TooMuchReturned, kept_payment, owe_refund
from booking.people import link_person, own_patient
from booking.records import Person
from booking.refunds import take_back
from booking.settings import Hospital
from booking.store.engine import Store, Tx
from booking.store.tables import outbox, payments, refunds
from mappings.canonical import Bill, RefundAsked
from tests.booking.test_money_races import two
from tests.booking.world import CLIENT, HOSPITAL, LI, ZHANG, locked, make_payment, pay, put_patient, put_slot

__all__ = ["two"]  # the fixture
pytestmark = pytest.mark.usefixtures("engine")
OWED = {"B1": 8800, "B2": 1, "B3": 699}
WHOLE = 9500


async def patient_with_bills(store: Store) -> tuple[Person, list[BillRow]]:
    patient_id = await put_patient(store, ZHANG)
    async with store.write(HOSPITAL) as tx:
        _, person = await own_patient(tx, CLIENT, patient_id)
        await link_person(tx, person, msgspec.structs.replace(person.record, mrn="M1"))
        bills = [
            await put_bill(tx, Bill(id=name, amount_fen=fen, currency="CNY", mrn="M1"), currency="CNY")
            for name, fen in OWED.items()
        ]
    return person, bills


async def merged(tx: Tx, person: Person, bills: Sequence[BillRow], *, by: str = CLIENT, trade_no: str = "T1") -> None:
    pieces = {bill.id: bill.amount_fen for bill in bills}
    whole = make_payment(sum(pieces.values()), trade_no=trade_no)
    await pay_bills(tx, person, whole, pieces, client_id=by, offered=True)


async def recorded(store: Store) -> list[tuple[str, str, int]]:
    assert [one async for one in imbalances(store, HOSPITAL)] == []
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(payments))
    return sorted((r["client_id"], r["trade_no"], r["amount_fen"]) for r in rows)


async def test_one_number_is_recorded_once_when_two_processes_report_it_at_once(
    two: Sequence[Store], hospital: Hospital
) -> None:
    """For several bills, one of them, a booking, and by another portal; whoever is first has it, and all the others hear so."""
    person, bills = await patient_with_bills(two[0])
    booking_id = await locked(two[0], hospital, await put_slot(two[0]), await put_patient(two[0], LI))

    async def several(store: Store, number: str, by: str) -> str:
        async with store.write(HOSPITAL) as tx:
            await merged(tx, person, bills, by=by, trade_no=number)
        return "several"

    async def one(store: Store, number: str, by: str) -> str:
        async with store.write(HOSPITAL) as tx:
            bill = await load_bill(tx, bills[0].id)
            assert bill is not None
            await pay_bill(tx, bill, make_payment(8800, trade_no=number), client_id=by, offered=True)
        return "one"

    async def booking(store: Store, number: str, by: str) -> str:
        await pay(store, hospital, booking_id, make_payment(trade_no=number))
        return "booking"

    for n in range(6):
        number, kinds = f"R{n}", [several, one, booking]
        kinds = kinds[n % 3 :] + kinds[: n % 3]
        asked = [(kind, by) for by in (CLIENT, "another") for kind in kinds for _ in range(2)]
        told: list[Any] = await asyncio.gather(
            *(kind(two[i % 2], number, by) for i, (kind, by) in enumerate(asked)), return_exceptions=True
        )
        codes = Counter(word.code if isinstance(word, Refusal) else word for word in told)
        assert codes.keys() - {"several", "one", "booking"} <= {"payment_conflict", "payment_of_another_portal"}, told
        assert len(codes.keys() & {"several", "one", "booking"}) == 1
        rows = [row for row in await recorded(two[0]) if row[1] == number]
        [winner] = {client for client, _, _ in rows}
        # The booking is the portal's, whoever asks: 8 of the 12 reports are its own.
        assert codes["payment_of_another_portal"] == (4 if winner == CLIENT else 8)
        assert sorted(fen for _, _, fen in rows) in ([1, 699, 8800], [8800], [1500])


async def test_nothing_of_it_stays_when_the_process_ends_before_its_commit(store: Store) -> None:
    person, bills = await patient_with_bills(store)

    class Ended(Exception):
        pass

    async def report() -> None:
        async with store.write(HOSPITAL) as tx:
            await merged(tx, person, bills)
            raise Ended

    with pytest.raises(Ended):
        await report()
    assert await recorded(store) == []
    async with store.read(HOSPITAL) as tx:
        assert await tx.all(select(outbox.c.id)) == []
    for _ in range(2):  # the portal, which has heard nothing, reports it again; and again after an answer that was lost
        async with store.write(HOSPITAL) as tx:
            await merged(tx, person, bills)
    assert await recorded(store) == [(CLIENT, "T1", 1), (CLIENT, "T1", 699), (CLIENT, "T1", 8800)]
    async with store.read(HOSPITAL) as tx:
        assert len(await tx.all(select(outbox.c.id))) == 3


async def settled(store: Store, bills: Sequence[BillRow]) -> None:
    async with store.write(HOSPITAL) as tx:
        await tx.run(outbox.update().values(status="done"))
        for bill in bills:
            now = await load_bill(tx, bill.id)
            assert now is not None
            await settle_payment(tx, now, accepted=True, settlement=None, client_id=CLIENT, code=None)


async def test_no_more_of_a_piece_goes_back_than_it_is_when_many_ask_at_once(two: Sequence[Store]) -> None:
    person, bills = await patient_with_bills(two[0])
    async with two[0].write(HOSPITAL) as tx:
        await merged(tx, person, bills)
    await settled(two[0], bills)

    async def ask(n: int) -> str:
        async with two[n % 2].write(HOSPITAL) as tx:
            payment = await kept_payment(tx, bill_id=bills[n % 3].id)
            assert payment is not None
            try:
                await owe_refund(tx, payment, client_id=CLIENT, reason="r", amount_fen=100, part=f"p{n // 3 % 8}")
            except TooMuchReturned:
                return "too much"
        return "done"

    told = Counter(await asyncio.gather(*(ask(n) for n in range(48))))
    # Eight parts of 100 fen are asked of each, twice: all of them of 8800 fen, none of 1 fen, six of 699 fen.
    assert told == {"done": 2 * 8 + 2 * 6, "too much": 16 + 2 * 2}
    async with two[0].read(HOSPITAL) as tx:
        back: Counter[str] = Counter()
        for row in await tx.all(select(refunds)):
            back[row["bill_id"]] += row["amount_fen"]
    assert back == {bills[0].id: 800, bills[2].id: 600}
    await recorded(two[0])


@pytest.mark.parametrize(
    ("asked", "back", "status"),
    [
        (RefundAsked(bill_id="B1", trade_no="T1"), [8800], "cancelled"),  # all of that bill's piece, and of no other
        (RefundAsked(bill_id="B1", trade_no="T1", amount_fen=8800), [8800], "cancelled"),
        (RefundAsked(bill_id="B1", trade_no="T1", amount_fen=800, his_refund_no="H1"), [800], "paid"),
        (RefundAsked(bill_id="B1", trade_no="T1", amount_fen=WHOLE, his_refund_no="H1"), None, "paid"),
        (RefundAsked(bill_id="B1", trade_no="T9"), None, "paid"),
    ],
)
async def test_hospital_takes_back_one_bill_of_a_payment(
    store: Store, asked: RefundAsked, back: list[int] | None, status: str
) -> None:
    person, bills = await patient_with_bills(store)
    async with store.write(HOSPITAL) as tx:
        await merged(tx, person, bills)
    await settled(store, bills)
    for _ in range(2):  # it may say so twice
        try:
            async with store.write(HOSPITAL) as tx:
                await take_back(tx, asked)
        except SetAside:
            assert back is None
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(refunds))
        now = [await load_bill(tx, bill.id) for bill in bills]
    assert [(row["bill_id"], row["amount_fen"]) for row in rows] == [(bills[0].id, fen) for fen in back or []]
    assert [bill.status for bill in now if bill is not None] == [status, "paid", "paid"]
    await recorded(store)
