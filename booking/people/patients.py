"""Patients: an API client's handles to persons."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, select, update

from booking.errors import Refusal
from booking.handles import handles_of
from booking.people.identities import (
    documents_differ,
    free_digest,
    holders_of,
    identity_of,
    is_confirmed,
    person_by_digest,
)
from booking.people.persons import ask_his, create_person, load_person, owner_ids, person_by_mrn, save_person
from booking.records import Person
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.ids import new_id
from booking.store.tables import patients
from mappings.canonical import Patient


async def own_patient(
    tx: Tx, client_id: str, patient_id: str, *, or_unbound: bool = False
) -> tuple[dict[str, Any], Person]:
    """A patient of this API client. Raises Refusal(patient_unknown), also for another client's.

    `or_unbound`: also one of whom its user has let go, whose `unbound_ms` then says since when.
    """
    # The client is compared here: to PostgreSQL without statistics an index over clients looks as good as the primary key.
    row = await tx.first(select(patients).where(patients.c.hospital_id == tx.hospital_id, patients.c.id == patient_id))
    if row is not None and (row["client_id"] != client_id or (row["unbound_ms"] is not None and not or_unbound)):
        row = None
    person = None if row is None else await load_person(tx, row["person_id"])
    if row is None or person is None:
        raise unknown_patient(patient_id)
    return row, person


_UNBOUND = Fixed(
    select(patients.c.unbound_ms).where(
        patients.c.hospital_id == bindparam("of_hospital"), patients.c.id == bindparam("of_patient")
    )
)


async def is_unbound(tx: Tx, patient_id: str) -> bool:
    """Whether the user of a handle has let go of it."""
    row = await tx.first(_UNBOUND, {"of_hospital": tx.hospital_id, "of_patient": patient_id})
    return row is not None and row["unbound_ms"] is not None


_USER = Fixed(
    select(patients.c.client_id, patients.c.user_ref, patients.c.unbound_ms).where(
        patients.c.hospital_id == bindparam("of_hospital"), patients.c.id == bindparam("of_patient")
    )
)


async def user_of(tx: Tx, client_id: str, patient_id: str) -> str:
    """The `user_ref` under which a client has made a patient known. Raises Refusal(patient_unknown)."""
    row = await tx.first(_USER, {"of_hospital": tx.hospital_id, "of_patient": patient_id})
    if row is None or row["client_id"] != client_id or row["unbound_ms"] is not None:
        raise unknown_patient(patient_id)
    return str(row["user_ref"])


async def person_of(tx: Tx, patient_id: str) -> str | None:
    """The person behind a handle, whosever it is: for the record alone."""
    row = await tx.first(
        select(patients.c.person_id).where(patients.c.hospital_id == tx.hospital_id, patients.c.id == patient_id)
    )
    return None if row is None else str(row["person_id"])


def unknown_patient(patient_id: str) -> Refusal:
    """For a patient who does not exist, or is another client's: nobody learns which."""
    return Refusal("patient_unknown", f"There is no patient {patient_id} of yours at this hospital.")


async def patient_of_client(tx: Tx, client_id: str, mrn_digest: str) -> tuple[dict[str, str], Person] | None:
    """A client's own patient behind an MRN's digest (the first one, where several users have the person); None: it has none."""
    person_id = await owner_ids(tx, mrn_digest)
    person = None if person_id is None else await load_person(tx, person_id)
    row = None if person is None else next(iter(await patients_of_client(tx, client_id, person.id)), None)
    return None if row is None or person is None else (row, person)


async def patients_of_client(tx: Tx, client_id: str, person_id: str) -> list[dict[str, str]]:
    """A client's handles to a person, by id."""
    return [row for row in await handles_of(tx, person_id) if row["client_id"] == client_id]


async def patients_by_document(
    tx: Tx, client_id: str, id_type: str, id_number: str
) -> list[tuple[dict[str, str], Person]]:
    """A client's own patients whom it bound by this document."""
    identity = identity_of(Patient(name="", id_type=id_type, id_number=id_number))
    person = None if identity is None else await person_by_digest(tx, tx.digest("identity", identity))
    if person is None:
        return []
    return [(row, person) for row in await patients_of_client(tx, client_id, person.id)]


async def patients_of_user(tx: Tx, client_id: str, user_ref: str) -> list[tuple[dict[str, str], Person]]:
    """The patients of one of a client's users, by id; 200 at the most."""
    rows = await tx.all(
        select(patients)
        .where(
            patients.c.hospital_id == tx.hospital_id,
            patients.c.client_id == client_id,
            patients.c.user_ref == user_ref,
            patients.c.unbound_ms.is_(None),
        )
        .limit(200)
    )
    found = [(row, await load_person(tx, row["person_id"])) for row in sorted(rows, key=lambda row: str(row["id"]))]
    return [(row, person) for row, person in found if person is not None]


