"""What the two sides took of the machine."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from loadtest.verdict.conclusion import Conclusion
from loadtest.verdict.pictures.frame import add_legend, known, new_figure


def draw_cpu(conclusion: Conclusion) -> Figure | None:
    """Cores that were busy."""
    series = conclusion.run.series
    lines = {
        "service": (known(series.server_cpu_share), "#0072b2"),
        "generator": (known(series.generator_cpu_share), "#d55e00"),
    }
    shown = {name: pair for name, pair in lines.items() if len(pair[0]) and not np.isnan(pair[0]).all()}
    if not shown:
        return None
    figure, (ax,) = new_figure(conclusion.run.facts, height_in=2.4)
    for name, (line, color) in shown.items():
        ax.plot(series.t_s, line, color=color, linewidth=1.3, label=name)
    ax.set_ylabel("cores busy")
    ax.set_ylim(bottom=0)
    add_legend(figure)
    return figure
