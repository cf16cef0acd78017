"""Faults on time: what goes wrong at the simulated HIS, and what is done to our own processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from loadtest.bench.postgres import Server
from loadtest.bench.processes import ProcessFailed, family
from loadtest.peak.hospitals import Hospitals
from loadtest.peak.profiles import Profile, ServiceFault


async def break_things(
    profile: Profile, hospitals: Hospitals, service_pid: int, database: Server | None, opens_at: float
) -> None:
    """Do it all at its time. Raises ProcessFailed where there is nothing to break."""
    steps: list[tuple[float, Callable[[], Awaitable[None]]]] = []
    for fault in profile.his_faults:
        steps.append((fault.at_s, partial(hospitals.begin, fault)))
        if fault.until_s is not None:
            steps.append((fault.until_s, partial(hospitals.heal, fault)))
    for own in profile.service_faults:
        steps.append((own.at_s, partial(_strike, own, service_pid, database)))
    for at_s, step in sorted(steps, key=lambda s: s[0]):
        await asyncio.sleep(max(0.0, opens_at + at_s - time.time()))
        await step()


async def _strike(fault: ServiceFault, service_pid: int, database: Server | None) -> None:
    if fault.action == "restart_database":
        if database is None:
            raise ProcessFailed("there is no database server to restart")
        await database.restart()
        return
    role = fault.action.removeprefix("kill_")
    os.kill(child_of(service_pid, role), signal.SIGKILL)


def child_of(pid: int, role: str) -> int:
    """A process of the service in this role (`api`, `sync`). Raises ProcessFailed where there is none."""
    for member in family(pid)[1:]:
        try:
            words = Path(f"/proc/{member}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--role" in words and words[words.index(b"--role") + 1] == role.encode():
            return member
    raise ProcessFailed(f"the service has no {role} process to kill")
