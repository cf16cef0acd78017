"""Carrying moves and substitutions to the bookings, in transactions short enough for a release to go on beside them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import select, update

from booking.gathering import gathered
from booking.moves import fetch_topic
from booking.records import Booking
from booking.rescheduling.marks import Mark, Marked, marked, read_mark
from booking.rescheduling.named import his_schedules
from booking.rescheduling.places import Place, partner_of, places_of, segment_at, segments_of
from booking.rescheduling.relocating import (
    OVER,
    UNKNOWN,
    count_as_told,
    is_news,
    keep_for_good,
    leave_without_place,
    relocate,
    tell_change,
)
from booking.settings import Hospital
from booking.store.budget import Budget
from booking.store.engine import Store, Tx
from booking.store.tables import bookings, schedules, slots
from mappings.canonical import NewPlace

MOST_IN_A_TURN = 50


async def carry_moves(
    store: Store, hospital: Hospital, *, schedule_ids: Iterable[str] | None = None, fetched_ms: int | None = None
) -> int:
    """Carry what is marked to the bookings that do not know of it yet; returns how many have changed.

    `schedule_ids`: only of these, else of all days from today on. `fetched_ms`: the catalogue has just been fetched whole, begun
    then, so that a place that it does not show does not exist. Calling it again changes nothing.
    """
    async with store.read(hospital.id) as tx:
        today = dt.datetime.fromtimestamp(tx.now_ms / 1000, hospital.zone).date()
        found = await marked(tx, since=None if schedule_ids is not None else today, schedule_ids=schedule_ids)
        waiting = [one for one in found if await _any_left(tx, one)]
    done = 0
    for one in waiting:
        done += await _carry(store, hospital, one, fetched_ms=fetched_ms)
    return done


async def _any_left(tx: Tx, one: Marked) -> bool:
    return await tx.first(_left(tx, one).limit(1)) is not None


def _left(tx: Tx, one: Marked) -> Any:
    """The bookings that a mark is about and that do not know of it."""
    query = select(bookings).where(
        bookings.c.hospital_id == tx.hospital_id,
        bookings.c.schedule_id == one.schedule_id,
        bookings.c.occupies,
        bookings.c.state.not_in(OVER),
    )
    if one.slot_id is not None:
        query = query.where(bookings.c.slot_id == one.slot_id)
    if one.mark.to is None:
        at_ms = one.mark.at_ms
        query = query.where(
            bookings.c.live,
            bookings.c.created_ms <= at_ms,
            (bookings.c.moved_ms.is_(None)) | (bookings.c.moved_ms <= at_ms),
        )
    return query


async def _carry(store: Store, hospital: Hospital, one: Marked, *, fetched_ms: int | None) -> int:
    done, after = 0, ""
    while True:
        async with store.write(hospital.id, here=True) as tx:
            budget = Budget()
            if not await _stands(tx, one):
                return done
            key = bookings.c.id.concat("")  # sorted after: not by walking all
            rows = await tx.all(_left(tx, one).where(key > after).order_by(key).limit(MOST_IN_A_TURN))
            some = _Turn(tx, hospital, one, fetched_ms)
            changed, last = await some.take(rows, budget)
        done += changed
        if last is None or (len(rows) < MOST_IN_A_TURN and last == rows[-1]["id"]):
            return done
        after = last


async def _stands(tx: Tx, one: Marked) -> bool:
    """Whether the mark is still the one that was read. One of a session that is on sale again is taken off."""
    table, row_id = (schedules, one.schedule_id) if one.slot_id is None else (slots, one.slot_id)
    where = (table.c.hospital_id == tx.hospital_id, table.c.id == row_id)
    row = await tx.first(select(table.c.status, table.c.moved).where(*where))
    if row is None or read_mark(row["moved"]) != one.mark:
        return False
    if one.mark.to is not None and row["status"] == "open":
        await tx.run(update(table).where(*where).values(moved=None))
        return False
    return True


class _Turn:
    """The bookings of one transaction."""

    def __init__(self, tx: Tx, hospital: Hospital, one: Marked, fetched_ms: int | None) -> None:
        self._tx = tx
        self._hospital = hospital
        self._one = one
        self._fetched = fetched_ms is not None and one.mark.at_ms < fetched_ms

    async def take(self, rows: Sequence[dict[str, Any]], budget: Budget) -> tuple[int, str | None]:
        """Move or tell as many as there is time for; how many have changed, and the last that was looked at."""
        places = await places_of(self._tx, {row["slot_id"] for row in rows})
        targets = await targets_of(self._tx, self._one, list(places.values()), self._hospital.zone)
        changed, last = 0, None
        async with gathered(self._tx, rows) as tx:
            await keep_for_good(tx, [t for t in targets.values() if t is not None])
            for row in rows:
                booking = tx.bookings.get(row["id"])
                if booking is not None and (source := places.get(row["slot_id"])) is not None:
                    changed += await self._one_booking(tx, booking, source, targets.get(source.slot_id))
                last = row["id"]
                if budget.spent:
                    break
        return changed, last

    async def _one_booking(self, tx: Tx, booking: Booking, source: Place, target: Place | None) -> bool:
        mark: Mark = self._one.mark
        if mark.was is not None and mark.to is None:
            was = mark.was
            if self._one.slot_id is None and source.stand_in is not None:
                was = msgspec.structs.replace(was, practitioner_id=None, practitioner_name=None)  # it has its own
            if is_news(booking, was, source):
                await tell_change(tx, self._hospital, booking, was, source, after_ms=mark.at_ms)
                return True
            await count_as_told(tx, booking, after_ms=mark.at_ms)
            return False
        if target is not None and target.slot_id == source.slot_id:
            return False
        why = UNKNOWN if target is None else await relocate(tx, self._hospital, booking, source, target)
        if why is None:
            return True
        if why == UNKNOWN:
            tx.ring(fetch_topic(tx.hospital_id))
        return await leave_without_place(tx, self._hospital, booking, why, final=why != UNKNOWN or self._fetched)


async def targets_of(tx: Tx, one: Marked, sources: list[Place], zone: dt.tzinfo) -> dict[str, Place | None]:
    """The new place of each of these segments, by their slot; None where it is not known."""
    to = one.mark.to
    if to is None or not sources:
        return {}
    found: dict[str, Place | None] = {}
    whole = await segments_of(tx, [one.schedule_id])
    for source in sources:
        candidates = await segments_meant_by(tx, source, to, zone)
        if one.slot_id is not None:
            found[source.slot_id] = segment_at(source, candidates, to, zone)
        if found.get(source.slot_id) is None and (one.slot_id is None or to.starts_at is None):
            found[source.slot_id] = partner_of(source, whole, candidates, to, zone)
    return found


async def segments_meant_by(tx: Tx, source: Place, to: NewPlace, zone: dt.tzinfo) -> list[Place]:
    """The segments of the schedule to which something of `source` moves."""
    date = to.date or (to.starts_at.astimezone(zone).date() if to.starts_at is not None else None)
    day = source.date if date is None else date.isoformat()
    ids = await his_schedules(tx, [to.schedule_id or source.schedule_his_id], day)
    segments = await segments_of(tx, ids)
    wanted = None if to.session is None else to.session.value
    if wanted is None and to.starts_at is None:
        wanted = source.session if any(s.session == source.session for s in segments) else None
    return segments if wanted is None else [s for s in segments if s.session == wanted]
