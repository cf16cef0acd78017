"""What can be booked: our ids of schedules and slots, and how they are read. `booking.fetches` writes them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Select, Table, bindparam, case, func, select

from booking import seats
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.ids import derived_id
from booking.store.tables import departments, practitioners, schedules, slots
from mappings.canonical import HisRefs, Schedule, ScheduleStatus, Session, Slot


def schedule_key(hospital_id: str, his_id: str, date: dt.date, session: str) -> str:
    """Our id of a schedule: the same on every fetch."""
    return derived_id("sc_", hospital_id, his_id, date.isoformat(), session)


def slot_key(hospital_id: str, slot: Slot) -> str:
    """Our id of a slot: the same on every fetch."""
    return derived_id("sl_", hospital_id, slot.schedule_id, slot.date.isoformat(), slot.session, slot.id)


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


# Who holds a segment: its schedule's practitioner, or the one who stands in for them there.
HELD_BY: ColumnElement[str] = func.coalesce(slots.c.practitioner_id, schedules.c.practitioner_id)
HELD_BY_NAME: ColumnElement[str] = func.coalesce(slots.c.practitioner_name, schedules.c.practitioner_name)

_TOLD_OTHERWISE = ("his_left", "held_back", "practitioner_id", "practitioner_name")
# What is held back, or is for those on the waitlist, is no seat to whoever reads a list.
_SLOT_ROWS = select(
    *(column for column in slots.columns if column.name not in _TOLD_OTHERWISE),
    case((schedules.c.waiting > 0, 0), else_=slots.c.his_left - slots.c.held_back).label("his_left"),
    schedules.c.department_id,
    schedules.c.department_name,
    HELD_BY.label("practitioner_id"),
    HELD_BY_NAME.label("practitioner_name"),
    schedules.c.session,
    schedules.c.clinic_type,
    schedules.c.fee_fen,
    schedules.c.opens_at_ms,
    (schedules.c.quota - schedules.c.held_back).label("quota"),
    schedules.c.taken,
    schedules.c.status.label("schedule_status"),
).select_from(
    slots.join(schedules, (schedules.c.hospital_id == slots.c.hospital_id) & (schedules.c.id == slots.c.schedule_id))
)


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
    query = _SLOT_ROWS.where(
        slots.c.hospital_id == tx.hospital_id,
        slots.c.date >= date_from.isoformat(),
        slots.c.date <= date_to.isoformat(),
    )
    if department_id is not None:
        query = query.where(schedules.c.department_id == department_id)
    if practitioner_id is not None:
        query = query.where(HELD_BY.in_((practitioner_id,)))
    if after is not None:
        at, slot_id = after
        query = query.where((slots.c.starts_at_ms > at) | ((slots.c.starts_at_ms == at) & (slots.c.id > slot_id)))
    return await tx.all(query.order_by(slots.c.starts_at_ms, slots.c.id).limit(limit))


async def slots_by_date(
    tx: Tx, *, date_from: dt.date | None, date_to: dt.date | None, after: tuple[str, str] | None, limit: int
) -> list[dict[str, Any]]:
    """Slots by their schedules' date and id, both dates included, after the cursor `(date, id)`: a slot never changes them."""
    return await _by_date(tx, _SLOT_ROWS, slots, date_from, date_to, after, limit)


async def _by_date(
    tx: Tx,
    query: Select[Any],
    table: Table,
    date_from: dt.date | None,
    date_to: dt.date | None,
    after: tuple[str, str] | None,
    limit: int,
) -> list[dict[str, Any]]:
    """Rows by date and id, a date at a time: sorted are those of one day, however many days are asked for."""
    on, behind = after or ("", "")
    last = "9999-12-31" if date_to is None else date_to.isoformat()
    if date_from is not None and on < date_from.isoformat():
        on, behind = date_from.isoformat(), ""
    rows: list[dict[str, Any]] = []
    # Joined to nothing, the id is out of the choice of an index: that of the date finds few.
    key = table.c.id.concat("")
    while len(rows) < limit:
        found = await tx.first(
            select(table.c.date)
            .where(table.c.hospital_id == tx.hospital_id, table.c.date >= on, table.c.date <= last)
            .order_by(table.c.date)
            .limit(1)
        )
        if found is None:
            break
        if found["date"] != on:
            on, behind = found["date"], ""
        rows += await tx.all(
            query.where(table.c.hospital_id == tx.hospital_id, table.c.date == on, key > behind)
            .order_by(key)
            .limit(limit - len(rows))
        )
        on, behind = (dt.date.fromisoformat(on) + dt.timedelta(days=1)).isoformat(), ""
    return rows


