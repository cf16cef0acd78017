"""Variables, names of series and values, as Grafana writes them."""

from __future__ import annotations

from typing import Any

import pytest

from monitoring.grafana.asking import Choice, Prometheus, Span, legend_of, replaced
from monitoring.grafana.panels import Limits
from monitoring.grafana.wording import said, worded

BOARD: dict[str, Any] = {"templating": {"list": [{"name": "datasource"}, {"name": "hospital", "allValue": ".*"}]}}


@pytest.mark.parametrize(
    ("minutes", "scrape_s", "rate_interval"),
    [
        # Grafana, "Prometheus template variables": max($__interval + scrape interval, 4 * scrape interval)
        (10, 15, "60s"),  # a step is a scrape: 15 + 15 is less than 4 * 15
        (400, 15, "75s"),  # 400 points of 60 s: 60 + 15
        (10, 1, "4s"),
    ],
)
def test_rates_are_taken_over_four_scrapes_or_a_step_and_one(minutes: int, scrape_s: float, rate_interval: str) -> None:
    assert Span(0, minutes * 60, scrape_s).variables()["__rate_interval"] == rate_interval


def test_variables_are_replaced_by_all_or_by_what_is_chosen() -> None:
    expr = 'rate(x{hospital=~"$hospital"}[${__range}])'
    span = Span(0, 60, 1).variables()
    assert replaced(expr, {**Choice().variables(BOARD), **span}) == 'rate(x{hospital=~".*"}[60s])'
    assert replaced(expr, {**Choice(["a-1", "b"]).variables(BOARD), **span}) == 'rate(x{hospital=~"(a-1|b)"}[60s])'


def test_a_variable_that_no_board_has_is_a_mistake() -> None:
    with pytest.raises(KeyError, match="region"):
        replaced('x{region="$region"}', Choice().variables(BOARD))


def test_only_http_is_spoken_to() -> None:
    with pytest.raises(ValueError, match="not an http URL"):
        Prometheus("file:///etc/passwd")


@pytest.mark.parametrize(
    ("legend", "name"),
    [("{{hospital}} p99", "h1 p99"), ("{{ hospital }}/{{gone}}", "h1/"), ("__auto", "h1, c"), ("fixed", "fixed")],
)
def test_series_is_named_by_its_legend(legend: str, name: str) -> None:
    assert legend_of(legend, {"__name__": "x", "hospital": "h1", "connector": "c"}) == name


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.25, "s", "250 ms"), (0, "s", "0 s"), (90, "s", "1.5 min"), (7_200, "s", "2 h"), (-2, "s", "-2 s"),
        (0.9995, "percentunit", "99.95%"), (0.5, "percentunit", "50%"),
        (3_723, "dthms", "01:02:03"), (-5, "dthms", "00:00:05 ago"),
        (1_536, "bytes", "1.5 KiB"), (12_000, "reqps", "12 K req/s"), (0.25, "cps", "0.25/s"), (7, "short", "7"),
    ],
)  # fmt: skip
def test_value_is_written_with_its_unit(value: float, unit: str, text: str) -> None:
    assert worded(value, unit) == text


@pytest.mark.parametrize(
    ("limits", "value", "colour"),
    [
        (Limits(warn=0.999, bad=0.995, low=True), 0.9995, "green"),
        (Limits(warn=0.999, bad=0.995, low=True), 0.999, "green"),
        (Limits(warn=0.999, bad=0.995, low=True), 0.9989, "orange"),
        (Limits(warn=0.999, bad=0.995, low=True), 0.9949, "red"),
        (Limits(bad=0.999, low=True), 0.9, "red"),
        (Limits(warn=30, bad=60), 29, "green"),
        (Limits(warn=30, bad=60), 30, "orange"),
        (Limits(warn=30, bad=60), 61, "red"),
        (Limits(bad=1), 0, "green"),
        (Limits(bad=1), 1, "red"),
    ],
)
def test_colour_says_which_limit_a_value_has_passed(limits: Limits, value: float, colour: str) -> None:
    """As in Grafana a step holds from its value on."""
    steps = [{"color": step.color, "value": step.value} for step in limits.steps()]
    assert said(value, {"unit": "short", "thresholds": {"steps": steps}})[1] == colour


def test_value_is_a_word_where_there_is_one() -> None:
    looks = {"unit": "short", "mappings": [{"options": {"2": {"text": "open", "color": "red"}}}]}
    assert said(2.0, looks) == ("open", "red")
    assert said(3.0, looks) == ("3", "")
