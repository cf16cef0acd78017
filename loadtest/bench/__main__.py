"""`python -m loadtest.bench`: measures every row against its baseline, prints, and exits 1 where a bar is missed."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from loadtest.arguments import counted, positive
from loadtest.bench.delay import measure_delay
from loadtest.bench.disk import fdatasync_ms
from loadtest.bench.fhir import limits_of
from loadtest.bench.fill.layout import LEAST_SLOTS
from loadtest.bench.idle import QUIET_S, measure_idle, report
from loadtest.bench.load import default_generator
from loadtest.bench.processes import divide_cores, end_on_sigterm, on_cores
from loadtest.bench.results import as_data, as_markdown, as_text, put_into_page
from loadtest.bench.rounds import Terms
from loadtest.bench.rows import HIS, Plan, Sizes, chosen, plans, staged
from loadtest.bench.soap import measure_stall
from loadtest.bench.stats import Row

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
LIMITS = ("idle", "delay", "wsdl")
SHORT_SIZES = Sizes(small=LEAST_SLOTS, large=3 * LEAST_SLOTS, crowd=3_000, sync=1_500)


def main() -> int:
    arguments = _parser().parse_args()
    names = [name for name in arguments.rows.split(",") if name]
    sizes = SHORT_SIZES if arguments.short else Sizes()
    try:
        wanted = plans(sizes) if not names else chosen(plans(sizes), [n for n in names if n not in LIMITS])
    except ValueError as e:
        print(e, file=sys.stderr)
        return 2
    terms = Terms(
        rounds=1 if arguments.short else arguments.rounds,
        seconds=0.3 if arguments.short else arguments.seconds,
        generator=arguments.generator or ("own" if arguments.short else default_generator()),
        cores=divide_cores(os.sched_getaffinity(0)),
        short=arguments.short,
    )
    try:
        limits = {name for name in LIMITS if not names or name in names}
        data = asyncio.run(_measure(terms, sizes, wanted, limits))
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 130
    print(as_text(data, judged=not arguments.short))
    _keep(data, arguments.json, whole=not names and not arguments.short)
    rows: list[dict[str, Any]] = [*data["rows"], *data["idle"]]
    if arguments.short:
        return 1 if any(row.get("problems") for row in rows) else 0
    return 0 if all(row["met"] for row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description="Measure against stated bars.")
    parser.add_argument(
        "--rows",
        default="",
        help="some rows only, by key or its beginning: get,post-sqlite,in,soap,fhir,delay,wsdl,idle ...",
    )
    parser.add_argument("--rounds", type=counted, default=5, help="rounds of each side, in turn (default 5)")
    parser.add_argument("--seconds", type=positive, default=5.0, help="seconds of load in a round (default 5)")
    parser.add_argument("--generator", choices=("wrk", "own"), help="default: wrk where it is installed")
    parser.add_argument("--short", action="store_true", help="see that every row runs; judge nothing, keep nothing")
    parser.add_argument("--json", type=Path, help="write the results there as well")
    return parser


async def _measure(terms: Terms, sizes: Sizes, wanted: list[Plan], limits: Collection[str]) -> dict[str, Any]:
    end_on_sigterm()
    limited: list[dict[str, Any]] = []
    if "idle" in limits:
        text, limited = report(await measure_idle(terms.rounds, quiet_s=0.5 if terms.short else QUIET_S))
        print(text, flush=True)
    on_cores(terms.cores.load)()  # this process talks to the program, too, and starts what loads it
    with tempfile.TemporaryDirectory(prefix="hisbridge-bench-") as name:
        folder = Path(name)
        disk = fdatasync_ms(folder)
        async with staged(terms, sizes, folder) as stage:
            rows = [row for plan in wanted for row in await _measured(stage, plan)]
            if "delay" in limits:
                print("delay ...", file=sys.stderr, flush=True)
                text, delays = await measure_delay(terms, await stage.installation("sqlite", sizes.small))
                print(text, flush=True)
                limited += delays
            if "wsdl" in limits:
                print("wsdl ...", file=sys.stderr, flush=True)
                text, stalls = await measure_stall(terms)
                print(text, flush=True)
                limited += stalls
            if stage.syncs:
                text, of_sync = limits_of(stage.syncs, sizes.sync)
                print(text, flush=True)
                limited += of_sync
            version = None if stage.server is None else stage.server.version
    cores = terms.cores
    settings = {
        "command": " ".join(["python -m loadtest.bench", *sys.argv[1:]]),
        "rounds": terms.rounds,
        "seconds": terms.seconds,
        "generator": terms.generator,
        "cores": "the server on one core; the load, the HIS and PostgreSQL on the others"
        if cores.pinned
        else "one core",
        "fdatasync_p50_ms": round(disk[0], 3),
        "fdatasync_p99_ms": round(disk[1], 3),
        "his": HIS,
    }
    return as_data(rows, limited, settings, version)


async def _measured(stage: Any, plan: Plan) -> list[Row]:
    """The rows of a plan; what goes wrong fails them, and other plans go on."""
    rows = plan.rows()
    print(f"{plan.key} ...", file=sys.stderr, flush=True)
    try:
        await plan.measure(stage, *rows)
    except Exception as e:
        for row in rows:
            row.failure = f"{type(e).__name__}: {e}"
    return rows


def _keep(data: dict[str, Any], file: Path | None, *, whole: bool) -> None:
    """A whole run replaces the figures of the repository; anything goes to `file` if one is given."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    if file is not None:
        file.write_text(text, encoding="utf-8")
    if whole:
        RESULTS.write_text(text, encoding="utf-8")
        PAGE.write_text(put_into_page(PAGE.read_text(encoding="utf-8"), as_markdown(data)), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
