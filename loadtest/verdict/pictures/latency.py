"""Latency quantiles over time."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from loadtest.verdict.availability import QUANTILES
from loadtest.verdict.conclusion import Conclusion
from loadtest.verdict.pictures.frame import LIMIT_COLOR, add_legend, new_figure, time_edges
from loadtest.verdict.samples import LIMITS_S, Verdict
from loadtest.verdict.words import quantile_name

COLORS = ("#9ecae1", "#4292c6", "#08519c", "#08213f")  # darker: rarer
LEAST_MS = 0.1


def draw_latency(conclusion: Conclusion) -> Figure | None:
    """A panel for each class, on one scale, with its limit."""
    judged, facts = conclusion.judged, conclusion.run.facts
    edges = time_edges(facts)
    shown = (judged.verdicts != Verdict.UNANSWERED) & (judged.intended_s >= 0) & (judged.intended_s < edges[-1])
    classes = {name: judged.of_class(name) & shown for name in judged.class_names}
    classes = {name: which for name, which in classes.items() if which.any()}
    if not classes:
        return None
    figure, axes = new_figure(facts, len(classes), height_in=1.9)
    for ax, (name, which) in zip(axes, classes.items(), strict=True):
        lines = _quantiles_ms(judged.intended_s[which], judged.latency_s[which], edges)
        for share, line, color in zip(QUANTILES, lines, COLORS, strict=True):
            ax.plot(
                edges[:-1], line, color=color, linewidth=1.2, marker=".", markersize=2.5, label=quantile_name(share)
            )
        ax.set_yscale("log")
        limit_s = LIMITS_S.get(name)
        highest = max(np.nanmax(lines), 1000 * (limit_s or 0.0))
        ax.set_ylim(max(LEAST_MS, np.nanmin(lines) * 0.7), highest * 1.6)
        if limit_s is not None:
            ax.axhline(limit_s * 1000, color=LIMIT_COLOR, linewidth=1.3, linestyle="--")
            ax.text(
                1.0, limit_s * 1000, f" {limit_s * 1000:g} ms", transform=ax.get_yaxis_transform(), color=LIMIT_COLOR,
                fontsize=8.5, va="center", ha="left",
            )  # fmt: skip
        ax.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
        ax.set_ylabel(f"{name}\nms")
    axes[-1].set_xlabel("seconds since the start (intended)")
    add_legend(figure)
    return figure


def _quantiles_ms(
    intended_s: npt.NDArray[np.float64], latency_s: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """A row for each quantile, a column for each bucket; nan where nothing arrived."""
    order = np.argsort(intended_s, kind="stable")
    cuts = np.searchsorted(intended_s[order], edges)
    found = np.full((len(QUANTILES), len(edges) - 1), np.nan)
    sorted_ms = latency_s[order] * 1000
    for n, (start, end) in enumerate(itertools.pairwise(cuts)):
        if end > start:
            found[:, n] = np.quantile(sorted_ms[start:end], QUANTILES, method="inverted_cdf")
    return found
