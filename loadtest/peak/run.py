"""One run: set the stage, let the crowd come, break things on time, wait until all is quiet, write everything down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import platform
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from loadtest.bench import postgres
from loadtest.bench.processes import (
    Cores,
    ProcessFailed,
    cpu_s,
    divide_cores,
    end,
    last_words,
    output_of,
    start,
)
from loadtest.crowd.plan import CLIENTS, Flood, Plan, Target, write_plan
from loadtest.peak.faults import break_things
from loadtest.peak.hospitals import Hospitals
from loadtest.peak.people import bind_people
from loadtest.peak.profiles import POSTGRESQL, SQLITE, Profile
from loadtest.peak.scraping import Counts, Pages, Prometheus, as_rows
from loadtest.peak.settings import Ports, released_day, write_settings, zone_of
from loadtest.peak.watch import Watch
from loadtest.ports import free_port

PORTAL, SCALPER = CLIENTS
READY_WITHIN_S = 60.0
LISTED_WITHIN_S = 60.0
START_S = 20.0  # what the service takes to be ready and to have fetched all schedules
SCALPER_PATIENTS = 20
QUIET_S = 8.0  # more than the time between two measurements of the service
OBJECTIVE = 0.999
LAG_LIMIT_MS = 50.0


@dataclass(frozen=True)
class Stage:
    """Everything that runs during a run."""

    profile: Profile
    folder: Path
    session: aiohttp.ClientSession
    hospitals: Hospitals
    service: asyncio.subprocess.Process
    ports: Ports
    keys: dict[str, str]
    patients: dict[str, list[str]]
    opens_at: float
    zone: str
    pages: Pages
    prometheus: Prometheus | None
    database: postgres.Server | None
    cores: Cores

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports.api}"

    def of(self, hospital_id: str, path: str) -> str:
        return f"{self.api}/v1/hospitals/{hospital_id}{path}"

    def key(self, client: str = PORTAL) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[client]}"}


def play_in(profile: Profile, folder: Path) -> None:
    """`play`, in a folder that is made where it is not there. Raises ProcessFailed, PostgresMissing."""
    for part in ("run", "prometheus"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    asyncio.run(play(profile, folder))


async def play(profile: Profile, folder: Path) -> None:
    """Run a profile; `folder` has the empty folders `run`, for what comes of it, and `prometheus`.

    Raises ProcessFailed, postgres.PostgresMissing.
    """
    async with _stage(profile, folder) as stage:
        await _perform(stage, folder / "run")


async def _perform(stage: Stage, out: Path) -> None:
    profile, began_at = stage.profile, time.time()
    plan = await _plan(stage)
    write_plan(plan, out / "plan.json")
    before = await _counts(stage)
    crowd = await start("-m", "loadtest.crowd", str(out / "plan.json"), "--out", str(out), cores=stage.cores.load)
    started_at = plan.opens_at + plan.starts_s
    watch = Watch(
        stage.hospitals,
        day=released_day(stage.opens_at, stage.zone),
        started_at=started_at,
        service_pid=stage.service.pid,
        crowd_pid=crowd.pid,
    )
    cpu_before_s = cpu_s(stage.service.pid)
    background = [
        asyncio.create_task(watch.run()),
        asyncio.create_task(
            break_things(stage.profile, stage.hospitals, stage.service.pid, stage.database, stage.opens_at)
        ),
    ]
    try:
        said, complained = await crowd.communicate()
        if crowd.returncode != 0:
            raise ProcessFailed(f"the crowd failed: {complained.decode(errors='replace')[-2000:]}")
        summary = json.loads(said.decode().strip().splitlines()[-1])
        crowd_ended_s = time.time() - started_at
        cpu_after_s = cpu_s(stage.service.pid)
        quiet = await _until_quiet(stage)
    finally:
        await end(crowd)
        for task in background:
            task.cancel()
        failed = [r for r in await asyncio.gather(*background, return_exceptions=True) if isinstance(r, Exception)]
    if failed:
        raise failed[0]
    counts = await _server_counts(stage, began_at, before)
    await _write_bookings(stage, out)
    _write(out / "his.json", await stage.hospitals.books())
    _write(out / "series.json", watch.series)
    _write(out / "prometheus.json", counts)
    pages = await stage.pages.read()
    (out / "metrics.txt").write_text("\n".join(f"# {a}\n{text}" for a, text in pages.items()), encoding="utf-8")
    _write(
        out / "run.json",
        {
            "profile": profile.name,
            "about": profile.about,
            "started_at": started_at,
            "opens_at_s": -plan.starts_s,
            "duration_s": time.time() - started_at,
            "engine": profile.engine,
            "workers": profile.workers,
            "phases": _phases(plan, crowd_ended_s, time.time() - started_at),
            "peak": {"from_s": -plan.starts_s, "to_s": -plan.starts_s + min(60.0, plan.ends_s)},
            "stated": stated(profile),
            "rates": {
                "spike_visits_per_s": profile.shape.spike_per_s,
                "visits_in_release_minute": profile.shape.expected(0, min(60.0, profile.ends_s)),
                "seats": sum(h.doctors * h.seats * 8 for h in profile.hospitals),
            },
            "classes": summary["classes"],
            "codes": summary["codes"],
            "hospitals": [h.id for h in profile.hospitals],
            "clients": list(CLIENTS),
            "faults": _faults(profile, -plan.starts_s),
            "machine": machine(),
            "generator": {
                "lag_ms": summary["lag_ms"],
                "cpu_s": summary["cpu_s"],
                "void": summary["lag_ms"]["p99"] > LAG_LIMIT_MS,
                "connections": summary["connections"],
            },
            "server": {"cpu_s": cpu_after_s - cpu_before_s, "requests": summary["requests"]},
            "objective": OBJECTIVE,
            "judged": {
                "classes": list(profile.judged),
                "peak": profile.judges_peak,
                "recovery_s": profile.recovery_s,
                "policy": {PORTAL: True, SCALPER: profile.flood is None},
            },
            "quiet_after_s": quiet,
        },
    )


# --- the stage -----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _stage(profile: Profile, folder: Path) -> AsyncIterator[Stage]:
    """Start everything; end it in the reverse order."""
    cores = divide_cores(os.sched_getaffinity(0))
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30), connector=aiohttp.TCPConnector(limit=64))
        )
        urls, database = await _stores(profile, folder, stack)
        inbound = {h.id: free_port() for h in profile.hospitals if h.protocol == "hl7"}
        opens_at, zone = time.time() + 60, zone_of(time.time())  # the minute is settled when all that is slow is done
        placeholder = Ports(1, 2, {h.id: 3 for h in profile.hospitals}, dict.fromkeys(inbound, 4), {})
        write_settings(folder, profile, placeholder, urls=urls, opens_at=opens_at, zone=zone)
        keys = await _prepare(folder)
        patients = {h.id: await bind_people(folder, urls[0], h.id, PORTAL, profile.people) for h in profile.hospitals}
        hospitals = Hospitals(session)
        stack.push_async_callback(hospitals.close)
        await hospitals.open(profile, inbound, zone)
        opens_at = math.ceil((time.time() + START_S - profile.starts_s) / 60) * 60.0
        ports = Ports(
            free_port(),
            free_port(),
            {name: s.port for name, s in hospitals.running.items()},
            inbound,
            {name: s.wsdl for name, s in hospitals.running.items()},
        )
        config = write_settings(folder, profile, ports, urls=urls, opens_at=opens_at, zone=zone)
        log = folder / "run" / "service.log"
        server_cores = cores.server if profile.engine == SQLITE else ()
        service = await start("-m", "service", "--config", str(config), cores=server_cores, log=log)
        stack.push_async_callback(end, service)
        many = profile.engine == POSTGRESQL
        await _until_ready(ports.admin, service, log)
        prometheus = await Prometheus.start(folder / "prometheus", ports.admin, session, many=many)
        if prometheus is not None:
            stack.push_async_callback(prometheus.stop)
        yield Stage(
            profile, folder, session, hospitals, service, ports, keys, patients, opens_at, zone,
            Pages(session, ports.admin, many=many), prometheus, database, cores,
        )  # fmt: skip


async def _stores(
    profile: Profile, folder: Path, stack: contextlib.AsyncExitStack
) -> tuple[tuple[str, str], postgres.Server | None]:
    if profile.engine == SQLITE:
        return (f"sqlite:///{folder}/hisbridge.db", f"sqlite:///{folder}/messages.db"), None
    server = await stack.enter_async_context(postgres.running(()))
    return (await server.create_database("hisbridge"), await server.create_database("messages")), server


async def _prepare(folder: Path) -> dict[str, str]:
    """Secrets, migrated stores and a key for each client, by the way of an operator."""
    config = str(folder / "hisbridge.toml")
    await _operate("secrets", "--data-key", str(folder / "data.key"), "--digest-key", str(folder / "digest.key"))
    await _operate("migrate", "--config", config)
    return {client: (await _operate("keys", "add", client, "--config", config)).strip() for client in CLIENTS}


async def _operate(*words: str) -> str:
    return await output_of(sys.executable, "-m", "cli", *words, cores=(), within_s=120)


async def _until_ready(admin_port: int, service: asyncio.subprocess.Process, log: Path) -> None:
    ends = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < ends and service.returncode is None:
        if await asyncio.to_thread(_is_ready, f"http://127.0.0.1:{admin_port}/readyz"):
            return
        await asyncio.sleep(0.1)
    raise ProcessFailed(f"the service did not become ready: {last_words(log)}")


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310  # our own loopback address
            return int(response.status) == 200
    except (OSError, urllib.error.URLError):
        return False


# --- before the crowd ----------------------------------------------------------------------------------------------


async def _plan(stage: Stage) -> Plan:
    """Everything that the crowd must know, as the API tells it to any portal."""
    profile, day = stage.profile, released_day(stage.opens_at, stage.zone)
    targets = []
    for hospital in profile.hospitals:
        departments = await _listed(stage, hospital.id, day, hospital.doctors * 8)
        targets.append(
            Target(
                id=hospital.id,
                share=hospital.share,
                day=day,
                departments=tuple(departments),
                patients=tuple(stage.patients[hospital.id]),
            )
        )
    latest = profile.ends_s + profile.behaviour.patience_s + 30
    return Plan(
        port=stage.ports.api,
        key=stage.keys[PORTAL],
        targets=tuple(targets),
        opens_at=stage.opens_at,
        starts_s=max(profile.starts_s, time.time() + 2.0 - stage.opens_at),
        ends_s=profile.ends_s,
        give_up_s=min(latest, profile.ends_s + profile.drain_s),
        shape=profile.shape,
        behaviour=profile.behaviour,
        flood=await _flood(stage),
    )


async def _listed(stage: Stage, hospital_id: str, day: str, slots: int) -> list[str]:
    """Wait until all of the released slots are listed as not released; the departments that have them."""
    ends = time.monotonic() + LISTED_WITHIN_S
    seen: list[dict[str, Any]] = []
    while time.monotonic() < ends:
        departments = await _items(stage, hospital_id, "/departments", {})
        lists = [
            await _items(stage, hospital_id, "/slots", {"department_id": d["id"], "from": day, "to": day, "limit": 200})
            for d in departments
        ]
        seen = [slot for one in lists for slot in one]
        if len(seen) == slots:
            return [d["id"] for d, one in zip(departments, lists, strict=True) if one]
        await asyncio.sleep(0.5)
    raise ProcessFailed(f"{hospital_id} lists {len(seen)} of {slots} slots on {day}; see the service's log")


async def _items(stage: Stage, hospital_id: str, path: str, query: dict[str, Any]) -> list[dict[str, Any]]:
    async with stage.session.get(stage.of(hospital_id, path), params=query, headers=stage.key()) as response:
        if response.status != 200:
            return []
        return list((await response.json())["items"])


async def _flood(stage: Stage) -> Flood | None:
    """The scalper's share of the plan: a key and patients of its own."""
    told = stage.profile.flood
    if told is None:
        return None
    patients = []
    for number in range(SCALPER_PATIENTS):
        body = {
            "user_ref": f"scalper-{number}", "name": f"黄牛{number}", "id_type": "passport",
            "id_number": f"E9{number:07d}", "phone": f"137{number:08d}",
        }  # fmt: skip
        headers = {**stage.key(SCALPER), "Idempotency-Key": f"scalper-{number}"}
        async with stage.session.post(stage.of(told.hospital, "/patients"), json=body, headers=headers) as response:
            response.raise_for_status()
            patients.append((await response.json())["id"])
    return Flood(
        key=stage.keys[SCALPER],
        hospital=told.hospital,
        per_s=told.per_s,
        from_s=told.from_s,
        to_s=told.to_s,
        patients=tuple(patients),
    )


