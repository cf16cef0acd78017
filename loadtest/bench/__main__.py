"""`python -m loadtest.bench`: measures, prints, and exits 1 where a bar is missed."""

from __future__ import annotations

import argparse
import asyncio
import sys

from loadtest.bench.idle import measure_idle, report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description="Measure the idle service.")
    parser.add_argument("--rounds", type=int, default=5, help="fresh installations to measure (default 5)")
    arguments = parser.parse_args()
    text, data = report(asyncio.run(measure_idle(arguments.rounds)))
    print(text)
    rows = data["rows"]
    return 0 if isinstance(rows, list) and all(r["met"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
