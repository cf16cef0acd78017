"""Persons and patients: a person is one human at one hospital, a patient is an API client's handle to a person."""

from __future__ import annotations

import datetime as dt

import msgspec
from sqlalchemy import Table, bindparam, select, update

from booking.commands import queue_command, wake_topic
from booking.errors import Refusal
from booking.identity import ID_CARD, read_id_card
from booking.records import Person, person_from_row, person_to_row
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.ids import new_id
from booking.store.tables import bookings, patients, person_mrns, persons
from mappings.canonical import Patient


def identity_of(patient: Patient) -> str | None:
    """What makes two records one person before the HIS has spoken: the document, else the card. None for neither."""
    if patient.id_type and patient.id_number:
        return f"{patient.id_type}:{patient.id_number.upper()}"
    if patient.card_type and patient.card_number:
        return f"card:{patient.card_type}:{patient.card_number}"
    return None


_PERSON = Fixed(
    select(persons).where(persons.c.hospital_id == bindparam("of_hospital"), persons.c.id == bindparam("of_person"))
)


async def load_person(tx: Tx, person_id: str) -> Person | None:
    """A person, following merges to the survivor."""
    for _ in range(10):  # a chain of merges is short; a ring would be a fault of ours
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


async def own_patient(tx: Tx, client_id: str, patient_id: str) -> tuple[dict[str, str], Person]:
    """A patient of this API client. Raises Refusal(patient_unknown), also for another client's."""
    # The client is compared here: to PostgreSQL without statistics an index over clients looks as good as the primary key.
    row = await tx.first(select(patients).where(patients.c.hospital_id == tx.hospital_id, patients.c.id == patient_id))
    if row is not None and row["client_id"] != client_id:
        row = None
    person = None if row is None else await load_person(tx, row["person_id"])
    if row is None or person is None:
        raise unknown_patient(patient_id)
    return row, person


_USER = Fixed(
    select(patients.c.client_id, patients.c.user_ref).where(
        patients.c.hospital_id == bindparam("of_hospital"), patients.c.id == bindparam("of_patient")
    )
)


async def user_of(tx: Tx, client_id: str, patient_id: str) -> str:
    """The `user_ref` under which a client has made a patient known. Raises Refusal(patient_unknown)."""
    row = await tx.first(_USER, {"of_hospital": tx.hospital_id, "of_patient": patient_id})
    if row is None or row["client_id"] != client_id:
        raise unknown_patient(patient_id)
    return str(row["user_ref"])


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
    rows = await tx.all(
        select(patients).where(patients.c.hospital_id == tx.hospital_id, patients.c.person_id == person_id)
    )
    return sorted((row for row in rows if row["client_id"] == client_id), key=lambda row: str(row["id"]))


async def patients_by_document(
    tx: Tx, client_id: str, id_type: str, id_number: str
) -> list[tuple[dict[str, str], Person]]:
    """A client's own patients whom it bound by this document."""
    identity = identity_of(Patient(name="", id_type=id_type, id_number=id_number))
    person = None if identity is None else await _by_digest(tx, tx.digest("identity", identity))
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
        )
        .limit(200)
    )
    found = [(row, await load_person(tx, row["person_id"])) for row in sorted(rows, key=lambda row: str(row["id"]))]
    return [(row, person) for row, person in found if person is not None]


async def add_patient(
    tx: Tx, *, client_id: str, user_ref: str, record: Patient, links_by_command: bool
) -> tuple[str, Person]:
    """Find or create the person, and this client's handle to them; returns the patient's id.

    A new person is asked for at the HIS through the outbox where the hospital can do so (`links_by_command`); elsewhere they
    count as linked, and messages carry their documents. Raises Refusal(patient_rejected) when the HIS knows a document or card
    under another name, or a card's holder by another document: nobody may reach a record by a number alone.
    """
    person = await _find(tx, record)
    if person is None:
        person = await _create(tx, record, pending=links_by_command)
    elif person.his_state == "rejected" and links_by_command:
        person.his_state, person.reject_code = "pending", None
        await save_person(tx, person)
        await _ask_his(tx, person)
    known = await tx.first(
        select(patients.c.id).where(
            patients.c.hospital_id == tx.hospital_id,
            patients.c.client_id == client_id,
            patients.c.user_ref == user_ref,
            patients.c.person_id == person.id,
        )
    )
    if known is not None:
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