# --- after the crowd -----------------------------------------------------------------------------------------------


async def _until_quiet(stage: Stage) -> float | None:
    """Wait until no command is left and no HIS is asked; how long that took in seconds, None when it never came.

    The service measures its outbox every 5 s, where somebody works the hospital: a process that has just come tells nothing yet.
    """
    began = time.monotonic()
    quiet_since_s: float | None = None
    while time.monotonic() - began < stage.profile.drain_s:
        worked = await stage.pages.sum("hisbridge_hospital_worked")
        left = await stage.pages.sum("hisbridge_outbox_depth")
        running = sum((one or {"running": 1})["running"] for one in (await stage.hospitals.pulse()).values())
        is_quiet = worked == len(stage.profile.hospitals) and left == 0 and running == 0
        quiet_since_s = None if not is_quiet else quiet_since_s or time.monotonic()
        if quiet_since_s is not None and time.monotonic() - quiet_since_s > QUIET_S:
            return quiet_since_s - began
        await asyncio.sleep(1.0)
    return None


async def _counts(stage: Stage) -> Counts:
    return {} if stage.prometheus is not None else await stage.pages.counts()


async def _server_counts(stage: Stage, began_at: float, before: Counts) -> dict[str, Any]:
    """The server's SLI of this run. Prometheus knows what a killed process had counted, but for its last second."""
    lost = any(fault.action.startswith("kill") for fault in stage.profile.service_faults)
    if stage.prometheus is not None:
        await asyncio.sleep(2.5)  # two more scrapes
        counts, source = await stage.prometheus.counts(began_at), "prometheus"
    else:
        counts, source = await stage.pages.counts(), "metrics"
        for key, count in before.items():
            counts[key] = counts.get(key, 0.0) - count
    return {"source": source if counts else "none", "sli": as_rows(counts), "lost_counts": lost}


