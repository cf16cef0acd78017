"""One payment for several bills (合并支付) at simulated hospitals, each in its own dialect."""

from __future__ import annotations

import time

import pytest

from booking.billing import BillRow, own_bill, put_bill
from booking.ledger import imbalances
from booking.merged_payments import pay_bills
from booking.money import kept_payment
from booking.people import add_patient, link_person, own_patient
from booking.settings import Hospital
from booking.store.engine import Store
from connectors.port import Verb
from tests.booking.world import CLIENT, HOSPITAL, make_payment
from tests.connectors.soap.soap_hospital import switch
from tests.connectors.soap.spoken import SPOKEN, Spoken, offers, patient_of
from tests.scheduler_sync.peer import Desk, desk, until
from tests.stores import Wall

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)  # the dialects do not know of a store
CHARGED = (8800, 700, 8800)  # two of one amount: the number and the amount tell them apart no more


async def settlements(at: Desk, bills: list[BillRow]) -> list[str]:
    async with at.store.read(HOSPITAL) as tx:
        rows = [await kept_payment(tx, bill_id=bill.id) for bill in bills]
    assert all(row is not None and row.trade_no == "T1" for row in rows)
    return [row.settlement for row in rows if row is not None]


@pytest.mark.parametrize("spoken", SPOKEN, ids=str)
async def test_each_bill_is_settled_once_when_an_answer_is_lost(
    store: Store, wall: Wall, hospital: Hospital, spoken: Spoken
) -> None:
    wall.now_ms = round(time.time() * 1000)
    async with spoken.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        charges = [simulator.hospital.charge(patient.mrn or "", [("血常规", fen)]) for fen in CHARGED]
        told = await his.fetch_bills(patient)
        assert sorted(bill.amount_fen for bill in told) == sorted(CHARGED)
        async with store.write(HOSPITAL) as tx:
            patient_id, _ = await add_patient(
                tx, client_id=CLIENT, user_ref="u1", record=patient, links_by_command=False
            )
            _, person = await own_patient(tx, CLIENT, patient_id)
            await link_person(tx, person, patient)
            rows = [await put_bill(tx, bill, currency="CNY", mrn=patient.mrn) for bill in told]
        async with desk(store, hospital, his, wall) as at:  # type: ignore[arg-type]
            switch(simulator, "settle_bill", "lose_reply", times=1)
            async with store.write(HOSPITAL) as tx:
                _, person = await own_patient(tx, CLIENT, patient_id)
                bills = [await own_bill(tx, person, row.id) for row in rows]
                pieces = {bill.id: bill.amount_fen for bill in bills}
                await pay_bills(tx, person, make_payment(18300, trade_no="T1"), pieces, client_id=CLIENT, offered=True)
            at.turn(0)

            async def one_is_unknown(at: Desk = at, bills: list[BillRow] = bills) -> bool:
                return sorted(await settlements(at, bills)) == [
                    "settled",
                    "settled",
                    "unknown",
                ]  # seen at its bill alone

            await until(one_is_unknown)
            at.turn(31)
            if offers(his, Verb.FETCH_SETTLEMENT):
                for bill in bills:
                    await at.until_row(bill.line, status="done")
                assert await settlements(at, bills) == ["settled"] * 3
            else:  # a person looks it up, of that bill
                lost = (await settlements(at, bills)).index("unknown")
                await at.until_row(bills[lost].line, status="dead")
            assert {charge.state for charge in charges} == {"paid"}
            assert {charge.trade_no for charge in charges} == {"T1"}
            assert simulator.board.calls["settle_bill"] == 3
        assert [one async for one in imbalances(store, HOSPITAL)] == []
