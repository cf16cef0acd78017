"""What the process that works a hospital measures of its bookings: money without a registration, and what must not be."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, literal_column, select, text, union_all

from booking.lifecycle import Axes, Command, CommandStatus, HisState, State, must_not_be
from booking.open_refunds import count_open
from booking.settings import Hospital
from booking.settling import unsettled_bills
from booking.store.engine import Store
from booking.store.tables import OPEN_COMMAND, bookings, outbox, payments, schedules, slots
from monitoring import metrics

LOOK_THROUGH_EVERY_S = 60.0  # all live bookings are read for it

_axes = (
    bookings.c.state, bookings.c.his_state, bookings.c.his_command, bookings.c.his_command_status, bookings.c.payment_state,
)  # fmt: skip


class Truth:
    """The gauges of one hospital's bookings."""

    def __init__(self, store: Store, hospital: Hospital) -> None:
        self._store = store
        self._hospital = hospital

    async def measure(self) -> None:
        """Refresh what is paid and not registered or settled, and what is to go back.

        `state = 'held'` is the word of an index: few rows are walked.
        """
        async with self._store.read(self._hospital.id) as tx:
            row = await tx.first(
                select(func.count().label("n"), func.min(payments.c.created_ms).label("oldest"))
                .select_from(
                    bookings.join(
                        payments,
                        (payments.c.hospital_id == bookings.c.hospital_id)
                        & (payments.c.booking_id == bookings.c.id)
                        & payments.c.kept,
                    )
                )
                .where(
                    bookings.c.hospital_id == self._hospital.id,
                    bookings.c.state == literal_column("'held'"),
                    bookings.c.payment_state == "paid",
                )
            )
        count, oldest = (0, None) if row is None else (row["n"], row["oldest"])
        age_s = 0.0 if oldest is None else max(0.0, (tx.now_ms - oldest) / 1000)
        async with self._store.read(self._hospital.id) as tx:
            unsettled = await unsettled_bills(tx)
            refunds = await count_open(tx)
        metrics.bills_unsettled.labels(hospital=self._hospital.id).set(unsettled.count)
        metrics.bills_unsettled_oldest_seconds.labels(hospital=self._hospital.id).set(unsettled.oldest_s)
        metrics.refunds_owed.labels(hospital=self._hospital.id).set(refunds.owed)
        metrics.refunds_owed_oldest_seconds.labels(hospital=self._hospital.id).set(refunds.oldest_s)
        for his, untold in refunds.untold.items():
            metrics.refunds_untold.labels(hospital=self._hospital.id, his=his).set(untold)
        metrics.paid_unregistered.labels(hospital=self._hospital.id).set(count)
        metrics.paid_unregistered_oldest_seconds.labels(hospital=self._hospital.id).set(age_s)

    async def look_through(self) -> None:
        """Refresh what must not be: combinations that the rules forbid, and slots whose figures are not their bookings'."""
        of = self._hospital.id
        async with self._store.read(of) as tx:
            today = dt.datetime.fromtimestamp(tx.now_ms / 1000, self._hospital.zone).date()
            last = today + dt.timedelta(days=self._hospital.horizon_days)
            axes = await tx.all(select(*_axes, func.count().label("n")).where(*_live(of)).group_by(*_axes))
            lost = await tx.first(_without_row(of))
            unpaid = await tx.first(_without_payment(of))
            drift = await tx.first(_drift(of, today.isoformat(), last.isoformat()))
        broken = broken_rules(axes)
        broken["command_has_its_row"] = 0 if lost is None else lost["n"]
        broken["paid_has_its_payment"] = 0 if unpaid is None else unpaid["n"]
        for rule, count in broken.items():
            metrics.illegal_states.labels(hospital=of, rule=rule).set(count)
        metrics.seats_drift.labels(hospital=of).set(0 if drift is None else drift["n"])


def broken_rules(axes: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Bookings that break each rule of `booking.lifecycle.must_not_be`, those that nobody breaks included. Pure."""
    found: Counter[str] = Counter()
    for row in axes:
        at = Axes(
            State(row["state"]),
            HisState(row["his_state"]),
            Command(row["his_command"]),
            CommandStatus(row["his_command_status"]),
        )
        found.update(dict.fromkeys(must_not_be(at, row["payment_state"]), row["n"]))
    return {rule: found[rule] for rule in RULES}


# The names that `must_not_be` may give: those that nobody breaks are told as 0.
RULES = (
    "booked_is_registered", "nothing_due_when_over", "no_expiry_with_money", "command_status", "command_needs", "command_state",
    "held_waits_or_locked", "cancelling_waits", "rejected_was_asked", "registered_owes_nothing",
)  # fmt: skip


def _live(hospital_id: str) -> tuple[Any, ...]:
    """Every person has an id: without that condition SQLite takes an index of all bookings, not that of the live ones."""
    return bookings.c.hospital_id == hospital_id, bookings.c.live, bookings.c.person_id >= ""


def _without_row(hospital_id: str) -> Any:
    """Live bookings that wait for a command which is not in the outbox: they would wait for ever."""
    row = select(outbox.c.id).where(
        outbox.c.hospital_id == bookings.c.hospital_id,
        outbox.c.line == literal_column("'booking:'").concat(bookings.c.id),
        text(OPEN_COMMAND.replace("status", "outbox.status")),
    )
    return select(func.count().label("n")).where(
        *_live(hospital_id),
        bookings.c.his_command != "none",
        ~row.correlate(bookings).exists(),
    )


def _without_payment(hospital_id: str) -> Any:
    """Live bookings that are shown as paid, and there is no payment that pays for them."""
    kept = select(payments.c.trade_no).where(
        payments.c.hospital_id == bookings.c.hospital_id, payments.c.booking_id == bookings.c.id, payments.c.kept
    )
    return select(func.count().label("n")).where(
        *_live(hospital_id),
        bookings.c.payment_state == "paid",
        ~kept.correlate(bookings).exists(),
    )


def _drift(hospital_id: str, first: str, last: str) -> Any:
    """In one statement, which sees one state: what slots of these days say is under way, less the bookings that are."""
    said = select(slots.c.id.label("slot_id"), slots.c.unreflected.label("n")).where(
        slots.c.hospital_id == hospital_id, slots.c.date.between(first, last), slots.c.unreflected > 0
    )
    real = (
        select(bookings.c.slot_id, literal_column("-1").label("n"))
        .select_from(
            schedules.join(
                bookings,
                (bookings.c.hospital_id == schedules.c.hospital_id) & (bookings.c.schedule_id == schedules.c.id),
            )
        )
        .where(
            schedules.c.hospital_id == hospital_id,
            schedules.c.date.between(first, last),
            bookings.c.occupies,
            bookings.c.charged,
        )
    )
    both = union_all(said, real).subquery()
    by_slot = select(func.abs(func.sum(both.c.n)).label("off")).group_by(both.c.slot_id).subquery()
    return select(func.coalesce(func.sum(by_slot.c.off), 0).label("n"))
