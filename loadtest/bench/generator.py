"""The project's own load generator, for machines without wrk: sends the requests of a file and prints what came back.

    python -m loadtest.bench.generator <port> <connections> <drain_s> <file> <length> <requests> <1: repeat> <seconds>

It reads answers with a Content-Length only, which is what an API of ready bytes sends; anything else ends the connection as an
error. The figures are those of `wrk.lua`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import cast

from loadtest.bench.stats import percentile

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Tape:
    """The requests, handed out one by one until they or the time are over."""

    def __init__(self, data: bytes, length: int, *, repeat: bool, seconds: float) -> None:
        self._data = data
        self._length = length
        self._count = len(data) // length
        self._repeat = repeat
        self._seconds = seconds
        self.sent = 0
        self.first_s = 0.0

    def next(self) -> bytes | None:
        now_s = time.monotonic()
        if self.sent == 0:
            self.first_s = now_s
        if now_s - self.first_s >= self._seconds or (self.sent >= self._count and not self._repeat):
            return None
        start = self.sent % self._count * self._length
        self.sent += 1
        return self._data[start : start + self._length]


class Tally:
    """What came back, over all connections."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.took_ms: list[float] = []
        self.errors = 0
        self.last_s = 0.0

    def note(self, status: int, took_s: float) -> None:
        self.statuses[status] += 1
        self.took_ms.append(took_s * 1000)
        self.last_s = time.monotonic()


class Connection(asyncio.Protocol):
    """One connection with one request in flight. `over` is called when it sends nothing more."""

    def __init__(self, tape: Tape, tally: Tally, over: Callable[[], None]) -> None:
        self._tape = tape
        self._tally = tally
        self._over = over
        self._buffer = b""
        self._began_s = 0.0
        self._waiting = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not registered as such
        self._send()

    def _send(self) -> None:
        request = self._tape.next()
        if request is None or self._transport is None:
            self._waiting = False
            self._over()
            return
        self._waiting, self._began_s = True, time.monotonic()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        head, found, _ = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = _LENGTH.search(head)
        if length is None:
            self._fail()
            return
        whole = len(head) + 4 + int(length[1])
        if len(self._buffer) < whole:
            return
        status, self._buffer = int(head[9:12]), self._buffer[whole:]
        self._tally.note(status, time.monotonic() - self._began_s)
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting:
            self._fail()

    def give_up(self) -> None:
        """The time for answers is over: what is under way stays unanswered, which is no error of the connection."""
        self._waiting = False
        if self._transport is not None:
            self._transport.abort()

    def _fail(self) -> None:
        self._waiting = False
        self._tally.errors += 1
        if self._transport is not None:
            self._transport.abort()
        self._over()


async def run(port: int, connections: int, drain_s: float, tape: Tape, *, seconds: float) -> Tally:
    """Open the connections and send until the tape is over and everything is answered."""
    loop = asyncio.get_running_loop()
    tally, left, finished = Tally(), connections, asyncio.Event()

    def over() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            finished.set()

    opened = [
        await loop.create_connection(lambda: Connection(tape, tally, over), "127.0.0.1", port)
        for _ in range(connections)
    ]
    try:
        async with asyncio.timeout(seconds + drain_s):
            await finished.wait()
    except TimeoutError:
        pass  # what is still under way is counted as unanswered
    for _, connection in opened:
        connection.give_up()
    return tally


def report(tape: Tape, tally: Tally) -> str:
    """One line of JSON."""
    answered = sum(tally.statuses.values())
    return json.dumps(
        {
            "answered": answered,
            "statuses": {str(status): count for status, count in tally.statuses.items()},
            "seconds": round(max(0.0, tally.last_s - tape.first_s), 6),
            "p50_ms": round(percentile(tally.took_ms, 0.5), 3) if answered else 0.0,
            "p99_ms": round(percentile(tally.took_ms, 0.99), 3) if answered else 0.0,
            "unanswered": tape.sent - answered,
            "errors": tally.errors,
        }
    )


def main() -> None:
    port, connections, drain_s, file, length, _, repeat, seconds = sys.argv[1:]
    tape = Tape(Path(file).read_bytes(), int(length), repeat=repeat == "1", seconds=float(seconds))
    work = run(int(port), int(connections), float(drain_s), tape, seconds=float(seconds))
    if sys.platform == "win32":
        tally = asyncio.run(work)
    else:
        import uvloop

        tally = uvloop.run(work)
    print(report(tape, tally))


if __name__ == "__main__":
    main()
