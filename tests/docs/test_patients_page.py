"""The pages on patients list what the program takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from booking.documents import CARD_TYPES, DOCUMENT_TYPES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["patients.md", "patients.zh-CN.md"])
def test_every_document_and_card_is_on_the_page(page: str) -> None:
    lines = (DOCS / page).read_text("utf-8").splitlines()
    for kind in DOCUMENT_TYPES:
        row = next(line for line in lines if line.startswith(f"| `{kind.code}` |"))
        assert kind.title_zh in row
        assert kind.expected in row or page != "patients.md"
        assert all(f"`{word}`" in row for word in kind.aliases)
    for code, words in CARD_TYPES.items():
        row = next(line for line in lines if line.startswith(f"| `{code}` |"))
        assert all(f"`{word}`" in row for word in words)


def test_both_pages_have_the_same_reasons_and_sections() -> None:
    english, chinese = ((DOCS / page).read_text("utf-8").splitlines() for page in ("patients.md", "patients.zh-CN.md"))
    assert sum(line.startswith("## ") for line in english) == sum(line.startswith("## ") for line in chinese)
    reasons = [[line.split("|")[1] for line in page if line.startswith("| `patient_")] for page in (english, chinese)]
    assert reasons[0] == reasons[1]
