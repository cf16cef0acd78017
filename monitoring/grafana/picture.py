"""A board as a picture: every panel in its place on the grid, drawn from what a Prometheus knows.

Plain on purpose: it shows what a person would see in Grafana (titles, units, limits, legends, colours of figures), so that a
board can be looked at where no Grafana is.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, MultipleLocator

from monitoring.grafana.asking import Choice, Prometheus, Series, Span, legend_of, replaced
from monitoring.grafana.boards import boards
from monitoring.grafana.wording import said, worded

COLUMNS = 24
CELL_WIDTH_IN, CELL_HEIGHT_IN = 0.86, 0.4
DPI = 100
MOST_LEGENDS = 8
MOST_TICKS = 6
TICKS_S = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
PAPER, INK, FAINT, GRID = "#ffffff", "#24292f", "#6e7781", "#d8dee4"
COLOURS = {"green": "#2da44e", "orange": "#d9822b", "red": "#cf222e", "blue": "#3274d9"}
LINES = (
    "#3274d9", "#e36209", "#2da44e", "#8250df", "#cf222e", "#0a7ea4", "#bf8700", "#d63384", "#57606a", "#1b7c83",
    "#9a6700", "#6639ba",
)  # fmt: skip

Json = Mapping[str, Any]


def draw_boards(prometheus: Prometheus, span: Span, out: Path, choice: Choice | None = None) -> Iterator[Path]:
    """Draw every board to `out`, a folder that exists; yields the files."""
    for file, board in boards():
        picture = out / f"{file.stem}.png"
        draw_board(board, prometheus, span, picture, choice or Choice())
        yield picture


def draw_board(board: Json, prometheus: Prometheus, span: Span, file: Path, choice: Choice) -> None:
    """Draw one board as a PNG. Raises QueryRefused."""
    panels = board["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    width, height = COLUMNS * CELL_WIDTH_IN, (rows + 2) * CELL_HEIGHT_IN
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    _head(figure, board, span, height)
    asker = _Asker(prometheus, span, {**choice.variables(board), **span.variables()})
    marks = [series.newest / 1000 for series in asker.over(board["annotations"]["list"][0]["expr"])]
    for panel in panels:
        place = _Place(panel["gridPos"], rows + 2)
        if panel["type"] == "row":
            figure.text(place.left, place.middle, panel["title"], size=11, weight="bold", color=INK, va="center")
            continue
        axes = figure.add_axes(place.box(_MARGINS[panel["type"]]))
        figure.text(place.left, place.top, panel["title"], size=9, weight="bold", color=INK, va="top")
        _DRAWN[panel["type"]](axes, panel, asker, marks)
    figure.savefig(file)


class _Asker:
    """Asks what a panel shows."""

    def __init__(self, prometheus: Prometheus, span: Span, variables: Mapping[str, str]) -> None:
        self._prometheus = prometheus
        self.span = span
        self._variables = variables

    def over(self, expr: str) -> list[Series]:
        return self._prometheus.range(replaced(expr, self._variables), self.span)

    def at_the_end(self, expr: str) -> list[Series]:
        return self._prometheus.at(replaced(expr, self._variables), self.span.to_s)


class _Place:
    """Where a panel is on the picture, in parts of its width and height."""

    def __init__(self, grid: Json, rows: int) -> None:
        self._columns, self._rows = COLUMNS, rows
        self._x, self._y, self._w, self._h = grid["x"], grid["y"] + 2, grid["w"], grid["h"]
        self.left = (self._x + 0.25) / COLUMNS
        self.top = 1 - (self._y + 0.25) / rows
        self.middle = 1 - (self._y + self._h / 2) / rows

    def box(self, margins: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Left, bottom, width, height, with margins (left, right, top, bottom) in cells."""
        left, right, top, bottom = margins
        return (
            (self._x + left) / self._columns,
            1 - (self._y + self._h - bottom) / self._rows,
            (self._w - left - right) / self._columns,
            (self._h - top - bottom) / self._rows,
        )


_MARGINS = {"timeseries": (1.0, 0.3, 1.0, 2.3), "stat": (0.25, 0.25, 0.8, 0.2), "table": (0.25, 0.25, 1.0, 0.3)}


