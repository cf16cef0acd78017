"""After the crowd: wait until all is quiet, and ask what became of everything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import aiohttp

from loadtest.peak.scraping import Counts, as_rows
from loadtest.peak.stage import SCALPER, Stage

QUIET_S = 8.0  # more than the time between two measurements of the service
LET_END_S = 45.0  # no call to a simulated HIS takes as long; some HIS are so slow that a fetch is always under way
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # a restart of the database or of a process is over by then
UNREADABLE = "unreadable"  # a state that no booking has: the audit finds it


async def until_quiet(stage: Stage) -> float | None:
    """Wait until no command is left and no HIS is asked, or none has been left for so long that whatever was given up is over.

    How long that took in seconds, None when it never came.

    The service measures its outbox every 5 s, where somebody works the hospital: a process that has just come tells nothing yet.
    """
    began = time.monotonic()
    empty_since_s: float | None = None
    quiet_since_s: float | None = None
    while time.monotonic() - began < stage.profile.drain_s:
        worked = await stage.pages.sum("hisbridge_hospital_worked")
        left = await stage.pages.sum("hisbridge_outbox_depth")
        pulses = (await stage.hospitals.pulse()).values()
        running = sum((one or {"running": 1})["running"] for one in pulses)
        now_s, is_empty = time.monotonic(), worked == len(stage.profile.hospitals) and left == 0 and None not in pulses
        empty_since_s = None if not is_empty else empty_since_s or now_s
        quiet_since_s = None if not is_empty or running else quiet_since_s or now_s
        for since_s, enough_s in ((quiet_since_s, QUIET_S), (empty_since_s, LET_END_S)):
            if since_s is not None and now_s - since_s > enough_s:
                return since_s - began
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
            status, body = await read_patiently(stage.session, url, stage.key())
            if status == 404:
                status, body = await read_patiently(stage.session, url, scalpers)
        return {**booking, "final": final_of(status, body)}

    found = await asyncio.gather(*(look(booking) for booking in kept))
    with (out / "bookings.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(booking, ensure_ascii=False) + "\n" for booking in found)


def final_of(status: int, body: bytes) -> dict[str, Any]:
    """What is kept of a last reading. A body that is no booking is this booking's trouble, and not the run's."""
    if status != 200:
        return {"status": status}
    try:
        found = json.loads(body)
        return {
            "status": status,
            "order_no": found["order_no"],
            "state": found["state"],
            "his_state": found["his_state"],
            "payment_state": found["payment_state"],
            "rejected_code": found.get("reason") if found["state"] == "rejected" else None,
            "refunds": [{"amount_fen": r["amount_fen"], "state": r["status"]} for r in found.get("refunds", [])],
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        return {"status": status, "state": UNREADABLE, "his_state": UNREADABLE, "payment_state": UNREADABLE}


async def read_patiently(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Ask again when told to, as any portal does, and a few times where the service cannot be asked just now.

    The status is 0 where no answer came at all.
    """
    pauses = iter(PAUSES_S)
    while True:
        status, body, told_s = 0, b"", None
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(url, headers=headers) as response:
                body = await response.read()
                status, told_s = response.status, response.headers.get("Retry-After")
        if status == 429 and told_s is not None:
            pause_s: float | None = float(told_s)
        elif status in (0, 429, 503):
            pause_s = next(pauses, None)
        else:
            return status, body
        if pause_s is None:
            return status, body
        await asyncio.sleep(pause_s)
