"""The rules of the objectives: what is committed is what the spec makes, and the alerts fire by the workbook's arithmetic.

Budgets are spent at a known rate: of 99.9 % one request in a thousand may be bad, so that 15 in a thousand burn it 15 times as
fast as it lasts. Every minute one value of a series, and one evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.rules import BURNS, EVERY, LEAST_ERRORS, RULES, SPEC, WINDOWS_S, make_rules, read_spec, render
from tests.monitoring.promtool import groups_of, hold, labels

OBJECTIVES = {slo.name: slo for slo in read_spec(SPEC.read_text(encoding="utf-8")).slos}
HOUR, DAY = 60, 24 * 60  # minutes

Stretch = tuple[int, float]
"""For so many minutes this share of all is bad."""
SeriesOf = Callable[[list[Stretch], float], dict[str, str]]


def test_rules_are_those_of_the_spec_when_they_are_committed() -> None:
    spec = read_spec(SPEC.read_text(encoding="utf-8"))
    assert RULES.read_text(encoding="utf-8") == render(make_rules(spec)), "python -m monitoring.rules"


def test_burn_rates_are_those_of_the_workbook() -> None:
    """The Site Reliability Workbook, chapter 5: 2 % of thirty days' budget in an hour, 5 % in six, 10 % in a day and in three."""
    spent = {
        (w, share)
        for burns in BURNS.values()
        for rate, w, _ in burns
        for share in [rate * WINDOWS_S[w] / (30 * 86_400)]
    }
    assert {(w, round(share, 9)) for w, share in spent} == {("1h", 0.02), ("6h", 0.05), ("1d", 0.1), ("3d", 0.1)}
    assert all(WINDOWS_S[long] == 12 * WINDOWS_S[short] for burns in BURNS.values() for _, long, short in burns)


@pytest.mark.parametrize(
    "wrong",
    [
        "version: prometheus/v2\nservice: s\nslos: []",
        "version: prometheus/v1\nservice: s\nslos: [{name: a, objective: 99, alerting: {name: A}, "
        "sli: {raw: {}, events: {error_query: a, total_query: b}}}]",
        "version: prometheus/v1\nservice: s\nslos: []\nextra: 1",
    ],
)
def test_spec_is_refused_when_it_says_what_we_do_not_know(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"version|raw|extra"):
        read_spec(wrong)


def test_every_window_is_recorded_for_every_objective() -> None:
    recorded = {
        (rule["labels"]["sloth_slo"], rule["record"], rule["labels"]["sloth_window"])
        for group in groups_of(RULES)
        for rule in group["rules"]
        if rule.get("record", "").startswith("slo:sli_error:ratio_rate")
    }
    windows = ("5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d")
    assert recorded == {(name, f"slo:sli_error:ratio_rate{w}", w) for name in OBJECTIVES for w in windows}


# --- series that spend a budget ------------------------------------------------------------------------------------


def counter(stretches: list[Stretch], per_minute: Callable[[float], float]) -> str:
    """A counter that grows through all stretches."""
    parts, at = [], 0.0
    for minutes, share in stretches:
        step = per_minute(share)
        parts.append(f"{at + step:.9g}+{step:.9g}x{minutes - 1}")
        at += step * minutes
    return " ".join(parts)


def requests(request_class: str, phase: str, bad: str) -> SeriesOf:
    def series(stretches: list[Stretch], rate: float) -> dict[str, str]:
        of = {"hospital": "h1", "request_class": request_class, "phase": phase}
        name = "hisbridge_sli_requests_total"
        return {
            labels(name, **of, verdict="good"): counter(stretches, lambda share: rate * (1 - share)),
            labels(name, **of, verdict=bad): counter(stretches, lambda share: rate * share),
        }

    return series


def durations(name: str, le: str) -> SeriesOf:
    def series(stretches: list[Stretch], rate: float) -> dict[str, str]:
        return {
            labels(f"hisbridge_{name}_seconds_count", hospital="h1"): counter(stretches, lambda _: rate),
            labels(f"hisbridge_{name}_seconds_bucket", hospital="h1", le=le): counter(
                stretches, lambda s: rate * (1 - s)
            ),
        }

    return series


def ages(stretches: list[Stretch], _: float) -> dict[str, str]:
    """Schedules that are 301 s old in this share of the minutes, as evenly as it goes, and 300 s in the others."""
    values, owed = [], 0.0
    for minutes, share in stretches:
        for _minute in range(minutes):
            owed += share
            values.append("301" if owed >= 1 else "300")
            owed -= owed >= 1
    return {labels("hisbridge_sync_age_seconds", hospital="h1", kind="schedules"): " ".join(values)}


