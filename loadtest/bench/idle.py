"""How long the service takes to start, and how much memory it holds when three hospitals are connected and nothing happens."""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from loadtest.bench.processes import accepts
from loadtest.demo.stage import CONFIG, Stage, StageFailed
from loadtest.ports import free_port

QUIET_S = 8.0  # several rounds of the demo's two-second sync
READY_WITHIN_S = 30.0


async def measure_idle(rounds: int, *, quiet_s: float = QUIET_S) -> list[tuple[float, float]]:
    """(seconds from exec to ready, resident megabytes when quiet) of `rounds` fresh installations, hospitals up."""
    stage = Stage()
    try:
        ports = [free_port() for _ in range(2)]
        hl7, fhir, soap = await asyncio.gather(
            stage.simulator("hl7-demo", "hl7", "--push-host", "127.0.0.1", "--push-port", str(ports[0])),
            stage.simulator("fhir-demo", "fhir"),
            stage.simulator("soap-demo", "soap", "--push-host", "127.0.0.1", "--push-port", str(ports[1])),
        )
        found = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(prefix="hisbridge-bench-") as folder:
                port, admin_port = free_port(), free_port()
                config = Path(folder) / "hisbridge.toml"
                config.write_text(
                    CONFIG.format(
                        port=port,
                        admin_port=admin_port,
                        folder=folder,
                        hl7_port=hl7.port,
                        hl7_listen=ports[0],
                        fhir_port=fhir.port,
                        soap_wsdl=soap.wsdl,
                        lis_listen=ports[1],
                    ),
                    encoding="utf-8",
                )
                await _secrets(Path(folder))
                found.append(await _one_round(stage, config, (port, admin_port), quiet_s))
        return found
    finally:
        await stage.close()


async def _secrets(folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", "secrets",
        "--data-key", str(folder / "data.key"), "--digest-key", str(folder / "digest.key"),
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    if await process.wait() != 0:
        raise StageFailed("the secrets could not be made")


async def _one_round(stage: Stage, config: Path, ports: tuple[int, int], quiet_s: float) -> tuple[float, float]:
    began = time.monotonic()
    service = await stage.service(config, config.with_name("service.log"))
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{ports[1]}/readyz") as response:
                    if response.status == 200 and accepts(ports[0]):
                        break
            except aiohttp.ClientConnectionError:
                pass
            if time.monotonic() - began > READY_WITHIN_S or service.returncode is not None:
                raise StageFailed("the service did not become ready")
            await asyncio.sleep(0.01)
        ready_s = time.monotonic() - began
    await asyncio.sleep(quiet_s)
    resident_mb = _resident_mb(service.pid)
    service.terminate()
    await service.wait()
    return ready_s, resident_mb


def _resident_mb(pid: int) -> float:
    """VmRSS of a process and its children (Linux)."""
    total_kb = 0
    for task in [pid, *_children(pid)]:
        for line in Path(f"/proc/{task}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmRSS:"):
                total_kb += int(line.split()[1])
    return total_kb / 1024


def _children(pid: int) -> list[int]:
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except FileNotFoundError:
        return []
    return [int(p) for p in listed]


def report(found: list[tuple[float, float]]) -> tuple[str, list[dict[str, Any]]]:
    """The lines to print, and the rows as data."""
    rows: list[dict[str, Any]] = []
    for name, unit, bar, values in (
        ("start, exec to ready", "s", 3.0, [f[0] for f in found]),
        ("resident, idle, 3 hospitals", "MB", 200.0, [f[1] for f in found]),
    ):
        median = statistics.median(values)
        rows.append(
            {
                "what": name,
                "unit": unit,
                "median": round(median, 2),
                "min": round(min(values), 2),
                "max": round(max(values), 2),
                "rounds": len(values),
                "bar": bar,
                "met": median < bar,
            }
        )
    text = "\n".join(
        f"{r['what']:<30} {r['median']:>8} {r['unit']:<3} (min {r['min']}, max {r['max']}, {r['rounds']} rounds)"
        f"   bar < {r['bar']:g} {r['unit']}   {'met' if r['met'] else 'MISSED'}"
        for r in rows
    )
    return text, rows
