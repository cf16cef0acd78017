"""A merge that the HIS takes back (ADT A37): what no message can put right goes to a person, and until then nobody sees anything.

Whose handles, bookings, bills and reports are whose, no message says: what came under each number is known, and no more. So the
numbers are taken apart, which is certain, and everything that a portal has of the person is let go of: it binds its patients
again, by their documents, and the HIS says whose they are. Live bookings wait for a person.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import bindparam, or_, select, update

from booking.errors import SetAside
from booking.handles import handles_of
from booking.moves import save_booking
from booking.people.patients import mark_unbound
from booking.people.persons import create_person, digests_of, person_by_mrn, save_person
from booking.records import Person, booking_from_row
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.tables import bookings, person_mrns, persons
from mappings.canonical import Patient

UNLINKED = "patient_unlinked"
"""The `reason` of live bookings of a person whose records the HIS has taken apart."""
_WORD = "records that were merged are taken apart: see whose the bookings are, and have the patients bound anew"


async def refuse_unlinked(tx: Tx, mrn: str) -> None:
    """Raises SetAside where a number is one of several of a person here; one that was never merged is none of ours to part."""
    person = await person_by_mrn(tx, mrn)
    if person is not None and len(await digests_of(tx, person.id)) > 1:
        raise SetAside(_WORD)


async def take_apart(tx: Tx, mrns: Collection[str]) -> int:
    """Make the named numbers persons of their own, of whom nobody has anything; how many. Again changes nothing.

    Where only the number in use is named, all others are parted from it.
    """
    named = {tx.digest("mrn", mrn) for mrn in mrns}
    parted = 0
    for mrn in mrns:
        person = await person_by_mrn(tx, mrn)
        if person is None:
            continue
        numbers = set(await digests_of(tx, person.id))
        others = numbers - {person.mrn_digest}
        leaving = sorted((others & named) or others)
        if not leaving:
            continue
        await _let_go(tx, person)
        for digest in leaving:
            await _of_its_own(tx, digest)
        parted += len(leaving)
    return parted


async def _let_go(tx: Tx, person: Person) -> None:
    """Nothing is shown or told by any handle, nobody is found by the document, and live bookings wait for a person."""
    while handles := await handles_of(tx, person.id):
        for handle in handles:
            await mark_unbound(tx, handle["id"], tx.now_ms)
    person.identity_digest = None
    await save_person(tx, person)
    whose = {"of_hospital": tx.hospital_id, "of_person": person.id}
    for row in await tx.all(_LIVE, whose):
        booking = booking_from_row(tx, row)
        booking.needs_attention, booking.reason = True, UNLINKED
        await save_booking(tx, booking)


_LIVE = Fixed(
    select(bookings).where(
        bookings.c.hospital_id == bindparam("of_hospital"),
        bookings.c.live,
        or_(
            bookings.c.person_id == bindparam("of_person"),
            bookings.c.person_id.in_(
                select(persons.c.id).where(
                    persons.c.hospital_id == bindparam("of_hospital"), persons.c.merged_into == bindparam("of_person")
                )
            ),
        ),
    )
)
_PART = Fixed(
    update(person_mrns)
    .where(person_mrns.c.hospital_id == bindparam("of_hospital"), person_mrns.c.mrn_digest == bindparam("of_digest"))
    .values(person_id=bindparam("to_person"))
)


async def _of_its_own(tx: Tx, digest: str) -> None:
    """A person of whom only the number is known: the HIS's next word on it says who it is."""
    nobody = await create_person(tx, Patient(name=""), pending=False, identity_digest=None)
    nobody.mrn_digest = digest
    await save_person(tx, nobody)
    await tx.run(_PART, {"of_hospital": tx.hospital_id, "of_digest": digest, "to_person": nobody.id})