async def _find(tx: Tx, record: Patient) -> Person | None:
    """The person of this document or card, by the same name. Raises Refusal(patient_rejected).

    A name that a portal typed proves nothing until the HIS has confirmed it: another name under the same document is then
    another person to us, with handles of its own, until the HIS says which of them it knows.
    """
    first, named = await _by_identity(tx, record)
    if named is not None and (first is None or _confirmed(named) or not _confirmed(first)):
        return named
    if first is not None:
        if _confirmed(first):
            raise Refusal("patient_rejected", "The name differs from the one known under this document or card.")
        if first.his_state == "pending":
            raise Refusal("patient_rejected", "This document is being looked up at the hospital under another name.")
    if record.card_type != "mrn" or not record.card_number:
        return None
    holder = await person_by_mrn(tx, record.card_number)
    if holder is None:
        return None
    if not holder.record.name or holder.record.name != record.name:
        raise Refusal("patient_rejected", "The name differs from the one known under this document or card.")
    if documents_differ(holder.record.id_number, record.id_number or ""):
        # An MRN is printed on slips, and names are common: where the hospital knows a document, it must be this one.
        raise Refusal("patient_rejected", "This card's holder is known by another document.")
    return holder


def _confirmed(person: Person) -> bool:
    """Whether the HIS itself has told of this person, and so of the name."""
    return person.record.mrn is not None


def documents_differ(known: str | None, given: str | None) -> bool:
    """Whether two document numbers are certainly of two people; one that is not known, or masked, tells nothing."""
    if known is None or given is None or not known or "*" in known or "*" in given:
        return False
    known, given = known.upper(), given.upper()
    if {len(known), len(given)} == {15, 18}:
        # The 15-digit resident number is the 18-digit one without century and check character (GB 11643-1999).
        long, short = (known, given) if len(known) == 18 else (given, known)
        return long[:6] + long[8:17] != short
    return known != given


async def _by_identity(tx: Tx, record: Patient) -> tuple[Person | None, Person | None]:
    """The first holder of this document (or card), and the holder of the same name; both are one where the names agree."""
    identity = identity_of(record)
    if identity is None:
        return None, None
    first = await _by_digest(tx, tx.digest("identity", identity))
    if first is not None and first.record.name == record.name:
        return first, first
    named = await _by_digest(tx, _named_digest(tx, record))
    return first, named if named is not None and named.record.name == record.name else None


_BY_DOCUMENT = Fixed(
    select(persons).where(
        persons.c.hospital_id == bindparam("of_hospital"),
        persons.c.identity_digest == bindparam("of_digest"),
        persons.c.merged_into.is_(None),
    )
)


async def _by_digest(tx: Tx, digest: str | None) -> Person | None:
    if digest is None:
        return None
    row = await tx.first(_BY_DOCUMENT, {"of_hospital": tx.hospital_id, "of_digest": digest})
    return None if row is None else person_from_row(tx, row)


def _named_digest(tx: Tx, record: Patient) -> str | None:
    """What finds a person whose document is held under another name: the document and the name together."""
    identity = identity_of(record)
    return None if identity is None else tx.digest("identity", f"{identity}\n{record.name}")


async def _free_digest(tx: Tx, record: Patient) -> str | None:
    """By what a new person can be found: the document, the document with the name where others hold it, else nothing."""
    identity = identity_of(record)
    if identity is None:
        return None
    for digest in (tx.digest("identity", identity), _named_digest(tx, record)):
        if await _by_digest(tx, digest) is None:
            return digest
    return None


async def _claim_document(tx: Tx, person: Person) -> None:
    """The HIS knows this person: the document finds them from now on, no longer someone whom only a portal has named."""
    identity = identity_of(person.record)
    plain = None if identity is None else tx.digest("identity", identity)
    if plain is None or person.identity_digest in (None, plain):
        return
    holder = await _by_digest(tx, plain)
    if holder is not None:
        if _confirmed(holder):
            return
        named = _named_digest(tx, holder.record)
        holder.identity_digest = named if await _by_digest(tx, named) is None else None
        await save_person(tx, holder)
    person.identity_digest = plain
    await save_person(tx, person)


async def _create(tx: Tx, record: Patient, *, pending: bool, by_document: bool = True) -> Person:
    """A new person. The one of a record with an MRN is to be found by it from now on: `_note_mrn`."""
    person = Person(
        hospital_id=tx.hospital_id,
        id=new_id(),
        his_state="pending" if pending else "linked",
        record=record,
        identity_digest=await _free_digest(tx, record) if by_document else None,
        mrn_digest=None if record.mrn is None else tx.digest("mrn", record.mrn),
        created_ms=tx.now_ms,
        updated_ms=tx.now_ms,
    )
    await tx.insert(persons, person_to_row(tx, person))
    if pending:
        await _ask_his(tx, person)
    return person


async def _ask_his(tx: Tx, person: Person) -> None:
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


