"""The walk of the operators' guides, as somebody who copies and pastes it lives it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDES = ("operators-guide.md", "operators-guide.zh-CN.md")


@pytest.mark.parametrize("guide", GUIDES)
def test_walk_ends_with_a_reply_that_is_read_when_it_is_copied_and_pasted(tmp_path: Path, guide: str) -> None:
    text = (ROOT / "docs" / guide).read_text("utf-8")
    (walk,) = [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "cat > reply.xml" in block]
    assert [line.split()[2] for line in walk.splitlines() if line.startswith("hisbridge")] == [
        "new",
        "try",
        "try",
        "check",
    ]
    said = subprocess.run(
        ["bash", "-c", f'hisbridge() {{ "{sys.executable}" -m cli "$@"; echo "ended with $?"; }}\n{walk}'],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    new, first, second, check = said.stdout.split("ended with ")[:4]
    assert "Wrote profiles/our_his/profile.yaml" in new
    assert "judged:  not done: refused (1)" in first
    assert second.startswith("1\n")  # how the first try ended
    assert "judged:  done" in second
    lines = [line.split() for line in second.splitlines()]
    assert ["id", "7781", "/Response/Schedules/Schedule/SchemaID"] in lines
    assert ["session", "am", "/Response/Schedules/Schedule/Noon"] in lines
    assert ["fee_fen", "700", "/Response/Schedules/Schedule/Sum"] in lines
    assert ["location", "2F-07", "/Response/Schedules/Schedule/Room"] in lines
    assert "Left unmapped: nothing" in second
    assert check.startswith("0\n")
    assert "No errors." in check
    assert said.stdout.rstrip().endswith("ended with 0")
