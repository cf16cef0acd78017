"""What makes two records one person before the HIS has spoken: documents, cards and names, and who may claim which."""

from __future__ import annotations

import datetime as dt

import msgspec
from sqlalchemy import bindparam, select

from booking.documents import document_key, document_type, plain_number
from booking.identity import ID_CARD, read_id_card
from booking.people.persons import save_person
from booking.records import Person, person_from_row
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.tables import persons
from mappings.canonical import Patient


def identity_of(patient: Patient) -> str | None:
    """What makes two records one person before the HIS has spoken: the document, else the guardian's with name and birth date,
    else the card. None for none of them."""
    if patient.id_type and patient.id_number:
        return document_key(patient.id_type, patient.id_number)
    if patient.guardian_id_number and patient.birth_date:
        of = document_key(patient.guardian_id_type or ID_CARD, patient.guardian_id_number)
        return f"child:{of}\n{patient.name}\n{patient.birth_date}"
    if patient.card_type and patient.card_number:
        return f"card:{patient.card_type}:{patient.card_number}"
    return None


def registered_as(record: Patient) -> Patient:
    """A record as a HIS is asked about it: a child without a document is registered under the guardian's, as at the window.

    By it the child can be found again, so that an unknown outcome is not resent blind.
    """
    if record.id_number or not record.guardian_id_number:
        return record
    return msgspec.structs.replace(
        record, id_type=record.guardian_id_type or ID_CARD, id_number=record.guardian_id_number
    )


def is_guardians(record: Patient) -> bool:
    """Whether the document of a record is the guardian's."""
    return record.guardian_id_number is not None and record.id_number == record.guardian_id_number


def is_confirmed(person: Person) -> bool:
    """Whether the HIS itself has told of this person, and so of the name."""
    return person.record.mrn is not None


def documents_differ(known: str | None, given: str | None) -> bool:
    """Whether two document numbers are certainly of two people; one that is not known, or masked, tells nothing."""
    if known is None or given is None or not known or "*" in known or "*" in given:
        return False
    known, given = plain_number(known), plain_number(given)
    if {len(known), len(given)} == {15, 18}:
        # The 15-digit resident number is the 18-digit one without century and check character (GB 11643-1999).
        long, short = (known, given) if len(known) == 18 else (given, known)
        return long[:6] + long[8:17] != short
    return known != given


async def holders_of(tx: Tx, record: Patient) -> tuple[Person | None, Person | None]:
    """The first holder of this document (or card), and the holder of the same name; both are one where the names agree."""
    identity = identity_of(record)
    if identity is None:
        return None, None
    first = await person_by_digest(tx, tx.digest("identity", identity))
    if first is not None and first.record.name == record.name:
        return first, first
    named = await person_by_digest(tx, named_digest(tx, record))
    return first, named if named is not None and named.record.name == record.name else None


_BY_DOCUMENT = Fixed(
    select(persons).where(
        persons.c.hospital_id == bindparam("of_hospital"),
        persons.c.identity_digest == bindparam("of_digest"),
        persons.c.merged_into.is_(None),
    )
)


async def person_by_digest(tx: Tx, digest: str | None) -> Person | None:
    if digest is None:
        return None
    row = await tx.first(_BY_DOCUMENT, {"of_hospital": tx.hospital_id, "of_digest": digest})
    return None if row is None else person_from_row(tx, row)


def named_digest(tx: Tx, record: Patient) -> str | None:
    """What finds a person whose document is held under another name: the document and the name together."""
    identity = identity_of(record)
    return None if identity is None else tx.digest("identity", f"{identity}\n{record.name}")


async def free_digest(tx: Tx, record: Patient) -> str | None:
    """By what a new person can be found: the document, the document with the name where others hold it, else nothing."""
    identity = identity_of(record)
    if identity is None:
        return None
    for digest in (tx.digest("identity", identity), named_digest(tx, record)):
        if await person_by_digest(tx, digest) is None:
            return digest
    return None


async def claim_document(tx: Tx, person: Person) -> None:
    """The HIS knows this person: the document finds them from now on, no longer someone whom only a portal has named."""
    identity = identity_of(person.record)
    plain = None if identity is None else tx.digest("identity", identity)
    if plain is None or person.identity_digest in (None, plain):
        return
    holder = await person_by_digest(tx, plain)
    if holder is not None:
        if is_confirmed(holder):
            return
        named = named_digest(tx, holder.record)
        holder.identity_digest = named if await person_by_digest(tx, named) is None else None
        await save_person(tx, holder)
    person.identity_digest = plain
    await save_person(tx, person)


def may_be_own(told: Patient, birth_date: dt.date | None = None) -> bool:
    """False where an identity card carries another birth date than the person has: then it is a guardian's."""
    born = birth_date or told.birth_date
    known = document_type(told.id_type or "")
    if known is None or known.code != ID_CARD or not told.id_number or born is None:
        return True
    carried = read_id_card(plain_number(told.id_number))
    return carried is None or carried[0] == born
