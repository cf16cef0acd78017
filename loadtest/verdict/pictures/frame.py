"""What all pictures share: size, colours, the time axis with phases and faults, and how they become files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from loadtest.verdict.facts import Facts

# Okabe and Ito's colours, which most colour-blind people can tell apart.
CLASS_COLORS = {
    "read": "#0072b2",
    "sold_out": "#e69f00",
    "hold": "#d55e00",
    "step": "#009e73",
    "live": "#cc79a7",
    "bulk": "#56b4e9",
}
SERIES_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#4d4d4d")
LIMIT_COLOR, FAULT_COLOR, PEAK_COLOR, INK = "#c62828", "#c62828", "#fff3c4", "#333333"
STYLE: Any = {  # matplotlib's stubs want each key as a literal
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "hisbridge",  # the same run gives the same file
}
LETTER = 0.0085  # of the panel's width, of the bold letters above it: a little more than they take
MOST_TOLD = 6  # that can be read above a picture; the page has all faults in a table
BUCKETS = 240
"""About as many points over time as a picture has room for."""


def bucket_s(facts: Facts) -> int:
    """Whole seconds that one point stands for."""
    return max(1, int(np.ceil(facts.duration_s / BUCKETS)))


def time_edges(facts: Facts) -> npt.NDArray[np.float64]:
    """The edges of the buckets."""
    width = bucket_s(facts)
    return np.arange(0, facts.duration_s + width, width, dtype=np.float64)


def new_figure(facts: Facts, panels: int = 1, *, height_in: float = 3.2) -> tuple[Figure, list[Axes]]:
    """Panels below each other on one time axis, the phases named above the first."""
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 0.5 + height_in * panels), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(panels, 1, sharex=True, squeeze=False)
    axes: list[Axes] = [row[0] for row in grid]
    for ax in axes:
        ax.set_xlim(0, max(facts.duration_s, 1.0))
        _mark(ax, facts, named=ax is axes[0])
    axes[-1].set_xlabel("seconds since the start")
    return figure, axes


def _mark(ax: Axes, facts: Facts, *, named: bool) -> None:
    if facts.peak is not None:
        ax.axvspan(facts.peak.from_s, facts.peak.to_s, color=PEAK_COLOR, zorder=0, linewidth=0)
    for phase in facts.phases[1:]:
        ax.axvline(phase.from_s, color="#bbbbbb", linewidth=0.8, zorder=1)
    if facts.opens_at_s is not None:
        ax.axvline(facts.opens_at_s, color=INK, linewidth=1.1, linestyle=(0, (4, 2)), zorder=2)
    for fault in facts.faults:
        if fault.until_s is None:
            ax.axvline(fault.at_s, color=FAULT_COLOR, linewidth=1.4, zorder=2)
        else:
            ax.axvspan(fault.at_s, fault.until_s, 0.965, 1.0, color=FAULT_COLOR, zorder=2, linewidth=0)
            for edge_s in (fault.at_s, fault.until_s):
                ax.axvline(edge_s, color=FAULT_COLOR, linewidth=1.0, linestyle=":", zorder=2)
    if named:
        _name(ax, facts)


def _name(ax: Axes, facts: Facts) -> None:
    """Above the panel: the phases in a row, and over them what happened."""
    across = ax.get_xaxis_transform()
    for phase in facts.phases:
        room = (phase.to_s - phase.from_s) / max(facts.duration_s, 1.0)
        if room > 0.04:
            middle = (phase.from_s + min(phase.to_s, facts.duration_s)) / 2
            ax.text(
                middle, 1.015, phase.name, transform=across, ha="center", va="bottom", fontsize=8.5, color="#777777"
            )
    told = [(fault.at_s, fault.what, FAULT_COLOR) for fault in facts.faults]
    if facts.opens_at_s is not None:
        told.append((facts.opens_at_s, "release", INK))
    taken: list[list[tuple[float, float]]] = []  # by level: from and to, in parts of the panel's width
    for at_s, text, color in sorted(told)[:MOST_TOLD]:
        side = _side(at_s, facts)
        at, width = at_s / max(facts.duration_s, 1.0), LETTER * (len(text) + 2)
        place = (at, at + width) if side == "left" else (at - width, at)
        level = next((n for n, row in enumerate(taken) if not any(_meet(place, other) for other in row)), len(taken))
        if level == len(taken):
            taken.append([])
        taken[level].append(place)
        ax.text(
            at_s, 1.09 + 0.075 * level, text, transform=across, ha=side,
            va="bottom", fontsize=8.5, color=color, fontweight="bold",
        )  # fmt: skip


def _meet(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _side(at_s: float, facts: Facts) -> str:
    return "left" if at_s < facts.duration_s * 0.7 else "right"


def add_legend(figure: Figure, columns: int = 6) -> None:
    """Below everything, where it hides nothing: what the last panel shows."""
    shown, names = figure.axes[-1].get_legend_handles_labels()
    figure.legend(shown, names, loc="outside lower center", ncols=columns, fontsize=9, handlelength=1.4, frameon=False)


def known(line: Sequence[float | None]) -> npt.NDArray[np.float64]:
    """A line with gaps where a value is not known."""
    return np.array([np.nan if value is None else value for value in line], dtype=np.float64)


def as_png(figure: Figure) -> bytes:
    return _save(figure, "png")


def as_svg(figure: Figure) -> str:
    """The element alone, to stand within a page."""
    text = _save(figure, "svg").decode()
    return text[text.index("<svg") :]


def _save(figure: Figure, kind: str) -> bytes:
    written = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    with rc_context(STYLE):
        # "tight": several faults at once are told in as many lines above the panel, which may need more room than there is.
        figure.savefig(written, format=kind, dpi=150, metadata=metadata, bbox_inches="tight", pad_inches=0.1)
    return written.getvalue()
