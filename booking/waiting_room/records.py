"""Rooms, tickets and steps in the store. Whoever writes holds the hospital's lock."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import bindparam, select, text, update

from booking.people import load_person
from booking.store.engine import Tx
from booking.store.fixed import Fixed, is_one_of
from booking.store.ids import first_id
from booking.store.tables import (
    EARLY_PLACE,
    RANKED_PLACE,
    patients,
    persons,
    store_clock,
    waiting_rooms,
    waiting_steps,
    waiting_tickets,
)
from booking.waiting_room.ranks import NONE_YET, Draw, draw_rank, late_rank
from booking.waiting_room.rules import ClosedBecause, OpenedBy, WaitingRoomRule

PAGE = 5_000
LATELY_MS = 5_000
FEW_LOCKS = 8  # they will be done before one could tell how quickly


class JoinRequest(msgspec.Struct, frozen=True):
    """Who wants to wait: a patient of an API client."""

    client_id: str
    patient_id: str


class Joined(msgspec.Struct, frozen=True):
    """The place that a patient's person has. `is_new`: it was not there before."""

    release_ms: int
    rank: int
    is_new: bool


class NotJoined(msgspec.Struct, frozen=True):
    """Why not: a code of the API."""

    code: str
    detail: str


class RoomRow(msgspec.Struct, frozen=True):
    """A room as it is stored."""

    hospital_id: str
    release_ms: int
    opened_by: str
    busy_ms: int
    closed_ms: int | None
    closed_because: str | None
    watermark: int
    admitted: int
    rate_milli: int
    arrivals: int


