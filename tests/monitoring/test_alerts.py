"""Every alert fires when it must, not a moment earlier, and is silent else; the cases would notice another threshold."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring.alert_cases import CASES, STEP_S, Case
from tests.monitoring.promtool import ALERTS, RULE_FILES, alerts_of, groups_of, hold, labels, run

RULES_OF = {rule["alert"]: rule for rule in alerts_of(ALERTS)}
_SPAN = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(span: str | None) -> int:
    return 0 if span is None else int(span[:-1]) * _SPAN[span[-1]]


def expected(case: Case) -> list[dict[str, Any]]:
    """What ALERTS must hold at which times."""
    rule = RULES_OF[case.alert]
    query = f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}'
    silent: dict[str, Any] = {"expr": query, "exp_samples": []}
    if case.fires is None:
        return [{**silent, "eval_time": f"{case.at_s}s"}]
    told = labels(
        "ALERTS", alertname=case.alert, alertstate="firing", severity=rule["labels"]["severity"], **case.fires
    )
    firing = {"expr": query, "exp_samples": [{"labels": told, "value": 1}], "eval_time": f"{case.at_s}s"}
    if (wait_s := seconds(rule.get("for"))) == 0:
        return [firing]
    before_s, then_s = case.since_s + wait_s - STEP_S, case.since_s + wait_s
    return [{**silent, "eval_time": f"{before_s}s"}, {**firing, "eval_time": f"{then_s}s"}, firing]


def as_tests(cases: list[Case]) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{case.alert}: {case.says}",
            "interval": f"{STEP_S}s",
            "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
            "promql_expr_test": expected(case),
        }
        for case in cases
    ]


def only(rule: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "one", "rules": [rule]}]


@pytest.mark.parametrize("alert", RULES_OF)
def test_alert_fires_exactly_when_it_must(alert: str, tmp_path: Path) -> None:
    cases = [case for case in CASES if case.alert == alert]
    assert {case.fires is None for case in cases} == {True, False}, "a firing and a silent case"
    content, told = hold(tmp_path, only(RULES_OF[alert]), as_tests(cases), every=f"{STEP_S}s")
    assert content, told


def test_every_case_is_of_an_alert_that_exists() -> None:
    assert {case.alert for case in CASES} == set(RULES_OF)


# --- the cases themselves ------------------------------------------------------------------------------------------

# A number that is compared with, and is not part of a name, a label, a range or a calculation with time.
_THRESHOLD = re.compile(r"(?P<sign>[<>=]=?|==) (?P<bool>bool )?(?P<number>\d[\d.]*(?: \* \d+)?)(?![\w.\[])")
_LARGER = 3.0


def broken_rules(rule: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rule with each of its thresholds moved to either side, with its comparison turned, and with another `for`."""
    expression = rule["expr"]
    for found in _THRESHOLD.finditer(expression):
        first, _, factor = found["number"].partition(" * ")
        number = float(first)
        for other in (number * _LARGER, number / _LARGER) if number else (number + 1e12,):
            text = f"{other:.15g}" + (f" * {factor}" if factor else "")
            yield (
                f"{found[0]} -> {text}",
                {**rule, "expr": expression[: found.start("number")] + text + expression[found.end("number") :]},
            )
    if "for" in rule:
        yield "a longer for", {**rule, "for": f"{seconds(rule['for']) + 2 * STEP_S}s"}
        yield "a shorter for", {**rule, "for": f"{seconds(rule['for']) - 2 * STEP_S}s"}


@pytest.mark.parametrize("alert", RULES_OF)
def test_cases_notice_when_a_threshold_is_another(alert: str, tmp_path: Path) -> None:
    rule = RULES_OF[alert]
    cases = as_tests([case for case in CASES if case.alert == alert])
    missed, tried = [], 0
    for what, broken in broken_rules(copy.deepcopy(rule)):
        tried += 1
        content, _ = hold(tmp_path, only(broken), cases, every=f"{STEP_S}s")
        if content:
            missed.append(what)
    assert tried or alert == "HisbridgeGone"
    assert missed == []


# --- what is said with an alert ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", alerts_of(*RULE_FILES), ids=lambda r: f"{r['alert']}-{r['labels']['severity']}")
def test_alert_says_what_a_person_needs(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    told = rule["annotations"]
    assert set(told) == {"summary", "description", "runbook_url"}
    assert told["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    assert "$value" in told["description"]
    assert not told["summary"].endswith(".")


def test_texts_hold_the_values_when_an_alert_fires(tmp_path: Path) -> None:
    """As Alertmanager gets them: 301 s are five minutes and a second."""
    texts = {
        "HisbridgePaidNotRegistered": (
            "paid bookings of h1 are not registered",
            "The oldest payment has waited 5m 1s for its registration at h1.",
        ),
        "HisbridgeDeadLetters": (
            "something of h1 waits for a person",
            "1 in the inbox of h1 can be settled by no machine. Those of the outbox keep seats and block bookings.",
        ),
        "HisbridgeFilesRunOut": (
            "a process runs out of descriptors",
            "a has 81% of its descriptors open; without one it can take no connection.",
        ),
    }
    for alert, (summary, description) in texts.items():
        case = next(c for c in CASES if c.alert == alert and c.fires is not None)
        test = as_tests([case])[0] | {
            "promql_expr_test": [],
            "alert_rule_test": [
                {
                    "eval_time": f"{case.at_s}s",
                    "alertname": alert,
                    "exp_alerts": [
                        {
                            "exp_labels": {**(case.fires or {}), "severity": RULES_OF[alert]["labels"]["severity"]},
                            "exp_annotations": {
                                "summary": summary,
                                "description": description,
                                "runbook_url": f"docs/runbooks/{alert}.md",
                            },
                        }
                    ],
                }
            ],
        }
        content, told = hold(tmp_path, only(RULES_OF[alert]), [test], every=f"{STEP_S}s")
        assert content, told


@pytest.mark.parametrize("file", RULE_FILES, ids=lambda f: f.name)
def test_rules_are_what_prometheus_reads(file: Path) -> None:
    content, told = run("promtool", "check", "rules", file)
    assert content, told


def test_groups_have_names_of_their_own() -> None:
    names = [group["name"] for group in groups_of(*RULE_FILES)]
    assert len(names) == len(set(names))
