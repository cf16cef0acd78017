"""The boards as files: current, valid, readable, and about metrics that exist."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units as grafana_units
from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.grafana.__main__ import main
from monitoring.grafana.boards import FOLDER, as_text, boards
from monitoring.reference import page

ROOT = Path(__file__).parents[3]
BOARDS = {file.stem: board for file, board in boards()}
UIDS = {
    "release": "hisbridge-release", "hospitals": "hisbridge-hospitals", "bookings": "hisbridge-bookings",
    "service": "hisbridge-service",
}  # fmt: skip
"""Links and bookmarks go by these: they never change."""

NOT_SHOWN = {"hisbridge_build_info"}
"""Metrics that are for other metrics to be joined with."""

_NAME = re.compile(r"\bhisbridge_[a-z0-9_]+")
_PART = re.compile(r"_(bucket|sum|count)$")


def shown(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Its panels, without the heads of its rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def exprs(board: dict[str, Any]) -> Iterator[str]:
    """Every query of a board, its marks included."""
    for panel in shown(board):
        yield from (target["expr"] for target in panel["targets"])
    yield from (mark["expr"] for mark in board["annotations"]["list"])


def metrics_of(expr: str) -> set[str]:
    """Metrics of ours in a query, histograms by their own name."""
    return {_PART.sub("", name) if _PART.sub("", name) in _known() else name for name in _NAME.findall(expr)}


def _known() -> set[str]:
    return set(re.findall(r"^\| `(hisbridge_[a-z0-9_]+)`", page(), re.MULTILINE))


def test_files_are_current_when_a_board_has_changed() -> None:
    committed = {file.stem: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.json")}
    assert committed == {name: as_text(board) for name, board in BOARDS.items()}, "python -m monitoring.grafana"


def test_nothing_is_written_differently_when_it_is_generated_by_another_process(tmp_path: Path) -> None:
    """No order of a set or a dictionary, no random id, no time of day gets into the files."""
    code = (
        "import sys, pathlib; from monitoring.grafana.boards import *\n"
        "for file, board in boards(): pathlib.Path(sys.argv[1], file.name).write_text(as_text(board), encoding='utf-8')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT, env={"PYTHONHASHSEED": "7"})
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == {f.name: f.read_bytes() for f in FOLDER.iterdir()}


def test_command_writes_the_files_when_it_is_given_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert set(capsys.readouterr().out.split()) == {str(file) for file in FOLDER.glob("*.json")}


def test_uids_stay_when_anything_else_changes() -> None:
    assert {name: board["uid"] for name, board in BOARDS.items()} == UIDS


@pytest.mark.parametrize("name", BOARDS)
def test_grafana_can_place_every_panel(name: str) -> None:
    panels = BOARDS[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in shown(BOARDS[name])}) == len(shown(BOARDS[name]))
    for panel in panels:
        grid = panel["gridPos"]
        assert grid["x"] >= 0
        assert grid["x"] + grid["w"] <= 24
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


@pytest.mark.parametrize("name", BOARDS)
def test_grafanas_own_model_reads_the_board_and_loses_nothing(name: str) -> None:
    register_default_plugins()
    read = json.loads(json.dumps(Dashboard.from_json(BOARDS[name]), cls=JSONEncoder))
    (mark,) = BOARDS[name]["annotations"]["list"]
    (read_mark,) = read["annotations"]["list"]
    assert set(mark) - set(read_mark) == {"useValueForTime", "titleFormat", "textFormat", "step"}  # the model is older
    assert {**read, "annotations": None} == {**BOARDS[name], "annotations": None}


@pytest.mark.parametrize("name", BOARDS)
def test_every_panel_says_what_good_looks_like_and_asks_the_chosen_source(name: str) -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in shown(BOARDS[name]):
        assert panel["description"], panel["title"]
        assert panel["datasource"] == source
        assert [target["refId"] for target in panel["targets"]] == list("ABCDEFGHIJ"[: len(panel["targets"])])
        assert all(target["datasource"] == source for target in panel["targets"])
        units = [panel["fieldConfig"]["defaults"].get("unit")]
        units += [p["value"] for o in panel["fieldConfig"]["overrides"] for p in o["properties"] if p["id"] == "unit"]
        given = {unit for unit in units if unit is not None}
        assert given, panel["title"]
        assert given <= {unit for unit in vars(grafana_units).values() if isinstance(unit, str)}


def test_every_runbook_that_a_panel_names_is_there() -> None:
    told = {
        file
        for board in BOARDS.values()
        for panel in shown(board)
        for file in re.findall(r"Runbook: docs/runbooks/(\w+\.md)", panel["description"])
    }
    written = {file.name for file in (ROOT / "docs" / "runbooks").glob("*.md")}
    assert told <= written


@pytest.mark.parametrize("name", BOARDS)
def test_limits_ascend_from_a_first_one_without_a_value(name: str) -> None:
    """Grafana, "Configure thresholds": the base comes first and has no value, the others follow in order."""
    for panel in shown(BOARDS[name]):
        steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [{"value": None}])
        values = [step["value"] for step in steps]
        assert values[0] is None
        assert values[1:] == sorted(values[1:])


@pytest.mark.parametrize("name", BOARDS)
def test_boards_lead_to_one_another_and_keep_what_was_chosen(name: str) -> None:
    board = BOARDS[name]
    (link,) = board["links"]
    assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == (
        "dashboards",
        board["tags"],
        True,
        True,
    )
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "hospital"]
    hospital = board["templating"]["list"][1]
    assert (hospital["multi"], hospital["includeAll"], hospital["allValue"]) == (True, True, ".*")


@pytest.mark.parametrize("name", BOARDS)
def test_every_metric_exists(name: str) -> None:
    for expr in exprs(BOARDS[name]):
        assert metrics_of(expr) <= _known(), expr


def test_every_metric_of_a_hospital_can_be_chosen_by_hospital() -> None:
    """Whoever looks at one hospital must not see another one's figures in between."""
    labels: dict[str, str] = dict(
        re.findall(r"^\| `(hisbridge_[a-z0-9_]+)` \| \w+ \| ([^|]*) \|", page(), re.MULTILINE)
    )
    for board in BOARDS.values():
        for expr in exprs(board):
            for name, selector in re.findall(r"(hisbridge_[a-z0-9_]+)(\{[^{}]*\})?", expr):
                if "`hospital`" in labels.get(_PART.sub("", name), labels.get(name, "")):
                    assert 'hospital=~"$hospital"' in selector, expr


def test_every_metric_is_shown_somewhere() -> None:
    """What is measured and shown nowhere is looked for in vain at 07:01."""
    told = set().union(*(metrics_of(expr) for board in BOARDS.values() for expr in exprs(board)))
    assert _known() - told == NOT_SHOWN


def test_files_are_json_that_a_person_can_compare() -> None:
    for file in FOLDER.glob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert json.dumps(json.loads(text), ensure_ascii=False, indent=2, sort_keys=True) + "\n" == text
