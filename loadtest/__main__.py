"""`python -m loadtest`: play a profile of the release peak against a service of our own, and judge it."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from loadtest.bench.postgres import PostgresMissing
from loadtest.bench.processes import ProcessFailed
from loadtest.peak.profiles import PROFILES, short
from loadtest.peak.run import play


def main() -> int:
    """The exit code: 0 passed, 1 missed, 2 not enough samples or nothing to run with, 3 void."""
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__)
    kinds = "; ".join(f"{p.name}: {p.about}" for p in PROFILES.values())
    parser.add_argument("--profile", choices=sorted(PROFILES), default="release-peak", help=kinds)
    parser.add_argument("--out", type=Path, help="an empty folder for the run and its report (default: a new one)")
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the arrivals")
    parser.add_argument("--short", action="store_true", help="in little: to see that everything works, not to measure")
    chosen = parser.parse_args()
    profile = PROFILES[chosen.profile]
    profile = (short(profile) if chosen.short else profile).scaled(chosen.scale)
    folder = (chosen.out or Path(tempfile.mkdtemp(prefix=f"hisbridge-{profile.name}-"))).resolve()
    for part in ("run", "prometheus"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    try:
        asyncio.run(play(profile, folder))
    except (ProcessFailed, PostgresMissing) as error:
        print(error, file=sys.stderr)
        return 2
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
