"""What is printed and kept: the table, `results.json`, and the figures' part of `docs/benchmarks.md`."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.bench.stats import Row, Sample, Summary, summary

BEGIN, END = "<!-- figures: begin (written by make bench) -->", "<!-- figures: end -->"
HEADS = ("what", "ours", "baseline", "ratio", "bar", "", "CPU each, ours / baseline", "p50 / p99, ours")


def as_data(
    rows: Sequence[Row], idle: Sequence[dict[str, Any]], settings: dict[str, Any], postgres_version: str | None
) -> dict[str, Any]:
    """Everything that was found, as JSON may hold it."""
    return {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(postgres_version),
        "settings": settings,
        "rows": [_row(row) for row in rows],
        "idle": list(idle),
    }


def machine() -> dict[str, Any]:
    """What it ran on."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "")
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model or platform.machine(),
        "cores": os.cpu_count() or 1,  # this process itself is held to some of them
        "memory_gb": round(memory_gb, 1),
        "kernel": f"{platform.system()} {platform.release()}",
    }


def versions(postgres_version: str | None) -> dict[str, str]:
    """Of what the figures depend on."""
    found = {
        name: importlib.metadata.version(name)
        for name in ("aiohttp", "uvloop", "asyncpg", "hl7apy", "hl7", "lxml", "msgspec", "zeep", "fhir.resources")
    }
    found = {"python": platform.python_version(), **found, "sqlite": sqlite3.sqlite_version}
    return found if postgres_version is None else {**found, "postgresql": postgres_version}


def _row(row: Row) -> dict[str, Any]:
    return {
        "key": row.key,
        "what": row.what,
        "unit": row.unit,
        "baseline_is": row.baseline_is,
        "bar": row.bar,
        "ratio": _spread(row.ratio, 3),
        "ours": _side(row.ours),
        "baseline": _side(row.baseline),
        "notes": row.notes,
        "problems": row.problems,
        "met": row.met,
    }


def _side(samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "rounds": len(samples),
        "count": sum(s.count for s in samples),
        "rate": _spread(summary([s.rate for s in samples]), 1),
        "cpu_us": _spread(_of(samples, "cpu_us"), 1),
        "database_cpu_us": _spread(_of(samples, "database_cpu_us"), 1),
        "p50_ms": _spread(_of(samples, "p50_ms"), 2),
        "p99_ms": _spread(_of(samples, "p99_ms"), 2),
    }


def _of(samples: Sequence[Sample], name: str) -> Summary | None:
    return summary([value for s in samples if (value := getattr(s, name)) is not None])


def _spread(found: Summary | None, digits: int) -> dict[str, float] | None:
    if found is None:
        return None
    return {
        "median": round(found.median, digits),
        "min": round(found.least, digits),
        "max": round(found.most, digits),
    }


# --- for people ----------------------------------------------------------------------------------------------------


def cells(row: dict[str, Any], *, judged: bool) -> list[str]:
    """One line of the table."""
    bar = "" if row["bar"] is None else f"{row['bar']:g}"
    if row["problems"]:
        verdict = "FAILED"
    elif not judged or row["bar"] is None:
        verdict = ""
    else:
        verdict = "met" if row["met"] else "MISSED"
    return [
        row["what"],
        _figure(row["ours"]["rate"], "/s"),
        _figure(row["baseline"]["rate"], "/s"),
        _ratio(row["ratio"]),
        bar,
        verdict,
        _cpu(row),
        f"{_short(row['ours']['p50_ms'], 'ms')} / {_short(row['ours']['p99_ms'], 'ms')}",
    ]


def _figure(found: dict[str, float] | None, unit: str) -> str:
    return "-" if found is None else f"{found['median']:,.0f}{unit} ({found['min']:,.0f} to {found['max']:,.0f})"


def _ratio(found: dict[str, float] | None) -> str:
    return "-" if found is None else f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})"


def _short(found: dict[str, float] | None, unit: str) -> str:
    return "-" if found is None else f"{found['median']:,.3g} {unit}"


def _cpu(row: dict[str, Any]) -> str:
    def of(side: dict[str, Any]) -> str:
        if side["cpu_us"] is None:
            return "-"
        beside = side["database_cpu_us"]
        return f"{side['cpu_us']['median']:,.0f} us" + ("" if beside is None else f" + {beside['median']:,.0f} db")

    return f"{of(row['ours'])} / {of(row['baseline'])}"


def as_text(data: dict[str, Any], *, judged: bool) -> str:
    """The table for a terminal: a paragraph for each row, because lines of eight columns wrap."""
    lines = []
    for row in data["rows"]:
        what, ours, baseline, ratio, bar, verdict, cpu, latency = cells(row, judged=judged)
        lines += [
            f"{row['key']}: {what}",
            f"    ours      {ours} {row['unit']}, p50 / p99 {latency}",
            f"    baseline  {baseline} {row['unit']}: {row['baseline_is']}",
            f"    ratio     {ratio}" + (f"   bar {bar}" if bar else "") + (f"   {verdict}" if verdict else ""),
            f"    CPU each  {cpu}",
            *(f"    {name}: {note}" for name, note in row["notes"].items()),
            *(f"    PROBLEM: {problem}" for problem in row["problems"]),
        ]
    return "\n".join(lines)


def as_markdown(data: dict[str, Any]) -> str:
    """The figures' part of the page."""
    on, settings = data["machine"], data["settings"]
    packages = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    lines = [
        BEGIN,
        f"Measured {data['when']} by `{settings['command']}`.",
        "",
        f"- Machine: {on['cpu']}, {on['cores']} cores, {on['memory_gb']:g} GB, {on['kernel']}",
        f"- Versions: {packages}",
        f"- Load: {settings['generator']}, {settings['seconds']:g} s a round, {settings['rounds']} rounds of each side in turn;"
        f" {settings['cores']}",
        f"- Disk: fdatasync of 4 KB p50 {settings['fdatasync_p50_ms']:.2f} ms, p99 {settings['fdatasync_p99_ms']:.2f} ms",
        f"- {settings['his']}",
        "",
        "| " + " | ".join(HEADS) + " |",
        "|" + "---|" * len(HEADS),
        *("| " + " | ".join(cells(row, judged=True)) + " |" for row in data["rows"]),
        "",
        *(
            f"- {row['key']}, baseline: {row['baseline_is']}"
            + "".join(f"; {name}: {note}" for name, note in row["notes"].items())
            for row in data["rows"]
        ),
        *(f"- {row['key']}: {problem}" for row in data["rows"] for problem in row["problems"]),
    ]
    if data["idle"]:
        lines += [
            "",
            "| at rest, beside reports, while a WSDL loads, while Slots are synced | median | min | max | bar | |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {r['what']} | {r['median']} {r['unit']} | {r['min']} | {r['max']} | < {r['bar']:g} {r['unit']} |"
            f" {'met' if r['met'] else 'MISSED'} |"
            for r in data["idle"]
        ]
    return "\n".join([*lines, END])


def put_into_page(page: str, figures: str) -> str:
    """The page with its figures replaced. Raises ValueError where it has no place for them."""
    before, begin, rest = page.partition(BEGIN)
    _, finish, after = rest.partition(END)
    if not begin or not finish:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return before + figures + after
