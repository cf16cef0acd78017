"""What a HIS tells live of a patient is stored once, in short writes, and another's not at all."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking import billing, reporting
from booking.api.taking_over import take_over
from booking.people import link_person, own_patient
from booking.records import Person
from booking.store.engine import Store
from booking.store.tables import bills, reports
from booking.store.turns import Of
from mappings.canonical import Bill, BillStatus, Patient, Report, ReportKind, ReportStatus
from tests.booking.world import CLIENT, HOSPITAL, make_payment, put_patient
from tests.stores import Wall


async def person_of(store: Store) -> Person:
    """A patient whom the HIS knows as M1."""
    patient_id = await put_patient(store)
    async with store.write(HOSPITAL) as tx:
        _, person = await own_patient(tx, CLIENT, patient_id)
        await link_person(tx, person, Patient(name=person.record.name, mrn="M1"))
        _, person = await own_patient(tx, CLIENT, patient_id)
    return person


def bill(number: int, **changes: Any) -> Bill:
    return msgspec.structs.replace(Bill(id=f"B{number}", amount_fen=800, currency="CNY"), **changes)


def report(number: int, **changes: Any) -> Report:
    made = Report(id=f"R{number}", kind=ReportKind.LAB, name="血常规", status=ReportStatus.FINAL)
    return msgspec.structs.replace(made, **changes)


async def take_bills(store: Store, person: Person, *told: Bill) -> None:
    known, put = partial(billing.is_known, mrn="M1"), partial(billing.put_bill, currency="CNY", mrn="M1")
    await take_over(store, HOSPITAL, person, told, is_known=known, put=put)


async def take_reports(store: Store, person: Person, *told: Report, heavy: bool = False) -> None:
    known, put = partial(reporting.is_known, mrn="M1"), partial(reporting.put_report, mrn="M1")
    await take_over(store, HOSPITAL, person, told, is_known=known, put=put, heavy=heavy)


async def stored(store: Store, table: Any = bills) -> list[dict[str, Any]]:
    async with store.read(HOSPITAL) as tx:
        return await tx.all(select(table).order_by(table.c.his_id))


@pytest.fixture
def writes(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Of, bool]]:
    """In whose queue each write has waited, and whether it ran on the loop."""
    made: list[tuple[Of, bool]] = []
    write = store.write

    def count(hospital_id: str, *, here: bool = False, of: Of = Of.OTHERS) -> Any:
        made.append((of, here))
        return write(hospital_id, here=here, of=of)

    monkeypatch.setattr(store, "write", count)
    return made


async def test_bills_are_written_once_when_they_are_told_again(store: Store, writes: list[tuple[Of, bool]]) -> None:
    person = await person_of(store)
    writes.clear()
    await take_bills(store, person)
    assert writes == []
    await take_bills(store, person, bill(1), bill(2))
    assert writes == [(Of.BINDS, True)] * len(writes)
    first = await stored(store)
    assert [row["amount_fen"] for row in first] == [800, 800]
    writes.clear()
    await take_bills(store, person, bill(1), bill(2))
    assert writes == []
    await take_bills(store, person, bill(1), bill(2, amount_fen=900))
    assert len(writes) == 1
    assert [row["amount_fen"] for row in await stored(store)] == [800, 900]
    assert [row["order_no"] for row in await stored(store)] == [row["order_no"] for row in first]


async def test_bill_is_written_when_what_is_stored_says_otherwise(store: Store, wall: Wall) -> None:
    person = await person_of(store)
    await take_bills(store, person, bill(1))
    await take_bills(store, person, bill(1, status=BillStatus.CANCELLED))
    assert [row["status"] for row in await stored(store)] == ["cancelled"]
    await take_bills(store, person, bill(1))
    assert [row["status"] for row in await stored(store)] == ["open"]
    (before,) = await stored(store)
    wall.turn(billing.KEPT_MS / 1000 + 1)  # still told: it does not grow old
    await take_bills(store, person, bill(1))
    assert (await stored(store))[0]["updated_ms"] > before["updated_ms"]


async def test_bill_that_we_settled_stays_so_without_a_write_when_the_his_still_calls_it_open(
    store: Store, writes: list[tuple[Of, bool]]
) -> None:
    person = await person_of(store)
    await take_bills(store, person, bill(1))
    async with store.write(HOSPITAL) as tx:
        (row,) = await billing.bills_of(tx, person)
        await billing.pay_bill(tx, row, make_payment(800), client_id=CLIENT, offered=True)
    async with store.write(HOSPITAL) as tx:
        await billing.settle_payment(tx, row, accepted=True, settlement=None, client_id=CLIENT, code=None)
    writes.clear()
    await take_bills(store, person, bill(1))
    assert writes == []
    assert [row["status"] for row in await stored(store)] == ["paid"]


async def test_anothers_record_is_left_out_and_the_rest_is_kept(store: Store) -> None:
    person = await person_of(store)
    await take_bills(store, person, bill(1, mrn="M2"), bill(2, mrn="M1"), bill(3, currency="USD"), bill(4))
    assert [row["his_id"] for row in await stored(store)] == ["B2", "B4"]
    await take_reports(store, person, report(1, mrn="M2"), report(2))
    assert len(await stored(store, reports)) == 1


async def test_last_word_on_a_number_is_kept_when_a_list_has_several(
    store: Store, writes: list[tuple[Of, bool]]
) -> None:
    person = await person_of(store)
    words = report(1, status=ReportStatus.PRELIMINARY), report(1), report(1, mrn="M2", status=ReportStatus.CORRECTED)
    bills_told = bill(1), bill(1, amount_fen=900, mrn="M1")
    for _ in range(3):
        await take_reports(store, person, *words)
        await take_bills(store, person, *bills_told)
        assert [(r["status"], r["version"]) for r in await stored(store, reports)] == [("final", 1)]
        assert [r["amount_fen"] for r in await stored(store)] == [900]


async def test_bill_that_is_paid_is_cancelled_when_the_his_says_so_again(store: Store) -> None:
    person = await person_of(store)
    await take_bills(store, person, bill(1, status=BillStatus.CANCELLED))
    async with store.write(HOSPITAL) as tx:
        await tx.run(bills.update().values(status="paid"))  # as a settlement that came late has made it
    await take_bills(store, person, bill(1, status=BillStatus.CANCELLED))
    assert [row["status"] for row in await stored(store)] == ["cancelled"]


async def test_many_bills_are_stored_in_several_short_writes(
    store: Store, writes: list[tuple[Of, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    person = await person_of(store)
    writes.clear()
    monkeypatch.setattr("booking.api.taking_over.Budget", lambda _: Spent())
    await take_bills(store, person, *(bill(n) for n in range(5)))
    assert len(writes) == 5
    assert len(await stored(store)) == 5


class Spent:
    """A budget of nothing."""

    spent = True


@pytest.mark.parametrize("heavy", [False, True])
async def test_reports_are_written_once_and_a_heading_takes_nothing_away(
    store: Store, writes: list[tuple[Of, bool]], heavy: bool
) -> None:
    person = await person_of(store)
    writes.clear()
    await take_reports(store, person, report(1), heavy=heavy)
    assert writes == [(Of.OTHERS if heavy else Of.BINDS, not heavy)]
    await take_reports(store, person, report(1), heavy=heavy)
    assert len(writes) == 1
    await take_reports(store, person, report(1, status=ReportStatus.CORRECTED), heavy=heavy)
    assert len(writes) == 2
    assert [(r["status"], r["version"]) for r in await stored(store, reports)] == [("corrected", 2)]
