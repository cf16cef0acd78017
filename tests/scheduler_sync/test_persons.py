"""Persons and bills through the outbox: found before created, never created twice, and settled by a person's word."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select

from booking.billing import load_bill, pay_bill, put_bill
from booking.people import hear_patient, load_person
from booking.records import Person
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import outbox, payments, persons, refunds
from connectors.port import HisRefused, HisUnavailable, QueryBack, Verb
from mappings.canonical import Bill, Patient
from scheduler_sync.attention import dead_commands, settle_dead
from tests.booking.world import CLIENT, HOSPITAL, ZHANG, get, hold, make_hospital, make_payment, put_patient, put_slot
from tests.scheduler_sync.peer import Desk, Peer, desk, hang, lose_reply, lose_request, refuse
from tests.stores import Wall

FIND, CREATE, LOCK, SETTLE = Verb.FIND_PATIENT, Verb.CREATE_PATIENT, Verb.LOCK_SLOT, Verb.SETTLE_BILL
KNOWN = Patient(name="张伟", mrn="M7", id_type=ZHANG.id_type, id_number=ZHANG.id_number)


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
async def at(store: Store, hospital: Hospital, peer: Peer, wall: Wall) -> AsyncIterator[Desk]:
    async with desk(store, hospital, peer, wall) as it:
        yield it


async def only_person(store: Store) -> Person:
    async with store.read(HOSPITAL) as tx:
        (row,) = await tx.all(select(persons.c.id))
        person = await load_person(tx, row["id"])
    assert person is not None
    return person


async def ask(at: Desk) -> str:
    """A new patient whom the HIS is asked about; the line of the command."""
    await put_patient(at.store, asks_his=True)
    return (await only_person(at.store)).line


async def test_known_patient_is_linked_and_not_created_when_the_his_finds_them(at: Desk) -> None:
    at.peer.patients.append(KNOWN)
    await at.until_row(await ask(at), status="done")
    person = await only_person(at.store)
    assert (person.his_state, person.record.mrn, person.record.phone) == ("linked", "M7", ZHANG.phone)
    assert at.peer.calls() == ["find_patient"]


async def test_unknown_patient_is_created_when_the_his_finds_nobody(at: Desk) -> None:
    await at.until_row(await ask(at), status="done")
    person = await only_person(at.store)
    assert (person.his_state, person.record.mrn) == ("linked", "M1")
    assert at.peer.calls() == ["find_patient", "create_patient"]


async def test_patient_is_created_unseen_when_the_his_cannot_be_searched(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    peer = Peer(off=[FIND])
    async with desk(store, hospital, peer, wall) as at:
        await at.until_row(await ask(at), status="done")
    assert peer.calls() == ["create_patient"]


async def test_patient_is_rejected_when_several_records_fit(at: Desk) -> None:
    at.peer.patients += [KNOWN, Patient(name="张伟", mrn="M8", id_number=ZHANG.id_number)]
    await at.until_row(await ask(at), status="done")
    person = await only_person(at.store)
    assert (person.his_state, person.reject_code) == ("rejected", "patient_ambiguous")
    assert at.peer.calls(CREATE) == []


async def test_patient_is_rejected_when_name_and_number_differ(at: Desk) -> None:
    at.peer.patients.append(Patient(name="李四", mrn="M7", id_number=ZHANG.id_number))
    await at.until_row(await ask(at), status="done")
    person = await only_person(at.store)
    assert (person.his_state, person.reject_code, person.record.mrn) == ("rejected", "patient_mismatch", None)


CHILD = Patient(
    name="张小明", birth_date=dt.date(2028, 5, 1), guardian_name="张伟", guardian_id_type="id_card",
    guardian_id_number=ZHANG.id_number,
)  # fmt: skip


async def test_child_is_created_under_the_guardians_document_when_only_the_guardian_is_known(at: Desk) -> None:
    """As at the window, so that the child is found there again and never made twice."""
    at.peer.patients.append(KNOWN)
    for _ in range(2):
        await put_patient(at.store, CHILD, asks_his=True)
        person = await only_person(at.store)
        await at.until_row(person.line, status="done")
        assert ((await only_person(at.store)).record.mrn, person.record.id_number) in (("M2", None),)
    made = at.peer.patients[1]
    assert (made.name, made.id_number, at.peer.calls()) == (
        "张小明", ZHANG.id_number, ["find_patient", "create_patient"],
    )  # fmt: skip


async def test_child_is_found_under_the_guardians_document_when_the_outcome_was_lost(at: Desk) -> None:
    at.peer.script(CREATE, lose_reply)
    await put_patient(at.store, CHILD, asks_his=True)
    line = (await only_person(at.store)).line
    await at.until_row(line, status="unknown")
    at.turn(1)
    await at.until_row(line, status="done")
    assert (await only_person(at.store)).record.mrn == "M1"
    assert at.peer.calls(CREATE) == ["create_patient"]


async def test_patient_is_rejected_when_the_his_refuses_to_create_them(at: Desk) -> None:
    at.peer.script(CREATE, refuse("invalid_request"))
    await at.until_row(await ask(at), status="done")
    assert (await only_person(at.store)).reject_code == "invalid_request"


async def test_patient_is_rejected_when_nobody_can_be_created_there(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    async with desk(store, hospital, Peer(off=[CREATE]), wall) as at:
        await at.until_row(await ask(at), status="done")
    assert (await only_person(store)).reject_code == "patient_unknown"


async def test_number_is_asked_for_when_the_reply_had_none(at: Desk) -> None:
    at.peer.tells_mrn = False
    line = await ask(at)
    row = await at.until_row(line, status="unknown")
    assert row["due_ms"] - at.wall.now_ms == 200
    at.turn(0.2)
    await at.until_row(line, status="done")
    assert (await only_person(at.store)).record.mrn == "M1"
    assert at.peer.calls() == ["find_patient", "create_patient", "find_patient"]


async def test_patient_is_created_once_when_the_reply_was_lost(at: Desk) -> None:
    at.peer.script(CREATE, lose_reply)
    line = await ask(at)
    await at.until_row(line, status="unknown")
    at.turn(1)
    await at.until_row(line, status="done")
    assert at.peer.calls(CREATE) == ["create_patient"]
    assert len(at.peer.patients) == 1


@pytest.mark.parametrize("error", [HisUnavailable("away"), HisRefused("later", code="busy")])
async def test_patient_is_not_created_again_when_the_look_found_no_his(
    at: Desk, error: HisUnavailable | HisRefused
) -> None:
    """The first creation may still show: only two looks that were answered, after settling, allow another."""
    at.peer.script(CREATE, lose_request)
    line = await ask(at)
    await at.until_row(line, status="unknown")
    at.peer.read_errors[FIND].extend([error] * 4)  # a read is tried twice
    at.turn(1)
    row = await at.until_row(line, tries=1)
    assert row["status"] == "unknown"
    at.peer.read_errors[FIND].clear()
    at.turn(2)
    await at.until_row(line, looks=1)
    assert at.peer.calls(CREATE) == ["create_patient"]
    at.turn(30)
    await at.until_row(line, status="done")
    assert at.peer.calls(CREATE) == ["create_patient"] * 2


@pytest.mark.parametrize("error", [HisUnavailable("away"), HisRefused("later", code="busy")])
async def test_patient_is_asked_for_again_when_the_his_was_away(at: Desk, error: HisUnavailable | HisRefused) -> None:
    at.peer.read_errors[FIND].extend([error] * (2 if isinstance(error, HisUnavailable) else 1))
    line = await ask(at)
    row = await at.until_row(line, tries=1)
    assert row["status"] == "queued"
    assert (await only_person(at.store)).his_state == "pending"
    at.turn(0.5)
    await at.until_row(line, status="done")
    assert (await only_person(at.store)).his_state == "linked"


async def test_lock_waits_for_its_patient_when_the_his_does_not_know_them_yet(at: Desk) -> None:
    gate = asyncio.Event()
    at.peer.script(CREATE, hang(gate))
    patient_id = await put_patient(at.store, asks_his=True)
    booking = await hold(at.store, at.hospital, await put_slot(at.store), patient_id)
    await at.until_seen(CREATE)
    at.turn(1)
    gate.set()
    await at.until_row(booking.line, status="done")
    assert at.peer.calls() == ["find_patient", "create_patient", "lock_slot"]


async def test_hold_is_rejected_and_nothing_sent_when_its_patient_is_refused(at: Desk) -> None:
    at.peer.script(CREATE, refuse("invalid_request"))
    patient_id = await put_patient(at.store, asks_his=True)
    booking = await hold(at.store, at.hospital, await put_slot(at.store), patient_id)
    await at.until_row(booking.line, status="done")
    seen = await get(at.store, booking.id)
    assert (seen.state, seen.reason) == ("rejected", "patient_rejected")
    assert at.peer.calls(LOCK) == []


async def test_two_of_ours_become_one_when_the_his_answers_with_a_known_number(at: Desk) -> None:
    async with at.store.write(HOSPITAL) as tx:
        await hear_patient(tx, Patient(name="张伟", mrn="M7"))
        first = (await tx.all(select(persons.c.id)))[0]["id"]
    at.peer.patients.append(KNOWN)
    await put_patient(at.store, asks_his=True)
    async with at.store.read(HOSPITAL) as tx:
        row = await tx.first(select(outbox.c.line))
    assert row is not None
    await at.until_row(row["line"], status="done")
    async with at.store.read(HOSPITAL) as tx:
        asked = await load_person(tx, row["line"].partition(":")[2])
    assert asked is not None
    assert asked.id == first


async def dead_creation(store: Store, hospital: Hospital, wall: Wall) -> tuple[Peer, str]:
    """A creation whose outcome is unknown at a HIS that cannot be searched."""
    peer = Peer(off=[FIND])
    peer.script(CREATE, lose_request)
    async with desk(store, hospital, peer, wall) as at:
        line = await ask(at)
        await at.until_row(line, status="unknown")
        at.turn(1)
        await at.until_row(line, status="dead")
    (dead,) = await dead_commands(store, HOSPITAL)
    return peer, dead["id"]


@pytest.mark.parametrize(
    ("outcome", "his_state", "reject_code"),
    [("accepted", "linked", None), ("rejected", "rejected", "settled_by_a_person")],
)
async def test_patient_is_what_a_person_says_when_no_machine_can_tell(
    store: Store, hospital: Hospital, wall: Wall, outcome: str, his_state: str, reject_code: str | None
) -> None:
    _, command_id = await dead_creation(store, hospital, wall)
    assert await settle_dead(store, hospital, command_id, outcome)
    person = await only_person(store)
    assert (person.his_state, person.reject_code, person.record.name) == (his_state, reject_code, "张伟")


# --- bills -------------------------------------------------------------------------------------------------------------


async def pay_a_bill(at: Desk) -> str:
    """A paid bill whose settlement goes to the HIS; its id."""
    async with at.store.write(HOSPITAL) as tx:
        bill = await put_bill(tx, Bill(id="B1", amount_fen=8800, currency="CNY", mrn="M7"), currency="CNY")
        await pay_bill(tx, bill, make_payment(8800), client_id=CLIENT, offered=True)
    return bill.id


async def seen_bill(at: Desk, bill_id: str) -> tuple[str, str | None, list[str], int]:
    """(status, receipt, settlements of its payments, refunds)."""
    async with at.store.read(HOSPITAL) as tx:
        bill = await load_bill(tx, bill_id)
        assert bill is not None
        receipt = bill.settlement.receipt_no if bill.settlement is not None else None
        settled = [r["settlement"] for r in await tx.all(select(payments))]
        return bill.status, receipt, settled, len(await tx.all(select(refunds)))


async def test_bill_is_paid_when_the_his_has_taken_the_settlement(at: Desk) -> None:
    bill_id = await pay_a_bill(at)
    row = await at.until_row(f"bill:{bill_id}", status="done")
    status, receipt, settled, refunded = await seen_bill(at, bill_id)
    assert (status, settled, refunded) == ("paid", ["settled"], 0)
    assert receipt is not None
    assert row["verb"] == "settle_bill"


async def test_bill_is_settled_once_when_the_reply_was_lost(at: Desk) -> None:
    at.peer.script(SETTLE, lose_reply)
    bill_id = await pay_a_bill(at)
    await at.until_row(f"bill:{bill_id}", status="unknown")
    at.turn(1)
    await at.until_row(f"bill:{bill_id}", status="done")
    assert at.peer.calls() == ["settle_bill", "fetch_settlement"]
    assert (await seen_bill(at, bill_id))[0] == "paid"


async def test_bill_money_goes_back_when_the_his_refuses_it(at: Desk) -> None:
    at.peer.script(SETTLE, refuse("price_changed"))
    bill_id = await pay_a_bill(at)
    await at.until_row(f"bill:{bill_id}", status="done")
    assert await seen_bill(at, bill_id) == ("open", None, ["rejected"], 1)


async def test_money_waits_for_a_person_when_the_settlement_cannot_be_asked_about(store: Store, wall: Wall) -> None:
    peer = Peer(query_back=QueryBack.NONE)
    peer.script(SETTLE, lose_reply)
    hospital = make_hospital()
    async with desk(store, hospital, peer, wall) as at:
        bill_id = await pay_a_bill(at)
        await at.until_row(f"bill:{bill_id}", status="unknown")
        at.turn(1)
        await at.until_row(f"bill:{bill_id}", status="dead")
        assert await seen_bill(at, bill_id) == ("open", None, ["unknown"], 0)
        (dead,) = await dead_commands(store, HOSPITAL)
        assert await settle_dead(store, hospital, dead["id"], "accepted")
        assert await seen_bill(at, bill_id) == ("paid", None, ["settled"], 0)
    assert peer.calls() == ["settle_bill"]
