"""A portal's user lets go of a patient: the handle stays for the history, and its client sees nothing through it any more."""

from __future__ import annotations

from sqlalchemy import bindparam, select

from booking.errors import Refusal
from booking.people.patients import mark_unbound, unknown_patient
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.tables import bookings, patients, slots

MOST_TOLD = 20

_HANDLE = Fixed(
    select(patients.c.client_id, patients.c.user_ref, patients.c.unbound_ms).where(
        patients.c.hospital_id == bindparam("of_hospital"), patients.c.id == bindparam("of_patient")
    )
)
# A visit that is over and of which nobody told how it ended is live for ever, and holds nobody back.
_OPEN = Fixed(
    select(bookings.c.id)
    .select_from(
        bookings.join(slots, (slots.c.hospital_id == bookings.c.hospital_id) & (slots.c.id == bookings.c.slot_id))
    )
    .where(
        bookings.c.hospital_id == bindparam("of_hospital"),
        bookings.c.patient_id == bindparam("of_patient"),
        bookings.c.live,
        (slots.c.ends_at_ms > bindparam("now_ms")) | (bookings.c.state == "held") | (bookings.c.state == "cancelling"),
    )
    .order_by(bookings.c.id)
    .limit(MOST_TOLD)
)


async def unbind_patient(tx: Tx, client_id: str, patient_id: str, *, user_ref: str | None = None) -> None:
    """Let go of a client's patient, in a write; again changes nothing.

    Raises Refusal(patient_unknown), also for another client's, and for another user's where `user_ref` says whose it must be;
    Refusal(patient_has_bookings) with the ids of those that must end first. Places on waitlists are given up
    by the sweep that serves the lines.
    """
    row = await tx.first(_HANDLE, {"of_hospital": tx.hospital_id, "of_patient": patient_id})
    if row is None or row["client_id"] != client_id or user_ref not in (None, row["user_ref"]):
        raise unknown_patient(patient_id)
    if row["unbound_ms"] is not None:
        return
    asked = {"of_hospital": tx.hospital_id, "of_patient": patient_id, "now_ms": tx.now_ms}
    still_open = [one["id"] for one in await tx.all(_OPEN, asked)]
    if still_open:
        raise Refusal(
            "patient_has_bookings",
            f"{len(still_open)} of the patient's bookings must end first: see `booking_ids`.",
            booking_ids=still_open,
        )
    await mark_unbound(tx, patient_id, tx.now_ms)
