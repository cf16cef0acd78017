"""What a sync tells of the catalogue, taken over in few statements: only what differs is written, and only that is told.

Each function takes one chunk of a fetch, as one transaction must not take long (DESIGN section 4).
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Table, bindparam, select, update

from booking import seats
from booking.catalog import schedule_key, slot_key
from booking.rescheduling.marks import Mark, goes_elsewhere, has_moved, is_elsewhere, put_mark
from booking.rescheduling.seen import changed_holder, changed_in_place, changed_time, together
from booking.store.engine import Tx
from booking.store.tables import bookings, departments, practitioners, schedules, slots
from mappings.canonical import Department, HisRefs, Practitioner, Schedule, ScheduleStopped, Slot, StopScope

MASTER = ("", "")  # the fragment of departments and practitioners, which belong to no day
_Row = dict[str, Any]


def _json(refs: HisRefs) -> str:
    return msgspec.json.encode(refs, order="sorted").decode()


def _ms(instant: dt.datetime) -> int:
    return round(instant.timestamp() * 1000)


# --- master data ---------------------------------------------------------------------------------------------------


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
    await _put_master(tx, departments, rows, only_new=only_new)


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
    await _put_master(tx, practitioners, rows)


async def _put_master(tx: Tx, table: Table, rows: list[_Row], *, only_new: bool = False) -> None:
    known = await _known(tx, table, [r["id"] for r in rows])
    changed = [r for r in _last(rows) if r["id"] not in known or (not only_new and _differ(r, known[r["id"]]))]
    if changed:
        await tx.upsert(table, changed)
        tx.touch(*MASTER)


async def _known(tx: Tx, table: Table, ids: Iterable[str]) -> dict[str, _Row]:
    """The stored rows of these ids, by id."""
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    rows = await tx.all(select(table).where(table.c.hospital_id == tx.hospital_id, table.c.id.in_(wanted)))
    return {r["id"]: r for r in rows}


def _last(rows: list[_Row]) -> list[_Row]:
    """Of several rows with one id the last one, as if they had been written one after the other."""
    return list({r["id"]: r for r in rows}.values())


def _differ(row: _Row, known: _Row, columns: Iterable[str] | None = None) -> bool:
    return any(row[name] != known[name] for name in columns or row)


# --- stops that a fetch shows --------------------------------------------------------------------------------------


def is_stopped(schedule: Schedule, stops: Sequence[ScheduleStopped]) -> bool:
    """Whether a list of stops, fetched beside the schedules, names this whole schedule; what goes on elsewhere is off sale."""
    return any(stop.scope == StopScope.SCHEDULE and _of_schedule(stop, schedule) and not _stays(stop) for stop in stops)


def _stays(stop: ScheduleStopped) -> bool:
    """Whether only another practitioner or room is told of."""
    return has_moved(stop) and not is_elsewhere(stop)


def is_slot_stopped(slot: Slot, stops: Sequence[ScheduleStopped]) -> bool:
    """Whether a list of stops names this segment."""
    return any(
        stop.scope == StopScope.SEGMENT
        and stop.hits_start(slot.starts_at)
        and _of_slot(stop, slot)
        and not _stays(stop)
        for stop in stops
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


# --- schedules -----------------------------------------------------------------------------------------------------

_SCHEDULE_SHOWN = (
    "date", "session", "department_id", "department_name", "practitioner_id", "practitioner_name", "clinic_type", "fee_fen",
    "status", "opens_at_ms", "quota",
)  # fmt: skip


async def put_schedules(
    tx: Tx, records: list[Schedule], *, stops: Sequence[ScheduleStopped] = (), channel_quota: int | None = None
) -> list[str]:
    """Insert or update schedules; returns the ids of those that have just become stopped (a stop seen by polling).

    `stops` is the HIS's list of stops, where its schedules do not show them. A stop that the HIS has pushed stands until it
    pushes the reopening: a list that was read before, or that never shows stops, must not put stopped seats on sale.
    `channel_quota` is how many seats of one schedule this installation may sell; the HIS's own word may only lower it.
    """
    rows = _last([_schedule_row(tx, s, stops, channel_quota) for s in records])
    marks: dict[str, Mark] = {}
    known = await _known(tx, schedules, (r["id"] for r in rows))
    for row in rows:
        before = known.get(row["id"])
        if before is None:
            continue
        if before["stopped_ms"] is not None:
            row["status"] = "stopped"
        if (mark := changed_in_place(tx, row, before, stops)) is not None:
            marks[row["id"]] = mark
    new = [r for r in rows if r["id"] not in known]
    changed = [r for r in rows if r["id"] in known and _differ(r, known[r["id"]], r.keys() - {"seen_ms"})]
    same = known.keys() - {r["id"] for r in changed}
    await tx.upsert(schedules, new + changed)
    for row_id, mark in marks.items():
        await put_mark(tx, schedules, row_id, mark)
    if same:
        await tx.run(
            update(schedules)
            .where(schedules.c.hospital_id == tx.hospital_id, schedules.c.id.in_(sorted(same)))
            .values(seen_ms=tx.now_ms)
        )
    for row in new:
        tx.touch(row["date"], row["department_id"])
    for row in changed:
        before = known[row["id"]]
        if _differ(row, before, _SCHEDULE_SHOWN):
            tx.touch(row["date"], row["department_id"])
            tx.touch(before["date"], before["department_id"])
    return [
        r["id"]
        for r in changed
        if r["status"] == "stopped"
        and known[r["id"]]["status"] == "open"
        and not goes_elsewhere(known[r["id"]]["moved"])
    ]


def _schedule_row(tx: Tx, s: Schedule, stops: Sequence[ScheduleStopped], channel_quota: int | None) -> _Row:
    quotas = [q for q in (channel_quota, s.quota) if q is not None and q >= 0]
    return {
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
        "quota": min(quotas, default=None),
        "location": s.location,
        "his_refs": _json(s.his_refs),
        "seen_ms": tx.now_ms,
    }


# --- slots and their seats -----------------------------------------------------------------------------------------

_SLOT_OWN = (
    "schedule_id",
    "his_id",
    "date",
    "starts_at_ms",
    "ends_at_ms",
    "status",
    "his_left",
    "unreflected",
    "practitioner_id",
    "practitioner_name",
    "his_refs",
)


async def apply_slots(
    tx: Tx,
    records: list[Slot],
    *,
    started_ms: int,
    ended_ms: int,
    his_cache_ms: int,
    stops: Sequence[ScheduleStopped] = (),
    ours: bool = False,
) -> list[str]:
    """Apply one fetch to the seats: the HIS's figure and the recount in one transaction.

    Returns the ids of known slots that have just become stopped. A stop that the HIS has pushed stands, as in put_schedules.

    `started_ms` and `ended_ms` bound the fetch on this store's clock. A slot to which a later fetch has been applied keeps
    its figures. Slots that the fetch does not name are left alone. `ours` is for a hospital whose seats are ours
    (`reserve_by = "quota"`): the first figure is our quota, a larger one raises it, and a smaller one only shows what we
    have registered since, so that it is not used.
    """
    by_id = {slot_key(tx.hospital_id, slot): slot for slot in records}
    known = await _known(tx, slots, by_id)
    fresh = {i: s for i, s in by_id.items() if i not in known or known[i]["fetch_started_ms"] <= started_ms}
    occupying = await _occupying(tx, [known[i] for i in fresh if i in known])
    rows, flips = [], []
    for slot_id, slot in fresh.items():
        before, ours_here = known.get(slot_id), occupying[slot_id]
        if ours:
            quota = max(slot.seats_left, before["his_left"] if before is not None else 0)
            figures, charged = seats.Seats(quota, len(ours_here)), [True] * len(ours_here)
        else:
            figures, charged = seats.apply_fetch(
                slot.seats_left,
                [seats.Charge(b["lock_reply_ms"]) for b in ours_here],
                fetch_started_ms=started_ms,
                his_cache_ms=his_cache_ms,
            )
        flips += [(b["id"], now) for b, now in zip(ours_here, charged, strict=True) if b["charged"] != now]
        stopped = (before is not None and before["stopped_ms"] is not None) or is_slot_stopped(slot, stops)
        rows.append(_slot_row(tx, slot_id, slot, figures, "stopped" if stopped else slot.status.value))
    for row in rows:
        row |= {"fetch_started_ms": started_ms, "fetch_ended_ms": ended_ms}
    marks = await _who_holds(tx, rows, fresh, known)
    await _write_slots(tx, rows, known)
    await _charge(tx, flips)
    for row in rows:
        before = known.get(row["id"])
        if before is not None and before["booked"]:
            mark = together(changed_time(tx, row, before), marks.get(row["id"]))
            if mark is not None:
                await put_mark(tx, slots, row["id"], mark)
    return [
        r["id"]
        for r in rows
        if r["status"] == "stopped"
        and r["id"] in known
        and known[r["id"]]["status"] == "open"
        and not goes_elsewhere(known[r["id"]]["moved"])
    ]


async def _who_holds(tx: Tx, rows: list[_Row], told: dict[str, Slot], known: dict[str, _Row]) -> dict[str, Mark]:
    """Write into the rows who holds each segment; the marks of those that somebody else holds than before."""
    named = {row["schedule_id"] for row in rows if told[row["id"]].practitioner_id is not None}
    of = await _known(tx, schedules, named)
    marks: dict[str, Mark] = {}
    for row in rows:
        before = known.get(row["id"])
        row |= {name: None if before is None else before[name] for name in ("practitioner_id", "practitioner_name")}
        schedule = of.get(row["schedule_id"])
        mark = None if schedule is None else changed_holder(tx, row, told[row["id"]], before, schedule)
        if mark is not None:
            marks[row["id"]] = mark
    return marks


def _slot_row(tx: Tx, slot_id: str, slot: Slot, figures: seats.Seats, status: str) -> _Row:
    return {
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
        "his_refs": _json(slot.his_refs),
    }


async def _occupying(tx: Tx, of: list[_Row]) -> defaultdict[str, list[_Row]]:
    """Our bookings that may hold a seat of these slots, by slot. A slot's id is made of its schedule's keys: it stays in it."""
    by_slot: defaultdict[str, list[_Row]] = defaultdict(list)
    if of:
        found = await tx.all(
            select(bookings.c.id, bookings.c.slot_id, bookings.c.lock_reply_ms, bookings.c.charged).where(
                bookings.c.hospital_id == tx.hospital_id,
                bookings.c.schedule_id.in_(sorted({row["schedule_id"] for row in of})),
                bookings.c.slot_id.in_(sorted(row["id"] for row in of)),
                bookings.c.occupies,
            )
        )
        for row in found:
            by_slot[row["slot_id"]].append(row)
    return by_slot


async def _write_slots(tx: Tx, rows: list[_Row], known: dict[str, _Row]) -> None:
    changed = [r for r in rows if r["id"] not in known or _differ(r, known[r["id"]], _SLOT_OWN)]
    same = sorted({r["id"] for r in rows} - {r["id"] for r in changed})
    await tx.upsert(slots, changed)
    if same:
        # Every slot carries the bounds of its own last fetch: a released seat is judged by them.
        await tx.run(
            update(slots)
            .where(slots.c.hospital_id == tx.hospital_id, slots.c.id.in_(same))
            .values(fetch_started_ms=rows[0]["fetch_started_ms"], fetch_ended_ms=rows[0]["fetch_ended_ms"])
        )
    shown = {r["schedule_id"] for r in changed if r["id"] not in known or _shown(r) != _shown(known[r["id"]])}
    for of in (await _known(tx, schedules, shown)).values():
        tx.touch(of["date"], of["department_id"])


def _shown(row: _Row) -> tuple[Any, ...]:
    """What readers see of a slot: of its figures only the difference."""
    left = seats.Seats(row["his_left"], row["unreflected"]).remaining
    return row["starts_at_ms"], row["ends_at_ms"], row["status"], row["practitioner_id"], left


_CHARGE = (
    update(bookings)
    .where(bookings.c.hospital_id == bindparam("of_hospital"), bookings.c.id == bindparam("of_booking"))
    .values(charged=bindparam("is_charged"))
)


async def _charge(tx: Tx, flips: list[tuple[str, bool]]) -> None:
    if flips:
        await tx.conn.execute(
            _CHARGE, [{"of_hospital": tx.hospital_id, "of_booking": i, "is_charged": now} for i, now in flips]
        )


# --- pushed stops --------------------------------------------------------------------------------------------------


async def stop_slots(tx: Tx, schedule_id: str, *, slot_ids: Sequence[str] | None = None, pushed: bool = True) -> None:
    """Mark a schedule, or some segments of it (our ids), as stopped; what was pushed stands until `reopen`."""
    table, which = schedules, [schedules.c.hospital_id == tx.hospital_id, schedules.c.id == schedule_id]
    if slot_ids is not None:
        table = slots
        which = [slots.c.hospital_id == tx.hospital_id, slots.c.id.in_(sorted(slot_ids))]
    values: _Row = {"status": "stopped"}
    # What moves is marked after.
    await tx.run(update(table).where(*which, table.c.moved.is_not(None)).values(moved=None))
    if await tx.run(update(table).where(*which, table.c.status != "stopped").values(**values)):
        for of in (await _known(tx, schedules, [schedule_id])).values():
            tx.touch(of["date"], of["department_id"])
    if pushed:
        await tx.run(update(table).where(*which, table.c.stopped_ms.is_(None)).values(stopped_ms=tx.now_ms))


async def reopen(tx: Tx, his_schedule_id: str | None) -> None:
    """The HIS has reopened a schedule (all of them for None): the next fetch says what is on sale."""
    if his_schedule_id is None:
        return
    of = select(schedules.c.id).where(schedules.c.hospital_id == tx.hospital_id, schedules.c.his_id == his_schedule_id)
    ids = [r["id"] for r in await tx.all(of)]
    await tx.run(
        update(schedules)
        .where(schedules.c.hospital_id == tx.hospital_id, schedules.c.id.in_(ids))
        .values(stopped_ms=None, moved=None)
    )
    await tx.run(
        update(slots)
        .where(slots.c.hospital_id == tx.hospital_id, slots.c.schedule_id.in_(ids))
        .values(stopped_ms=None, moved=None, practitioner_id=None, practitioner_name=None)
    )
