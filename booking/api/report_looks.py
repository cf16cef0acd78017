"""When a hospital was last asked for a report: so that who reads one gets what the hospital says now, and a crowd asks once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

FRESH_S = 30.0
"""What a hospital has told as a whole, by itself or in a list, is not asked for again so soon."""
AGAIN_S = 10.0
"""After a failure; until then readers get what is stored, at once."""
WAIT_S = 3.0
"""So long a reader waits for the hospital where there is something stored to be given instead."""
MOST = 10_000

Key = tuple[str, str, str]
"""Hospital, person, and the report's number at the hospital."""


class Looks:
    """Of one process, in memory: what is forgotten is asked once more."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looks: OrderedDict[Key, tuple[float, bool]] = OrderedDict()

    def is_due(self, key: Key) -> bool:
        """Whether the hospital should be asked; whoever is told so asks, the others take what is there."""
        known = self._looks.get(key)
        if known is not None and self._clock() < known[0]:
            return False
        self._note(key, WAIT_S, told=False)
        return True

    def is_fresh(self, key: Key) -> bool:
        """Whether the hospital has told it just now."""
        known = self._looks.get(key)
        return known is not None and known[1] and self._clock() < known[0]

    def told(self, key: Key) -> None:
        """The hospital has told it as a whole, or that there is nothing new."""
        self._note(key, FRESH_S, told=True)

    def failed(self, key: Key) -> None:
        """It has not."""
        self._note(key, AGAIN_S, told=False)

    def _note(self, key: Key, for_s: float, *, told: bool) -> None:
        self._looks[key] = (self._clock() + for_s, told)
        self._looks.move_to_end(key)
        if len(self._looks) > MOST:
            self._looks.popitem(last=False)
