"""One installation in many processes, on PostgreSQL: who dies is replaced, and nobody outside notices more than must be."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.acceptance.installation import (
    HOSPITALS,
    KEY,
    START_PATIENCE_S,
    Installation,
    Portal,
    made_up_person,
    run_process,
    until,
)
from tests.acceptance.processes import (
    WORKERS,
    Leases,
    all_ended,
    another_node,
    children_of,
    frozen,
    is_running,
    laid_out,
)
from tests.acceptance.test_walk import AS_THE_DEMO, walk_everywhere
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(400)  # whole installations, several times over on a busy machine


def request_bytes(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n".encode()


async def answer_of(queued: socket.socket) -> bytes:
    """The status line that arrives on a connection."""
    loop = asyncio.get_running_loop()
    data = b""
    async with asyncio.timeout(60):
        while b"\r\n" not in data:
            chunk = await loop.sock_recv(queued, 4096)
            assert chunk, "the connection was closed without an answer"
            data += chunk
    queued.close()
    return data.partition(b"\r\n")[0]


async def connect(site: Installation, number: int) -> list[socket.socket]:
    """So many connections with a request on each; they wait in the kernel when nobody accepts them."""
    loop = asyncio.get_running_loop()
    host, _, port = site.base_url.removeprefix("http://").rpartition(":")
    opened = []
    for _ in range(number):
        queued = socket.socket()
        queued.setblocking(False)
        await loop.sock_connect(queued, (host, int(port)))
        await loop.sock_sendall(queued, request_bytes("/v1/hospitals"))
        opened.append(queued)
    return opened


@asynccontextmanager
async def portal_at(site: Installation, worker: int, *others: int) -> AsyncIterator[Portal]:
    """A portal whose one connection was accepted by this worker: the others stood still meanwhile."""
    timeout = aiohttp.ClientTimeout(total=60)
    connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=300)
    async with aiohttp.ClientSession(site.base_url, connector=connector, timeout=timeout) as session:
        portal = Portal(session)
        with frozen(*others):
            await portal.get("/v1/hospitals")
        assert is_running(worker)
        yield portal


# --- a worker ------------------------------------------------------------------------------------------------------


async def test_queued_connections_are_answered_when_their_worker_is_killed(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """Nobody accepts while both stand still; what waits then belongs to the socket, which is the parent's."""
    async with laid_out(tmp_path, postgres_server) as site, run_process(site) as process:
        pids = children_of(process.process.pid)
        with frozen(*(pids[name] for name in WORKERS)):
            queued = await connect(site, 20)
            os.kill(pids["api-1"], signal.SIGKILL)
        assert {await answer_of(one) for one in queued} == {b"HTTP/1.1 200 OK"}
        ended = await process.event("child_ended")  # until the parent knows of it, it still names the dead one
        assert (ended["child"], ended["code"], ended["role"]) == ("api-1", -9, "parent")
        again = await until(site.children, lambda seen: len(seen) == 3, what="the killed worker's successor")
        assert ("api", "1") in again
        assert await site.metric("hisbridge_child_restarts_total", role="api", worker="1") == 1
        assert children_of(process.process.pid)["api-1"] != pids["api-1"]