_ROOM_COLUMNS = tuple(waiting_rooms.c[name] for name in RoomRow.__struct_fields__)
_ROOMS = Fixed(
    select(*_ROOM_COLUMNS).where(
        is_one_of(waiting_rooms.c.hospital_id, "hospitals"), waiting_rooms.c.release_ms >= bindparam("since")
    )
)
_LATEST_ROOM = Fixed(
    select(*_ROOM_COLUMNS)
    .where(waiting_rooms.c.hospital_id == bindparam("h"))
    .order_by(waiting_rooms.c.release_ms.desc())
    .limit(1)
)
_THIS = (waiting_rooms.c.hospital_id == bindparam("h"), waiting_rooms.c.release_ms == bindparam("of_release"))
_ROOM = Fixed(select(*_ROOM_COLUMNS).where(*_THIS))
_OF_ROOM = (waiting_tickets.c.hospital_id == bindparam("h"), waiting_tickets.c.release_ms == bindparam("of_release"))
_RANKS = Fixed(
    select(waiting_tickets.c.rank, waiting_tickets.c.changed)
    .where(*_OF_ROOM, waiting_tickets.c.changed > bindparam("after"), text(EARLY_PLACE))
    .order_by(waiting_tickets.c.changed)
    .limit(PAGE)
)
_NEXT_RANKS = Fixed(
    select(waiting_tickets.c.rank)
    .where(*_OF_ROOM, waiting_tickets.c.rank > bindparam("after"), text(RANKED_PLACE))
    .order_by(waiting_tickets.c.rank)
    .limit(bindparam("most"))
)
_STEPS_OF = (waiting_steps.c.hospital_id == bindparam("h"), waiting_steps.c.release_ms == bindparam("of_release"))
_STEPS = Fixed(
    select(waiting_steps.c.watermark, waiting_steps.c.at_ms, waiting_steps.c.admitted)
    .where(*_STEPS_OF, waiting_steps.c.watermark > bindparam("after"))
    .order_by(waiting_steps.c.watermark)
)
_LAST_STEP_BY = Fixed(
    select(waiting_steps.c.watermark)
    .where(*_STEPS_OF, waiting_steps.c.at_ms <= bindparam("by_ms"))
    .order_by(waiting_steps.c.watermark.desc())
    .limit(1)
)
_PERSONS = Fixed(
    select(patients.c.id, patients.c.client_id, patients.c.person_id, persons.c.merged_into)
    .select_from(
        patients.join(
            persons, (persons.c.hospital_id == patients.c.hospital_id) & (persons.c.id == patients.c.person_id)
        )
    )
    .where(patients.c.hospital_id == bindparam("h"), is_one_of(patients.c.id, "ids"), patients.c.unbound_ms.is_(None))
)
_PLACE = (
    "select t.person_id, t.rank, t.holds from waiting_tickets t where t.hospital_id = :h and t.release_ms = :of_release"
)
# One look for each person: of a room that was empty when it was last counted PostgreSQL believes that to walk it is as cheap.
_PLACES = {
    "sqlite": Fixed(text(f"{_PLACE} and t.person_id in (select value from json_each(:ids))")),  # noqa: S608 - words of ours
    "postgresql": Fixed(
        text(
            "select p.* from unnest(cast(:ids as text[])) as i(person_id)"  # noqa: S608 - words of ours
            f" cross join lateral ({_PLACE} and t.person_id = i.person_id limit 1) p"
        )
    ),
}
_CLOCK_ROOM = Fixed(select(store_clock.c.room_ms).where(store_clock.c.hospital_id == bindparam("h")))
_SET_ARRIVALS = Fixed(update(waiting_rooms).where(*_THIS).values(arrivals=bindparam("n")))
_SHOW_ROOM = Fixed(
    update(store_clock).where(store_clock.c.hospital_id == bindparam("h")).values(room_ms=bindparam("n"))
)
_HIDE_ROOM = Fixed(
    update(store_clock)
    .where(store_clock.c.hospital_id == bindparam("h"), store_clock.c.room_ms == bindparam("n"))
    .values(room_ms=0)
)
_CLOSE = Fixed(
    update(waiting_rooms)
    .where(*_THIS, waiting_rooms.c.closed_ms.is_(None))
    .values(closed_ms=bindparam("at"), closed_because=bindparam("because"))
)
_REOPEN = Fixed(
    update(waiting_rooms).where(*_THIS).values(closed_ms=None, closed_because=None, busy_ms=bindparam("at"))
)
_BUSY = Fixed(
    update(waiting_rooms).where(*_THIS, waiting_rooms.c.busy_ms < bindparam("at")).values(busy_ms=bindparam("at"))
)
_ADVANCE = Fixed(
    update(waiting_rooms)
    .where(*_THIS)
    .values(
        watermark=bindparam("to"), admitted=bindparam("admitted"), busy_ms=bindparam("at"), rate_milli=bindparam("rate")
    )
)


# --- reading ------------------------------------------------------------------------------------------------------


async def rooms_since(tx: Tx, hospital_ids: Collection[str], since_ms: int) -> list[RoomRow]:
    """The rooms of these hospitals whose releases are not before this instant."""
    rows = await tx.all(_ROOMS, {"hospitals": list(hospital_ids), "since": since_ms})
    return [RoomRow(**row) for row in rows]


async def room_of(tx: Tx, release_ms: int) -> RoomRow | None:
    """One room of the transaction's hospital."""
    row = await tx.first(_ROOM, {"h": tx.hospital_id, "of_release": release_ms})
    return None if row is None else RoomRow(**row)


async def ranks_after(tx: Tx, hospital_id: str, release_ms: int, changed: int) -> tuple[list[int], int, bool]:
    """Early ranks given by later writes than this one, up to which write they are complete, and whether there are more."""
    rows = await tx.all(_RANKS, {"h": hospital_id, "of_release": release_ms, "after": changed})
    if not rows:
        return [], changed, False
    last = rows[-1]["changed"]
    if len(rows) < PAGE:
        return [row["rank"] for row in rows], last, False
    whole = [row for row in rows if row["changed"] < last]  # a write gives far fewer than a page
    return [row["rank"] for row in whole], whole[-1]["changed"], True


