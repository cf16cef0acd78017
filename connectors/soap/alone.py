"""What SOAP costs without a hospital: reading a reply, and the loop while a WSDL is read (`make bench` calls it).

python -m connectors.soap.alone reply --profile dhc@1 --verb fetch_schedules --file reply.xml --seconds 5
python -m connectors.soap.alone wsdl --file his.wsdl

Each prints one line of JSON: {"replies", "records", "seconds", "cpu_s"}, or {"operations", "turns", "longest_ms", "quiet_ms"}.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import gc
import sys
import time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
import msgspec

from connectors.soap.trial import InventedKeys, Trial
from connectors.soap.wsdl import load_service
from mappings.context import MapContext
from mappings.profile import load_profile
from monitoring import garbage

TURN_S = 0.001
QUIET_S = 0.3
SWITCH_S = 0.0005  # service.py


def read_replies(profile: str, verb: str, body: bytes, seconds: float) -> dict[str, float]:
    """Read the bytes of one reply to canonical records, again and again. Raises ValueError where they are no answer.

    `records` are those of one reply. What is read first, and compiles, is not counted.
    """
    trial = Trial(load_profile(profile), {}, InventedKeys())
    place = trial.places(verb)[0]
    zone = ZoneInfo("Asia/Shanghai")
    ctx = MapContext(
        hospital_id="bench", zone=zone, currency="CNY", now=dt.datetime.now(zone), connection=trial.settings
    )

    def records() -> int:
        reading = trial.read(body, place, None, ctx)
        if reading.root is None or reading.refusal is not None or place.case.reply is None:
            raise ValueError(f"{verb}: the reply is not one that says done: {reading.why or reading.refusal}")
        mapped = place.case.reply.read(reading.root, ctx)
        if mapped.problems:
            raise ValueError(f"{verb}: {mapped.problems[0]}")
        return len(mapped.records)

    of_one, replies = records(), 0
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    while time.perf_counter() - began_s < seconds or not replies:
        records()
        replies += 1
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    return {"replies": replies, "records": of_one, "seconds": took_s, "cpu_s": cpu_s}


async def watch_loop(wsdl: str) -> dict[str, float]:
    """How late the loop was at the latest while a WSDL was read, zeep's import and all, as at a service's start.

    The loop asks to be woken every millisecond; what it is late beyond that, it was held up. `quiet_ms` is the same before,
    while nothing was done: how much of it is the machine's.
    """
    async with aiohttp.ClientSession() as session:
        _, quiet_s = await _latest(asyncio.create_task(asyncio.sleep(QUIET_S)))
        loading = asyncio.create_task(load_service(wsdl, session))
        turns, longest_s = await _latest(loading)
        service, _ = await loading
    return {
        "operations": len(service.typed),
        "turns": turns,
        "longest_ms": longest_s * 1000,
        "quiet_ms": quiet_s * 1000,
    }


async def _latest(task: asyncio.Task[Any]) -> tuple[int, float]:
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
    parser = argparse.ArgumentParser(prog="python -m connectors.soap.alone", description="SOAP without a hospital.")
    ways = parser.add_subparsers(dest="way", required=True)
    reply = ways.add_parser("reply", help="read a reply to records, again and again")
    reply.add_argument("--profile", required=True)
    reply.add_argument("--verb", required=True)
    reply.add_argument("--file", required=True, type=Path)
    reply.add_argument("--seconds", type=float, default=5.0)
    ways.add_parser("wsdl", help="watch the loop while a WSDL is read").add_argument("--file", required=True)
    arguments = parser.parse_args()
    if arguments.way == "reply":
        found = read_replies(arguments.profile, arguments.verb, arguments.file.read_bytes(), arguments.seconds)
    else:
        _as_the_service_does()
        if sys.platform == "win32":
            found = asyncio.run(watch_loop(arguments.file))
        else:
            import uvloop

            found = uvloop.run(watch_loop(arguments.file))
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
