"""Arrivals per second."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from loadtest.verdict.conclusion import Conclusion
from loadtest.verdict.pictures.frame import CLASS_COLORS, add_legend, bucket_s, new_figure, time_edges


def draw_arrivals(conclusion: Conclusion) -> Figure | None:
    """Stacked by class."""
    judged, facts = conclusion.judged, conclusion.run.facts
    edges = time_edges(facts)
    rates = {
        name: np.histogram(judged.intended_s[judged.of_class(name)], edges)[0] / bucket_s(facts)
        for name in judged.class_names
    }
    rates = {name: rate for name, rate in rates.items() if rate.any()}
    if not rates:
        return None
    figure, (ax,) = new_figure(facts)
    ax.stackplot(
        edges[:-1], *rates.values(), labels=list(rates), colors=[CLASS_COLORS.get(name, "#888888") for name in rates],
        step="post", linewidth=0,
    )  # fmt: skip
    ax.set_ylabel("requests per second")
    ax.set_ylim(bottom=0)
    add_legend(figure)
    return figure
