"""Events for portals: written in the transaction of the change, numbered afterwards by one sequencer.

Rows are numbered only after their commit and by one process alone, so that a reader's cursor never passes one that commits
late. Payloads hold ids and states, never patient data.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import bindparam, func, select, update

from booking.records import Booking
from booking.store.engine import Store, Tx
from booking.store.ids import new_id
from booking.store.tables import events, patients

SEQUENCER = "#events"  # the store lock under which events are numbered, and the topic that rings when there are some
NUMBERED = "#numbered"  # rings when events have got their numbers
ROUND = 100  # events numbered in one transaction: on SQLite nobody else writes meanwhile
KEEP_MS = 30 * 24 * 3600 * 1000


async def tell(tx: Tx, client_id: str, kind: str, payload: dict[str, Any]) -> None:
    """Record one event for one API client."""
    await tx.insert(
        events,
        {
            "id": new_id(),
            "hospital_id": tx.hospital_id,
            "client_id": client_id,
            "type": kind,
            "payload": msgspec.json.encode(payload).decode(),
            "created_ms": tx.now_ms,
        },
    )
    tx.ring(SEQUENCER)


async def tell_booking(tx: Tx, booking: Booking) -> None:
    """`booking.changed`, with the state after the change."""
    await tell(
        tx,
        booking.client_id,
        "booking.changed",
        {
            "booking_id": booking.id,
            "order_no": booking.order_no,
            "patient_id": booking.patient_id,
            "version": booking.version,
            "state": booking.state,
            "his_state": booking.his_state,
            "payment_state": booking.payment_state,
        },
    )


async def tell_owners(tx: Tx, person_id: str, kind: str, payload: dict[str, Any]) -> None:
    """Tell every client that has this person as a patient, with its own patient id."""
    rows = await tx.all(
        select(patients.c.id, patients.c.client_id).where(
            patients.c.hospital_id == tx.hospital_id, patients.c.person_id == person_id
        )
    )
    for row in rows:
        await tell(tx, row["client_id"], kind, {**payload, "patient_id": row["id"]})


async def number_events(store: Store, *, limit: int = ROUND) -> int:
    """Give numbers to committed events, in order of their ids; returns how many. Writes nothing when there is nothing new."""
    async with store.read() as tx:
        if await tx.first(select(events.c.id).where(events.c.seq.is_(None)).limit(1)) is None:
            return 0
    async with store.write(SEQUENCER) as tx:
        ids = [
            r["id"]
            for r in await tx.all(select(events.c.id).where(events.c.seq.is_(None)).order_by(events.c.id).limit(limit))
        ]
        if not ids:
            return 0
        last = (await tx.conn.execute(select(func.coalesce(func.max(events.c.seq), 0)))).scalar_one()
        await tx.conn.execute(
            update(events).where(events.c.id == bindparam("event_id")).values(seq=bindparam("number")),
            [{"event_id": event_id, "number": last + n} for n, event_id in enumerate(ids, start=1)],
        )
        tx.ring(NUMBERED)
        return len(ids)


async def number_all(store: Store) -> None:
    """Number whatever waits, round by round."""
    while await number_events(store) == ROUND:
        pass


async def forget_events(store: Store, *, limit: int = 100) -> int:
    """Delete numbered events past their 30 days, a few at a time. The newest row stays, as it carries the last number.

    Numbers follow time closely enough: what is oldest by number is looked at, and the first look without an old one is the last.
    """
    async with store.write(SEQUENCER) as tx:
        newest = (await tx.conn.execute(select(func.coalesce(func.max(events.c.seq), 0)))).scalar_one()
        oldest = await tx.all(
            select(events.c.id, events.c.created_ms)
            .where(events.c.seq.is_not(None), events.c.seq < newest)
            .order_by(events.c.seq)
            .limit(limit)
        )
        old = [r["id"] for r in oldest if r["created_ms"] < tx.now_ms - KEEP_MS]
        return await tx.run(events.delete().where(events.c.id.in_(old))) if old else 0
