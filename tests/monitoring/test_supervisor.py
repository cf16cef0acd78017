"""A parent and its children, as real processes: readiness, restarts, replacement, and an end that leaves nobody behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import structlog
from aiohttp import web

from monitoring import supervisor as supervising
from monitoring.child import Orders
from monitoring.discovery import ChildrenHealth, build_parent_app
from monitoring.health import Health
from monitoring.listener import CannotListen, bind, shown
from monitoring.supervisor import Child, ChildFailed, ChildSpec, Supervisor
from tests.conftest import ROOT

PATIENCE_S = 60.0

# What a child does is given to it as the text of its orders.
CHILD = f"""
import asyncio, os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from monitoring.child import read_orders, report_ready, watch_parent

async def main(orders):
    done, loop = asyncio.Event(), asyncio.get_running_loop()
    stubborn = "stubborn" in orders.text
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if stubborn else done.set)
    watch_parent(done.set)
    report_ready(orders.text.partition(" ")[2] or f"127.0.0.1:{{orders.life + 1}}")
    if "brief" in orders.text:
        return
    await done.wait()

orders = read_orders()
if "refuses" in orders.text:
    sys.exit(2)
if "babbles" in orders.text:
    print("hello", flush=True)
asyncio.run(main(orders))
"""

# A parent that is to be killed: says who its child is.
PARENT = f"""
import asyncio, sys
sys.path.insert(0, {str(ROOT)!r})
from monitoring.child import Orders
from monitoring.supervisor import ChildSpec, Supervisor

async def main():
    orders = Orders(role="api", worker=1, text="steady")
    supervisor = Supervisor()
    await supervisor.replace([ChildSpec(command=(sys.executable, sys.argv[1]), orders=orders, kill_after_s=10)])
    print(supervisor.children[0].pid, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


async def until(look: Callable[[], bool], what: str) -> None:
    """The bound only ends a test that would never end."""
    ends = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < ends, what
        await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "child.py"
    file.write_text(CHILD, encoding="utf-8")
    return file


Spec = Callable[..., ChildSpec]


@pytest.fixture
def spec(script: Path) -> Spec:
    def make(text: str = "steady", *, worker: int = 1, kill_after_s: float = PATIENCE_S) -> ChildSpec:
        orders = Orders(role="api", worker=worker, text=text)
        return ChildSpec(command=(sys.executable, str(script)), orders=orders, kill_after_s=kill_after_s)

    return make


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    it = Supervisor()
    yield it
    await it.stop()


def pid_of(child: Child) -> int:
    assert child.pid is not None
    return child.pid


# --- readiness and restarts ----------------------------------------------------------------------------------------


async def test_child_is_started_again_when_it_is_killed(supervisor: Supervisor, spec: Spec) -> None:
    await supervisor.replace([spec()])
    child = supervisor.children[0]
    first = pid_of(child)
    os.kill(first, signal.SIGKILL)
    await until(lambda: child.pid not in (None, first) and child.admin is not None, "a new process")
    assert supervisor.restarts() == {("api", 1): 1}
    assert child.admin == "127.0.0.1:2"  # it knows that it is the second with these orders


async def test_pauses_double_when_a_child_ends_again_and_again(supervisor: Supervisor, spec: Spec) -> None:
    with structlog.testing.capture_logs() as lines:
        await supervisor.replace([spec("brief")])
        await until(lambda: supervisor.children[0].restarts >= 4, "four restarts")
        await supervisor.stop()
    pauses = [line["again_in_s"] for line in lines if line["event"] == "child_ended"]
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]


