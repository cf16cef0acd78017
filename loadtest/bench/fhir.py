"""A sync of many Slots over FHIR, against loops that only validate the same pages with fhir.resources."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest.bench.fhir_pages import DAYS, FROM, write_pages
from loadtest.bench.processes import end, first_line, start
from loadtest.bench.rounds import Terms, figures, of_process
from loadtest.bench.stats import Row, Sample

STALL_BAR_MS = 20.0
RSS_BAR_MB = 300.0


async def measure_sync(terms: Terms, folder: Path, slots: int, rows: Sequence[Row]) -> list[dict[str, float]]:
    """Add to the rows one round of ours beside one of each baseline, in turn; what each of our rounds told."""
    pages = folder / "slot-pages"
    size = write_pages(pages, slots)
    rows[0].notes["pages"] = f"{len(list(pages.iterdir())):,} of 100 Slots, {size / 1e6:.0f} MB"
    told, peaks = [], []
    for _ in range(terms.rounds):
        found = await _sync(terms, pages)
        told.append(found)
        ours = _sample(found, slots)
        for row, way in zip(rows, ("bundles", "slots"), strict=True):
            baseline = await figures(
                "-m", "loadtest.bench.baselines.fhir_validating", way, str(pages), terms=_patient(terms)
            )
            peaks.append(baseline["rss_mb"])
            row.ours.append(ours)
            row.baseline.append(_sample(baseline, slots))
    rows[0].notes["peak RSS of the baselines"] = f"{max(peaks):.0f} MB"
    return told


async def _sync(terms: Terms, pages: Path) -> dict[str, float]:
    """The product against a server of its own, which is on the cores of the load."""
    server = await start("-m", "loadtest.bench.fhir_pages", str(pages), cores=terms.cores.load)
    try:
        port = json.loads(await first_line(server, "the server of pages"))["port"]
        return await figures(
            "-m", "connectors.fhir.alone", "--base-url", f"http://127.0.0.1:{port}/fhir", "--profile", "fhir_r4@1",
            "--from", FROM.isoformat(), "--days", f"{DAYS}", terms=_patient(terms),
        )  # fmt: skip
    finally:
        await end(server)


def _patient(terms: Terms) -> Terms:
    """All pages once, however long it takes."""
    return dataclasses.replace(terms, seconds=600.0)


def _sample(found: dict[str, float], slots: int) -> Sample:
    wrong = () if found["slots"] == slots else (f"{found['slots']:g} of {slots} Slots were read",)
    return dataclasses.replace(of_process(found, "slots"), problems=wrong)


def limits_of(told: Sequence[dict[str, float]], slots: int) -> tuple[str, list[dict[str, Any]]]:
    """The lines to print, and the rows as data: the longest stall of the loop, and both processes' peaks taken together."""
    of = f"while {slots:,} Slots are synced"
    rows = [
        _limit(f"longest stall of the loop {of}", "ms", STALL_BAR_MS, told, lambda one: one["longest_ms"]),
        _limit(f"peak RSS, helper process included, {of}", "MB", RSS_BAR_MB, told, _both_mb),
    ]
    lines = [
        f"{row['what']:<62} {row['median']:>8} {row['unit']} (min {row['min']}, max {row['max']}, {row['rounds']} rounds)"
        f"   bar < {row['bar']:g} {row['unit']}   {'met' if row['met'] else 'MISSED'}"
        for row in rows
    ]
    quiet_ms = [one["quiet_ms"] for one in told]
    lines.append(f"    while nothing was done: {statistics.median(quiet_ms):.2f} ms (max {max(quiet_ms):.2f})")
    return "\n".join(lines), rows


def _both_mb(found: dict[str, float]) -> float:
    return found["rss_mb"] + found["helper_rss_mb"]


def _limit(
    what: str, unit: str, bar: float, told: Sequence[dict[str, float]], of: Callable[[dict[str, float]], float]
) -> dict[str, Any]:
    """Judged by the worst round."""
    values = [of(one) for one in told]
    return {
        "what": what,
        "unit": unit,
        "median": round(statistics.median(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
        "rounds": len(values),
        "bar": bar,
        "met": max(values) < bar,
        "problems": [],
    }
