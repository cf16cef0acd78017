"""Availability = good / valid requests, and when there are too few of them to say so."""

from __future__ import annotations

from fractions import Fraction

import msgspec
import numpy as np
import numpy.typing as npt

from loadtest.verdict.facts import Facts, Span
from loadtest.verdict.samples import LIVE, VALID, JudgedSamples, Verdict

"""Valid requests below which no percentage is given: at 99.9 % one bad answer in a thousand decides, and luck with it."""

QUANTILES = (0.5, 0.9, 0.99, 0.999)


class Availability(msgspec.Struct, frozen=True):
    """Of one set of samples. `latency_ms` is of those that were answered, by quantile; empty without any."""

    counts: dict[Verdict, int]
    floor: int
    latency_ms: dict[float, float] = {}

    @property
    def sent(self) -> int:
        return sum(self.counts.values())

    @property
    def valid(self) -> int:
        return sum(self.counts[v] for v in VALID)

    @property
    def good(self) -> int:
        return self.counts[Verdict.GOOD]

    @property
    def bad(self) -> int:
        return self.valid - self.good

    @property
    def sufficient(self) -> bool:
        return self.valid >= max(1, self.floor)

    @property
    def share(self) -> Fraction | None:
        """Exactly; None where it is insufficient."""
        return Fraction(self.good, self.valid) if self.sufficient else None

    def meets(self, objective: Fraction) -> bool | None:
        """None where it is insufficient."""
        return None if self.share is None else self.share >= objective


class Availabilities(msgspec.Struct, frozen=True):
    """`whole` and `peak_whole` are of the judged classes together, reads from a HIS that is down never among them.

    All but `by_client` are of the clients that keep to the policy: nobody else is promised anything.

    The three `peak` parts are empty or None where the run has no peak.
    """

    whole: Availability
    by_class: dict[str, Availability]
    by_client: dict[str, Availability]
    live_by_hospital: dict[str, Availability]
    peak_whole: Availability | None
    peak_by_class: dict[str, Availability]
    peak_by_hospital: dict[str, Availability]


def exactly(share: float) -> Fraction:
    """The number that was meant: 0.999 is not what a float makes of it."""
    return Fraction(str(share))


def measure(judged: JudgedSamples, facts: Facts, *, floor: int) -> Availabilities:
    """Everything that is counted, for one floor."""

    def of(which: npt.NDArray[np.bool_]) -> Availability:
        answered = which & (judged.verdicts != Verdict.UNANSWERED)
        return Availability(judged.counts(which), floor, _quantiles_ms(judged.latency_s[answered]))

    promised = np.isin(judged.clients, [n for n, name in enumerate(facts.clients) if facts.judged.policy[name]])
    ours = promised & judged.of_class(*(name for name in facts.judged.classes if name != LIVE))
    asked = judged.of_class(*(name for name in facts.judged.classes if name != LIVE))
    peak = None if facts.peak is None else within(judged, facts.peak)
    return Availabilities(
        whole=of(ours),
        by_class={name: of(promised & judged.of_class(name)) for name in judged.class_names},
        by_client={name: of(asked & (judged.clients == n)) for n, name in enumerate(facts.clients)},
        live_by_hospital={
            name: of(promised & judged.of_class(LIVE) & (judged.hospitals == n))
            for n, name in enumerate(facts.hospitals)
            if name
        },
        peak_whole=None if peak is None else of(ours & peak),
        peak_by_class={}
        if peak is None
        else {name: of(promised & judged.of_class(name) & peak) for name in judged.class_names if name != LIVE},
        peak_by_hospital={}
        if peak is None
        else {name: of(ours & peak & (judged.hospitals == n)) for n, name in enumerate(facts.hospitals) if name},
    )


def within(judged: JudgedSamples, span: Span) -> npt.NDArray[np.bool_]:
    """Which samples were meant to start in a span, its end excluded."""
    return (judged.intended_s >= span.from_s) & (judged.intended_s < span.to_s)


def _quantiles_ms(latency_s: npt.NDArray[np.float64]) -> dict[float, float]:
    """By nearest rank: a latency that some request really had."""
    if not len(latency_s):
        return {}
    found = np.quantile(latency_s, QUANTILES, method="inverted_cdf") * 1000
    return {share: float(ms) for share, ms in zip(QUANTILES, found, strict=True)}
