"""A40: two numbers are one person, whatever the order in which the HIS says so, and everything that was theirs is found."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from sqlalchemy import func, select

from booking.billing import bills_of, own_bill, put_bill
from booking.bookings import find_bookings
from booking.errors import Refusal, SetAside
from booking.people import (
    hear_patient,
    load_person,
    merge_persons,
    mrn_digests,
    own_patient,
    patient_of_client,
    unbind_patient,
)
from booking.records import Person
from booking.reporting import own_report, put_report, reports_of
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import bookings, events, persons
from mappings.canonical import Bill, Patient, Report, ReportKind, ReportStatus
from tests.booking.world import CLIENT, FEE_FEN, HOSPITAL, LI, ZHANG, hold, put_patient, put_slot
from tests.stores import Wall

OTHER = "another"
PASSPORT = msgspec.structs.replace(ZHANG, id_type="passport", id_number="E12345678")


async def merge(store: Store, surviving: str, retired: str) -> None:
    async with store.write(HOSPITAL) as tx:
        await merge_persons(tx, surviving_mrn=surviving, retired_mrn=retired)


async def hear(store: Store, told: Patient) -> None:
    async with store.write(HOSPITAL) as tx:
        await hear_patient(tx, told)


async def person_of(store: Store, patient_id: str, client: str = CLIENT) -> Person:
    async with store.read(HOSPITAL) as tx:
        return (await own_patient(tx, client, patient_id))[1]


async def bound(store: Store, record: Patient, mrn: str, client: str = CLIENT, user: str = "u1") -> str:
    """A patient of a client whom the HIS knows by this number."""
    patient_id = await put_patient(store, record, client=client, user=user)
    await hear(store, msgspec.structs.replace(record, mrn=mrn))
    return patient_id


async def tell(store: Store, mrn: str, number: str) -> None:
    """A bill and a report of these numbers, as the HIS tells them."""
    async with store.write(HOSPITAL) as tx:
        await put_bill(tx, Bill(id=f"B{number}", amount_fen=FEE_FEN, currency="CNY", mrn=mrn), currency="CNY")
        await put_report(tx, make_report(number, mrn))


def make_report(number: str, mrn: str, status: ReportStatus = ReportStatus.FINAL) -> Report:
    return Report(id=f"R{number}", kind=ReportKind.LAB, status=status, mrn=mrn)


async def found(store: Store, patient_id: str, client: str = CLIENT) -> tuple[list[str], list[str]]:
    """The numbers of the bills and reports that a patient's portal finds."""
    person = await person_of(store, patient_id, client)
    async with store.read(HOSPITAL) as tx:
        bills, reports = await bills_of(tx, person), await reports_of(tx, person)
        for bill in bills:
            await own_bill(tx, person, bill.id)
        for report in reports:
            await own_report(tx, person, report.id)
    return sorted(b.record.id for b in bills), sorted(r.record.id for r in reports)


async def test_both_portals_lead_to_the_survivor_when_two_records_are_merged(store: Store) -> None:
    one = await bound(store, ZHANG, "M1")
    other = await bound(store, PASSPORT, "M2", client=OTHER)
    await tell(store, "M1", "1")
    await tell(store, "M2", "2")
    assert await found(store, one) == (["B1"], ["R1"])
    await merge(store, "M1", "M2")
    assert (await person_of(store, one)).id == (await person_of(store, other, OTHER)).id
    await tell(store, "M2", "3")  # late, under the old number
    for patient_id, client in ((one, CLIENT), (other, OTHER)):
        assert await found(store, patient_id, client) == (["B1", "B2", "B3"], ["R1", "R2", "R3"])
    assert (await person_of(store, other, OTHER)).record.mrn == "M1"


A_CHAIN = [("M2", "M1"), ("M3", "M2"), ("M4", "M3")]
ORDERS = [A_CHAIN, A_CHAIN[::-1], [A_CHAIN[0], A_CHAIN[2], A_CHAIN[1]]]


@pytest.mark.parametrize("order", ORDERS)
async def test_last_survivor_is_the_same_in_whatever_order_a_chain_of_merges_is_told(
    store: Store, order: Sequence[tuple[str, str]]
) -> None:
    patients = [
        await bound(store, msgspec.structs.replace(PASSPORT, id_number=f"E0000000{n}"), f"M{n}", user=f"u{n}")
        for n in range(1, 5)
    ]
    for n in range(1, 5):
        await tell(store, f"M{n}", str(n))
    for surviving, retired in (*order, *order):  # and each of them twice
        await merge(store, surviving, retired)
    people = [await person_of(store, p) for p in patients]
    assert {p.id for p in people} == {people[0].id}
    assert {p.record.mrn for p in people} == {"M4"}
    for patient_id in patients:
        assert await found(store, patient_id) == (["B1", "B2", "B3", "B4"], ["R1", "R2", "R3", "R4"])


