"""停诊 while seats are taken, by every protocol: whoever got one is stopped, and nobody stays behind, here or there."""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec
import pytest
from sqlalchemy import func, select

from booking.errors import Refusal
from booking.inventory.requests import Answer
from booking.store.engine import Store
from booking.store.tables import slots
from mappings.canonical import Patient
from tests.booking.world import HOSPITAL, get, hold_writer, owed, put_patient, request
from tests.scheduler_sync.living import His, Living, by_fhir, by_hl7v2, by_soap, living, until
from tests.stores import Wall

pytestmark = pytest.mark.usefixtures("engine")
TOGETHER = 11
CASES = [
    pytest.param(by_hl7v2(), id="hl7v2 by S23"),
    pytest.param(by_fhir(), id="fhir by blocked Slots"),
    pytest.param(by_soap("jkt12320", calls=True), id="jkt12320 by 5001"),
    pytest.param(by_soap("dhc"), id="dhc by 1107"),
]


@pytest.mark.parametrize("his", CASES)
async def test_nobody_is_lost_when_a_stop_arrives_while_seats_are_taken(
    store: Store, messages: Store, wall: Wall, his: His
) -> None:
    async with living(store, messages, wall, his) as at:
        plan = next(iter(at.his.plans))
        segments = [code for code, one in at.his.segments.items() if one.plan == plan]
        slot_ids = [await at.slot_of(segment) for segment in segments]
        paid = await at.booked(segments[0])
        people = [Patient(name=f"张{n}", id_type="passport", id_number=f"E{n:08}") for n in range(TOGETHER)]
        patients = [await put_patient(store, person, asks_his=True) for person in people]
        async with hold_writer(store) as writer:
            asked = []
            for number, patient in enumerate(patients):
                asked.append(writer.ask(at.hospital, request(slot_ids[number % len(slot_ids)], patient)))
                if number == TOGETHER // 2:
                    at.his.stop(plan)
                    await at.tell("stop", plan)
                await asyncio.sleep(0.01)  # so that the stop comes among them
            answers = await asyncio.gather(*asked, return_exceptions=True)
        made = [msgspec.json.decode(one.body)["id"] for one in answers if isinstance(one, Answer)]
        assert [one for one in answers if isinstance(one, Exception) and not isinstance(one, Refusal)] == []
        assert made  # the first of them were before the stop

        for booking_id in [paid.id, *made]:
            # Stopped by us, or refused by the hospital, which knew of the stop before we did.
            await until(partial(over, at, booking_id))
        assert (await get(store, paid.id)).state == "stopped"
        [(kind, fen, _)] = await owed(store, paid.id)
        assert (kind, fen) == ("refund_due", paid.fee_fen)
        assert at.his.visits_of(plan) == []
        async with store.read(HOSPITAL) as tx:
            row = await tx.first(select(func.sum(slots.c.unreflected).label("n")).where(slots.c.id.in_(slot_ids)))
        assert row is not None
        assert row["n"] == 0


async def over(at: Living, booking_id: str) -> bool | None:
    """It is over, and nothing of it is left at the hospital."""
    seen = await get(at.store, booking_id)
    return (seen.state in ("stopped", "rejected") and not seen.occupies) or None
