"""The clock by which tokens age."""

from __future__ import annotations

import time

import pytest


class Clock:
    """The seconds of `time.monotonic`, and those that a test has let pass."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def forward(self, seconds: float) -> None:
        self._ahead_s += seconds

    def __call__(self) -> float:
        return time.monotonic() + self._ahead_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    told = Clock()
    for module in ("auth", "tokens", "pace"):
        monkeypatch.setattr(f"connectors.fhir.{module}.monotonic", told)
    return told
