"""Ending the service politely (SIGTERM) and rudely (kill -9) while work is under way, and starting it again."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import aiohttp
import pytest

from tests.acceptance.installation import HOSPITALS, Installation, lay_out, run_process, until


async def refuses_connections(site: Installation) -> bool:
    """Whether a new connection to the API is refused, or reset: then the listener was closed while it waited there."""
    host, _, port = site.base_url.removeprefix("http://").rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        await writer.wait_closed()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


async def test_requests_in_flight_are_answered_when_terminated(tmp_path: Path) -> None:
    async with lay_out(tmp_path) as site, run_process(site) as process:
        portal, clinic = site.portal(), site.clinics["soap-demo"]
        held = await site.locked("soap-demo")
        of = "/v1/hospitals/soap-demo"
        before = await clinic.calls("fetch_bills")
        await clinic.fault("fetch_bills", "slow", delay_s=1.0)
        poll = asyncio.create_task(portal.call("GET", f"{of}/bookings/{held['id']}", wait_s=25))
        bills = asyncio.create_task(portal.call("GET", f"{of}/patients/{held['patient_id']}/bills"))
        await until(lambda: clinic.calls("fetch_bills"), lambda n: n > before, what="the slow question at the HIS")
        in_flight = await site.metric("hisbridge_http_requests_in_flight")
        assert in_flight == 2

        process.terminate()
        await until(lambda: refuses_connections(site), lambda refused: refused, what="new connections refused")
        answers = await asyncio.gather(poll, bills)
        assert [answer.status for answer in answers] == [200, 200]
        assert answers[0].body["id"] == held["id"]
        assert answers[0].headers["Connection"] == "close"
        assert await process.exit_code() == 0
        names = [event["event"] for event in process.events()]
        assert names.index("draining") < names.index("stopped")
        assert not [event for event in process.events() if event["level"] in ("error", "critical")]


async def test_service_ends_in_time_when_a_his_never_answers(tmp_path: Path) -> None:
    """A command that hangs at the HIS must not hold the process up: its row stays, and is looked at after the restart."""
    async with lay_out(tmp_path, service_table={"drain_s": 1}) as site:
        clinic = site.clinics["hl7-demo"]
        async with run_process(site) as process:
            patient_id = await site.patient("hl7-demo")
            await site.open_slots("hl7-demo")
            await clinic.fault("*", "hang")
            held = await site.hold("hl7-demo", patient_id=patient_id)
            await until(lambda: clinic.calls("lock_slot"), lambda n: n == 1, what="the lock at the HIS")
            process.terminate()
            assert await process.exit_code() == 0
        await clinic.heal()
        async with run_process(site):
            await site.becomes("hl7-demo", held, his_state="locked")
            assert len(await clinic.visits(held["order_no"])) == 1


async def test_commands_go_on_when_the_service_was_restarted(tmp_path: Path) -> None:
    """Held while every hospital was away, and stopped before any came back: the outbox has kept it all."""
    async with lay_out(tmp_path) as site:
        held = {}
        async with run_process(site) as process:
            for hospital_id in HOSPITALS:
                patient_id = await site.patient(hospital_id)
                await site.open_slots(hospital_id)
                await site.clinics[hospital_id].close()
                held[hospital_id] = await site.hold(hospital_id, patient_id=patient_id)
            process.terminate()
            assert await process.exit_code() == 0
        for clinic in site.clinics.values():
            await clinic.reopen()
        async with run_process(site):
            for hospital_id, booking in held.items():
                locked = await site.becomes(hospital_id, booking, his_state="locked", payable=True)
                await site.pay(hospital_id, locked)
                await site.becomes(hospital_id, booking, state="booked", his_state="registered")
                visits = await site.clinics[hospital_id].visits(booking["order_no"])
                assert [visit["state"] for visit in visits] == ["registered"]


@pytest.mark.parametrize("hospital_id", HOSPITALS)
async def test_registration_happens_once_when_killed_before_its_reply(tmp_path: Path, hospital_id: str) -> None:
    """kill -9 while `register` is at the HIS, which commits all the same (FHIR at once, the others a second later)."""
    async with lay_out(tmp_path) as site:
        clinic = site.clinics[hospital_id]
        async with run_process(site) as process:
            held = await site.locked(hospital_id)
            await clinic.fault("register", "slow", delay_s=1.0)
            await site.pay(hospital_id, held)
            await until(lambda: clinic.calls("register"), lambda n: n == 1, what="the registration at the HIS")
            await process.kill()
        async with run_process(site):
            booked = await site.becomes(hospital_id, held, state="booked", his_state="registered")
            assert [p["settlement"] for p in booked["payments"]] == ["settled"]
        assert [visit["state"] for visit in await clinic.visits(held["order_no"])] == ["registered"]
        assert await clinic.calls("register") == 1


async def test_cancellation_happens_once_when_killed_before_its_reply(tmp_path: Path) -> None:
    async with lay_out(tmp_path) as site:
        clinic = site.clinics["soap-demo"]
        async with run_process(site) as process:
            booked = await site.booked("soap-demo")
            await clinic.fault("cancel_registration", "slow", delay_s=1.0)
            await site.cancel("soap-demo", booked)
            await until(
                lambda: clinic.calls("cancel_registration"), lambda n: n == 1, what="the cancellation at the HIS"
            )
            await process.kill()
        async with run_process(site):
            over = await site.becomes("soap-demo", booked, state="cancelled", payment_state="refund_due")
            assert len(over["refunds"]) == 1
        assert [visit["state"] for visit in await clinic.visits(booked["order_no"])] == ["released"]
        assert await clinic.calls("cancel_registration") == 1


async def test_no_accepted_booking_is_lost_when_killed_in_a_crowd(tmp_path: Path) -> None:
    """Whoever heard 201 has a booking; whoever heard nothing repeats the request under its key, and has one then."""
    async with lay_out(tmp_path) as site:
        async with run_process(site) as process:
            patients = await asyncio.gather(*(site.patient("hl7-demo") for _ in range(12)))
            slots = [slot for slot in await site.open_slots("hl7-demo") if slot["remaining"] == 5]
            requests = [
                ({"user_ref": "user", "slot_id": slots[n % 3]["id"], "patient_id": patient}, uuid.uuid4().hex)
                for n, patient in enumerate(patients)
            ]
            of, accepted = "/v1/hospitals/hl7-demo/bookings", asyncio.Event()

            async def hold(body: dict[str, str], key: str) -> str | None:
                try:
                    booking = await site.portal().post(of, body, key=key)
                except aiohttp.ClientError:
                    return None
                accepted.set()
                return str(booking["id"])

            holds = [asyncio.create_task(hold(*request)) for request in requests]
            await accepted.wait()
            await process.kill()
            heard = await asyncio.gather(*holds)
        async with run_process(site):
            for (body, key), booking_id in zip(requests, heard, strict=True):
                again = await site.portal().post(of, body, key=key)
                assert booking_id in (None, again["id"])
                await site.becomes("hl7-demo", again, his_state="locked")
            mine = (await site.portal().get(of, user_ref="user"))["items"]
            assert sorted(b["patient_id"] for b in mine) == sorted(patients)
            state = await site.clinics["hl7-demo"].state()
            assert sorted(visit["key"] for visit in state["visits"]) == sorted(b["order_no"] for b in mine)
            assert state["oversold"] == 0
