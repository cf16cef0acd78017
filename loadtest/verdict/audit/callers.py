"""Requests that were answered as the caller's error are not counted as valid, so they must not be many.

The generator sends nothing that is wrong: whatever is answered so was misunderstood by one of the two, and leaving it out would
make the availability better than it was.
"""

from __future__ import annotations

import numpy as np

from loadtest.verdict.audit.findings import Check, Finding, in_order
from loadtest.verdict.availability import exactly
from loadtest.verdict.facts import Run
from loadtest.verdict.samples import JudgedSamples, Verdict


def check_callers(run: Run, judged: JudgedSamples) -> Check:
    """At most as many as may be bad, in each class."""
    findings = []
    for name in judged.class_names:
        of_class = judged.of_class(name)
        sent = int(of_class.sum())
        invalid = of_class & (judged.verdicts == Verdict.INVALID)
        wrong = int(invalid.sum())
        if wrong > sent * (1 - exactly(run.facts.objective)):
            findings.append(
                Finding("", name, f"{wrong} of {sent} answered as the caller's error ({_told(run, invalid)})")
            )
    promise = "What the load test asks is not taken for the caller's error"
    return Check("caller_errors", promise, len(judged.verdicts), "requests", in_order(findings))


def _told(run: Run, which: np.typing.NDArray[np.bool_]) -> str:
    """The three most frequent answers."""
    answers, counts = np.unique(run.samples[which][["status", "code"]], return_counts=True)
    most = sorted(zip(counts.tolist(), answers.tolist(), strict=True), reverse=True)[:3]
    return ", ".join(f"{count} x {status} {run.facts.codes[code]}".rstrip() for count, (status, code) in most)
