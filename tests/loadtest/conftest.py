"""The stores of both engines for the tests of the filler, and one short load test for all who look at what it leaves."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from loadtest.__main__ import NOT_PLAYED
from tests.stores import (
    database,
    engine,
    postgres_originals,
    postgres_pool,
    spoilt,
    sqlite_originals,
)

__all__ = ["database", "engine", "postgres_originals", "postgres_pool", "spoilt", "sqlite_originals"]

ROOT = Path(__file__).parents[2]
WITHIN_S = 280.0  # it waits for a whole minute to come


@dataclass(frozen=True)
class ShortRun:
    """What `python -m loadtest --short` left, and how it ended."""

    folder: Path
    exit_code: int
    said: str


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> ShortRun:
    """The release peak in little, played once. A test that asks for it has to allow for two minutes."""
    folder = tmp_path_factory.mktemp("short-run")
    words = [sys.executable, "-m", "loadtest", "--profile", "release-peak", "--short", "--out", str(folder)]
    ended = subprocess.run(
        words,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=WITHIN_S,
        check=False,
    )
    assert ended.returncode != NOT_PLAYED, ended.stdout
    return ShortRun(folder, ended.returncode, ended.stdout)