async def _write_bookings(stage: Stage, out: Path) -> None:
    """What became of every booking that was acknowledged, as its portal sees it."""
    kept = [json.loads(line) for line in (out / "acknowledged.jsonl").read_bytes().splitlines()]
    places = asyncio.Semaphore(16)
    scalpers = stage.key(SCALPER)

    async def look(booking: dict[str, Any]) -> dict[str, Any]:
        url = stage.of(booking["hospital"], f"/bookings/{booking['id']}")
        async with places:
            status, body = await _patiently(stage, url, stage.key())
            if status == 404:
                status, body = await _patiently(stage, url, scalpers)
        final: dict[str, Any] = {"status": status}
        if status == 200:
            final |= {
                "order_no": body["order_no"],
                "state": body["state"],
                "his_state": body["his_state"],
                "payment_state": body["payment_state"],
                "rejected_code": body.get("reason") if body["state"] == "rejected" else None,
                "refunds": [{"amount_fen": r["amount_fen"], "state": r["status"]} for r in body.get("refunds", [])],
            }
        return {**booking, "final": final}

    found = await asyncio.gather(*(look(booking) for booking in kept))
    with (out / "bookings.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(booking, ensure_ascii=False) + "\n" for booking in found)


async def _patiently(stage: Stage, url: str, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """Ask again when told to, as any portal does."""
    while True:
        async with stage.session.get(url, headers=headers) as response:
            if response.status != 429:
                return response.status, await response.json()
            wait_s = float(response.headers["Retry-After"])
        await asyncio.sleep(wait_s)


# --- what is said of a run -----------------------------------------------------------------------------------------


def stated(profile: Profile) -> list[str]:
    """The rates and weights of a profile in words, beside the figures that they are scaled from."""
    shape, behaviour = profile.shape, profile.behaviour
    seats = sum(h.doctors * h.seats * 8 for h in profile.hospitals)
    visits = shape.expected(0, min(60.0, profile.ends_s))
    return [
        "Scaled from one tertiary hospital: 1,009 seats a day, 200,000 visits in the release minute, over 20,000 requests "
        "a second at the peak.",
        f"Here {visits:,.0f} visits come in the release minute ({shape.spike_per_s:,.0f}/s at the opening, falling with a "
        f"time constant of {shape.decay_s:g} s), for {seats:,} seats at {len(profile.hospitals)} hospitals: "
        f"{visits / 200_000:.1%} of the visits, and more seats, so that there are enough holds to judge.",
        f"A visit is a journey of about five requests: look, look again (every {behaviour.refresh_s[0]:g} to "
        f"{behaviour.refresh_s[1]:g} s until the opening), up to {behaviour.attempts} holds, "
        f"{behaviour.stale_try:.0%} try a seat that is shown as sold out, {behaviour.comes_back:.0%} of those without a seat "
        f"come back; of those with one {behaviour.gives_up:.0%} give up, {behaviour.vanishes:.0%} vanish, the others pay "
        f"when the HIS has locked, and {behaviour.cancels_paid:.0%} of them cancel.",
        *(
            f"{h.id} ({h.protocol}): {h.share:.0%} of the visits, {h.doctors * h.seats * 8:,} seats in {h.departments} "
            f"departments, a call takes {h.latency_ms:g} ms (median, lognormal), at most {h.at_once} at once."
            for h in profile.hospitals
        ),
    ]


def _phases(plan: Plan, crowd_ended_s: float, ended_s: float) -> list[dict[str, Any]]:
    opens_s = -plan.starts_s
    ramp_s = max(0.0, opens_s + plan.shape.ramp_from_s)
    peak_s = opens_s + min(60.0, plan.ends_s)
    edges = [
        ("quiet", 0.0, ramp_s),
        ("ramp", ramp_s, opens_s),
        ("peak", opens_s, peak_s),
        ("decay", peak_s, opens_s + plan.ends_s),
        ("drain", opens_s + plan.ends_s, max(crowd_ended_s, ended_s)),
    ]
    return [{"name": name, "from_s": begins, "to_s": ends} for name, begins, ends in edges if ends > begins]


def _faults(profile: Profile, opens_s: float) -> list[dict[str, Any]]:
    of_his = [
        {
            "at_s": max(0.0, opens_s + f.at_s),
            "until_s": None if f.until_s is None else opens_s + f.until_s,
            "what": f.what,
            "hospital": f.hospital,
        }
        for f in profile.his_faults
    ]
    of_service = [
        {"at_s": opens_s + f.at_s, "until_s": None, "what": f.what, "hospital": None} for f in profile.service_faults
    ]
    return of_his + of_service


def machine() -> dict[str, Any]:
    """Where this was measured."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "model": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_bytes / 2**30),
        "kernel": platform.release(),
    }


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
