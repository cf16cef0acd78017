"""Differences as files that a spreadsheet opens, and that do nothing there."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from booking.ledger import ACCOUNTS
from booking.reconciliation import KINDS
from cli_messages.money.books import MEANT
from cli_messages.money.files import COLUMNS, Row, write_csv, write_xlsx
from cli_messages.money.kinds import EXPLAINED

ROOT = Path(__file__).parents[1]
_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def row(trade_no: str, channel: str = "wechat") -> Row:
    return ("h1", "2026-01-05", "long", "长款", channel, trade_no, 1500, None, -3, "b1")


@pytest.mark.parametrize("begins", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_cell_is_no_formula_when_a_number_begins_like_one(tmp_path: Path, begins: str) -> None:
    write_csv(tmp_path / "d.csv", [row(f"{begins}1+1", channel=f"{begins}x")])
    with (tmp_path / "d.csv").open(encoding="utf-8-sig", newline="") as stream:
        head, found = csv.reader(stream)
    assert tuple(head) == COLUMNS
    assert found == ["h1", "2026-01-05", "long", "长款", f"'{begins}x", f"'{begins}1+1", "1500", "", "-3", "b1"]


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
        ["h1", "2026-01-05", "long", "长款", "wechat", "=1+1", 1500, None, -3, "b1"],
        ["h1", "2026-01-05", "long", "长款", "wechat", '<&>"', 1500, None, -3, "b1"],
    ]


def _value(cell: ElementTree.Element) -> str | int | None:
    if cell.get("t") == "inlineStr":
        return "".join(cell.itertext())
    found = cell.find(f"{_SHEET}v")
    return None if found is None else int(found.text or "")


@pytest.mark.parametrize(("guide", "text"), [("api-guide.md", (1, 2)), ("api-guide.zh-CN.md", (3, 4))])
def test_every_kind_is_explained_in_the_words_of_the_guide_when_it_is_found(guide: str, text: tuple[int, int]) -> None:
    page = (ROOT / "docs" / guide).read_text(encoding="utf-8")
    assert tuple(EXPLAINED) == KINDS
    for kind, words in EXPLAINED.items():
        assert f"| `{kind}` | {words.term_zh} | {words[text[0]]} | {words[text[1]]} |\n" in page


def test_every_account_is_explained_when_the_ledger_is_shown() -> None:
    assert tuple(MEANT) == ACCOUNTS
