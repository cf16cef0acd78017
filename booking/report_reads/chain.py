"""The chain: each row sealed to the one before, in segments of which old ones can go while the rest still verifies.

A segment is a hospital's reads of a day, or a part of them. Its row says which numbers it has and with which digest it began and
ends; that digest begins the next one. All digests are keyed (the digest key): who can write to the database without the key can
neither alter, remove, insert or exchange rows unseen, nor make a segment look as if its time were over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import bindparam, select

from booking.report_reads.rows import ReadRow, ReportRead
from booking.store.crypto import Vault
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.tables import report_read_segments, report_reads
from monitoring.logs import get_logger

BEGINNING = "0" * 64
MOST_ROWS = 50_000
"""A segment with so many is followed by another on the same day: so much goes at once when its time is over."""
_DAY_MS = 24 * 3600 * 1000

log = get_logger("report_reads")


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of the chain. `cut_ms`: since when its rows may go, and are gone sooner or later."""

    segment: int
    first: int
    last: int
    opened_ms: int
    last_ms: int
    before: str
    closing: str
    cut_ms: int | None = None


_OF_HOSPITAL = report_read_segments.c.hospital_id == bindparam("of_hospital")
_NEWEST = Fixed(
    select(report_read_segments).where(_OF_HOSPITAL).order_by(report_read_segments.c.segment.desc()).limit(1)
)

_TOP = Fixed(
    select(report_reads.c.number)
    .where(report_reads.c.hospital_id == bindparam("of_hospital"))
    .order_by(report_reads.c.number.desc())
    .limit(1)
)


def scope_of(hospital_id: str) -> str:
    """Under whose lock reads are written: not the hospital's own, for which holds wait."""
    return f"{hospital_id}#reads"


async def append_reads(tx: Tx, hospital_id: str, reads: Sequence[ReportRead]) -> None:
    """Add rows to the hospital's chain, in a write under `scope_of` it."""
    if not reads:
        return
    head = await _head(tx, hospital_id)
    rows, closing = [], head.closing
    for number, read in enumerate(reads, head.last + 1):
        row = ReadRow(
            number=number,
            at_ms=tx.now_ms,
            client_id=read.client_id,
            user_ref=read.user_ref,
            patient_id=read.patient_id,
            person_id=read.person_id,
            what=read.what.value,
            reports=" ".join(read.reports),
            outcome=read.outcome.value,
            request_id=read.request_id,
        )
        closing = digest_of(tx.vault, hospital_id, closing, row)
        rows.append({"hospital_id": hospital_id, **msgspec.structs.asdict(row), "digest": closing})
    await tx.insert(report_reads, *rows)
    await put_segment(
        tx, hospital_id, msgspec.structs.replace(head, last=rows[-1]["number"], last_ms=tx.now_ms, closing=closing)
    )


async def _head(tx: Tx, hospital_id: str) -> Segment:
    """The segment that goes on, or a new one behind all that is there. What was altered is left for the check to find."""
    of = {"of_hospital": hospital_id}
    known, top = await tx.first(_NEWEST, of), await tx.first(_TOP, of)
    highest = 0 if top is None else int(top["number"])
    if known is None:
        return _opened(tx, 1, highest, BEGINNING)
    newest = segment_of(known)
    if not is_sealed(tx.vault, hospital_id, known) or highest > newest.last:
        log.error("report_reads_altered", hospital=hospital_id, segment=newest.segment)
    elif (
        newest.cut_ms is None and newest.last - newest.first + 1 < MOST_ROWS and _same_day(newest.opened_ms, tx.now_ms)
    ):
        return newest
    return _opened(tx, newest.segment + 1, max(newest.last, highest), newest.closing)


def _opened(tx: Tx, segment: int, last: int, closing: str) -> Segment:
    return Segment(
        segment=segment,
        first=last + 1,
        last=last,
        opened_ms=tx.now_ms,
        last_ms=tx.now_ms,
        before=closing,
        closing=closing,
    )


def _same_day(one_ms: int, other_ms: int) -> bool:
    return one_ms // _DAY_MS == other_ms // _DAY_MS


async def put_segment(tx: Tx, hospital_id: str, segment: Segment) -> None:
    """Write a segment's row with its seal."""
    seal = _seal(tx.vault, hospital_id, segment)
    await tx.upsert(
        report_read_segments, [{"hospital_id": hospital_id, **msgspec.structs.asdict(segment), "seal": seal}]
    )


def segment_of(row: dict[str, Any]) -> Segment:
    """A stored segment, whether or not its seal fits."""
    return msgspec.convert({name: row[name] for name in Segment.__struct_fields__}, Segment)


def is_sealed(vault: Vault, hospital_id: str, row: dict[str, Any]) -> bool:
    """Whether a segment's row is as it was written."""
    return bool(row["seal"] == _seal(vault, hospital_id, segment_of(row)))


def digest_of(vault: Vault, hospital_id: str, before: str, row: ReadRow) -> str:
    """The digest of a row behind one with the digest `before`."""
    return vault.digest("report_read", hospital_id, before + _told(msgspec.structs.astuple(row)))


def _seal(vault: Vault, hospital_id: str, segment: Segment) -> str:
    return vault.digest("report_read_segment", hospital_id, _told(msgspec.structs.astuple(segment)))


def _told(fields: tuple[Any, ...]) -> str:
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":"))
