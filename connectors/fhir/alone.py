"""What a sync of many Slots costs, without a store (`make bench` calls it).

python -m connectors.fhir.alone --base-url http://127.0.0.1:8080/fhir --profile fhir_r4@1 --from 2026-01-05 --days 60

Prints one line of JSON: {"slots", "seconds", "cpu_s", "turns", "longest_ms", "quiet_ms", "rss_mb", "helper_rss_mb"}. CPU and
`helper_rss_mb` are those of the process that sifts the pages, too. `rss_mb` is this process's peak, after the start as well.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import gc
import resource
import sys
import time
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from connectors.config import HospitalContext
from connectors.fhir import Options, create
from connectors.port import FetchesInventory, Window
from monitoring import garbage

TURN_S = 0.001
QUIET_S = 0.3
SWITCH_S = 0.0005  # service.py
WITHIN_S = 600.0


async def sync(base_url: str, profile: str, window: Window) -> dict[str, float]:
    """Fetch what can be booked in a window once, as a pull does, strictly checked, and watch how late the loop is meanwhile.

    The loop asks to be woken every millisecond; what it is late beyond that, it was held up. `quiet_ms` is the same before,
    while nothing was done: how much of it is the machine's.
    """
    hospital = HospitalContext(id="bench", zone=ZoneInfo("Asia/Shanghai"))
    given: dict[str, Any] = {"timeout_s": {"fetch_slots": WITHIN_S}, "validation": "strict", "max_pages": 100_000}
    connector = create(hospital, "his", Options(protocol="fhir", profile=profile, base_url=base_url, **given))
    if not isinstance(connector, FetchesInventory):
        raise TypeError(f"{profile} does not tell schedules, slots and stops in one")
    await connector.start()
    try:
        await connector.ping()
        _, quiet_s = await _latest(asyncio.create_task(asyncio.sleep(QUIET_S)))
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        fetching = asyncio.ensure_future(connector.fetch_inventory(window))
        turns, longest_s = await _latest(fetching)
        found = await fetching
        took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    finally:
        await connector.close()
    helper = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "slots": sum(slot.seats_left for slot in found.slots),
        "seconds": took_s,
        "cpu_s": cpu_s + helper.ru_utime + helper.ru_stime,
        "turns": turns,
        "longest_ms": longest_s * 1000,
        "quiet_ms": quiet_s * 1000,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "helper_rss_mb": helper.ru_maxrss / 1024,
    }


async def _latest(task: asyncio.Future[Any]) -> tuple[int, float]:
    """How often the loop turned until a task was done, and how late it was at the latest (s)."""
    turns, longest_s, before_s = 0, 0.0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(TURN_S)
        now_s = time.perf_counter()
        turns, longest_s, before_s = turns + 1, max(longest_s, now_s - before_s - TURN_S), now_s
    return turns, longest_s


def _as_the_service_does() -> None:
    """What is set at the start of a service's process, because a loop shares the interpreter with threads."""
    gc.freeze()
    garbage.take_over()
    sys.setswitchinterval(SWITCH_S)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m connectors.fhir.alone", description="A sync without a store.")
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--from", dest="date_from", required=True, type=dt.date.fromisoformat)
    parser.add_argument("--days", type=int, required=True)
    arguments = parser.parse_args()
    last = arguments.date_from + dt.timedelta(days=arguments.days - 1)
    _as_the_service_does()
    work = sync(arguments.base_url, arguments.profile, Window(date_from=arguments.date_from, date_to=last))
    if sys.platform == "win32":
        found = asyncio.run(work)
    else:
        import uvloop

        found = uvloop.run(work)
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
