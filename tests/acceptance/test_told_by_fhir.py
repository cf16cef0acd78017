"""A hospital that changes Appointments by itself, whole: the real service as a process, its sockets and its store."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from loadtest.ports import free_port
from loadtest.simulators import fhir
from loadtest.simulators.hospital import Hospital
from tests.acceptance.installation import (
    QUICK,
    Clinic,
    Installation,
    add_keys,
    run_process,
    to_toml,
    write_secrets,
)
from tests.connectors.fhir.spoken import PROFILES
from tests.connectors.fhir.told.sent import backport, r5

HERE = "fhir-told"
SECRET = "told-to-the-server"


@contextlib.asynccontextmanager
async def laid_out(
    folder: Path, *, release: str = "R4", days: int = 1, **connector: Any
) -> AsyncIterator[tuple[Installation, fhir.FhirSimulator]]:
    """The hospital, settings and keys; the service does not run yet."""
    simulator = await fhir.start(hospital=Hospital("F", days=days, seats=30), release=release)
    profile = "fhir_demo" if release == "R4" else "demo_r5"
    settings: dict[str, Any] = {
        "profiles_dir": str(PROFILES),
        "service": {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "drain_s": 5, "key_cache_s": 1},
        "store": {
            "url": f"sqlite:///{folder.as_posix()}/hisbridge.db",
            "messages_url": f"sqlite:///{folder.as_posix()}/messages.db",
        },
        "secrets": {"data_key_file": "data.key", "digest_key_file": "digest.key"},
        "hospital": {
            HERE: {
                "name": "示范医院",
                "reserve_by": "book",
                **QUICK,
                "connector": {
                    "his": {"protocol": "fhir", "profile": f"{profile}@1", "base_url": simulator.base_url, **connector}
                },
            }
        },
    }
    config = folder / "hisbridge.toml"
    config.write_text(to_toml(settings), encoding="utf-8")
    write_secrets(folder)
    clinic = Clinic(HERE, simulator)
    try:
        await add_keys(config)
        yield Installation(folder, config, {HERE: clinic}), simulator
    finally:
        await clinic.close()


def appointment_of(simulator: fhir.FhirSimulator, booking: dict[str, Any]) -> str:
    visit = simulator.hospital.visit_by_key(booking["order_no"])
    assert visit is not None
    return visit.no


async def test_booking_follows_what_the_hospital_does_when_it_is_asked_for_changes(tmp_path: Path) -> None:
    async with laid_out(tmp_path, changes_every_s=0.3) as (site, simulator), run_process(site):
        booking = await site.booked(HERE)
        simulator.store.change(appointment_of(simulator, booking), status="cancelled")
        await site.becomes(HERE, booking, state="cancelled", payment_state="refund_due", his_state="released")

        booking = await site.booked(HERE)
        simulator.store.change(appointment_of(simulator, booking), status="arrived")
        await site.becomes(HERE, booking, state="checked_in")

        booking = await site.booked(HERE)
        simulator.store.change(appointment_of(simulator, booking), status="noshow")
        await site.becomes(HERE, booking, state="no_show")


async def test_booking_follows_what_happened_while_the_service_was_away(tmp_path: Path) -> None:
    async with laid_out(tmp_path, changes_every_s=0.3) as (site, simulator):
        async with run_process(site):
            booking = await site.booked(HERE)
        simulator.store.change(appointment_of(simulator, booking), status="cancelled")
        async with run_process(site):
            await site.becomes(HERE, booking, state="cancelled", payment_state="refund_due")


@pytest.mark.parametrize(("release", "notice"), [("R4", backport), ("R5", r5)])
async def test_booking_follows_what_the_hospital_says_when_it_notifies_us(
    tmp_path: Path, release: str, notice: Callable[..., bytes]
) -> None:
    """Nothing is asked for here but what a notification names, or what numbers say was missed."""
    (tmp_path / "notify").write_text(SECRET)
    listen = free_port()
    told: dict[str, Any] = {"listen_port": listen, "notify_secret_file": str(tmp_path / "notify"), "changes_every_s": 0}
    url = f"http://127.0.0.1:{listen}/notifications"
    async with laid_out(tmp_path, release=release, **told) as (site, simulator), run_process(site):
        assert await post(url, notice("handshake")) == 200

        booking = await site.booked(HERE)
        focus = f"Appointment/{appointment_of(simulator, booking)}"
        simulator.store.change(appointment_of(simulator, booking), status="cancelled")
        notification = notice("event-notification", since_start=1, events=[(1, focus)])
        assert await post(url, notification, secret="another") == 401
        assert (await site.booking(HERE, booking))["state"] == "booked"
        assert await post(url, notification) == 200
        await site.becomes(HERE, booking, state="cancelled", payment_state="refund_due", his_state="released")

        # A forged one, with the secret: the server says otherwise
        booking = await site.booked(HERE)
        forged = json.dumps(
            {"resourceType": "Appointment", "id": appointment_of(simulator, booking), "status": "cancelled"}
        )
        assert await post(url, forged.encode()) == 200

        # Number 2 is lost; a heartbeat tells of it
        simulator.store.change(appointment_of(simulator, booking), status="arrived")
        assert (await site.booking(HERE, booking))["state"] == "booked"
        assert await post(url, notice("heartbeat", since_start=2)) == 200
        await site.becomes(HERE, booking, state="checked_in")
        assert await site.metric("hisbridge_fhir_notifications_total", result="missed") == 1
        # Every read that a notification led to had a place at the hospital: two that name one, the forged one, a catch-up.
        assert await site.metric("hisbridge_his_calls_total", verb="fetch_changes", outcome="ok") >= 3


async def post(url: str, body: bytes, *, secret: str = SECRET) -> int:
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/fhir+json"}
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as response:
        return response.status