async def test_queued_connections_are_answered_when_the_only_worker_is_killed(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with laid_out(tmp_path, postgres_server, workers=1) as site, run_process(site) as process:
        pid = children_of(process.process.pid)["api-1"]
        with frozen(pid):
            queued = await connect(site, 20)
            os.kill(pid, signal.SIGKILL)
            assert {await answer_of(one) for one in queued} == {b"HTTP/1.1 200 OK"}


async def test_others_serve_when_a_worker_is_killed_in_the_middle_of_requests(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """Requests under way at that worker are lost with it; whoever asks again, under the same key, has one booking."""
    async with laid_out(tmp_path, postgres_server) as site, run_process(site) as process:
        patients = await asyncio.gather(*(site.patient("soap-demo") for _ in range(8)))
        slot = (await site.open_slots("soap-demo"))[0]
        victim = children_of(process.process.pid)["api-1"]
        of, lost = "/v1/hospitals/soap-demo/bookings", 0
        slots = [s for s in await site.open_slots("soap-demo") if s["schedule_id"] != slot["schedule_id"]] or [slot]

        async def hold(number: int, patient_id: str) -> dict[str, Any]:
            nonlocal lost
            body = {"user_ref": "crowd", "slot_id": slots[number % len(slots)]["id"], "patient_id": patient_id}
            key = uuid.uuid4().hex
            while True:
                try:
                    return await site.portal().post(of, body, key=key)
                except aiohttp.ClientError:
                    lost += 1

        holds = [asyncio.create_task(hold(n, patient)) for n, patient in enumerate(patients)]
        os.kill(victim, signal.SIGKILL)
        made = await asyncio.gather(*holds)
        mine = (await site.portal().get(of, user_ref="crowd", limit=100))["items"]
        assert sorted(b["id"] for b in mine) == sorted(b["id"] for b in made)
        assert lost <= len(patients)


async def test_change_made_at_one_worker_is_seen_by_who_waits_at_another(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with laid_out(tmp_path, postgres_server) as site, run_process(site) as process:
        pids = children_of(process.process.pid)
        one, two = (pids[name] for name in WORKERS)
        held = await site.locked("soap-demo")
        of = f"/v1/hospitals/soap-demo/bookings/{held['id']}"
        async with portal_at(site, one, two) as here, portal_at(site, two, one) as there:
            waiting = asyncio.create_task(there.get(of, wait_s=25, since_version=held["version"]))
            cancelled = await here.post(f"{of}/cancel", {"reason": "elsewhere"})
            assert (await waiting)["version"] >= cancelled["version"] > held["version"]


async def test_patient_is_served_whole_when_api_and_sync_are_processes_of_their_own(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """The demonstration's walk, with its bills and reports asked of the sync process."""
    async with laid_out(tmp_path, postgres_server, layout=AS_THE_DEMO) as site, run_process(site) as process:
        await walk_everywhere(site)
        roles = {(e.get("role"), e.get("worker")) for e in process.events()}
        assert {("api", 1), ("api", 2), ("sync", 0), ("parent", None)} <= roles
        assert await site.metric("hisbridge_hospital_worked") == len(HOSPITALS)
        hospitals = (await site.portal().get("/v1/hospitals"))["items"]
        assert [h["his_status"] for h in hospitals] == ["up"] * len(HOSPITALS)


async def test_live_read_fails_with_its_reason_when_asked_through_another_process(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with laid_out(tmp_path, postgres_server) as site, run_process(site) as process:
        portal = site.portal()
        patient_id = await site.patient("soap-demo")
        bills = f"/v1/hospitals/soap-demo/patients/{patient_id}/bills"
        assert (await portal.get(bills))["as_of"] == "live"
        await site.clinics["soap-demo"].close()
        away = await portal.call("GET", bills)
        assert (away.status, away.code) == (503, "his_unavailable")
        await site.clinics["soap-demo"].reopen()
        os.kill(children_of(process.process.pid)["sync-0"], signal.SIGKILL)
        nobody = await portal.call("GET", bills)
        assert (nobody.status, nobody.code) in ((503, "his_unavailable"), (200, ""))
        await until(
            lambda: portal.call("GET", bills), lambda a: a.status == 200, what="the bills, once somebody works it again"
        )


# --- reload --------------------------------------------------------------------------------------------------------


def alter(site: Installation, old: str, new: str) -> None:
    text = site.config.read_text(encoding="utf-8")
    assert old in text
    site.config.write_text(text.replace(old, new), encoding="utf-8")


async def ask_on(portal: Portal, patient_id: str, done: asyncio.Event, seen: list[int]) -> None:
    """Requests on a kept connection, 20 a second and more where the machine can. A POST is never sent twice by the client."""
    key, person, of = uuid.uuid4().hex, made_up_person(), "/v1/hospitals/soap-demo"
    while not done.is_set():
        again = await portal.call("POST", f"{of}/patients", person, key=key)
        listed = await portal.call("GET", f"{of}/slots")
        seen += [again.status, listed.status]
        await asyncio.sleep(0.1)
    bills = await portal.call("GET", f"{of}/patients/{patient_id}/bills")  # asked of the new sync process
    seen.append(bills.status)


async def test_no_request_fails_when_the_processes_are_replaced(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with laid_out(tmp_path, postgres_server) as site, run_process(site) as process:
        await site.open_slots("soap-demo")
        patient_id = await site.patient("soap-demo")
        before = children_of(process.process.pid)
        done, seen = asyncio.Event(), list[int]()

        async def counted() -> int:
            return len(seen)

        async with contextlib.AsyncExitStack() as stack:
            sessions = [await stack.enter_async_context(aiohttp.ClientSession(site.base_url)) for _ in range(4)]
            asking = [asyncio.create_task(ask_on(Portal(session), patient_id, done, seen)) for session in sessions]
            alter(site, "workers = 2", "workers = 3")
            process.process.send_signal(signal.SIGHUP)
            await process.event("reloaded", within_s=START_PATIENCE_S)
            served = len(seen)
            await until(counted, lambda n: n > served + 20, what="more answers")
            done.set()
            await asyncio.gather(*asking)
        assert set(seen) == {200, 201}
        after = children_of(process.process.pid)
        assert sorted(after) == ["api-1", "api-2", "api-3", "sync-0"]
        assert not set(after.values()) & set(before.values())
        await all_ended(*before.values())
        await site.locked("soap-demo")  # the hospitals have followed to the new sync process


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("drain_s = 5", 'drain_s = "soon"', "service.drain_s"),
        ('profile = "dhc@1"', 'profile = "dhc@9"', "version 9"),
        ('\nlisten = "127.0.0.1:0"', '\nlisten = "127.0.0.1:1"', "service.listen has changed"),
    ],
)
async def test_everything_stays_and_the_reason_is_told_when_new_settings_are_refused(
    tmp_path: Path, postgres_server: PostgresServer, old: str, new: str, reason: str
) -> None:
    async with laid_out(tmp_path, postgres_server, workers=1) as site, run_process(site) as process:
        before = children_of(process.process.pid)
        alter(site, old, new)
        process.process.send_signal(signal.SIGHUP)
        refused = await process.event("reload_refused")
        assert reason in refused["reason"]
        assert children_of(process.process.pid) == before
        # What was read last and was right is what a restarted child gets, whatever the file says now.
        os.kill(before["api-1"], signal.SIGKILL)
        await until(site.children, lambda seen: len(seen) == 2, what="the killed worker's successor")
        await site.portal().get("/v1/hospitals")


# --- the end -------------------------------------------------------------------------------------------------------


async def test_requests_in_flight_are_answered_when_the_parent_is_terminated(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with laid_out(tmp_path, postgres_server) as site, run_process(site) as process:
        portal, clinic = site.portal(), site.clinics["soap-demo"]
        held = await site.locked("soap-demo")
        before = await clinic.calls("fetch_bills")
        await clinic.fault("fetch_bills", "slow", delay_s=1.0)
        bills = asyncio.create_task(portal.call("GET", f"/v1/hospitals/soap-demo/patients/{held['patient_id']}/bills"))
        await until(lambda: clinic.calls("fetch_bills"), lambda n: n > before, what="the slow question at the HIS")
        pids = children_of(process.process.pid)
        process.terminate()
        assert (await bills).status == 200  # the sync process ends after those that ask it
        assert await process.exit_code() == 0
        assert not any(is_running(pid) for pid in pids.values())
        events = process.events()
        assert not [e for e in events if e["level"] == "critical" or e["event"] == "child_killed"]
        assert sorted(e["role"] for e in events if e["event"] == "stopped") == ["api", "api", "parent", "sync"]


async def test_no_process_is_left_when_the_parent_is_killed(tmp_path: Path, postgres_server: PostgresServer) -> None:
    async with laid_out(tmp_path, postgres_server, listen="127.0.0.1:0") as site:
        async with run_process(site) as process:
            held = await site.hold("soap-demo")
            pids = children_of(process.process.pid)
            assert len(pids) == 3
            await process.kill()
        await all_ended(*pids.values())
        async with run_process(site):
            await site.becomes("soap-demo", held, his_state="locked")


# --- the hospitals -------------------------------------------------------------------------------------------------


async def test_hospitals_are_taken_over_and_their_commands_go_on_when_a_sync_process_is_killed(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with laid_out(tmp_path, postgres_server, workers=1) as site, run_process(site) as process:
        leases = Leases(postgres_server, site)
        first = next(iter((await leases.all_held()).values()))
        async with another_node(site):
            await leases.shared()
            mine = [hospital_id for hospital_id, owner in (await leases.owners()).items() if owner == first]
            hospital_id = mine[0]
            clinic = site.clinics[hospital_id]
            patient_id = await site.patient(hospital_id)
            op = {"fhir-demo": "book"}.get(hospital_id, "lock_slot")
            await site.open_slots(hospital_id)
            await clinic.fault(op, "slow", delay_s=1.0)
            held = await site.hold(hospital_id, patient_id=patient_id)
            await until(lambda: clinic.calls(op), lambda n: n == 1, what="the lock at the HIS")
            with frozen(process.process.pid):  # so that nobody starts it again
                killed_ms = await leases.now_ms()
                os.kill(children_of(process.process.pid)["sync-0"], signal.SIGKILL)
                await clinic.heal()
                await leases.all_held(without=frozenset({first}))
                taken_ms = await leases.now_ms()
                assert taken_ms - killed_ms <= 15_000
                await site.becomes(hospital_id, held, his_state="locked", within_s=60)
                assert [v["state"] for v in await clinic.visits(held["order_no"])] == ["locked"]
                for other in HOSPITALS:
                    await site.locked(other)
            await leases.shared()  # the parent goes on, and its new sync process gets its share again


async def test_hospitals_are_handed_over_when_their_sync_process_stands_still(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with laid_out(tmp_path, postgres_server, workers=1) as site, run_process(site) as process:
        leases = Leases(postgres_server, site)
        first = next(iter((await leases.all_held()).values()))
        sync = children_of(process.process.pid)["sync-0"]
        async with another_node(site) as node:
            await leases.shared()
            with frozen(sync):
                # Those that the frozen one still listens for cannot be worked elsewhere on the same machine.
                held = await until(leases.owners, lambda o: first not in o.values(), what="no lease of the frozen one")
                del held
            lost = await process.event("lease_lost")
            assert lost["role"] == "sync"
            await leases.all_held()
            for hospital_id in HOSPITALS:
                booking = await site.becomes(hospital_id, await site.hold(hospital_id), his_state="locked", within_s=60)
                assert len(await site.clinics[hospital_id].visits(booking["order_no"])) == 1
            assert not [e for e in (*process.events(), *node.events()) if e["level"] == "critical"]


async def test_discovery_shows_every_child_and_each_tells_its_own_metrics(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with laid_out(tmp_path, postgres_server) as site, run_process(site):
        assert site.session is not None
        children = await site.children()
        assert sorted(children) == [("api", "1"), ("api", "2"), ("sync", "0")]
        async with site.session.get(f"{site.admin_url}/readyz") as ready:
            assert json.loads(await ready.read()) == {"ready": True, "draining": False, "reasons": {}}
        await site.portal().get("/v1/hospitals")
        assert await site.metric("hisbridge_http_requests_total", route="/v1/hospitals") >= 1
        assert await site.metric("hisbridge_child_up") == 3
