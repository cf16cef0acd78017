"""Events for portals: written in the transaction of the change, numbered afterwards by one sequencer.

Rows are numbered only after their commit and by one process alone, so that a reader's cursor never passes one that commits
late. Payloads hold ids and states, never patient data.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from sqlalchemy import bindparam, func, select, update

from booking.handles import handles_of
from booking.records import Booking
from booking.store.engine import Store, Tx
from booking.store.fixed import Fixed
from booking.store.ids import new_ids_at
from booking.store.tables import events

SEQUENCER = "#events"  # the store lock under which events are numbered, and the topic that rings when there are some
BOOKING_CHANGED = "booking.changed"
NUMBERED = "#numbered"  # rings when events have got their numbers
FEW = 50  # events that are numbered in less time than a thread would be waited for
KEEP_MS = 30 * 24 * 3600 * 1000


async def tell(tx: Tx, client_id: str, kind: str, payload: dict[str, Any]) -> None:
    """Record one event for one API client."""
    await tx.add(events, new_event(tx, client_id, kind, payload))
    tx.ring(SEQUENCER)


def new_event(tx: Tx, client_id: str, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    """The row of an event that has no number yet. It gets its number by its id, which is in the order of the commits."""
    (event_id,) = new_ids_at(tx.now_ms, seq=tx.seq)
    return event_row(event_id, tx.hospital_id, client_id, kind, msgspec.json.encode(payload).decode(), tx.now_ms)


def event_row(event_id: str, hospital_id: str, client_id: str, kind: str, payload: str, now_ms: int) -> dict[str, Any]:
    """The columns of `events` but for the number."""
    return {
        "id": event_id,
        "hospital_id": hospital_id,
        "client_id": client_id,
        "type": kind,
        "payload": payload,
        "created_ms": now_ms,
    }


async def tell_booking(tx: Tx, booking: Booking) -> None:
    """`booking.changed`, with the state after the change."""
    await tell(tx, booking.client_id, BOOKING_CHANGED, booking_payload(booking))


def booking_payload(booking: Booking) -> dict[str, Any]:
    """What `booking.changed` tells."""
    return {
        "booking_id": booking.id,
        "order_no": booking.order_no,
        "patient_id": booking.patient_id,
        "version": booking.version,
        "state": booking.state,
        "his_state": booking.his_state,
        "payment_state": booking.payment_state,
    }


async def tell_owners(tx: Tx, person_id: str, kind: str, payload: dict[str, Any], *, but: str | None = None) -> None:
    """Tell every client that has this person as a patient, with its own patient id; who was unbound is told of no more.

    `but` is a client that was told more than this.
    """
    for row in await handles_of(tx, person_id):
        if row["client_id"] != but:
            await tell(tx, row["client_id"], kind, {**payload, "patient_id": row["id"]})


_last = select(func.coalesce(func.max(events.c.seq), 0).label("seq")).where(events.c.seq.is_not(None))
_LAST = Fixed(_last)
_WAITING = Fixed(select(events.c.id).where(events.c.seq.is_(None)).limit(bindparam("most")))
_waiting = select(events.c.id).where(events.c.seq.is_(None)).order_by(events.c.id).limit(bindparam("most")).subquery()
_numbered = select(
    _waiting.c.id, (_last.scalar_subquery() + func.row_number().over(order_by=_waiting.c.id)).label("seq")
).subquery()
_NUMBER = Fixed(update(events).where(events.c.id == _numbered.c.id).values(seq=_numbered.c.seq))


class Pace:
    """How many events are numbered in one round: on SQLite nobody else writes meanwhile, so that a round must be short."""

    LEAST, MOST = 50, 1_000
    LONGEST_S = 0.012

    def __init__(self) -> None:
        self.limit = 200

    def note(self, numbered: int, seconds: float) -> None:
        """A round took so long: the next one takes as many as would have fitted, and at most twice as many."""
        if numbered == self.limit:
            fitting = int(self.limit * self.LONGEST_S / max(seconds, 1e-6))
            self.limit = max(self.LEAST, min(self.MOST, 2 * self.limit, fitting))


async def number_events(store: Store, *, limit: int = 100, pace: Pace | None = None) -> int:
    """Give numbers to committed events, in order of their ids; returns how many. Writes nothing when there is nothing new.

    On SQLite a batch of holds numbers its own events as it writes them; what is numbered here goes on from the highest.
    """
    async with store.read(here=True, clock=False) as tx:
        waiting = len(await tx.all(_WAITING, {"most": FEW + 1 if store.dialect == "sqlite" else 1}))
    if waiting == 0:
        return 0
    most = limit if pace is None else pace.limit
    async with store.write(SEQUENCER, here=waiting <= FEW) as tx:
        began = time.perf_counter()
        numbered = await tx.run(_NUMBER, {"most": most})
        if numbered:
            tx.ring(NUMBERED)
    if pace is not None:
        pace.note(numbered, time.perf_counter() - began)
    return numbered


async def number_all(store: Store) -> None:
    """Number whatever waits, round by round; what comes in meanwhile has rung, and is left to the next call."""
    pace = Pace() if store.dialect == "sqlite" else None
    while True:
        most = Pace.MOST if pace is None else pace.limit
        if await number_events(store, limit=most, pace=pace) < most:
            return


async def forget_events(store: Store, *, limit: int = 100) -> int:
    """Delete numbered events past their 30 days, a few at a time. The newest row stays, as it carries the last number.

    Numbers follow time closely enough: what is oldest by number is looked at, and the first look without an old one is the last.
    """
    async with store.write(SEQUENCER) as tx:
        newest = (await tx.all(_LAST))[0]["seq"]
        oldest = await tx.all(
            select(events.c.id, events.c.created_ms)
            .where(events.c.seq.is_not(None), events.c.seq < newest)
            .order_by(events.c.seq)
            .limit(limit)
        )
        old = [r["id"] for r in oldest if r["created_ms"] < tx.now_ms - KEEP_MS]
        return await tx.run(events.delete().where(events.c.id.in_(old))) if old else 0
