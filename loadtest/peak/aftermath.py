"""After the crowd: wait until all is quiet, and ask what became of everything."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from loadtest.peak.scraping import Counts, as_rows
from loadtest.peak.stage import SCALPER, Stage

QUIET_S = 8.0  # more than the time between two measurements of the service


async def until_quiet(stage: Stage) -> float | None:
    """Wait until no command is left and no HIS is asked; how long that took in seconds, None when it never came.

    The service measures its outbox every 5 s, where somebody works the hospital: a process that has just come tells nothing yet.
    """
    began = time.monotonic()
    quiet_since_s: float | None = None
    while time.monotonic() - began < stage.profile.drain_s:
        worked = await stage.pages.sum("hisbridge_hospital_worked")
        left = await stage.pages.sum("hisbridge_outbox_depth")
        running = sum((one or {"running": 1})["running"] for one in (await stage.hospitals.pulse()).values())
        is_quiet = worked == len(stage.profile.hospitals) and left == 0 and running == 0
        quiet_since_s = None if not is_quiet else quiet_since_s or time.monotonic()
        if quiet_since_s is not None and time.monotonic() - quiet_since_s > QUIET_S:
            return quiet_since_s - began
        await asyncio.sleep(1.0)
    return None


async def first_counts(stage: Stage) -> Counts:
    return {} if stage.prometheus is not None else await stage.pages.counts()


async def server_counts(stage: Stage, began_at: float, before: Counts) -> dict[str, Any]:
    """The server's SLI of this run. Prometheus knows what a killed process had counted, but for its last second."""
    lost = any(fault.action.startswith("kill") for fault in stage.profile.service_faults)
    if stage.prometheus is not None:
        await asyncio.sleep(2.5)  # two more scrapes
        counts, source = await stage.prometheus.counts(began_at), "prometheus"
    else:
        counts, source = await stage.pages.counts(), "metrics"
        for key, count in before.items():
            counts[key] = counts.get(key, 0.0) - count
    return {"source": source if counts else "none", "sli": as_rows(counts), "lost_counts": lost}


async def write_bookings(stage: Stage, out: Path) -> None:
    """What became of every booking that was acknowledged, as its portal sees it."""
    kept = [json.loads(line) for line in (out / "acknowledged.jsonl").read_bytes().splitlines()]
    places = asyncio.Semaphore(16)
    scalpers = stage.key(SCALPER)

    async def look(booking: dict[str, Any]) -> dict[str, Any]:
        url = stage.of(booking["hospital"], f"/bookings/{booking['id']}")
        async with places:
            status, body = await _patiently(stage, url, stage.key())
            if status == 404:
                status, body = await _patiently(stage, url, scalpers)
        final: dict[str, Any] = {"status": status}
        if status == 200:
            final |= {
                "order_no": body["order_no"],
                "state": body["state"],
                "his_state": body["his_state"],
                "payment_state": body["payment_state"],
                "rejected_code": body.get("reason") if body["state"] == "rejected" else None,
                "refunds": [{"amount_fen": r["amount_fen"], "state": r["status"]} for r in body.get("refunds", [])],
            }
        return {**booking, "final": final}

    found = await asyncio.gather(*(look(booking) for booking in kept))
    with (out / "bookings.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(booking, ensure_ascii=False) + "\n" for booking in found)


async def _patiently(stage: Stage, url: str, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """Ask again when told to, as any portal does."""
    while True:
        async with stage.session.get(url, headers=headers) as response:
            if response.status != 429:
                return response.status, await response.json()
            wait_s = float(response.headers["Retry-After"])
        await asyncio.sleep(wait_s)
