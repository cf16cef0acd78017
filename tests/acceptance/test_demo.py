"""`hisbridge demo --once`, as a person runs it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from loadtest.demo.walk import STEPS
from tests.acceptance.installation import until

PROGRAM = Path(sys.executable).with_name("hisbridge")
WALK_WITHIN_S = 60.0
"""What the product promises; a machine that runs other things as well gets three times that before the test gives up."""


@asynccontextmanager
async def demo(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command with its output in `stdout`; interrupted at the end if it still runs."""
    assert PROGRAM.exists(), "the package is not installed in this environment"
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    process = await asyncio.create_subprocess_exec(
        str(PROGRAM), "demo", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environment,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            await process.communicate()


async def output(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(3 * WALK_WITHIN_S):
        said, _ = await process.communicate()
    return said.decode()


@pytest.mark.timeout(240)
async def test_walk_is_done_and_ends_well_when_run_once() -> None:
    async with demo("--once", "--port", "0", "--admin-port", "0") as process:
        said = await output(process)
    assert process.returncode == 0, said
    assert "failed" not in said
    last = said[said.rindex("hisbridge: one booking API") :]
    assert all(hospital_id in last for hospital_id in ("hl7-demo", "fhir-demo", "soap-demo"))
    for step in STEPS:
        row = next(line for line in last.splitlines() if line.strip().startswith(f"{step} "))
        assert row.count("✓") == 3, row
    assert last.count("refunded ¥") == 6  # a cancellation and a 停诊 at each
    assert last.count(" 1 long") == 3
    assert last.count(", corrected") == 3
    assert last.count("✓ ¥70.00 of ¥300") == 1  # the hospital whose HIS tells what the insurance pays
    assert last.count("✓ offered, no. ") == last.count("✓ arrived, seen") == 3
    took = re.search(r"The walk took ([\d.]+) s", said)
    assert took is not None
    for expected in ("/docs", "/metrics", "demo-portal-key"):
        assert expected in said
    assert len(re.findall(r"^\s*curl ", said, re.MULTILINE)) == 3


@pytest.mark.parametrize("option", ["--port", "--admin-port"])
async def test_taken_port_is_named_when_another_program_has_it(option: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        free = "--admin-port" if option == "--port" else "--port"
        async with demo("--once", option, port, free, "0") as process:
            said = await output(process)
    assert process.returncode not in (0, None)
    assert f"Port {port} is taken" in said
    assert f"with {option}." in said
    assert "Traceback" not in said


@pytest.mark.timeout(240)
async def test_failed_step_is_named_when_a_hospital_dies_on_the_way() -> None:
    """The SOAP hospital is killed once its first patient is registered: bill, report and so on cannot follow."""
    async with demo("--once", "--port", "0", "--admin-port", "0") as process:

        async def registered() -> int | None:
            for pid in children(process.pid, "loadtest.simulators.soap"):
                for port in listening_ports(pid):
                    visits = await asyncio.to_thread(visits_at, port)
                    if "registered" in visits:
                        return pid
            return None

        reading = asyncio.create_task(output(process))  # so that the pipe never fills
        simulator = await until(registered, lambda pid: pid is not None, what="a registration", within_s=WALK_WITHIN_S)
        assert simulator is not None
        os.kill(simulator, signal.SIGKILL)
        said = await reading
    assert process.returncode == 1, said
    assert re.search(
        r"^failed soap-demo: (registered|bill|医保|report|cancelled|停诊|候补|到诊|books): ", said, re.MULTILINE
    ), said
    assert not re.search(r"^failed (hl7|fhir)-demo", said, re.MULTILINE), said
    assert not any(children(pid, "") for pid in (process.pid,))


@pytest.mark.timeout(240)
async def test_nothing_is_left_running_when_the_demo_is_terminated() -> None:
    async with demo("--port", "0", "--admin-port", "0") as process:

        async def started() -> list[int]:
            return children(process.pid, "-m service")

        reading = asyncio.create_task(output(process))
        await until(started, lambda pids: len(pids) == 1, what="the service of the demo", within_s=WALK_WITHIN_S)
        everybody = children(process.pid, "")
        assert len(everybody) == 4  # three hospitals and the service
        process.send_signal(signal.SIGTERM)
        said = await reading
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert not still_running(everybody)


# --- looking at processes from outside (Linux) ---------------------------------------------------------------------


def still_running(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def children(pid: int, module: str) -> list[int]:
    """The child processes of `pid` whose command names `module`."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if module in command:
                found.append(int(child))
    return found


def listening_ports(pid: int) -> list[int]:
    """The TCP ports that a process listens on, by /proc/net/tcp (state 0A) and the sockets that it has open."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            sockets.add(os.readlink(entry))
        except OSError:
            continue
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return [int(f[1].rpartition(":")[2], 16) for f in fields if f[3] == "0A" and f"socket:[{f[9]}]" in sockets]


def visits_at(port: int) -> set[str]:
    """The states of the visits, if a switchboard answers there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/state", timeout=2) as response:
            return {visit["state"] for visit in json.loads(response.read())["visits"]}
    except (OSError, ValueError, KeyError, urllib.error.URLError):
        return set()
