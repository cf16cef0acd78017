"""The order of a waiting room: a rank for each who joins, and how many stand before a rank. Pure.

Whoever joins before the release has a random rank of 62 bits, whoever comes later 2^62 and the number of the arrival: so the
early ones are in an order that no speed could win, and all before the late ones, who are served as they came. Equal random ranks
are to be expected once in 200 million releases with 200,000 people, and then two are admitted together.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable

FIRST_LATE = 1 << 62
NONE_YET = -1
"""A watermark below every rank: nobody is admitted."""
_LEAST_MERGED = 1_024

Draw = Callable[[int], bytes]
"""So many random bytes."""


def draw_rank(draw: Draw = os.urandom) -> int:
    """The rank of somebody who joins before the release."""
    return int.from_bytes(draw(8), "big") >> 2


def late_rank(arrival: int) -> int:
    """The rank of the n-th who joins from the release on; the first is 1."""
    return FIRST_LATE + arrival


class Ranks:
    """The order of one room: the early ranks, 8 bytes each, and how many have arrived since the release.

    Of the late ones nothing else need be known: their numbers have no gaps.
    """

    def __init__(self) -> None:
        self.arrivals = 0
        self._sorted = array("q")
        self._fresh: list[int] = []  # in order as well; becomes a part of the others once it is long

    def __len__(self) -> int:
        return self._early + self.arrivals

    @property
    def _early(self) -> int:
        return len(self._sorted) + len(self._fresh)

    def add(self, ranks: Iterable[int]) -> None:
        """More early ranks, in any order."""
        self._fresh += ranks
        self._fresh.sort()
        if len(self._fresh) > max(_LEAST_MERGED, len(self._sorted) // 8):
            self._sorted = array("q", sorted([*self._sorted, *self._fresh]))  # two runs: merged, not sorted
            self._fresh = []

    def below(self, rank: int) -> int:
        """How many are before this rank."""
        if rank >= FIRST_LATE:
            return self._early + rank - FIRST_LATE - 1
        return bisect_left(self._sorted, rank) + bisect_left(self._fresh, rank)

    def up_to(self, rank: int) -> int:
        """How many are at or before it."""
        if rank >= FIRST_LATE:
            return self._early + rank - FIRST_LATE
        return bisect_right(self._sorted, rank) + bisect_right(self._fresh, rank)

    def waiting(self, watermark: int) -> int:
        """How many are not admitted."""
        return max(0, len(self) - self.up_to(watermark))

    def before(self, rank: int, watermark: int) -> int:
        """How many who are not admitted stand before this rank."""
        return max(0, self.below(rank) - self.up_to(watermark))
