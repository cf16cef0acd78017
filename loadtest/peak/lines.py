"""What a run comes to in one line: of a search for the ceiling, or of a round of all profiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
from rich.table import Table

from loadtest.verdict.conclusion import Conclusion
from loadtest.verdict.words import percent


class Line(msgspec.Struct, frozen=True):
    """One run. Rates are requests per second; `cpu_us` is server CPU per request, shares are of one core.

    `good_share` is that of all judged classes; `requests` are all valid ones. `loop_ms` is how quick the machine was.
    """

    name: str
    scale: float
    outcome: str
    requests: int
    peak_per_s: float
    first_ten_per_s: float
    good_share: float
    p99_ms: dict[str, float]
    lag_p99_ms: float
    cpu_us: float
    generator_share: float
    loop_ms: float
    reasons: tuple[str, ...]


def line_of(name: str, scale: float, found: Conclusion) -> Line:
    """The line of a run that was judged."""
    judged, facts = found.judged, found.run.facts
    intended_s = judged.intended_s
    seconds = np.bincount(intended_s[intended_s >= 0].astype(int), minlength=1)
    opens_s = facts.opens_at_s or 0.0
    first = ((intended_s >= opens_s) & (intended_s < opens_s + 10)).sum() / 10
    whole = found.availabilities.whole
    lasts_s = float(intended_s.max()) if len(intended_s) else 1.0
    return Line(
        name=name,
        scale=scale,
        outcome=found.outcome.value,
        requests=facts.server.requests,
        peak_per_s=float(seconds.max()),
        first_ten_per_s=float(first),
        good_share=float(whole.share or 0.0),
        p99_ms=dict(_p99_ms(found)),
        lag_p99_ms=found.lag_p99_ms,
        cpu_us=facts.server.cpu_s / max(1, facts.server.requests) * 1e6,
        generator_share=facts.generator.cpu_s / lasts_s,
        loop_ms=facts.machine.loop_ms,
        reasons=found.reasons,
    )


def _p99_ms(found: Conclusion) -> Iterator[tuple[str, float]]:
    for name in found.judged.class_names:
        which = found.judged.of_class(name)
        if which.any():
            yield name, float(np.quantile(found.judged.latency_s[which], 0.99)) * 1000


def table_of(lines: Sequence[Line], title: str) -> Table:
    """For the screen."""
    table = Table(title=title, title_justify="left")
    table.add_column("run")
    for name in ("x", "outcome", "requests", "busiest second", "good", "p99 read", "p99 hold", "lag p99"):
        table.add_column(name, justify="right")
    for name in ("us/request", "loop ms"):
        table.add_column(name, justify="right")
    for one in lines:
        p99 = [f"{one.p99_ms[name]:,.0f}" if name in one.p99_ms else "" for name in ("read", "hold")]
        row: list[Any] = [one.name, f"{one.scale:.3g}", one.outcome, f"{one.requests:,}", f"{one.peak_per_s:,.0f}/s"]
        good = percent(Fraction(one.good_share).limit_denominator(1_000_000_000))
        row += [good, *p99, f"{one.lag_p99_ms:.1f}", f"{one.cpu_us:,.0f}", f"{one.loop_ms:.0f}"]
        table.add_row(*row)
    return table
