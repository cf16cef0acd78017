"""A log that what comes again and again cannot flood: a peer's bytes, a hospital that is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

EVERY_S = 10.0
MOST_KEYS = 256


class SparseLog:
    """Passes on one line of each event and reason in `every_s`; the next one says how many were left out (`left_out`)."""

    def __init__(
        self, write: Callable[..., Any], clock: Callable[[], float] = time.monotonic, *, every_s: float = EVERY_S
    ) -> None:
        self._write = write
        self._clock = clock
        self._every_s = every_s
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def __call__(self, event: str, *, reason: str = "", **fields: Any) -> None:
        now, key = self._clock(), (event, reason)
        written_at, left_out = self._last.get(key, (None, 0))
        if written_at is not None and now - written_at < self._every_s:
            self._last[key] = written_at, left_out + 1
            return
        if len(self._last) >= MOST_KEYS:  # reasons may quote a peer
            self._last.clear()
        self._last[key] = now, 0
        self._write(event, reason=reason, **fields, **({"left_out": left_out} if left_out else {}))