SERIES: dict[str, SeriesOf] = {
    "requests-availability": requests("read", "ordinary", "failed"),
    "peak-availability": requests("hold", "release", "shed"),
    "hold-latency": requests("hold", "ordinary", "slow"),
    "registration-delay": durations("registration", "60.0"),
    "report-delay": durations("report_delay", "3600.0"),
    "sync-freshness": ages,
}
BUDGETS = {
    "requests-availability": 0.001, "peak-availability": 0.001, "hold-latency": 0.005, "registration-delay": 0.01,
    "report-delay": 0.05, "sync-freshness": 0.01,
}  # fmt: skip
ALERTS = {
    "requests-availability": "HisbridgeAvailabilityBurn", "peak-availability": "HisbridgePeakAvailabilityBurn",
    "hold-latency": "HisbridgeHoldLatencyBurn", "registration-delay": "HisbridgeRegistrationDelayBurn",
    "report-delay": "HisbridgeReportDelayBurn", "sync-freshness": "HisbridgeSyncFreshnessBurn",
}  # fmt: skip
PAGES = ("requests-availability", "hold-latency", "registration-delay")
OF_A_HOSPITAL = ("peak-availability", "registration-delay", "report-delay", "sync-freshness")


def rules_of(name: str) -> list[dict[str, Any]]:
    """The rules of one objective, without those of the thirty days, of which no alert is made and which take most of the time."""
    found = [group for group in groups_of(RULES) if group["name"].startswith(f"hisbridge-slo-{name}")]
    return [{**g, "rules": [r for r in g["rules"] if "30d" not in str(r)]} for g in found]


def firing(
    name: str, burns: list[Stretch], *severities: str, rate: float = 10_000, at: int | None = None
) -> dict[str, Any]:
    """A promtool test: stretches in multiples of the budget, and the severities that fire at the end of them (or `at`)."""
    stretches = [(minutes, times * BUDGETS[name]) for minutes, times in burns]
    samples = [
        {
            "labels": labels(**{"severity": severity} | ({"hospital": "h1"} if name in OF_A_HOSPITAL else {})),
            "value": 1,
        }
        for severity in severities
    ]
    return {
        "name": f"{name}: {burns} -> {severities}",
        "interval": "1m",
        "input_series": [{"series": s, "values": v} for s, v in SERIES[name](stretches, rate).items()],
        "promql_expr_test": [
            {
                "expr": f'count by (severity, hospital) (ALERTS{{alertname="{ALERTS[name]}",alertstate="firing"}})',
                "eval_time": f"{(at or sum(m for m, _ in burns)) - 1}m",
                "exp_samples": samples,
            }
        ],
    }


def cases(name: str) -> Iterator[dict[str, Any]]:
    yield from long_cases(name)
    yield from short_cases(name)


def long_cases(name: str) -> Iterator[dict[str, Any]]:
    """A day at three times the budget, and at less than it. That each objective has both alerts is seen by the short ones too."""
    if name in PAGES[1:]:
        return
    yield firing(name, [(25 * HOUR, 0.9)])
    yield firing(name, [(25 * HOUR, 3.3)], "ticket")


def short_cases(name: str) -> Iterator[dict[str, Any]]:
    """Well for five hours, then so bad for one: of six hours 15 x 1/6 are 2.5, below 6, so that only the hour can page."""
    if name in PAGES:
        yield firing(name, [(5 * HOUR, 0.0), (HOUR + 6, 15.0)], "page", "ticket")
        yield firing(name, [(5 * HOUR, 0.0), (HOUR + 6, 13.8)], "ticket")
        yield firing(name, [(6 * HOUR, 6.3)], "page", "ticket")
        yield firing(name, [(6 * HOUR, 5.7)], "ticket")
        # Over: five minutes later nobody is kept awake by it, though the hour was bad.
        yield firing(name, [(5 * HOUR, 0.0), (HOUR + 6, 15.0), (7, 0.0)], "ticket")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_budget_s_alert_fires_when_it_burns_too_fast_and_not_below(name: str, tmp_path: Path) -> None:
    assert OBJECTIVES[name].alerting.name == ALERTS[name]
    assert round(1 - OBJECTIVES[name].objective / 100, 9) == BUDGETS[name]
    content, told = hold(tmp_path, rules_of(name), list(cases(name)), every="2m")
    assert content, told


def test_slowest_burn_is_seen_over_three_days(tmp_path: Path) -> None:
    name = "requests-availability"
    tests = [firing(name, [(3 * DAY, 1.15)], "ticket"), firing(name, [(3 * DAY, 0.85)])]
    # A bad day among good ones: it is over, and its ticket is closed by the six hours since.
    tests.append(firing(name, [(DAY, 0.0), (DAY, 3.5), (7 * HOUR, 0.0)]))
    content, told = hold(tmp_path, rules_of(name), tests, every="5m")
    assert content, told


@pytest.mark.parametrize(("old", "new", "noticed_by"), [
    ("> 14.4 *", "> 20 *", "page"), ("> 14.4 *", "> 10 *", "page"), ("> 6 *", "> 8 *", "page"), ("> 6 *", "> 4 *", "page"),
    ("* 3600 >= 5", "* 3600 >= 50000", "page"), ("> 1 *", "> 4 *", "ticket"), ("> 1 *", "> 0.5 *", "ticket"),
])  # fmt: skip
def test_cases_notice_when_a_burn_rate_is_another(old: str, new: str, noticed_by: str, tmp_path: Path) -> None:
    name = "requests-availability"
    groups = rules_of(name)
    found = 0
    for rule in groups[0]["rules"]:
        if rule.get("labels", {}).get("severity") == noticed_by and old in rule["expr"]:
            rule["expr"], found = rule["expr"].replace(old, new), found + 1
            if "> 4 *" in new or new.endswith("0000"):  # the other pair would still fire
                rule["expr"] = rule["expr"].replace("> 3 *", "> 4 *")
    assert found == 1
    tests = short_cases(name) if noticed_by == "page" else long_cases(name)
    content, _ = hold(tmp_path, groups, list(tests), every="2m")
    assert not content


