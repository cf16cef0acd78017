"""Every query of every panel, asked of a real Prometheus that has scraped a service at work: none comes back empty."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from monitoring.grafana.__main__ import main
from monitoring.grafana.asking import Choice, QueryRefused, Series, legend_of, replaced
from monitoring.grafana.boards import boards
from monitoring.grafana.picture import CELL_HEIGHT_IN, CELL_WIDTH_IN, COLUMNS, DPI
from tests.acceptance.installation import HOSPITALS
from tests.monitoring.grafana.busy import ENDS
from tests.monitoring.grafana.conftest import Watched
from tests.monitoring.grafana.test_boards import shown

pytestmark = pytest.mark.timeout(400)  # the first of them waits for a whole minute to come

PANELS = [
    pytest.param(board, panel, id=f"{file.stem}: {panel['title']}")
    for file, board in boards()
    for panel in shown(board)
]


def ask(watched: Watched, board: dict[str, Any], target: dict[str, Any], choice: Choice) -> list[Series]:
    expr = replaced(target["expr"], {**choice.variables(board), **watched.span.variables()})
    if target.get("instant"):
        return watched.prometheus.at(expr, watched.span.to_s)
    return watched.prometheus.range(expr, watched.span)


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_query_has_an_answer_when_everything_has_happened(
    watched: Watched, board: dict[str, Any], panel: dict[str, Any]
) -> None:
    for target in panel["targets"]:
        found = ask(watched, board, target, Choice())
        assert found, target["expr"]
        legend = target.get("legendFormat", "__auto")
        for label in re.findall(r"{{(\w+)}}", legend):
            assert any(series.labels.get(label) for series in found), (label, legend)
        named = [legend_of(legend, series.labels) for series in found]
        if not target.get("instant"):
            assert len(set(named)) == len(named), f"two lines of one name: {named}"


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_only_the_chosen_hospitals_are_shown(watched: Watched, board: dict[str, Any], panel: dict[str, Any]) -> None:
    chosen = HOSPITALS[:2]
    for target in panel["targets"]:
        if "hospital)" in target["expr"] or "hospital," in target["expr"]:
            told = {series.labels["hospital"] for series in ask(watched, board, target, Choice(chosen))}
            assert told <= set(chosen)


@pytest.mark.parametrize(
    "series",
    [
        'hisbridge_holds_failed_total{reason="refused"}', "hisbridge_lock_seconds_count",
        "hisbridge_registration_seconds_count", "hisbridge_report_delay_seconds_count", "hisbridge_paid_unregistered",
        "hisbridge_his_unknown", 'hisbridge_reconciliation_differences{hospital="fhir-demo",kind="long"}',
        'hisbridge_rate_limited_total{scope="identity",request_class="hold"}',
        'hisbridge_shed_total{request_class="bulk",reason="bulk_in_flight"}', "hisbridge_waiting_room_open",
        "hisbridge_waiting_room_waiting", "hisbridge_waiting_room_joined_total", "hisbridge_waiting_room_admitted_total",
        "hisbridge_waiting_room_refused_total", 'hisbridge_spans_total{result="exported"}',
        'hisbridge_sli_requests_total{phase="release",verdict="good"}', "hisbridge_release_opens_timestamp_seconds",
    ],
)  # fmt: skip
def test_what_has_happened_is_seen(watched: Watched, series: str) -> None:
    """A series at 0 has an answer as well."""
    over = watched.span.variables()["__range"]
    (most,) = watched.prometheus.at(f"max(max_over_time({series}[{over}]))", watched.span.to_s)
    assert most.newest > 0


def test_certificate_ends_when_its_text_says(watched: Watched) -> None:
    expr = "hisbridge_certificate_expiry_timestamp_seconds"
    told = {series.labels["where"]: series.newest for series in watched.prometheus.at(expr, watched.span.to_s)}
    assert told == {"soap-demo/main/ca_file": ENDS.timestamp()}


def test_counters_begin_at_zero_when_nothing_has_happened_yet(watched: Watched) -> None:
    """A counter that appears with its first event shows no increase from it."""
    for never in (
        'hisbridge_bookings_total{state="no_show"}',
        'sum by (hospital) (hisbridge_holds_total{outcome="shed"})',
    ):
        found = {s.labels["hospital"]: s.newest for s in watched.prometheus.at(never, watched.span.to_s)}
        assert found == dict.fromkeys(HOSPITALS, 0.0), never


def test_prometheus_refuses_what_is_no_query(watched: Watched) -> None:
    """Otherwise a query that nobody understands would look like one without an answer."""
    with pytest.raises(QueryRefused, match="parse error"):
        watched.prometheus.range("sum by hospital (x", watched.span)


def test_boards_can_be_looked_at_where_no_grafana_is(watched: Watched, tmp_path: Path) -> None:
    span, out = watched.span, tmp_path / "pictures"
    shown_of = ["--until", f"{span.to_s}", "--minutes", f"{(span.to_s - span.from_s) / 60}", "--scrape-s", "1"]
    assert main(["draw", "--prometheus", watched.url, "--out", str(out), *shown_of]) == 0
    for file, board in boards():
        picture = imread(out / f"{file.stem}.png")
        cells = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) + 2
        size = round(COLUMNS * CELL_WIDTH_IN * DPI), round(cells * CELL_HEIGHT_IN * DPI)
        assert picture.shape[:2] == pytest.approx(size[::-1], abs=1)
        assert (picture[..., :3].min(axis=2) < 0.9).mean() > 0.01  # not a white sheet
