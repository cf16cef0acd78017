"""The kinds of panel that the boards are made of: graphs, figures and tables, with units, limits and a word on what is good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    LineInterpolation,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, AMBER, RED = "green", "orange", "red"
WIDE, HALF, THIRD, QUARTER = 24, 12, 8, 6
GRAPH_HEIGHT, FIGURE_HEIGHT = 8, 4

RUNBOOKS = "docs/runbooks"
"""A page for each alert; a panel is told the alert without its `Hisbridge`."""

Panel = timeseries.Panel | stat.Panel | table.Panel


class Line(NamedTuple):
    """One query and how its series are named: `{{label}}` stands for a label's value."""

    expr: str
    legend: str = ""


class Limits(NamedTuple):
    """From which value on something is not well any more. With `low` it is what lies below that is bad."""

    warn: float | None = None
    bad: float | None = None
    low: bool = False

    def steps(self) -> list[Threshold]:
        """As Grafana wants them: ascending, the first without a value."""
        if not self.low:
            given = [(GREEN, None), (AMBER, self.warn), (RED, self.bad)]
        elif self.warn is None:
            given = [(RED, None), (GREEN, self.bad)]
        else:
            given = [(RED, None), (AMBER, self.bad), (GREEN, self.warn)]
        return [
            Threshold(value=value, color=color)
            for at, (color, value) in enumerate(given)
            if at == 0 or value is not None
        ]


NO_LIMITS = Limits()
ANY_IS_BAD = Limits(bad=1)


def graph(
    title: str,
    *lines: Line,
    unit: str,
    says: str,
    runbook: str = "",
    limits: Limits = NO_LIMITS,
    width: int = THIRD,
    stacked: bool = False,
    steps: bool = False,
    most: float | None = None,
    from_about: float = 0,
    negative: bool = False,
    dashed: str = "",
    exemplars: bool = False,
) -> timeseries.Panel:
    """Lines over time. `says` is what good looks like; `steps` for what jumps; `most` is the top of a scale that has one,
    `from_about` its foot while nothing is below; `dashed` are the series (a regular expression of their names) that bound others;
    `exemplars` shows single requests with the trace they belong to, where traces are on.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(_description(says, runbook))
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(GRAPH_HEIGHT)
        .line_width(1)
        .fill_opacity(25 if stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .line_interpolation(LineInterpolation.STEP_AFTER if steps else LineInterpolation.LINEAR)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .thresholds(_thresholds(limits))
    )
    if negative:
        panel = panel.axis_centered_zero(True)
    elif from_about:
        panel = panel.axis_soft_min(from_about)
    else:
        panel = panel.min(0)
    if dashed:
        style = DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [6, 4]})
        panel = panel.override_by_regexp(dashed, [style])
    if limits != NO_LIMITS:
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED))
        panel = panel.axis_soft_max(max(value for value in (limits.warn, limits.bad) if value is not None))
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if most is not None:
        panel = panel.max(most)
    return panel.targets([_query(number, line).exemplar(exemplars) for number, line in enumerate(lines)])


def figure(
    title: str,
    line: Line,
    *,
    unit: str,
    says: str,
    runbook: str = "",
    limits: Limits = NO_LIMITS,
    width: int = 4,
    height: int = FIGURE_HEIGHT,
    decimals: int | None = None,
    words: Mapping[int, tuple[str, str]] | None = None,
    spark: bool = True,
) -> stat.Panel:
    """The newest value, large. `words` says a value as (text, colour) instead."""
    panel = (
        stat.Panel()
        .title(title)
        .description(_description(says, runbook))
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(height)
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.AREA if spark else BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
        .thresholds(_thresholds(limits))
        .targets([_query(0, line)])
    )
    if decimals is not None:
        panel = panel.decimals(decimals)
    if words is not None:
        panel = panel.mappings([_said(words)])
    return panel


class Column(NamedTuple):
    """A column of a table: its head, a query that gives one value for each row, and how the value is shown."""

    head: str
    expr: str
    unit: str = "short"
    limits: Limits = NO_LIMITS
    words: Mapping[int, tuple[str, str]] | None = None


def overview(
    title: str, *columns: Column, by: Sequence[str], says: str, runbook: str = "", width: int = WIDE, height: int = 8
) -> table.Panel:
    """One row for each combination of the labels `by`, one column for each query."""
    panel = (
        table.Panel()
        .title(title)
        .description(_description(says, runbook))
        .datasource(SOURCE)
        .span(width)
        .height(height)
        .show_header(True)
        .targets([_instant(number, column.expr) for number, column in enumerate(columns)])
        .with_transformation(DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {"Time": True},
                    "indexByName": {
                        name: at for at, name in enumerate([*by, *(_value(n) for n in range(len(columns)))])
                    },
                    "renameByName": {_value(number): column.head for number, column in enumerate(columns)},
                },
            )
        )
    )
    for column in columns:
        panel = panel.override_by_name(column.head, _looks(column))
    return panel


def _looks(column: Column) -> list[DynamicConfigValue]:
    looks = [DynamicConfigValue(id_val="unit", value=column.unit)]
    if column.limits != NO_LIMITS:
        looks.append(DynamicConfigValue(id_val="thresholds", value=_thresholds(column.limits).build()))
    if column.words is not None:
        looks.append(DynamicConfigValue(id_val="mappings", value=[_said(column.words)]))
    if column.limits != NO_LIMITS or column.words is not None:
        looks.append(DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}))
    return looks


def _said(words: Mapping[int, tuple[str, str]]) -> ValueMap:
    return ValueMap(
        options={
            str(value): ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(words.items())
        },
    )


def _thresholds(limits: Limits) -> dashboard.ThresholdsConfig:
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(limits.steps())


def _description(says: str, runbook: str) -> str:
    return f"{says}\n\nRunbook: {RUNBOOKS}/Hisbridge{runbook}.md" if runbook else says


def _query(number: int, line: Line) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(line.expr).range().ref_id(_letter(number)).datasource(SOURCE)
    return query.legend_format(line.legend or "__auto")


def _instant(number: int, expr: str) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(expr).instant().format(PromQueryFormat.TABLE)
    return query.ref_id(_letter(number)).datasource(SOURCE)


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _value(number: int) -> str:
    """What Grafana calls the value of a query in a merged table."""
    return f"Value #{_letter(number)}"
