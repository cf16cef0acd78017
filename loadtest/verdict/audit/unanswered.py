"""How many requests may have been carried out without the client knowing."""

from __future__ import annotations

import numpy as np

from loadtest.verdict.facts import Run
from loadtest.verdict.samples import SHED_CODES, coded


def unanswered(run: Run, request_class: str) -> dict[str, int]:
    """By hospital, the requests of a class that got no answer or a 5xx. What was turned away at the door was not carried out."""
    facts, samples = run.facts, run.samples
    of_class = np.isin(samples["request_class"], [n for n, c in enumerate(facts.classes) if c == request_class])
    open_ended = of_class & ((samples["status"] == 0) | (samples["status"] >= 500))
    open_ended &= ~((samples["status"] == 503) & coded(samples["code"], facts, *SHED_CODES))
    counted = np.bincount(samples["hospital"][open_ended], minlength=len(facts.hospitals))
    return {**dict.fromkeys(run.his, 0), **{name: int(counted[n]) for n, name in enumerate(facts.hospitals)}}