def _head(figure: Figure, board: Json, span: Span, height: float) -> None:
    shown = " to ".join(f"{dt.datetime.fromtimestamp(at, dt.UTC):%Y-%m-%d %H:%M:%S}" for at in (span.from_s, span.to_s))
    y = 1 - CELL_HEIGHT_IN / height
    figure.text(0.25 / COLUMNS, y, board["title"], size=15, weight="bold", color=INK, va="center")
    figure.text(1 - 0.25 / COLUMNS, y, f"{shown} UTC", size=9, color=FAINT, va="center", ha="right")


# --- the kinds of panel ---------------------------------------------------------------------------------------------


def _draw_graph(axes: Axes, panel: Json, asker: _Asker, marks: Sequence[float]) -> None:
    looks = panel["fieldConfig"]["defaults"]
    found = [
        (legend_of(target["legendFormat"], series.labels), series)
        for target in panel["targets"]
        for series in asker.over(target["expr"])
    ]
    found.sort(key=lambda named: (-_size(named[1]), named[0]))  # what matters first: a legend has room for few
    _frame(axes, asker.span, looks)
    if not found:
        _no_data(axes)
        return
    custom = looks["custom"]
    if custom.get("stacking", {}).get("mode") == "normal":
        _stack(axes, found, asker.span)
    else:
        for number, (name, series) in enumerate(found):
            steps = "steps-post" if custom.get("lineInterpolation") == "stepAfter" else "default"
            times, values = zip(*_with_gaps(series, asker.span.step_s), strict=True)
            dashes = "--" if _is_dashed(name, panel) else "-"
            axes.plot(times, values, color=_colour(number), lw=1.3, ls=dashes, drawstyle=steps, label=name)
    _limits(axes, looks)
    _scale(axes, looks, custom)
    for mark in marks:
        if asker.span.from_s <= mark <= asker.span.to_s:
            axes.axvline(mark, color=COLOURS["blue"], lw=0.9, ls=(0, (2, 2)))
    _legend(axes)


def _stack(axes: Axes, found: Sequence[tuple[str, Series]], span: Span) -> None:
    """On one another, over the same instants; what is missing counts as nothing."""
    times = sorted({at for _, series in found for at, _ in series.points})
    known = [dict(series.points) for _, series in found]
    heights = [[values.get(at, 0.0) for at in times] for values in known]
    axes.stackplot(
        times,
        heights,
        labels=[name for name, _ in found],
        colors=[_colour(number) for number in range(len(found))],
        alpha=0.75,
        lw=0,
    )


def _draw_figure(axes: Axes, panel: Json, asker: _Asker, marks: Sequence[float]) -> None:
    axes.set_axis_off()
    looks = panel["fieldConfig"]["defaults"]
    (target,) = panel["targets"]
    found = asker.over(target["expr"])
    if not found:
        _no_data(axes)
        return
    for number, series in enumerate(found):
        y = 1 - (number + 0.5) / len(found)
        text, colour = said(series.newest, looks)
        size = 22 if len(found) == 1 else 13
        axes.text(0.98, y, text, size=size, weight="bold", color=COLOURS.get(colour, INK), ha="right", va="center")
        if len(found) > 1:
            axes.text(0.0, y, legend_of(target["legendFormat"], series.labels), size=9, color=FAINT, va="center")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


def _draw_table(axes: Axes, panel: Json, asker: _Asker, marks: Sequence[float]) -> None:
    axes.set_axis_off()
    organized = next(t["options"] for t in panel["transformations"] if t["id"] == "organize")
    heads: dict[str, str] = organized["renameByName"]
    looks = {
        o["matcher"]["options"]: {p["id"]: p["value"] for p in o["properties"]}
        for o in panel["fieldConfig"]["overrides"]
    }
    by = [name for name in organized["indexByName"] if name not in heads]
    cells: dict[tuple[str, ...], dict[str, tuple[str, str]]] = {}
    for target in panel["targets"]:
        head = heads[f"Value #{target['refId']}"]
        for series in asker.at_the_end(target["expr"]):
            row = cells.setdefault(tuple(series.labels.get(name, "") for name in by), {})
            row[head] = said(series.newest, looks[head])
    if not cells:
        _no_data(axes)
        return
    columns = [*by, *heads.values()]
    lines = len(cells) + 1
    for place, column in enumerate(columns):
        axes.text(place / len(columns), 1 - 0.5 / lines, column, size=9, weight="bold", color=FAINT, va="center")
    for line, (key, row) in enumerate(sorted(cells.items()), start=1):
        words = [(name, "") for name in key] + [row.get(head, ("-", "")) for head in heads.values()]
        for place, (text, colour) in enumerate(words):
            y = 1 - (line + 0.5) / lines
            axes.text(place / len(columns), y, text, size=10, color=COLOURS.get(colour, INK), va="center")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


