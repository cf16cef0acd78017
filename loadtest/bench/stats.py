"""The arithmetic of the table: medians over rounds, the spread of their ratios, and whether a bar is met. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """One round of one side. `rate` is per second; `cpu_us` is CPU of the measured side's processes for each piece of work.

    `cpu_us` and the latencies are None where they cannot be had. `database_cpu_us` is PostgreSQL's own, beside it.
    `problems` are the reasons why this round does not count as measured: any of them fails the row.
    """

    rate: float
    count: int
    cpu_us: float | None = None
    database_cpu_us: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """Median, least and most of some figures."""

    median: float
    least: float
    most: float


@dataclass
class Row:
    """One row of the table: rounds of ours beside rounds of its baseline, taken in turn, so that pairs saw the same machine.

    `bar` is the least ratio ours / baseline of their rates; None: printed, not judged. `notes` are figures to be read beside it.
    """

    key: str
    what: str
    unit: str
    baseline_is: str
    bar: float | None
    ours: list[Sample] = field(default_factory=list)
    baseline: list[Sample] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    failure: str | None = None

    @property
    def ratio(self) -> Summary | None:
        """Of the rates, pair by pair."""
        pairs = list(zip(self.ours, self.baseline, strict=False))
        return None if any(b.rate <= 0 for _, b in pairs) else summary([o.rate / b.rate for o, b in pairs])

    @property
    def problems(self) -> list[str]:
        """Why the row is not to be trusted, each once."""
        found = [p for sample in (*self.ours, *self.baseline) for p in sample.problems]
        return list(dict.fromkeys([*([self.failure] if self.failure else []), *found]))

    @property
    def met(self) -> bool:
        """Whether it was measured without a problem and reaches its bar."""
        if self.problems or not self.ours:
            return False
        return self.bar is None or (self.ratio is not None and self.ratio.median >= self.bar)


def summary(values: Sequence[float]) -> Summary | None:
    """None of nothing."""
    return Summary(statistics.median(values), min(values), max(values)) if values else None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -(-int(share * 1_000_000) * len(ordered) // 1_000_000) - 1))]
