"""A bill of which the insurance pays a part: calculated, paid and settled at simulated hospitals, over real sockets."""

from __future__ import annotations

import time

import pytest

from booking.billing import load_bill, pay_bill, put_bill, settle_insured
from booking.insured import find_insured
from booking.money import kept_payment
from booking.ports import LiveFailed
from booking.settings import Hospital
from booking.splits import save_split, split_of
from booking.store.engine import Store
from scheduler_sync.live import LiveReads
from tests.booking.world import CLIENT, HOSPITAL, make_payment
from tests.connectors.soap.soap_hospital import switch
from tests.connectors.soap.spoken import SPOKEN, Spoken, patient_of
from tests.scheduler_sync.peer import desk
from tests.stores import Wall

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
SPLITTING = [one for one in SPOKEN if one.name in ("neusoft", "zoesoft")]


@pytest.mark.parametrize("lost", [False, True], ids=["told", "reply lost"])
@pytest.mark.parametrize("spoken", SPLITTING, ids=str)
async def test_patients_share_settles_a_bill_when_the_insurance_pays_the_rest(
    store: Store, wall: Wall, hospital: Hospital, spoken: Spoken, lost: bool
) -> None:
    wall.now_ms = round(time.time() * 1000)
    async with spoken.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        charge = simulator.hospital.charge(patient.mrn or "", [("血常规", 8800)], fund_fen=5000, account_fen=2800)
        [bill] = await his.fetch_bills(patient)
        async with desk(store, hospital, his, wall) as at:  # type: ignore[arg-type]
            async with store.write(HOSPITAL) as tx:
                row = await put_bill(tx, bill, currency="CNY", mrn=patient.mrn)
            told = await LiveReads({HOSPITAL: at.link}).presettlement(HOSPITAL, bill, patient, row.order_no)
            assert (told.amount_fen, told.fund_fen, told.account_fen) == (1000, 5000, 2800)
            if lost:
                switch(simulator, "settle_bill", "lose_reply", times=1)
            async with store.write(HOSPITAL) as tx:
                await save_split(tx, row.id, split_of(bill, told, now_ms=tx.now_ms, valid_s=60))
                known = await load_bill(tx, row.id)
                assert known is not None
                await pay_bill(tx, known, make_payment(1000), client_id=CLIENT, offered=True)
            at.turn(0)
            if lost:
                await at.until_row(row.line, status="unknown")
                at.turn(31)
            await at.until_row(row.line, status="done")
            async with store.read(HOSPITAL) as tx:
                payment = await kept_payment(tx, bill_id=row.id)
            assert payment is not None
            assert (payment.settlement, charge.state, charge.own_fen) == ("settled", "paid", 1000)
            assert simulator.board.calls["settle_bill"] == 1


@pytest.mark.parametrize("lost", [False, True], ids=["told", "reply lost"])
@pytest.mark.parametrize("spoken", SPLITTING, ids=str)
async def test_bill_is_settled_without_money_when_the_insurance_pays_all_of_it(
    store: Store, wall: Wall, hospital: Hospital, spoken: Spoken, lost: bool
) -> None:
    wall.now_ms = round(time.time() * 1000)
    async with spoken.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        charge = simulator.hospital.charge(patient.mrn or "", [("血常规", 8800)], fund_fen=8000, account_fen=800)
        [bill] = await his.fetch_bills(patient)
        async with desk(store, hospital, his, wall) as at:  # type: ignore[arg-type]
            async with store.write(HOSPITAL) as tx:
                row = await put_bill(tx, bill, currency="CNY", mrn=patient.mrn)
            told = await LiveReads({HOSPITAL: at.link}).presettlement(HOSPITAL, bill, patient, row.order_no)
            assert (told.amount_fen, told.fund_fen, told.account_fen) == (0, 8000, 800)
            if lost:
                switch(simulator, "settle_bill", "lose_reply", times=1)
            async with store.write(HOSPITAL) as tx:
                await save_split(tx, row.id, split_of(bill, told, now_ms=tx.now_ms, valid_s=60))
                known = await load_bill(tx, row.id)
                assert known is not None
                await settle_insured(tx, known, client_id=CLIENT, offered=True)
            at.turn(0)
            if lost:
                await at.until_row(row.line, status="unknown")
                at.turn(31)
            await at.until_row(row.line, status="done")
            async with store.read(HOSPITAL) as tx:
                asked, known = await find_insured(tx, row.id), await load_bill(tx, row.id)
            assert asked is not None
            assert known is not None
            assert (asked.settlement, known.status) == ("settled", "paid")
            assert (charge.state, charge.own_fen) == ("paid", 0)
            assert simulator.board.calls["settle_bill"] == 1


@pytest.mark.parametrize(
    ("name", "code"), [("jkt12320", "not_offered_by_hospital"), ("pipe", "not_offered_by_hospital")]
)
async def test_share_is_not_offered_when_the_dialect_has_no_presettlement(
    store: Store, wall: Wall, hospital: Hospital, name: str, code: str
) -> None:
    spoken = next(one for one in SPOKEN if one.name == name)
    async with spoken.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        simulator.hospital.charge(patient.mrn or "", [("血常规", 8800)])
        [bill] = await his.fetch_bills(patient)
        async with desk(store, hospital, his, wall) as at:  # type: ignore[arg-type]
            with pytest.raises(LiveFailed) as failed:
                await LiveReads({HOSPITAL: at.link}).presettlement(HOSPITAL, bill, patient, "9" * 20)
    assert failed.value.code == code
