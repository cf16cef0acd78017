"""What the clock, the seats and the hospital do to a line: offers, their end, and the clearing on the evening before.

All of it runs in the sweep, in short transactions; whatever it finds is looked at anew under the hospital's lock. Doing it twice
changes nothing.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, text, update

from booking.people import load_person
from booking.rescheduling.marks import goes_elsewhere
from booking.settings import Hospital, Mode
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.tables import schedules, waitlist
from booking.waitlist.lifecycle import Event, State
from booking.waitlist.records import Entry, change_entry, entry_from_row

MOST_IN_A_TURN = 20


async def serve_lines(tx: Tx, hospital: Hospital) -> int:
    """One turn; returns how many entries were moved. 0: there is nothing to do now."""
    if hospital.rules.waitlist is None:
        return await _clear(tx, hospital, await _live(tx), "not_offered")
    return (
        await _end_due(tx, hospital)
        or await _end_stopped(tx, hospital)
        or await _clear(tx, hospital, await _unbound(tx), "patient_unbound")
        or await _end_double(tx, hospital)
        or await _withdraw(tx, hospital)
        or await _offer(tx, hospital)
    )


async def anything_to_do(tx: Tx, hospital: Hospital) -> bool:
    """Whether a turn would find something. Reads only."""
    if hospital.rules.waitlist is None:
        return bool(await _live(tx, 1))
    return bool(
        await _due(tx, 1)
        or await _stopped(tx, 1)
        or await _unbound(tx, 1)
        or await _of_merged(tx, 1)
        or await _gone(tx, 1)
        or (hospital.mode == Mode.LIVE and await _free(tx, 1))
    )


# --- what ends ----------------------------------------------------------------------------------------------------


async def _end_due(tx: Tx, hospital: Hospital) -> int:
    due = await _due(tx, MOST_IN_A_TURN)
    for entry in due:
        if tx.now_ms >= entry.clears_ms:
            await change_entry(tx, hospital, entry, Event.CLEAR, reason="evening_before")
        else:
            await change_entry(tx, hospital, entry, Event.LAPSE)
    return len(due)


async def _clear(tx: Tx, hospital: Hospital, entries: list[Entry], reason: str) -> int:
    for entry in entries:
        await change_entry(tx, hospital, entry, Event.CLEAR, reason=reason)
    return len(entries)


async def _end_stopped(tx: Tx, hospital: Hospital) -> int:
    """Lines of sessions that are off: stopped, or held elsewhere, where there may be seats for all."""
    stopped = await _stopped(tx)
    for entry in stopped:
        row = await tx.first(
            select(schedules.c.moved).where(
                schedules.c.hospital_id == tx.hospital_id, schedules.c.id == entry.schedule_id
            )
        )
        elsewhere = row is not None and goes_elsewhere(row["moved"])
        await change_entry(
            tx, hospital, entry, Event.CLEAR, reason="schedule_moved" if elsewhere else "schedule_stopped"
        )
    return len(stopped)


async def _end_double(tx: Tx, hospital: Hospital) -> int:
    """Two who became one person have one place in a line, the earlier; it is the survivor's then."""
    of_merged = await _of_merged(tx, MOST_IN_A_TURN)
    for entry in of_merged:
        survivor = await load_person(tx, entry.person_id)
        if survivor is None:
            continue
        other = await _place_of(tx, survivor.id, entry.schedule_id)
        if other is not None:
            later = max(entry, other, key=lambda one: one.number)
            await change_entry(tx, hospital, later, Event.CLEAR, reason="already_waiting")
            if later is entry:
                continue
        await tx.run(
            update(waitlist)
            .where(waitlist.c.hospital_id == tx.hospital_id, waitlist.c.id == entry.id)
            .values(person_id=survivor.id)
        )
    return len(of_merged)


async def _place_of(tx: Tx, person_id: str, schedule_id: str) -> Entry | None:
    found = await _entries(
        tx,
        select(waitlist)
        .where(
            waitlist.c.hospital_id == tx.hospital_id,
            waitlist.c.person_id == person_id,
            waitlist.c.schedule_id == schedule_id,
            waitlist.c.live,
        )
        .limit(1),
    )
    return found[0] if found else None


async def _withdraw(tx: Tx, hospital: Hospital) -> int:
    """The hospital has sold what was offered, or stopped its segment: who was offered it last waits again, in the old place."""
    entries = {entry.slot_id: entry for entry in await _gone(tx, MOST_IN_A_TURN)}  # one a segment, the last in line
    for entry in entries.values():
        await change_entry(tx, hospital, entry, Event.WITHDRAW, reason="seat_gone")
    return len(entries)


async def _due(tx: Tx, limit: int) -> list[Entry]:
    return await _entries(
        tx,
        select(waitlist)
        .where(waitlist.c.hospital_id == tx.hospital_id, waitlist.c.due_ms.is_not(None), waitlist.c.due_ms <= tx.now_ms)
        .order_by(waitlist.c.due_ms)
        .limit(limit),
    )


async def _live(tx: Tx, limit: int = MOST_IN_A_TURN) -> list[Entry]:
    return await _entries(
        tx,
        select(waitlist)
        .where(waitlist.c.hospital_id == tx.hospital_id, waitlist.c.due_ms.is_not(None))
        .order_by(waitlist.c.due_ms)
        .limit(limit),
    )


