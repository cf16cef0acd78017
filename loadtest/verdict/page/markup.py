"""HTML by functions: text is escaped unless it is `Html` already."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

import msgspec


class Html(str):
    """Text that may stand in a page as it is."""

    __slots__ = ()


class Cell(msgspec.Struct, frozen=True):
    """A cell with a class of its own."""

    text: str
    css: str


Value = str | Cell


def escape(text: str) -> Html:
    """Safe to stand in a page; a number keeps its unit on its line."""
    return text if isinstance(text, Html) else Html(_UNIT.sub("\\1\u00a0", html.escape(text)))


_UNIT = re.compile(r"(\d) (?=%|ms\b|s\b|points\b|fen\b|GiB\b)")


def join(parts: Iterable[str]) -> Html:
    return Html("\n".join(escape(part) for part in parts))


def tag(name: str, *content: str, css: str = "") -> Html:
    """An element around its content."""
    attributes = f' class="{css}"' if css else ""
    return Html(f"<{name}{attributes}>{''.join(escape(part) for part in content)}</{name}>")


def table(heads: Sequence[Value], lines: Iterable[Sequence[Value]], sums: int = 0) -> Html:
    """A table that scrolls by itself where the page is narrow; the last `sums` lines stand out."""
    rows = list(lines)
    body = [
        tag("tr", *(_cell("td", cell) for cell in row), css="sum" if n >= len(rows) - sums else "")
        for n, row in enumerate(rows)
    ]
    head = tag("tr", *(_cell("th", cell) for cell in heads))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), css="wide")


def _cell(name: str, cell: Value) -> Html:
    return tag(name, cell.text, css=cell.css) if isinstance(cell, Cell) else tag(name, cell)
