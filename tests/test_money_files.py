"""Differences as files that a spreadsheet opens, and that do nothing there."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from booking.reconciliation import KINDS
from cli_messages.money.days import CHINESE
from cli_messages.money.files import COLUMNS, Row, write_csv, write_xlsx

_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def row(trade_no: str, channel: str = "wechat") -> Row:
    return ("h1", "2026-01-05", "long", "长款", channel, trade_no, 1500, None, -3)


@pytest.mark.parametrize("begins", ["=", "+", "-", "@", "\t", "\r"])
def test_cell_is_no_formula_when_a_number_begins_like_one(tmp_path: Path, begins: str) -> None:
    write_csv(tmp_path / "d.csv", [row(f"{begins}1+1", channel=f"{begins}x")])
    with (tmp_path / "d.csv").open(encoding="utf-8-sig", newline="") as stream:
        head, found = csv.reader(stream)
    assert tuple(head) == COLUMNS
    assert found == ["h1", "2026-01-05", "long", "长款", f"'{begins}x", f"'{begins}1+1", "1500", "", "-3"]


def test_sheet_has_every_row_when_it_is_read_as_the_standard_says(tmp_path: Path) -> None:
    rows = [row("=1+1"), row('<&>\x07"')]
    write_xlsx(tmp_path / "d.xlsx", rows)
    with zipfile.ZipFile(tmp_path / "d.xlsx") as archive:
        for name in archive.namelist():
            ElementTree.fromstring(archive.read(name))
        sheet = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))
    read = [[_value(cell) for cell in line] for line in sheet.iter(f"{_SHEET}row")]
    assert read == [
        list(COLUMNS),
        ["h1", "2026-01-05", "long", "长款", "wechat", "=1+1", 1500, None, -3],
        ["h1", "2026-01-05", "long", "长款", "wechat", '<&>"', 1500, None, -3],
    ]


def _value(cell: ElementTree.Element) -> str | int | None:
    if cell.get("t") == "inlineStr":
        return "".join(cell.itertext())
    found = cell.find(f"{_SHEET}v")
    return None if found is None else int(found.text or "")


def test_every_kind_has_its_chinese_term() -> None:
    assert set(CHINESE) == set(KINDS)
