"""Around the crowd of a load test: when it begins, what is broken when, what is read afterwards, and how it is ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from loadtest.__main__ import ENDED, NOT_PLAYED, main
from loadtest.bench.processes import ProcessFailed, end, family
from loadtest.peak import aftermath, faults
from loadtest.peak.aftermath import final_of, read_patiently
from loadtest.peak.faults import Strokes, break_things
from loadtest.peak.hospitals import Hospitals
from loadtest.peak.planning import starts_of
from loadtest.peak.profiles import PROFILES, HisFault, ServiceFault
from loadtest.peak.run import FolderUsed, must_be_empty
from loadtest.peak.told import faults as told_faults

PROFILE = PROFILES["release-peak"]
BOOKING = {"order_no": "1", "state": "booked", "his_state": "registered", "payment_state": "paid", "refunds": []}
ENDS_WITHIN_S = 20.0  # the service drains for five of them


@pytest.mark.parametrize(("early_s", "late_s"), [(60, 0.0), (32, 0.0), (31.1, 0.9)])
def test_crowd_begins_as_the_profile_says_when_the_stage_was_ready(early_s: float, late_s: float) -> None:
    assert starts_of(PROFILE, 1_000.0, 1_000.0 - early_s) == pytest.approx(PROFILE.starts_s + late_s)


@pytest.mark.parametrize("early_s", [30.9, 2, -10])
def test_run_is_refused_when_the_crowd_would_miss_a_part(early_s: float) -> None:
    with pytest.raises(ProcessFailed, match="too late for a crowd that comes 30 s before the opening"):
        starts_of(PROFILE, 1_000.0, 1_000.0 - early_s)


@pytest.mark.parametrize("command", [[], ["rounds"], ["ceiling"]])
def test_nothing_is_started_when_the_folder_is_not_empty(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.html").write_text("passed", encoding="utf-8")
    assert main([*command, "--out", str(tmp_path)]) == NOT_PLAYED
    assert f"{tmp_path} is not an empty folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_folder_for_a_run_may_be_empty_or_not_there_and_no_file(tmp_path: Path) -> None:
    must_be_empty(tmp_path)
    must_be_empty(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(FolderUsed):
        must_be_empty(tmp_path / "file")


class Portal:
    """A service that answers in this order, and with the last of it for ever; 0: it hangs up."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if status == 0 and request.transport is not None:
            request.transport.abort()
        headers = {"Retry-After": "0"} if status == 429 else {}
        return web.Response(status=status or 500, body=body, headers=headers)


@contextlib.asynccontextmanager
async def reading(portal: Portal) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    app = web.Application()
    app.router.add_get("/b", portal.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        yield session, f"http://127.0.0.1:{runner.addresses[0][1]}/b"
    await runner.cleanup()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aftermath, "PAUSES_S", (0.0,) * 5)


@pytest.mark.usefixtures("hurried")
async def test_booking_is_read_when_the_service_cannot_be_asked_for_a_moment() -> None:
    portal = Portal((503, b"{}"), (0, b""), (429, b"{}"), (503, b"<html>"), (200, json.dumps(BOOKING).encode()))
    async with reading(portal) as (session, url):
        assert final_of(*await read_patiently(session, url, {})) == {
            "status": 200, **BOOKING, "rejected_code": None,
        }  # fmt: skip


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(("status", "asked"), [(503, 6), (404, 1), (500, 1)])
async def test_booking_keeps_its_status_when_it_is_never_read(status: int, asked: int) -> None:
    portal = Portal((status, b"not JSON"))
    async with reading(portal) as (session, url):
        assert final_of(*await read_patiently(session, url, {})) == {"status": status}
    assert portal.asked == asked


@pytest.mark.usefixtures("hurried")
async def test_booking_has_no_status_when_the_service_has_gone() -> None:
    async with reading(Portal((200, b""))) as (session, url):
        pass
    async with aiohttp.ClientSession() as session:
        assert final_of(*await read_patiently(session, url, {})) == {"status": 0}


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"{}", b"\xff", b"null"])
def test_booking_is_unreadable_when_its_body_is_no_booking(body: bytes) -> None:
    final = final_of(200, body)
    assert (final["status"], final["state"], final["his_state"]) == (200, "unreadable", "unreadable")


async def test_faults_are_noted_when_they_happen_and_not_when_they_were_planned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process that is killed is a sleeping one; the stage was ready 3 s after the time of the faults."""
    sleeper = await asyncio.create_subprocess_exec("sleep", "60")
    monkeypatch.setattr(faults, "child_of", lambda pid, role: sleeper.pid)
    down = HisFault("HIS down", "down", -9.0, -8.0)
    killed = ServiceFault("killed", "kill_api", -7.0)
    never = ServiceFault("never", "kill_sync", 60.0)
    profile = replace(PROFILE, his_faults=(down,), service_faults=(killed, never))
    struck: Strokes = {}
    async with aiohttp.ClientSession() as session:
        hospitals = Hospitals(session)  # none of them runs
        began = time.time()
        task = asyncio.create_task(break_things(profile, hospitals, 0, None, began + 4.0, struck))
        assert await sleeper.wait() == -signal.SIGKILL
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    told = told_faults(struck, began - 1.0)
    assert [(f["what"], f["at_s"], f["until_s"]) for f in told] == [
        ("HIS down", pytest.approx(1.0, abs=0.5), pytest.approx(1.0, abs=0.5)),
        ("killed", pytest.approx(1.0, abs=0.5), None),
    ]


async def test_everything_ends_when_the_load_test_is_terminated(tmp_path: Path) -> None:
    words = ("-m", "loadtest", "--profile", "release-peak", "--short", "--out", str(tmp_path))
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(60):
            while not any(b"\0service\0" in _words(pid) for pid in family(process.pid)):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.2)
        members = family(process.pid)
        assert len(members) >= 5  # itself, three hospitals, the service
        process.terminate()
        async with asyncio.timeout(ENDS_WITHIN_S):
            assert await process.wait() == ENDED
        assert [pid for pid in members if _words(pid)] == []
    finally:
        await end(process)


def _words(pid: int) -> bytes:
    """Its command line; nothing where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
