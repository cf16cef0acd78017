"""Which hospitals are releasing slots now, so that the minutes that matter are counted apart."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Collection
from functools import partial

from booking.release import release_near
from booking.settings import Hospital
from monitoring.metrics import release_opens_timestamp_seconds

BEFORE_S = 60.0
AFTER_S = 300.0
_LOOK_EVERY_S = 1.0


class ReleasePhases:
    """A hospital is in its release from BEFORE_S before the opening of its rule to AFTER_S after it.

    `clock` gives the seconds since 1970. The rules are looked at once a second at most, and never by a request alone.
    """

    def __init__(self, hospitals: Collection[Hospital] = (), *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._hospitals = [hospital for hospital in hospitals if hospital.release.time is not None]
        self._opens_s: dict[str, float] = {}
        self._released: frozenset[str] = frozenset()
        self._due_s = 0.0
        for hospital in hospitals:
            release_opens_timestamp_seconds.labels(hospital.id).set_function(partial(self.opens_s, hospital.id))

    def is_release(self, hospital_id: str) -> bool:
        """Whether this hospital releases slots now."""
        now_s = self._clock()
        # A clock that was set back is seen by the first half: what was due later than in a second is due now.
        if not now_s < self._due_s <= now_s + _LOOK_EVERY_S:
            self._look(now_s)
        return hospital_id in self._released

    def opens_s(self, hospital_id: str) -> float:
        """When the release that is on, or else the next one, opened or opens; 0 without a rule."""
        self._look(self._clock())
        return self._opens_s.get(hospital_id, 0.0)

    def _look(self, now_s: float) -> None:
        self._due_s = now_s + _LOOK_EVERY_S
        now = dt.datetime.fromtimestamp(now_s, dt.UTC)
        for hospital in self._hospitals:
            opens = release_near(hospital.release, now, hospital.zone, lasts_s=AFTER_S)
            if opens is not None:
                self._opens_s[hospital.id] = opens.timestamp()
        self._released = frozenset(
            hospital_id for hospital_id, opens_s in self._opens_s.items() if opens_s - BEFORE_S <= now_s
        )
