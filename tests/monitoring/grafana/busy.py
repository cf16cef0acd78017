"""A minute and a half in which everything happens that the boards show: a release, and troubles of every kind around it."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
import time
import uuid
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

from tests.acceptance.installation import HOSPITALS, LOCK_OP, Installation, made_up_person, money, until
from tests.acceptance.processes import children_of

RELEASED = "soap-demo"
OTHERS = ("hl7-demo", "fhir-demo")
PATIENTS = 40
ROUNDS = 6
HEAD_START_S = 25.0
ZONE = ZoneInfo("Asia/Shanghai")

HOSPITAL = {"his_concurrency": 3, "his_concurrency_floor": 1, "lock_wait_s": 60, "his_queue_deadline_s": 20}
SERVICE = {"workers": 2, "head_timeout_s": 2}


def next_release(first_visits: dt.date) -> tuple[dt.datetime, str]:
    """The next whole minute that leaves time to prepare, and the rule by which the visits of that day open then."""
    soon = dt.datetime.now(ZONE) + dt.timedelta(seconds=HEAD_START_S)
    opens = soon.replace(second=0, microsecond=0) + dt.timedelta(minutes=1)
    rule = f'[hospital.{RELEASED}.release]\ntime = "{opens:%H:%M}"\ndays_ahead = {(first_visits - opens.date()).days}\n'
    return opens, rule


async def busy_minute(site: Installation, parent: int, opens: dt.datetime) -> None:
    """Until half a minute after the opening. `parent` is the process of the service."""
    ends = opens.timestamp() + 35
    patients = await _patients(site)
    background = [asyncio.create_task(work) for work in (_look_around(site, ends), _idle(site, ends))]
    await asyncio.gather(*(_walk(site, hospital_id) for hospital_id in OTHERS), _drip(site))
    await _lose_a_reply(site, "hl7-demo")
    await _read_gbk(site)
    await _lose_a_worker(parent)
    await asyncio.sleep(opens.timestamp() - time.time() - 0.3)
    held = await _crowd(site, patients)
    await asyncio.gather(_settle(site, held), _go_away(site, "fhir-demo"))
    await asyncio.sleep(max(0.0, ends - time.time()))
    await asyncio.gather(*background)


async def _patients(site: Installation) -> list[str]:
    few = asyncio.Semaphore(8)

    async def register() -> str:
        async with few:
            return await site.patient(RELEASED)

    return await asyncio.gather(*(register() for _ in range(PATIENTS)))


async def _look_around(site: Installation, ends: float) -> None:
    """Portals that show lists, all the time."""
    portal = site.portal()
    while time.time() < ends:
        for hospital_id in HOSPITALS:
            for what in ("departments", "practitioners", "slots"):
                await portal.call("GET", f"/v1/hospitals/{hospital_id}/{what}")
        await portal.call("GET", "/v1/events", after=0, limit=5)
        await portal.call("GET", f"/v1/hospitals/{RELEASED}/bookings/{uuid.uuid4()}")  # nobody's
        await asyncio.sleep(0.05)


async def _idle(site: Installation, ends: float) -> None:
    """People who have connections open and say nothing."""
    host, _, port = site.base_url.removeprefix("http://").rpartition(":")
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(5)]
    await asyncio.sleep(max(0.0, ends - time.time()))
    for _, writer in opened:
        writer.close()


async def _drip(site: Installation) -> None:
    """A head that never ends."""
    host, _, port = site.base_url.removeprefix("http://").rpartition(":")
    for _ in range(2):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /v1/hospitals HTTP/1.1\r\nHost:")
        await reader.read()
        writer.close()


async def _walk(site: Installation, hospital_id: str) -> None:
    """A booking that is paid and cancelled, one that is refused, a bill, a report, and the day's books with a stray line."""
    portal, clinic, of = site.portal(), site.clinics[hospital_id], f"/v1/hospitals/{hospital_id}"
    patient_id = await site.patient(hospital_id)
    booking = await site.hold(hospital_id, patient_id=patient_id)
    again = {"user_ref": "user", "slot_id": booking["slot_id"], "patient_id": patient_id}
    refused = await portal.call("POST", f"{of}/bookings", again, key=uuid.uuid4().hex)
    assert refused.status == 409
    booking = await site.becomes(hospital_id, booking, his_state="locked", payable=True)
    paid = await site.pay(hospital_id, booking)
    await site.becomes(hospital_id, booking, state="booked")

    mrn = (await clinic.state())["people"][-1]["mrn"]
    await clinic.do("/bill", {"mrn": mrn, "items": [{"name": "血常规", "amount_fen": 2500}]})
    await clinic.do("/report", {"mrn": mrn})

    async def listed() -> bool:
        found = [(await portal.get(f"{of}/patients/{patient_id}/{what}"))["items"] for what in ("bills", "reports")]
        return all(found)

    await until(listed, bool, what="the bill and the report")
    payment = paid["payments"][0]
    line = {"kind": "payment", **{name: payment[name] for name in ("channel", "trade_no", "amount_fen")}}
    date = dt.datetime.fromisoformat(payment["paid_at"]).date().isoformat()
    await portal.call("PUT", f"{of}/merchant-bills/{date}", {"lines": [line, {**line, "trade_no": "T-stray"}]})
    await portal.get(f"{of}/reconciliations/{date}")

    await site.cancel(hospital_id, booking)
    await site.becomes(hospital_id, booking, state="cancelled")
    await clinic.fault(LOCK_OP[hospital_id], "refuse", times=1)
    await site.becomes(hospital_id, await site.hold(hospital_id), state="rejected")