async def link_person(tx: Tx, person: Person, told: Patient) -> None:
    """The HIS knows this person: take over its MRN and references."""
    if told.mrn is None:
        person.his_state = "linked"
        await save_person(tx, person)
        return
    other = await person_by_mrn(tx, told.mrn)
    if other is not None and other.id != person.id:
        # The HIS says that two of ours are one: keep the one it has named longer.
        await _merge(tx, survivor=other, retired=person)
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
    await _claim_document(tx, person)


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
        own = _may_be_own(told)
        holder = (await _by_identity(tx, told))[1] if own else None
        if holder is None or _confirmed(holder):
            # Children are registered with a parent's document: a number alone makes nobody the same person.
            await _note_mrn(tx, await _create(tx, told, pending=False, by_document=own))
        else:
            await link_person(tx, holder, told)
        return
    before, digest = person.record, person.identity_digest
    fields = {f: getattr(told, f) for f in told.__struct_fields__ if getattr(told, f) not in (None, (), {}, "unknown")}
    person.record = msgspec.structs.replace(person.record, **fields)
    if documents_differ(before.id_number, told.id_number) and not _may_be_own(before, told.birth_date):
        # The HIS has corrected a document that was never theirs: it is its owner's again.
        person.identity_digest = await _free_digest(tx, person.record) if _may_be_own(person.record) else None
    if (person.record, person.identity_digest) != (before, digest):
        await save_person(tx, person)


def _may_be_own(told: Patient, birth_date: dt.date | None = None) -> bool:
    """False where an identity card carries another birth date than the person has: then it is a guardian's."""
    born = birth_date or told.birth_date
    if told.id_type != ID_CARD or not told.id_number or born is None:
        return True
    carried = read_id_card(told.id_number.upper())
    return carried is None or carried[0] == born


async def merge_persons(tx: Tx, *, surviving_mrn: str, retired_mrn: str) -> None:
    """ADT A40: whatever was known under the retired MRN belongs to the surviving one from now on."""
    survivor, retired = await person_by_mrn(tx, surviving_mrn), await person_by_mrn(tx, retired_mrn)
    digest = tx.digest("mrn", retired_mrn)
    if survivor is None and retired is not None:
        # The survivor is new to us: the person stays, under the new number.
        await link_person(tx, retired, Patient(name=retired.record.name, mrn=surviving_mrn))
        return
    if survivor is None:
        survivor = await _create(tx, Patient(name=""), pending=False)
        await link_person(tx, survivor, Patient(name="", mrn=surviving_mrn))
    if retired is not None and retired.id != survivor.id:
        await _merge(tx, survivor=survivor, retired=retired)
    await tx.upsert(person_mrns, [{"hospital_id": tx.hospital_id, "mrn_digest": digest, "person_id": survivor.id}])


async def _merge(tx: Tx, *, survivor: Person, retired: Person) -> None:
    """Retired's patients, live bookings and numbers now belong to the survivor.

    Where both have the same (a handle of one user, a live booking at one schedule), retired keeps its own.
    """
    retired.merged_into = survivor.id
    retired.his_state = "linked"
    await save_person(tx, retired)
    if survivor.identity_digest is None and retired.identity_digest is not None:
        # The document is how portals find them again.
        known, old = survivor.record, retired.record
        survivor.identity_digest = retired.identity_digest
        survivor.record = msgspec.structs.replace(
            known,
            name=known.name or old.name,
            id_type=old.id_type,
            id_number=old.id_number,
            card_type=known.card_type or old.card_type,
            card_number=known.card_number or old.card_number,
        )
        await save_person(tx, survivor)
    await _claim_document(tx, survivor)
    whose = {"of_hospital": tx.hospital_id, "of_retired": retired.id, "to_survivor": survivor.id}
    for statement in (_HANDLES, _LIVE_BOOKINGS, _NUMBERS):
        await tx.run(statement, whose)
    tx.ring(f"person:{retired.id}")


def _handing_over(table: Table, *same: str) -> Fixed:
    """Give retired's rows to the survivor, except where the survivor has one with the `same` values already.

    Of bookings only the live ones: only they are looked for by person, and a long history would hold the lock for long.
    """
    mine = (table.c.hospital_id == bindparam("of_hospital")) & (table.c.person_id == bindparam("of_retired"))
    if "live" in table.c:
        mine &= table.c.live
    if same:
        own = table.alias("own")
        mine &= ~(
            select(own.c.hospital_id)
            .where(
                own.c.hospital_id == bindparam("of_hospital"),
                own.c.person_id == bindparam("to_survivor"),
                *(own.c[name] == table.c[name] for name in same),
            )
            .exists()
        )
    return Fixed(update(table).where(mine).values(person_id=bindparam("to_survivor")))


_HANDLES = _handing_over(patients, "client_id", "user_ref")
_LIVE_BOOKINGS = _handing_over(bookings, "schedule_id", "live")
_NUMBERS = _handing_over(person_mrns)


async def mrn_digests(tx: Tx, person: Person) -> list[str]:
    """The digests of every MRN that means this person, for looking up bills and reports."""
    rows = await tx.all(
        select(person_mrns.c.mrn_digest).where(
            person_mrns.c.hospital_id == tx.hospital_id, person_mrns.c.person_id == person.id
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


async def own_patients(tx: Tx, client_id: str, patient_id: str) -> list[tuple[dict[str, str], Person]]:
    """`own_patient` as none or one."""
    try:
        return [await own_patient(tx, client_id, patient_id)]
    except Refusal:
        return []
