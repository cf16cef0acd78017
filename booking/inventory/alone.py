"""The engine alone, without HTTP: how many holds of one hot slot a second (`make bench` calls it).

python -m booking.inventory.alone --url postgresql://... --hospital h1 --slot sl_... --concurrency 256 --seconds 5

Books for the patients of the client `--client` in turn, each for itself, and prints one line of JSON. The keys are made up: the
store must be one that nobody else uses.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import resource
import sys
import time

import msgspec
from sqlalchemy import select

from booking.api.holding import renderer
from booking.errors import Refusal
from booking.inventory.requests import HoldRequest, Terms
from booking.inventory.writer import HoldWriter
from booking.settings import Hospital, Mode
from booking.store.crypto import Vault
from booking.store.engine import Store
from booking.store.tables import patients


def terms(hospital: Hospital, now_ms: int) -> Terms:
    """Everything is on sale."""
    return Terms(mode=hospital.mode.value, offered=True)


async def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Hold until the time is over or the patients are."""
    store = Store(arguments.url, Vault({"bench": os.urandom(32)}, os.urandom(32)))
    hospital = Hospital(id=arguments.hospital, name=arguments.hospital, mode=Mode.LIVE)
    async with store.read(hospital.id) as tx:
        of = select(patients.c.id).where(
            patients.c.hospital_id == hospital.id, patients.c.client_id == arguments.client
        )
        ids = iter([row["id"] for row in await tx.all(of.order_by(patients.c.id))])
    writer = HoldWriter(store, terms=terms, render=renderer, queue=1_000_000, deadline_s=60)
    await writer.start()
    granted, refused, numbers = itertools.count(), itertools.count(), itertools.count()
    began_s, began_cpu_s = time.perf_counter(), _cpu_s()
    ends_s = began_s + arguments.seconds

    async def client() -> None:
        while time.perf_counter() < ends_s and (patient_id := next(ids, None)) is not None:
            request = HoldRequest(
                client_id=arguments.client,
                user_ref="bench",
                slot_id=arguments.slot,
                patient_id=patient_id,
                key=f"alone-{os.getpid()}-{next(numbers)}",
                digest="0" * 64,
            )
            try:
                await writer.hold(hospital, request)
                next(granted)
            except Refusal:
                next(refused)

    await asyncio.gather(*(client() for _ in range(arguments.concurrency)))
    took_s, cpu_s = time.perf_counter() - began_s, _cpu_s() - began_cpu_s
    await writer.close()
    await store.close()
    return {"bookings": next(granted), "refused": next(refused), "seconds": took_s, "cpu_s": cpu_s}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m booking.inventory.alone", description="Hold seats, without HTTP.")
    parser.add_argument(
        "--url", required=True, help="sqlite:///file or postgresql://user@host/database, migrated and filled"
    )
    parser.add_argument("--hospital", required=True)
    parser.add_argument("--slot", required=True)
    parser.add_argument("--client", default="bench", help="whose patients book")
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    if sys.platform == "win32":
        result = asyncio.run(measure(arguments))
    else:
        import uvloop

        result = uvloop.run(measure(arguments))
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