async def _lose_a_reply(site: Installation, hospital_id: str) -> None:
    await site.clinics[hospital_id].fault(LOCK_OP[hospital_id], "lose_reply", times=1)
    booking = await site.hold(hospital_id)
    await site.becomes(hospital_id, booking, his_state="locked")


async def _read_gbk(site: Installation) -> None:
    """Fetches whose bytes are not what their label says."""
    for hospital_id in HOSPITALS:
        await site.clinics[hospital_id].fault("*", "gbk", times=6)

    async def counted() -> float:
        return await site.metric("hisbridge_decode_fallbacks_total")

    await until(counted, lambda n: n >= 2 * len(HOSPITALS), what="decode fallbacks")
    for hospital_id in HOSPITALS:
        await site.clinics[hospital_id].heal()


async def _lose_a_worker(parent: int) -> None:
    """kill -9 of one API process; its parent starts another."""
    before = children_of(parent)["api-2"]
    os.kill(before, signal.SIGKILL)

    async def another() -> int:
        return children_of(parent).get("api-2", before)

    await until(another, lambda pid: pid != before, what="another worker")


async def _crowd(site: Installation, patients: Sequence[str]) -> list[dict[str, Any]]:
    """Everybody wants the slots of one schedule, most of them in vain; the holds that were granted."""
    portal, of = site.portal(), f"/v1/hospitals/{RELEASED}"
    items = (await portal.get(f"{of}/slots"))["items"]
    slots = [slot["id"] for slot in items if slot["schedule_id"] == items[0]["schedule_id"]]
    granted: list[dict[str, Any]] = []

    async def attempt(number: int, patient_id: str) -> None:
        body = {"user_ref": "user", "slot_id": slots[number % len(slots)], "patient_id": patient_id}
        answer = await portal.call("POST", f"{of}/bookings", body, key=uuid.uuid4().hex)
        if answer.status == 201:
            granted.append(answer.body)

    for shift in range(ROUNDS):
        await asyncio.gather(*(attempt(number + shift, patient) for number, patient in enumerate(patients)))
        await asyncio.sleep(0.5)
    assert 0 < len(granted) < len(patients) * ROUNDS
    return granted


async def _settle(site: Installation, held: Sequence[dict[str, Any]]) -> None:
    """Of those who hold a seat half pay, and one of them thinks again."""
    portal = site.portal()

    async def pay(booking: dict[str, Any]) -> None:
        locked = await site.becomes(RELEASED, booking, his_state="locked", payable=True)
        of = f"/v1/hospitals/{RELEASED}/bookings/{booking['id']}"
        await portal.post(f"{of}/payments", money(locked["fee_fen"]))
        await site.becomes(RELEASED, booking, state="booked")

    await asyncio.gather(*(pay(booking) for booking in held[::2]))
    await site.cancel(RELEASED, held[0])
    await site.becomes(RELEASED, held[0], state="cancelled")


async def _go_away(site: Installation, hospital_id: str) -> None:
    """A HIS that is off the network for some seconds, while portals ask for what only it knows."""
    portal, clinic = site.portal(), site.clinics[hospital_id]
    patient_id = await site.patient(hospital_id, made_up_person())
    await clinic.close()

    async def refused() -> float:
        await portal.call("GET", f"/v1/hospitals/{hospital_id}/patients/{patient_id}/bills")
        return await site.metric("hisbridge_his_refused_total", hospital=hospital_id, reason="breaker_open")

    await until(refused, lambda n: n >= 3, what="calls that the breaker refuses")
    await clinic.reopen()
