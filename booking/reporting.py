"""Lab and exam reports: stored as they come, newest word of the HIS first, read only by the patient's own client."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, and_, bindparam, or_, select, true

from booking.errors import Refusal, SetAside
from booking.news import tell_owners
from booking.people import digests_of, mrn_digests, owner_ids
from booking.records import Person
from booking.report_documents import note_documents
from booking.report_history import keep_version, sealed_version, sealed_versions
from booking.report_rules import ReportRule, shown_from_ms
from booking.report_words import is_heading_of, word_taken
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.ids import derived_id
from booking.store.tables import reports
from mappings.canonical import Report, ReportStatus
from monitoring import metrics

AT_ONCE = ReportRule()


class ReportRefused(Refusal):
    """A report is not given. `because` is for the record of reads alone: unknown, not_theirs, not_released."""

    def __init__(self, report_id: str, because: str) -> None:
        super().__init__("report_unknown", f"There is no report {report_id} of this patient.")
        self.because = because


MOST_LISTED = 200
_PAGE = 200
LONG_BYTES = 65_536  # sealing this much takes a millisecond
_SEALED = ("reports", "record")


class ReportRow(msgspec.Struct, kw_only=True):
    """A report as stored; `version` grows with every change of its content."""

    hospital_id: str
    id: str
    his_id: str
    mrn_digest: str
    status: str
    version: int
    record: Report
    occurred_ms: int | None = None
    updated_ms: int = 0


def _row(tx: Tx, row: dict[str, Any], opened: bytes | None = None) -> ReportRow:
    row = dict(row)
    sealed = row.pop("sealed_record")
    row["record"] = msgspec.json.decode(opened or tx.unseal(sealed, *_SEALED), type=Report)
    return msgspec.convert(row, ReportRow)


async def put_report(
    tx: Tx,
    report: Report,
    *,
    mrn: str | None = None,
    occurred_ms: int | None = None,
    told: bool = False,
    rule: ReportRule = AT_ONCE,
    zone: dt.tzinfo = dt.UTC,
) -> ReportRow:
    """Insert or update a report. An older word than the stored one (by the HIS's time) is dropped, equal ones keep order.

    `told` is for news of the HIS: how late it came is measured. What is asked for live is as old as it likes.
    By the hospital's `rule` portals hear nothing of a report that may not be seen as it is, and of a delayed one from when on,
    in the hospital's `zone`.
    Raises SetAside for a report without a patient: it must never be guessed whose it is.
    """
    owner = report.mrn or mrn
    if owner is None:
        raise SetAside("report without a patient")
    digest = tx.digest("mrn", owner)
    known = await _known(tx, report, digest)
    row_id = _id_of(tx, report, digest) if known is None else known.id
    report = msgspec.structs.replace(report, mrn=owner)
    if known is not None:
        if occurred_ms is not None and known.occurred_ms is not None and occurred_ms < known.occurred_ms:
            return known
        word = word_taken(
            report, known.record, pushed=occurred_ms is not None, known_pushed=known.occurred_ms is not None
        )
        if word is None:
            return known
        report = word
        if occurred_ms is None:
            occurred_ms = known.occurred_ms  # a word without a time does not make the known time unknown
    row = ReportRow(
        hospital_id=tx.hospital_id,
        id=row_id,
        his_id=tx.digest("report", report.id),
        mrn_digest=digest,
        status=report.status.value,
        version=1 if known is None else known.version + 1,
        record=report,
        occurred_ms=occurred_ms,
        updated_ms=tx.now_ms,
    )
    if known is not None and not is_heading_of(known.record, report):
        await keep_version(tx, row_id, known.version)
    await tx.upsert(
        reports,
        [
            {
                **{f: getattr(row, f) for f in row.__struct_fields__ if f != "record"},
                "sealed_record": await _or_aside(tx.seal, msgspec.json.encode(report)),
            }
        ],
    )
    await note_documents(tx, row_id, report, known)
    if told:
        _count_delay(tx, report, occurred_ms)
    await _tell(tx, row, rule, zone)
    return row


async def _tell(tx: Tx, row: ReportRow, rule: ReportRule, zone: dt.tzinfo) -> None:
    from_ms = _shown_from_ms(row, rule)
    person_id = None if from_ms is None else await owner_ids(tx, row.mrn_digest)
    if from_ms is None or person_id is None:
        return
    payload = {"report_id": row.id, "status": row.status, "version": row.version}
    if from_ms > tx.now_ms:
        payload["shown_at"] = dt.datetime.fromtimestamp(from_ms / 1000, zone).isoformat()
    await tell_owners(tx, person_id, "report.changed", payload)


def _shown_from_ms(row: ReportRow, rule: ReportRule) -> int | None:
    return shown_from_ms(rule, row.record, row.updated_ms if row.occurred_ms is None else row.occurred_ms)


def is_released(tx: Tx, row: ReportRow, rule: ReportRule) -> bool:
    """Whether the hospital lets its patient see a report now."""
    from_ms = _shown_from_ms(row, rule)
    return from_ms is not None and from_ms <= tx.now_ms


def _count_delay(tx: Tx, report: Report, occurred_ms: int | None) -> None:
    """From its issue at the HIS, by the report's own time, else the message's, to the moment from which it can be read."""
    issued_ms = occurred_ms if report.issued_at is None else round(report.issued_at.timestamp() * 1000)
    if issued_ms is None:
        return
    delay_s = max(0.0, (tx.now_ms - issued_ms) / 1000)  # a HIS whose clock is ahead is not early
    tx.count(lambda: metrics.report_delay_seconds.labels(hospital=tx.hospital_id).observe(delay_s))


async def is_known(tx: Tx, report: Report, *, mrn: str) -> bool:
    """Whether a report as the HIS tells it now is stored as this patient's: then `put_report` has nothing to do."""
    report = msgspec.structs.replace(report, mrn=report.mrn or mrn)
    known = await _known(tx, report, tx.digest("mrn", str(report.mrn)))
    if known is None:
        return False
    return word_taken(report, known.record, pushed=False, known_pushed=known.occurred_ms is not None) is None


def _id_of(tx: Tx, report: Report, mrn_digest: str) -> str:
    return derived_id("rp_", tx.hospital_id, mrn_digest, report.id)


async def _known(tx: Tx, report: Report, mrn_digest: str) -> ReportRow | None:
    """The stored one of this number, also under another number of the same person: since a merge it is the same report."""
    known = await load_report(tx, _id_of(tx, report, mrn_digest))
    person_id = None if known is not None else await owner_ids(tx, mrn_digest)
    if person_id is None:
        return known
    others = [digest for digest in await digests_of(tx, person_id) if digest != mrn_digest]
    if not others:
        return None
    row = await tx.first(
        select(reports)
        .where(
            reports.c.hospital_id == tx.hospital_id,
            reports.c.mrn_digest.in_(others),
            reports.c.his_id == tx.digest("report", report.id),
        )
        .limit(1)
    )
    return None if row is None else _row(tx, row, await _or_aside(tx.unseal, row["sealed_record"]))


_REPORT = Fixed(
    select(reports).where(reports.c.hospital_id == bindparam("of_hospital"), reports.c.id == bindparam("of_report"))
)


async def load_report(tx: Tx, report_id: str) -> ReportRow | None:
    """A report of this hospital."""
    row = await tx.first(_REPORT, {"of_hospital": tx.hospital_id, "of_report": report_id})
    return None if row is None else _row(tx, row, await _or_aside(tx.unseal, row["sealed_record"]))


async def _or_aside(work: Callable[[bytes, str, str], bytes], data: bytes) -> bytes:
    """Seal or open a record; a long one beside the event loop."""
    if len(data) <= LONG_BYTES:
        return work(data, *_SEALED)
    return await asyncio.to_thread(work, data, *_SEALED)


async def own_report(tx: Tx, person: Person, report_id: str, rule: ReportRule = AT_ONCE) -> ReportRow:
    """A report of this person. Raises ReportRefused, also for somebody else's, and for one that is not released."""
    report = await load_report(tx, report_id)
    if report is None:
        raise ReportRefused(report_id, "unknown")
    if report.mrn_digest not in await mrn_digests(tx, person):
        raise ReportRefused(report_id, "not_theirs")
    if not is_released(tx, report, rule):
        raise ReportRefused(report_id, "not_released")
    return report


async def versions_of(tx: Tx, row: ReportRow, rule: ReportRule = AT_ONCE) -> list[ReportRow]:
    """A report as it is and as it was, newest first: what the hospital's rule let its patient see.

    What a list had told before the report itself came is no version of it. Of a report entered in error nothing earlier is shown:
    it may have been another patient's.
    """
    earlier: list[ReportRow] = []
    if row.record.status == ReportStatus.ENTERED_IN_ERROR:
        return [row]
    for kept in await sealed_versions(tx, row.id):
        earlier.append(await _earlier(tx, row, kept))
    return [row, *(version for version in earlier if is_released(tx, version, rule))]


async def version_of(tx: Tx, row: ReportRow, version: int, rule: ReportRule = AT_ONCE) -> ReportRow | None:
    """One of `versions_of`; None where it is not among them."""
    if version == row.version:
        return row
    if row.record.status == ReportStatus.ENTERED_IN_ERROR:
        return None
    kept = await sealed_version(tx, row.id, version)
    earlier = None if kept is None else await _earlier(tx, row, kept)
    return earlier if earlier is not None and is_released(tx, earlier, rule) else None


async def _earlier(tx: Tx, row: ReportRow, kept: dict[str, Any]) -> ReportRow:
    opened = await _or_aside(tx.unseal, bytes(kept["sealed_record"]))
    of_report = {"id": row.id, "his_id": row.his_id, "mrn_digest": row.mrn_digest}
    columns = {name: value for name, value in kept.items() if name != "report_id"}
    return _row(tx, {**columns, **of_report}, opened)


async def reports_of(tx: Tx, person: Person, rule: ReportRule = AT_ONCE) -> list[ReportRow]:
    """The newest MOST_LISTED stored reports of a person that are released, newest first.

    However many there are that the patient may not see yet: they take no place in the list. One that was read under the surviving
    number before its merge was heard is stored twice: that under the person's own number is shown, which its next word goes to.
    """
    own = None if person.record.mrn is None else tx.digest("mrn", person.record.mrn)
    places: dict[str, int] = {}  # in `shown`, by the HIS's number
    shown, after = list[ReportRow](), None
    mine = (reports.c.hospital_id == tx.hospital_id, reports.c.mrn_digest.in_(await mrn_digests(tx, person)))
    while len(shown) < MOST_LISTED:
        page = await tx.all(
            select(reports)
            .where(*mine, true() if after is None else _follow(after))
            .order_by(reports.c.updated_ms.desc(), reports.c.id)
            .limit(_PAGE)
        )
        for one in page:
            row = _row(tx, one, await _or_aside(tx.unseal, one["sealed_record"]))
            if not is_released(tx, row, rule):
                continue
            if row.his_id not in places:
                places[row.his_id] = len(shown)
                shown.append(row)
            elif row.mrn_digest == own:
                shown[places[row.his_id]] = row
        if len(page) < _PAGE:
            break
        after = page[-1]
    return shown[:MOST_LISTED]


def _follow(last: dict[str, Any]) -> ColumnElement[bool]:
    """What comes after this row where the newest is first."""
    earlier = reports.c.updated_ms < last["updated_ms"]
    return or_(earlier, and_(reports.c.updated_ms == last["updated_ms"], reports.c.id > last["id"]))
