"""What happens at the hospitals: seats, and calls at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from loadtest.verdict.conclusion import Conclusion
from loadtest.verdict.facts import Line
from loadtest.verdict.pictures.frame import SERIES_COLORS, add_legend, known, new_figure


def draw_seats(conclusion: Conclusion) -> Figure | None:
    """A line for each hospital."""
    return _lines(conclusion, conclusion.run.series.seats_left, "seats left")


def draw_his_load(conclusion: Conclusion) -> Figure | None:
    """Calls that ran at once, and the bound."""
    run = conclusion.run
    figure = _lines(conclusion, run.series.his_running, "calls at once")
    if figure is None:
        return None
    (ax,) = figure.axes
    allowed: dict[int, list[int]] = {}
    for n, hospital in enumerate(h for h, line in run.series.his_running.items() if line):
        if hospital in run.his:
            allowed.setdefault(run.his[hospital].allowed_at_once, []).append(n)
    for bound, of in allowed.items():
        color = SERIES_COLORS[of[0] % len(SERIES_COLORS)] if len(allowed) > 1 else "#c62828"
        ax.axhline(bound, color=color, linewidth=1.3, linestyle="--")
    most = max(list(allowed) + [his.most_at_once for his in run.his.values()], default=1)
    ax.set_ylim(0, most * 1.15 + 0.5)
    return figure


def _lines(conclusion: Conclusion, lines: Mapping[str, Line], label: str) -> Figure | None:
    shown = {name: known(line) for name, line in lines.items() if line}
    shown = {name: line for name, line in shown.items() if not np.isnan(line).all()}
    if not shown:
        return None
    figure, (ax,) = new_figure(conclusion.run.facts, height_in=2.6)
    for n, (name, line) in enumerate(shown.items()):
        color = SERIES_COLORS[n % len(SERIES_COLORS)]
        ax.plot(conclusion.run.series.t_s, line, color=color, linewidth=1.4, drawstyle="steps-post", label=name)
    ax.set_ylabel(label)
    ax.set_ylim(bottom=0)
    add_legend(figure)
    return figure
