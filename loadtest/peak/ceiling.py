"""The highest arrival rate that still passes, by doubling and bisection. Each try is a run of its own, judged as any other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from loadtest.peak.profiles import Profile
from loadtest.peak.run import play
from loadtest.verdict.conclusion import Conclusion, Outcome, conclude
from loadtest.verdict.folder import load_run

PRECISION = 1.15
"""The search ends where the lowest rate that fails is at most so many times the highest that passes."""

MOST_TRIES = 8
FLOOR = 1_000  # of a class, in a try: a minute of the peak, not a whole run


class Try(msgspec.Struct, frozen=True):
    """One try. Rates are requests per second; `cpu_us` is server CPU per request, shares are of one core."""

    scale: float
    outcome: str
    peak_per_s: float
    first_ten_per_s: float
    good_share: float
    p99_ms: dict[str, float]
    lag_p99_ms: float
    cpu_us: float
    generator_share: float
    reasons: tuple[str, ...]


def brief(profile: Profile) -> Profile:
    """The part of a profile that decides: from shortly before the opening to the end of the spike."""
    behaviour = msgspec.structs.replace(profile.behaviour, patience_s=30.0)
    return replace(profile, starts_s=-15.0, ends_s=45.0, drain_s=240.0, behaviour=behaviour)


async def find_ceiling(profile: Profile, folder: Path, *, scale: float, console: Console) -> tuple[Try, ...]:
    """All tries in order. `folder` gets `ceiling.json`, and the runs on both sides of the ceiling."""
    tries: list[Try] = []
    good, bad = 0.0, float("inf")
    while len(tries) < MOST_TRIES and bad > good * PRECISION:
        place = folder / f"{scale:.3g}"
        for part in ("run", "prometheus"):
            (place / part).mkdir(parents=True, exist_ok=True)
        await play(brief(profile).scaled(scale), place)
        tries.append(_summary(scale, conclude(load_run(place), floor=FLOOR)))
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


def _summary(scale: float, found: Conclusion) -> Try:
    judged, facts = found.judged, found.run.facts
    intended_s = judged.intended_s
    seconds = np.bincount(intended_s[intended_s >= 0].astype(int), minlength=1)
    opens_s = facts.opens_at_s or 0.0
    first = ((intended_s >= opens_s) & (intended_s < opens_s + 10)).sum() / 10
    whole = found.availabilities.whole
    lasts_s = float(intended_s.max()) if len(intended_s) else 1.0
    return Try(
        scale=scale,
        outcome=found.outcome.value,
        peak_per_s=float(seconds.max()),
        first_ten_per_s=float(first),
        good_share=float(whole.share or 0.0),
        p99_ms=dict(_p99_ms(found)),
        lag_p99_ms=found.lag_p99_ms,
        cpu_us=facts.server.cpu_s / max(1, facts.server.requests) * 1e6,
        generator_share=facts.generator.cpu_s / lasts_s,
        reasons=found.reasons,
    )


def _p99_ms(found: Conclusion) -> Iterator[tuple[str, float]]:
    for name in found.judged.class_names:
        which = found.judged.of_class(name)
        if which.any():
            yield name, float(np.quantile(found.judged.latency_s[which], 0.99)) * 1000


def table_of(tries: tuple[Try, ...]) -> Table:
    """For the screen, the slowest rate first."""
    table = Table(title="Tries, by rate", title_justify="left")
    for name in (
        "x",
        "outcome",
        "busiest second",
        "first 10 s",
        "good",
        "p99 read",
        "p99 hold",
        "lag p99",
        "us/request",
    ):
        table.add_column(name, justify="right")
    for one in sorted(tries, key=lambda t: t.scale):
        p99 = [f"{one.p99_ms[name]:,.0f}" if name in one.p99_ms else "" for name in ("read", "hold")]
        row: list[Any] = [f"{one.scale:.3g}", one.outcome, f"{one.peak_per_s:,.0f}/s", f"{one.first_ten_per_s:,.0f}/s"]
        table.add_row(*row, f"{one.good_share:.3%}", *p99, f"{one.lag_p99_ms:.1f}", f"{one.cpu_us:,.0f}")
    return table
