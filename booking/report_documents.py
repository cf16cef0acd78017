"""Which documents that are kept apart (ADR-0033) a report shows, or showed before: one that none shows is forgotten there."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import bindparam, delete, update

from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.tables import report_documents
from mappings.canonical import Report

MOST_DOCUMENT_VERSIONS = 10
"""Documents are megabytes: those of so many versions are kept, the present one among them, though more versions are."""

_OF_REPORT = (
    report_documents.c.hospital_id == bindparam("of_hospital"),
    report_documents.c.report_id == bindparam("of_report"),
)
_LAST_SHOWN = Fixed(
    update(report_documents)
    .where(*_OF_REPORT, report_documents.c.document_id == bindparam("of_document"))
    .values(last_version=bindparam("of_version"))
)
_FORGET = Fixed(delete(report_documents).where(*_OF_REPORT, report_documents.c.last_version <= bindparam("up_to")))


class Known(Protocol):
    """A report as it was stored."""

    record: Report
    version: int


async def note_documents(tx: Tx, report_id: str, report: Report, known: Known | None) -> None:
    """What the report shows now that it takes the place of what was known, which keeps its documents for a while."""
    shown = _kept_apart(report)
    before = set() if known is None else _kept_apart(known.record)
    of = {"of_hospital": tx.hospital_id, "of_report": report_id}
    if known is not None:
        for document_id in sorted(before - shown):
            await tx.run(_LAST_SHOWN, {**of, "of_document": document_id, "of_version": known.version})
        if known.version >= MOST_DOCUMENT_VERSIONS:
            await tx.run(_FORGET, {**of, "up_to": known.version + 1 - MOST_DOCUMENT_VERSIONS})
    row = {"hospital_id": tx.hospital_id, "report_id": report_id, "last_version": None}
    await tx.upsert(report_documents, [{**row, "document_id": d} for d in sorted(shown - before)])


def _kept_apart(report: Report) -> set[str]:
    return {a.document.id for a in report.attachments if a.document is not None}
