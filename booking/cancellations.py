"""What the rules of cancelling must know of a booking, read in the transaction that cancels it."""

from __future__ import annotations

from sqlalchemy import bindparam, select

from booking.inventory.requests import Refused
from booking.records import Booking
from booking.rules.cancelling import Cancelling, judge_cancellation
from booking.settings import Hospital
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.tables import schedules, slots

_VISIT = Fixed(
    select(slots.c.starts_at_ms, slots.c.date, schedules.c.department_id, schedules.c.clinic_type)
    .select_from(
        slots.join(
            schedules, (schedules.c.hospital_id == slots.c.hospital_id) & (schedules.c.id == slots.c.schedule_id)
        )
    )
    .where(slots.c.hospital_id == bindparam("of_hospital"), slots.c.id == bindparam("of_slot"))
)


async def refused_cancellation(tx: Tx, hospital: Hospital, booking: Booking) -> Refused | None:
    """Why the patient may not cancel any more, None where they may. Nothing is read where the hospital has no cutoffs."""
    if not hospital.rules.cancel_cutoffs:
        return None
    row = await tx.first(_VISIT, {"of_hospital": tx.hospital_id, "of_slot": booking.slot_id})
    if row is None:
        return None
    return judge_cancellation(
        Cancelling(
            now_ms=tx.now_ms,
            zone=hospital.zone,
            rules=hospital.rules,
            state=booking.state,
            paid=booking.payment_state == "paid",
            moved=booking.moved_ms is not None,
            date=row["date"],
            starts_at_ms=row["starts_at_ms"],
            department_id=row["department_id"],
            clinic_type=row["clinic_type"],
        )
    )
