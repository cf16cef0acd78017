"""What the clock, the seats and the hospital do to a line: offers, their end, and the clearing on the evening before.

All of it runs in the sweep, in short transactions; whatever it finds is looked at anew under the hospital's lock. Doing it twice
changes nothing.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, text

from booking.settings import Hospital, Mode
from booking.store.engine import Tx
from booking.store.tables import patients, schedules, slots, waitlist
from booking.waitlist.lifecycle import Event, State
from booking.waitlist.records import Entry, change_entry, entry_from_row

MOST_IN_A_TURN = 20

_LEFT = slots.c.his_left - slots.c.held_back - slots.c.unreflected
_OF_QUOTA = schedules.c.quota - schedules.c.held_back - schedules.c.taken
_SESSION = (schedules.c.hospital_id == waitlist.c.hospital_id) & (schedules.c.id == waitlist.c.schedule_id)
_SEGMENT = (slots.c.hospital_id == waitlist.c.hospital_id) & (slots.c.id == waitlist.c.slot_id)


async def serve_lines(tx: Tx, hospital: Hospital) -> int:
    """One turn; returns how many entries were moved. 0: there is nothing to do now."""
    if hospital.rules.waitlist is None:
        return await _clear(tx, hospital, await _live(tx), "not_offered")
    return (
        await _end_due(tx, hospital)
        or await _clear(tx, hospital, await _stopped(tx), "schedule_stopped")
        or await _clear(tx, hospital, await _unbound(tx), "patient_unbound")
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
    return await _entries(
        tx,
        select(waitlist)
        .select_from(waitlist.join(schedules, _SESSION))
        .where(
            waitlist.c.hospital_id == tx.hospital_id,
            waitlist.c.due_ms.is_not(None),
            schedules.c.status == "stopped",
        )
        .order_by(waitlist.c.due_ms)
        .limit(limit),
    )


async def _unbound(tx: Tx, limit: int = MOST_IN_A_TURN) -> list[Entry]:
    """Of patients whom their portal has let go of: nobody could accept for them."""
    return await _entries(
        tx,
        select(waitlist)
        .select_from(
            waitlist.join(
                patients, (patients.c.hospital_id == waitlist.c.hospital_id) & (patients.c.id == waitlist.c.patient_id)
            )
        )
        .where(
            waitlist.c.hospital_id == tx.hospital_id,
            waitlist.c.due_ms.is_not(None),
            patients.c.unbound_ms.is_not(None),
        )
        .order_by(waitlist.c.due_ms)
        .limit(limit),
    )


async def _gone(tx: Tx, limit: int) -> list[Entry]:
    return await _entries(
        tx,
        select(waitlist)
        .select_from(waitlist.join(schedules, _SESSION).join(slots, _SEGMENT))
        .where(
            waitlist.c.hospital_id == tx.hospital_id,
            waitlist.c.due_ms.is_not(None),
            waitlist.c.state == State.OFFERED.value,
            (slots.c.status == "stopped") | (_LEFT < 0) | (_OF_QUOTA < 0),
        )
        .order_by(waitlist.c.number)
        .limit(limit),
    )


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


async def _free(tx: Tx, limit: int) -> list[dict[str, Any]]:
    """Seats of sessions for which somebody waits. `waiting > 0` in these very words: the partial index is theirs."""
    return await tx.all(
        select(slots.c.schedule_id, slots.c.id.label("slot_id"))
        .select_from(
            schedules.join(
                slots, (slots.c.hospital_id == schedules.c.hospital_id) & (slots.c.schedule_id == schedules.c.id)
            )
        )
        .where(
            schedules.c.hospital_id == tx.hospital_id,
            text("schedules.waiting > 0"),
            schedules.c.status == "open",
            schedules.c.quota.is_(None) | (_OF_QUOTA > 0),
            slots.c.status == "open",
            slots.c.starts_at_ms > tx.now_ms,
            _LEFT > 0,
        )
        .order_by(slots.c.starts_at_ms, slots.c.id)
        .limit(limit)
    )


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
