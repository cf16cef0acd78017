"""What `monitoring/compose` brings works: read by the tools, and by a real Prometheus that scrapes a running installation."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from loadtest.ports import free_port
from monitoring.rules import EVERY_LONG
from tests.acceptance.installation import HOSPITALS, run_process, until
from tests.acceptance.processes import laid_out
from tests.monitoring.promtool import ROOT, RULE_FILES, alerts_of, groups_of, run, tool
from tests.postgres import PostgresServer

COMPOSE = ROOT / "monitoring" / "compose"
PROMETHEUS = COMPOSE / "prometheus.yml"


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_configurations_are_what_prometheus_and_alertmanager_read() -> None:
    for content, told in (
        run("promtool", "check", "config", PROMETHEUS),
        run("amtool", "check-config", COMPOSE / "alertmanager.yml"),
    ):
        assert content, told


def test_every_file_that_a_container_is_given_is_there() -> None:
    services = loaded(COMPOSE / "docker-compose.yaml")["services"]
    assert set(services) == {"prometheus", "alertmanager", "grafana"}
    given = [v.split(":") for s in services.values() for v in s["volumes"]]
    for source, *_ in given:
        # The dashboards are made by the program of their own; the folder may still be empty.
        if source.startswith(".") and "dashboards" not in source:
            assert (COMPOSE / source).exists(), source
    # The rules are found by the paths of prometheus.yml inside the container as well.
    at = {target: (COMPOSE / source).resolve() for source, target, *_ in given if source.startswith(".")}
    config = Path("/etc/hisbridge/compose/prometheus.yml")
    assert at[str(config)] == PROMETHEUS
    for pattern in loaded(PROMETHEUS)["rule_files"]:
        folder = (config.parent / pattern).parent.resolve()
        assert list(at[str(folder)].glob(Path(pattern).name)), pattern


def test_dashboards_and_data_source_are_provisioned_by_files() -> None:
    provisioning = COMPOSE / "grafana" / "provisioning"
    (source,) = loaded(provisioning / "datasources" / "prometheus.yaml")["datasources"]
    (provider,) = loaded(provisioning / "dashboards" / "hisbridge.yaml")["providers"]
    assert (source["type"], source["uid"], source["isDefault"]) == ("prometheus", "prometheus", True)
    volumes = loaded(COMPOSE / "docker-compose.yaml")["services"]["grafana"]["volumes"]
    assert f"../grafana/dashboards:{provider['options']['path']}:ro" in volumes
    assert "./grafana/provisioning:/etc/grafana/provisioning:ro" in volumes


def alertmanager() -> Any:
    return loaded(COMPOSE / "alertmanager.yml")


@pytest.mark.parametrize(("severity", "receiver"), [("page", "pages"), ("ticket", "tickets")])
def test_alert_goes_to_the_receiver_of_its_severity(severity: str, receiver: str) -> None:
    content, told = run(
        "amtool", "config", "routes", "test", f"--config.file={COMPOSE / 'alertmanager.yml'}",
        f"--verify.receivers={receiver}", f"severity={severity}", "alertname=HisbridgeConnectorDown", "hospital=h1",
    )  # fmt: skip
    assert content, told


def test_alerts_that_the_routes_and_inhibitions_name_exist() -> None:
    known = {rule["alert"] for rule in alerts_of(*RULE_FILES)}
    named = set(re.findall(r"Hisbridge\w+", (COMPOSE / "alertmanager.yml").read_text(encoding="utf-8")))
    assert named
    assert named <= known
    assert "hospital" in alertmanager()["route"]["group_by"]


# --- a real Prometheus ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def prometheus(folder: Path, admin: str) -> AsyncIterator[str]:
    """A Prometheus with the committed configuration, scraping the admin listener at `admin`; its URL."""
    text = PROMETHEUS.read_text(encoding="utf-8").replace("127.0.0.1:8081", admin)
    port = free_port()
    compose = folder / "compose"
    compose.mkdir()
    for file in RULE_FILES:
        copied = folder / file.parent.name / file.name
        copied.parent.mkdir()
        slow = f"interval: {EVERY_LONG}\n"  # a test does not wait for those
        copied.write_text(file.read_text(encoding="utf-8").replace(slow, "interval: 10s\n"), encoding="utf-8")
    for was, now in (("scrape_interval: 5s", "1s"), ("scrape_timeout: 4s", "1s"), ("refresh_interval: 10s", "1s")):
        assert was in text
        text = text.replace(was, f"{was.partition(':')[0]}: {now}")
    (compose / "prometheus.yml").write_text(text, encoding="utf-8")
    log = (folder / "prometheus.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        tool("prometheus"), f"--config.file={compose / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage", stdout=log, stderr=log,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()
        log.close()


@pytest.mark.timeout(400)
async def test_real_prometheus_finds_every_process_and_evaluates_every_rule(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with laid_out(tmp_path, postgres_server) as site, run_process(site):
        admin = site.admin_url.removeprefix("http://")
        (tmp_path / "watch").mkdir()
        async with prometheus(tmp_path / "watch", admin) as url, aiohttp.ClientSession() as session:

            async def ask(path: str, **query: str) -> Any:
                try:
                    async with session.get(f"{url}/api/v1/{path}", params=query) as response:
                        # It answers in words of its own until it is ready.
                        return json.loads(await response.read())["data"] if response.status == 200 else None
                except aiohttp.ClientConnectionError:
                    return None

            async def targets() -> list[tuple[str, str]]:
                found = await ask("targets")
                return sorted((t["labels"]["job"], t["health"]) for t in found["activeTargets"]) if found else []

            # The parent by its address, two API processes and the one that works hospitals by discovery.
            everyone = [("hisbridge", "up")] * 3 + [("hisbridge-parent", "up")]
            await until(targets, lambda found: found == everyone, what="every target up", within_s=60)

            async def unwell() -> list[str]:
                found = await ask("rules")
                assert found is not None
                rules = [rule for group in found["groups"] for rule in group["rules"]]
                assert len(rules) == sum(len(group["rules"]) for group in groups_of(*RULE_FILES))
                return [f"{r['name']}: {r['health']} {r.get('lastError', '')}" for r in rules if r["health"] != "ok"]

            # Every group has had its turn.
            await until(unwell, lambda found: not found, what="every rule evaluated", within_s=200)

            async def worked() -> dict[str, str]:
                found = await ask("query", query="sum by (hospital) (hisbridge_hospital_worked)")
                return {r["metric"]["hospital"]: r["value"][1] for r in found["result"]}

            assert await worked() == dict.fromkeys(HOSPITALS, "1")
            firing = [a["labels"]["alertname"] for a in (await ask("alerts"))["alerts"] if a["state"] == "firing"]
            assert firing == []
            told = {r["metric"]["__name__"] for r in (await ask("query", query='{__name__=~"hisbridge_.*"}'))["result"]}
            assert {"hisbridge_paid_unregistered", "hisbridge_seats_drift", "hisbridge_his_unknown"} <= told


# --- a real Alertmanager -------------------------------------------------------------------------------------------

PAGE, TICKET = {"severity": "page"}, {"severity": "ticket"}
RAISED = [
    {"alertname": "HisbridgeConnectorDown", "hospital": "h1", **PAGE},
    {"alertname": "HisbridgeSyncStale", "hospital": "h1", **TICKET},
    {"alertname": "HisbridgeSyncStale", "hospital": "h2", **TICKET},
    {"alertname": "HisbridgePaidNotRegistered", "hospital": "h1", **PAGE},
    {"alertname": "HisbridgeAvailabilityBurn", **PAGE},
    {"alertname": "HisbridgeAvailabilityBurn", **TICKET},
    {"alertname": "HisbridgeHoldLatencyBurn", **TICKET},
]
SILENT = [RAISED[1], RAISED[5]]
"""The hospital's connection is down, so that its old schedules need no ticket; a page of a budget needs none beside it."""


