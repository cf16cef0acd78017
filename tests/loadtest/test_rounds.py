"""Rounds of profiles: what cannot be played is a line that says why, and ends nothing."""

from __future__ import annotations

import json
from pathlib import Path

from loadtest.__main__ import main


def test_rounds_go_on_and_fail_when_a_profile_cannot_be_played(tmp_path: Path) -> None:
    """As where somebody names a folder that is not empty: its keys are not written over."""
    for number in (1, 2):
        used = tmp_path / f"{number}" / "release-peak" / "data.key"
        used.parent.mkdir(parents=True)
        used.write_text("of another run", encoding="utf-8")
    assert main(["rounds", "--times", "2", "--only", "release-peak", "--out", str(tmp_path)]) == 1
    lines = json.loads((tmp_path / "rounds.json").read_text(encoding="utf-8"))
    assert [(line["name"], line["outcome"]) for line in lines] == [("release-peak", "not played")] * 2
    assert all("data.key exists" in line["reasons"][0] for line in lines)
