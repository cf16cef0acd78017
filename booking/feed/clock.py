"""The store's clock, as well as it is known without asking the store."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from booking.store.engine import Store

# Some seconds of polls: the quickest of them told the time best, and an older one would hide that a clock was set.
KEPT_POLLS = 50


class FeedClock:
    """Follows the store's clock from poll to poll; never ahead of it, and behind by the quickest recent answer's way here."""

    def __init__(self, store: Store, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._offsets_ms: deque[float] = deque(maxlen=KEPT_POLLS)
        self._offset_ms: float | None = None
        self._last_ms: dict[str, int] = {}
        self._wall_ms = store.wall_ms
        self._has_its_own = store.dialect != "sqlite" and store.given_wall_ms is None

    def note(self, store_ms: int | None, last_ms: dict[str, int]) -> None:
        """An answer has arrived that read the store's clock (None: it has none of its own) and the last committed times."""
        self._last_ms = last_ms
        if store_ms is not None:
            self._offsets_ms.append(store_ms - self._monotonic_s() * 1000)
            self._offset_ms = max(self._offsets_ms)

    def now_ms(self, hospital_id: str) -> int:
        """What a write of this hospital would read now: never below its last committed time that we know."""
        if self._has_its_own and self._offset_ms is not None:
            now_ms = int(self._offset_ms + self._monotonic_s() * 1000)
        else:
            now_ms = self._wall_ms()
        last_ms = self._last_ms.get(hospital_id, 0)
        return now_ms if now_ms > last_ms else last_ms
