"""From what was measured to the outcome and its reasons."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from fractions import Fraction

import msgspec
import numpy as np

from loadtest.verdict.audit import Check, audit
from loadtest.verdict.audit.money import Balance, balance
from loadtest.verdict.availability import Availabilities, Availability, exactly, measure
from loadtest.verdict.facts import FLOOR, Run
from loadtest.verdict.promises import mark_broken
from loadtest.verdict.recovery import Recovery, measure_recovery
from loadtest.verdict.samples import BAD, HOLD, JudgedSamples, judge_samples
from loadtest.verdict.server_sli import AGREED, COUNTED, WHOLE, Comparison, compare
from loadtest.verdict.words import objective as told_objective
from loadtest.verdict.words import percent, points

LAG_P99_MS = 50.0
"""A generator that is later than this measures itself."""


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    INSUFFICIENT = "insufficient"  # a judged class has too few samples to say anything
    VOID = "void"  # the generator was too slow for what it measured

    @property
    def exit_code(self) -> int:
        return {"passed": 0, "failed": 1, "insufficient": 2, "void": 3}[self.value]


class Conclusion(msgspec.Struct, frozen=True):
    """Everything that the screen, the page and the JSON tell. `reasons`: why it did not pass; `remarks`: what to know besides."""

    run: Run
    judged: JudgedSamples
    outcome: Outcome
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]
    availabilities: Availabilities
    comparisons: tuple[Comparison, ...]
    checks: tuple[Check, ...]
    money: dict[str, Balance]
    recoveries: tuple[Recovery, ...]
    lag_p99_ms: float
    floor: int

    @property
    def objective(self) -> Fraction:
        return exactly(self.run.facts.objective)


def conclude(run: Run, *, floor: int | None = None) -> Conclusion:
    """Judge a run.

    A finding of the audit fails it even where the generator was too slow: a seat that is sold twice is no matter of timing.
    Else a slow generator voids it, a share below the objective fails it, and a judged class of too few samples makes it
    insufficient: what is not known is not passed.
    """
    facts = run.facts
    judged = mark_broken(judge_samples(run.samples, facts), run.samples, facts, run.bookings)
    floor = facts.floor if floor is None else floor
    availabilities = measure(judged, facts, floor=floor)
    comparisons = compare(run, judged, floor=floor)
    checks = audit(run, judged)
    recoveries = measure_recovery(judged, facts)
    lag_p99_ms = max(facts.generator.lag_ms.p99, _lag_p99_ms(run))

    found = [
        f"{check.promise}: not kept, {_number(len(check.findings), 'finding')}" for check in checks if not check.holds
    ]
    void = list(_void(run, lag_p99_ms))
    missed = [
        *_missed(run, availabilities),
        *_not_recovered(run, recoveries),
        *_disagreeing(comparisons),
        *_uncounted(run, comparisons),
    ]
    judged_by = {name: availabilities.by_class[name] for name in facts.judged.classes}
    if found:
        outcome = Outcome.FAILED
    elif void:
        outcome = Outcome.VOID
    elif missed:
        outcome = Outcome.FAILED
    elif few := [name for name, a in judged_by.items() if not a.sufficient]:
        outcome = Outcome.INSUFFICIENT
        missed = [f"{name}: {judged_by[name].valid:,} valid samples, and a verdict takes {floor:,}" for name in few]
    else:
        outcome = Outcome.PASSED
    return Conclusion(
        run=run,
        judged=judged,
        outcome=outcome,
        reasons=(*found, *void, *missed),
        remarks=tuple(_remarks(run, availabilities, comparisons, floor)),
        availabilities=availabilities,
        comparisons=comparisons,
        checks=checks,
        money={hospital: balance(run, hospital) for hospital in run.his},
        recoveries=recoveries,
        lag_p99_ms=lag_p99_ms,
        floor=floor,
    )


def _lag_p99_ms(run: Run) -> float:
    """By the samples themselves, whatever the generator says of itself."""
    if not len(run.samples):
        return 0.0
    lag_s = run.samples["started_s"] - run.samples["intended_s"]
    return float(np.quantile(lag_s, 0.99, method="inverted_cdf")) * 1000


def _void(run: Run, lag_p99_ms: float) -> Iterator[str]:
    if lag_p99_ms > LAG_P99_MS:
        yield f"the generator started requests {lag_p99_ms:.1f} ms late at p99; over {LAG_P99_MS:g} ms it measures itself"
    elif run.facts.generator.void:
        yield "the generator declared the run void"


def _missed(run: Run, availabilities: Availabilities) -> Iterator[str]:
    objective = exactly(run.facts.objective)
    judged: dict[str, Availability] = {name: availabilities.by_class[name] for name in run.facts.judged.classes}
    for name, availability in judged.items():
        if not availability.valid and availabilities.whole.valid:
            yield f"{name}: to be judged, and nothing of it was asked"
    if HOLD in run.facts.judged.classes:
        for hospital in sorted(set(run.his) - {booking.hospital for booking in run.bookings}):
            yield f"{hospital}: nobody got a seat"
    judged["all judged classes"] = availabilities.whole
    if run.facts.judged.peak and availabilities.peak_whole is not None:
        judged["the peak window"] = availabilities.peak_whole
        judged |= {
            f"{name} in the peak window": availability
            for name, availability in availabilities.peak_by_class.items()
            if name in run.facts.judged.classes
        }
    for name, availability in judged.items():
        if availability.meets(objective) is False:
            told = ", ".join(f"{availability.counts[v]:,} {v.name.lower()}" for v in BAD if availability.counts[v])
            yield (
                f"{name}: {percent(availability.share)} of {availability.valid:,} valid requests were good ({told}), "
                f"below {told_objective(objective)}"
            )


def _not_recovered(run: Run, recoveries: tuple[Recovery, ...]) -> Iterator[str]:
    limit_s = run.facts.judged.recovery_s
    if limit_s is None:
        return
    if not recoveries:
        yield f"to be judged by its recovery within {limit_s:g} s, and no fault was noted"
    for recovery in recoveries:
        if recovery.after_s is None:
            yield f"no recovery from: {recovery.fault.what}"
        elif recovery.after_s > limit_s:
            yield f"recovery from {recovery.fault.what} took {recovery.after_s:.1f} s, at most {limit_s:g} s are allowed"


def _disagreeing(comparisons: tuple[Comparison, ...]) -> Iterator[str]:
    apart = [c for c in comparisons if c.required and c.agrees is False]
    if apart:
        told = "; ".join(f"{c.name} {percent(c.server_share)}, the client {percent(c.client_share)}" for c in apart)
        yield f"the service's own SLI differs from the client's by more than {points(AGREED)}: the service says of {told}"


def _uncounted(run: Run, comparisons: tuple[Comparison, ...]) -> Iterator[str]:
    """Shares that agree say nothing where one side has seen only a part."""
    if run.server_sli.lost_counts:
        return
    if run.server_sli.source == "none":
        yield "nothing tells the service's own SLI: it cannot be held against the client's"
        return
    for whole in comparisons:
        if whole.name == WHOLE and whole.counts_differ:
            yield (
                f"the service counted {sum(whole.server.values()):,} requests, the client {whole.answered:,} answers: "
                f"more than {percent(COUNTED)} apart"
            )


def _remarks(
    run: Run, availabilities: Availabilities, comparisons: tuple[Comparison, ...], floor: int
) -> Iterator[str]:
    if floor != FLOOR:
        yield f"Judged from {floor:,} valid samples a class on; {FLOOR:,} is what a verdict takes."
    few = [name for name in run.facts.judged.classes if not availabilities.by_class[name].sufficient]
    if few:
        yield f"Insufficient, under {floor:,} valid samples: {', '.join(few)}."
    peak = availabilities.peak_whole
    if run.facts.judged.peak and peak is not None and not peak.sufficient:
        yield f"Insufficient, under {floor:,} valid samples: the peak window."
    if run.server_sli.lost_counts:
        yield "A process was killed and took counts with it: the service's own SLI is shown, and not held against the client's."
    elif run.server_sli.source != "none" and not any(c.required for c in comparisons):
        yield "Too few were counted to compare the service's own SLI with the client's."


def _number(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
