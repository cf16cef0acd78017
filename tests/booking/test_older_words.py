"""What the HIS says again, later, shorter or about another: bills, reports and visits keep what is known and whose it is."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking.billing import bills_of, load_bill, pay_bill, put_bill, return_money, settle_payment
from booking.errors import SetAside
from booking.money import refunds_of
from booking.people import hear_patient, merge_persons, person_by_mrn
from booking.reporting import put_report
from booking.settings import Hospital, Mode
from booking.store.engine import Store
from booking.store.tables import events, outbox, payments, registrations
from booking.visits import hear_visit
from mappings.canonical import (
    Bill,
    BillStatus,
    Observation,
    Patient,
    Registration,
    RegistrationStatus,
    Report,
    ReportKind,
    ReportStatus,
)
from tests.booking.world import CLIENT, HOSPITAL, commands, make_payment

ISSUED = dt.datetime(2031, 3, 3, 12, tzinfo=dt.UTC)


async def put(store: Store, *, mrn: str = "M1", occurred_ms: int | None = None, **changes: Any) -> Any:
    bill = msgspec.structs.replace(Bill(id="B1", amount_fen=8800, currency="CNY", mrn=mrn), **changes)
    async with store.write(HOSPITAL) as tx:
        return await put_bill(tx, bill, currency="CNY", occurred_ms=occurred_ms)


async def know(store: Store, *mrns: str) -> None:
    async with store.write(HOSPITAL) as tx:
        for mrn in mrns:
            await hear_patient(tx, Patient(name="张伟", mrn=mrn))


# --- bills -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [("M1", "M2"), ("M1",), ()])
async def test_bill_stays_with_its_patient_when_its_number_comes_for_another(
    store: Store, known: tuple[str, ...]
) -> None:
    await know(store, *known)
    bill = await put(store)
    async with store.write(HOSPITAL) as tx:
        await pay_bill(tx, bill, make_payment(8800), client_id=CLIENT, offered=True)
    with pytest.raises(SetAside):
        await put(store, mrn="M2", amount_fen=100)
    async with store.read(HOSPITAL) as tx:
        seen = await load_bill(tx, bill.id)
        assert seen is not None
        assert (seen.record.mrn, seen.amount_fen) == ("M1", 8800)


async def test_bill_is_taken_under_the_other_number_when_the_two_were_merged(store: Store) -> None:
    await know(store, "M1", "M2")
    await put(store, mrn="M2")
    async with store.write(HOSPITAL) as tx:
        await merge_persons(tx, surviving_mrn="M1", retired_mrn="M2")
    await put(store, mrn="M1", status=BillStatus.PAID)
    async with store.read(HOSPITAL) as tx:
        person = await person_by_mrn(tx, "M1")
        assert person is not None
        assert [b.status for b in await bills_of(tx, person)] == ["paid"]


async def test_older_word_on_a_bill_is_dropped_when_a_newer_one_is_stored(store: Store) -> None:
    await put(store, occurred_ms=2_000, amount_fen=500)
    assert (await put(store, occurred_ms=1_999, amount_fen=400)).amount_fen == 500
    assert (await put(store, amount_fen=600)).amount_fen == 600  # a live read has no time: it is of now
    assert (await put(store, occurred_ms=1_999, amount_fen=400)).amount_fen == 600
    assert (await put(store, occurred_ms=2_000, amount_fen=700)).amount_fen == 700  # equal: order of arrival


async def test_money_falls_due_once_when_the_his_cancels_a_bill_that_was_settled(store: Store) -> None:
    bill = await put(store)
    money = make_payment(8800)
    async with store.write(HOSPITAL) as tx:
        await pay_bill(tx, bill, money, client_id=CLIENT, offered=True)
    for settled in (False, True):
        cancelled = await put(store, status=BillStatus.CANCELLED)
        for _ in range(2):
            async with store.write(HOSPITAL) as tx:
                await return_money(tx, cancelled)
        async with store.write(HOSPITAL) as tx:
            owed = [(r["trade_no"], r["amount_fen"], r["reason"]) for r in await refunds_of(tx, bill_id=bill.id)]
            assert owed == ([(money.trade_no, 8800, "bill_cancelled")] if settled else [])
            await tx.run(outbox.update().values(status="done"))
            await settle_payment(tx, bill, accepted=True, settlement=None, client_id=CLIENT, code=None)


async def test_bill_is_set_aside_when_the_his_gives_only_a_part_of_it_back(store: Store) -> None:
    bill = await put(store)
    async with store.write(HOSPITAL) as tx:
        await pay_bill(tx, bill, make_payment(8800), client_id=CLIENT, offered=True)
    async with store.write(HOSPITAL) as tx:
        await tx.run(outbox.update().values(status="done"))
        await settle_payment(tx, bill, accepted=True, settlement=None, client_id=CLIENT, code=None)
    part = await put(store, status=BillStatus.CANCELLED, amount_fen=800)
    async with store.write(HOSPITAL) as tx:
        with pytest.raises(SetAside, match="another amount"):
            await return_money(tx, part)
        assert await refunds_of(tx, bill_id=bill.id) == []


async def test_bill_can_be_paid_again_when_its_settlement_was_refused(store: Store) -> None:
    bill = await put(store)
    first, second = make_payment(8800), make_payment(8800)
    async with store.write(HOSPITAL) as tx:
        await pay_bill(tx, bill, first, client_id=CLIENT, offered=True)
    async with store.write(HOSPITAL) as tx:
        await tx.run(outbox.update().values(status="done"))
        await settle_payment(tx, bill, accepted=False, settlement=None, client_id=CLIENT, code="busy_till")
    async with store.write(HOSPITAL) as tx:
        again = await load_bill(tx, bill.id)
        assert again is not None
        assert again.order_no != bill.order_no  # the HIS must not take it for the one it has refused
        row = await pay_bill(tx, again, second, client_id=CLIENT, offered=True)
        assert (row.kept, row.unusable) == (True, None)
    assert await commands(store, bill.line) == [("settle_bill", "done"), ("settle_bill", "queued")]
    async with store.write(HOSPITAL) as tx:
        await settle_payment(tx, again, accepted=True, settlement=None, client_id=CLIENT, code=None)
        seen = await load_bill(tx, bill.id)
        assert seen is not None
        assert seen.status == "paid"
        assert [(r["trade_no"], r["reason"]) for r in await refunds_of(tx, bill_id=bill.id)] == [
            (first.trade_no, "busy_till")
        ]
        rows = await tx.all(select(payments).order_by(payments.c.created_ms, payments.c.trade_no))
        assert {(r["trade_no"], r["kept"], r["settlement"]) for r in rows} == {
            (first.trade_no, False, "rejected"),
            (second.trade_no, True, "settled"),
        }


async def test_bill_takes_no_more_money_when_another_payment_has_settled_it(store: Store) -> None:
    bill = await put(store)
    async with store.write(HOSPITAL) as tx:
        await pay_bill(tx, bill, make_payment(8800), client_id=CLIENT, offered=True)
        await settle_payment(tx, bill, accepted=False, settlement=None, client_id=CLIENT, code="taken")
    async with store.write(HOSPITAL) as tx:
        again = await load_bill(tx, bill.id)
        assert again is not None
        row = await pay_bill(tx, again, make_payment(8800), client_id=CLIENT, offered=True)
    assert (row.kept, row.unusable) == (False, "bill_paid")


@pytest.mark.parametrize(
    ("mode", "unusable"), [(Mode.OBSERVE, "hospital_observe_only"), (Mode.PAUSED, None), (Mode.LIVE, None)]
)
async def test_bill_money_goes_back_when_the_hospital_is_only_observed(
    store: Store, mode: Mode, unusable: str | None
) -> None:
    bill = await put(store)
    async with store.write(HOSPITAL) as tx:
        row = await pay_bill(tx, bill, make_payment(8800), client_id=CLIENT, offered=True, mode=mode)
        assert row.unusable == unusable
        assert len(await refunds_of(tx, bill_id=bill.id)) == (unusable is not None)


# --- reports -----------------------------------------------------------------------------------------------------------

WHOLE = Report(
    id="R1",
    kind=ReportKind.LAB,
    status=ReportStatus.FINAL,
    mrn="M1",
    issued_at=ISSUED,
    observations=(Observation(name="白细胞", value="6.1"),),
)
HEADING = msgspec.structs.replace(WHOLE, observations=(), name="血常规")


async def report(store: Store, record: Report, occurred_ms: int | None = None) -> Any:
    async with store.write(HOSPITAL) as tx:
        return await put_report(tx, record, occurred_ms=occurred_ms)


async def test_results_stay_when_a_list_brings_the_heading_again(store: Store) -> None:
    await know(store, "M1")
    versions = [(await report(store, r)).version for r in (HEADING, WHOLE, HEADING, WHOLE, HEADING)]
    assert versions == [1, 2, 2, 2, 2]
    assert (await report(store, HEADING)).record.observations == WHOLE.observations


@pytest.mark.parametrize(
    "change", [{"status": ReportStatus.CORRECTED}, {"issued_at": ISSUED + dt.timedelta(minutes=1)}]
)
async def test_heading_replaces_the_results_when_it_is_of_another_issue(store: Store, change: dict[str, Any]) -> None:
    await report(store, WHOLE)
    seen = await report(store, msgspec.structs.replace(HEADING, **change))
    assert (seen.version, seen.record.observations) == (2, ())


async def test_known_time_of_a_report_stays_when_a_word_without_one_comes(store: Store) -> None:
    await report(store, WHOLE, 2_000)
    corrected = msgspec.structs.replace(WHOLE, status=ReportStatus.CORRECTED)
    await report(store, corrected)
    assert (await report(store, WHOLE, 1_999)).status == "corrected"


# --- visits ------------------------------------------------------------------------------------------------------------


async def test_known_time_of_a_visit_stays_when_a_word_without_one_comes(store: Store, hospital: Hospital) -> None:
    for status, occurred_at in (
        (RegistrationStatus.REGISTERED, ISSUED),
        (RegistrationStatus.CHECKED_IN, None),
        (RegistrationStatus.RELEASED, ISSUED - dt.timedelta(minutes=1)),
    ):
        async with store.write(HOSPITAL) as tx:
            told = Registration(status=status, his_id="V1", mrn="M1")
            await hear_visit(tx, hospital, told, occurred_at=occurred_at)
    async with store.read(HOSPITAL) as tx:
        assert [r["status"] for r in await tx.all(select(registrations))] == ["checked_in"]
        assert await tx.all(select(events)) == []