async def test_pause_is_bounded_and_begins_anew_when_a_child_has_lived_long(
    supervisor: Supervisor, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "LONGEST_PAUSE_S", 0.2)
    with structlog.testing.capture_logs() as lines:
        await supervisor.replace([spec("brief")])
        await until(lambda: supervisor.children[0].restarts >= 3, "three restarts")
        monkeypatch.setattr(supervising, "STEADY_S", 0.0)
        seen = supervisor.children[0].restarts
        await until(lambda: supervisor.children[0].restarts >= seen + 2, "two more")
        await supervisor.stop()
    pauses = [line["again_in_s"] for line in lines if line["event"] == "child_ended"]
    assert pauses[:3] == [0.1, 0.2, 0.2]
    assert pauses[-1] == 0.1


async def test_nothing_runs_when_a_child_refuses_at_the_first_start(supervisor: Supervisor, spec: Spec) -> None:
    with pytest.raises(ChildFailed, match="api-2 ended with 2") as failed:
        await supervisor.replace([spec(), spec("refuses", worker=2)])
    assert failed.value.code == 2
    assert supervisor.children == []


async def test_child_is_ended_when_its_report_cannot_be_read(supervisor: Supervisor, spec: Spec) -> None:
    with pytest.raises(ChildFailed):
        await supervisor.replace([spec("babbles")])


async def test_child_is_killed_when_it_does_not_end_in_time(supervisor: Supervisor, spec: Spec) -> None:
    await supervisor.replace([spec("stubborn", kill_after_s=0.2)])
    pid = pid_of(supervisor.children[0])
    with structlog.testing.capture_logs() as lines:
        await supervisor.stop()
    assert not is_alive(pid)
    assert [line["child"] for line in lines if line["event"] == "child_killed"] == ["api-1"]


async def test_start_fails_and_nothing_runs_when_the_program_is_not_there(supervisor: Supervisor) -> None:
    orders = Orders(role="api", worker=1)
    with pytest.raises(ChildFailed):
        await supervisor.replace([ChildSpec(command=("/no/such/program",), orders=orders, kill_after_s=1)])


# --- replacement ---------------------------------------------------------------------------------------------------


async def test_new_children_are_ready_before_the_old_ones_end_when_replaced(supervisor: Supervisor, spec: Spec) -> None:
    await supervisor.replace([spec(), spec(worker=2)])
    old = [pid_of(child) for child in supervisor.children]
    alive: list[bool] = []

    def note() -> None:
        alive.extend(is_alive(pid) for pid in (*old, *(pid_of(child) for child in supervisor.children)))

    await supervisor.replace([spec(), spec(worker=2), spec(worker=3)], on_ready=note)
    assert alive == [True] * 5
    assert [is_alive(pid) for pid in old] == [False, False]
    assert [child.spec.name for child in supervisor.children] == ["api-1", "api-2", "api-3"]


async def test_old_children_stay_when_a_new_one_does_not_come_up(supervisor: Supervisor, spec: Spec) -> None:
    await supervisor.replace([spec(), spec(worker=2)])
    old = [pid_of(child) for child in supervisor.children]
    with pytest.raises(ChildFailed):
        await supervisor.replace([spec(), spec("refuses", worker=2)])
    assert [child.pid for child in supervisor.children] == old
    assert all(child.admin for child in supervisor.children)


async def test_children_end_role_by_role_the_last_named_first(supervisor: Supervisor, script: Path) -> None:
    def child(role: str, worker: int) -> ChildSpec:
        orders = Orders(role=role, worker=worker, text="steady")
        return ChildSpec(command=(sys.executable, str(script)), orders=orders, kill_after_s=PATIENCE_S)

    await supervisor.replace([child("sync", 0), child("api", 1), child("api", 2)])
    sync, *workers = (pid_of(c) for c in supervisor.children)
    os.kill(workers[0], signal.SIGSTOP)  # it does not end until it goes on
    stopping = asyncio.create_task(supervisor.stop())
    await until(lambda: not is_alive(workers[1]), "the end of the other worker")
    assert is_alive(sync)
    os.kill(workers[0], signal.SIGCONT)
    await stopping
    assert not is_alive(sync)


