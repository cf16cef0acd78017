"""A minute and a half in which everything happens that the boards show: a release, and troubles of every kind around it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import random
import signal
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from loadtest.ports import free_port
from scheduler_sync.reconcile import LOOK_EVERY_S
from tests.acceptance.installation import HOSPITALS, LOCK_OP, Installation, made_up_person, until
from tests.acceptance.processes import children_of
from tests.connectors.soap.served.his import secret_files
from tests.scheduler_sync.test_certificates import make_certificate

RELEASED = "soap-demo"
OTHERS = ("hl7-demo", "fhir-demo")
PATIENTS = 60
RATE_PER_S = 40.0
CROWD_S = 15.0
IN_LINE_SHARE = 0.8  # of the crowd come through the waiting room
SLOW_S = 0.1  # of each call to the released hospital
SEATS = 2  # of each of the released hospital's 32 slots
HEAD_START_S = 35.0
GO_ON_WITHIN_S = 200.0  # on a machine that does other things as well
AFTER_S = 30.0
ZONE = ZoneInfo("Asia/Shanghai")

HOSPITAL = {"his_concurrency": 3, "his_concurrency_floor": 1, "lock_wait_s": 300, "his_queue_deadline_s": 20}
BULK_AT_ONCE, IDENTITY_BURST = 4, 40
SERVICE = {
    "workers": 2, "head_timeout_s": 2, "identity_rate_per_s": 5, "identity_burst": IDENTITY_BURST, "max_in_flight": 2_000,
    "bulk_share": BULK_AT_ONCE / 2_000,
}  # fmt: skip
TRACED_SHARE = 0.1
ENDS = dt.datetime(2041, 5, 6, 7, 8, 9, tzinfo=dt.UTC)
"""When the certificate of the released hospital's authority does."""
DOUBTS = 15
REGISTERS_IN_S = 4.0
ROOM_OPENS_S = 20.0  # before the release


def release_of_the_next_minute(config: Path, first_visits: dt.date) -> dt.datetime:
    """Settings by which the visits of that day open at the next whole minute that leaves time to prepare; when that is."""
    soon = dt.datetime.now(ZONE) + dt.timedelta(seconds=HEAD_START_S)
    opens = soon.replace(second=0, microsecond=0) + dt.timedelta(minutes=1)
    authority, _ = make_certificate(config.parent, ENDS)
    main = f"[hospital.{RELEASED}.connector.main]\n"
    text = config.read_text(encoding="utf-8").replace(main, f'{main}ca_file = "{authority.as_posix()}"\n')
    config.write_text(
        f'{text}[hospital.{RELEASED}.release]\ntime = "{opens:%H:%M}"\ndays_ahead = {(first_visits - opens.date()).days}\n'
        f"[hospital.{RELEASED}.waiting_room]\nopens_before_s = {ROOM_OPENS_S}\n"
        f"[hospital.{RELEASED}.rules.waitlist]\naccept_s = 3600\n"
        f"[hospital.{RELEASED}.connector.calls]\n{_calls(config.parent)}"
        f"[hospital.{RELEASED}.connector.pushes]\n{_pushes(config.parent)}",
        encoding="utf-8",
    )
    return opens


def _calls(folder: Path) -> str:
    """A connector of the released hospital that is only called: over SOAP, as by a platform."""
    secrets = ", ".join(f'{name} = "{file}"' for name, file in secret_files(folder).items())
    return (
        'protocol = "soap"\nprofile = "jkt12320"\nendpoint = "http://127.0.0.1:9/"\nlisten_host = "127.0.0.1"\n'
        f"listen_port = {free_port()}\nsecret_files = {{{secrets}}}\n"
    )


def _pushes(folder: Path) -> str:
    """One that is only told: over FHIR, by a server that takes tokens."""
    secret = folder / "fhir_secret"
    secret.write_text("told to nobody")
    port = free_port()
    return (
        'protocol = "fhir"\nprofile = "fhir_r4"\nbase_url = "http://127.0.0.1:9/fhir"\nauth = "client_credentials"\n'
        f'token_url = "http://127.0.0.1:9/token"\nclient_id = "us"\nclient_secret_file = "{secret.as_posix()}"\n'
        'subscribe = ["backport"]\nchanges_every_s = 0\n'
        f'public_url = "http://127.0.0.1:{port}/told"\nlisten_port = {port}\n'
        f'notify_secret_file = "{secret.as_posix()}"\n'
    )


