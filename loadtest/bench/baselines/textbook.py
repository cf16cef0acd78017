"""One booking, one transaction, as textbooks teach it: the design that the batching engine replaces.

    python -m loadtest.bench.baselines.textbook --url postgresql://... --way for_update --pool 8 --concurrency 256 --seconds 5

`for_update` locks the slot's row, looks, inserts the booking and takes the seat; `conditional` does all of it in one
statement, whose UPDATE matches only while seats are left. The tables are the least that can work: one row per booking, whose
unique index keeps a patient from booking twice. No idempotency key, no command to the HIS, no event: the engine writes all of
these. Prints {"bookings", "refused", "seconds", "cpu_s"}.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

SEATS = 1_000_000_000
TABLES = """
create table if not exists textbook_slots (id text primary key, capacity int not null, taken int not null);
create table if not exists textbook_bookings (
    id uuid primary key, slot_id text not null, patient_id text not null, state text not null, fee_fen int not null,
    created_at timestamptz not null default now(), unique (patient_id, slot_id)
);
truncate textbook_slots, textbook_bookings;
"""
LOOK = "select capacity - taken from textbook_slots where id = $1 for update"
TAKE = "update textbook_slots set taken = taken + 1 where id = $1"
INSERT = "insert into textbook_bookings (id, slot_id, patient_id, state, fee_fen) values ($1, $2, $3, 'held', 5000)"
CONDITIONAL = """
with seat as (update textbook_slots set taken = taken + 1 where id = $2 and taken < capacity returning id)
insert into textbook_bookings (id, slot_id, patient_id, state, fee_fen) select $1, id, $3, 'held', 5000 from seat returning id
"""

Book = Callable[[Any, str, str], Awaitable[bool]]


async def for_update(connection: Any, slot_id: str, patient_id: str) -> bool:
    """Whether a seat was taken."""
    async with connection.transaction():
        if await connection.fetchval(LOOK, slot_id) <= 0:
            return False
        await connection.execute(INSERT, uuid.uuid4(), slot_id, patient_id)
        await connection.execute(TAKE, slot_id)
    return True


async def conditional(connection: Any, slot_id: str, patient_id: str) -> bool:
    """Whether a seat was taken."""
    return await connection.fetchval(CONDITIONAL, uuid.uuid4(), slot_id, patient_id) is not None


WAYS: dict[str, Book] = {"for_update": for_update, "conditional": conditional}


async def measure(url: str, way: str, *, pool_size: int, concurrency: int, seconds: float) -> dict[str, float]:
    """Book one hot slot until the time is over, one patient after the other."""
    book, patients = WAYS[way], itertools.count()
    granted = refused = 0
    async with asyncpg.create_pool(url, min_size=pool_size, max_size=pool_size) as pool:
        await pool.execute(TABLES)
        await pool.execute("insert into textbook_slots values ('hot', $1, 0)", SEATS)
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        ends_s = began_s + seconds

        async def client() -> None:
            nonlocal granted, refused
            while time.perf_counter() < ends_s:
                async with pool.acquire() as connection:
                    if await book(connection, "hot", f"patient-{next(patients)}"):
                        granted += 1
                    else:
                        refused += 1

        await asyncio.gather(*(client() for _ in range(concurrency)))
        took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
        stored = await pool.fetchval("select count(*) from textbook_bookings")
    if stored != granted:
        raise AssertionError(f"{granted} bookings were granted and {stored} are stored")
    return {"bookings": granted, "refused": refused, "seconds": took_s, "cpu_s": cpu_s}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.baselines.textbook")
    parser.add_argument("--url", required=True)
    parser.add_argument("--way", choices=sorted(WAYS), required=True)
    parser.add_argument("--pool", type=int, required=True)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=5.0)
    chosen = parser.parse_args()
    work = measure(
        chosen.url, chosen.way, pool_size=chosen.pool, concurrency=chosen.concurrency, seconds=chosen.seconds
    )
    if sys.platform == "win32":
        result = asyncio.run(work)
    else:
        import uvloop

        result = uvloop.run(work)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
