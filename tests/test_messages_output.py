"""What `hisbridge messages` writes to a terminal."""

from __future__ import annotations

import json

import pytest
from rich.cells import cell_len

from cli_messages.output import json_line, write_columns


def test_line_is_the_same_json_without_what_a_terminal_acts_on_when_a_peer_chose_the_text() -> None:
    record = {"control_id": "A\x9b2J\x1b[2J\u202eB\x7f", "reason": "挂号 \U000e0001"}
    line = json_line(record)
    assert line.isprintable()
    assert "挂号" in line
    assert json.loads(line) == record


def test_columns_are_straight_and_whole_when_chinese_stands_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    trade_no = "4200001234202611210001" * 4  # far wider than a terminal
    write_columns([("name", "trade_no", "reason"), ("王*", trade_no, "停诊"), ("第一医院", "1", "")])
    head, first, second = capsys.readouterr().out.splitlines()
    assert first == f"王*       {trade_no}  停诊"
    assert second == "第一医院  1"
    assert [
        cell_len(line[: line.index(word)]) for line, word in ((head, "trade_no"), (first, "4200"), (second, "1"))
    ] == [
        10,
        10,
        10,
    ]