async def busy_minute(site: Installation, parent: int, opens: dt.datetime) -> None:
    """Until half a minute after the opening. `parent` is the process of the service."""
    ends = opens.timestamp() + AFTER_S
    patients = await _patients(site)
    await _lose_a_worker(parent)  # now, while it owes nobody an answer
    await _ask_too_much(site, patients[0])
    await site.clinics[RELEASED].fault("*", "slow", delay_s=SLOW_S)
    async with asyncio.TaskGroup() as background:
        for work in (_look_around, _idle, _ordinary_day):
            background.create_task(work(site, ends))
        await asyncio.gather(_walk(site, "fhir-demo"), _drip(site), _read_gbk(site), _doubt(site, "hl7-demo"))
        await _refuse(site, "fhir-demo")  # not where the ordinary day goes on: the refusal would meet anybody's hold
        await _owe(site, "hl7-demo")
        await asyncio.sleep(opens.timestamp() - time.time() - 0.3)
        await asyncio.gather(_crowd(site, patients), _go_away(site, "fhir-demo"))
    await _books_compared(site, "fhir-demo")


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
        await asyncio.sleep(0.1)


async def _ordinary_day(site: Installation, ends: float) -> None:
    """What goes on all the time at a hospital: bookings, bills, reports, and now and then a lost reply."""
    while time.time() < ends:
        await _lose_a_reply(site, "hl7-demo")
        for hospital_id in ("hl7-demo", RELEASED):
            clinic = site.clinics[hospital_id]
            await clinic.do("/report", {"mrn": (await clinic.state())["people"][-1]["mrn"]})
        await _walk(site, "hl7-demo")


async def _idle(site: Installation, ends: float) -> None:
    """People who have connections open and say nothing."""
    host, _, port = site.base_url.removeprefix("http://").rpartition(":")
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(5)]
    await asyncio.sleep(max(0.0, ends - time.time()))
    for _, writer in opened:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _drip(site: Installation) -> None:
    """A head that never ends."""
    host, _, port = site.base_url.removeprefix("http://").rpartition(":")
    for _ in range(2):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /v1/hospitals HTTP/1.1\r\nHost:")
        await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _walk(site: Installation, hospital_id: str) -> None:
    """A booking that is paid and cancelled, one too many, a bill, a report, and the day's books with a stray line."""
    portal, clinic, of = site.portal(), site.clinics[hospital_id], f"/v1/hospitals/{hospital_id}"
    person = made_up_person()
    patient_id = await site.patient(hospital_id, person)
    booking = await site.hold(hospital_id, patient_id=patient_id)
    again = {"user_ref": "user", "slot_id": booking["slot_id"], "patient_id": patient_id}
    refused = await portal.call("POST", f"{of}/bookings", again, key=uuid.uuid4().hex)
    assert refused.status == 409
    booking = await site.becomes(hospital_id, booking, his_state="locked", payable=True)
    paid = await site.pay(hospital_id, booking)
    await site.becomes(hospital_id, booking, state="booked")

    mrn = await clinic.mrn_of(person)
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


async def _refuse(site: Installation, hospital_id: str) -> None:
    """A hold to which the HIS says no."""
    await site.clinics[hospital_id].fault(LOCK_OP[hospital_id], "refuse", times=1)
    await site.becomes(hospital_id, await site.hold(hospital_id), state="rejected")


async def _books_compared(site: Installation, hospital_id: str) -> None:
    """A bill is looked for once a minute."""

    async def differences() -> float:
        return await site.metric("hisbridge_reconciliation_differences", hospital=hospital_id, kind="long")

    await until(differences, bool, what="the stray line of the merchant's bill", within_s=2 * LOOK_EVERY_S)


async def _lose_a_reply(site: Installation, hospital_id: str) -> None:
    await site.clinics[hospital_id].fault(LOCK_OP[hospital_id], "lose_reply", times=1)
    booking = await site.hold(hospital_id)
    await site.becomes(hospital_id, booking, his_state="locked")


async def _doubt(site: Installation, hospital_id: str) -> None:
    """Lost replies, until the look that comes every few seconds has met one whose outcome is not known yet."""

    async def unknown() -> bool:
        while (await site.booking(hospital_id, booking))["his_state"] != "locked":
            if await site.metric("hisbridge_his_unknown", hospital=hospital_id) > 0:
                return True
        return False

    for _ in range(DOUBTS):
        await site.clinics[hospital_id].fault(LOCK_OP[hospital_id], "lose_reply", times=1)
        booking = await site.hold(hospital_id)
        if await unknown():
            return
    raise AssertionError("no command was seen whose outcome is unknown")


async def _owe(site: Installation, hospital_id: str) -> None:
    """A HIS that takes its time to register what is paid, until the same look has met one."""

    async def owed() -> bool:
        while (await site.booking(hospital_id, booking))["state"] != "booked":
            if await site.metric("hisbridge_paid_unregistered", hospital=hospital_id) > 0:
                return True
        return False

    for _ in range(DOUBTS):
        booking = await site.becomes(hospital_id, await site.hold(hospital_id), his_state="locked", payable=True)
        await site.clinics[hospital_id].fault("register", "slow", delay_s=REGISTERS_IN_S, times=1)
        await site.pay(hospital_id, booking)
        if await owed():
            return
    raise AssertionError("no booking was seen that is paid and not registered")