async def _stopped(tx: Tx, limit: int = MOST_IN_A_TURN) -> list[Entry]:
    return await _beside(tx, _STOPPED, limit)


async def _unbound(tx: Tx, limit: int = MOST_IN_A_TURN) -> list[Entry]:
    """Of patients whom their portal has let go of: nobody could accept for them."""
    return await _beside(tx, _UNBOUND, limit)


async def _of_merged(tx: Tx, limit: int) -> list[Entry]:
    return await _beside(tx, _OF_MERGED, limit)


async def _gone(tx: Tx, limit: int) -> list[Entry]:
    return await _beside(tx, _GONE, limit)


def _live_beside(condition: str, **tables: str) -> dict[str, Fixed]:
    """Entries that are live (`w`), each with what stands beside it: they are few, and must be begun with, as in `_FREE`."""
    sqlite, postgresql = "", ""
    for alias, of in tables.items():
        table, _, key = of.partition(" ")
        sqlite += f" cross join {table} as {alias} on {alias}.hospital_id = :h and {alias}.id = w.{key}"
        postgresql += (
            f" cross join lateral (select * from {table} where hospital_id = :h and id = w.{key} offset 0) as {alias}"  # noqa: S608
        )
    where = f" where w.hospital_id = :h and w.due_ms is not null and {condition} order by w.number limit :most"
    return {
        dialect: Fixed(text(f"select w.* from waitlist as w{joins}{where}"))  # noqa: S608 - words of ours
        for dialect, joins in (("sqlite", sqlite), ("postgresql", postgresql))
    }


_STOPPED = _live_beside("s.status = 'stopped'", s="schedules schedule_id")
_UNBOUND = _live_beside("p.unbound_ms is not null", p="patients patient_id")
_OF_MERGED = _live_beside("p.merged_into is not null", p="persons person_id")
_GONE = _live_beside(
    "w.state = 'offered' and (x.status = 'stopped' or x.his_left - x.held_back - x.unreflected < 0"
    " or s.quota - s.held_back - s.taken < 0)",
    s="schedules schedule_id",
    x="slots slot_id",
)


async def _beside(tx: Tx, which: dict[str, Fixed], limit: int) -> list[Entry]:
    return [entry_from_row(row) for row in await tx.all(which[tx.dialect], {"h": tx.hospital_id, "most": limit})]


async def _entries(tx: Tx, query: Any) -> list[Entry]:
    return [entry_from_row(row) for row in await tx.all(query)]


# --- what is offered ----------------------------------------------------------------------------------------------


async def _offer(tx: Tx, hospital: Hospital) -> int:
    """One free seat of each session, the earliest, goes to the first in its line."""
    rule = hospital.rules.waitlist
    if rule is None or hospital.mode != Mode.LIVE:
        return 0
    offered: set[str] = set()
    for row in await _free(tx, MOST_IN_A_TURN):
        if row["schedule_id"] in offered:
            continue
        offered.add(row["schedule_id"])
        first = await _first(tx, row["schedule_id"])
        if first is not None:
            until_ms = min(tx.now_ms + round(rule.accept_s * 1000), first.clears_ms)
            await change_entry(tx, hospital, first, Event.OFFER, offer=(row["slot_id"], until_ms))
    return len(offered)


# By those who wait, who are few: on tables that it has not counted a planner would begin with all slots (`booking.named`).
_WHO = "(select distinct schedule_id from waitlist where hospital_id = :h and due_ms is not null and state = 'waiting') as w"
_WHICH = (
    "s.status = 'open' and (s.quota is null or s.quota - s.held_back - s.taken > 0) and x.status = 'open'"
    " and x.starts_at_ms > :now and x.his_left - x.held_back - x.unreflected > 0 order by x.starts_at_ms, x.id limit :most"
)
_FREE = {
    dialect: Fixed(text(f"select x.schedule_id, x.id as slot_id from {_WHO} {joins} where {_WHICH}"))  # noqa: S608 - ours
    for dialect, joins in {
        "sqlite": "cross join schedules as s on s.hospital_id = :h and s.id = w.schedule_id"
        " cross join slots as x on x.hospital_id = :h and x.schedule_id = s.id",
        "postgresql": "cross join lateral (select * from schedules where hospital_id = :h and id = w.schedule_id offset 0) as s"
        " cross join lateral (select * from slots where hospital_id = :h and schedule_id = s.id offset 0) as x",
    }.items()
}


async def _free(tx: Tx, limit: int) -> list[dict[str, Any]]:
    """Seats of sessions for which somebody waits, the earliest first."""
    return await tx.all(_FREE[tx.dialect], {"h": tx.hospital_id, "now": tx.now_ms, "most": limit})


async def _first(tx: Tx, schedule_id: str) -> Entry | None:
    found = await _entries(
        tx,
        select(waitlist)
        .where(
            waitlist.c.hospital_id == tx.hospital_id,
            waitlist.c.schedule_id == schedule_id,
            waitlist.c.live,
            waitlist.c.state == State.WAITING.value,
        )
        .order_by(waitlist.c.number)
        .limit(1),
    )
    return found[0] if found else None
