"""Under which refs a booking and a patient stand in the message store: the booking store knows."""

from __future__ import annotations

from sqlalchemy import or_, select

from booking.store.engine import Tx
from booking.store.tables import bookings, person_mrns
from scheduler_sync.messages.references import his_ref, order_ref, patient_ref


async def refs_of_booking(tx: Tx, asked: str) -> tuple[str, ...]:
    """`asked` is a booking's id, its order number, or what the HIS calls it; it need not be a booking of ours."""
    rows = await tx.all(
        select(bookings.c.order_no, bookings.c.his_id).where(
            bookings.c.hospital_id == tx.hospital_id, or_(bookings.c.id == asked, bookings.c.order_no == asked)
        )
    )
    refs = [order_ref(asked), his_ref(asked)]
    for row in rows:
        refs += [order_ref(row["order_no"]), *([his_ref(row["his_id"])] if row["his_id"] else [])]
    return tuple(dict.fromkeys(refs))


async def refs_of_patient(tx: Tx, mrn: str) -> tuple[str, ...]:
    """A patient by an MRN, and by the others that the same person has or had before a merge."""
    digest = tx.digest("mrn", mrn)
    same = person_mrns.alias()
    rows = await tx.all(
        select(same.c.mrn_digest)
        .select_from(
            person_mrns.join(
                same,
                (same.c.hospital_id == person_mrns.c.hospital_id) & (same.c.person_id == person_mrns.c.person_id),
            )
        )
        .where(person_mrns.c.hospital_id == tx.hospital_id, person_mrns.c.mrn_digest == digest)
    )
    return tuple(dict.fromkeys(patient_ref(one) for one in (digest, *(row["mrn_digest"] for row in rows))))
