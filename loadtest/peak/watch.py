"""What is noted every second of a run: seats and calls at the hospitals, CPU and memory of the processes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from loadtest.bench.processes import cpu_s, family
from loadtest.peak.hospitals import Hospitals

PAGE_BYTES = 4096


class Watch:
    """`run` until cancelled; then `series` is what `series.json` holds."""

    def __init__(self, hospitals: Hospitals, *, day: str, started_at: float, service_pid: int, crowd_pid: int) -> None:
        self._hospitals = hospitals
        self._day = day
        self._started_at = started_at
        self._service_pid = service_pid
        self._crowd_pid = crowd_pid
        names = list(hospitals.running)
        self.series: dict[str, Any] = {
            "t_s": [],
            "seats_left": {name: [] for name in names},
            "his_running": {name: [] for name in names},
            "server_cpu_share": [],
            "server_rss_mb": [],
            "generator_cpu_share": [],
        }

    async def run(self) -> None:
        """One row each second from the crowd's start on."""
        await asyncio.sleep(max(0.0, self._started_at - time.time()))
        at, used = time.monotonic(), self._used()
        while True:
            await asyncio.sleep(1.0 - (time.time() - self._started_at) % 1.0)
            pulse = await self._hospitals.pulse(self._day)
            now, now_used = time.monotonic(), self._used()
            self.series["t_s"].append(round(time.time() - self._started_at, 3))
            for name, one in pulse.items():
                self.series["seats_left"][name].append(None if one is None else one["seats_left"])
                self.series["his_running"][name].append(None if one is None else one["running"])
            for key, before, after in zip(("server", "generator"), used, now_used, strict=True):
                share = (after - before) / (now - at)
                self.series[f"{key}_cpu_share"].append(round(share, 3) if share >= 0 else None)
            self.series["server_rss_mb"].append(round(self._rss_mb(), 1))
            at, used = now, now_used

    def _used(self) -> tuple[float, float]:
        return cpu_s(self._service_pid), cpu_s(self._crowd_pid)

    def _rss_mb(self) -> float:
        return sum(_rss_bytes(pid) for pid in family(self._service_pid)) / 1e6


def _rss_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    except OSError:
        return 0