@pytest.mark.parametrize("order", ORDERS)
async def test_chain_leads_to_its_end_when_only_the_first_number_was_known(
    store: Store, order: Sequence[tuple[str, str]]
) -> None:
    patient_id = await bound(store, ZHANG, "M1")
    for surviving, retired in order:
        await merge(store, surviving, retired)
    assert (await person_of(store, patient_id)).record.mrn == "M4"
    await tell(store, "M4", "1")
    await tell(store, "M3", "2")
    assert await found(store, patient_id) == (["B1", "B2"], ["R1", "R2"])


async def test_nothing_changes_when_a_merge_is_told_twice(store: Store) -> None:
    await bound(store, ZHANG, "M1")
    await bound(store, PASSPORT, "M2", client=OTHER)
    await merge(store, "M1", "M2")
    before = await everybody(store)
    await merge(store, "M1", "M2")
    assert await everybody(store) == before


async def everybody(store: Store) -> list[dict[str, object]]:
    async with store.read(HOSPITAL) as tx:
        return await tx.all(select(persons).order_by(persons.c.id))


async def test_number_in_use_is_the_last_one_told_when_the_hospital_turns_a_merge_round(store: Store) -> None:
    patient_id = await bound(store, ZHANG, "M1")
    await merge(store, "M1", "M2")
    await merge(store, "M2", "M1")
    person = await person_of(store, patient_id)
    assert person.record.mrn == "M2"
    async with store.read(HOSPITAL) as tx:
        assert len(await mrn_digests(tx, person)) == 2
    await hear(store, msgspec.structs.replace(ZHANG, mrn="M2", phone="13600000000"))
    assert (await person_of(store, patient_id)).record.phone == "13600000000"


async def test_late_news_of_the_retired_number_changes_nothing(store: Store) -> None:
    patient_id = await bound(store, ZHANG, "M1")
    await bound(store, PASSPORT, "M2", client=OTHER)
    await merge(store, "M1", "M2")
    before = await person_of(store, patient_id)
    await hear(store, Patient(name="张伟", mrn="M2", phone="13600000000"))
    assert await person_of(store, patient_id) == before


@pytest.mark.parametrize(
    "told", [Patient(name="李四", mrn="M2"), Patient(name="张伟", mrn="M2", id_type="id_card", id_number=LI.id_number)]
)
async def test_merge_is_not_undone_when_news_say_that_it_should_be(store: Store, told: Patient) -> None:
    """A person must look: no message says whose bookings, bills and reports are whose."""
    patient_id = await bound(store, ZHANG, "M1")
    await merge(store, "M1", "M2")
    before = await person_of(store, patient_id)
    with pytest.raises(SetAside, match="not undone"):
        await hear(store, told)
    assert await person_of(store, patient_id) == before


async def test_record_is_not_merged_into_itself(store: Store) -> None:
    with pytest.raises(SetAside, match="itself"):
        await merge(store, "M1", "M1")


async def test_correction_is_of_the_same_report_when_it_comes_under_the_surviving_number(store: Store) -> None:
    patient_id = await bound(store, ZHANG, "M1")
    await tell(store, "M1", "1")
    await merge(store, "M2", "M1")
    async with store.write(HOSPITAL) as tx:
        row = await put_report(tx, make_report("1", "M2", ReportStatus.CORRECTED))
    assert (row.version, row.status) == (2, "corrected")
    assert (await found(store, patient_id))[1] == ["R1"]


async def test_report_is_listed_once_when_it_was_read_under_the_surviving_number_before_the_merge_was_heard(
    store: Store, wall: Wall
) -> None:
    patient_id = await bound(store, ZHANG, "M1")
    await bound(store, PASSPORT, "M2", user="u2")
    for mrn, status in (
        ("M1", ReportStatus.FINAL),
        ("M2", ReportStatus.PRELIMINARY),
    ):  # read; then the older word comes
        wall.turn(1)
        async with store.write(HOSPITAL) as tx:
            await put_report(tx, make_report("1", mrn, status))
    await merge(store, "M1", "M2")
    async with store.read(HOSPITAL) as tx:
        _, person = await own_patient(tx, CLIENT, patient_id)
        assert [(row.record.id, row.status) for row in await reports_of(tx, person)] == [("R1", "final")]
    wall.turn(1)
    async with store.write(HOSPITAL) as tx:
        await put_report(tx, make_report("1", "M1", ReportStatus.CORRECTED))
        assert [row.status for row in await reports_of(tx, person)] == ["corrected"]


