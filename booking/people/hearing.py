"""What the HIS says of persons: linked, refused, changed, merged."""

from __future__ import annotations

import msgspec

from booking.documents import plain_number
from booking.errors import SetAside
from booking.people.identities import (
    claim_document,
    documents_differ,
    free_digest,
    holders_of,
    is_confirmed,
    may_be_own,
)
from booking.people.merging import merge
from booking.people.persons import create_person, person_by_mrn, save_person
from booking.records import Person
from booking.store.engine import Tx
from booking.store.tables import person_mrns
from mappings.canonical import Patient


async def link_person(tx: Tx, person: Person, told: Patient) -> None:
    """The HIS knows this person: take over its MRN and references."""
    if told.mrn is None:
        person.his_state = "linked"
        await save_person(tx, person)
        return
    other = await person_by_mrn(tx, told.mrn)
    if other is not None and other.id != person.id:
        # The HIS says that two of ours are one: keep the one it has named longer.
        await merge(tx, survivor=other, retired=person)
        return
    person.record = msgspec.structs.replace(
        person.record, mrn=told.mrn, his_refs={**person.record.his_refs, **told.his_refs}
    )
    person.mrn_digest = tx.digest("mrn", told.mrn)
    person.his_state, person.reject_code = "linked", None
    await save_person(tx, person)
    await _note_mrn(tx, person)


async def _note_mrn(tx: Tx, person: Person) -> None:
    """The HIS knows this person by an MRN: from now on it finds them, and so does their document."""
    await tx.upsert(
        person_mrns, [{"hospital_id": tx.hospital_id, "mrn_digest": person.mrn_digest, "person_id": person.id}]
    )
    await claim_document(tx, person)


async def reject_person(tx: Tx, person: Person, code: str) -> None:
    """The HIS refuses this person's record (several fit, name and number differ)."""
    person.his_state, person.reject_code = "rejected", code
    await save_person(tx, person)


async def hear_patient(tx: Tx, told: Patient) -> None:
    """The HIS registered a person or changed their details (ADT A04, A08, A28, A31)."""
    if told.mrn is None:
        return
    person = await person_by_mrn(tx, told.mrn)
    if person is None:
        own = may_be_own(told)
        holder = (await holders_of(tx, told))[1] if own else None
        if holder is None or is_confirmed(holder):
            # Children are registered with a parent's document: a number alone makes nobody the same person.
            digest = await free_digest(tx, told) if own else None
            await _note_mrn(tx, await create_person(tx, told, pending=False, identity_digest=digest))
        else:
            await link_person(tx, holder, told)
        return
    if person.mrn_digest != tx.digest("mrn", told.mrn):
        if person.record.name:
            _refuse_split(person.record, told)
            return
        # Two unknown numbers were merged: nothing else is known of this person yet.
        told = msgspec.structs.replace(told, mrn=person.record.mrn)
    before, digest = person.record, person.identity_digest
    fields = {f: getattr(told, f) for f in told.__struct_fields__ if getattr(told, f) not in (None, (), {}, "unknown")}
    if _is_guardians(before, told):
        fields.pop("id_type", None)
        fields.pop("id_number", None)
    person.record = msgspec.structs.replace(person.record, **fields)
    if documents_differ(before.id_number, told.id_number) and not may_be_own(before, told.birth_date):
        # The HIS has corrected a document that was never theirs: it is its owner's again.
        person.identity_digest = await free_digest(tx, person.record) if may_be_own(person.record) else None
    if (person.record, person.identity_digest) != (before, digest):
        await save_person(tx, person)


def _refuse_split(known: Patient, told: Patient) -> None:
    """News under a number that was merged: late, and changes nothing; of somebody else, it means that the HIS has split them.

    Whose bookings, bills and reports are whose then, no message says: raises SetAside, for a person.
    """
    if told.name and told.name != known.name:
        raise SetAside("news of a merged record under another name: a merge is not undone by a message")
    if documents_differ(known.id_number, told.id_number):
        raise SetAside("news of a merged record with another document: a merge is not undone by a message")


async def merge_persons(tx: Tx, *, surviving_mrn: str, retired_mrn: str) -> None:
    """ADT A40: whatever was known under the retired MRN belongs to the surviving one from now on.

    Raises SetAside for a number that is to be merged into itself.
    """
    if surviving_mrn == retired_mrn:
        raise SetAside("a record is to be merged into itself")
    survivor, retired = await person_by_mrn(tx, surviving_mrn), await person_by_mrn(tx, retired_mrn)
    digest = tx.digest("mrn", retired_mrn)
    if survivor is None and retired is not None:
        # The survivor is new to us: the person stays, under the new number.
        await link_person(tx, retired, Patient(name=retired.record.name, mrn=surviving_mrn))
        return
    if survivor is None:
        survivor = await create_person(tx, Patient(name=""), pending=False, identity_digest=None)
        await link_person(tx, survivor, Patient(name="", mrn=surviving_mrn))
    if retired is not None and retired.id != survivor.id:
        await merge(tx, survivor=survivor, retired=retired)
    elif survivor.mrn_digest == digest:
        # One person to us already, whom the HIS calls by the other number from now on.
        survivor.record = msgspec.structs.replace(survivor.record, mrn=surviving_mrn)
        survivor.mrn_digest = tx.digest("mrn", surviving_mrn)
        await save_person(tx, survivor)
    await tx.upsert(person_mrns, [{"hospital_id": tx.hospital_id, "mrn_digest": digest, "person_id": survivor.id}])


def _is_guardians(known: Patient, told: Patient) -> bool:
    """Whether the document that a HIS tells of a child is the one of their guardian, under which we had them registered."""
    if known.id_number is not None or not told.id_number or not known.guardian_id_number:
        return False
    return plain_number(told.id_number) == plain_number(known.guardian_id_number)
