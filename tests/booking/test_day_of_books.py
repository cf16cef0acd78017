"""100,000 lines on each side, with planted differences of each kind: all are found, none is invented, in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from booking.reconciliation import KINDS
from tests.booking.day_of_books import EACH, PLANTED

LINES = 100_000
MOST_MB = 300
ROOT = Path(__file__).parents[2]
NONE = ("netted", "foreign", "asked again")


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.booking.day_of_books", str(LINES), str(tmp_path_factory.mktemp("books"))],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.mark.timeout(320)
def test_planted_differences_are_found_and_none_invented_when_a_day_has_100_000_lines(day: dict[str, Any]) -> None:
    assert min(day["lines"]) >= LINES - len(PLANTED) * EACH
    expected = {no: kind.partition(",")[0] for no, kind in day["planted"].items() if kind not in NONE}
    assert set(expected.values()) == set(KINDS)  # each kind was planted
    assert len(expected) == (len(PLANTED) - 1 - len(NONE)) * EACH
    assert day["found"] == expected


def test_memory_stays_below_300_mb_when_a_day_has_100_000_lines(day: dict[str, Any]) -> None:
    assert day["peak_mb"] < MOST_MB, f"{day['peak_mb']} MB"
