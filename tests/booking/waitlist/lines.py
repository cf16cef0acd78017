"""Lines of people who wait at the small hospital of `tests.booking.world`: a session of one seat, which is taken."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import func, select

from booking.inventory.requests import Terms
from booking.inventory.writer import HoldWriter
from booking.records import Booking
from booking.rules.settings import BookingRules
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import schedules, slots, waitlist
from booking.waitlist.joining import join, leave
from booking.waitlist.records import Entry, own_entry
from mappings.canonical import Patient
from scheduler_sync.sweeps import serve_waitlist
from tests.booking.world import (
    CLIENT,
    HOSPITAL,
    get,
    hold_writer,
    make_hospital,
    make_schedule,
    put_patient,
    request,
    schedule_id_of,
)

SESSION = schedule_id_of(make_schedule())


def with_line(rule: dict[str, Any] | None = None, **changes: Any) -> Hospital:
    """A hospital with a waitlist; `rules` are others beside it."""
    rules = {"waitlist": rule or {}, **changes.pop("rules", {})}
    return make_hospital(rules=msgspec.convert(rules, BookingRules), **changes)


def someone(n: int) -> Patient:
    """The nth of any number of people."""
    return Patient(name="张三", id_type="passport", id_number=f"E{n:08d}", phone="13800000000")


async def join_line(
    store: Store, hospital: Hospital, patient_id: str, *, client: str = CLIENT, session: str = SESSION
) -> Entry:
    """Join. Raises Refusal."""
    terms = Terms(mode=hospital.mode.value, offered=True, rules=hospital.rules, zone=hospital.zone)
    async with store.write(HOSPITAL) as tx:
        entry, _ = await join(
            tx, hospital, terms, client_id=client, user_ref=None, patient_id=patient_id, schedule_id=session
        )
    return entry


async def joined(store: Store, hospital: Hospital, n: int) -> Entry:
    """The nth person is in line."""
    return await join_line(store, hospital, await put_patient(store, someone(n)))


async def leave_line(store: Store, hospital: Hospital, entry: Entry, *, client: str = CLIENT) -> str:
    async with store.write(HOSPITAL) as tx:
        left, _ = await leave(tx, hospital, client, entry.id)
    return left.state.value


async def look(store: Store, entry: Entry) -> Entry:
    """The entry as stored."""
    async with store.read(HOSPITAL) as tx:
        return (await own_entry(tx, entry.client_id, entry.id))[0]


async def states(store: Store, *entries: Entry) -> list[str]:
    return [(await look(store, entry)).state.value for entry in entries]


async def position(store: Store, entry: Entry) -> int | None:
    async with store.read(HOSPITAL) as tx:
        return (await own_entry(tx, entry.client_id, entry.id))[1]


def accepting(entry: Entry, **changes: Any) -> Any:
    """The hold that accepts what an entry is offered."""
    known = request(entry.slot_id or "", entry.patient_id, client=entry.client_id)
    return msgspec.structs.replace(known, **{"offer": entry.id, **changes})


async def accept(store: Store, hospital: Hospital, entry: Entry, **changes: Any) -> Booking:
    """Accept what is offered now. Raises Refusal."""
    entry = await look(store, entry)
    async with hold_writer(store) as writer:
        return await accept_by(writer, store, hospital, entry, **changes)


async def accept_by(writer: HoldWriter, store: Store, hospital: Hospital, entry: Entry, **changes: Any) -> Booking:
    answer = await writer.hold(hospital, accepting(entry, **changes))
    return await get(store, msgspec.json.decode(answer.body)["id"])


async def counts(store: Store) -> tuple[int, int]:
    """People without an offer, and seats that are set aside, as sessions count them. Raises AssertionError: counted wrongly."""
    async with store.read(HOSPITAL) as tx:
        of_state = {
            row["state"]: row["n"]
            for row in await tx.all(
                select(waitlist.c.state, func.count().label("n")).where(waitlist.c.live).group_by(waitlist.c.state)
            )
        }
        sessions = await tx.all(select(schedules.c.waiting, schedules.c.held_back))
        segments = await tx.all(select(slots.c.held_back))
    told = sum(row["waiting"] for row in sessions), sum(row["held_back"] for row in sessions)
    assert told == (of_state.get("waiting", 0), of_state.get("offered", 0))
    assert told[1] == sum(row["held_back"] for row in segments)
    return told


async def sweep(store: Store, hospital: Hospital) -> int:
    return await serve_waitlist(store, hospital)
