"""One payment for several bills (合并支付) at simulated hospitals, each in its own dialect."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from booking.billing import BillRow, own_bill, put_bill
from booking.ledger import imbalances
from booking.merged_payments import pay_bills
from booking.money import kept_payment
from booking.people import add_patient, link_person, own_patient
from booking.refunds import ask_refund, load_refund, report_refund
from booking.settings import Hospital
from booking.store.engine import Store
from connectors.port import Verb
from loadtest.simulators.control import Fault
from mappings.canonical import Bill, Patient
from tests.booking.world import CLIENT, HOSPITAL, make_payment
from tests.connectors.soap.soap_hospital import switch
from tests.connectors.soap.spoken import SPOKEN, Spoken, offers, patient_of
from tests.scheduler_sync.peer import Desk, desk, until
from tests.scheduler_sync.test_refunds_by_agreement import DIALECTS, Dialect
from tests.stores import Wall

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)  # the dialects do not know of a store
CHARGED = (8800, 700, 8800)  # two of one amount: the number and the amount tell them apart no more
WHOLE = 18300


def charged(simulator: Any, patient: Patient) -> list[Any]:
    return [simulator.hospital.charge(patient.mrn or "", [("血常规", fen)]) for fen in CHARGED]


async def paid(store: Store, patient: Patient, told: Sequence[Bill]) -> list[BillRow]:
    """The bills, paid with one payment."""
    assert sorted(bill.amount_fen for bill in told) == sorted(CHARGED)
    async with store.write(HOSPITAL) as tx:
        patient_id, _ = await add_patient(tx, client_id=CLIENT, user_ref="u1", record=patient, links_by_command=False)
        _, person = await own_patient(tx, CLIENT, patient_id)
        await link_person(tx, person, patient)
        rows = [await put_bill(tx, bill, currency="CNY", mrn=patient.mrn) for bill in told]
    async with store.write(HOSPITAL) as tx:
        _, person = await own_patient(tx, CLIENT, patient_id)
        bills = [await own_bill(tx, person, row.id) for row in rows]
        pieces = {bill.id: bill.amount_fen for bill in bills}
        await pay_bills(tx, person, make_payment(WHOLE, trade_no="T1"), pieces, client_id=CLIENT, offered=True)
    return bills


async def settlements(at: Desk, bills: list[BillRow]) -> list[str]:
    async with at.store.read(HOSPITAL) as tx:
        rows = [await kept_payment(tx, bill_id=bill.id) for bill in bills]
    assert all(row is not None and row.trade_no == "T1" for row in rows)
    return [row.settlement for row in rows if row is not None]


async def until_one_is_unknown(at: Desk, bills: list[BillRow]) -> None:
    """It is seen at its bill, and at no other."""

    async def check() -> bool:
        return sorted(await settlements(at, bills)) == ["settled", "settled", "unknown"]

    await until(check)


async def until_all_are_settled(at: Desk, bills: list[BillRow]) -> None:
    """Half a minute passes whenever nothing is under way: "not found" is believed late, and on two looks."""

    async def check() -> bool:
        rows = [await at.row(bill.line) for bill in bills]
        if all(row["status"] == "done" for row in rows):
            return True
        if all(row["lease_until_ms"] is None for row in rows):
            at.turn(31)
        return False

    await until(check)
    assert await settlements(at, bills) == ["settled"] * 3


@pytest.mark.parametrize("spoken", SPOKEN, ids=str)
async def test_each_bill_is_settled_once_when_an_answer_is_lost(
    store: Store, wall: Wall, hospital: Hospital, spoken: Spoken
) -> None:
    wall.now_ms = round(time.time() * 1000)
    async with spoken.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        charges = charged(simulator, patient)
        told = await his.fetch_bills(patient)
        async with desk(store, hospital, his, wall) as at:  # type: ignore[arg-type]
            switch(simulator, "settle_bill", "lose_reply", times=1)
            bills = await paid(store, patient, told)
            at.turn(0)
            await until_one_is_unknown(at, bills)
            at.turn(31)
            if offers(his, Verb.FETCH_SETTLEMENT):
                await until_all_are_settled(at, bills)
            else:  # a person looks it up, of that bill
                lost = (await settlements(at, bills)).index("unknown")
                await at.until_row(bills[lost].line, status="dead")
            assert {charge.state for charge in charges} == {"paid"}
            assert {charge.trade_no for charge in charges} == {"T1"}
            assert simulator.board.calls["settle_bill"] == 3
        assert [one async for one in imbalances(store, HOSPITAL)] == []


@pytest.mark.parametrize("spoken", [one for one in SPOKEN if one.name != "zysoft"], ids=str)
async def test_settlement_of_another_bill_is_not_taken_for_one_that_was_never_done(
    store: Store, wall: Wall, hospital: Hospital, spoken: Spoken
) -> None:
    """The call was cut before the hospital had it; the trade number, and the very amount, stand there under another bill."""
    wall.now_ms = round(time.time() * 1000)
    async with spoken.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        charges = charged(simulator, patient)
        told = await his.fetch_bills(patient)
        async with desk(store, hospital, his, wall) as at:  # type: ignore[arg-type]
            switch(simulator, "settle_bill", "down", times=1)
            bills = await paid(store, patient, told)
            at.turn(0)
            await until_one_is_unknown(at, bills)
            assert sorted(charge.state for charge in charges) == ["open", "paid", "paid"]
            await until_all_are_settled(at, bills)
            assert {charge.state for charge in charges} == {"paid"}
        assert [one async for one in imbalances(store, HOSPITAL)] == []


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
async def test_one_bill_s_piece_goes_back_at_the_hospital_and_no_other(
    store: Store, wall: Wall, hospital: Hospital, dialect: Dialect, tmp_path: Path
) -> None:
    dialect.agreement(tmp_path)
    async with dialect.hospital(tmp_path) as (simulator, his):
        mrn = simulator.hospital.create_person("张伟", "11010519491231002X", "13800000000", "1", "19491231").mrn
        patient = Patient(name="张伟", id_type="id_card", id_number="11010519491231002X", mrn=mrn)
        charges = charged(simulator, patient)
        told = [
            Bill(id=charge.no, amount_fen=fen, currency="CNY", mrn=mrn)
            for charge, fen in zip(charges, CHARGED, strict=True)
        ]
        if dialect.looks:
            simulator.board.faults.append(Fault(mode="lose_reply", op="settle_bill", times=1))
        async with desk(store, hospital, his, wall) as at:
            bills = await paid(store, patient, told)
            at.turn(0)
            if dialect.looks:
                await until_one_is_unknown(at, bills)
            await until_all_are_settled(at, bills)
            assert {charge.state for charge in charges} == {"paid"}
            async with store.write(HOSPITAL) as tx:
                payment = await kept_payment(tx, bill_id=bills[2].id)
                row = await ask_refund(tx, payment, amount_fen=800, reason="r", part="a")
                await report_refund(tx, row, word="refunded", refund_trade_no="R1", tells_his=True)
            await at.until_row(f"refund:{row['id']}", status="done")
        async with store.read(HOSPITAL) as tx:
            refund = await load_refund(tx, row["id"])
        assert refund is not None
        assert refund["his"] == "told"
        assert [charge.returned for charge in charges] == [{}, {}, {row["id"]: 800}]
        assert [one async for one in imbalances(store, HOSPITAL)] == []