async def steps_after(tx: Tx, hospital_id: str, release_ms: int, watermark: int) -> list[tuple[int, int, int]]:
    """(watermark, instant, admitted in all) of every step above this watermark, in order."""
    rows = await tx.all(_STEPS, {"h": hospital_id, "of_release": release_ms, "after": watermark})
    return [(row["watermark"], row["at_ms"], row["admitted"]) for row in rows]


# By schedule: a HIS opens one department after the other. One that is open and has had no seat yet is still to come.
_SEATS = Fixed(
    text(
        "select coalesce(sum(free), 0) as free, coalesce(sum(booked), 0) as booked,"
        " coalesce(sum(case when is_open = 1 and seen = 0 then 1 else 0 end), 0) as unseen from ("
        "select sum(case when s.status = 'open' and c.status = 'open' and s.starts_at_ms > :now"
        " and c.waiting = 0 and s.his_left - s.held_back > s.unreflected and (c.quota is null or c.taken < c.quota - c.held_back)"
        " then 1 else 0 end) as free,"
        " sum(case when s.booked then 1 else 0 end) as booked,"
        " sum(case when s.booked or s.his_left > 0 then 1 else 0 end) as seen,"
        " max(case when s.status = 'open' and c.status = 'open' and s.starts_at_ms > :now then 1 else 0 end) as is_open"
        " from schedules c join slots s on s.hospital_id = c.hospital_id and s.schedule_id = c.id"
        " where c.hospital_id = :h and c.opens_at_ms is not null and c.opens_at_ms = :r group by c.id) as of_schedule"
    )
)


async def is_sold_out(tx: Tx, release_ms: int) -> bool:
    """Whether seats of a release have been held, none is left now, and none is to be expected.

    A HIS that opens late shows its slots without seats until then, all of them or those of a department: whoever waits must go on
    waiting.
    """
    row = await tx.first(_SEATS, {"h": tx.hospital_id, "r": release_ms, "now": tx.now_ms})
    return row is not None and row["booked"] > 0 and row["free"] == row["unseen"] == 0


_LOCKS = Fixed(
    text(
        "select coalesce(sum(case when status = 'queued' then 1 else 0 end), 0) as waiting,"
        " coalesce(sum(case when status = 'done' and updated_ms > :lately then 1 else 0 end), 0) as done"
        " from outbox where hospital_id = :h and id >= :first and verb = :verb"
    )
)


async def expected_lock_s(tx: Tx, verb: str, *, within_s: float) -> float:
    """How long a hold would wait for the hospital's lock: those queued within this time, at the pace of the last seconds.

    0 while few wait, infinite where many wait and none was done.
    """
    # Ids are made by the machines' clocks, not by the store's.
    since_ms = time.time_ns() // 1_000_000 - int(within_s * 1000)
    values = {"h": tx.hospital_id, "verb": verb, "first": first_id(since_ms), "lately": tx.now_ms - LATELY_MS}
    row = await tx.first(_LOCKS, values)
    if row is None or row["waiting"] <= FEW_LOCKS:
        return 0.0
    return row["waiting"] / (row["done"] * 1000 / LATELY_MS) if row["done"] else math.inf


# --- the room -----------------------------------------------------------------------------------------------------


async def open_room(tx: Tx, release_ms: int, by: OpenedBy, rule: WaitingRoomRule) -> bool:
    """Open the room of a release; False where one is open already, be it this or another.

    A room that is opened again, by load, keeps its tickets; for its release a room opens once. A new one begins with the rate
    that the last one had. One that is open by load makes way for a release: the draw is promised to all who come before it.
    """
    showing_ms = await _showing_ms(tx)
    before = await room_of(tx, release_ms)
    if by is OpenedBy.RELEASE and before is not None:
        return False
    if showing_ms:
        showing = await room_of(tx, showing_ms)
        makes_way = by is OpenedBy.RELEASE and showing is not None and showing.opened_by == OpenedBy.LOAD
        if not makes_way and not _is_over(tx, showing_ms, rule):
            return False
        await close_room(tx, showing_ms, ClosedBecause.OVER)  # or nobody was there to do it when its time ended
    known = {"h": tx.hospital_id, "of_release": release_ms}
    if before is not None:
        await tx.run(_REOPEN, {**known, "at": tx.now_ms})
    else:
        last = await tx.first(_LATEST_ROOM, {"h": tx.hospital_id})
        await tx.insert(
            waiting_rooms,
            {
                "hospital_id": tx.hospital_id,
                "release_ms": release_ms,
                "opened_by": by.value,
                "opened_ms": tx.now_ms,
                "busy_ms": max(tx.now_ms, release_ms),
                "closed_ms": None,
                "closed_because": None,
                "arrivals": 0,
                "watermark": NONE_YET,
                "admitted": 0,
                "rate_milli": last["rate_milli"] if last and last["rate_milli"] else round(rule.rate_per_s * 1000),
            },
        )
    await tx.run(_SHOW_ROOM, {"h": tx.hospital_id, "n": release_ms})
    return True


