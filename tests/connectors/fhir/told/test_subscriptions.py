"""Subscriptions that we ask for: once, again when they are down, and what was not told meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.subscription import Subscription

from connectors.config import HospitalContext
from connectors.fhir import FhirConnector, Options, create
from connectors.fhir.subscriptions import compile_subscriptions
from connectors.port import Gate
from loadtest.ports import free_port
from loadtest.simulators import fhir
from mappings.context import MapContext
from mappings.profile import load_profile
from monitoring.metrics import REGISTRY
from tests.acceptance.installation import until
from tests.connectors.fhir.fhir_hospital import HOSPITAL, booked_order, connected
from tests.connectors.fhir.spoken import PROFILES
from tests.connectors.fhir.told.desk import Desk

SECRET = "told-to-the-server"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.fhir.subscriptions.FIRST_S", 0.0)


@contextlib.asynccontextmanager
async def subscribed(
    folder: Path, simulator: fhir.FhirSimulator, name: str, port: int, desk: Desk, gate: Gate | None = None
) -> AsyncIterator[FhirConnector]:
    (folder / "notify").write_text(SECRET)
    async with connected(
        simulator.base_url,
        listen_port=port,
        public_url=f"http://127.0.0.1:{port}/told",
        notify_secret_file=str(folder / "notify"),
        subscribe=[name],
        subscriptions_every_s=0.1,
        profile="demo_r5@1" if name == "topic" else "fhir_demo@1",
        profiles_dir=PROFILES,
    ) as connector:
        if gate is not None:
            connector.ask_through(gate)
        await connector.serve(desk.handle)
        yield connector


@contextlib.asynccontextmanager
async def server(release: str = "R4") -> AsyncIterator[fhir.FhirSimulator]:
    simulator = await fhir.start(days=1, seats=2, release=release)
    try:
        yield simulator
    finally:
        await simulator.close()


def active(name: str) -> float | None:
    labels = {"hospital": HOSPITAL.id, "connector": "his", "subscription": name}
    return REGISTRY.get_sample_value("hisbridge_fhir_subscription_active", labels)


async def becomes_active(name: str, value: float = 1.0) -> None:
    async def look() -> float | None:
        return active(name)

    await until(look, lambda seen: seen == value, what="the subscription")


@pytest.mark.parametrize(("name", "release"), [("rest_hook", "R4"), ("backport", "R4"), ("topic", "R5")])
async def test_server_tells_us_when_it_was_asked_to(name: str, release: str, tmp_path: Path) -> None:
    port, desk = free_port(), Desk()
    async with server(release) as simulator, subscribed(tmp_path, simulator, name, port, desk) as connector:
        await becomes_active(name)
        order = await booked_order(connector)
        simulator.store.change(order.his_refs["appointment"], status="cancelled")
        assert await simulator.subscriptions.tell(f"Appointment/{order.his_refs['appointment']}") == [200]
        assert desk.statuses[-1] == "released"


async def test_subscription_that_is_there_is_taken_over_after_a_restart(tmp_path: Path) -> None:
    port = free_port()
    async with server() as simulator:
        for _ in range(2):
            async with subscribed(tmp_path, simulator, "backport", port, Desk()):
                await becomes_active("backport")
        assert simulator.subscriptions.asked == ["POST"]


@pytest.mark.parametrize("status", ["error", "off"])
async def test_subscription_is_asked_for_again_and_caught_up_with_when_it_was_down(status: str, tmp_path: Path) -> None:
    port, desk = free_port(), Desk()
    async with server() as simulator, subscribed(tmp_path, simulator, "backport", port, desk) as connector:
        await becomes_active("backport")
        order = await booked_order(connector)
        await connector.fetch_changes()
        simulator.subscriptions.kept["sub1"]["status"] = status
        simulator.store.change(order.his_refs["appointment"], status="cancelled")  # told to nobody

        async def look() -> list[str]:
            return desk.statuses

        await until(look, lambda seen: seen[-1:] == ["released"], what="the catch-up")
        assert simulator.subscriptions.asked == ["POST", "PUT"]
        assert simulator.subscriptions.kept["sub1"]["status"] == "active"
        await becomes_active("backport")


async def test_subscription_is_asked_for_anew_when_the_server_has_dropped_it(tmp_path: Path) -> None:
    port = free_port()
    async with server() as simulator, subscribed(tmp_path, simulator, "backport", port, Desk()):
        await becomes_active("backport")
        simulator.subscriptions.kept.clear()

        async def look() -> list[str]:
            return list(simulator.subscriptions.kept)

        await until(look, lambda seen: seen == ["sub2"], what="a new one")


async def test_gauge_says_so_when_the_server_takes_no_subscriptions(tmp_path: Path) -> None:
    port = free_port()
    async with server() as simulator:
        await simulator.close()
        async with subscribed(tmp_path, simulator, "backport", port, Desk()):
            await asyncio.sleep(0.3)
            assert active("backport") == 0


async def test_server_is_asked_for_nothing_when_the_hospital_is_only_observed(tmp_path: Path) -> None:
    """The listener is there: whoever made a Subscription by hand is heard. No gauge, and so no alert, says that one is down."""
    (tmp_path / "notify").write_text(SECRET)
    observed = HospitalContext(id="fhir-observed", zone=HOSPITAL.zone, writes=False)
    port = free_port()
    given: dict[str, Any] = {"listen_port": port, "notify_secret_file": str(tmp_path / "notify"), "hospital": observed}
    given |= {"subscribe": ["backport"], "public_url": f"http://127.0.0.1:{port}/told", "subscriptions_every_s": 0.01}
    async with server() as simulator, connected(simulator.base_url, **given) as connector:
        await connector.serve(Desk().handle)
        assert connector.listen_port == port
        await asyncio.sleep(0.1)
        assert simulator.subscriptions.asked == []
        assert REGISTRY.get_sample_value("hisbridge_fhir_subscription_active", {
            "hospital": observed.id, "connector": "his", "subscription": "backport"
        }) is None  # fmt: skip


async def test_subscription_is_looked_after_through_the_gate(tmp_path: Path) -> None:
    """What a look leads to, the catch-up, has a place of its own: within the first it would wait for itself."""
    inside, calls = 0, list[str]()

    async def gate(what: str, call: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal inside
        assert inside == 0
        inside += 1
        calls.append(what)
        try:
            return await call()
        finally:
            inside -= 1

    port, desk = free_port(), Desk()
    async with server() as simulator, subscribed(tmp_path, simulator, "backport", port, desk, gate) as connector:

        async def look() -> list[str]:
            return calls

        await until(look, lambda seen: "fetch_changes" in seen, what="the catch-up")
        assert calls[0] == "subscriptions"
        assert active("backport") == 1
        assert connector.listen_port == port


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"subscribe": ["backport"]}, "needs listen_port"),
        ({"subscribe": ["backport"], "listen_port": 0, "notify_secret_env": "HOME"}, "needs public_url"),
        (
            {"subscribe": ["nonsense"], "listen_port": 0, "notify_secret_env": "HOME"},
            "no subscription 'nonsense', but: backport, rest_hook",
        ),
        (
            {"subscribe": ["backport"], "listen_port": 0, "notify_secret_env": "HOME", "profile": "fhir_r5@1"},
            "no subscription 'backport', but: topic",
        ),
    ],
)
def test_settings_are_refused_when_nothing_could_be_told(given: dict[str, Any], why: str) -> None:
    options = {"protocol": "fhir", "profile": "fhir_r4@1", "base_url": "http://h/f"} | given
    with pytest.raises(ValueError, match=why):
        create(HOSPITAL, "his", Options(**options))


def test_r5_subscription_is_as_the_standard_has_it() -> None:
    """R5 subscription.html: topic 1..1, channelType 1..1, a parameter for each header."""
    profile = load_profile("fhir_r5@1")
    (tree,) = compile_subscriptions(profile, profile.connection, ["topic"]).values()
    names = {"push.url": "https://us.example/told", "push.authorization": f"Bearer {SECRET}"}
    now = dt.datetime.now(dt.UTC)
    context = MapContext(
        hospital_id="h", zone=HOSPITAL.zone, currency="CNY", now=now, connection=profile.connection, extra=names
    )
    read = Subscription.model_validate(tree.write({}, context))
    assert (read.endpoint, read.content) == ("https://us.example/told", "id-only")
    assert [(one.name, one.value) for one in read.parameter or ()] == [("Authorization", f"Bearer {SECRET}")]
