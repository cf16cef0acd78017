"""Connections and descriptors."""

from __future__ import annotations

import subprocess
import sys

import pytest

from booking.api.limits import KEPT_DESCRIPTORS

SHOW = """
import resource
soft, hard = {soft}, {hard}
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from booking.api.limits import allow_connections
print(allow_connections({wanted}), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "allowed", "descriptors", "warned"),
    [
        (1_024, 4_096, 500, 500, 1_024, False),
        (1_024, 4_096, 2_000, 2_000, 2_000 + KEPT_DESCRIPTORS, False),
        (1_024, 4_096, 20_000, 4_096 - KEPT_DESCRIPTORS, 4_096, True),
        (200, 200, 20_000, 100, 200, True),
    ],
)
def test_limit_is_raised_or_connections_lowered_when_descriptors_are_few(
    soft: int, hard: int, wanted: int, allowed: int, descriptors: int, warned: bool
) -> None:
    script = SHOW.format(soft=soft, hard=hard, wanted=wanted)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    shown = done.stdout.splitlines()[-1]
    assert shown == f"{allowed} {descriptors}"
    assert ("max_connections_lowered" in done.stdout + done.stderr) is warned
