"""What passed alike, listed once: a HIS that is away is asked the same thing a thousand times a day.

Only exchanges can be alike. A message that was stored is listed by itself, and so is what a booking was asked: an exchange that
names an order is alike only to others of the same order.
"""

from __future__ import annotations

from typing import Any

import msgspec

_THE_SAME = ("direction", "connector", "verb", "message_type", "order_no", "state", "answer", "reason")


class Alike(msgspec.Struct):
    """How often something passed, as far back as was looked, and when that began; the listed one is the newest."""

    times: int
    first_ms: int


class Listing:
    """Takes rows, newest first, until there are `limit` of them to list. `once`: what is alike counts as one."""

    def __init__(self, limit: int, *, once: bool) -> None:
        self.rows: list[dict[str, Any]] = []
        self.alike: dict[str, Alike] = {}
        self._limit, self._once = limit, once
        self._listed: dict[tuple[Any, ...], str] = {}

    @property
    def is_full(self) -> bool:
        """Whether nothing that comes later can change it."""
        return len(self.rows) >= self._limit and not self._once

    def take(self, row: dict[str, Any]) -> bool:
        """False, and not taken, where this one has no room any more."""
        key = tuple(row[name] for name in _THE_SAME) if self._once and "answer" in row else None
        if key is not None and (listed := self._listed.get(key)) is not None:
            before = self.alike.setdefault(listed, Alike(times=1, first_ms=row["at_ms"]))
            before.times, before.first_ms = before.times + 1, row["at_ms"]
            return True
        if len(self.rows) >= self._limit:
            return False
        self.rows.append(row)
        if key is not None:
            self._listed[key] = row["id"]
        return True
