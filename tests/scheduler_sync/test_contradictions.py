"""A HIS that says it has something and cannot show it, rows that cannot be read: settled or buried, never sent for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
from sqlalchemy import select, update

from booking.people import documents_differ
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import bookings
from connectors.port import HisRefused, Verb
from mappings.canonical import Patient
from scheduler_sync.attention import dead_commands
from tests.booking.world import HOSPITAL, WANG, ZHANG, get, hold, put_patient, put_slot
from tests.scheduler_sync.peer import Desk, Peer, desk, lose_request, refuse
from tests.scheduler_sync.test_persons import only_person, pay_a_bill, seen_bill
from tests.stores import Wall

LOCK, SETTLE, CREATE = Verb.LOCK_SLOT, Verb.SETTLE_BILL, Verb.CREATE_PATIENT


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
async def at(store: Store, hospital: Hospital, peer: Peer, wall: Wall) -> AsyncIterator[Desk]:
    async with desk(store, hospital, peer, wall) as it:
        yield it


async def look_again(at: Desk, line: str, looks: int) -> None:
    """Let time pass until the row has been looked at so often."""
    for n in range(1, looks + 1):
        await at.until_row(line, looks=n)
        at.turn(31)


async def test_money_goes_back_when_the_bill_was_settled_by_somebody_else(at: Desk) -> None:
    """Paid at the window while the patient paid online: "already exists", and nothing under our key."""
    at.peer.script(SETTLE, refuse("already_exists"))
    bill_id = await pay_a_bill(at)
    await at.until_row(f"bill:{bill_id}", status="unknown")
    at.turn(1)
    await look_again(at, f"bill:{bill_id}", 1)
    await at.until_row(f"bill:{bill_id}", status="done")
    _, _, settled, refunded = await seen_bill(at, bill_id)
    assert (settled, refunded) == (["rejected"], 1)
    assert at.peer.calls(SETTLE) == ["settle_bill"]


async def test_money_goes_back_when_the_his_says_another_payment_settled_the_bill(at: Desk) -> None:
    at.peer.script(SETTLE, lose_request)
    at.peer.read_errors[Verb.FETCH_SETTLEMENT].extend(
        [HisRefused("paid", code="taken"), HisRefused("paid", code="taken")]
    )
    bill_id = await pay_a_bill(at)
    await at.until_row(f"bill:{bill_id}", status="unknown")
    at.turn(1)
    await look_again(at, f"bill:{bill_id}", 1)
    await at.until_row(f"bill:{bill_id}", status="done")
    assert (await seen_bill(at, bill_id))[2:] == (["rejected"], 1)


async def test_lock_waits_for_a_person_when_it_exists_and_cannot_be_found(at: Desk) -> None:
    at.peer.script(LOCK, refuse("already_exists"))
    booking = await hold(at.store, at.hospital, await put_slot(at.store), await put_patient(at.store))
    line = f"booking:{booking.id}"
    await at.until_row(line, status="unknown")
    at.turn(1)
    await look_again(at, line, 1)
    await at.until_row(line, status="dead")
    seen = await get(at.store, booking.id)
    assert (seen.needs_attention, seen.occupies) == (True, True)
    assert at.peer.calls(LOCK) == ["lock_slot"]
    assert len(await dead_commands(at.store, HOSPITAL)) == 1


async def test_patient_is_created_once_when_their_number_never_shows(at: Desk) -> None:
    at.peer.tells_mrn = False

    async def create_unseen(peer: Peer, verb: Verb, argument: object) -> object:
        outcome = peer.commit(verb, argument)
        peer.patients.clear()  # created, and not to be found
        return outcome

    at.peer.script(CREATE, create_unseen)  # type: ignore[arg-type]
    await put_patient(at.store, asks_his=True)
    line = (await only_person(at.store)).line
    await at.until_row(line, status="unknown")
    at.turn(1)
    await look_again(at, line, 9)
    await at.until_row(line, status="done")
    assert at.peer.calls(CREATE) == ["create_patient"]
    assert (await only_person(at.store)).his_state == "rejected"


class Careless(Peer):
    """Finds whoever has the name, whatever number was asked for."""

    async def find_patient(self, patient: Patient) -> Sequence[Patient]:
        return [known for known in self.patients if known.name == patient.name]


async def test_patient_is_not_linked_when_the_his_finds_the_name_under_another_number(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    peer = Careless()
    peer.patients.append(Patient(name=ZHANG.name, mrn="M9", id_type="id_card", id_number="110101198001010019"))
    async with desk(store, hospital, peer, wall) as at:
        await put_patient(store, asks_his=True)
        await at.until_row((await only_person(store)).line, status="done")
    person = await only_person(store)
    assert (person.his_state, person.reject_code, person.record.mrn) == ("rejected", "patient_mismatch", None)


@pytest.mark.parametrize(
    ("one", "other", "two_people"),
    [
        ("110101199003070038", "110101199003070038", False),
        ("11010119900307003x", "11010119900307003X", False),
        ("110101900307003", "110101199003070038", False),  # the 15-digit form of the same number
        ("110101900307004", "110101199003070038", True),
        ("110***********0038", "110101198001010019", False),  # masked: it tells nothing
        (None, "110101199003070038", False),
        ("E12345678", "E12345679", True),
    ],
)
def test_documents_differ_only_when_certainly_of_two_people(one: str | None, other: str, two_people: bool) -> None:
    assert documents_differ(one, other) is two_people


async def test_others_are_served_when_one_booking_cannot_be_read(at: Desk, store: Store) -> None:
    """A row whose key is lost must not end the outbox for everybody else."""
    slot_id = await put_slot(store)
    at.peer.script(LOCK, refuse("busy", retryable=True))
    broken = await hold(store, at.hospital, slot_id, await put_patient(store))
    await at.until_row(f"booking:{broken.id}", tries=1)
    async with store.write(HOSPITAL) as tx:
        await tx.run(update(bookings).where(bookings.c.id == broken.id).values(sealed_his_refs=b"\x01\x02k9rubbish"))
    well = await hold(store, at.hospital, slot_id, await put_patient(store, WANG, user="u2"))
    at.turn(2)
    await at.until_row(f"booking:{well.id}", status="done")
    await at.until_row(f"booking:{broken.id}", status="dead")
    async with store.read(HOSPITAL) as tx:
        row = await tx.first(select(bookings.c.his_state).where(bookings.c.id == well.id))
    assert row == {"his_state": "locked"}
