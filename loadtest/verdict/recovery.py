"""How long after a fault bookings were made and changed as before."""

from __future__ import annotations

import msgspec
import numpy as np

from loadtest.verdict.facts import Facts, Fault
from loadtest.verdict.samples import BAD, HOLD, SOLD_OUT, VALID, JudgedSamples

CALM_S = 5
"""Recovered is the beginning of so many seconds in which at most one answer in a hundred was bad, and there were some."""

BAD_SHARE = 0.01
WRITES = (HOLD, SOLD_OUT, "step")  # reads go on from memory, and would make it look well


class Recovery(msgspec.Struct, frozen=True):
    """`after_s`: from the fault's end (its beginning where it was a moment) to the last bad answer before the calm.

    None: it never came.
    """

    fault: Fault
    after_s: float | None


def measure_recovery(judged: JudgedSamples, facts: Facts) -> tuple[Recovery, ...]:
    """One for each fault, by the requests that write."""
    writes = judged.of_class(*WRITES)
    intended_s = judged.intended_s[writes]
    valid = intended_s[np.isin(judged.verdicts[writes], VALID)]
    bad = np.sort(intended_s[np.isin(judged.verdicts[writes], BAD)])
    seconds = int(np.ceil(max(facts.duration_s, valid.max() if len(valid) else 0.0))) + 1
    edges = np.arange(seconds + 1)
    sums = [np.concatenate(([0], np.cumsum(np.histogram(times, edges)[0]))) for times in (valid, bad)]
    return tuple(Recovery(fault, _after(fault, sums[0], sums[1], bad)) for fault in facts.faults)


def _after(
    fault: Fault,
    valid: np.typing.NDArray[np.int64],
    bad: np.typing.NDArray[np.int64],
    bad_s: np.typing.NDArray[np.float64],
) -> float | None:
    """`valid` and `bad` are sums up to each whole second."""
    since_s = fault.at_s if fault.until_s is None else fault.until_s
    for second in range(max(0, int(since_s)), len(valid) - CALM_S):
        in_calm, wrong = (int(sums[second + CALM_S] - sums[second]) for sums in (valid, bad))
        if in_calm and wrong <= BAD_SHARE * in_calm:
            before = bad_s[(bad_s >= since_s) & (bad_s < second)]
            return float(before[-1] - since_s) if len(before) else 0.0
    return None
