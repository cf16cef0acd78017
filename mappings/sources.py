"""Where record maps read texts from: one reading of a reply, and the first text that is present at a path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .context import Find, MapContext, MappingProblem

Reader = Callable[["Run", Any], Any]


class Run:
    """One reading of one reply or message: its root, its context, what went wrong, and indexes made on the way.

    `pause` is to be called after each record. `row` is what a path language keeps of the node that it was asked about last,
    `row_of`: the next field is asked of the same one.
    """

    __slots__ = ("ctx", "indexes", "pause", "problems", "root", "row", "row_of")

    def __init__(self, root: Any, ctx: MapContext, pause: Callable[[], None] | None = None) -> None:
        self.root = root
        self.pause = pause
        self.ctx = ctx
        self.problems: list[MappingProblem] = []
        self.indexes: dict[str, dict[str, Any]] = {}
        self.row: Any = None
        self.row_of: Any = None


def source_name(source: Any) -> str:
    """What a problem calls a source: its path, or its paths."""
    if isinstance(source, list):
        return " | ".join(str(entry) for entry in source)
    return str(source.get("from", "")) if isinstance(source, dict) else str(source)


def first_text(find: Find, text: Callable[[Any], str | None]) -> Reader:
    """A reader of the first text that is not blank among the nodes that `find` gives.

    A path language may give `find` a reader `first` that does just this for its path, without making the nodes.
    """
    first: Reader | None = getattr(find, "first", None)
    if first is not None:
        return first

    def read(run: Run, node: Any) -> str | None:
        for match in find(run.root, node):
            found = text(match)
            if found and not found.isspace():
                return found
        return None

    return read


def first_of(finds: list[Find], text: Callable[[Any], str | None]) -> Reader:
    """A reader of the first text that is not blank, path by path."""
    readers = [first_text(find, text) for find in finds]

    def read(run: Run, node: Any) -> str | None:
        for reader in readers:
            found: str | None = reader(run, node)
            if found is not None:
                return found
        return None

    return read
