"""Prometheus rules from the objectives: `python -m monitoring.rules` makes slo/hisbridge.rules.yaml of slo/hisbridge.yaml.

Reads Sloth's format (prometheus/v1, SLIs of events) and names series as Sloth does, so that its dashboards fit. What differs:
- The ratio of a long window weighs requests, not minutes: it is made of the recorded rates of errors and of all. Sloth averages
  five-minute ratios, in which five minutes of a release that have half of a day's requests would count like five at night.
- No errors is 0 and no requests is no ratio, whether a series of errors exists yet or not; nothing is ever NaN.
- An alert takes LEAST_ERRORS in its long window: one failed request out of one is no burning budget.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

FOLDER = Path(__file__).parent / "slo"
SPEC, RULES = FOLDER / "hisbridge.yaml", FOLDER / "hisbridge.rules.yaml"

WINDOWS_S = {
    "5m": 300, "30m": 1800, "1h": 3600, "2h": 7200, "6h": 21_600, "1d": 86_400, "3d": 259_200, "30d": 2_592_000,
}  # fmt: skip
# Long windows are added up from recorded shorter ones, each counted once: their raw samples are too many to read.
MADE_OF = {"6h": "5m", "1d": "5m", "3d": "1h", "30d": "1h"}
PERIOD = "30d"
LEAST_ERRORS = 5
EVERY, EVERY_LONG = "30s", "2m"

# Google, The Site Reliability Workbook, chapter 5, table 5-8: burn rate, long window, short window. At 14.4 an hour costs 2 % of
# thirty days' budget, at 6 six hours cost 5 %, at 3 a day and at 1 three days cost 10 %.
BURNS = {"page": ((14.4, "1h", "5m"), (6.0, "6h", "30m")), "ticket": ((3.0, "1d", "2h"), (1.0, "3d", "6h"))}


class AlertSpec(msgspec.Struct, forbid_unknown_fields=True):
    disable: bool = False
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Alerting(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    page_alert: AlertSpec = msgspec.field(default_factory=AlertSpec)
    ticket_alert: AlertSpec = msgspec.field(default_factory=AlertSpec)


class Events(msgspec.Struct, forbid_unknown_fields=True):
    error_query: str
    total_query: str


class Sli(msgspec.Struct, forbid_unknown_fields=True):
    events: Events


class Slo(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    objective: float
    sli: Sli
    alerting: Alerting
    description: str = ""
    labels: dict[str, str] = {}


class Spec(msgspec.Struct, forbid_unknown_fields=True):
    """A file of Sloth's. `objective` is in per cent; a query holds `{{.window}}` where its range belongs."""

    version: str
    service: str
    slos: list[Slo]
    labels: dict[str, str] = {}


Rule = dict[str, Any]


def read_spec(text: str) -> Spec:
    """Raises ValueError (msgspec.ValidationError) for what is not of the format."""
    spec = msgspec.convert(yaml.safe_load(text), Spec)
    if spec.version != "prometheus/v1":
        raise ValueError(f"version {spec.version} is not known, prometheus/v1 is")
    return spec


def make_rules(spec: Spec) -> dict[str, Any]:
    """The content of a rules file."""
    groups: list[dict[str, Any]] = []
    for slo in spec.slos:
        name, maker = f"hisbridge-slo-{slo.name}", _Maker(spec, slo)
        long = [w for w in WINDOWS_S if w in ("3d", "30d")]
        short = [w for w in WINDOWS_S if w not in long]
        groups += [
            {"name": name, "interval": EVERY, "rules": [*maker.recordings(short), *maker.about(), *maker.alerts()]},
            {"name": f"{name}-long", "interval": EVERY_LONG, "rules": [*maker.recordings(long), *maker.period()]},
        ]
    return {"groups": groups}


