"""Entries of the waitlist as they are stored, and what belongs to every change of one: its count, its version, the news."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, bindparam, func, select, update

from booking.errors import Refusal
from booking.news import tell
from booking.returned_seats import offer_is_over, set_aside
from booking.settings import Hospital
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.tables import schedules, waitlist
from booking.waitlist.accepting import CHANGED, payload_of
from booking.waitlist.lifecycle import LIVE, Event, State, move
from monitoring import metrics


class Entry(msgspec.Struct, kw_only=True):
    """A place in the line of a session, ordered by `number`.

    `due_ms` is the end of its offer, or of the line (`clears_ms`); None for one that is over.
    """

    hospital_id: str
    id: str
    number: int
    client_id: str
    user_ref: str
    patient_id: str
    person_id: str
    schedule_id: str
    version: int
    state: State
    live: bool
    clears_ms: int
    due_ms: int | None
    slot_id: str | None
    booking_id: str | None
    reason: str | None
    created_ms: int
    updated_ms: int


def entry_from_row(row: dict[str, Any]) -> Entry:
    return msgspec.convert({**{name: row[name] for name in Entry.__struct_fields__}, "live": bool(row["live"])}, Entry)


_OUTCOMES = {
    Event.OFFER: "offered",
    Event.LAPSE: "lapsed",
    Event.WITHDRAW: "withdrawn",
    Event.LEAVE: "cancelled",
    Event.CLEAR: "cleared",
}
_COUNT = Fixed(
    update(schedules)
    .where(schedules.c.hospital_id == bindparam("of_hospital"), schedules.c.id == bindparam("of_id"))
    .values(waiting=schedules.c.waiting + bindparam("change"))
)
_SAVE = Fixed(
    update(waitlist)
    .where(waitlist.c.hospital_id == bindparam("of_hospital"), waitlist.c.id == bindparam("of_id"))
    .values(
        **{
            name: bindparam(f"new_{name}")
            for name in ("version", "state", "live", "due_ms", "slot_id", "reason", "updated_ms")
        }
    )
)
_DAY = Fixed(
    select(schedules.c.date, schedules.c.department_id).where(
        schedules.c.hospital_id == bindparam("of_hospital"), schedules.c.id == bindparam("of_id")
    )
)


async def add_entry(tx: Tx, hospital: Hospital, entry: Entry) -> None:
    """A new place at the end of a line."""
    await tx.add(waitlist, msgspec.structs.asdict(entry))
    await _count(tx, entry, 1)
    tx.count(metrics.waitlist.labels(hospital=tx.hospital_id, outcome="joined").inc)
    await _tell(tx, hospital, entry)


async def change_entry(
    tx: Tx,
    hospital: Hospital,
    entry: Entry,
    event: Event,
    *,
    reason: str | None = None,
    offer: tuple[str, int] | None = None,
) -> None:
    """Move an entry by the table, with the seat that is set aside for it. `offer`: the slot, and until when.

    Raises ValueError for a move that the table does not have; nothing was changed.
    """
    before, slot_id = entry.state, entry.slot_id
    entry.state = move(event, before)
    entry.live = entry.state in LIVE
    entry.reason = reason
    entry.version += 1
    entry.updated_ms = tx.now_ms
    if entry.state == State.OFFERED:
        entry.slot_id, entry.due_ms = offer or (None, None)
    else:
        entry.slot_id, entry.due_ms = None, entry.clears_ms if entry.live else None
    changed = ("version", "state", "live", "due_ms", "slot_id", "reason", "updated_ms")
    values = {f"new_{name}": getattr(entry, name) for name in changed}
    await tx.run(_SAVE, {"of_hospital": tx.hospital_id, "of_id": entry.id, **values, "new_state": entry.state.value})
    await _count(tx, entry, (entry.state == State.WAITING) - (before == State.WAITING))
    if entry.slot_id is not None:
        await set_aside(tx, entry.slot_id, entry.schedule_id)
    elif before == State.OFFERED and slot_id is not None:
        await offer_is_over(tx, hospital, entry_id=entry.id, slot_id=slot_id, schedule_id=entry.schedule_id)
    tx.count(metrics.waitlist.labels(hospital=tx.hospital_id, outcome=_OUTCOMES[event]).inc)
    await _tell(tx, hospital, entry)


async def _count(tx: Tx, entry: Entry, change: int) -> None:
    """What is left of the session may be for others now, or no longer."""
    if change:
        await tx.run(_COUNT, {"of_hospital": tx.hospital_id, "of_id": entry.schedule_id, "change": change})
    day = await tx.first(_DAY, {"of_hospital": tx.hospital_id, "of_id": entry.schedule_id})
    if day is not None:
        tx.touch(day["date"], day["department_id"])


async def _tell(tx: Tx, hospital: Hospital, entry: Entry) -> None:
    payload = payload_of(entry.id, entry.patient_id, entry.schedule_id, entry.version, entry.state)
    if entry.reason is not None:
        payload["reason"] = entry.reason
    if entry.state == State.OFFERED:
        payload |= {"slot_id": entry.slot_id, "accept_by": _instant(entry.due_ms or 0, hospital)}
    await tell(tx, entry.client_id, CHANGED, payload)


def _instant(ms: int, hospital: Hospital) -> str:
    return dt.datetime.fromtimestamp(ms / 1000, hospital.zone).isoformat()


# --- reading ------------------------------------------------------------------------------------------------------

_ahead = waitlist.alias("ahead")
# How many stand in line up to and with an entry; 0 for one that waits no more.
_POSITION = (
    select(func.count())
    .where(
        _ahead.c.hospital_id == waitlist.c.hospital_id,
        _ahead.c.schedule_id == waitlist.c.schedule_id,
        _ahead.c.live,
        _ahead.c.state == State.WAITING.value,
        _ahead.c.number <= waitlist.c.number,
        waitlist.c.state == State.WAITING.value,
    )
    .correlate(waitlist)
    .scalar_subquery()
    .label("position")
)
Placed = tuple[Entry, int | None]
"""An entry, and its position in line: 1 is the next. None for one that is not in line."""


async def own_entry(tx: Tx, client_id: str, entry_id: str) -> Placed:
    """An entry of this API client. Raises Refusal(waitlist_entry_unknown), also for another client's."""
    rows = await _placed(tx, (waitlist.c.id == entry_id,), 1)
    if not rows or rows[0][0].client_id != client_id:
        raise Refusal("waitlist_entry_unknown", f"There is no entry {entry_id} of yours at this hospital.")
    return rows[0]


