"""A37: a merge that is taken back goes to a person, and from then on nobody sees what may be somebody else's."""

from __future__ import annotations

import msgspec
import pytest
from sqlalchemy import select

from booking.billing import bills_of, put_bill
from booking.errors import Refusal
from booking.people import add_patient, hear_patient, link_person, load_person, merge_persons, own_patients
from booking.people.unlinking import take_apart
from booking.reporting import put_report, reports_of
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import events
from loadtest.simulators.mllp import segment
from mappings.canonical import Bill, Patient, Report, ReportKind, ReportStatus
from scheduler_sync.messages.tables import messages as rows
from tests.booking.world import CLIENT, FEE_FEN, HOSPITAL, LI, ZHANG, booked, get, hold, put_patient, put_slot
from tests.scheduler_sync.living import by_hl7v2, living, until
from tests.stores import Wall

OTHER = "another"


async def bound(store: Store, record: Patient, mrn: str, client: str = CLIENT) -> str:
    patient_id = await put_patient(store, record, client=client)
    async with store.write(HOSPITAL) as tx:
        await hear_patient(tx, msgspec.structs.replace(record, mrn=mrn))
    return patient_id


async def tell(store: Store, mrn: str, number: str) -> None:
    async with store.write(HOSPITAL) as tx:
        await put_bill(tx, Bill(id=f"B{number}", amount_fen=FEE_FEN, currency="CNY", mrn=mrn), currency="CNY")
        await put_report(tx, Report(id=f"R{number}", kind=ReportKind.LAB, status=ReportStatus.FINAL, mrn=mrn))


async def sees(store: Store, patient_id: str, client: str = CLIENT) -> list[str] | None:
    """What a portal finds of a patient; None: the patient is unknown to it."""
    async with store.read(HOSPITAL) as tx:
        found = await own_patients(tx, client, patient_id)
        if not found:
            return None
        person = found[0][1]
        bills, reports = await bills_of(tx, person), await reports_of(tx, person)
    return sorted([*(bill.record.id for bill in bills), *(report.record.id for report in reports)])


async def merged(store: Store) -> tuple[str, str]:
    """张伟 of one portal and 李娜 of another, whom the hospital has merged by mistake: M1 is left."""
    zhang, li = await bound(store, ZHANG, "M1"), await bound(store, LI, "M2", OTHER)
    async with store.write(HOSPITAL) as tx:
        await merge_persons(tx, surviving_mrn="M1", retired_mrn="M2")
    await tell(store, "M1", "1")
    await tell(store, "M2", "2")
    assert await sees(store, zhang) == await sees(store, li, OTHER) == ["B1", "B2", "R1", "R2"]
    return zhang, li


@pytest.mark.parametrize("named", [["M1", "M2"], ["M2", "M1"], ["M2"], ["M1"]])
async def test_nobody_sees_anything_by_the_old_handles_when_two_numbers_are_taken_apart(
    store: Store, hospital: Hospital, named: list[str]
) -> None:
    zhang, li = await merged(store)
    booking_id = await booked(store, hospital, await put_slot(store), zhang)
    async with store.write(HOSPITAL) as tx:
        await tx.run(events.delete())
        assert await take_apart(tx, named) == 1
    for _ in range(2):
        assert (await sees(store, zhang), await sees(store, li, OTHER)) == (None, None)
        await tell(store, "M1", "3")
        await tell(store, "M2", "4")
        async with store.write(HOSPITAL) as tx:
            assert await take_apart(tx, named) == 0
            kinds = {row["type"] for row in await tx.all(select(events.c.type))}
        assert not kinds & {"bill.changed", "report.changed"}
    seen = await get(store, booking_id)
    assert (seen.state, seen.needs_attention, seen.reason) == ("booked", True, "patient_unlinked")
    with pytest.raises(Refusal, match="patient_unknown"):
        await hold(store, hospital, await put_slot(store, slot_id="9", hour=9), zhang)


async def test_each_sees_their_own_when_they_are_bound_anew_and_the_hospital_has_named_them(store: Store) -> None:
    await merged(store)
    async with store.write(HOSPITAL) as tx:
        await take_apart(tx, ["M1", "M2"])
    found = {}
    for record, mrn, client in ((ZHANG, "M1", CLIENT), (LI, "M2", OTHER)):
        async with store.write(HOSPITAL) as tx:
            patient_id, person = await add_patient(
                tx, client_id=client, user_ref="u1", record=record, links_by_command=True
            )
            assert person.his_state == "pending"  # by the document nobody is found: the hospital is asked
        assert await sees(store, patient_id, client) == []
        async with store.write(HOSPITAL) as tx:
            known = await load_person(tx, person.id)
            assert known is not None
            await link_person(tx, known, msgspec.structs.replace(record, mrn=mrn))
        found[client] = await sees(store, patient_id, client)
    assert found == {CLIENT: ["B1", "R1"], OTHER: ["B2", "R2"]}


async def test_numbers_that_were_never_merged_are_left_alone(store: Store) -> None:
    zhang, li = await bound(store, ZHANG, "M1"), await bound(store, LI, "M2", OTHER)
    await tell(store, "M1", "1")
    async with store.write(HOSPITAL) as tx:
        assert await take_apart(tx, ["M1", "M2", "M7"]) == 0
    assert (await sees(store, zhang), await sees(store, li, OTHER)) == (["B1", "R1"], [])


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_message_waits_for_a_person_when_it_comes_over_mllp(store: Store, messages: Store, wall: Wall) -> None:
    async with living(store, messages, wall, by_hl7v2()) as at:
        zhang, li = await merged(store)
        at.simulator.pusher.push(
            (
                "ADT^A37^ADT_A37",
                [
                    segment("EVN", f1="A37", f2="20310303070000"),
                    *(s for n in (1, 2) for s in (
                        segment("PID", f1=str(n), f3=f"M{n}^^^SIM^MR", f5="^"), segment("PV1", f1=str(n), f2="O"),
                    )),
                ],
            )
        )  # fmt: skip

        async def set_aside() -> str | None:
            async with messages.read(HOSPITAL) as tx:
                row = await tx.first(select(rows.c.reason).where(rows.c.state == "quarantined"))
            return None if row is None else str(row["reason"])

        reason = await until(set_aside)
        assert reason is not None
        assert "taken apart" in reason
        assert (await sees(store, zhang), await sees(store, li, OTHER)) == (None, None)
        assert at.simulator.pusher.acks["AA"] >= 1
