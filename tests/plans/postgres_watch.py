"""Watching PostgreSQL: auto_explain writes down the plan of every statement as the server really ran it, prepared or not.

Production's own connections are watched, with their prepared statements: a plan that was made for empty tables shows as such.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.plans.findings import LARGE, Cost, without_values
from tests.postgres import PostgresServer

MOST_ROWS = 3_000
"""What any one statement may look at in large tables: less than a tenth of what they hold."""
_SETTINGS = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_format": "json",
    "auto_explain.log_nested_statements": "on",
    "log_min_messages": "log",
}


class PostgresWatch:
    """Of some databases of a throw-away server, from the moment of `record` on."""

    def __init__(self, server: PostgresServer, databases: list[str], plan_cache_mode: str) -> None:
        self._log = Path(server.run_sql("show data_directory")).parent / "log"
        self._from = 0
        for database in databases:
            for name, value in {**_SETTINGS, "plan_cache_mode": plan_cache_mode}.items():
                server.run_sql(f"alter database {database} set {name} = '{value}'")

    def record(self) -> None:
        """What is logged from now on counts."""
        self._from = self._log.stat().st_size

    def costs(self) -> list[Cost]:
        """The cost of every statement since `record`."""
        with self._log.open("rb") as log:
            log.seek(self._from)
            text = log.read().decode()
        return [_cost(plan) for plan in _plans(text)]


def _plans(text: str) -> Iterator[dict[str, Any]]:
    """The JSON documents after "plan:"."""
    decoder, at = json.JSONDecoder(), 0
    while (at := text.find("plan:\n", at)) >= 0:
        at = text.index("{", at)
        document, at = decoder.raw_decode(text, at)
        yield document


def _cost(document: dict[str, Any]) -> Cost:
    scanned: list[str] = []
    looked_at = 0
    lines = []
    for depth, node in _nodes(document["Plan"], 0):
        table = node.get("Relation Name")
        rows = int(node.get("Actual Rows", 0)) + int(node.get("Rows Removed by Filter", 0))
        rows += int(node.get("Rows Removed by Index Recheck", 0))
        rows *= int(node.get("Actual Loops", 1))
        how = " ".join(str(node[name]) for name in ("Index Name", "Index Cond", "Filter") if name in node)
        lines.append(f"      {'  ' * depth}{node['Node Type']} {table or ''} {rows} rows {how}")
        if table in LARGE and node["Node Type"] != "ModifyTable":
            looked_at += rows
            if node["Node Type"] == "Seq Scan":
                scanned.append(table)
    return Cost(without_values(document["Query Text"]), tuple(scanned), looked_at, "\n".join(lines))


def _nodes(node: dict[str, Any], depth: int) -> Iterator[tuple[int, dict[str, Any]]]:
    yield depth, node
    for child in node.get("Plans", ()):
        yield from _nodes(child, depth + 1)
