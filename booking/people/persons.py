"""Persons: one human at one hospital each, found by id (through merges) and by the numbers of the HIS."""

from __future__ import annotations

from sqlalchemy import bindparam, select, update

from booking.commands import queue_command, wake_topic
from booking.records import Person, person_from_row, person_to_row
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.ids import new_id
from booking.store.tables import person_mrns, persons
from mappings.canonical import Patient

MOST_MERGES = 100
"""How long a chain of merges is followed; a person's own numbers always lead to the survivor at once."""

_PERSON = Fixed(
    select(persons).where(persons.c.hospital_id == bindparam("of_hospital"), persons.c.id == bindparam("of_person"))
)


async def load_person(tx: Tx, person_id: str) -> Person | None:
    """A person, following merges to the survivor."""
    for _ in range(MOST_MERGES):  # a ring would be a fault of ours
        row = await tx.first(_PERSON, {"of_hospital": tx.hospital_id, "of_person": person_id})
        if row is None or row["merged_into"] is None:
            return None if row is None else person_from_row(tx, row)
        person_id = row["merged_into"]
    return None


_BY_MRN = Fixed(
    select(persons)
    .select_from(
        person_mrns.join(
            persons, (persons.c.hospital_id == person_mrns.c.hospital_id) & (persons.c.id == person_mrns.c.person_id)
        )
    )
    .where(person_mrns.c.hospital_id == bindparam("of_hospital"), person_mrns.c.mrn_digest == bindparam("of_digest"))
)


async def person_by_mrn(tx: Tx, mrn: str) -> Person | None:
    """The person whom the HIS calls by this MRN, or called so before a merge."""
    row = await tx.first(_BY_MRN, {"of_hospital": tx.hospital_id, "of_digest": tx.digest("mrn", mrn)})
    if row is None or row["merged_into"] is None:
        return None if row is None else person_from_row(tx, row)
    return await load_person(tx, row["merged_into"])


async def create_person(tx: Tx, record: Patient, *, pending: bool, identity_digest: str | None) -> Person:
    """A new person, found by the digest; asked for at the HIS where that is `pending`."""
    person = Person(
        hospital_id=tx.hospital_id,
        id=new_id(),
        his_state="pending" if pending else "linked",
        record=record,
        identity_digest=identity_digest,
        mrn_digest=None if record.mrn is None else tx.digest("mrn", record.mrn),
        created_ms=tx.now_ms,
        updated_ms=tx.now_ms,
    )
    await tx.insert(persons, person_to_row(tx, person))
    if pending:
        await ask_his(tx, person)
    return person


async def ask_his(tx: Tx, person: Person) -> None:
    await queue_command(tx, line=person.line, verb="create_patient", subject_id=person.id)
    tx.ring(wake_topic(tx.hospital_id))


_SAVE = Fixed(
    update(persons).where(persons.c.hospital_id == bindparam("of_hospital"), persons.c.id == bindparam("of_person")),
    [c.name for c in persons.columns],
)


async def save_person(tx: Tx, person: Person) -> None:
    """Write a person back."""
    person.updated_ms = tx.now_ms
    await tx.run(_SAVE, {**person_to_row(tx, person), "of_hospital": tx.hospital_id, "of_person": person.id})
    tx.ring(f"person:{person.id}")


async def mrn_digests(tx: Tx, person: Person) -> list[str]:
    """The digests of every MRN that means this person, for looking up bills and reports.

    Also where the person was merged into another since it was read: while a HIS is asked, its A40 may come.
    """
    known = await digests_of(tx, person.id)
    survivor = person if known else await load_person(tx, person.id)
    return known if survivor is None or survivor.id == person.id else await digests_of(tx, survivor.id)


async def digests_of(tx: Tx, person_id: str) -> list[str]:
    """`mrn_digests` of the person of this id, who has not been merged into another."""
    rows = await tx.all(
        select(person_mrns.c.mrn_digest).where(
            person_mrns.c.hospital_id == tx.hospital_id, person_mrns.c.person_id == person_id
        )
    )
    return [r["mrn_digest"] for r in rows]


async def means(tx: Tx, person: Person, mrn: str | None) -> bool:
    """Whether what the HIS answers about a person is theirs: it names none of its patients, or this one."""
    return mrn is None or tx.digest("mrn", mrn) in await mrn_digests(tx, person)


_OWNER = Fixed(
    select(person_mrns.c.person_id).where(
        person_mrns.c.hospital_id == bindparam("of_hospital"), person_mrns.c.mrn_digest == bindparam("of_digest")
    )
)


async def owner_ids(tx: Tx, mrn_digest: str) -> str | None:
    """The person behind an MRN's digest."""
    row = await tx.first(_OWNER, {"of_hospital": tx.hospital_id, "of_digest": mrn_digest})
    return None if row is None else str(row["person_id"])
