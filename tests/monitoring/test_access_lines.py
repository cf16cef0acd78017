"""Lines of the access log are gathered and written together; none is lost, and none is late for long."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys

from monitoring.logs import GATHER_S, MOST_GATHERED, configure_logging, log_request


def routes(log: io.BytesIO) -> list[str]:
    return [json.loads(line)["route"] for line in log.getvalue().splitlines()]


async def test_lines_are_written_together_and_in_order_when_a_crowd_is_answered() -> None:
    log = io.BytesIO()
    configure_logging(stream=log)
    for n in range(3):
        log_request({"route": f"/{n}"})
    assert routes(log) == []
    await asyncio.sleep(2 * GATHER_S)
    assert routes(log) == ["/0", "/1", "/2"]
    log_request({"route": "/later"})
    await asyncio.sleep(2 * GATHER_S)
    assert routes(log)[-1] == "/later"


async def test_lines_are_written_before_their_time_when_there_are_many() -> None:
    log = io.BytesIO()
    configure_logging(stream=log)
    for n in range(MOST_GATHERED):
        log_request({"route": f"/{n}"})
    assert len(routes(log)) == MOST_GATHERED


def test_line_is_written_at_once_when_no_loop_runs() -> None:
    log = io.BytesIO()
    configure_logging(stream=log)
    log_request({"route": "/now"})
    assert routes(log) == ["/now"]


def test_lines_of_an_ended_loop_are_written_with_those_of_the_next() -> None:
    log = io.BytesIO()
    configure_logging(stream=log)

    async def once(name: str, wait_s: float) -> None:
        log_request({"route": name})
        await asyncio.sleep(wait_s)

    asyncio.run(once("/first", 0))
    asyncio.run(once("/second", 2 * GATHER_S))
    assert routes(log) == ["/first", "/second"]


def test_lines_are_written_when_the_process_ends() -> None:
    program = (
        "import asyncio\nfrom monitoring.logs import log_request\n"
        "async def main():\n    log_request({'route': '/last'})\nasyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(ended.stderr)["route"] == "/last"
