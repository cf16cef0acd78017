"""Whether the pages of one search are one whole: rows come and go between two pages, and then one is missed or comes twice.

What can be noticed: Bundle.total (FHIR R4 bundle.html: the matches of all pages, without what is included) that changes on
the way or is another than what came, and rows that come again. Where a server tells no total, or one that never fits, a second
reading that gives the same rows says as much.
"""

from __future__ import annotations

from typing import Any

from connectors.fhir.documents import Json

MOST_REPEATED = 3
"""So many pages in a row without anything new: it is no search, it is a circle."""


class Reading:
    """One reading of a search for resources of `kind`, page by page."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._known: set[str] = set()
        self._nameless = 0
        self._totals: set[int] = set()
        self._untold = False
        self._repeated = 0
        self.pages = 0
        self.came_again = False

    def note(self, bundle: Json, entries: list[Json]) -> list[Json]:
        """One page and its entries; those that no earlier page had. What is included may come with each page."""
        self.pages += 1
        total = bundle.get("total")
        if isinstance(total, int) and not isinstance(total, bool):
            self._totals.add(total)
        else:
            self._untold = True
        found = [entry for entry in entries if self._is_new(entry)]
        self._repeated = self._repeated + 1 if entries and not found else 0
        return found

    def _is_new(self, entry: Json) -> bool:
        resource = entry["resource"]
        if resource.get("resourceType") != self._kind or _mode(entry) == "include":
            return True
        own = resource.get("id")
        if not isinstance(own, str):
            self._nameless += 1
            return True
        if own in self._known:
            self.came_again = True
            return False
        self._known.add(own)
        return True

    @property
    def count(self) -> int:
        """Matches so far, each once."""
        return len(self._known) + self._nameless

    @property
    def is_circle(self) -> bool:
        """Whether the server gives the same pages again and again."""
        return self._repeated >= MOST_REPEATED

    @property
    def told_otherwise(self) -> bool:
        """Whether something says that rows came or went on the way, or that not all came."""
        return self.came_again or len(self._totals) > 1 or (bool(self._totals) and self._totals != {self.count})

    @property
    def is_whole(self) -> bool:
        """Whether what came is surely all there was."""
        return not self.told_otherwise and (self.pages == 1 or not self._untold)

    def confirms(self, other: Reading) -> bool:
        """Whether both gave the same rows, and as many as the server says. With fewer no repetition tells of the rest."""
        short = bool(self._totals) and max(self._totals) > self.count
        same = self._known == other._known and self._nameless == other._nameless
        return same and not short and len(self._totals) < 2


def _mode(entry: Json) -> Any:
    search = entry.get("search")
    return search.get("mode") if isinstance(search, dict) else None
