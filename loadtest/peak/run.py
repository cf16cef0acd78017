"""One run: set the stage, let the crowd come, break things on time, wait until all is quiet, write everything down."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from loadtest.bench.processes import ProcessFailed, cpu_s, end, end_on_sigterm, start
from loadtest.crowd.plan import CLIENTS, write_plan
from loadtest.peak.aftermath import first_counts, server_counts, until_quiet, write_bookings
from loadtest.peak.faults import Strokes, break_things
from loadtest.peak.planning import make_plan
from loadtest.peak.profiles import Profile
from loadtest.peak.settings import released_day
from loadtest.peak.stage import PORTAL, SCALPER, Stage, set_stage
from loadtest.peak.told import faults, machine, phases, stated
from loadtest.peak.watch import Watch

OBJECTIVE = 0.999
LAG_LIMIT_MS = 50.0


class FolderUsed(ProcessFailed):
    """There is something in the folder for a run: an earlier report beside this run's data would be taken for its own."""


def must_be_empty(folder: Path) -> None:
    """Raises FolderUsed."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderUsed(f"{folder} is not an empty folder; name another one, or clear it")


def play_in(profile: Profile, folder: Path) -> None:
    """`play`, in a folder that is made where it is not there. Raises ProcessFailed, PostgresMissing; FolderUsed at once."""
    must_be_empty(folder)
    for part in ("run", "prometheus"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    asyncio.run(play(profile, folder))


async def play(profile: Profile, folder: Path) -> None:
    """Run a profile; `folder` has the empty folders `run`, for what comes of it, and `prometheus`.

    Raises ProcessFailed, postgres.PostgresMissing.
    """
    end_on_sigterm()
    measured_on = machine()
    async with set_stage(profile, folder) as stage:
        await _perform(stage, folder / "run", measured_on)


async def _perform(stage: Stage, out: Path, measured_on: dict[str, Any]) -> None:
    profile, began_at = stage.profile, time.time()
    plan = await make_plan(stage)
    write_plan(plan, out / "plan.json")
    before = await first_counts(stage)
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
    struck: Strokes = {}
    background = [
        asyncio.create_task(watch.run()),
        asyncio.create_task(
            break_things(stage.profile, stage.hospitals, stage.service.pid, stage.database, stage.opens_at, struck)
        ),
    ]
    try:
        said, complained = await crowd.communicate()
        if crowd.returncode != 0:
            raise ProcessFailed(f"the crowd failed: {complained.decode(errors='replace')[-2000:]}")
        summary = json.loads(said.decode().strip().splitlines()[-1])
        crowd_ended_s = time.time() - started_at
        cpu_after_s = cpu_s(stage.service.pid)
        quiet = await until_quiet(stage)
    finally:
        await end(crowd)
        for task in background:
            task.cancel()
        failed = [r for r in await asyncio.gather(*background, return_exceptions=True) if isinstance(r, Exception)]
    if failed:
        raise failed[0]
    counts = await server_counts(stage, began_at, before)
    await write_bookings(stage, out)
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
            "phases": phases(plan, crowd_ended_s, time.time() - started_at),
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
            "faults": faults(struck, started_at),
            "machine": measured_on,
            "generator": {
                "lag_ms": summary["lag_ms"],
                "cpu_s": summary["cpu_s"],
                "void": summary["lag_ms"]["p99"] > LAG_LIMIT_MS,
                "connections": summary["connections"],
            },
            "server": {"cpu_s": cpu_after_s - cpu_before_s, "requests": summary["requests"]},
            "objective": OBJECTIVE,
            "floor": profile.floor,
            "judged": {
                "classes": list(profile.judged),
                "peak": profile.judges_peak,
                "recovery_s": profile.recovery_s,
                "policy": {PORTAL: True, SCALPER: profile.flood is None},
            },
            "quiet_after_s": quiet,
        },
    )


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
