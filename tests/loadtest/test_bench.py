"""`python -m loadtest.bench --short`, as CI runs it: every kind of row goes through, with nothing judged and nothing kept."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.bench.__main__ import PAGE, RESULTS

WITHIN_S = 280.0  # a dozen fresh processes on a machine that does other things as well


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "names",
    [
        ("get", "sold-out", "post-sqlite-64"),
        ("in-siu-1",),
        ("in-adt-16", "in-oru-16"),
        ("delay",),
        ("soap", "wsdl"),
        ("fhir-slots",),
        ("fhir-get", "fhir-book"),
        ("post-pg-64", "engine"),
        ("join-sqlite", "join-pg"),
        ("scale-get-sqlite", "scale-post-sqlite"),
        ("least",),
        ("floor-oru",),
    ],
    ids=lambda names: names[0],
)
async def test_rows_are_measured_without_a_problem_when_short(names: tuple[str, ...], tmp_path: Path) -> None:
    kept = [PAGE.read_bytes(), RESULTS.read_bytes() if RESULTS.exists() else b""]
    file = tmp_path / "results.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.bench", "--short", "--rows", ",".join(names), "--json", str(file),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(WITHIN_S):
        said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    found = json.loads(file.read_text(encoding="utf-8"))
    assert {row["key"] for row in found["rows"]} == rows_of(names)
    for row in found["rows"]:
        assert row["problems"] == []
        assert row["ours"]["count"] > 0
        assert row["baseline"]["count"] > 0
        assert row["ours"]["cpu_us"]["median"] > 0
    for limit in found["idle"]:
        assert limit["problems"] == []
    assert len(found["idle"]) == {"delay": 3, "soap": 1, "fhir-slots": 2}.get(names[0], 0)
    assert [PAGE.read_bytes(), RESULTS.read_bytes() if RESULTS.exists() else b""] == kept


def rows_of(names: tuple[str, ...]) -> set[str]:
    """The rows that are measured for these names: a message has four baselines."""
    if names == ("least",):
        return {"least-sqlite", "least-pg", "least-siu"}
    if names == ("soap", "wsdl"):
        return {"soap-reply", "soap-reply-lxml"}
    if names == ("fhir-slots",):
        return {"fhir-slots", "fhir-slots-models"}
    beside = ("", "-hl7", "-hl7-server", "-hl7apy-server")
    return {f"{n}{b}" for n in names if n != "delay" for b in (beside if n.startswith(("in-", "floor-")) else ("",))}


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder for temporary files into which PostgreSQL's user can go as well."""
    folder = Path(tempfile.mkdtemp(prefix="hisbridge-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def postmaster(folder: Path) -> str | None:
    """The process id of the database server that runs below a folder."""
    for file in folder.glob("hisbridge-bench-pg-*/data/postmaster.pid"):
        return file.read_text(encoding="ascii").partition("\n")[0] or None
    return None


@pytest.mark.timeout(120)
async def test_nothing_is_left_when_a_run_is_terminated(reachable: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.bench", "--short", "--rows", "engine",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env={**os.environ, "TMPDIR": str(reachable)},
    )  # fmt: skip
    while (server := postmaster(reachable)) is None:
        assert process.returncode is None
        await asyncio.sleep(0.05)
    process.terminate()
    await process.communicate()
    assert process.returncode == 130
    assert os.listdir(reachable) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(server), 0)


async def test_a_row_that_is_not_there_is_named_when_asked_for() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.bench", "--rows", "gett",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said = (await process.communicate())[0].decode()
    assert process.returncode == 2
    assert "no such row: gett" in said
