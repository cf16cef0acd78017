"""Persons and their merges, bills, reports and visits as a HIS tells them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking.billing import BillRow, bills_of, own_bill, pay_bill, put_bill, settle_payment
from booking.errors import Refusal, SetAside
from booking.news import tell_owners
from booking.people import add_patient, hear_patient, link_person, load_person, merge_persons, own_patient
from booking.records import Person
from booking.reporting import own_report, put_report, reports_of
from booking.settings import Hospital
from booking.store.engine import Store, Tx
from booking.store.tables import events, payments, persons, refunds
from booking.visits import hear_visit, visits_of
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
    Settlement,
)
from tests.booking.world import (
    CLIENT,
    HOSPITAL,
    LI,
    ZHANG,
    booked,
    commands,
    get,
    hold,
    make_payment,
    put_patient,
    put_slot,
)
from tests.stores import Wall


async def person_of(store: Store, patient_id: str, *, client: str = CLIENT) -> Person:
    async with store.read(HOSPITAL) as tx:
        return (await own_patient(tx, client, patient_id))[1]


async def link(store: Store, patient_id: str, mrn: str) -> None:
    person = await person_of(store, patient_id)
    async with store.write(HOSPITAL) as tx:
        await link_person(tx, person, Patient(name=person.record.name, mrn=mrn))


async def merge(store: Store, *, surviving: str, retired: str) -> None:
    async with store.write(HOSPITAL) as tx:
        await merge_persons(tx, surviving_mrn=surviving, retired_mrn=retired)


async def do(store: Store, work: Callable[[Tx], Awaitable[Any]]) -> Any:
    async with store.write(HOSPITAL) as tx:
        return await work(tx)


# --- persons -----------------------------------------------------------------------------------------------------------


async def test_one_person_stands_behind_two_clients_when_the_document_is_the_same(store: Store) -> None:
    mine, theirs = await put_patient(store), await put_patient(store, client="another")
    assert mine != theirs
    assert await put_patient(store) == mine
    assert (await person_of(store, mine)).id == (await person_of(store, theirs, client="another")).id
    assert (await person_of(store, mine)).record == ZHANG


async def test_patient_is_rejected_when_a_known_document_comes_with_another_name(store: Store) -> None:
    await link(store, await put_patient(store), "M1")
    with pytest.raises(Refusal, match="patient_rejected"):
        await put_patient(store, msgspec.structs.replace(ZHANG, name="李四"), client="another")


async def test_check_character_is_one_person_when_it_is_written_small(store: Store) -> None:
    record = Patient(name="赵敏", id_type="id_card", id_number="11010119800101109X")
    assert await put_patient(store, record) == await put_patient(
        store, msgspec.structs.replace(record, id_number="11010119800101109x")
    )


async def test_persons_stay_apart_when_nothing_identifies_them(store: Store) -> None:
    assert await put_patient(store, Patient(name="无名")) != await put_patient(store, Patient(name="无名"))


async def test_his_is_asked_again_when_a_rejected_patient_is_added_again(store: Store) -> None:
    patient_id = await put_patient(store, asks_his=True)
    person = await person_of(store, patient_id)
    assert person.his_state == "pending"

    async def reject(tx: Tx) -> None:
        from booking.people import reject_person
        from booking.store.tables import outbox

        await tx.run(outbox.update().values(status="done"))
        await reject_person(tx, person, "patient_ambiguous")

    await do(store, reject)
    assert await put_patient(store, asks_his=True) == patient_id
    assert (await person_of(store, patient_id)).his_state == "pending"
    assert await commands(store, person.line) == [("create_patient", "done"), ("create_patient", "queued")]


async def test_two_of_ours_become_one_when_the_his_gives_both_the_same_number(store: Store) -> None:
    by_card = Patient(name="张伟", card_type="health", card_number="C1")
    one, two = await put_patient(store, ZHANG), await put_patient(store, by_card, user="u2")
    await link(store, one, "M1")
    await link(store, two, "M1")
    assert (await person_of(store, one)).id == (await person_of(store, two)).id


async def test_details_are_taken_over_when_the_his_changes_them(store: Store) -> None:
    patient_id = await put_patient(store)
    await link(store, patient_id, "M1")
    await do(store, lambda tx: hear_patient(tx, Patient(name="张伟", mrn="M1", phone="13800009999")))
    seen = (await person_of(store, patient_id)).record
    assert (seen.phone, seen.id_number, seen.mrn) == ("13800009999", ZHANG.id_number, "M1")


async def test_person_is_found_by_a_portal_when_the_his_had_told_of_them_first(store: Store) -> None:
    await do(store, lambda tx: hear_patient(tx, msgspec.structs.replace(ZHANG, mrn="M1")))
    patient_id = await put_patient(store, ZHANG)
    assert (await person_of(store, patient_id)).record.mrn == "M1"


# --- merges ------------------------------------------------------------------------------------------------------------


async def two_records(store: Store) -> tuple[str, str]:
    """One human under two numbers: M1 by ID card, M2 by health card."""
    by_card = Patient(name="张伟", card_type="health", card_number="C1")
    one, two = await put_patient(store, ZHANG), await put_patient(store, by_card, user="u2")
    await link(store, one, "M1")
    await link(store, two, "M2")
    return one, two


async def test_both_handles_reach_the_survivor_when_two_records_are_merged(store: Store) -> None:
    one, two = await two_records(store)
    await merge(store, surviving="M1", retired="M2")
    assert (await person_of(store, two)).id == (await person_of(store, one)).id
    assert (await person_of(store, two)).record.mrn == "M1"
    await merge(store, surviving="M1", retired="M2")  # applying it again changes nothing
    assert (await person_of(store, two)).id == (await person_of(store, one)).id


async def test_chain_of_merges_is_followed_when_the_survivor_is_merged_too(store: Store) -> None:
    one, two = await two_records(store)
    three = await put_patient(store, LI, user="u3")
    await link(store, three, "M3")
    await merge(store, surviving="M1", retired="M2")
    await merge(store, surviving="M3", retired="M1")
    assert {(await person_of(store, p)).id for p in (one, two)} == {(await person_of(store, three)).id}


async def test_bills_and_reports_of_both_numbers_are_one_persons_when_they_are_merged(store: Store) -> None:
    one, two = await two_records(store)
    await do(store, lambda tx: put_bill(tx, Bill(id="B2", amount_fen=5, currency="CNY", mrn="M2"), currency="CNY"))
    await merge(store, surviving="M1", retired="M2")
    await do(store, lambda tx: put_report(tx, make_report("R2", mrn="M2")))  # the HIS still uses the old number
    for patient_id in (one, two):
        person = await person_of(store, patient_id)
        async with store.read(HOSPITAL) as tx:
            assert [b.his_id for b in await bills_of(tx, person)] == ["B2"]
            assert [r.record.id for r in await reports_of(tx, person)] == ["R2"]


async def test_open_bill_is_listed_when_hundreds_of_newer_ones_are_paid(store: Store, wall: Wall) -> None:
    patient_id = await put_patient(store)
    await link(store, patient_id, "M1")

    async def hear(tx: Tx) -> None:
        for n in range(205):
            paid = Bill(id=f"P{n}", amount_fen=5, currency="CNY", mrn="M1", status=BillStatus.PAID)
            await put_bill(tx, paid, currency="CNY")

    await do(store, lambda tx: put_bill(tx, Bill(id="OLD", amount_fen=5, currency="CNY", mrn="M1"), currency="CNY"))
    wall.now_ms += 1000
    await do(store, hear)
    person = await person_of(store, patient_id)
    async with store.read(HOSPITAL) as tx:
        found = await bills_of(tx, person)
    assert (len(found), len({b.id for b in found})) == (200, 200)
    assert found[-1].his_id == "OLD"
    assert {b.his_id for b in found[:-1]} <= {f"P{n}" for n in range(205)}


async def test_second_booking_is_a_duplicate_when_its_handle_was_merged(store: Store, hospital: Hospital) -> None:
    one, two = await two_records(store)
    slot_id = await put_slot(store)
    first = await hold(store, hospital, slot_id, two)
    await merge(store, surviving="M1", retired="M2")
    for patient_id in (one, two):
        with pytest.raises(Refusal, match="duplicate_booking"):
            await hold(store, hospital, slot_id, patient_id)
    assert (await get(store, first.id)).person_id == (await person_of(store, one)).id


async def test_both_bookings_stay_when_the_merged_two_have_one_each(store: Store, hospital: Hospital) -> None:
    one, two = await two_records(store)
    slot_id = await put_slot(store)
    first, second = await hold(store, hospital, slot_id, one), await hold(store, hospital, slot_id, two)
    await merge(store, surviving="M1", retired="M2")
    assert (await get(store, first.id)).state == (await get(store, second.id)).state == "held"


async def test_both_handles_stay_good_when_one_user_had_both(store: Store, hospital: Hospital) -> None:
    by_card = Patient(name="张伟", card_type="health", card_number="C1")
    one, two = await put_patient(store, ZHANG), await put_patient(store, by_card)
    await link(store, one, "M1")
    await link(store, two, "M2")
    await merge(store, surviving="M1", retired="M2")
    slot_id = await put_slot(store)
    booking = await hold(store, hospital, slot_id, two)
    assert booking.person_id == (await person_of(store, one)).id
    with pytest.raises(Refusal, match="duplicate_booking"):
        await hold(store, hospital, slot_id, one)


async def test_news_reaches_both_handles_when_they_were_merged(store: Store) -> None:
    one, two = await two_records(store)
    await merge(store, surviving="M1", retired="M2")
    survivor = await person_of(store, one)
    await do(store, lambda tx: tell_owners(tx, survivor.id, "report.changed", {"report_id": "x"}))
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(events).where(events.c.type == "report.changed"))
    assert {msgspec.json.decode(r["payload"])["patient_id"] for r in rows} == {one, two}


async def test_document_still_finds_the_person_when_they_lived_on_under_a_number_alone(store: Store) -> None:
    patient_id = await put_patient(store, ZHANG)
    await link(store, patient_id, "M2")
    await do(store, lambda tx: hear_patient(tx, Patient(name="张伟", mrn="M1")))
    await merge(store, surviving="M1", retired="M2")
    assert await put_patient(store, ZHANG) == patient_id


async def test_person_lives_on_under_the_new_number_when_the_survivor_was_unknown(store: Store) -> None:
    patient_id = await put_patient(store)
    await link(store, patient_id, "M1")
    await merge(store, surviving="M9", retired="M1")
    person = await person_of(store, patient_id)
    assert person.record.mrn == "M9"
    async with store.write(HOSPITAL) as tx:
        await put_bill(tx, Bill(id="B1", amount_fen=5, currency="CNY", mrn="M9"), currency="CNY")
        await put_bill(tx, Bill(id="B0", amount_fen=5, currency="CNY", mrn="M1"), currency="CNY")
        assert {b.his_id for b in await bills_of(tx, person)} == {"B0", "B1"}


async def test_later_messages_find_one_person_when_both_numbers_were_unknown(store: Store) -> None:
    await merge(store, surviving="M1", retired="M2")
    await do(store, lambda tx: hear_patient(tx, msgspec.structs.replace(ZHANG, mrn="M2")))
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(persons.c.id))
        assert len(rows) == 1
        person = await load_person(tx, rows[0]["id"])
    assert person is not None
    assert person.record.name == "张伟"


# --- bills -------------------------------------------------------------------------------------------------------------


async def a_bill(store: Store, amount_fen: int = 8800) -> tuple[str, BillRow]:
    """An open bill of a linked patient."""
    patient_id = await put_patient(store)
    await link(store, patient_id, "M1")
    record = Bill(id="B1", amount_fen=amount_fen, currency="CNY", mrn="M1", title="化验费")
    return patient_id, await do(store, lambda tx: put_bill(tx, record, currency="CNY"))


@pytest.mark.parametrize(
    "bill",
    [
        Bill(id="B1", amount_fen=10_000, currency="USD", mrn="M1"),
        Bill(id="B1", amount_fen=10_000, currency="CNY"),
    ],
)
async def test_bill_is_set_aside_when_its_currency_or_patient_is_not_ours(store: Store, bill: Bill) -> None:
    with pytest.raises(SetAside):
        await do(store, lambda tx: put_bill(tx, bill, currency="CNY"))
    async with store.read(HOSPITAL) as tx:
        assert await tx.all(select(payments)) == []


async def test_bill_is_taken_when_the_hospital_has_its_currency(store: Store) -> None:
    record = Bill(id="B1", amount_fen=10_000, currency="USD", mrn="M1")
    row = await do(store, lambda tx: put_bill(tx, record, currency="USD"))
    assert (row.amount_fen, row.currency, row.status) == (10_000, "USD", "open")


async def test_bill_is_unknown_when_it_is_somebody_elses(store: Store) -> None:
    patient_id, bill = await a_bill(store)
    other = await put_patient(store, LI)
    async with store.read(HOSPITAL) as tx:
        assert (await own_bill(tx, (await own_patient(tx, CLIENT, patient_id))[1], bill.id)).record.title == "化验费"
        with pytest.raises(Refusal, match="bill_unknown"):
            await own_bill(tx, (await own_patient(tx, CLIENT, other))[1], bill.id)


async def test_bill_is_paid_when_the_his_has_settled_it(store: Store) -> None:
    patient_id, bill = await a_bill(store)
    payment = make_payment(8800)

    async def pay(tx: Tx) -> Any:
        return await pay_bill(tx, bill, payment, client_id=CLIENT, offered=True)

    first = await do(store, pay)
    assert await do(store, pay) == first
    assert await commands(store, bill.line) == [("settle_bill", "queued")]
    told = Settlement(receipt_no="R1")
    await do(store, lambda tx: settle_payment(tx, bill, accepted=True, settlement=told, client_id=CLIENT, code=None))
    person = await person_of(store, patient_id)
    async with store.read(HOSPITAL) as tx:
        seen = await own_bill(tx, person, bill.id)
        assert (seen.status, seen.settlement) == ("paid", told)
        assert [r["settlement"] for r in await tx.all(select(payments))] == ["settled"]
        assert await tx.all(select(refunds)) == []
    again = Bill(id="B1", amount_fen=8800, currency="CNY", mrn="M1", status=BillStatus.OPEN)
    row = await do(store, lambda tx: put_bill(tx, again, currency="CNY"))
    assert (row.status, row.order_no, row.settlement) == ("paid", bill.order_no, told)


async def test_bill_money_goes_back_when_the_his_refuses_the_settlement(store: Store) -> None:
    _, bill = await a_bill(store)
    await do(store, lambda tx: pay_bill(tx, bill, make_payment(8800), client_id=CLIENT, offered=True))
    await do(
        store, lambda tx: settle_payment(tx, bill, accepted=False, settlement=None, client_id=CLIENT, code="refused")
    )
    async with store.read(HOSPITAL) as tx:
        assert [(r["status"], r["amount_fen"], r["reason"]) for r in await tx.all(select(refunds))] == [
            ("refund_due", 8800, "refused")
        ]


@pytest.mark.parametrize(
    ("amount_fen", "offered", "reason"),
    [(8801, True, "wrong_amount"), (8800, False, "not_offered_by_hospital")],
)
async def test_bill_money_goes_back_when_it_cannot_pay(
    store: Store, amount_fen: int, offered: bool, reason: str
) -> None:
    _, bill = await a_bill(store)
    row = await do(store, lambda tx: pay_bill(tx, bill, make_payment(amount_fen), client_id=CLIENT, offered=offered))
    assert (row.kept, row.unusable) == (False, reason)
    assert await commands(store, bill.line) == []
    async with store.read(HOSPITAL) as tx:
        assert [r["reason"] for r in await tx.all(select(refunds))] == [reason]


async def test_second_payment_of_a_bill_goes_back_when_the_first_is_kept(store: Store) -> None:
    _, bill = await a_bill(store)
    await do(store, lambda tx: pay_bill(tx, bill, make_payment(8800), client_id=CLIENT, offered=True))
    row = await do(store, lambda tx: pay_bill(tx, bill, make_payment(8800), client_id=CLIENT, offered=True))
    assert row.unusable == "second_payment"


async def test_trade_number_is_a_conflict_when_it_paid_for_a_booking(store: Store, hospital: Hospital) -> None:
    patient_id, bill = await a_bill(store, amount_fen=1500)
    await booked(store, hospital, await put_slot(store), patient_id)
    async with store.read(HOSPITAL) as tx:
        row = await tx.first(select(payments))
    assert row is not None
    payment = make_payment(1500, trade_no=row["trade_no"])
    with pytest.raises(Refusal, match="payment_conflict"):
        await do(store, lambda tx: pay_bill(tx, bill, payment, client_id=CLIENT, offered=True))


# --- reports -----------------------------------------------------------------------------------------------------------


def make_report(report_id: str = "R1", *, mrn: str | None = "M1", **changes: Any) -> Report:
    known = Report(
        id=report_id,
        kind=ReportKind.LAB,
        status=ReportStatus.PRELIMINARY,
        mrn=mrn,
        name="血常规",
        observations=(Observation(name="白细胞", value="6.1", unit="10^9/L"),),
    )
    return msgspec.structs.replace(known, **changes)


async def test_report_grows_in_version_when_its_content_changes(store: Store) -> None:
    first = await do(store, lambda tx: put_report(tx, make_report(), occurred_ms=1_000))
    same = await do(store, lambda tx: put_report(tx, make_report(), occurred_ms=1_000))
    final = await do(store, lambda tx: put_report(tx, make_report(status=ReportStatus.FINAL), occurred_ms=1_000))
    assert [r.version for r in (first, same, final)] == [1, 1, 2]
    assert final.status == "final"


async def test_older_word_on_a_report_is_dropped_when_a_newer_one_is_stored(store: Store) -> None:
    await do(store, lambda tx: put_report(tx, make_report(status=ReportStatus.FINAL), occurred_ms=2_000))
    late = await do(store, lambda tx: put_report(tx, make_report(), occurred_ms=1_999))
    assert (late.version, late.status) == (1, "final")
    corrected = make_report(status=ReportStatus.CORRECTED)
    newer = await do(store, lambda tx: put_report(tx, corrected, occurred_ms=2_000))  # equal: order of arrival
    assert (newer.version, newer.status) == (2, "corrected")


async def test_report_is_set_aside_when_it_names_no_patient(store: Store) -> None:
    with pytest.raises(SetAside):
        await do(store, lambda tx: put_report(tx, make_report(mrn=None)))
    assert (await do(store, lambda tx: put_report(tx, make_report(mrn=None), mrn="M1"))).record.mrn == "M1"


async def test_reports_of_two_patients_stay_apart_when_the_his_reuses_a_number(store: Store) -> None:
    one, two = await put_patient(store, ZHANG), await put_patient(store, LI)
    await link(store, one, "M1")
    await link(store, two, "M2")
    mine = await do(store, lambda tx: put_report(tx, make_report(mrn="M1")))
    theirs = await do(store, lambda tx: put_report(tx, make_report(mrn="M2")))
    assert mine.id != theirs.id
    person = await person_of(store, one)
    async with store.read(HOSPITAL) as tx:
        assert (await own_report(tx, person, mine.id)).record.observations[0].value == "6.1"
        with pytest.raises(Refusal, match="report_unknown"):
            await own_report(tx, person, theirs.id)


# --- visits ------------------------------------------------------------------------------------------------------------

NOON = dt.datetime(2031, 3, 3, 12, tzinfo=dt.UTC)


async def test_visit_made_elsewhere_is_kept_for_its_patient_when_the_his_tells_of_it(
    store: Store, hospital: Hospital
) -> None:
    patient_id = await put_patient(store)
    await link(store, patient_id, "M1")
    told = Registration(status=RegistrationStatus.REGISTERED, his_id="V1", mrn="M1", starts_at=NOON)
    moved = msgspec.structs.replace(told, starts_at=NOON + dt.timedelta(hours=1))
    older = msgspec.structs.replace(told, status=RegistrationStatus.RELEASED)
    for record, minute in ((told, 1), (moved, 2), (older, 0)):
        at = NOON + dt.timedelta(minutes=minute)
        await do(store, lambda tx, r=record, a=at: hear_visit(tx, hospital, r, occurred_at=a))  # type: ignore[misc]
    person = await person_of(store, patient_id)
    async with store.read(HOSPITAL) as tx:
        visits = await visits_of(tx, person)
    assert [(v.status, v.record.starts_at) for v in visits] == [("registered", NOON + dt.timedelta(hours=1))]


async def test_older_event_is_dropped_when_a_newer_one_moved_the_booking(store: Store, hospital: Hospital) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    order_no = (await get(store, booking_id)).order_no

    async def hear(status: RegistrationStatus, minute: int) -> str:
        told = Registration(status=status, order_no=order_no)
        at = NOON + dt.timedelta(minutes=minute)
        await do(store, lambda tx: hear_visit(tx, hospital, told, occurred_at=at))
        return (await get(store, booking_id)).state.value

    assert await hear(RegistrationStatus.CHECKED_IN, 10) == "checked_in"
    assert await hear(RegistrationStatus.RELEASED, 5) == "checked_in"
    assert await hear(RegistrationStatus.FULFILLED, 10) == "fulfilled"  # equal: order of arrival


async def test_nobody_is_created_when_a_patient_is_added_under_an_unknown_number(store: Store) -> None:
    """A portal that names an MRN that nobody has gets a person of its own, not somebody else's."""
    record = Patient(name="张伟", card_type="mrn", card_number="M404")

    async def add(tx: Tx) -> Person:
        return (await add_patient(tx, client_id=CLIENT, user_ref="u1", record=record, links_by_command=True))[1]

    assert (await do(store, add)).record.mrn is None
