"""Lines of the access log are gathered and written together; none is lost, and none is late for long."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import json
import subprocess
import sys

import pytest

from monitoring.logs import GATHER_S, MOST_GATHERED, configure_logging, log_request, members_of


def routes(log: io.BytesIO) -> list[str]:
    return [json.loads(line)["route"] for line in log.getvalue().splitlines()]


def say(route: str) -> None:
    log_request(1.5, "r-1", members_of({"route": route}))


async def test_line_is_whole_json_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.BytesIO()
    configure_logging(stream=log)
    monkeypatch.setattr("monitoring.logs.time.time_ns", lambda: 1_790_000_000_000_000_000 + 7_000)
    log_request(1.234, 'odd"', members_of({"route": "/张", "n": 1}), level="warning")
    await asyncio.sleep(2 * GATHER_S)
    assert json.loads(log.getvalue()) == {
        "at": dt.datetime.fromtimestamp(1_790_000_000, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.000007Z"),
        "level": "warning", "event": "request", "took_ms": 1.23, "request_id": 'odd"', "route": "/张", "n": 1,
    }  # fmt: skip


async def test_lines_are_written_together_and_in_order_when_a_crowd_is_answered() -> None:
    log = io.BytesIO()
    configure_logging(stream=log)
    for n in range(3):
        say(f"/{n}")
    assert routes(log) == []
    await asyncio.sleep(2 * GATHER_S)
    assert routes(log) == ["/0", "/1", "/2"]
    say("/later")
    await asyncio.sleep(2 * GATHER_S)
    assert routes(log)[-1] == "/later"


async def test_lines_are_written_before_their_time_when_there_are_many() -> None:
    log = io.BytesIO()
    configure_logging(stream=log)
    for n in range(MOST_GATHERED):
        say(f"/{n}")
    assert len(routes(log)) == MOST_GATHERED


def test_line_is_written_at_once_when_no_loop_runs() -> None:
    log = io.BytesIO()
    configure_logging(stream=log)
    say("/now")
    assert routes(log) == ["/now"]


def test_lines_of_an_ended_loop_are_written_with_those_of_the_next() -> None:
    log = io.BytesIO()
    configure_logging(stream=log)

    async def once(name: str, wait_s: float) -> None:
        say(name)
        await asyncio.sleep(wait_s)

    asyncio.run(once("/first", 0))
    asyncio.run(once("/second", 2 * GATHER_S))
    assert routes(log) == ["/first", "/second"]


def test_lines_are_written_when_the_process_ends() -> None:
    program = (
        "import asyncio\nfrom monitoring.logs import log_request\n"
        "async def main():\n    log_request(1, 'r', b'\"route\":\"/last\"')\nasyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(ended.stderr)["route"] == "/last"
