"""The page on patients lists what the program takes."""

from __future__ import annotations

from pathlib import Path

from booking.documents import CARD_TYPES, DOCUMENT_TYPES

PAGE = (Path(__file__).parents[2] / "docs" / "patients.md").read_text("utf-8").splitlines()


def test_every_document_and_card_is_on_the_page() -> None:
    for kind in DOCUMENT_TYPES:
        row = next(line for line in PAGE if line.startswith(f"| `{kind.code}` |"))
        assert kind.title_zh in row
        assert kind.expected in row
        assert all(f"`{word}`" in row for word in kind.aliases)
    for code, words in CARD_TYPES.items():
        row = next(line for line in PAGE if line.startswith(f"| `{code}` |"))
        assert all(f"`{word}`" in row for word in words)
