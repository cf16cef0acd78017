"""A crowd at three hospitals and four processes: of nobody's name, number or phone anything is logged, counted or traced."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

from tests.acceptance.installation import HOSPITALS, Installation, made_up_person, money, run_process
from tests.acceptance.processes import laid_out
from tests.otlp_receiver import otlp_receiver
from tests.patient_texts import assert_absent, encodings, personal, wrapped
from tests.postgres import PostgresServer

PATIENTS = 12  # at each hospital
AT_ONCE = 9
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


async def journey(site: Installation, hospital_id: str, person: dict[str, Any], number: int) -> str:
    """Look, hold, pay, cancel: as far as this patient comes; with what portals do wrong on the way."""
    portal, of = site.portal(), f"/v1/hospitals/{hospital_id}"
    patient_id = await site.patient(hospital_id, person)
    slots = [slot for slot in (await portal.get(f"{of}/slots"))["items"] if slot["starts_at"]]
    body = {"user_ref": person["user_ref"], "slot_id": slots[number % len(slots)]["id"], "patient_id": patient_id}
    held = await portal.call("POST", f"{of}/bookings", body, key=uuid.uuid4().hex)
    await portal.call("GET", f"{of}/patients/{person['id_number']}", phone=person["phone"], name=person["name"])
    await portal.call("POST", f"{of}/patients", {**person, person["name"]: person["phone"]}, key=uuid.uuid4().hex)
    await portal.call("GET", f"{of}/patients/{patient_id}/bills")
    if held.status != 201:
        return held.code
    booking = await site.becomes(hospital_id, held.body, his_command="none")
    if booking["state"] != "held":
        return str(booking["state"])
    paid = await portal.call(
        "POST", f"{of}/bookings/{booking['id']}/payments", money(booking["fee_fen"]), key=uuid.uuid4().hex
    )
    assert paid.status == 202
    if number % 2:
        return "paid"
    await site.becomes(hospital_id, booking, state="booked")
    await site.cancel(hospital_id, booking)
    await site.becomes(hospital_id, booking, state="cancelled")
    return "cancelled"


async def scraped(site: Installation) -> str:
    """/metrics of every process, as text and as OpenMetrics."""
    assert site.session is not None
    texts = [await site.metrics()]
    for address in (await site.children()).values():
        async with site.session.get(f"http://{address}/metrics", headers=OPENMETRICS) as response:
            texts.append(await response.text())
    return "".join(texts)


async def test_nothing_of_anybody_is_found_when_a_crowd_has_been_served(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    people = {hospital_id: [made_up_person() for _ in range(PATIENTS)] for hospital_id in HOSPITALS}
    async with otlp_receiver() as receiver:
        tracing = {"endpoint": receiver.endpoint, "sample_ratio": 1.0}
        talkative: dict[str, Any] = {"log_level": "debug", "access_log": "all"}
        async with (
            laid_out(tmp_path, postgres_server, tracing=tracing, **talkative) as site,
            run_process(site) as process,
        ):
            for hospital_id in HOSPITALS:
                await site.open_slots(hospital_id)
            places = asyncio.Semaphore(AT_ONCE)

            async def one(hospital_id: str, person: dict[str, Any], number: int) -> str:
                async with places:
                    return await journey(site, hospital_id, person, number)

            ends = await asyncio.gather(
                *(one(h, person, n) for h, crowd in people.items() for n, person in enumerate(crowd))
            )
            metrics = await scraped(site)
            process.terminate()
            assert await process.exit_code() == 0
        log, spans = process.log.read_bytes(), b"".join(receiver.bodies)

    assert {"paid", "cancelled"} <= set(ends)
    assert {span.resource["hisbridge.role"] for span in receiver.spans} == {"api", "sync"}
    assert {"holds commit", "his create_patient", "his lock_slot", "his register", "his cancel_registration"} <= {
        span.name for span in receiver.spans
    }
    assert log.count(b'"trace_id"') > len(ends)
    assert "# {trace_id=" in metrics
    texts = [text for crowd in people.values() for person in crowd for text in personal(person)]
    assert len(set(texts)) >= 2 * 3 * PATIENTS  # numbers and phones; some names are alike
    for where, data in (("the log", log), ("/metrics", metrics.encode()), ("the traces", spans)):
        assert_absent(data, texts, where, forms=encodings)
        assert_absent(data, texts, f"{where}, in another form", forms=wrapped)
