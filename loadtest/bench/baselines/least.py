"""The least that a durable answer takes: one row in one table under one key, committed in batches, and nothing decided.

    python -m loadtest.bench.baselines.least --answer <answer.json> --url sqlite:///file | postgresql://...
    python -m loadtest.bench.baselines.least --url sqlite:///file

With an answer it is the bare handler, which answers when the request is on the disk: the Idempotency-Key, the body and the
answer. A batch takes what comes in while more comes at each turn of the loop, as the engine's do. On PostgreSQL it has the round
trips that a decision needs: begin and lock, read, write, commit. Without an answer it stores what comes over MLLP, each message
in a transaction of its own, and acknowledges it: nothing is read but the control id. It prints its port. What the product does
beyond that is what its own figure lacks to this one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
from aiohttp import web

from loadtest.bench.baselines.bare import build
from loadtest.simulators.mllp import END, START

TABLE = "create table if not exists least (key text primary key, body {bytes}, answer {bytes})"
CHECKPOINT_PAGES = 8_000  # as the product's

Row = tuple[str, bytes, bytes]
Store = Callable[[list[Row]], Awaitable[None]]


def open_sqlite(url: str) -> sqlite3.Connection:
    """As durable as the product's store: WAL, `synchronous=FULL`."""
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"wal_autocheckpoint={CHECKPOINT_PAGES}",
        "cache_size=-65536",
    ):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(TABLE.format(bytes="blob"))
    return connection


def store_in_sqlite(connection: sqlite3.Connection) -> Store:
    async def store(rows: list[Row]) -> None:
        connection.execute("begin immediate")
        connection.executemany("insert into least values (?, ?, ?)", rows)
        connection.execute("commit")

    return store


async def store_in_postgres(url: str) -> Store:
    connection = await asyncpg.connect(url)
    await connection.execute(TABLE.format(bytes="bytea"))

    async def store(rows: list[Row]) -> None:
        await connection.execute("begin; select pg_advisory_xact_lock(1)")
        await connection.fetch("select key from least where key = any($1::text[])", [row[0] for row in rows])
        await connection.fetch(
            "insert into least select * from unnest($1::text[], $2::bytea[], $3::bytea[])",
            *map(list, zip(*rows, strict=True)),
        )
        await connection.execute("commit")

    return store


class Batches:
    """Who waits to be stored, and the task that stores them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[tuple[Row, asyncio.Future[None]]] = []
        self._some = asyncio.Event()

    async def keep(self, row: Row) -> None:
        """Returns when the row is on the disk."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((row, done))
        self._some.set()
        await done

    async def run(self) -> None:
        while True:
            await self._some.wait()
            there = 0
            while there < len(self._waiting):
                there = len(self._waiting)
                await asyncio.sleep(0)
            batch, self._waiting = self._waiting, []
            self._some.clear()
            await self._store([row for row, _ in batch])
            for _, done in batch:
                if not done.done():
                    done.set_result(None)


class Acknowledger(asyncio.Protocol):
    """One MLLP connection: what comes is stored, then acknowledged."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._data = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *messages, self._data = (self._data + data).split(END)
        for message in messages:
            control_id = message.split(b"\r", 1)[0].split(b"|")[9]
            self._connection.execute("begin immediate")
            self._connection.execute("insert into least values (?, ?, ?)", (control_id.decode(), message[1:], b""))
            self._connection.execute("commit")
            self._transport.write(START + b"MSH|^~\\&|A|B|C|D|||ACK|1|P|2.5.1\rMSA|AA|" + control_id + b"\r" + END)


async def serve_posts(answer: dict[str, object], url: str, stop: asyncio.Event) -> None:
    sqlite = url.startswith("sqlite")
    batches = Batches(store_in_sqlite(open_sqlite(url)) if sqlite else await store_in_postgres(url))
    reply = str(answer["body"]).encode()

    async def keep(request: web.Request, body: bytes) -> None:
        await batches.keep((request.headers["Idempotency-Key"], body, reply))

    working = asyncio.create_task(batches.run())
    runner = web.AppRunner(build(answer, before=keep), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(json.dumps({"ready": True, "port": runner.addresses[0][1]}), flush=True)
    await stop.wait()
    await runner.cleanup()
    working.cancel()


async def serve_messages(url: str, stop: asyncio.Event) -> None:
    connection = open_sqlite(url)
    server = await asyncio.get_running_loop().create_server(lambda: Acknowledger(connection), "127.0.0.1", 0)
    print(json.dumps({"ready": True, "port": server.sockets[0].getsockname()[1]}), flush=True)
    await stop.wait()
    server.close()


async def serve(answer: dict[str, object] | None, url: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await (serve_messages(url, stop) if answer is None else serve_posts(answer, url, stop))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.baselines.least")
    parser.add_argument("--answer", type=Path, help="that of the posts; without it messages are heard")
    parser.add_argument("--url", required=True)
    given = parser.parse_args()
    answer = None if given.answer is None else json.loads(given.answer.read_text(encoding="utf-8"))
    if sys.platform == "win32":
        asyncio.run(serve(answer, given.url))
    else:
        import uvloop

        uvloop.run(serve(answer, given.url))


if __name__ == "__main__":
    main()
