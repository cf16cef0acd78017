"""What the hospitals of a search have come to: a search that never gets to a state says nothing about it.

Counted are how often, and in how many of the hospitals.
"""

from __future__ import annotations

from collections import Counter

Thing = tuple[str, str]


class Reached:
    """Of one search. `note` as it happens, `end` after each hospital."""

    def __init__(self) -> None:
        self.times: Counter[Thing] = Counter()
        self.hospitals: Counter[Thing] = Counter()
        self.played = 0
        self._here: set[Thing] = set()

    def begin(self) -> None:
        """A search begins."""
        self.__init__()  # type: ignore[misc]

    def note(self, what: str, which: str) -> None:
        """It has happened once more."""
        self.times[what, which] += 1
        self._here.add((what, which))

    def end(self) -> None:
        """A hospital was played to its end."""
        self.played += 1
        self.hospitals.update(self._here)
        self._here.clear()

    def share(self, what: str, which: str) -> float:
        """In which part of the hospitals it has happened."""
        return self.hospitals[what, which] / max(1, self.played)

    def table(self) -> str:
        """All of it, as text."""
        lines = [f"{self.played} hospitals; times, in how many of them:"]
        for (what, which), times in sorted(self.times.items()):
            lines.append(f"{times:8} {self.hospitals[what, which]:6}  {what}: {which}")
        return "\n".join(lines)

    def missing(self, wanted: dict[str, tuple[str, ...]]) -> list[str]:
        """What was never reached of what is wanted."""
        return [f"{what}: {one}" for what, these in wanted.items() for one in these if not self.times[what, one]]


REACHED = Reached()
"""Of the search that is under way."""
