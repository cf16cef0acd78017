"""Forgetting reads past their days: whole segments, their rows a few at a time."""

from __future__ import annotations

import msgspec
from sqlalchemy import bindparam, delete, select

from booking.report_reads.chain import is_sealed, put_segment, scope_of, segment_of
from booking.store.engine import Store, Tx
from booking.store.fixed import Fixed
from booking.store.tables import report_read_segments, report_reads
from monitoring.logs import get_logger

CHUNK = 200
_DAY_MS = 24 * 3600 * 1000

log = get_logger("report_reads")

_OF_HOSPITAL = report_read_segments.c.hospital_id == bindparam("of_hospital")
_OLDEST = Fixed(select(report_read_segments).where(_OF_HOSPITAL).order_by(report_read_segments.c.segment).limit(2))
_FIRST_ROW = Fixed(
    select(report_reads.c.number)
    .where(report_reads.c.hospital_id == bindparam("of_hospital"))
    .order_by(report_reads.c.number)
    .limit(1)
)
_FORGET = Fixed(
    delete(report_reads).where(
        report_reads.c.hospital_id == bindparam("of_hospital"), report_reads.c.number <= bindparam("up_to")
    )
)
_FORGET_SEGMENT = Fixed(
    delete(report_read_segments).where(_OF_HOSPITAL, report_read_segments.c.segment == bindparam("of_segment"))
)


async def cut_reads(store: Store, hospital_id: str, *, keep_days: int, limit: int = CHUNK) -> int:
    """One step: mark the oldest segment whose days are over as cut, or delete some of a cut one's rows, or its row.

    The row of the newest cut segment stays: the rest begins where it ends. Returns how much was done, 0 at the end.
    """
    async with store.read(hospital_id) as tx:
        before_ms = tx.now_ms - keep_days * _DAY_MS
        if not await _step(tx, hospital_id, before_ms, limit, do=False):
            return 0
    async with store.write(scope_of(hospital_id)) as tx:
        return await _step(tx, hospital_id, before_ms, limit, do=True)


async def _step(tx: Tx, hospital_id: str, before_ms: int, limit: int, *, do: bool) -> int:
    oldest = await tx.all(_OLDEST, {"of_hospital": hospital_id})
    if not oldest:
        return 0
    first, behind = segment_of(oldest[0]), oldest[1:]
    if first.cut_ms is not None:
        row = await tx.first(_FIRST_ROW, {"of_hospital": hospital_id})
        if row is not None and row["number"] <= first.last:
            up_to = min(first.last, row["number"] + limit - 1)
            return await tx.run(_FORGET, {"of_hospital": hospital_id, "up_to": up_to}) if do else 1
        if not behind:
            return 0
    # What somebody has altered is evidence: it is not cut, and nothing behind it.
    following = behind[0] if first.cut_ms is not None else oldest[0]
    segment = segment_of(following)
    if segment.cut_ms is None:
        if segment.last_ms >= before_ms or not is_sealed(tx.vault, hospital_id, following):
            return 0
        if do:
            await put_segment(tx, hospital_id, msgspec.structs.replace(segment, cut_ms=tx.now_ms))
            log.info("report_reads_cut", hospital=hospital_id, segment=segment.segment, up_to=segment.last)
        return 1
    if do:
        await tx.run(_FORGET_SEGMENT, {"of_hospital": hospital_id, "of_segment": first.segment})
    return 1
