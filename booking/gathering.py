"""A transaction that moves many bookings at once: what they need is read beforehand, what they change is written at the end.

One by one a move costs a dozen statements; gathered, a dozen statements move fifty. The rules do not know the difference:
`booking.moves` reads and writes through the functions of this module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import Table, bindparam, select, update

from booking import seats
from booking.money import PaymentRow, Purse, find_payments, purse_of, purses_of
from booking.news import BOOKING_CHANGED, SEQUENCER, booking_payload, new_event, tell, tell_booking
from booking.records import Booking, booking_from_row, booking_to_row
from booking.store.crypto import SealBroken
from booking.store.engine import Tx
from booking.store.fixed import Fixed, is_one_of
from booking.store.tables import bookings, events, payments, refunds, schedules, slots
from monitoring.logs import get_logger

log = get_logger("gathering")


class SlotSeats(msgspec.Struct, frozen=True):
    """The figures of a slot, the end of the fetch that they come from, and where readers keep the slot."""

    figures: seats.Seats
    fetch_ended_ms: int
    date: str
    department_id: str | None


@dataclass
class Gathering(Tx):
    """A Tx with what was read beforehand, and what waits to be written."""

    bookings: dict[str, Booking] = field(default_factory=dict)
    purses: dict[str, Purse] = field(default_factory=dict)
    slots: dict[str, SlotSeats] = field(default_factory=dict)
    saved: dict[str, dict[str, Any]] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    taken: Counter[str] = field(default_factory=Counter)
    told: list[dict[str, Any]] = field(default_factory=list)
    named: dict[tuple[str, str], list[PaymentRow]] = field(default_factory=dict)

    async def add(self, table: Table, row: dict[str, Any]) -> None:
        """As of any Tx; the purses go with the money."""
        await super().add(table, row)
        if table is payments:
            if row["booking_id"] in self.purses:
                self.purses[row["booking_id"]][0].append(msgspec.convert(row, PaymentRow))
            if (name := (row["channel"], row["trade_no"])) in self.named:
                self.named[name].append(msgspec.convert(row, PaymentRow))
        elif table is refunds:
            self.purses.pop(row["booking_id"], None)


@asynccontextmanager
async def gathered(
    tx: Tx, rows: Sequence[dict[str, Any]], *, with_seats: bool = True, names: Iterable[tuple[str, str]] = ()
) -> AsyncIterator[Gathering]:
    """Work on the bookings of these rows of `bookings` through what it gives; everything is written when the block ends well.

    Within it nothing else may write bookings, seats or `taken` past the functions of this module, nor read them but after
    `write_now`. `with_seats`: their
    slots' figures are read beforehand as well; else as one is asked for. `names`: payments that will be asked for, by channel and
    trade number.
    """
    it = Gathering(
        tx.conn,
        tx.hospital_id,
        tx.now_ms,
        tx.vault,
        tx.dialect,
        tx.topics,
        seq=tx.seq,
        touched=tx.touched,
        keys=tx.keys,
        counts=tx.counts,
    )
    if rows:
        it.bookings = {r["id"]: booking for r in rows if (booking := _read(tx, r)) is not None}
        it.purses = await purses_of(tx, list(it.bookings))
    if rows and with_seats:
        found = await tx.all(_SEATS, {"of_hospital": tx.hospital_id, "ids": sorted({r["slot_id"] for r in rows})})
        it.slots = {r["id"]: _seats_of(r) for r in found}
    # One by one, by its key: what several would be found by depends on statistics, which a new table does not have.
    it.named = {name: await find_payments(tx, *name) for name in names}
    yield it
    await _write(it)


def _read(tx: Tx, row: dict[str, Any]) -> Booking | None:
    """A booking, None where it cannot be read: one whose key is lost must not hold up the others."""
    try:
        return booking_from_row(tx, row)
    except (SealBroken, msgspec.MsgspecError) as e:
        log.error("booking_unreadable", hospital=tx.hospital_id, booking=row["id"], reason=type(e).__name__)
        return None


async def _write(it: Gathering) -> None:
    of = {"of_hospital": it.hospital_id}
    if it.changed:
        figures = [(slot_id, it.slots[slot_id].figures) for slot_id in sorted(it.changed)]
        await it.later(
            _SAVE_SEATS,
            [{**of, "of_slot": i, "left": max(0, f.his_left), "charged": max(0, f.unreflected)} for i, f in figures],
        )
    if counts := [{**of, "of_schedule": i, "change": n} for i, n in sorted(it.taken.items()) if n]:
        await it.later(_TAKE, counts)
    if it.saved:
        await it.later(_SAVE, list(it.saved.values()))
    if it.told:
        await it.later(_TELL, it.told)
        it.ring(SEQUENCER)


async def write_now(tx: Tx) -> None:
    """Write what waits, for rules that read bookings, seats or `taken` by statements of their own."""
    if isinstance(tx, Gathering):
        await _write(tx)
        for waiting in (tx.changed, tx.taken, tx.saved, tx.told):
            waiting.clear()


# --- bookings ------------------------------------------------------------------------------------------------------

_LOAD = Fixed(
    select(bookings).where(bookings.c.hospital_id == bindparam("of_hospital"), bookings.c.id == bindparam("of_booking"))
)
_LOAD_MANY = Fixed(
    select(bookings).where(bookings.c.hospital_id == bindparam("of_hospital"), is_one_of(bookings.c.id, "ids"))
)
_SAVE = Fixed(
    update(bookings)
    .where(bookings.c.hospital_id == bindparam("of_hospital"), bookings.c.id == bindparam("of_booking"))
    .values({c.name: bindparam(f"new_{c.name}") for c in bookings.columns if c.name not in ("hospital_id", "id")})
)


_TELL = Fixed(events.insert(), ("id", "hospital_id", "client_id", "type", "payload", "created_ms"))


async def load_booking(tx: Tx, booking_id: str) -> Booking | None:
    """A booking of this hospital."""
    if isinstance(tx, Gathering) and booking_id in tx.bookings:
        return tx.bookings[booking_id]
    row = await tx.first(_LOAD, {"of_hospital": tx.hospital_id, "of_booking": booking_id})
    return None if row is None else booking_from_row(tx, row)


async def booking_rows(tx: Tx, booking_ids: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of these bookings, for `gathered`."""
    return await tx.all(_LOAD_MANY, {"of_hospital": tx.hospital_id, "ids": list(booking_ids)})


