"""Whether the chain of reads is as it was written, and where it is not."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import func, select

from booking.report_reads.chain import BEGINNING, Segment, digest_of, is_sealed, segment_of
from booking.report_reads.rows import ReadRow
from booking.store.engine import Store
from booking.store.tables import report_read_segments, report_reads

PAGE = 500
MOST_FAULTS = 100


class Fault(msgspec.Struct, frozen=True):
    """A place where the chain is broken: `kind` is changed, missing or inserted for rows, segment for a segment's row."""

    kind: str
    number: int

    def __str__(self) -> str:
        if self.kind == "segment":
            return f"segment {self.number} is missing, or is not what was written"
        return f"row {self.number} " + {
            "changed": "is not what was written, or stands where another was",
            "missing": "is missing",
            "inserted": "was never written",
        }.get(self.kind, self.kind)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: the first faults, how many rows were looked at, and up to which number and digest the chain goes."""

    faults: tuple[Fault, ...]
    rows: int
    first: int
    last: int
    closing: str


async def verify_reads(store: Store, hospital_id: str) -> Verdict:
    """Look through a hospital's chain; reads and cuts may go on meanwhile. Raises StoreUnavailable."""
    return await _Check(store, hospital_id).look()


class _Check:
    def __init__(self, store: Store, hospital_id: str) -> None:
        self._store = store
        self._hospital_id = hospital_id
        self._faults: dict[Fault, None] = {}
        self._rows = 0

    async def look(self) -> Verdict:
        top = await self._top()  # before the segments: what is written meanwhile is behind it, and in them
        segments = await self._segments()
        first = self._base(segments)
        before = BEGINNING
        for place, row in enumerate(segments):
            segment = segment_of(row)
            behind = segment_of(segments[place - 1]) if place else None
            if not is_sealed(self._store.vault, self._hospital_id, row) or not _fits(behind, segment):
                self._note("segment", segment.segment)
            elif behind is not None and segment.first > behind.last + 1:
                self._note("inserted", behind.last + 1)
            if segment.cut_ms is None and not self._full():
                await self._rows_of(segment)
            before = segment.closing
        last = segment_of(segments[-1]).last if segments else 0
        if top > last:
            self._note("inserted", last + 1)
        return Verdict(faults=tuple(self._faults), rows=self._rows, first=first, last=last, closing=before)

    def _base(self, segments: list[dict[str, Any]]) -> int:
        """The first number that must be there. A chain begins with segment 1, or with one whose time is over."""
        if not segments:
            return 1
        first = segment_of(segments[0])
        if first.cut_ms is None and (first.segment, first.first, first.before) != (1, 1, BEGINNING):
            self._note("segment", 1)
        return next((s.first for s in map(segment_of, segments) if s.cut_ms is None), first.last + 1)

    async def _rows_of(self, segment: Segment) -> None:
        """Row by row; behind a changed one the check goes on from what stands there, so that each fault is told once."""
        expected, before, found = segment.first, segment.before, dict[Fault, None]()
        while expected <= segment.last and len(found) < MOST_FAULTS:
            page = await self._page(expected, segment.last)
            for row in page:
                kept = msgspec.convert({n: row[n] for n in ReadRow.__struct_fields__}, ReadRow)
                if kept.number != expected:
                    found[Fault("missing", expected)] = None
                elif row["digest"] != digest_of(self._store.vault, self._hospital_id, before, kept):
                    found[Fault("changed", kept.number)] = None
                expected, before = kept.number + 1, row["digest"]
            if not page:
                found[Fault("missing", expected)] = None
                break
        else:
            if before != segment.closing and not found:
                found[Fault("changed", segment.last)] = None
        if found and await self._is_cut(segment):
            return  # its time was over meanwhile
        self._rows += max(0, expected - segment.first)
        self._faults.update(found)

    def _note(self, kind: str, number: int) -> None:
        self._faults[Fault(kind, number)] = None

    def _full(self) -> bool:
        return len(self._faults) >= MOST_FAULTS

    async def _top(self) -> int:
        of = report_reads.c.hospital_id == self._hospital_id
        async with self._store.read(self._hospital_id, clock=False) as tx:
            row = await tx.first(select(func.max(report_reads.c.number).label("top")).where(of))
        return int(row["top"] or 0) if row is not None else 0

    async def _segments(self) -> list[dict[str, Any]]:
        async with self._store.read(self._hospital_id, clock=False) as tx:
            return await tx.all(
                select(report_read_segments)
                .where(report_read_segments.c.hospital_id == self._hospital_id)
                .order_by(report_read_segments.c.segment)
            )

    async def _page(self, first: int, last: int) -> list[dict[str, Any]]:
        async with self._store.read(self._hospital_id, clock=False) as tx:
            return await tx.all(
                select(report_reads)
                .where(
                    report_reads.c.hospital_id == self._hospital_id,
                    report_reads.c.number >= first,
                    report_reads.c.number <= last,
                )
                .order_by(report_reads.c.number)
                .limit(PAGE)
            )

    async def _is_cut(self, segment: Segment) -> bool:
        async with self._store.read(self._hospital_id, clock=False) as tx:
            row = await tx.first(
                select(report_read_segments).where(
                    report_read_segments.c.hospital_id == self._hospital_id,
                    report_read_segments.c.segment == segment.segment,
                )
            )
        if row is None:
            return segment.segment < (await self._first_segment())
        return row["cut_ms"] is not None and is_sealed(self._store.vault, self._hospital_id, row)

    async def _first_segment(self) -> int:
        segments = await self._segments()
        return 0 if not segments or segments[0]["cut_ms"] is None else int(segments[0]["segment"])


def _fits(behind: Segment | None, segment: Segment) -> bool:
    """Whether a segment goes on where the one before it ends. Behind rows that were never written it begins later."""
    if behind is None:
        return True
    follows = (segment.segment, segment.before) == (behind.segment + 1, behind.closing)
    return follows and segment.first > behind.last
