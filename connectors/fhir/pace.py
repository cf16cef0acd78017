"""A server that wants to be left alone: who is made to wait for it."""

from __future__ import annotations

import asyncio
from time import monotonic

from connectors.fhir.deadlines import Deadline

WAITED_FOR_S = 5.0  # a request waits so long itself; for more the caller comes again
BUSY = frozenset({429, 503})


class Pace:
    """Until when one server wants to be left alone."""

    def __init__(self) -> None:
        self._until = 0.0

    def hold(self, seconds: float) -> None:
        """Leave it alone from now on; the longest wish counts."""
        self._until = max(self._until, monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """How much longer; 0 when it may be asked."""
        return max(0.0, self._until - monotonic())

    async def wait(self, deadline: Deadline) -> float:
        """Wait while that is short. Returns how long it would still take, 0 where the request may go out."""
        left_s = self.left_s
        if 0 < left_s <= WAITED_FOR_S and left_s < deadline.left_s():
            await asyncio.sleep(left_s)
        return self.left_s