# --- few requests, and none ----------------------------------------------------------------------------------------


RECORDS = sorted({rule["record"] for group in groups_of(RULES) for rule in group["rules"] if "record" in rule})


def nothing_fires(series: dict[str, str], *more: dict[str, Any], minutes: int = 2 * HOUR) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": s, "values": v} for s, v in series.items()],
        "promql_expr_test": [
            *({"expr": "ALERTS", "eval_time": f"{m}m", "exp_samples": []} for m in range(0, minutes, 5)),
            # NaN is the one value that is not equal to itself.
            *({"expr": f"{r} != {r}", "eval_time": f"{minutes - 1}m", "exp_samples": []} for r in RECORDS),
            *more,
        ],
    }


def ratio(name: str, window: str, minute: int, value: float | None) -> dict[str, Any]:
    sloth = {"service": "hisbridge", "sloth_id": f"hisbridge-{name}", "sloth_service": "hisbridge", "sloth_slo": name}
    told = labels(f"slo:sli_error:ratio_rate{window}", **sloth, sloth_window=window)
    samples = [] if value is None else [{"labels": told, "value": value}]
    expression = f'slo:sli_error:ratio_rate{window}{{sloth_slo="{name}"}}'
    return {"expr": expression, "eval_time": f"{minute}m", "exp_samples": samples}


GOOD = labels("hisbridge_sli_requests_total", hospital="h1", request_class="read", phase="ordinary", verdict="good")
FAILED = labels("hisbridge_sli_requests_total", hospital="h1", request_class="read", phase="ordinary", verdict="failed")


def test_nothing_fires_when_there_are_few_requests_or_none(tmp_path: Path) -> None:
    name = "requests-availability"
    tests = [
        nothing_fires({}, ratio(name, "5m", 100, None)),
        nothing_fires({GOOD: "7x200", FAILED: "0x200"}, ratio(name, "5m", 100, None), ratio(name, "1h", 100, None)),
        # No failure was ever counted, so that there is no such series: the ratio is 0, and not unknown.
        nothing_fires({GOOD: "0+5x200"}, ratio(name, "5m", 100, 0.0), ratio(name, "1d", 100, 0.0)),
        # One request, and it failed.
        nothing_fires({FAILED: "0x10 1x200"}, ratio(name, "1h", 60, 1.0)),
        # Four of four.
        nothing_fires({FAILED: "0x10 1x10 2x10 3x10 4x200"}),
    ]
    content, told = hold(tmp_path, groups_of(RULES), tests, every="1m")
    assert content, told


def test_few_requests_are_enough_when_as_many_fail_as_count(tmp_path: Path) -> None:
    """With one more than those four it is no accident any more: five in the hour."""
    assert LEAST_ERRORS == 5
    test = nothing_fires({FAILED: "0x10 1x10 2x10 3x10 4x10 6x200"})
    content, told = hold(tmp_path, rules_of("requests-availability"), [test], every="1m")
    assert not content
    assert "HisbridgeAvailabilityBurn" in told


def test_long_windows_weigh_requests_and_not_minutes(tmp_path: Path) -> None:
    """An hour of a release, 1,000 a minute of which half fail, among nine hours of 100 a minute: 30,000 of 114,000 are bad.

    The mean of five-minute ratios would say 5 %.
    """
    good = "100+100x539 54500+500x59"  # 54,000 in nine hours, then 500 a minute
    bad = "0x539 500+500x59"
    minute = 600
    share = {
        "expr": "round(slo:sli_error:ratio_rate1d{sloth_slo='requests-availability'}, 0.05)",
        "eval_time": f"{minute}m",
        "exp_samples": [
            {
                "labels": labels(
                    service="hisbridge", sloth_id="hisbridge-requests-availability", sloth_service="hisbridge",
                    sloth_slo="requests-availability", sloth_window="1d",
                ),
                "value": 0.25,  # 30 of 114 are 0.26
            }
        ],
    }  # fmt: skip
    test = {
        "interval": "1m",
        "input_series": [{"series": GOOD, "values": good}, {"series": FAILED, "values": bad}],
        "promql_expr_test": [share],
    }
    content, told = hold(tmp_path, rules_of("requests-availability"), [test], every="1m")
    assert content, told


def test_what_is_added_up_is_evaluated_more_often_than_it_is_added() -> None:
    """Sums of five-minute rates take one value of each five minutes: there must be one."""
    short = [g for g in groups_of(RULES) if not g["name"].endswith("-long")]
    assert {g["interval"] for g in short} == {EVERY}
    assert yaml.safe_load(EVERY[:-1]) <= WINDOWS_S["5m"]
