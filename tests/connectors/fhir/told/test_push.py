"""Our address for notifications: what each kind leads to, and what strangers, forgers and slow senders cannot do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from connectors.fhir import FhirConnector, Options, create
from connectors.port import HisUnavailable, Order
from loadtest.simulators import fhir
from monitoring.metrics import REGISTRY
from tests.acceptance.installation import until
from tests.connectors.fhir.fhir_hospital import HOSPITAL, booked_order, hospital, switch
from tests.connectors.fhir.told.desk import Desk
from tests.connectors.fhir.told.sent import backport, r5
from tests.connectors.hl7v2.wire.authority import Authority
from tests.loop_clock import LoopClock

SECRET = "told-to-the-server"


@dataclass
class Told:
    simulator: fhir.FhirSimulator
    connector: FhirConnector
    desk: Desk
    order: Order
    session: aiohttp.ClientSession

    @property
    def appointment(self) -> str:
        return self.order.his_refs["appointment"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.connector.listen_port}/notifications"

    async def send(
        self, body: bytes, *, secret: str | None = SECRET, method: str = "POST", path: str = "", **headers: str
    ) -> int:
        if secret is not None:
            headers["Authorization"] = f"Bearer {secret}"
        async with self.session.request(method, self.url + path, data=body, headers=headers) as response:
            await response.read()
            return response.status

    def change(self, status: str) -> None:
        self.simulator.store.change(self.appointment, status=status)


@contextlib.asynccontextmanager
async def listening(folder: Path, **given: Any) -> AsyncIterator[Told]:
    """A connector that is told, and one Appointment of ours that is known already."""
    (folder / "notify").write_text(SECRET)
    options: dict[str, Any] = {"listen_port": 0, "notify_secret_file": str(folder / "notify")} | given
    async with hospital(**options) as (simulator, connector):
        desk = Desk()
        await connector.serve(desk.handle)
        order = await booked_order(connector)
        await connector.fetch_changes()
        async with aiohttp.ClientSession() as session:
            yield Told(simulator, connector, desk, order, session)


def counted(result: str) -> float:
    labels = {"hospital": HOSPITAL.id, "connector": "his", "result": result}
    return REGISTRY.get_sample_value("hisbridge_fhir_notifications_total", labels) or 0.0


@pytest.mark.parametrize("make", [backport, r5], ids=["R4 backport", "R5"])
@pytest.mark.parametrize("absolute", [False, True])
async def test_change_is_stored_before_the_notification_is_answered(make: Any, absolute: bool, tmp_path: Path) -> None:
    async with listening(tmp_path) as us:
        us.change("cancelled")
        focus = f"{us.simulator.base_url}/Appointment/{us.appointment}" if absolute else f"Appointment/{us.appointment}"
        assert await us.send(make("event-notification", since_start=1, events=[(1, focus)])) == 200
        assert us.desk.statuses == ["locked", "released"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "", b""),
        ("PUT", "", b""),
        ("POST", "", b'{"resourceType": "Appointment", "id": "THIS", "status": "booked"}'),
        ("PUT", "/Appointment/THIS", b""),
        ("PUT", "/Appointment/THIS", b'{"resourceType": "Appointment", "id": "THIS", "status": "booked"}'),
    ],
)
async def test_server_is_asked_when_an_r4_rest_hook_gives_a_cue(
    method: str, path: str, body: bytes, tmp_path: Path
) -> None:
    """What the cue says of the resource is not believed: it is cancelled, whatever stands there."""
    async with listening(tmp_path) as us:
        us.change("cancelled")
        body = body.replace(b"THIS", us.appointment.encode())
        assert await us.send(body, method=method, path=path.replace("THIS", us.appointment)) == 200
        assert us.desk.statuses == ["locked", "released"]


async def test_deleted_appointment_releases_when_the_server_says_that_it_is_gone(tmp_path: Path) -> None:
    async with listening(tmp_path) as us:
        us.simulator.store.delete(us.appointment)
        assert await us.send(b"", method="DELETE", path=f"/Appointment/{us.appointment}") == 200
        assert us.desk.statuses == ["locked", "released"]
        assert us.desk.registrations[-1].his_id == us.appointment


async def test_nothing_is_read_when_a_handshake_or_a_heartbeat_comes(tmp_path: Path) -> None:
    async with listening(tmp_path) as us:
        before, asked = (counted("handshake"), counted("heartbeat")), len(us.simulator.requests)
        assert await us.send(backport("handshake", status="requested")) == 200
        assert await us.send(r5("heartbeat")) == 200
        assert (counted("handshake"), counted("heartbeat")) == (before[0] + 1, before[1] + 1)
        assert len(us.simulator.requests) == asked


@pytest.mark.parametrize("kind", ["heartbeat", "event-notification"])
async def test_what_was_missed_is_caught_up_with_when_a_number_did_not_come(kind: str, tmp_path: Path) -> None:
    async with listening(tmp_path) as us:
        assert await us.send(backport("event-notification", since_start=4, events=[(4, "Appointment/none")])) == 200
        before = counted("missed")
        us.change("cancelled")  # that was event 5, and its notification was lost
        events = [(6, "Appointment/none")] if kind == "event-notification" else []
        assert await us.send(backport(kind, since_start=6 if events else 5, events=events)) == 200

        async def look() -> list[str]:
            return us.desk.statuses

        await until(look, lambda seen: seen == ["locked", "released"], what="the catch-up")
        assert counted("missed") == before + 1


async def test_server_is_told_to_come_again_when_it_cannot_be_read_or_nothing_be_stored(tmp_path: Path) -> None:
    async with listening(tmp_path) as us:
        us.change("cancelled")
        body = backport("event-notification", since_start=1, events=[(1, f"Appointment/{us.appointment}")])
        switch(us.simulator, "fetch_changes", "fault", times=1)
        assert await us.send(body) == 503
        us.desk.away = True
        assert await us.send(body) == 503
        us.desk.away = False
        assert us.desk.statuses == ["locked"]
        assert await us.send(body) == 200
        assert await us.send(body) == 200  # sent again: known
        assert us.desk.statuses == ["locked", "released"]


@pytest.mark.parametrize("named", [True, False])
async def test_server_is_not_read_past_the_gate_when_it_notifies_us(named: bool, tmp_path: Path) -> None:
    calls: list[str] = []
    full = True

    async def gate(what: str, call: Callable[[], Awaitable[Any]]) -> Any:
        calls.append(what)
        if full:
            raise HisUnavailable("the queue is full")
        return await call()

    async with listening(tmp_path) as us:
        us.connector.ask_through(gate)
        us.change("cancelled")
        asked = len(us.simulator.requests)
        events = [(1, f"Appointment/{us.appointment}")] if named else [(1, None)]
        body = backport("event-notification", since_start=1, events=events)
        assert await us.send(body) == 503
        assert len(us.simulator.requests) == asked
        full = False
        assert await us.send(body) == 200
        assert us.desk.statuses == ["locked", "released"]
        assert calls == ["fetch_changes"] * 2


async def test_one_look_serves_many_cues_when_they_come_at_once(tmp_path: Path) -> None:
    async with listening(tmp_path) as us:
        asked = us.simulator.board.calls["fetch_changes"]
        switch(us.simulator, "fetch_changes", "slow", delay_s=0.2)
        assert await asyncio.gather(*(us.send(b"") for _ in range(30))) == [200] * 30
        assert us.simulator.board.calls["fetch_changes"] - asked <= 5


# --- whom we do not believe ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, "", "another", SECRET + "x", SECRET[:-1], "ünïcode"])
async def test_stranger_changes_nothing_and_makes_us_read_nothing(secret: str | None, tmp_path: Path) -> None:
    async with listening(tmp_path) as us:
        us.change("cancelled")
        before, asked = counted("unauthorised"), len(us.simulator.requests)
        body = backport("event-notification", since_start=1, events=[(1, f"Appointment/{us.appointment}")])
        assert await us.send(body, secret=secret) == 401
        assert counted("unauthorised") == before + 1
        assert us.desk.statuses == ["locked"]
        assert len(us.simulator.requests) == asked


async def test_forged_notification_changes_nothing_though_it_knows_the_secret(tmp_path: Path) -> None:
    """It says that the Appointment is cancelled and gone; the server says that it is not."""
    async with listening(tmp_path) as us:
        forged = {
            "resourceType": "Appointment",
            "id": us.appointment,
            "status": "cancelled",
            "meta": {"versionId": "99"},
        }
        bundle = json.loads(r5("event-notification", since_start=1, events=[(1, f"Appointment/{us.appointment}")]))
        bundle["entry"].append({"resource": forged})
        assert await us.send(json.dumps(bundle).encode()) == 200
        assert await us.send(json.dumps(forged).encode(), method="PUT", path=f"/Appointment/{us.appointment}") == 200
        assert await us.send(b"", method="DELETE", path=f"/Appointment/{us.appointment}") == 200
        assert us.desk.statuses == ["locked"]


@pytest.mark.parametrize(
    "focus",
    [
        "https://evil.example/fhir/Appointment/1",
        "Appointment/../Patient",
        "Appointment/1?x=y",
        "Basic/1",
        "//evil/x",
        "x",
    ],
)
async def test_nothing_is_asked_for_when_a_notification_names_what_is_not_the_servers(
    focus: str, tmp_path: Path
) -> None:
    async with listening(tmp_path) as us:
        asked = len(us.simulator.requests)
        assert await us.send(backport("event-notification", since_start=1, events=[(1, focus)])) == 200
        assert len(us.simulator.requests) == asked


async def test_bytes_are_refused_when_they_are_no_notification(tmp_path: Path) -> None:
    async with listening(tmp_path, max_message_bytes=200_000) as us:
        asked = len(us.simulator.requests)
        for body in (b"{", b"<x/>", b"\x00\xff", b'{"resourceType": "Bundle"}', b"[" * 100_000):
            assert await us.send(body) == 400
        assert await us.send(b"x" * 200_001) == 413
        assert await us.send(b"{}", **{"Content-Encoding": "gzip"}) == 415
        async with us.session.get(us.url, headers={"Authorization": f"Bearer {SECRET}"}) as response:
            assert response.status == 405
        async with us.session.post(us.url.replace("/notifications", "/other")) as response:
            assert response.status == 404
        assert len(us.simulator.requests) == asked
        assert us.desk.asked == 1


async def test_slow_sender_is_given_up_and_others_are_served(tmp_path: Path) -> None:
    clock = LoopClock()
    async with listening(tmp_path, request_timeout_s=60) as us:
        reader, writer = await asyncio.open_connection("127.0.0.1", us.connector.listen_port)
        head = (
            f"POST /notifications HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\nContent-Length: 50\r\n\r\n"
        )
        writer.write(head.encode() + b"{")
        assert await us.send(backport("handshake")) == 200
        clock.turn(60)
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_only_who_shows_a_certificate_is_heard_when_that_is_how_the_server_is_known(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours, theirs = authority.sign("ours"), authority.sign("theirs")
    given: dict[str, Any] = {
        "listen_port": 0, "tls_cert_file": str(ours.cert_file), "tls_key_file": str(ours.key_file),
        "tls_client_ca_file": str(authority.ca_file),
    }  # fmt: skip
    async with hospital(**given) as (_, connector), aiohttp.ClientSession() as session:
        await connector.serve(Desk().handle)
        url = f"https://127.0.0.1:{connector.listen_port}/notifications"
        context = ssl.create_default_context(cafile=str(authority.ca_file))
        with pytest.raises(aiohttp.ClientError):
            async with session.post(url, data=backport("handshake"), ssl=context):
                pass
        context.load_cert_chain(theirs.cert_file, theirs.key_file)
        async with session.post(url, data=backport("handshake"), ssl=context) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "listen_port needs notify_secret_file, or tls_client_ca_file"),
        ({"notify_secret_env": "HISBRIDGE_NO_SUCH"}, "the environment has no"),
        ({"tls_client_ca_file": "/x"}, "need tls_cert_file"),
        ({"notify_secret_env": "HOME", "allow": ["nonsense"]}, "allow:"),
    ],
)
def test_listener_is_refused_when_nobody_could_be_known(given: dict[str, Any], why: str) -> None:
    options = Options(protocol="fhir", profile="fhir_r4@1", base_url="http://h/f", listen_port=0, **given)
    with pytest.raises(ValueError, match=why):
        create(HOSPITAL, "his", options)
