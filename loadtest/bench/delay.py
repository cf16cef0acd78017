"""How long a large report delays bookings: a steady trickle of bookings, first alone, then while 5 MB reports come in over MLLP.

Bookings go out at fixed instants whatever became of the ones before, and their time counts from there. What the reports add is
the difference of the two phases of one round: the same processes, the same minute of the same machine.
"""

from __future__ import annotations

import asyncio
import re
import socket
import statistics
import time
from collections.abc import Iterator
from typing import Any

from loadtest.bench.crowd import bookings
from loadtest.bench.installation import Installation, Running
from loadtest.bench.messages import large_report
from loadtest.bench.rounds import WARM_S, Terms
from loadtest.bench.stats import percentile
from loadtest.simulators.mllp import END, START

BOOKINGS_A_SECOND = 200
CONNECTIONS = 16
REPORT_BYTES = 5_000_000
REPORT_EVERY_S = 1.0
BAR_MS = 20.0
APPLIED_WITHIN_S = 10.0
_FIGURES = {"p50": 0.5, "p99": 0.99, "slowest": 1.0}
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class _Trickle:
    """Bookings at fixed instants over kept connections. Every answer must be 201."""

    def __init__(self, port: int, posts: Iterator[bytes]) -> None:
        self._port = port
        self._posts = posts
        self._free: asyncio.LifoQueue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.LifoQueue()
        self.problems: list[str] = []

    async def open(self) -> None:
        for _ in range(CONNECTIONS):
            self._free.put_nowait(await asyncio.open_connection("127.0.0.1", self._port))

    def close(self) -> None:
        while not self._free.empty():
            self._free.get_nowait()[1].close()

    async def run(self, seconds: float) -> list[float]:
        """The latency of each, in ms, from the instant at which it was due."""
        loop = asyncio.get_running_loop()
        began_s, tasks = loop.time(), []
        for number in range(round(seconds * BOOKINGS_A_SECOND)):
            due_s = began_s + number / BOOKINGS_A_SECOND
            if (wait_s := due_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            tasks.append(asyncio.create_task(self._book(next(self._posts), due_s)))
        return await asyncio.gather(*tasks)

    async def _book(self, post: bytes, due_s: float) -> float:
        reader, writer = await self._free.get()
        writer.write(post)
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        await reader.readexactly(int(length[1]) if length else 0)
        took_ms = (asyncio.get_running_loop().time() - due_s) * 1000
        if not head.startswith(b"HTTP/1.1 201"):
            self.problems.append(f"a booking was answered {head[9:12].decode(errors='replace')}")
        self._free.put_nowait((reader, writer))
        return took_ms


def _send_reports(port: int, reports: list[bytes], every_s: float) -> list[str]:
    """One connection, a report now and then, each acknowledged before the next. Returns what was wrong."""
    problems = []
    with socket.create_connection(("127.0.0.1", port), timeout=APPLIED_WITHIN_S) as connection:
        began_s = time.monotonic()
        for number, report in enumerate(reports):
            time.sleep(max(0.0, began_s + (number + 0.25) * every_s - time.monotonic()))
            connection.sendall(START + report + END)
            answer = b""
            while not answer.endswith(END) and (piece := connection.recv(65_536)):
                answer += piece
            if b"\rMSA|AA|" not in answer:
                problems.append("a report was not acknowledged positively")
    return problems


async def measure_delay(terms: Terms, installation: Installation) -> tuple[str, list[dict[str, Any]]]:
    """The lines to print, and the rows as data: what was added to the median, and to the slowest booking of a phase."""
    rounds: list[tuple[list[float], list[float]]] = []
    problems: list[str] = []
    for _ in range(terms.rounds):
        alone, beside, wrong = await _round(terms, installation)
        rounds.append((alone, beside))
        problems += wrong
    rows, levels = [], []
    for name, share in _FIGURES.items():
        alone_ms = [percentile(alone, share) for alone, _ in rounds]
        added_ms = [percentile(beside, share) - was for (_, beside), was in zip(rounds, alone_ms, strict=True)]
        rows.append(_row(name, added_ms, list(dict.fromkeys(problems))))
        levels.append(f"{name} {statistics.median(alone_ms):.2f} ms")
    lines = [
        f"{r['what']:<62} {r['median']:>8} ms (min {r['min']}, max {r['max']}, {r['rounds']} rounds)"
        f"   bar < {r['bar']:g} ms   {'met' if r['met'] else 'MISSED'}"
        for r in rows
    ]
    notes = [f"    bookings alone: {', '.join(levels)}", *(f"    PROBLEM: {p}" for p in dict.fromkeys(problems))]
    return "\n".join([*lines, *notes]), rows


def _row(name: str, added_ms: list[float], problems: list[str]) -> dict[str, Any]:
    median = statistics.median(added_ms)
    return {
        "what": f"5 MB reports beside {BOOKINGS_A_SECOND} bookings/s add to their {name}",
        "unit": "ms",
        "median": round(median, 2),
        "min": round(min(added_ms), 2),
        "max": round(max(added_ms), 2),
        "rounds": len(added_ms),
        "bar": BAR_MS,
        "met": median < BAR_MS and not problems,
        "problems": problems,
    }


async def _round(terms: Terms, installation: Installation) -> tuple[list[float], list[float], list[str]]:
    """Latencies alone, latencies beside reports, and what was wrong."""
    reports = [
        large_report(number, "R", size_bytes=REPORT_BYTES)
        for number in range(max(1, round(terms.seconds / REPORT_EVERY_S)))
    ]
    try:
        async with installation.running(quiet=not terms.short) as at:
            posts = bookings(installation, round((2 * terms.seconds + WARM_S) * BOOKINGS_A_SECOND) + 10)
            trickle = _Trickle(at.port, posts)
            await trickle.open()
            try:
                await trickle.run(WARM_S)
                alone = await trickle.run(terms.seconds)
                sending = asyncio.create_task(
                    asyncio.to_thread(_send_reports, at.mllp_port, reports, min(REPORT_EVERY_S, terms.seconds))
                )
                beside = await trickle.run(terms.seconds)
                wrong = [*trickle.problems, *await sending, *await _not_readable(installation, at, len(reports))]
            finally:
                trickle.close()
    finally:
        await installation.restore()
    return alone, beside, wrong


async def _not_readable(installation: Installation, at: Running, wanted: int) -> list[str]:
    """Every report that was acknowledged is stored as one that patients can read, soon."""
    ends_s, stored = time.monotonic() + APPLIED_WITHIN_S, 0
    while stored < wanted and time.monotonic() < ends_s:
        stored = int((await installation.database.rows("SELECT count(*) FROM reports"))[0][0])
        await asyncio.sleep(0.05)
    return [] if stored == wanted else [f"{wanted} reports were sent and {stored} are stored"]
