"""A set of texts that may say yes too often, never no too often, and forgets after a day or two.

A blocked filter: all bits of a text lie in one word (Putze, Sanders and Singler, "Cache-, hash- and space-efficient Bloom
filters", ACM JEA 14, 2009), so that a text costs one look instead of one for each bit.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable

DAY_S = 24 * 3600.0
_WORD_BITS = 64


class Bloom:
    """At 400,000 texts a day fewer than one of a hundred unknown ones is taken for known. Holds a text for one to two days.

    `bits` of memory for each of two days.
    """

    def __init__(self, *, bits: int = 1 << 23, clock: Callable[[], float] = time.time) -> None:
        self._words = bits // _WORD_BITS
        self._clock = clock
        self._young, self._old = self._empty(), self._empty()
        self._since_s = clock()

    def add(self, text: str) -> None:
        """Put a text in."""
        if self._clock() - self._since_s >= DAY_S:
            self._young, self._old = self._empty(), self._young
            self._since_s = self._clock()
        mixed = hash(text)
        self._young[mixed % self._words] |= _mask(mixed)

    def __contains__(self, text: str) -> bool:
        mixed = hash(text)
        place, mask = mixed % self._words, _mask(mixed)
        return self._young[place] & mask == mask or self._old[place] & mask == mask

    def _empty(self) -> array[int]:
        return array("Q", bytes(self._words * _WORD_BITS // 8))


def _mask(mixed: int) -> int:
    """Five bits of a word, from the upper half of Python's own hash; the lower half has chosen the word.

    That hash is keyed anew in every process: nobody can choose texts that collide.
    """
    return (
        1 << (mixed >> 34 & 63) | 1 << (mixed >> 40 & 63) | 1 << (mixed >> 46 & 63) | 1 << (mixed >> 52 & 63)
        | 1 << (mixed >> 58 & 63)
    )  # fmt: skip
