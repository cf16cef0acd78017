"""Many at once through the facade: one seat is somebody's once, and a request is one booking however often it comes."""

from __future__ import annotations

import asyncio

import msgspec
from sqlalchemy import func, select

from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import bookings
from tests.booking.api.fhir.calling import call
from tests.booking.api.fhir.site import FhirSite, serve_fhir
from tests.booking.world import HOSPITAL, ZHANG, put_patient, put_slot, remaining

CROWD = 50


async def _crowd(store: Store) -> list[tuple[str, str]]:
    """So many people of two API clients, each as (client, patient id)."""
    made = []
    for n in range(CROWD):
        record = msgspec.structs.replace(ZHANG, name=f"张{n}", id_type="passport", id_number=f"E{n:08d}")
        client = ("portal", "another")[n % 2]
        made.append((client, await put_patient(store, record, client=client, user=f"u{n}")))
    return made


async def _count(store: Store) -> int:
    async with store.read(HOSPITAL) as tx:
        row = await tx.first(select(func.count().label("n")).where(bookings.c.hospital_id == HOSPITAL))
    assert row is not None
    return int(row["n"])


async def test_one_gets_the_seat_when_fifty_hold_it_at_once(site: FhirSite) -> None:
    slot_id = await put_slot(site.store, 1)
    seat = f"Appointment/{slot_id.replace('_', '-')}"
    told = await asyncio.gather(
        *(
            call(
                site,
                ("hold", "book")[n % 3 == 0],
                by,
                appointment_reference=seat,
                patient_reference=f"Patient/{patient_id}",
            )
            for n, (by, patient_id) in enumerate(await _crowd(site.store))
        )
    )
    assert sorted(answer.status for answer in told) == [200] + [409] * (CROWD - 1)
    assert {answer.code for answer in told if answer.status == 409} == {"slot_sold_out"}
    assert (await remaining(site.store, slot_id), await _count(site.store)) == (0, 1)


async def test_one_booking_is_made_when_the_same_call_comes_fifty_times_at_once(site: FhirSite) -> None:
    slot_id, patient_id = await put_slot(site.store, CROWD), await put_patient(site.store)
    seat = f"Appointment/{slot_id.replace('_', '-')}"
    told = await asyncio.gather(
        *(
            call(site, ("hold", "book")[n % 2], appointment_reference=seat, patient_reference=f"Patient/{patient_id}")
            for n in range(CROWD)
        )
    )
    assert {answer.status for answer in told} == {200}
    assert len({answer.resources[0]["id"] for answer in told}) == 1
    assert await _count(site.store) == 1


async def test_the_same_booking_is_answered_when_two_processes_are_asked(store: Store, hospital: Hospital) -> None:
    """Derived keys are in the store: it does not matter who made them."""
    slot_id, patient_id = await put_slot(store, 1), await put_patient(store)
    asked = {
        "appointment_reference": f"Appointment/{slot_id.replace('_', '-')}",
        "patient_reference": f"Patient/{patient_id}",
    }
    async with serve_fhir(store, hospital) as first, serve_fhir(store, hospital) as second:
        told = [await call(site, operation, **asked) for operation in ("hold", "book") for site in (first, second)]
    assert {answer.status for answer in told} == {200}
    assert len({answer.resources[0]["id"] for answer in told}) == 1
