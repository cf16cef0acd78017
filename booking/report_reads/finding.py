"""Looking up who read what."""

from __future__ import annotations

import msgspec
from sqlalchemy import func, select

from booking.people import identity_of, owner_ids, person_by_mrn
from booking.people.identities import person_by_digest
from booking.report_reads.rows import ReadRow
from booking.reporting import load_report
from booking.store.engine import Tx
from booking.store.tables import patients, persons, report_reads
from mappings.canonical import Patient

PAGE = 500


class WantedReads(msgspec.Struct, frozen=True, kw_only=True):
    """Which reads: all that are not None must fit. `until_ms` is left out; `before` are numbers below it."""

    client_id: str | None = None
    person_ids: tuple[str, ...] | None = None
    report_id: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    before: int | None = None


async def find_reads(tx: Tx, wanted: WantedReads, *, limit: int = PAGE) -> list[ReadRow]:
    """The newest that fit, newest first."""
    c = report_reads.c
    query = select(*(c[name] for name in ReadRow.__struct_fields__)).where(c.hospital_id == tx.hospital_id)
    if wanted.person_ids is not None:
        query = query.where(c.person_id.in_(wanted.person_ids))
    if wanted.client_id is not None:
        query = query.where(c.client_id == wanted.client_id)
    if wanted.report_id is not None:
        query = query.where(c.reports.contains(wanted.report_id, autoescape=True))
    first, last = await _numbers(tx, wanted)
    if first is not None:
        query = query.where(c.number >= first)
    if last is not None:
        query = query.where(c.number < last)
    rows = await tx.all(query.order_by(c.number.desc()).limit(limit))
    return [msgspec.convert(row, ReadRow) for row in rows]


async def _numbers(tx: Tx, wanted: WantedReads) -> tuple[int | None, int | None]:
    """From which number on, and below which: numbers are in the order of time, and have an index of their own."""
    first = None if wanted.since_ms is None else await _first_from(tx, wanted.since_ms)
    last = None if wanted.until_ms is None else await _first_from(tx, wanted.until_ms)
    return first, min((n for n in (last, wanted.before) if n is not None), default=None)


async def _first_from(tx: Tx, at_ms: int) -> int:
    row = await tx.first(
        select(report_reads.c.number)
        .where(report_reads.c.hospital_id == tx.hospital_id, report_reads.c.at_ms >= at_ms)
        .order_by(report_reads.c.at_ms, report_reads.c.number)
        .limit(1)
    )
    if row is not None:
        return int(row["number"])
    top = await tx.first(
        select(func.max(report_reads.c.number).label("top")).where(report_reads.c.hospital_id == tx.hospital_id)
    )
    return 1 if top is None or top["top"] is None else int(top["top"]) + 1


async def persons_meant(
    tx: Tx,
    *,
    patient_id: str | None = None,
    mrn: str | None = None,
    document: tuple[str, str] | None = None,
    report_id: str | None = None,
) -> tuple[str, ...]:
    """The ids under which a person's reads may stand: their own, and those that were merged into it."""
    found: set[str] = set()
    if patient_id is not None:
        row = await tx.first(
            select(patients.c.person_id).where(patients.c.hospital_id == tx.hospital_id, patients.c.id == patient_id)
        )
        found |= set() if row is None else {row["person_id"]}
    if mrn is not None and (person := await person_by_mrn(tx, mrn)) is not None:
        found.add(person.id)
    if document is not None:
        identity = identity_of(Patient(name="", id_type=document[0], id_number=document[1]))
        holder = None if identity is None else await person_by_digest(tx, tx.digest("identity", identity))
        found |= set() if holder is None else {holder.id}
    if report_id is not None and (report := await load_report(tx, report_id)) is not None:
        found |= {id_ for id_ in (await owner_ids(tx, report.mrn_digest),) if id_ is not None}
    return tuple(sorted(await _with_merged(tx, found)))


async def _with_merged(tx: Tx, found: set[str]) -> set[str]:
    """Whoever they were merged into, and whoever was merged into those."""
    every, fresh = set(found), set(found)
    while fresh:
        of = persons.c.hospital_id == tx.hospital_id
        into = await tx.all(select(persons.c.merged_into).where(of, persons.c.id.in_(fresh)))
        from_ = await tx.all(
            select(persons.c.id).where(of, persons.c.merged_into.is_not(None), persons.c.merged_into.in_(fresh))
        )
        fresh = {row["merged_into"] for row in into if row["merged_into"]} | {row["id"] for row in from_}
        fresh -= every
        every |= fresh
    return every
