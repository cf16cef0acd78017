"""What a start loads: the start is imports mostly, and one careless line brings half a second and ten megabytes back."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.acceptance.installation import lay_out
from tests.conftest import ROOT

LOADED = "import sys; print(*sys.modules)"


async def run_python(code: str, *arguments: str) -> list[str]:
    """The words that `code` prints in an interpreter of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    return said.decode().split()


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        (
            "service",
            # Alembic is for databases that lack something, zeep and the FHIR models are loaded by threads, connectors for the
            # hospitals that have them, Typer is the command's, OpenTelemetry is for those who trace, boards are the tools'.
            "opentelemetry google.protobuf alembic mako zeep requests pydantic fhir hl7apy typer"
            " connectors.hl7v2 connectors.fhir connectors.soap monitoring.grafana grafana_foundation_sdk matplotlib",
        ),
        ("connectors.soap", "zeep requests charset_normalizer"),
        ("connectors.fhir", "pydantic fhir"),
        ("cli", "service sqlalchemy aiohttp structlog"),
    ],
)
async def test_module_stays_away_when_the_start_does_not_need_it(module: str, unwanted: str) -> None:
    loaded = await run_python(f"import {module}; {LOADED}")
    assert module in loaded
    assert set(unwanted.split()) & set(loaded) == set()


async def test_alembic_stays_away_when_the_schemas_are_the_programs(tmp_path: Path) -> None:
    code = f"""
import asyncio, service, sys
from booking.store.migrate import SCRIPTS, migrate
async def prepare():
    await migrate(sys.argv[1] + "/store.db", SCRIPTS)
    await migrate(sys.argv[1] + "/messages.db", service.MESSAGE_SCRIPTS, version_table=service.VERSION_TABLE)
asyncio.run(prepare())
{LOADED}
"""
    url = f"sqlite:///{tmp_path}"
    assert "alembic" in await run_python(code, url)  # it had to be made
    assert "alembic" not in await run_python(code, url)


async def test_collector_is_on_when_the_service_runs(tmp_path: Path) -> None:
    """The imports go without it; what runs must not."""
    code = """
import cli, gc, runpy, sys, uvloop
def run(work):
    work.close()
    print(gc.isenabled())
uvloop.run = run
start, config = sys.argv[1:]
sys.argv = ["hisbridge", *(["serve"] if start == "cli" else []), "--config", config]
try:
    cli.main() if start == "cli" else runpy.run_module("service", run_name="__main__")
except SystemExit as e:
    assert e.code == 0, e.code
"""
    async with lay_out(tmp_path) as site:
        assert await run_python(code, "cli", str(site.config)) == ["True"]
        assert await run_python(code, "service", str(site.config)) == ["True"]