def slot_status(row: dict[str, Any], now_ms: int) -> str:
    """open, not_released, sold_out or stopped, as of `now_ms`."""
    if row["status"] == "stopped" or row["schedule_status"] == "stopped" or row["starts_at_ms"] <= now_ms:
        return "stopped"
    if row["opens_at_ms"] is not None and now_ms < row["opens_at_ms"]:
        return "not_released"
    return "open" if remaining_of(row) > 0 else "sold_out"


def remaining_of(row: dict[str, Any]) -> int:
    """What may be sold: a slot draws on its own seats and on the schedule's, and the scarcer ones decide."""
    own = seats.Seats(row["his_left"], row["unreflected"]).remaining
    return own if row["quota"] is None else max(0, min(own, row["quota"] - row["taken"]))


_SLOT_OF = ("his_id", "starts_at_ms", "ends_at_ms", "his_left", "his_refs")


async def list_schedules(
    tx: Tx,
    *,
    date_from: dt.date | None = None,
    date_to: dt.date | None = None,
    after: tuple[str, str] | None = None,
    limit: int = 200,
) -> list[dict[str, Any]]:
    """Schedules by date and id, both dates included, after the cursor `(date, id)`."""
    return await _by_date(tx, select(schedules), schedules, date_from, date_to, after, limit)


async def named_by_schedules(
    tx: Tx, date_from: dt.date, date_to: dt.date
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Departments and practitioners of the schedules of these days, as rows like those of the lists: some HIS list none."""
    rows = await tx.all(
        select(
            schedules.c.department_id,
            schedules.c.department_name,
            schedules.c.practitioner_id,
            schedules.c.practitioner_name,
        )
        .where(
            schedules.c.hospital_id == tx.hospital_id,
            schedules.c.date >= date_from.isoformat(),
            schedules.c.date <= date_to.isoformat(),
        )
        .distinct()
    )
    clinics = {r["department_id"]: r["department_name"] or r["department_id"] for r in rows}
    doctors = {
        r["practitioner_id"]: (r["practitioner_name"] or r["practitioner_id"], r["department_id"])
        for r in sorted(rows, key=lambda r: str(r["department_id"]))
        if r["practitioner_id"] is not None
    }
    return (
        [{"id": key, "name": name, "parent_id": None, "campus": None} for key, name in clinics.items()],
        [{"id": key, "name": name, "department_id": of, "title": None} for key, (name, of) in doctors.items()],
    )


_ORDERED = Fixed(
    select(schedules, *(slots.c[name].label(f"slot_{name}") for name in _SLOT_OF))
    .select_from(
        slots.join(
            schedules, (schedules.c.hospital_id == slots.c.hospital_id) & (schedules.c.id == slots.c.schedule_id)
        )
    )
    .where(slots.c.hospital_id == bindparam("of_hospital"), slots.c.id == bindparam("of_slot"))
)


async def load_slot(tx: Tx, slot_id: str, zone: dt.tzinfo) -> tuple[Schedule, Slot]:
    """The canonical schedule and slot behind one of our slot ids, for a command to the HIS. Raises LookupError."""
    of = await tx.first(_ORDERED, {"of_hospital": tx.hospital_id, "of_slot": slot_id})
    if of is None:
        raise LookupError("a booking's slot or schedule is gone")
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
        id=of["slot_his_id"],
        schedule_id=of["his_id"],
        date=date,
        session=Session(of["session"]),
        starts_at=dt.datetime.fromtimestamp(of["slot_starts_at_ms"] / 1000, zone),
        ends_at=dt.datetime.fromtimestamp(of["slot_ends_at_ms"] / 1000, zone),
        seats_left=of["slot_his_left"],
        his_refs=msgspec.json.decode(of["slot_his_refs"], type=HisRefs),
    )
    return schedule, slot
