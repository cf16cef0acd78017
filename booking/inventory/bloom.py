"""A set of texts that may say yes too often, never no too often, and forgets after a day or two (Bloom, CACM 13(7), 1970)."""

from __future__ import annotations

import time
from collections.abc import Callable

DAY_S = 24 * 3600.0
_PROBES = 7


class Bloom:
    """At 400,000 texts a day about one of a hundred unknown ones is taken for known. Holds a text for one to two days."""

    def __init__(self, *, bits: int = 1 << 22, clock: Callable[[], float] = time.time) -> None:
        self._bits = bits
        self._clock = clock
        self._young, self._old = bytearray(bits // 8), bytearray(bits // 8)
        self._since_s = clock()

    def add(self, text: str) -> None:
        """Put a text in."""
        if self._clock() - self._since_s >= DAY_S:
            self._young, self._old = bytearray(self._bits // 8), self._young
            self._since_s = self._clock()
        bits, young = self._bits, self._young
        place, step = _begin(text)
        for _ in range(_PROBES):
            place = (place + step) % bits
            young[place >> 3] |= 1 << (place & 7)

    def __contains__(self, text: str) -> bool:
        place, step = _begin(text)
        places = [(place + n * step) % self._bits for n in range(1, _PROBES + 1)]
        return any(all(bits[p >> 3] & (1 << (p & 7)) for p in places) for bits in (self._young, self._old))


def _begin(text: str) -> tuple[int, int]:
    """Two halves of Python's own hash, which is keyed anew in every process: nobody can choose texts that collide."""
    mixed = hash(text) & 0xFFFF_FFFF_FFFF_FFFF
    return mixed & 0xFFFF_FFFF, mixed >> 32 | 1