async def _read_gbk(site: Installation) -> None:
    """Fetches whose bytes are not what their label says. A FHIR server's schedules stay as they are: they come without bytes."""
    told = {"hl7-demo": ("fetch_schedules", "fetch_slots"), "fhir-demo": ("fetch_bills", "fetch_reports")}
    for hospital_id, ops in told.items():
        for op in ops:
            await site.clinics[hospital_id].fault(op, "gbk", times=10)

    async def counted() -> list[float]:
        return [await site.metric("hisbridge_decode_fallbacks_total", hospital=hospital_id) for hospital_id in OTHERS]

    await until(counted, lambda found: min(found) >= 1 and max(found) >= 2, what="decode fallbacks")


async def _lose_a_worker(parent: int) -> None:
    """kill -9 of one API process; its parent starts another."""
    before = children_of(parent)["api-2"]
    os.kill(before, signal.SIGKILL)

    async def another() -> int:
        return children_of(parent).get("api-2", before)

    await until(another, lambda pid: pid != before, what="another worker")


async def _ask_too_much(site: Installation, patient_id: str) -> None:
    """One user who asks for more than a person can want, and a portal with more feeds than there are places for."""
    body = {"user_ref": "in a hurry", "slot_id": uuid.uuid4().hex, "patient_id": patient_id}

    async def limited() -> float:
        asked = (
            site.portal().call("POST", f"/v1/hospitals/{RELEASED}/bookings", body, key=uuid.uuid4().hex)
            for _ in range(IDENTITY_BURST)
        )
        await asyncio.gather(*asked)
        return await site.metric("hisbridge_rate_limited_total", scope="identity")

    async def shed() -> float:
        feeds = (site.portal().call("GET", "/v1/events", after=0) for _ in range(10 * BULK_AT_ONCE))
        await asyncio.gather(*feeds)
        return await site.metric("hisbridge_shed_total", reason="bulk_in_flight")

    await until(limited, bool, what="a user that is limited")
    await until(shed, bool, what="a feed that is shed")


async def _admitted(site: Installation, patient_id: str) -> dict[str, str]:
    """The field with a patient's ticket, once it lets it hold; nothing where the room is closed and none is needed any more."""
    portal, room = site.portal(), f"/v1/hospitals/{RELEASED}/waiting-room/tickets"
    joined = await until(
        lambda: portal.call("POST", room, {"user_ref": f"user of {patient_id}", "patient_id": patient_id}),
        lambda told: told.status not in (429, 503),  # a crowd on a busy machine is told to come again
        what="a place in line",
        within_s=GO_ON_WITHIN_S,
    )
    if joined.status == 409 and joined.code == "waiting_room_closed":
        return {}
    ticket = str(joined.body["ticket"])
    await until(
        lambda: portal.get(f"{room}/{ticket}"),
        lambda told: told["state"] not in ("gathering", "waiting"),
        what="a ticket that is admitted",
        within_s=GO_ON_WITHIN_S,
    )
    return {"Waiting-Room-Ticket": ticket}


async def _crowd(site: Installation, patients: Sequence[str]) -> None:
    """Everybody wants a seat at once, and most come too late, or pass by the waiting room. Who got one pays, or does not, or
    thinks again.
    """
    portal, of = site.portal(), f"/v1/hospitals/{RELEASED}"
    slots = [slot["id"] for slot in (await portal.get(f"{of}/slots"))["items"]]
    chance = random.Random(7)
    granted: list[dict[str, Any]] = []
    tickets: dict[str, asyncio.Task[dict[str, str]]] = {}

    async def attempt(slot_id: str, patient_id: str, *, in_line: bool) -> None:
        body = {"user_ref": f"user of {patient_id}", "slot_id": slot_id, "patient_id": patient_id}
        ticket: dict[str, str] = {}
        if in_line:
            if patient_id not in tickets:
                tickets[patient_id] = asyncio.create_task(_admitted(site, patient_id))
            ticket = await tickets[patient_id]
        answer = await portal.call("POST", f"{of}/bookings", body, key=uuid.uuid4().hex, headers=ticket)
        if answer.status == 201:
            granted.append(answer.body)
            await _go_on(site, answer.body, len(granted))

    ends = time.monotonic() + CROWD_S
    async with asyncio.TaskGroup() as arrivals:
        while time.monotonic() < ends:
            in_line = chance.random() < IN_LINE_SHARE
            arrivals.create_task(attempt(chance.choice(slots), chance.choice(patients), in_line=in_line))
            await asyncio.sleep(chance.expovariate(RATE_PER_S))
    assert granted


async def _go_on(site: Installation, booking: dict[str, Any], number: int) -> None:
    """Three in four pay; one in eight cancels then."""
    if number % 4 == 0:
        return
    locked = await site.becomes(RELEASED, booking, his_state="locked", payable=True, within_s=GO_ON_WITHIN_S)
    await site.pay(RELEASED, locked)
    await site.becomes(RELEASED, booking, state="booked", within_s=GO_ON_WITHIN_S)
    if number % 8 == 1:
        await site.cancel(RELEASED, booking)


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
