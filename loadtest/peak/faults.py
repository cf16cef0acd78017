"""Faults on time: what goes wrong at the simulated HIS, and what is done to our own processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from loadtest.bench.postgres import Server
from loadtest.bench.processes import ProcessFailed, family
from loadtest.peak.hospitals import Hospitals
from loadtest.peak.profiles import HisFault, Profile, ServiceFault


@dataclass
class Struck:
    """When a fault really began and ended, in seconds since the epoch; `until` None: it was a moment, or it has not ended."""

    at: float
    until: float | None = None


Strokes = dict[HisFault | ServiceFault, Struck]


async def break_things(
    profile: Profile,
    hospitals: Hospitals,
    service_pid: int,
    database: Server | None,
    opens_at: float,
    struck: Strokes,
) -> None:
    """Do it all at its time, and note in `struck` when that was. Raises ProcessFailed where there is nothing to break."""

    async def begin(fault: HisFault) -> None:
        struck[fault] = Struck(time.time())
        await hospitals.begin(fault)

    async def heal(fault: HisFault) -> None:
        await hospitals.heal(fault)
        struck[fault].until = time.time()

    async def strike(fault: ServiceFault) -> None:
        if fault.action == "restart_database":
            if database is None:
                raise ProcessFailed("there is no database server to restart")
            struck[fault] = Struck(time.time())  # it is stopped at once, and started for seconds
            await database.restart()
        else:
            os.kill(child_of(service_pid, fault.action.removeprefix("kill_")), signal.SIGKILL)
            struck[fault] = Struck(time.time())

    steps: list[tuple[float, Callable[[], Awaitable[None]]]] = []
    for fault in profile.his_faults:
        steps.append((fault.at_s, partial(begin, fault)))
        if fault.until_s is not None:
            steps.append((fault.until_s, partial(heal, fault)))
    for own in profile.service_faults:
        steps.append((own.at_s, partial(strike, own)))
    for at_s, step in sorted(steps, key=lambda s: s[0]):
        await asyncio.sleep(max(0.0, opens_at + at_s - time.time()))
        await step()


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