async def test_restarts_are_kept_when_children_are_replaced(supervisor: Supervisor, spec: Spec) -> None:
    await supervisor.replace([spec()])
    os.kill(pid_of(supervisor.children[0]), signal.SIGKILL)
    await until(lambda: supervisor.children[0].restarts == 1, "a restart")
    await supervisor.replace([spec()])
    assert supervisor.restarts() == {("api", 1): 1}


# --- the end of the parent -----------------------------------------------------------------------------------------


async def test_child_ends_when_its_parent_is_killed(script: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(script), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert parent.stdout is not None
        pid = int(await parent.stdout.readline())
        assert is_alive(pid)
    finally:
        parent.kill()
        await parent.wait()
    await until(lambda: not is_alive(pid), "the end of the child")


# --- what the parent shows -----------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[aiohttp.ClientSession]:
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
        yield session
    await runner.cleanup()


async def test_discovery_lists_each_child_with_role_and_worker(supervisor: Supervisor, spec: Spec) -> None:
    await supervisor.replace([spec("steady 127.0.0.1:4001"), spec("steady 0.0.0.0:4002", worker=2)])
    async with serving(build_parent_app(supervisor, Health())) as session, session.get("/sd") as response:
        assert response.content_type == "application/json"
        assert json.loads(await response.read()) == [
            {"targets": ["127.0.0.1:4001"], "labels": {"role": "api", "worker": "1"}},
            {"targets": ["127.0.0.1:4002"], "labels": {"role": "api", "worker": "2"}},  # the host we were asked by
        ]


async def test_metrics_tell_who_is_up_and_who_was_restarted(supervisor: Supervisor, spec: Spec) -> None:
    await supervisor.replace([spec(), spec(worker=2)])
    os.kill(pid_of(supervisor.children[0]), signal.SIGKILL)
    child = supervisor.children[0]
    await until(lambda: child.restarts == 1 and child.admin is not None, "a restart")
    async with serving(build_parent_app(supervisor, Health())) as session, session.get("/metrics") as response:
        text = await response.text()
    assert 'hisbridge_child_up{role="api",worker="1"} 1.0' in text
    assert 'hisbridge_child_restarts_total{role="api",worker="1"} 1.0' in text
    assert 'hisbridge_child_restarts_total{role="api",worker="2"} 0.0' in text


async def test_parent_is_ready_only_when_every_child_is(supervisor: Supervisor, spec: Spec) -> None:
    async def ready(_request: web.Request) -> web.Response:
        return web.json_response({"ready": True, "draining": False})

    async def unready(_request: web.Request) -> web.Response:
        return web.json_response({"ready": False, "draining": False, "reasons": {"store": "away"}}, status=503)

    well, unwell = web.Application(), web.Application()
    well.router.add_get("/readyz", ready)
    unwell.router.add_get("/readyz", unready)
    health = Health()
    children = ChildrenHealth(supervisor, health)
    async with serving(well) as one, serving(unwell) as other:
        places = [str(s._base_url).removeprefix("http://").rstrip("/") for s in (one, other)]
        await supervisor.replace([spec(f"steady {place}", worker=n) for n, place in enumerate(places, start=1)])
        children.watch()
        assert (await health.readiness()).reasons == {"api-2": "store: away"}
        await supervisor.replace([spec(f"steady {places[0]}")])
        children.watch()
        assert (await health.readiness()).ready
        await supervisor.stop()
        assert (await health.readiness()).reasons == {"api-1": "does not run, or is not ready yet"}
    await children.close()


def test_bind_names_the_setting_when_the_address_is_taken() -> None:
    taken = bind("127.0.0.1", 0, setting="service.listen", backlog=1)
    port = taken[0].getsockname()[1]
    with pytest.raises(CannotListen, match=r"service\.listen"):
        bind("127.0.0.1", port, setting="service.listen", backlog=1)
    taken[0].close()


def test_address_is_shown_in_brackets_when_it_is_ipv6() -> None:
    assert (shown(("::1", 80)), shown(("10.0.0.1", 80))) == ("[::1]:80", "10.0.0.1:80")
