"""Which clinic a visit is at, and when: what rules by department and clinic type ask of a slot."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, select

from booking.rules.paying import pay_window_ms
from booking.settings import Hospital
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.tables import schedules, slots

_CLINIC = Fixed(
    select(slots.c.starts_at_ms, slots.c.date, schedules.c.department_id, schedules.c.clinic_type)
    .select_from(
        slots.join(
            schedules, (schedules.c.hospital_id == slots.c.hospital_id) & (schedules.c.id == slots.c.schedule_id)
        )
    )
    .where(slots.c.hospital_id == bindparam("of_hospital"), slots.c.id == bindparam("of_slot"))
)


async def clinic_of(tx: Tx, slot_id: str) -> dict[str, Any] | None:
    """`starts_at_ms`, `date`, `department_id` and `clinic_type` of a slot."""
    return await tx.first(_CLINIC, {"of_hospital": tx.hospital_id, "of_slot": slot_id})


async def pay_window_ms_of(tx: Tx, hospital: Hospital, slot_id: str) -> int:
    """How long a seat of this slot is kept for its money. Nothing is read where the hospital has one time for all."""
    usual_ms = int(hospital.pay_window_s * 1000)
    if not hospital.rules.pay_windows:
        return usual_ms
    at = await clinic_of(tx, slot_id)
    if at is None:
        return usual_ms
    return pay_window_ms(
        hospital.rules, hospital.pay_window_s, department_id=at["department_id"], clinic_type=at["clinic_type"]
    )
