"""The load: every request of the file goes out once, every answer is counted, whichever generator is there."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from loadtest.bench.baselines import bare
from loadtest.bench.load import get_request, post_request, read_answers, send, write_requests
from loadtest.bench.processes import ProcessFailed, cpu_s, end, family, first_line, output_of, start

GENERATORS = ["own", *(["wrk"] if shutil.which("wrk") else [])]
CORES = frozenset(os.sched_getaffinity(0))

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


def posts(count: int) -> list[bytes]:
    return [
        post_request("/b", b'{"n": %5d}' % number, key="k", idempotency_key=f"{number:08d}") for number in range(count)
    ]


@pytest.mark.parametrize("generator", GENERATORS)
async def test_each_request_goes_out_once_when_there_are_fewer_than_time(generator: str, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        assert request.headers["Idempotency-Key"] == f"{body['n']:08d}"
        seen[request.headers["Idempotency-Key"]] += 1
        return web.json_response({}, status=409 if body["n"] % 10 == 0 else 201)

    requests = write_requests(tmp_path / "posts", posts(200))
    async with serving(answer) as port:
        found = await send(
            requests, port, connections=8, seconds=60 if generator == "own" else 1, cores=CORES, generator=generator
        )
    assert found.statuses == {201: 180, 409: 20}
    assert found.answered == 200
    assert (found.unanswered, found.errors) == (0, 0)
    assert seen == Counter({f"{n:08d}": 1 for n in range(200)})
    assert found.problems(201) == ("20 answers 409",)
    assert found.rate == pytest.approx(200 / found.seconds)
    assert 0 < found.p50_ms <= found.p99_ms


@pytest.mark.parametrize("generator", GENERATORS)
async def test_requests_come_again_in_turn_when_the_file_is_repeated(generator: str, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()

    async def answer(request: web.Request) -> web.Response:
        seen[request.path] += 1
        return web.Response(text="x" * 20_000)

    requests = write_requests(tmp_path / "gets", [get_request(f"/day{n}", key="k") for n in range(4)], repeat=True)
    async with serving(answer) as port:
        found = await send(requests, port, connections=3, seconds=0.3, cores=CORES, generator=generator)
    assert found.problems(200) == ()
    assert set(seen) == {"/day0", "/day1", "/day2", "/day3"}
    assert max(seen.values()) - min(seen.values()) <= 1
    assert found.answered == sum(seen.values())


@pytest.mark.parametrize("generator", GENERATORS)
async def test_what_was_not_answered_is_told_when_the_server_hangs_up(generator: str, tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        if (await request.json())["n"] == 50 and request.transport is not None:
            request.transport.abort()
        return web.Response(status=201)

    requests = write_requests(tmp_path / "posts", posts(100))
    async with serving(answer) as port:
        found = await send(requests, port, connections=1, seconds=0.5, cores=CORES, generator=generator)
    assert found.unanswered == 1
    assert "1 requests without an answer" in found.problems(201)


def test_requests_of_unequal_length_are_refused_when_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of 4 bytes among those of 3"):
        write_requests(tmp_path / "odd", [b"abc", b"abcd"])


def test_nothing_answered_is_a_problem_when_no_answer_came() -> None:
    line = '{"answered": 0, "statuses": {}, "seconds": 0, "p50_ms": 0, "p99_ms": 0, "unanswered": 0, "errors": 0}'
    found = read_answers(f"Running 1s test\n{line}\n")
    assert found.problems(200) == ("nothing was answered",)
    assert found.rate == 0.0
    with pytest.raises(ProcessFailed, match="gave no figures: unable to connect"):
        read_answers("unable to connect")


async def test_the_baseline_gives_the_kept_answer_when_asked_its_route(tmp_path: Path) -> None:
    kept: dict[str, object] = {
        "method": "POST",
        "path": "/v1/hospitals/{hospital_id}/bookings",
        "status": 409,
        "headers": {"Content-Type": "application/problem+json", "X-Request-Id": "r1"},
        "body": '{"code": "号满"}',
    }
    runner = web.AppRunner(bare.build(kept))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection("127.0.0.1", runner.addresses[0][1])
    writer.write(post_request("/v1/hospitals/h1/bookings", b"{}", key="k", idempotency_key="1"))
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    body = await reader.readexactly(len('{"code": "号满"}'.encode()))
    writer.close()
    await runner.cleanup()
    assert head.startswith("HTTP/1.1 409 ")
    assert "Content-Type: application/problem+json\r\n" in head
    assert "X-Request-Id: r1\r\n" in head
    assert json.loads(body) == {"code": "号满"}


async def test_a_family_and_its_cpu_are_found_when_a_process_has_children() -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(10**7)); print(1, flush=True); input()'])"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", child, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    await process.stdout.readline()
    assert len(family(process.pid)) == 2
    used_s = cpu_s(process.pid)
    assert used_s > 0
    process.stdin.write(b"\n")
    await process.wait()


async def test_the_last_words_are_told_when_a_process_fails() -> None:
    with pytest.raises(ProcessFailed, match="no such thing"):
        await output_of(sys.executable, "-c", "raise SystemExit('no such thing')", cores=CORES, within_s=60)
    process = await start("-c", "raise SystemExit('gone')", cores=CORES)
    with pytest.raises(ProcessFailed, match="the server ended at once: gone"):
        await first_line(process, "the server")
    await process.wait()
    await end(process)
