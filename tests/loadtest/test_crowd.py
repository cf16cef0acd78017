"""The crowd of a load test: when it arrives, and what its connections do with answers of every kind."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean, variance

import pytest

from loadtest.crowd.shape import Shape, arrivals

STEADY = Shape(quiet_per_s=50, ramp_from_s=-1, ramp_per_s=50, spike_per_s=50, after_per_s=50, decay_s=1)
RELEASE = Shape(quiet_per_s=10, ramp_from_s=-20, ramp_per_s=110, spike_per_s=500, after_per_s=100, decay_s=10)


def test_rate_follows_its_phases() -> None:
    assert RELEASE.rate(-60) == 10
    assert RELEASE.rate(-10) == 60  # half way up the ramp
    assert RELEASE.rate(0) == 500
    assert RELEASE.rate(10) == pytest.approx(100 + 400 / 2.718281828, rel=1e-6)
    assert RELEASE.highest_per_s == 500


def test_expected_number_is_the_integral() -> None:
    # Quiet 40 s, the trapezium of the ramp, and 100 a second plus 400 x 10 x (1 - e^-6).
    assert RELEASE.expected(-60, -20) == pytest.approx(400)
    assert RELEASE.expected(-20, 0) == pytest.approx(1200)
    assert RELEASE.expected(0, 60) == pytest.approx(6000 + 4000 * (1 - 2.718281828**-6), rel=1e-4)


def test_arrivals_are_a_poisson_process() -> None:
    """Counts of a second have their mean as their variance (ratio 1 within five standard errors), and gaps have no memory."""
    seconds = 2_000
    instants = list(arrivals(STEADY, 0, seconds, random.Random(1)))
    counts = [0] * seconds
    for at_s in instants:
        counts[int(at_s)] += 1
    assert mean(counts) == pytest.approx(50, abs=5 * (50 / seconds) ** 0.5)
    assert variance(counts) / mean(counts) == pytest.approx(1, abs=5 * (2 / seconds) ** 0.5)
    gaps = [b - a for a, b in itertools.pairwise(instants)]
    assert mean(gap > 0.02 for gap in gaps) == pytest.approx(2.718281828**-1, abs=0.01)


def test_arrivals_follow_the_shape() -> None:
    counts = [0, 0]
    for seed in range(20):
        for at_s in arrivals(RELEASE, -20, 60, random.Random(seed)):
            counts[at_s >= 0] += 1
    before, after = RELEASE.expected(-20, 0) * 20, RELEASE.expected(0, 60) * 20
    assert counts[0] == pytest.approx(before, abs=5 * before**0.5)
    assert counts[1] == pytest.approx(after, abs=5 * after**0.5)


def test_nobody_arrives_when_the_rate_is_zero() -> None:
    nothing = Shape(quiet_per_s=0, ramp_from_s=-1, ramp_per_s=0, spike_per_s=0, after_per_s=0, decay_s=1)
    assert list(arrivals(nothing, -10, 10, random.Random(1))) == []


# --- connections ------------------------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Some: thing\r\n\r\nhello"

# Locust patches its process for gevent: the wire runs in one of its own, against a server in this one.
ASK = """
import sys, json
from gevent import monkey; monkey.patch_all()
import gevent
from loadtest.crowd.wire import Wire
wire = Wire("127.0.0.1", int(sys.argv[1]), most=int(sys.argv[3]), time_out_s=0.5)
told = []
for _ in range(int(sys.argv[2])):
    a = wire.ask(b"GET / HTTP/1.1\\r\\n\\r\\n")
    some = a.field(b"x-some")
    gevent.sleep(float(sys.argv[4]) if len(sys.argv) > 4 else 0)
    told.append([a.status, a.body.decode(), a.error, some.decode() if some else None, wire.open])
print(json.dumps(told))
"""

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], object]


async def ask_of(
    pieces: list[list[bytes]], *, times: int, close_after: bool = False, most: int = 10, rest_s: float = 0.0
) -> list[list[object]]:
    """Answer the n-th request with the n-th list of pieces, each in a packet of its own. `rest_s`: after each answer."""
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                answer = pieces[min(asked, len(pieces) - 1)]
                asked += 1
                for piece in answer:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.02)
                if close_after:
                    break
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ASK, str(port), str(times), str(most), str(rest_s), stdout=subprocess.PIPE
        )
        said, _ = await process.communicate()
        server.close()
    told: list[list[object]] = json.loads(said)
    return told


async def test_answer_is_whole_when_it_comes_byte_by_byte() -> None:
    told = await ask_of([[OK[n : n + 9] for n in range(0, len(OK), 9)]], times=2)
    assert told == [[200, "hello", "", "thing", 1]] * 2


async def test_answer_without_a_body_ends_with_its_head() -> None:
    told = await ask_of([[b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"], [OK]], times=2)
    assert [row[:2] for row in told] == [[304, ""], [200, "hello"]]


async def test_connection_is_replaced_when_the_server_has_closed_it_meanwhile() -> None:
    told = await ask_of([[OK]], times=3, close_after=True, rest_s=0.1)
    assert [row[:2] for row in told] == [[200, "hello"]] * 3


async def test_request_is_not_sent_twice_when_the_connection_ends_after_it() -> None:
    told = await ask_of([[OK], [], [OK]], times=3)
    assert [row[:3] for row in told] == [[200, "hello", ""], [0, "", "timeout"], [200, "hello", ""]]
    told = await ask_of([[OK], [b""]], times=2, close_after=True)
    assert told[0][:2] == [200, "hello"]
    assert told[1][:3] == [0, "", "closed"]


async def test_connection_is_not_kept_when_the_server_says_that_it_closes() -> None:
    closing = OK.replace(b"X-Some: thing", b"Connection: close")
    assert [row[4] for row in await ask_of([[closing]], times=2)] == [0, 0]


async def test_time_out_is_no_answer_and_its_connection_is_given_up() -> None:
    assert await ask_of([[OK[:30]], [OK]], times=2) == [[0, "", "timeout", None, 0], [200, "hello", "", "thing", 1]]


async def test_end_in_the_middle_is_no_answer() -> None:
    told = await ask_of([[OK[:-2]]], times=1, close_after=True)
    assert told == [[0, "", "ConnectionError", None, 0]]


async def test_request_fails_when_no_connection_is_left() -> None:
    assert await ask_of([[OK]], times=1, most=0) == [[0, "", "no connection left", None, 0]]


async def test_refused_connection_is_no_answer(tmp_path: Path) -> None:
    with_nobody = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = with_nobody.sockets[0].getsockname()[1]
    with_nobody.close()
    await with_nobody.wait_closed()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ASK, str(port), "1", "10", stdout=subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert json.loads(said) == [[0, "", "ConnectionRefusedError", None, 0]]