async def own_patients(tx: Tx, client_id: str, patient_id: str) -> list[tuple[dict[str, str], Person]]:
    """`own_patient` as none or one."""
    try:
        return [await own_patient(tx, client_id, patient_id)]
    except Refusal:
        return []


async def add_patient(
    tx: Tx, *, client_id: str, user_ref: str, record: Patient, links_by_command: bool, per_user: int | None = None
) -> tuple[str, Person]:
    """Find or create the person, and this client's handle to them; returns the patient's id.

    A new person is asked for at the HIS through the outbox where the hospital can do so (`links_by_command`); elsewhere they
    count as linked, and messages carry their documents. Raises Refusal(patient_rejected) when the HIS knows a document or card
    under another name, or a card's holder by another document: nobody may reach a record by a number alone. Raises
    Refusal(limit_reached) for one more than `per_user` of this user of the client's. One whom the user had let go of comes back
    under the same id.
    """
    person = await _find(tx, record)
    if person is None:
        person = await create_person(
            tx, record, pending=links_by_command, identity_digest=await free_digest(tx, record)
        )
    elif person.his_state == "rejected" and links_by_command:
        person.his_state, person.reject_code = "pending", None
        await save_person(tx, person)
        await ask_his(tx, person)
    known = await tx.first(
        select(patients.c.id, patients.c.unbound_ms).where(
            patients.c.hospital_id == tx.hospital_id,
            patients.c.client_id == client_id,
            patients.c.user_ref == user_ref,
            patients.c.person_id == person.id,
        )
    )
    if known is not None and known["unbound_ms"] is None:
        return known["id"], person
    if per_user is not None:
        await _within(tx, client_id, user_ref, per_user)
    if known is not None:
        await mark_unbound(tx, known["id"], None)
        return known["id"], person
    patient_id = new_id()
    await tx.insert(
        patients,
        {
            "hospital_id": tx.hospital_id,
            "id": patient_id,
            "client_id": client_id,
            "user_ref": user_ref,
            "person_id": person.id,
            "created_ms": tx.now_ms,
        },
    )
    return patient_id, person


_MARK = Fixed(
    update(patients)
    .where(patients.c.hospital_id == bindparam("of_hospital"), patients.c.id == bindparam("of_patient"))
    .values(unbound_ms=bindparam("at_ms"))
)


async def mark_unbound(tx: Tx, patient_id: str, at_ms: int | None) -> None:
    """A handle that its user has let go of, or (None) has bound anew."""
    await tx.run(_MARK, {"of_hospital": tx.hospital_id, "of_patient": patient_id, "at_ms": at_ms})


async def _within(tx: Tx, client_id: str, user_ref: str, per_user: int) -> None:
    bound = await tx.all(
        select(patients.c.id)
        .where(
            patients.c.hospital_id == tx.hospital_id,
            patients.c.client_id == client_id,
            patients.c.user_ref == user_ref,
            patients.c.unbound_ms.is_(None),
        )
        .limit(per_user)
    )
    if len(bound) >= per_user:
        raise Refusal(
            "limit_reached",
            f"One user may bind {per_user} patients at this hospital.",
            limit="patients_per_user",
            most=per_user,
        )


async def _find(tx: Tx, record: Patient) -> Person | None:
    """The person of this document or card, by the same name. Raises Refusal(patient_rejected).

    A name that a portal typed proves nothing until the HIS has confirmed it: another name under the same document is then
    another person to us, with handles of its own, until the HIS says which of them it knows.
    """
    first, named = await holders_of(tx, record)
    if named is not None and (first is None or is_confirmed(named) or not is_confirmed(first)):
        return named
    if first is not None:
        if is_confirmed(first):
            raise _rejected("patient_mismatch", "The name differs from the one known under this document or card.")
        if first.his_state == "pending":
            raise _rejected("patient_pending", "This document is being looked up at the hospital under another name.")
    if record.card_type != "mrn" or not record.card_number:
        return None
    holder = await person_by_mrn(tx, record.card_number)
    if holder is None:
        return None
    if not holder.record.name or holder.record.name != record.name:
        raise _rejected("patient_mismatch", "The name differs from the one known under this document or card.")
    if documents_differ(holder.record.id_number, record.id_number or ""):
        # An MRN is printed on slips, and names are common: where the hospital knows a document, it must be this one.
        raise _rejected("patient_mismatch", "This card's holder is known by another document.")
    return holder


def _rejected(reason: str, detail: str) -> Refusal:
    return Refusal("patient_rejected", detail, reason=reason)
