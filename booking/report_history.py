"""What a report said before: a corrected or completed one takes the place of another, which stays readable.

The bytes of documents that are kept apart are not part of it: see `booking.report_documents`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, delete, insert, select

from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.tables import report_versions, reports

MOST_VERSIONS = 100
"""So many earlier versions are kept of one report; a HIS that sends one again and again with changes fills no disk."""

_COLUMNS = ("hospital_id", "report_id", "version", "status", "sealed_record", "occurred_ms", "updated_ms")
_KEEP = Fixed(
    insert(report_versions).from_select(
        _COLUMNS,
        select(*(reports.c["id" if name == "report_id" else name] for name in _COLUMNS)).where(
            reports.c.hospital_id == bindparam("of_hospital"), reports.c.id == bindparam("of_report")
        ),
    )
)
_FORGET = Fixed(
    delete(report_versions).where(
        report_versions.c.hospital_id == bindparam("of_hospital"),
        report_versions.c.report_id == bindparam("of_report"),
        report_versions.c.version <= bindparam("up_to"),
    )
)
_ALL = Fixed(
    select(report_versions)
    .where(
        report_versions.c.hospital_id == bindparam("of_hospital"), report_versions.c.report_id == bindparam("of_report")
    )
    .order_by(report_versions.c.version.desc())
)

_ONE = Fixed(
    select(report_versions).where(
        report_versions.c.hospital_id == bindparam("of_hospital"),
        report_versions.c.report_id == bindparam("of_report"),
        report_versions.c.version == bindparam("of_version"),
    )
)


async def keep_version(tx: Tx, report_id: str, version: int) -> None:
    """Keep what is stored now as `version` of the report, before another takes its place."""
    of = {"of_hospital": tx.hospital_id, "of_report": report_id}
    await tx.run(_KEEP, of)
    if version > MOST_VERSIONS:
        await tx.run(_FORGET, {**of, "up_to": version - MOST_VERSIONS})


async def sealed_versions(tx: Tx, report_id: str) -> list[dict[str, Any]]:
    """The rows of the earlier versions, newest first, as they are stored."""
    return await tx.all(_ALL, {"of_hospital": tx.hospital_id, "of_report": report_id})


async def sealed_version(tx: Tx, report_id: str, version: int) -> dict[str, Any] | None:
    """The row of one of them."""
    return await tx.first(_ONE, {"of_hospital": tx.hospital_id, "of_report": report_id, "of_version": version})