_DRAWN: dict[str, Callable[[Axes, Json, _Asker, Sequence[float]], None]] = {
    "timeseries": _draw_graph,
    "stat": _draw_figure,
    "table": _draw_table,
}

# --- small things ---------------------------------------------------------------------------------------------------


def _frame(axes: Axes, span: Span, looks: Json) -> None:
    axes.set_facecolor(PAPER)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, lw=0.6)
    axes.tick_params(colors=FAINT, labelsize=7, length=0)
    axes.set_xlim(span.from_s, span.to_s)
    every_s = next((every for every in TICKS_S if (span.to_s - span.from_s) / every <= MOST_TICKS), TICKS_S[-1])
    axes.xaxis.set_major_locator(FixedLocator(list(_whole(span, every_s))))
    clock = "%H:%M" if every_s >= 60 else "%H:%M:%S"
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{dt.datetime.fromtimestamp(at, dt.UTC):{clock}}"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: worded(value, looks["unit"])))


def _scale(axes: Axes, looks: Json, custom: Json) -> None:
    least, most = axes.dataLim.intervaly
    low, high = axes.get_ylim()
    if looks.get("min") is not None:
        low = looks["min"]
    elif custom.get("axisSoftMin") is not None:
        low = min(least, custom["axisSoftMin"])
    if looks.get("max") is not None:
        high = looks["max"] + (looks["max"] - low) * 0.02
    elif custom.get("axisSoftMax") is not None:
        high = max(high, custom["axisSoftMax"] * 1.05)
    elif least == most == 0:
        high = 1.0
    axes.set_ylim(low, high)
    if looks["unit"] == "bytes":
        axes.yaxis.set_major_locator(MultipleLocator(2 ** math.ceil(math.log2(max(1.0, high / 5)))))
    elif looks["unit"] == "s" and high > 60:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 3, 6, 10]))


def _limits(axes: Axes, looks: Json) -> None:
    if looks["custom"].get("thresholdsStyle", {}).get("mode") != "dashed":
        return
    steps = looks["thresholds"]["steps"]
    for before, step in pairwise(steps):
        worse = before if step["color"] == "green" else step
        axes.axhline(step["value"], color=COLOURS[worse["color"]], lw=0.9, ls=(0, (5, 3)))


def _legend(axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    more = len(names) - MOST_LEGENDS
    if more > 0:
        names = [*names[: MOST_LEGENDS - 1], f"and {more + 1} more"]
    longest = max(len(name) for name in names)
    columns = max(1, min(4, int(axes.bbox.width / (longest * 5.0 + 30))))
    axes.legend(
        [*handles[: MOST_LEGENDS - 1], Line2D([], [], lw=0)] if more > 0 else handles,
        names,
        loc="upper left",
        bbox_to_anchor=(-0.06, -0.1),
        ncols=columns,
        fontsize=6.5,
        frameon=False,
        labelcolor=INK,
        handlelength=1.0,
        columnspacing=1.0,
        labelspacing=0.3,
        borderpad=0,
    )


def _no_data(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no data", size=10, color=FAINT, ha="center", va="center", transform=axes.transAxes)


def _size(series: Series) -> float:
    return sum(value for _, value in series.points)


def _is_dashed(name: str, panel: Json) -> bool:
    return any(re.search(override["matcher"]["options"], name) for override in panel["fieldConfig"]["overrides"])


def _with_gaps(series: Series, step_s: float) -> Iterator[tuple[float, float]]:
    """Where values are missing the line is broken, not drawn through."""
    last: float | None = None
    for at, value in series.points:
        if last is not None and at - last > 1.5 * step_s:
            yield (last + step_s, float("nan"))
        yield (at, value)
        last = at


def _colour(number: int) -> str:
    return LINES[number % len(LINES)]


def _whole(span: Span, every_s: int) -> Iterator[float]:
    """The instants of the span that are multiples of `every_s`."""
    at = math.ceil(span.from_s / every_s) * every_s
    while at <= span.to_s:
        yield float(at)
        at += every_s
