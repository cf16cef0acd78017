"""The simulated hospitals of a load test: their processes, their switchboards, their books."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from loadtest.bench.processes import end, first_line, start
from loadtest.peak.profiles import HisFault, HospitalSize, Profile
from loadtest.peak.settings import DAYS_AHEAD, HIS_LOCK_S

AT_ONCE_S = 0.5  # in which a switchboard has to answer


@dataclass(frozen=True)
class Simulated:
    """One that runs."""

    size: HospitalSize
    port: int
    control: str
    wsdl: str


class Hospitals:
    """All of a profile's. `close` ends them."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._processes: list[asyncio.subprocess.Process] = []
        self.running: dict[str, Simulated] = {}

    async def open(self, profile: Profile, inbound: dict[str, int], zone: str) -> None:
        """Start them side by side. Raises ProcessFailed."""
        starting = [self._start(profile, size, inbound, zone) for size in profile.hospitals]
        # All of them, also when one fails: what is still being started then would be nobody's to end.
        for started in await asyncio.gather(*starting, return_exceptions=True):
            if isinstance(started, BaseException):
                raise started
            self.running[started.size.id] = started

    async def close(self) -> None:
        await asyncio.gather(*(end(process) for process in self._processes))

    async def _start(self, profile: Profile, size: HospitalSize, inbound: dict[str, int], zone: str) -> Simulated:
        own = ["--push-port", str(inbound[size.id])] if size.id in inbound else []
        if size.protocol == "soap":  # the others keep a seat until it is given back
            own += ["--lock-s", str(HIS_LOCK_S)]
        process = await start(
            "-m", f"loadtest.simulators.{'hl7' if size.protocol == 'hl7' else size.protocol}", "--days", str(DAYS_AHEAD),
            "--seats", str(size.seats), "--doctors", str(size.doctors), "--departments", str(size.departments),
            "--people", str(profile.people), "--zone", zone, "--latency-ms", str(size.latency_ms), *own, cores=(),
        )  # fmt: skip
        self._processes.append(process)
        ready = json.loads(await first_line(process, f"the simulator of {size.id}"))
        control = f"http://127.0.0.1:{ready['control_port']}"
        return Simulated(size, ready["port"], control, ready.get("wsdl", ""))

    def _of(self, fault: HisFault) -> list[Simulated]:
        return [s for s in self.running.values() if fault.hospital in (None, s.size.id)]

    async def begin(self, fault: HisFault) -> None:
        """From now on it happens."""
        body = {"op": fault.op, "mode": fault.mode, "share": fault.share, "delay_s": fault.delay_s}
        for simulated in self._of(fault):
            async with self._session.post(f"{simulated.control}/faults", json=body) as response:
                response.raise_for_status()

    async def heal(self, fault: HisFault) -> None:
        """Nothing goes wrong any more at these hospitals."""
        for simulated in self._of(fault):
            async with self._session.delete(f"{simulated.control}/faults") as response:
                response.raise_for_status()

    async def pulse(self, day: str = "") -> dict[str, dict[str, int] | None]:
        """{running, most_at_once, seats_left on that day} of each; None where it does not answer at once."""
        names = list(self.running)
        found = await asyncio.gather(*(self._pulse(self.running[name], day) for name in names))
        return dict(zip(names, found, strict=True))

    async def _pulse(self, simulated: Simulated, day: str) -> dict[str, int] | None:
        try:
            url, query = f"{simulated.control}/pulse", {"day": day}
            async with asyncio.timeout(AT_ONCE_S), self._session.get(url, params=query) as response:
                found: dict[str, int] = await response.json()
                return found
        except (TimeoutError, aiohttp.ClientError):
            return None

    async def books(self) -> dict[str, Any]:
        """What an audit reads, by hospital."""
        found = {}
        for name, simulated in self.running.items():
            async with self._session.get(f"{simulated.control}/books") as response:
                found[name] = {**await response.json(), "allowed_at_once": simulated.size.at_once}
        return found
