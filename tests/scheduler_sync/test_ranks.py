"""Who is served first at a busy hospital: whoever waits for a seat, before those who only introduce themselves."""

from __future__ import annotations

from sqlalchemy import select

from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import outbox
from mappings.canonical import Patient
from tests.booking.world import HOSPITAL, ZHANG, hold, put_patient, put_slot


async def queue(store: Store) -> list[str]:
    """The verbs of the queued commands, in the order in which the worker claims them."""
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(outbox).where(outbox.c.status == "queued").order_by(outbox.c.rank, outbox.c.id))
    return [f"{r['verb']}:{r['line'].partition(':')[2]}" for r in rows]


def somebody(n: int) -> Patient:
    return Patient(name=f"Patient {n}", id_type="passport", id_number=f"E{n:08}", phone="13800000000")


async def test_a_hold_is_served_before_a_crowd_of_new_patients_when_both_wait(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store, 5)
    known = await put_patient(store, ZHANG)
    for n in range(20):
        await put_patient(store, somebody(n), asks_his=True)
    booking = await hold(store, hospital, slot_id, known)
    assert (await queue(store))[0] == f"lock_slot:{booking.id}"


async def test_a_new_patient_is_looked_up_at_once_when_their_hold_waits_for_it(
    store: Store, hospital: Hospital
) -> None:
    slot_id = await put_slot(store, 5)
    for n in range(20):
        patient_id = await put_patient(store, somebody(n), asks_his=True)
    booking = await hold(store, hospital, slot_id, patient_id)
    first, second, *_ = await queue(store)
    assert first == f"create_patient:{booking.person_id}"
    assert second == f"lock_slot:{booking.id}"
