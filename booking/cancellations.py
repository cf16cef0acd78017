"""What the rules of cancelling must know of a booking, read in the transaction that cancels it."""

from __future__ import annotations

from booking.clinics import clinic_of
from booking.inventory.requests import Refused
from booking.records import Booking
from booking.rules.cancelling import Cancelling, judge_cancellation
from booking.settings import Hospital
from booking.store.engine import Tx


async def refused_cancellation(tx: Tx, hospital: Hospital, booking: Booking) -> Refused | None:
    """Why the patient may not cancel any more, None where they may. Nothing is read where the hospital has no cutoffs."""
    if not hospital.rules.cancel_cutoffs:
        return None
    row = await clinic_of(tx, booking.slot_id)
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