async def test_same_number_is_another_report_when_it_is_another_persons(store: Store) -> None:
    await tell(store, "M1", "1")
    await bound(store, ZHANG, "M1")
    li = await bound(store, LI, "M9")
    async with store.write(HOSPITAL) as tx:
        assert (await put_report(tx, make_report("1", "M9"))).version == 1
    assert (await found(store, li))[1] == ["R1"]


async def test_both_live_bookings_stay_when_they_are_at_one_session(store: Store, hospital: Hospital) -> None:
    """The HIS has both: neither is cancelled by us, each portal keeps its own, and no third one is held."""
    slot_id = await put_slot(store, 9)
    one, other = await bound(store, ZHANG, "M1"), await bound(store, PASSPORT, "M2", client=OTHER)
    ours = await hold(store, hospital, slot_id, one)
    theirs = await hold(store, hospital, slot_id, other, client=OTHER)
    await merge(store, "M1", "M2")
    async with store.read(HOSPITAL) as tx:
        assert {r["id"]: r["live"] for r in await tx.all(select(bookings.c.id, bookings.c.live))} == {
            ours.id: True, theirs.id: True,
        }  # fmt: skip
        mine = await find_bookings(tx, CLIENT, patient_id=one)
        assert [b.id for b in mine] == [ours.id]
        assert [b.id for b in await find_bookings(tx, OTHER, patient_id=other)] == [theirs.id]
        for booking in (ours, theirs):
            person = await load_person(tx, booking.person_id)
            assert person is not None
            assert person.record.mrn == "M1"
    for patient_id, client, extra in ((one, CLIENT, {"booking_id": ours.id}), (other, OTHER, {})):
        with pytest.raises(Refusal, match="duplicate_booking") as refused:
            await hold(store, hospital, slot_id, patient_id, client=client)
        assert refused.value.extra == extra


async def test_news_reach_each_portal_once_when_one_user_had_both_records(store: Store) -> None:
    first, second = await bound(store, ZHANG, "M1"), await bound(store, PASSPORT, "M2")
    await bound(store, PASSPORT, "M2", client=OTHER)
    await merge(store, "M1", "M2")
    await tell(store, "M2", "1")
    assert (await person_of(store, first)).id == (await person_of(store, second)).id
    async with store.read(HOSPITAL) as tx:
        told = await tx.all(
            select(events.c.client_id, func.count().label("n"))
            .where(events.c.type == "report.changed")
            .group_by(events.c.client_id)
        )
    assert {r["client_id"]: r["n"] for r in told} == {CLIENT: 1, OTHER: 1}


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("unbound_after", [True, False])
async def test_news_go_on_by_the_handle_that_is_left_when_a_user_lets_go_of_one_of_two(
    store: Store, unbound_after: bool, chain: bool
) -> None:
    """One user had both records; the survivor's handle is let go of, before the merge or after it."""
    third = msgspec.structs.replace(PASSPORT, id_number="E99999999")
    survivors, left = await bound(store, ZHANG, "M1"), await bound(store, PASSPORT, "M2")

    async def let_go() -> None:
        async with store.write(HOSPITAL) as tx:
            await unbind_patient(tx, CLIENT, survivors)

    if not unbound_after:
        await let_go()
    if chain:  # M2 goes into M3 first, of which the same user has a handle too, and that into M1
        also = await bound(store, third, "M3")
        await merge(store, "M3", "M2")
        async with store.write(HOSPITAL) as tx:
            await unbind_patient(tx, CLIENT, also)
        await merge(store, "M1", "M3")
    else:
        await merge(store, "M1", "M2")
    if unbound_after:
        await let_go()
    async with store.write(HOSPITAL) as tx:
        await tx.run(events.delete())
    await tell(store, "M2", "1")
    await tell(store, "M1", "2")
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(events.c.type, events.c.payload).order_by(events.c.id))
        digest = tx.digest("mrn", "M1")
        found_again = await patient_of_client(tx, CLIENT, digest)
    told = [(row["type"], msgspec.json.decode(row["payload"])["patient_id"]) for row in rows]
    assert told == [("bill.changed", left), ("report.changed", left)] * 2
    assert found_again is not None
    assert found_again[0]["id"] == left
    assert await found(store, left) == (["B1", "B2"], ["R1", "R2"])