async def entries_of(
    tx: Tx, client_id: str, patient_id: str, *, after: int | None = None, limit: int = 50
) -> list[Placed]:
    """A client's entries of one patient of its, the newest first, with numbers below `after`."""
    # Joined to nothing, a column is out of the choice of an index: a client has any number of entries, a patient few.
    which: list[ColumnElement[bool]] = [
        waitlist.c.patient_id == patient_id,
        waitlist.c.client_id.concat("") == client_id,
    ]
    if after is not None:
        which.append(waitlist.c.number < after)
    return await _placed(tx, which, limit)


async def _placed(tx: Tx, which: Any, limit: int) -> list[Placed]:
    rows = await tx.all(
        select(waitlist, _POSITION)
        .where(waitlist.c.hospital_id == tx.hospital_id, *which)
        .order_by(waitlist.c.number.desc())
        .limit(limit)
    )
    return [(entry_from_row(row), row["position"] or None) for row in rows]


async def count_entries(tx: Tx) -> dict[str, int]:
    """How many entries of a hospital wait, and how many are offered a seat."""
    rows = await tx.all(
        select(waitlist.c.state, func.count().label("entries"))
        .where(waitlist.c.hospital_id == tx.hospital_id, waitlist.c.due_ms.is_not(None))
        .group_by(waitlist.c.state)
    )
    return {state.value: 0 for state in sorted(LIVE)} | {row["state"]: row["entries"] for row in rows}