async def close_room(tx: Tx, release_ms: int, because: ClosedBecause) -> bool:
    """Close it; False where it is closed already."""
    closed = await tx.run(
        _CLOSE, {"h": tx.hospital_id, "of_release": release_ms, "at": tx.now_ms, "because": because.value}
    )
    await tx.run(_HIDE_ROOM, {"h": tx.hospital_id, "n": release_ms})
    return closed > 0


async def close_when_calm(tx: Tx, release_ms: int, rule: WaitingRoomRule) -> bool:
    """Close it if nobody waits and no process has found it busy for so long; whether that was so."""
    room = await room_of(tx, release_ms)
    if room is None or room.closed_ms is not None or tx.now_ms < room.busy_ms + int(rule.quiet_s * 1000):
        return False
    known = {"h": tx.hospital_id, "of_release": release_ms}
    if await tx.first(_NEXT_RANKS, {**known, "after": room.watermark, "most": 1}) is not None:
        return False
    return await close_room(tx, release_ms, ClosedBecause.CALM)


async def note_busy(tx: Tx, release_ms: int) -> None:
    """Holds are slow: the room stays open."""
    await tx.run(_BUSY, {"h": tx.hospital_id, "of_release": release_ms, "at": tx.now_ms})


async def admit(tx: Tx, release_ms: int, count: int, *, rate_milli: int | None = None) -> int:
    """Let the next `count` in, whoever there is of them, and return how many. Nobody before the release, or once it is closed.

    `rate_milli` is the rate as last measured, to begin with next time; None leaves the known one.
    """
    room = await room_of(tx, release_ms)
    if room is None or room.closed_ms is not None or tx.now_ms < release_ms or count < 1:
        return 0
    known = {"h": tx.hospital_id, "of_release": release_ms}
    ranks = await tx.all(_NEXT_RANKS, {**known, "after": room.watermark, "most": count})
    if not ranks:
        return 0
    watermark, admitted = ranks[-1]["rank"], room.admitted + len(ranks)
    rate = room.rate_milli if rate_milli is None else rate_milli
    await tx.run(_ADVANCE, {**known, "to": watermark, "admitted": admitted, "at": tx.now_ms, "rate": rate})
    await tx.insert(
        waiting_steps,
        {
            "hospital_id": tx.hospital_id,
            "release_ms": release_ms,
            "watermark": watermark,
            "at_ms": tx.now_ms,
            "admitted": admitted,
        },
    )
    return len(ranks)


# --- joining ------------------------------------------------------------------------------------------------------


async def join(
    tx: Tx, requests: Sequence[JoinRequest], rule: WaitingRoomRule, *, draw: Draw = os.urandom
) -> list[Joined | NotJoined]:
    """Give everybody their place in the room that is open, in the order of arrival; who has one keeps it.

    A place that was admitted, and whose time or holds are used up, is given up for a new one behind all others.
    """
    room = await _shown_room(tx, rule)
    if room is None:
        return [NotJoined("waiting_room_closed", "No ticket is needed now.")] * len(requests)
    of_patient = await _persons_of(tx, requests)
    line = _Line(tx, room, await _places_of(tx, room, {person for person, _ in of_patient.values()}, rule), draw)
    outcomes: list[Joined | NotJoined] = []
    for asked in requests:
        person_id, client_id = of_patient.get(asked.patient_id, ("", ""))
        if person_id and client_id == asked.client_id:
            outcomes.append(line.place_of(person_id))
        else:
            detail = f"There is no patient {asked.patient_id} of yours at this hospital."
            outcomes.append(NotJoined("patient_unknown", detail))
    await line.keep()
    return outcomes


