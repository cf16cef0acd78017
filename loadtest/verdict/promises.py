"""Holds that were acknowledged and came to nothing through our fault: their 201 was no good answer.

Our fault is a rejection, since nobody else sells these seats, an expiry of what was never locked, and one of what was paid. Not
our fault: what was locked and not paid in time, and what the patient cancelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from loadtest.verdict.facts import Booking, Facts, Samples
from loadtest.verdict.samples import HOLD, JudgedSamples, Verdict


def is_broken(booking: Booking) -> bool:
    """Whether the patient was promised a seat that we then failed to get."""
    state = booking.final.state
    return state == "rejected" or (state == "expired" and (not booking.was_locked or booking.paid is not None))


def mark_broken(judged: JudgedSamples, samples: Samples, facts: Facts, bookings: Iterable[Booking]) -> JudgedSamples:
    """The same samples, with the acknowledgements of broken holds marked as such.

    A sample does not name its booking: it is the 201 of that hospital that ended nearest to `held_s`. One that is bad already
    stays what it is, so that no request counts twice.
    """
    verdicts = judged.verdicts.copy()
    acknowledged = judged.of_class(HOLD) & (samples["status"] == 201)
    for number, hospital in enumerate(facts.hospitals):
        held_s = sorted(b.held_s for b in bookings if b.hospital == hospital and is_broken(b))
        rows = np.flatnonzero(acknowledged & (samples["hospital"] == number))
        for row in _nearest(samples["ended_s"][rows], held_s):
            if verdicts[rows[row]] == Verdict.GOOD:
                verdicts[rows[row]] = Verdict.BROKEN
    return judged.with_verdicts(verdicts)


def _nearest(ended_s: npt.NDArray[np.float64], wanted_s: Sequence[float]) -> list[int]:
    """For each wanted time the index of the nearest that is still free; as many as there are."""
    order = np.argsort(ended_s, kind="stable")
    times = ended_s[order]
    free = np.ones(len(order), dtype=np.bool_)
    found = []
    for at_s in wanted_s[: len(order)]:
        right = int(np.searchsorted(times, at_s))
        left = right - 1
        while left >= 0 and not free[left]:
            left -= 1
        while right < len(times) and not free[right]:
            right += 1
        if left < 0 or (right < len(times) and times[right] - at_s < at_s - times[left]):
            left = right
        free[left] = False
        found.append(int(order[left]))
    return found
