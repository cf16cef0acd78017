"""A run folder is read whole, or refused with what is wrong in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loadtest.verdict.facts import SAMPLE
from loadtest.verdict.folder import RunFolderError, load_run
from loadtest.verdict.judge import UNREADABLE, judge
from tests.loadtest.runs import booked, booking, rows, visit, write_run

Spoil = Callable[[Path], object]


def whole(folder: Path) -> Path:
    return write_run(folder, samples=[rows(3)], bookings=[booked(1), booking(2)], visits=[visit(1, "registered")])


def change(name: str, **changes: object) -> Spoil:
    """Overwrites fields of a JSON file; None takes the field away."""

    def spoil(run: Path) -> None:
        told = json.loads((run / name).read_text()) | changes
        (run / name).write_text(json.dumps({k: v for k, v in told.items() if v != "gone"}))

    return spoil


def resample(**values: object) -> Spoil:
    """Overwrites columns of the samples."""

    def spoil(run: Path) -> None:
        samples = np.load(run / "samples.npy")
        for name, value in values.items():
            samples[name] = value
        np.save(run / "samples.npy", samples)

    return spoil


def append(name: str, text: str) -> Spoil:
    def spoil(run: Path) -> None:
        with (run / name).open("a") as stream:
            stream.write(text)

    return spoil


def cut(name: str) -> Spoil:
    """Half of the file: its writer was killed."""
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[: (run / name).stat().st_size // 2])


def test_folder_is_read_when_it_is_given_as_out_or_as_the_run_itself(tmp_path: Path) -> None:
    whole(tmp_path)
    for given in (tmp_path, tmp_path / "run"):
        run = load_run(given)
        assert run.facts.profile == "release-peak"
        assert len(run.samples) == 3
        assert run.samples.dtype == SAMPLE
        assert [b.id for b in run.bookings] == ["b1", "b2"]
        assert run.his["east"].visits[0].trade_no == "T1"
        assert run.series.his_running["east"] == (0, 4)


def test_folder_is_read_when_the_generator_says_more_than_is_needed(tmp_path: Path) -> None:
    whole(tmp_path)
    change("run.json", quiet_after_s=12.0)(tmp_path / "run")
    assert load_run(tmp_path).facts.workers == 1


@pytest.mark.parametrize(
    ("spoil", "named", "said"),
    [
        (lambda run: (run / "run.json").unlink(), "", "no run.json here nor in run/"),
        (lambda run: (run / "his.json").unlink(), "his.json", "cannot be read (No such file or directory)"),
        (lambda run: (run / "samples.npy").unlink(), "samples.npy", "cannot be read (No such file or directory)"),
        (lambda run: (run / "samples.npy").write_bytes(b""), "samples.npy", "not a whole array of numpy"),
        (cut("run.json"), "run.json", "truncated"),
        (cut("samples.npy"), "samples.npy", "not a whole array of numpy"),
        (cut("bookings.jsonl"), "bookings.jsonl, line 1", "truncated"),
        (append("bookings.jsonl", '{"id": "b9"}\n'), "bookings.jsonl, line 3", "missing required field `order_no`"),
        (append("bookings.jsonl", json.dumps(booking(1)) + "\n"), "bookings.jsonl, line 3", "booking b1 is there twice"),
        (append("bookings.jsonl", json.dumps(booking(3, hospital="north")) + "\n"), "bookings.jsonl, line 3",
         "hospital north is not one of run.json"),
        (change("run.json", objective=99.9), "run.json", "$.objective"),
        (change("run.json", phases="gone"), "run.json", "missing required field `phases`"),
        (change("run.json", judged={"classes": ["write"], "peak": False, "policy": {}}), "run.json",
         "judged by write, which is none of its classes"),
        (change("run.json", judged={"classes": ["read"], "peak": False, "policy": {"portal": True}}), "run.json",
         "judged.policy does not say whether scalper kept to the rate limits"),
        (change("run.json", peak=None, judged={"classes": [], "peak": True, "policy": {"portal": True, "scalper": True}}),
         "run.json", "judged by its peak, and there is none"),
        (change("run.json", hospitals=["east", "north"]), "his.json", "nothing of north, which run.json names"),
        (change("his.json", east={}), "his.json", "$[...]"),
        (change("series.json", his_running={"east": [1]}), "series.json", "his_running of east has 1 values for 2 times"),
        (change("prometheus.json", source="memory"), "prometheus.json", "$.source"),
        (resample(code=200), "samples.npy", "code 200 is beyond the 15 that run.json names"),
        (resample(hospital=2), "samples.npy", "hospital 2 is beyond the 2 that run.json names"),
        (resample(ended_s=float("nan")), "samples.npy", "ended_s is not a number somewhere"),
        (resample(ended_s=1.0), "samples.npy", "a request ended before it was started"),
        (lambda run: np.save(run / "samples.npy", np.zeros(3)), "samples.npy", "lacks intended_s"),
    ],
)  # fmt: skip
def test_folder_is_refused_when_something_in_it_is_broken(tmp_path: Path, spoil: Spoil, named: str, said: str) -> None:
    whole(tmp_path)
    spoil(tmp_path / "run")
    with pytest.raises(RunFolderError) as refused:
        load_run(tmp_path)
    assert named in str(refused.value)
    assert said in str(refused.value)


def test_nothing_is_written_when_the_folder_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole(tmp_path)
    cut("run.json")(tmp_path / "run")
    assert judge(tmp_path) == UNREADABLE
    assert "cannot be judged" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {"run"}