@asynccontextmanager
async def alertmanager_running(folder: Path) -> AsyncIterator[str]:
    """An Alertmanager with the committed configuration, whose placeholders reach nobody; its URL."""
    port = free_port()
    with (folder / "alertmanager.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            tool("prometheus-alertmanager"), f"--config.file={COMPOSE / 'alertmanager.yml'}",
            f"--storage.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            yield f"http://127.0.0.1:{port}/api/v2"
        finally:
            process.terminate()
            await process.wait()


async def test_real_alertmanager_silences_only_what_another_alert_says(tmp_path: Path) -> None:
    async with alertmanager_running(tmp_path) as url, aiohttp.ClientSession() as session:

        async def raised() -> bool:
            try:
                async with session.post(f"{url}/alerts", json=[{"labels": one} for one in RAISED]) as response:
                    return response.status == 200
            except aiohttp.ClientConnectionError:
                return False

        async def told() -> list[tuple[dict[str, str], list[str], bool]]:
            async with session.get(f"{url}/alerts") as response:
                found = await response.json()
            return [(a["labels"], [r["name"] for r in a["receivers"]], bool(a["status"]["inhibitedBy"])) for a in found]

        await until(raised, bool, what="Alertmanager", within_s=60)

        # It judges an alert a moment after it has come.
        def is_settled(found: list[tuple[dict[str, str], list[str], bool]]) -> bool:
            return sum(silent for _, _, silent in found) == len(SILENT)

        found = await until(told, is_settled, what="the silent ones", within_s=60)
    assert len(found) == len(RAISED)
    assert all((labels in SILENT) == silent for labels, _, silent in found)
    assert {(labels["severity"], *receivers) for labels, receivers, _ in found} == {
        ("page", "pages"),
        ("ticket", "tickets"),
    }
