"""What can be booked: departments, practitioners, schedules and slots as the last sync left them, and how they are read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import select, update

from booking import seats
from booking.store.engine import Tx
from booking.store.ids import derived_id
from booking.store.tables import bookings, departments, practitioners, schedules, slots
from mappings.canonical import (
    Department,
    HisRefs,
    Practitioner,
    Schedule,
    ScheduleStatus,
    ScheduleStopped,
    Session,
    Slot,
    StopScope,
)


def schedule_key(hospital_id: str, his_id: str, date: dt.date, session: str) -> str:
    """Our id of a schedule: the same on every fetch."""
    return derived_id("sc_", hospital_id, his_id, date.isoformat(), session)


def slot_key(hospital_id: str, slot: Slot) -> str:
    """Our id of a slot: the same on every fetch."""
    return derived_id("sl_", hospital_id, slot.schedule_id, slot.date.isoformat(), slot.session, slot.id)


def _json(refs: HisRefs) -> str:
    return msgspec.json.encode(refs, order="sorted").decode()


def _ms(instant: dt.datetime) -> int:
    return round(instant.timestamp() * 1000)


async def put_departments(tx: Tx, records: list[Department], *, only_new: bool = False) -> None:
    """Insert or update departments; none is ever deleted by a fetch. `only_new` leaves known ones as they are."""
    rows = [
        {
            "hospital_id": tx.hospital_id,
            "id": d.id,
            "name": d.name,
            "parent_id": d.parent_id,
            "campus": d.campus,
            "his_refs": _json(d.his_refs),
        }
        for d in records
    ]
    await tx.upsert(departments, rows, keep=("name", "parent_id", "campus", "his_refs") if only_new else ())


async def put_practitioners(tx: Tx, records: list[Practitioner]) -> None:
    """Insert or update practitioners."""
    rows = [
        {
            "hospital_id": tx.hospital_id,
            "id": p.id,
            "name": p.name,
            "department_id": p.department_id,
            "title": p.title,
            "his_refs": _json(p.his_refs),
        }
        for p in records
    ]
    await tx.upsert(practitioners, rows)


def is_stopped(schedule: Schedule, stops: Sequence[ScheduleStopped]) -> bool:
    """Whether a list of stops, fetched beside the schedules, names this whole schedule."""
    return any(stop.scope == StopScope.SCHEDULE and _of_schedule(stop, schedule) for stop in stops)


def is_slot_stopped(slot: Slot, stops: Sequence[ScheduleStopped]) -> bool:
    """Whether a list of stops names this segment."""
    return any(
        stop.scope == StopScope.SEGMENT and stop.starts_at == slot.starts_at and _of_slot(stop, slot) for stop in stops
    )


def _of_schedule(stop: ScheduleStopped, schedule: Schedule) -> bool:
    return (
        stop.schedule_id == schedule.id
        and stop.date in (None, schedule.date)
        and stop.session in (None, schedule.session)
    )


def _of_slot(stop: ScheduleStopped, slot: Slot) -> bool:
    return (
        stop.schedule_id == slot.schedule_id and stop.date in (None, slot.date) and stop.session in (None, slot.session)
    )


async def put_schedules(tx: Tx, records: list[Schedule], *, stops: Sequence[ScheduleStopped] = ()) -> list[str]:
    """Insert or update schedules; returns the ids of those that have just become stopped (a stop seen by polling).

    `stops` is the HIS's list of stops, where its schedules do not show them. A stop that the HIS has pushed stands until it
    pushes the reopening: a list that was read before, or that never shows stops, must not put stopped seats on sale.
    """
    rows = [
        {
            "hospital_id": tx.hospital_id,
            "id": schedule_key(tx.hospital_id, s.id, s.date, s.session),
            "his_id": s.id,
            "date": s.date.isoformat(),
            "session": s.session.value,
            "department_id": s.department_id,
            "department_name": s.department_name,
            "practitioner_id": s.practitioner_id,
            "practitioner_name": s.practitioner_name,
            "clinic_type": s.clinic_type,
            "fee_fen": s.fee_fen if s.fee_fen is None or s.fee_fen >= 0 else None,  # "-1": the HIS does not know
            "status": "stopped" if is_stopped(s, stops) else s.status.value,
            "opens_at_ms": None if s.opens_at is None else _ms(s.opens_at),
            "location": s.location,
            "his_refs": _json(s.his_refs),
            "seen_ms": tx.now_ms,
        }
        for s in records
    ]
    for start in range(0, len(rows), 200):
        chunk = rows[start : start + 200]
        kept = await tx.all(
            select(schedules.c.id).where(
                schedules.c.hospital_id == tx.hospital_id,
                schedules.c.id.in_([r["id"] for r in chunk]),
                schedules.c.stopped_ms.is_not(None),
            )
        )
        pushed = {r["id"] for r in kept}
        for row in chunk:
            if row["id"] in pushed:
                row["status"] = "stopped"
    stopped = [str(r["id"]) for r in rows if r["status"] == "stopped"]
    newly = await _open_ones(tx, stopped)
    await tx.upsert(schedules, rows)
    return newly


async def _open_ones(tx: Tx, ids: list[str]) -> list[str]:
    found: list[str] = []
    for start in range(0, len(ids), 200):
        rows = await tx.all(
            select(schedules.c.id).where(
                schedules.c.hospital_id == tx.hospital_id,
                schedules.c.id.in_(ids[start : start + 200]),
                schedules.c.status == "open",
            )
        )
        found += [r["id"] for r in rows]
    return found


async def apply_slots(
    tx: Tx,
    records: list[Slot],
    *,
    started_ms: int,
    ended_ms: int,
    his_cache_ms: int,
    stops: Sequence[ScheduleStopped] = (),
) -> list[str]:
    """Apply one fetch to the seats: the HIS's figure and the recount in one transaction.

    Returns the ids of known slots that have just become stopped. A stop that the HIS has pushed stands, as in put_schedules.

    `started_ms` and `ended_ms` bound the fetch on this store's clock. A slot to which a later fetch has been applied keeps
    its figures. Slots that the fetch does not name are left alone.
    """
    newly_stopped: list[str] = []
    for slot in records:
        slot_id = slot_key(tx.hospital_id, slot)
        known = await tx.first(
            select(slots.c.fetch_started_ms, slots.c.status, slots.c.stopped_ms).where(
                slots.c.hospital_id == tx.hospital_id, slots.c.id == slot_id
            )
        )
        if known is not None and known["fetch_started_ms"] > started_ms:
            continue
        pushed = known is not None and known["stopped_ms"] is not None
        status = "stopped" if pushed or is_slot_stopped(slot, stops) else slot.status.value
        figures = await _recount(tx, slot_id, slot.seats_left, started_ms, his_cache_ms, known is not None)
        row = {
            "hospital_id": tx.hospital_id,
            "id": slot_id,
            "schedule_id": schedule_key(tx.hospital_id, slot.schedule_id, slot.date, slot.session),
            "his_id": slot.id,
            "date": slot.date.isoformat(),
            "starts_at_ms": _ms(slot.starts_at),
            "ends_at_ms": _ms(slot.ends_at),
            "status": status,
            "his_left": figures.his_left,
            "unreflected": figures.unreflected,
            "fetch_started_ms": started_ms,
            "fetch_ended_ms": ended_ms,
            "his_refs": _json(slot.his_refs),
        }
        await tx.upsert(slots, [row])
        if known is not None and known["status"] == "open" and status == "stopped":
            newly_stopped.append(slot_id)
    return newly_stopped


async def _recount(tx: Tx, slot_id: str, his_left: int, started_ms: int, his_cache_ms: int, known: bool) -> seats.Seats:
    if not known:
        return seats.Seats(max(0, his_left), 0)
    rows = await tx.all(
        select(bookings.c.id, bookings.c.lock_reply_ms, bookings.c.charged).where(
            bookings.c.hospital_id == tx.hospital_id, bookings.c.slot_id == slot_id, bookings.c.occupies
        )
    )
    figures, charged = seats.apply_fetch(
        his_left,
        [seats.Charge(r["lock_reply_ms"]) for r in rows],
        fetch_started_ms=started_ms,
        his_cache_ms=his_cache_ms,
    )
    for row, now_charged in zip(rows, charged, strict=True):
        if row["charged"] != now_charged:
            await tx.run(
                update(bookings)
                .where(bookings.c.hospital_id == tx.hospital_id, bookings.c.id == row["id"])
                .values(charged=now_charged)
            )
    return figures


async def stop_slots(tx: Tx, schedule_id: str, *, starts_at_ms: int | None = None, pushed: bool = True) -> None:
    """Mark a schedule, or one segment of it, as stopped; what was pushed stands until `reopen`."""
    values: dict[str, Any] = {"status": "stopped"}
    if pushed:
        values["stopped_ms"] = tx.now_ms
    if starts_at_ms is None:
        await tx.run(
            update(schedules)
            .where(schedules.c.hospital_id == tx.hospital_id, schedules.c.id == schedule_id)
            .values(**values)
        )
        return
    await tx.run(
        update(slots)
        .where(
            slots.c.hospital_id == tx.hospital_id,
            slots.c.schedule_id == schedule_id,
            slots.c.starts_at_ms == starts_at_ms,
        )
        .values(**values)
    )


async def reopen(tx: Tx, his_schedule_id: str | None) -> None:
    """The HIS has reopened a schedule (all of them for None): the next fetch says what is on sale."""
    if his_schedule_id is None:
        return
    of = select(schedules.c.id).where(schedules.c.hospital_id == tx.hospital_id, schedules.c.his_id == his_schedule_id)
    ids = [r["id"] for r in await tx.all(of)]
    await tx.run(
        update(schedules)
        .where(schedules.c.hospital_id == tx.hospital_id, schedules.c.id.in_(ids))
        .values(stopped_ms=None)
    )
    await tx.run(
        update(slots).where(slots.c.hospital_id == tx.hospital_id, slots.c.schedule_id.in_(ids)).values(stopped_ms=None)
    )


# --- reading ------------------------------------------------------------------------------------------------------


async def list_departments(tx: Tx) -> list[dict[str, Any]]:
    """All departments by id."""
    return await tx.all(
        select(departments).where(departments.c.hospital_id == tx.hospital_id).order_by(departments.c.id)
    )


async def list_practitioners(tx: Tx, department_id: str | None) -> list[dict[str, Any]]:
    """All practitioners, or those of one department, by id."""
    query = select(practitioners).where(practitioners.c.hospital_id == tx.hospital_id)
    if department_id is not None:
        query = query.where(practitioners.c.department_id == department_id)
    return await tx.all(query.order_by(practitioners.c.id))


async def list_slots(
    tx: Tx,
    *,
    date_from: dt.date,
    date_to: dt.date,
    department_id: str | None = None,
    practitioner_id: str | None = None,
    after: tuple[int, str] | None = None,
    limit: int = 200,
) -> list[dict[str, Any]]:
    """Slots that start on these days, both included, ordered by start and id, after the cursor `(starts_at_ms, id)`."""
    joined = slots.join(
        schedules, (schedules.c.hospital_id == slots.c.hospital_id) & (schedules.c.id == slots.c.schedule_id)
    )
    query = (
        select(
            slots,
            schedules.c.department_id,
            schedules.c.department_name,
            schedules.c.practitioner_id,
            schedules.c.practitioner_name,
            schedules.c.session,
            schedules.c.clinic_type,
            schedules.c.fee_fen,
            schedules.c.opens_at_ms,
            schedules.c.status.label("schedule_status"),
        )
        .select_from(joined)
        .where(
            slots.c.hospital_id == tx.hospital_id,
            slots.c.date >= date_from.isoformat(),
            slots.c.date <= date_to.isoformat(),
        )
    )
    if department_id is not None:
        query = query.where(schedules.c.department_id == department_id)
    if practitioner_id is not None:
        query = query.where(schedules.c.practitioner_id == practitioner_id)
    if after is not None:
        at, slot_id = after
        query = query.where((slots.c.starts_at_ms > at) | ((slots.c.starts_at_ms == at) & (slots.c.id > slot_id)))
    return await tx.all(query.order_by(slots.c.starts_at_ms, slots.c.id).limit(limit))


def slot_status(row: dict[str, Any], now_ms: int) -> str:
    """open, not_released, sold_out or stopped, as of `now_ms`."""
    if row["status"] == "stopped" or row["schedule_status"] == "stopped" or row["starts_at_ms"] <= now_ms:
        return "stopped"
    if row["opens_at_ms"] is not None and now_ms < row["opens_at_ms"]:
        return "not_released"
    return "open" if seats.Seats(row["his_left"], row["unreflected"]).remaining > 0 else "sold_out"


async def load_slot(tx: Tx, slot_id: str, zone: dt.tzinfo) -> tuple[Schedule, Slot]:
    """The canonical schedule and slot behind one of our slot ids, for a command to the HIS."""
    row = await tx.first(select(slots).where(slots.c.hospital_id == tx.hospital_id, slots.c.id == slot_id))
    if row is None:
        raise LookupError("a booking's slot is gone")
    of = await tx.first(
        select(schedules).where(schedules.c.hospital_id == tx.hospital_id, schedules.c.id == row["schedule_id"])
    )
    if of is None:
        raise LookupError("a slot's schedule is gone")
    date = dt.date.fromisoformat(of["date"])
    schedule = Schedule(
        id=of["his_id"],
        date=date,
        session=Session(of["session"]),
        department_id=of["department_id"],
        department_name=of["department_name"],
        practitioner_id=of["practitioner_id"],
        practitioner_name=of["practitioner_name"],
        clinic_type=of["clinic_type"],
        fee_fen=of["fee_fen"],
        status=ScheduleStatus(of["status"]),
        location=of["location"],
        his_refs=msgspec.json.decode(of["his_refs"], type=HisRefs),
    )
    slot = Slot(
        id=row["his_id"],
        schedule_id=of["his_id"],
        date=date,
        session=Session(of["session"]),
        starts_at=dt.datetime.fromtimestamp(row["starts_at_ms"] / 1000, zone),
        ends_at=dt.datetime.fromtimestamp(row["ends_at_ms"] / 1000, zone),
        seats_left=row["his_left"],
        his_refs=msgspec.json.decode(row["his_refs"], type=HisRefs),
    )
    return schedule, slot