class _Line:
    """The places that a transaction finds and gives: drawn before the release, counted from it on."""

    def __init__(self, tx: Tx, room: RoomRow, places: dict[str, int], draw: Draw) -> None:
        self._tx = tx
        self._room = room
        self._places = places
        self._draw = draw
        self._arrivals = room.arrivals
        self._given: list[dict[str, Any]] = []

    def place_of(self, person_id: str) -> Joined:
        known = self._places.get(person_id)
        if known is not None:
            return Joined(self._room.release_ms, known, is_new=False)
        rank = self._places[person_id] = self._next()
        row = {"hospital_id": self._tx.hospital_id, "release_ms": self._room.release_ms, "person_id": person_id}
        self._given.append({**row, "rank": rank, "holds": 0, "changed": self._tx.seq})
        return Joined(self._room.release_ms, rank, is_new=True)

    def _next(self) -> int:
        if self._tx.now_ms < self._room.release_ms:
            return draw_rank(self._draw)
        self._arrivals += 1
        return late_rank(self._arrivals)

    async def keep(self) -> None:
        await self._tx.upsert(waiting_tickets, self._given)
        if self._arrivals != self._room.arrivals:
            known = {"h": self._tx.hospital_id, "of_release": self._room.release_ms}
            await self._tx.run(_SET_ARRIVALS, {**known, "n": self._arrivals})


async def _shown_room(tx: Tx, rule: WaitingRoomRule) -> RoomRow | None:
    showing_ms = await _showing_ms(tx)
    return None if not showing_ms or _is_over(tx, showing_ms, rule) else await room_of(tx, showing_ms)


async def _showing_ms(tx: Tx) -> int:
    """The release of the room that is not closed; 0 without one."""
    row = await tx.first(_CLOCK_ROOM, {"h": tx.hospital_id})
    return 0 if row is None else int(row["room_ms"])


def _is_over(tx: Tx, release_ms: int, rule: WaitingRoomRule) -> bool:
    return tx.now_ms >= release_ms + int(rule.lasts_s * 1000)


async def _places_of(tx: Tx, room: RoomRow, persons: set[str], rule: WaitingRoomRule) -> dict[str, int]:
    """The rank of each of these persons who has a place that is not used up."""
    known = {"h": tx.hospital_id, "of_release": room.release_ms}
    rows = await tx.all(_PLACES[tx.dialect], {**known, "ids": sorted(persons)})
    over = NONE_YET
    if any(row["rank"] <= room.watermark for row in rows):
        step = await tx.first(_LAST_STEP_BY, {**known, "by_ms": tx.now_ms - int(rule.admitted_s * 1000)})
        over = NONE_YET if step is None else step["watermark"]
    return {row["person_id"]: row["rank"] for row in rows if row["rank"] > over and row["holds"] < rule.holds}


async def _persons_of(tx: Tx, requests: Sequence[JoinRequest]) -> dict[str, tuple[str, str]]:
    """Of each patient that exists the person, merges followed, and the client."""
    rows = await tx.all(_PERSONS, {"h": tx.hospital_id, "ids": sorted({r.patient_id for r in requests})})
    found: dict[str, tuple[str, str]] = {}
    for row in rows:
        person_id = row["person_id"]
        if row["merged_into"] is not None:
            survivor = await load_person(tx, row["merged_into"])
            person_id = row["merged_into"] if survivor is None else survivor.id
        found[row["id"]] = (person_id, row["client_id"])
    return found
