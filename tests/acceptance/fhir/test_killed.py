"""`kill -9` between a hold and its answer: whoever asks again gets the same booking, on both engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.acceptance.fhir.conftest import HOSPITAL
from tests.acceptance.installation import Answer, Installation, lay_out, postgres_store, run_process
from tests.acceptance.processes import all_ended, children_of
from tests.postgres import PostgresServer

BASE = f"/fhir/R4/hospitals/{HOSPITAL}"
PEOPLE = 12  # for twice as many seats: a lock of which no answer is known may stand for two of the hospital's seats
TRIES = 20  # of a hold that a busy service tells to come again


@pytest.fixture(params=["sqlite", "postgresql"])
async def laid(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Installation]:
    """Hospitals, settings and keys on each engine; no service yet."""
    async with AsyncExitStack() as stack:
        store = None
        if request.param == "postgresql":
            server: PostgresServer = request.getfixturevalue("postgres_server")
            store = await stack.enter_async_context(postgres_store(server))
        yield await stack.enter_async_context(
            lay_out(tmp_path, store=store, seats=2 * PEOPLE, service_table={"workers": 1})
        )


async def _hold(site: Installation, slot_id: str, patient_id: str) -> Answer | None:
    """`$hold`; None where no answer came."""
    body = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": name, "valueReference": {"reference": reference}}
            for name, reference in (
                ("appointment-reference", f"Appointment/{slot_id.replace('_', '-')}"),
                ("patient-reference", f"Patient/{patient_id}"),
            )
        ],
    }
    try:
        return await site.portal().call("POST", f"{BASE}/Appointment/$hold", body)
    except aiohttp.ClientError:
        return None


async def _hold_when_told(site: Installation, slot_id: str, patient_id: str) -> Answer | None:
    """`$hold` of a client that comes again when it is told to."""
    for _ in range(TRIES):
        answer = await _hold(site, slot_id, patient_id)
        if answer is None or "Retry-After" not in answer.headers:
            return answer
        await asyncio.sleep(float(answer.headers["Retry-After"]))
    return answer


def _id(answer: Answer) -> str:
    assert answer.status == 200, answer.data
    return str(answer.body["entry"][0]["resource"]["id"])


async def _bookings(site: Installation, patient_id: str) -> list[dict[str, Any]]:
    found = await site.portal().get(f"/v1/hospitals/{HOSPITAL}/bookings", patient_id=patient_id)
    return list(found["items"])


@pytest.mark.timeout(300)  # two starts of the service on a busy machine
async def test_repeat_is_the_same_booking_when_the_service_was_killed_before_it_answered(laid: Installation) -> None:
    async with run_process(laid) as process:
        patients = await asyncio.gather(*(laid.patient(HOSPITAL) for _ in range(PEOPLE)))
        slot = max(await laid.open_slots(HOSPITAL), key=lambda s: int(s["remaining"]))
        asked = [asyncio.create_task(_hold(laid, slot["id"], patient_id)) for patient_id in patients]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        children = children_of(process.process.pid).values()
        await process.kill()  # the first has its answer, others have a seat without one, or nothing
        await all_ended(*children)
        before = await asyncio.gather(*asked)
    async with run_process(laid):
        after = [await _hold_when_told(laid, slot["id"], patient_id) for patient_id in patients]
        for patient_id, first, again in zip(patients, before, after, strict=True):
            assert again is not None
            again_id = _id(again)
            [booking] = await _bookings(laid, patient_id)
            assert booking["id"] == again_id
            if first is not None:
                assert _id(first) == booking["id"]
            assert len(await laid.clinics[HOSPITAL].visits(booking["order_no"])) <= 1
