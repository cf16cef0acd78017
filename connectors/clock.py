"""The HIS's own clock, seen through the times that its replies carry: how far it is ahead of ours.

A reply's time was written at some moment of its call, taken to be the middle; it is cut off to a second (or to what the peer
writes), so that on average half of that is missing. Quick calls pin it down best: the offset is the median of those, of the
last ones, that took no longer than half of them did.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import deque
from email.utils import parsedate_to_datetime
from statistics import median

from connectors.config import HospitalContext
from monitoring.logs import get_logger
from monitoring.metrics import his_clock_offset_seconds

log = get_logger(__name__)

SAMPLES = 16
ENOUGH = 3  # before the log says anything


class HisClock:
    """The clock behind one connector. `hospital.clock_warn_s` is how far it may be off before the log says so."""

    def __init__(self, hospital: HospitalContext, connector: str) -> None:
        self._labels = {"hospital": hospital.id, "connector": connector}
        self._warn_s = hospital.clock_warn_s
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES)  # (length of the call, offset), in seconds
        self._off = False

    @property
    def offset_s(self) -> float | None:
        """Seconds by which the HIS's clock is ahead of ours (negative: behind); None before the first reply with a time."""
        if not self._samples:
            return None
        quick = sorted(self._samples)[: (len(self._samples) + 1) // 2]
        return median(offset for _, offset in quick)

    def note(self, told: dt.datetime, *, began: float, ended: float | None = None, resolution_s: float = 1.0) -> None:
        """A reply said that it is `told`; its call began and ended at these times of `time.time` (None: now)."""
        ended = time.time() if ended is None else ended
        if ended < began:
            return  # our own clock was set meanwhile
        self._samples.append((ended - began, told.timestamp() + resolution_s / 2 - (began + ended) / 2))
        offset_s = self.offset_s
        if offset_s is None:
            return
        his_clock_offset_seconds.labels(**self._labels).set(offset_s)
        if len(self._samples) >= ENOUGH:
            self._tell(offset_s)

    def note_http(self, date: str | None, age: str | None, *, began: float, ended: float | None = None) -> None:
        """The `Date` header of a reply (RFC 9110 section 6.6.1); one with an `Age` comes from a cache and tells of the past."""
        if date is None or age is not None:
            return
        try:
            told = parsedate_to_datetime(date)
        except (ValueError, OverflowError):
            return
        self.note(told if told.tzinfo is not None else told.replace(tzinfo=dt.UTC), began=began, ended=ended)

    def _tell(self, offset_s: float) -> None:
        """Say once that the clock is off, and once that it is well again; half of the bound keeps a wavering one quiet."""
        bound_s = self._warn_s / 2 if self._off else self._warn_s
        off = abs(offset_s) > bound_s
        if off != self._off:
            self._off = off
            say = log.warning if off else log.info
            say("his_clock_off" if off else "his_clock_well", offset_s=round(offset_s, 1), **self._labels)
