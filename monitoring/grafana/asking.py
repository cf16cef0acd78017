"""Asking a Prometheus what a panel shows, with the variables replaced as Grafana replaces them."""

from __future__ import annotations

import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_POINTS = 400  # of a line: about what a panel has pixels for
TIMEOUT_S = 30.0

_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)\}")


class QueryRefused(Exception):
    """Prometheus does not take the query; the text is its own."""


@dataclass(frozen=True)
class Span:
    """The time shown, in epoch seconds, and Prometheus's scrape interval, below which no step makes sense."""

    from_s: float
    to_s: float
    scrape_s: float = 15.0

    @property
    def step_s(self) -> float:
        return float(max(self.scrape_s, math.ceil((self.to_s - self.from_s) / MAX_POINTS)))

    @property
    def rate_interval_s(self) -> float:
        """Grafana's `$__rate_interval`: a step and a scrape, and never less than four scrapes."""
        return max(self.step_s + self.scrape_s, 4 * self.scrape_s)

    def variables(self) -> dict[str, str]:
        """Grafana's own variables."""
        return {
            "__interval": f"{self.step_s:g}s",
            "__rate_interval": f"{self.rate_interval_s:g}s",
            "__range": f"{math.ceil(self.to_s - self.from_s)}s",
        }


@dataclass(frozen=True)
class Series:
    """One line: its labels, and its points by time in epoch seconds."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]

    @property
    def newest(self) -> float:
        return self.points[-1][1]


@dataclass(frozen=True)
class Choice:
    """What is chosen for the variables of a board. Nothing: All, as the board says what that means."""

    hospitals: Sequence[str] = field(default=())

    def variables(self, board: Mapping[str, Any]) -> dict[str, str]:
        """The board's variables by name."""
        chosen = "|".join(self.hospitals)  # their ids have no character that means anything in a regular expression
        listed = {variable["name"]: variable for variable in board["templating"]["list"]}
        return {"hospital": f"({chosen})" if self.hospitals else listed["hospital"]["allValue"]}


def replaced(expr: str, variables: Mapping[str, str]) -> str:
    """The query with every variable replaced. Raises KeyError for one that is not known."""
    return _VARIABLE.sub(lambda found: variables[found[1] or found[2]], expr)


def legend_of(legend: str, labels: Mapping[str, str]) -> str:
    """The name of a series: `{{label}}` filled in, or, where nothing is said, its labels."""
    if legend in ("", "__auto"):
        return ", ".join(value for name, value in labels.items() if name != "__name__")
    filled = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), legend)
    return " ".join(filled.split())


class Prometheus:
    """The HTTP API of one server."""

    def __init__(self, url: str) -> None:
        """Raises ValueError for what is no http URL."""
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"not an http URL: {url}")
        self._url = url.rstrip("/")

    def range(self, expr: str, span: Span) -> list[Series]:
        """The values over the span; a series without any number is left out. Raises QueryRefused."""
        asked = {"query": expr, "start": span.from_s, "end": span.to_s, "step": span.step_s}
        found = [Series(one["metric"], _points(one["values"])) for one in self._ask("query_range", asked)]
        return [series for series in found if series.points]

    def at(self, expr: str, time_s: float) -> list[Series]:
        """The values at an instant. Raises QueryRefused."""
        found = [
            Series(one["metric"], _points([one["value"]]))
            for one in self._ask("query", {"query": expr, "time": time_s})
        ]
        return [series for series in found if series.points]

    def _ask(self, what: str, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        url = f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310 - http only, see __init__
                result: list[dict[str, Any]] = json.load(response)["data"]["result"]
        except urllib.error.HTTPError as e:
            raise QueryRefused(f"{json.load(e)['error']}: {query['query']}") from e
        return result


def _points(values: Sequence[Sequence[Any]]) -> list[tuple[float, float]]:
    """Without NaN and infinities, which Grafana does not draw either."""
    points = [(float(at), float(value)) for at, value in values]
    return [point for point in points if math.isfinite(point[1])]
