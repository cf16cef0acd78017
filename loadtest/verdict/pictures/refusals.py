"""Bad answers over time, and the refusals that are right."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from loadtest.verdict.conclusion import Conclusion
from loadtest.verdict.pictures.frame import SERIES_COLORS, add_legend, bucket_s, new_figure, time_edges
from loadtest.verdict.samples import BAD, LIVE, SOLD_OUT, Verdict

BAD_COLORS = dict(zip(BAD, ("#e69f00", "#c62828", "#7a5195", "#333333", "#d55e00", "#56b4e9", "#cc79a7"), strict=True))
FROM_A_HIS = "of a HIS (live, not ours)"
MOST_CODES = 5

Times = npt.NDArray[np.float64]


def draw_errors(conclusion: Conclusion) -> Figure:
    """By verdict; a good run has an empty picture, which is worth seeing."""
    judged = conclusion.judged
    live = judged.of_class(LIVE)
    times = {v.name.lower(): judged.intended_s[(judged.verdicts == v) & ~live] for v in BAD}
    colors = {v.name.lower(): BAD_COLORS[v] for v in BAD}
    times[FROM_A_HIS] = judged.intended_s[live & np.isin(judged.verdicts, BAD)]
    colors[FROM_A_HIS] = "#bbbbbb"
    return _bars(conclusion, times, colors, "bad answers per second", "no bad answer")


def draw_refusals(conclusion: Conclusion) -> Figure | None:
    """Business refusals of holds by code, and 429 within the policy."""
    judged, samples, codes = conclusion.judged, conclusion.run.samples, conclusion.run.facts.codes
    sold_out = judged.of_class(SOLD_OUT)
    counted = np.bincount(samples["code"][sold_out], minlength=len(codes))
    most = [int(n) for n in np.argsort(counted, kind="stable")[::-1][:MOST_CODES] if counted[n]]
    times = {codes[n] or "409": judged.intended_s[sold_out & (samples["code"] == n)] for n in most}
    times["429 by the policy"] = judged.intended_s[judged.verdicts == Verdict.LIMITED]
    if not any(len(t) for t in times.values()):
        return None
    colors = dict(zip(times, SERIES_COLORS, strict=False))
    return _bars(conclusion, times, colors, "refusals per second", "")


def _bars(conclusion: Conclusion, times: dict[str, Times], colors: dict[str, str], label: str, nothing: str) -> Figure:
    facts = conclusion.run.facts
    edges, width = time_edges(facts), bucket_s(facts)
    figure, (ax,) = new_figure(facts, height_in=2.6)
    base = np.zeros(len(edges) - 1)
    for name, when in times.items():
        if not len(when):
            continue
        rate = np.histogram(when, edges)[0] / width
        ax.bar(edges[:-1], rate, width, bottom=base, align="edge", color=colors[name], label=f"{name} ({len(when):,})")
        base += rate
    ax.set_ylabel(label)
    if base.any():
        add_legend(figure, 4)
    else:
        ax.set_ylim(0, 1)
        ax.set_yticks([0])
        ax.text(0.5, 0.5, nothing, transform=ax.transAxes, ha="center", va="center", fontsize=13, color="#2e7d32")
    return figure