async def purse(tx: Tx, booking: Booking) -> Purse:
    """The payments and refunds of a booking."""
    if not isinstance(tx, Gathering):
        return await purse_of(tx, booking.id)
    if booking.id not in tx.purses:
        tx.purses[booking.id] = await purse_of(tx, booking.id)
    return tx.purses[booking.id]


async def payments_named(tx: Tx, channel: str, trade_no: str) -> list[PaymentRow]:
    """What was reported under this name, for whatever it was."""
    if isinstance(tx, Gathering) and (channel, trade_no) in tx.named:
        return tx.named[channel, trade_no]
    return await find_payments(tx, channel, trade_no)


async def kept(tx: Tx, booking: Booking) -> PaymentRow | None:
    """The payment that pays for a booking, if there is one."""
    paid, _ = await purse(tx, booking)
    return next((p for p in paid if p.kept), None)


async def write_booking(tx: Tx, booking: Booking, *, tell: bool) -> None:
    """Write a booking back, and tell its client if `tell`."""
    row = {f"new_{name}": value for name, value in booking_to_row(tx, booking).items()}
    row |= {"of_hospital": row.pop("new_hospital_id"), "of_booking": row.pop("new_id")}
    if not isinstance(tx, Gathering):
        await tx.later(_SAVE, row)
        if tell:
            await tell_booking(tx, booking)
        return
    tx.saved[booking.id] = row
    if tell:
        told = new_event(tx, booking.client_id, BOOKING_CHANGED, booking_payload(booking))
        tx.told.append(told)


async def tell_of_booking(tx: Tx, booking: Booking, kind: str, payload: dict[str, Any]) -> None:
    """Tell a booking's client something else about it, after what was told before."""
    if isinstance(tx, Gathering):
        tx.told.append(new_event(tx, booking.client_id, kind, payload))
    else:
        await tell(tx, booking.client_id, kind, payload)


# --- seats ---------------------------------------------------------------------------------------------------------

_SEATS = Fixed(
    select(
        slots.c.id,
        slots.c.his_left,
        slots.c.unreflected,
        slots.c.fetch_ended_ms,
        slots.c.date,
        schedules.c.department_id,
    )
    .select_from(
        slots.outerjoin(
            schedules, (schedules.c.hospital_id == slots.c.hospital_id) & (schedules.c.id == slots.c.schedule_id)
        )
    )
    .where(slots.c.hospital_id == bindparam("of_hospital"), is_one_of(slots.c.id, "ids"))
)
_SAVE_SEATS = Fixed(
    update(slots)
    .where(slots.c.hospital_id == bindparam("of_hospital"), slots.c.id == bindparam("of_slot"))
    .values(his_left=bindparam("left"), unreflected=bindparam("charged"))
)
_TAKE = Fixed(
    update(schedules)
    .where(schedules.c.hospital_id == bindparam("of_hospital"), schedules.c.id == bindparam("of_schedule"))
    .values(taken=schedules.c.taken + bindparam("change"))
)


def _seats_of(row: dict[str, Any]) -> SlotSeats:
    figures = seats.Seats(row["his_left"], row["unreflected"])
    return SlotSeats(figures, row["fetch_ended_ms"], row["date"], row["department_id"])


async def load_seats(tx: Tx, slot_id: str) -> SlotSeats:
    """The figures of a slot. Raises LookupError."""
    if isinstance(tx, Gathering) and slot_id in tx.slots:
        return tx.slots[slot_id]
    row = await tx.first(_SEATS, {"of_hospital": tx.hospital_id, "ids": [slot_id]})
    if row is None:
        raise LookupError("a booking's slot is gone")
    return _seats_of(row)


async def save_seats(tx: Tx, slot_id: str, was: SlotSeats, figures: seats.Seats) -> None:
    """Write the figures of a slot, and tell readers if they differ."""
    if figures == was.figures:
        return
    if was.department_id is not None:
        tx.touch(was.date, was.department_id)
    if isinstance(tx, Gathering):
        tx.slots[slot_id] = msgspec.structs.replace(was, figures=figures)
        tx.changed.add(slot_id)
        return
    left, charged = max(0, figures.his_left), max(0, figures.unreflected)
    await tx.later(_SAVE_SEATS, {"of_hospital": tx.hospital_id, "of_slot": slot_id, "left": left, "charged": charged})


async def count_taken(tx: Tx, schedule_id: str, change: int) -> None:
    """Our bookings that occupy a seat of a schedule: its second counter beside the slots' own.

    A change of it comes with a change of a slot's figures, so that readers are told by that one.
    """
    if isinstance(tx, Gathering):
        tx.taken[schedule_id] += change
        return
    await tx.later(_TAKE, {"of_hospital": tx.hospital_id, "of_schedule": schedule_id, "change": change})
