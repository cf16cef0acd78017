"""Rounds of profiles: what cannot be played is a line that says why, and ends nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.__main__ import main
from loadtest.bench.processes import ProcessFailed
from loadtest.peak import rounds
from loadtest.peak.profiles import LOOP_MS, PROFILES, Profile
from loadtest.verdict.folder import RunFolderError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ProcessFailed("the crowd failed: no room"), "the crowd failed: no room"),
        (RunFolderError("run.json: no such field"), "RunFolderError: run.json: no such field"),
        (ConnectionResetError(104, "reset"), "ConnectionResetError: [Errno 104] reset"),
        (TimeoutError(), "TimeoutError: "),
    ],
)
def test_rounds_go_on_and_fail_when_a_run_breaks(
    error: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play_in(profile: Profile, folder: Path) -> None:
        raise error

    monkeypatch.setattr(rounds, "play_in", play_in)
    assert main(["rounds", "--times", "2", "--only", "release-peak", "soak", "--out", str(tmp_path / "new")]) == 1
    lines = json.loads((tmp_path / "new" / "rounds.json").read_text(encoding="utf-8"))
    assert [(line["name"], line["outcome"]) for line in lines] == [
        ("release-peak", "not played"),
        ("soak", "not played"),
    ] * 2
    assert {tuple(line["reasons"]) for line in lines} == {(reason,)}


def test_rounds_end_when_somebody_interrupts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def play_in(profile: Profile, folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rounds, "play_in", play_in)
    with pytest.raises(KeyboardInterrupt):
        rounds.play_rounds([PROFILES["soak"]], tmp_path, times=2, scale=1.0, console=Console())
    assert not (tmp_path / "rounds.json").exists()


def test_each_round_is_scaled_to_the_machine_as_it_is_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[Profile] = []
    quick_and_slow = iter([LOOP_MS, 2 * LOOP_MS])

    def play_in(profile: Profile, folder: Path) -> None:
        played.append(profile)
        raise ProcessFailed("not today")

    monkeypatch.setattr(rounds, "play_in", play_in)
    monkeypatch.setattr(rounds, "loop_ms", lambda: next(quick_and_slow))
    lines = rounds.play_rounds([PROFILES["release-peak"]], tmp_path, times=2, scale=None, console=Console())
    assert [profile.scale for profile in played] == [line.scale for line in lines] == [1.0, 0.5]


def test_rounds_write_over_no_other_run(tmp_path: Path) -> None:
    used = tmp_path / "1" / "release-peak" / "report.html"
    used.parent.mkdir(parents=True)
    used.write_text("of another run", encoding="utf-8")
    (line,) = rounds.play_rounds([PROFILES["release-peak"]], tmp_path, times=1, scale=1.0, console=Console())
    assert line.outcome == "not played"
    assert "is not an empty folder" in line.reasons[0]
    assert [file.name for file in used.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize("command", [(), ("judge",), ("rounds",), ("ceiling",)])
def test_every_command_explains_itself_when_asked(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "usage: python -m loadtest" in capsys.readouterr().out
