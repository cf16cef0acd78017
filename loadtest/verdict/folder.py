"""Reading a run folder. A broken or half-written one is refused with the file and what is wrong in it, never judged in part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from loadtest.verdict.facts import SAMPLE, Booking, Facts, His, Run, Samples, Series, ServerSli, SoldOut

T = TypeVar("T")


class RunFolderError(Exception):
    """The run folder cannot be judged."""


def load_run(folder: Path) -> Run:
    """Everything in a run folder, checked against each other as far as names and indexes go.

    `folder` is the run itself, or the directory that was given as `--out` and has it in `run/`.
    Raises RunFolderError.
    """
    folder = run_folder(folder)
    facts = _read_json(folder / "run.json", Facts)
    _check_facts(folder / "run.json", facts)
    run = Run(
        folder=folder,
        facts=facts,
        samples=_read_samples(folder / "samples.npy", facts),
        bookings=tuple(_read_bookings(folder / "bookings.jsonl", facts)),
        sold_out=tuple(
            _decode(folder / "sold_out.jsonl", line, SoldOut, f", line {number}")
            for number, line in enumerate(_read(folder / "sold_out.jsonl").splitlines(), 1)
        ),
        his=_read_json(folder / "his.json", dict[str, His]),
        series=_read_json(folder / "series.json", Series),
        server_sli=_read_json(folder / "prometheus.json", ServerSli),
    )
    _check_series(folder / "series.json", run.series)
    if unheard := sorted({name for name in facts.hospitals if name} - set(run.his)):  # "": a request of no hospital
        raise RunFolderError(f"{folder / 'his.json'}: nothing of {', '.join(unheard)}, which run.json names")
    return run


def run_folder(folder: Path) -> Path:
    """Where the files lie: `folder` itself or its `run/`. Raises RunFolderError where neither has a run."""
    for place in (folder, folder / "run"):
        if (place / "run.json").is_file():
            return place
    raise RunFolderError(
        f"{folder}: no run.json here nor in run/: not a run folder, or the run did not come to its end"
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise RunFolderError(f"{path}: cannot be read ({e.strerror or type(e).__name__})") from e


def _decode(path: Path, data: bytes, kind: type[T], where: str = "") -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as e:
        raise RunFolderError(f"{path}{where}: {e}") from e


def _read_json(path: Path, kind: type[T]) -> T:
    return _decode(path, _read(path), kind)


def _read_bookings(path: Path, facts: Facts) -> Iterator[Booking]:
    seen: set[str] = set()
    for number, line in enumerate(_read(path).splitlines(), 1):
        booking = _decode(path, line, Booking, f", line {number}")
        if booking.hospital not in facts.hospitals:
            raise RunFolderError(f"{path}, line {number}: hospital {booking.hospital} is not one of run.json")
        if booking.id in seen:
            raise RunFolderError(f"{path}, line {number}: booking {booking.id} is there twice")
        seen.add(booking.id)
        yield booking


def _read_samples(path: Path, facts: Facts) -> Samples:
    try:
        samples = np.load(path, allow_pickle=False)
    except OSError as e:
        raise RunFolderError(f"{path}: cannot be read ({e.strerror or type(e).__name__})") from e
    except (ValueError, EOFError) as e:
        raise RunFolderError(f"{path}: not a whole array of numpy ({e})") from e
    if not isinstance(samples, np.ndarray) or samples.ndim != 1:
        raise RunFolderError(f"{path}: not one row for each request")
    names = samples.dtype.names or ()
    if missing := [name for name in SAMPLE.names or () if name not in names]:
        raise RunFolderError(f"{path}: lacks {', '.join(missing)}")
    samples = samples[list(SAMPLE.names or ())].astype(SAMPLE)
    _check_indexes(path, samples, facts)
    _check_times(path, samples)
    return samples


def _check_indexes(path: Path, samples: Samples, facts: Facts) -> None:
    if not len(samples):
        return
    known = {
        "request_class": facts.classes,
        "code": facts.codes,
        "hospital": facts.hospitals,
        "client": facts.clients,
    }
    for name, values in known.items():
        highest = int(samples[name].max())
        if highest >= len(values):
            raise RunFolderError(f"{path}: {name} {highest} is beyond the {len(values)} that run.json names")


def _check_times(path: Path, samples: Samples) -> None:
    for name in ("intended_s", "started_s", "ended_s"):
        if not bool(np.isfinite(samples[name]).all()):
            raise RunFolderError(f"{path}: {name} is not a number somewhere")
    if bool((samples["ended_s"] < samples["started_s"]).any()):
        raise RunFolderError(f"{path}: a request ended before it was started")


def _check_facts(path: Path, facts: Facts) -> None:
    if unknown := [name for name in facts.judged.classes if name not in facts.classes]:
        raise RunFolderError(f"{path}: judged by {', '.join(unknown)}, which is none of its classes")
    if lawless := [name for name in facts.clients if name not in facts.judged.policy]:
        raise RunFolderError(f"{path}: judged.policy does not say whether {', '.join(lawless)} kept to the rate limits")
    if facts.judged.peak and facts.peak is None:
        raise RunFolderError(f"{path}: judged by its peak, and there is none")


def _check_series(path: Path, series: Series) -> None:
    for name, line in series.lines().items():
        if len(line) != len(series.t_s):
            raise RunFolderError(f"{path}: {name} has {len(line)} values for {len(series.t_s)} times")
