"""All profiles one after the other, several times in a row: what the product promises is not the best of several runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from loadtest.bench.postgres import PostgresMissing
from loadtest.bench.processes import ProcessFailed
from loadtest.peak.lines import Line, line_of
from loadtest.peak.profiles import Profile
from loadtest.peak.run import play_in
from loadtest.peak.told import loop_ms
from loadtest.verdict.conclusion import Outcome, conclude
from loadtest.verdict.folder import load_run
from loadtest.verdict.judge import judge


def play_rounds(
    profiles: Sequence[Profile], folder: Path, *, times: int, scale: float | None, console: Console
) -> tuple[Line, ...]:
    """Play and judge each profile in a folder of its own. `folder` gets `rounds.json`; a run that fails ends nothing.

    `scale`: so many times the arrivals; None: as the machine can bear when the run begins.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[Line] = []
    for line in _runs(profiles, folder, times=times, scale=scale, console=console):
        lines.append(line)
        (folder / "rounds.json").write_bytes(msgspec.json.format(msgspec.json.encode(lines), indent=2) + b"\n")
    return tuple(lines)


def _runs(
    profiles: Sequence[Profile], folder: Path, *, times: int, scale: float | None, console: Console
) -> Iterator[Line]:
    for number in range(1, times + 1):
        for profile in profiles:
            place = folder / f"{number}" / profile.name
            console.rule(f"{profile.name}, round {number} of {times}")
            played = profile.for_machine(loop_ms()) if scale is None else profile.scaled(scale)
            try:
                line = _run(played, place)
            # Whatever it is: hours of other runs do not depend on it.
            except Exception as error:
                line = _not_played(played, _reason(error))
                console.print(f"{profile.name} failed: {line.reasons[0]}", markup=False)
            yield line


def _run(profile: Profile, place: Path) -> Line:
    play_in(profile, place)
    judge(place)
    return line_of(profile.name, profile.scale, conclude(load_run(place)))


def _reason(error: Exception) -> str:
    """What stands in the table. Of our own errors the text says all; of others it may be empty without the name."""
    if isinstance(error, (ProcessFailed, PostgresMissing)):
        return str(error)
    return f"{type(error).__name__}: {error}"


def all_passed(lines: Sequence[Line]) -> bool:
    """Whether every run has passed."""
    return all(line.outcome == Outcome.PASSED.value for line in lines)


def _not_played(profile: Profile, reason: str) -> Line:
    return Line(
        name=profile.name, scale=profile.scale, outcome="not played", requests=0, peak_per_s=0.0, first_ten_per_s=0.0,
        good_share=0.0, p99_ms={}, lag_p99_ms=0.0, cpu_us=0.0, generator_share=0.0, loop_ms=0.0, reasons=(reason,),
    )  # fmt: skip
