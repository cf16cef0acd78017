"""Fetching around openings: shortly before one, so that what opens is known, and shortly after it, so that seats are honest.

Openings are those of the hospital's rule and those that the HIS gave its schedules. All instants are `_ms` of the store's
clock.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec
from sqlalchemy import func, select

from booking.release import openings
from booking.settings import Hospital
from booking.store.engine import Tx
from booking.store.tables import schedules
from connectors.port import Window

LATE_MS = 600_000  # a fetch that was missed for so long is not made up for: the regular ones have been there
MOST_OPENINGS = 100
AGAIN_MS = 5_000  # between two tries of one that failed


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """One instant at which the visits of some days open, both days included."""

    at_ms: int
    date_from: dt.date
    date_to: dt.date


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """One fetch that an opening wants, from `at_ms` on. One `before` it is pointless once it has opened."""

    opening: Opening
    at_ms: int
    before: bool

    def is_met(self, window: Window, began_ms: int, ended_ms: int) -> bool:
        """Whether a fetch does for this one: it covers the days, and what it saw is recent enough.

        After an opening only what was asked after `at_ms` shows what is left; before it, a fetch that is still running will do.
        """
        if window.date_from > self.opening.date_from or window.date_to < self.opening.date_to:
            return False
        return (ended_ms if self.before else began_ms) >= self.at_ms


class ReleaseFetches:
    """What one hospital's openings want fetched, and what has been."""

    def __init__(self, hospital: Hospital) -> None:
        self._hospital = hospital
        self._spread = spread(hospital.id)
        self._made: list[tuple[Window, int, int]] = []
        self._tried_ms = 0

    def note(self, window: Window, began_ms: int, ended_ms: int) -> None:
        """A fetch of these days has been applied."""
        self._made = [m for m in self._made if m[2] > ended_ms - LATE_MS] + [(window, began_ms, ended_ms)]

    async def wanted(self, tx: Tx) -> tuple[Window | None, float]:
        """The days to fetch now (None: nothing is due), and the seconds until the next fetch is due (inf: none is known)."""
        open_ones = [d for o in await self._openings(tx) for d in self._dues(o) if self._is_open(d, tx.now_ms)]
        due = [d.opening for d in open_ones if d.at_ms <= tx.now_ms]
        if not due:
            return None, min(((d.at_ms - tx.now_ms) / 1000 for d in open_ones), default=float("inf"))
        wait_ms = self._tried_ms + AGAIN_MS - tx.now_ms
        if 0 < wait_ms <= AGAIN_MS:
            return None, wait_ms / 1000  # the last one failed a moment ago
        self._tried_ms = tx.now_ms
        return Window(date_from=min(o.date_from for o in due), date_to=max(o.date_to for o in due)), 0.0

    def _is_open(self, due: Due, now_ms: int) -> bool:
        ends_ms = due.opening.at_ms if due.before else due.at_ms + LATE_MS
        return now_ms < ends_ms and not any(due.is_met(*made) for made in self._made)

    def _dues(self, opening: Opening) -> Sequence[Due]:
        rule, found = self._hospital.release, []
        if rule.sync_before_s:
            before_ms = int(rule.sync_before_s * 1000 * (1 - self._spread / 2))
            found.append(Due(opening=opening, at_ms=opening.at_ms - before_ms, before=True))
        if rule.sync_after_s:
            after_ms = int(rule.sync_after_s * 1000 * (1 + self._spread))
            found.append(Due(opening=opening, at_ms=opening.at_ms + after_ms, before=False))
        return found

    async def _openings(self, tx: Tx) -> Sequence[Opening]:
        rule = self._hospital.release
        from_ms = tx.now_ms - int(rule.sync_after_s * 2000) - LATE_MS
        to_ms = tx.now_ms + int(rule.sync_before_s * 1000) + LATE_MS
        found = {o.at_ms: o for o in self._by_rule(from_ms, to_ms)}
        for row in await tx.all(stored_openings(tx.hospital_id, from_ms, to_ms)):
            dates = [dt.date.fromisoformat(row[name]) for name in ("first", "last")]
            if (known := found.get(row["opens_at_ms"])) is not None:
                dates += [known.date_from, known.date_to]
            found[row["opens_at_ms"]] = Opening(at_ms=row["opens_at_ms"], date_from=min(dates), date_to=max(dates))
        return list(found.values())

    def _by_rule(self, from_ms: int, to_ms: int) -> Sequence[Opening]:
        found = openings(self._hospital.release, self._hospital.zone, from_ms, to_ms)
        return [Opening(at_ms=at_ms, date_from=date, date_to=date) for at_ms, date in found]


def stored_openings(hospital_id: str, from_ms: int, to_ms: int) -> Any:
    """The openings of stored schedules between two instants, by ix_schedules_opens."""
    return (
        select(
            schedules.c.opens_at_ms, func.min(schedules.c.date).label("first"), func.max(schedules.c.date).label("last")
        )
        .where(
            schedules.c.hospital_id == hospital_id,
            schedules.c.opens_at_ms.is_not(None),
            schedules.c.opens_at_ms.between(from_ms, to_ms),
        )
        .group_by(schedules.c.opens_at_ms)
        .order_by(schedules.c.opens_at_ms)
        .limit(MOST_OPENINGS)
    )


def spread(hospital_id: str) -> float:
    """0 to 1, always the same for a hospital: 50 of them that open at 07:00 are not fetched in one second."""
    return int.from_bytes(blake2b(hospital_id.encode(), digest_size=4).digest()) / 2**32
