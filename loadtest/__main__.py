"""`python -m loadtest`: play a profile of the release peak against a service of our own, and judge it.

python -m loadtest --profile release-peak --out DIR     play, then judge
python -m loadtest judge DIR                            judge again what was played
python -m loadtest rounds --times 2 --out DIR           every profile, twice in a row
python -m loadtest ceiling --out DIR                    the highest rate that passes
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from loadtest.arguments import counted, positive
from loadtest.bench.postgres import PostgresMissing
from loadtest.bench.processes import ProcessFailed
from loadtest.peak.ceiling import find_ceiling
from loadtest.peak.lines import table_of
from loadtest.peak.profiles import PROFILES, short
from loadtest.peak.rounds import all_passed, play_rounds
from loadtest.peak.run import must_be_empty, play_in
from loadtest.peak.told import loop_ms
from loadtest.verdict.judge import judge

NOT_PLAYED = 5
ENDED = 128 + signal.SIGTERM
SCALE = (
    "so many times the arrivals (default: as many as the machine bears as it is now; of a ceiling, the first try: 1)"
)


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 0 passed, 1 failed, 2 too few samples, 3 void, 4 not to be judged, 5 not played, 143 ended by SIGTERM."""
    words = sys.argv[1:] if words is None else words
    command = {"judge": _judge, "rounds": _rounds, "ceiling": _ceiling}.get(words[0] if words else "")
    try:
        return command(words[1:]) if command is not None else _play(words)
    except (ProcessFailed, PostgresMissing) as error:
        print(f"not played: {error}", file=sys.stderr)
        return NOT_PLAYED
    except asyncio.CancelledError:
        return ENDED


def _play(words: Sequence[str]) -> int:
    parser = _parser("python -m loadtest", str(__doc__))
    parser.add_argument("--short", action="store_true", help="in little: to see that everything works, not to measure")
    chosen = parser.parse_args(words)
    profile = PROFILES[chosen.profile]
    if chosen.short:
        profile = short(profile).scaled(chosen.scale or 1.0)
    else:
        profile = profile.for_machine(loop_ms()) if chosen.scale is None else profile.scaled(chosen.scale)
    folder = _folder(chosen.out, profile.name)
    play_in(profile, folder)
    return judge(folder)


def _judge(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest judge")
    parser.add_argument("folder", type=Path, help="as it was given to --out")
    parser.add_argument(
        "--floor",
        type=int,
        help="valid samples below which a class has no percentage (default: as the run says)",
    )
    chosen = parser.parse_args(words)
    return judge(chosen.folder, floor=chosen.floor)


def _rounds(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest rounds", description="Every profile, several times in a row."
    )
    parser.add_argument("--times", type=counted, default=2, help="rounds (default: 2)")
    parser.add_argument("--only", nargs="+", choices=sorted(PROFILES), default=list(PROFILES), help="these profiles")
    parser.add_argument("--scale", type=positive, help=SCALE)
    parser.add_argument("--out", type=Path, help="an empty folder for the runs and their reports (default: a new one)")
    chosen = parser.parse_args(words)
    folder, console = _folder(chosen.out, "rounds"), Console()
    profiles = [PROFILES[name] for name in chosen.only]
    lines = play_rounds(profiles, folder, times=chosen.times, scale=chosen.scale, console=console)
    console.print(table_of(lines, f"{chosen.times} rounds"))
    console.print(str(folder), soft_wrap=True, highlight=False)
    return 0 if all_passed(lines) else 1


def _ceiling(words: Sequence[str]) -> int:
    parser = _parser("python -m loadtest ceiling", "Find the highest rate of arrivals that passes.")
    chosen = parser.parse_args(words)
    profile, console = PROFILES[chosen.profile], Console()
    folder = _folder(chosen.out, profile.name)
    tries = find_ceiling(profile, folder, scale=chosen.scale or 1.0, console=console)
    console.print(table_of(sorted(tries, key=lambda one: one.scale), "Tries, by rate"))
    console.print(str(folder), soft_wrap=True, highlight=False)
    return 0


def _parser(name: str, about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=name, description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = "; ".join(f"{p.name}: {p.about}" for p in PROFILES.values())
    parser.add_argument("--profile", choices=sorted(PROFILES), default="release-peak", help=kinds.replace("%", "%%"))
    parser.add_argument("--out", type=Path, help="an empty folder for the run and its report (default: a new one)")
    parser.add_argument("--scale", type=positive, help=SCALE)
    return parser


def _folder(chosen: Path | None, name: str) -> Path:
    """Where the run goes. Raises FolderUsed."""
    folder = (chosen or Path(tempfile.mkdtemp(prefix=f"hisbridge-{name}-"))).resolve()
    must_be_empty(folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())
