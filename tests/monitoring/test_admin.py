"""The admin listener over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from monitoring.admin import build_admin_app
from monitoring.health import Health
from monitoring.metrics import observe_his_call


@pytest.fixture
def health() -> Health:
    return Health(timeout_s=0.05)


@pytest.fixture
async def admin(health: Health) -> AsyncIterator[aiohttp.ClientSession]:
    runner = web.AppRunner(build_admin_app(health))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
        yield session
    await runner.cleanup()


async def test_metrics_are_prometheus_text_when_scraped(admin: aiohttp.ClientSession) -> None:
    observe_his_call("admin-test", "ping", "ok", 0.5)
    async with admin.get("/metrics") as response:
        text = await response.text()
    assert response.status == 200
    assert response.content_type == "text/plain"
    assert 'hisbridge_his_calls_total{hospital="admin-test",outcome="ok",verb="ping"} 1.0' in text


async def test_metrics_are_openmetrics_when_asked_for(admin: aiohttp.ClientSession) -> None:
    async with admin.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}) as response:
        text = await response.text()
    assert response.content_type == "application/openmetrics-text"
    assert text.endswith("# EOF\n")


async def test_process_is_alive_even_when_not_ready(admin: aiohttp.ClientSession, health: Health) -> None:
    health.start_draining()
    async with admin.get("/healthz") as response:
        assert response.status == 200


async def test_process_is_ready_when_every_check_passes(admin: aiohttp.ClientSession, health: Health) -> None:
    async def well() -> None:
        return None

    health.register("store", well)
    async with admin.get("/readyz") as response:
        assert response.status == 200
        assert await response.json() == {"ready": True, "draining": False, "reasons": {}}


async def test_process_is_not_ready_and_says_why_when_checks_fail(admin: aiohttp.ClientSession, health: Health) -> None:
    async def broken() -> str | None:
        return "the schema is older than this program"

    async def hanging() -> str | None:
        await asyncio.sleep(60)
        return None

    async def failing() -> str | None:
        raise OSError("disk of 张三丰")

    health.register("schema", broken)
    health.register("store", hanging)
    health.register("disk", failing)
    async with admin.get("/readyz") as response:
        assert response.status == 503
        body = await response.json()
    assert body["reasons"] == {
        "schema": "the schema is older than this program",
        "store": "no answer in 0.05 s",
        "disk": "the check failed: OSError",
    }


async def test_process_is_not_ready_when_draining(admin: aiohttp.ClientSession, health: Health) -> None:
    health.start_draining()
    async with admin.get("/readyz") as response:
        assert response.status == 503
        body = await response.json()
    assert body["draining"] is True
    assert "draining" in body["reasons"]