class _Maker:
    """The rules of one objective."""

    def __init__(self, spec: Spec, slo: Slo) -> None:
        self._spec, self._slo = spec, slo
        self._id = f"{spec.service}-{slo.name}"
        self._budget = round(1 - slo.objective / 100, 10)

    def recordings(self, windows: Sequence[str]) -> Iterator[Rule]:
        """Errors, all, and their ratio, in each window."""
        for window in windows:
            errors, total = (self._rate(kind, window) for kind in ("error", "total"))
            if window not in MADE_OF:
                # An outcome that was never counted has no series, which is not the same as none of it in this window.
                errors = f"({errors})\nor 0 * ({total})"
            yield self._record(f"slo:sli_total:rate{window}", total, window)
            yield self._record(f"slo:sli_error:rate{window}", errors, window)
            yield self._record(
                f"slo:sli_error:ratio_rate{window}",
                f"{self._series('slo:sli_error:rate' + window)}\n/ ({self._series('slo:sli_total:rate' + window)} > 0)",
                window,
            )

    def _rate(self, kind: str, window: str) -> str:
        if (part := MADE_OF.get(window)) is not None:
            # A part that was not recorded, before there was anything to count, adds nothing.
            parts = f"{self._series(f'slo:sli_{kind}:rate{part}')}[{window}:{part}]"
            return f"sum_over_time({parts}) * {WINDOWS_S[part]} / {WINDOWS_S[window]}"
        events = self._slo.sli.events
        query = events.error_query if kind == "error" else events.total_query
        return query.replace("{{.window}}", window).strip()

    def about(self) -> Iterator[Rule]:
        """The objective itself, and how fast its budget burns now."""
        yield self._record("slo:objective:ratio", f"vector({self._slo.objective / 100:.10g})")
        yield self._record("slo:error_budget:ratio", f"vector({self._budget:.10g})")
        yield self._record(
            "slo:current_burn_rate:ratio", f"{self._series('slo:sli_error:ratio_rate5m')} / {self._budget:.10g}"
        )

    def period(self) -> Iterator[Rule]:
        """How much of the period's budget is left: 1 all of it, 0 nothing, below that it was missed."""
        burnt = f"{self._series('slo:sli_error:ratio_rate' + PERIOD)} / {self._budget:.10g}"
        yield self._record("slo:period_burn_rate:ratio", burnt)
        yield self._record("slo:period_error_budget_remaining:ratio", f"1 - {burnt}")

    def alerts(self) -> Iterator[Rule]:
        alerting = self._slo.alerting
        for kind, own in (("page", alerting.page_alert), ("ticket", alerting.ticket_alert)):
            if own.disable:
                continue
            yield {
                "alert": alerting.name,
                "expr": "\nor\n".join(self._burning(*burn) for burn in BURNS[kind]),
                "labels": {**self._labels(), "sloth_severity": kind, **alerting.labels, **own.labels},
                "annotations": {**alerting.annotations, "description": self._description(kind), **own.annotations},
            }

    def _burning(self, rate: float, long: str, short: str) -> str:
        ratios = [
            f"({self._series('slo:sli_error:ratio_rate' + window)} > {rate:g} * {self._budget:.10g})"
            for window in (long, short)
        ]
        least = f"({self._series('slo:sli_error:rate' + long)} * {WINDOWS_S[long]} >= {LEAST_ERRORS})"
        # Labels that only say which window a series is of differ; all others must be the same.
        return "max without (sloth_window) " + "\nand max without (sloth_window) ".join([*ratios, least])

    def _description(self, kind: str) -> str:
        slowest = min(rate for rate, _, _ in BURNS[kind])
        return (
            f"{self._slo.description} Objective {self._slo.objective:g} %; {{{{ $value | humanizePercentage }}}} are bad: at "
            f"this rate the budget of 30 days lasts {30 / slowest:g} days or less."
        )

    def _series(self, name: str) -> str:
        return f'{name}{{sloth_id="{self._id}"}}'

    def _labels(self) -> dict[str, str]:
        return {
            **self._spec.labels, **self._slo.labels,
            "sloth_id": self._id, "sloth_service": self._spec.service, "sloth_slo": self._slo.name,
        }  # fmt: skip

    def _record(self, name: str, expression: str, window: str | None = None) -> Rule:
        more = {} if window is None else {"sloth_window": window}
        return {"record": name, "expr": expression, "labels": {**self._labels(), **more}}


_HEAD = "# Made from hisbridge.yaml by `python -m monitoring.rules`. Do not edit: a test holds the two together.\n"


def render(rules: dict[str, Any]) -> str:
    """As YAML, with texts of several lines as such."""
    return _HEAD + yaml.dump(rules, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def main() -> None:
    rules = make_rules(read_spec(SPEC.read_text(encoding="utf-8")))
    RULES.write_text(render(rules), encoding="utf-8")
    sys.stdout.write(f"wrote {RULES.name}\n")


if __name__ == "__main__":
    main()
