"""The highest arrival rate that still passes, by doubling and bisection. Each try is a run of its own, judged as any other."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
from rich.console import Console

from loadtest.peak.lines import Line, line_of
from loadtest.peak.profiles import Profile
from loadtest.peak.run import play_in
from loadtest.verdict.conclusion import Outcome, conclude
from loadtest.verdict.folder import load_run

PRECISION = 1.15
"""The search ends where the lowest rate that fails is at most so many times the highest that passes."""

MOST_TRIES = 8
FLOOR = 1_000  # of a class, in a try: a minute of the peak, not a whole run


def brief(profile: Profile) -> Profile:
    """The part of a profile that decides: from shortly before the opening to the end of the spike."""
    behaviour = msgspec.structs.replace(profile.behaviour, patience_s=30.0)
    return replace(profile, starts_s=-15.0, ends_s=45.0, drain_s=240.0, behaviour=behaviour, floor=FLOOR)


def find_ceiling(profile: Profile, folder: Path, *, scale: float, console: Console) -> tuple[Line, ...]:
    """All tries in order. `folder` gets `ceiling.json`, and the runs on both sides of the ceiling."""
    tries: list[Line] = []
    good, bad = 0.0, float("inf")
    while len(tries) < MOST_TRIES and bad > good * PRECISION:
        place = folder / f"{scale:.3g}"
        play_in(brief(profile).scaled(scale), place)
        tries.append(line_of(profile.name, scale, conclude(load_run(place))))
        console.print(f"x {scale:.3g}: {tries[-1].outcome}, {tries[-1].peak_per_s:,.0f} requests in the busiest second")
        if tries[-1].outcome == Outcome.PASSED:
            good = scale
        else:
            bad = scale
        (folder / "ceiling.json").write_bytes(msgspec.json.format(msgspec.json.encode(tries), indent=2) + b"\n")
        scale = good * 1.5 if bad == float("inf") else (good + bad) / 2 if good else bad / 2
    for other in {f"{t.scale:.3g}" for t in tries} - {f"{good:.3g}", f"{bad:.3g}"}:
        shutil.rmtree(folder / other, ignore_errors=True)
    return tuple(tries)
