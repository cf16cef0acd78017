"""How many messages a second are taken from one peer: it is slowed down by not being read, never refused."""

from __future__ import annotations

from collections import OrderedDict

REMEMBERED_PEERS = 1024


class Pace:
    """`per_s` messages a second, after a burst of `burst`. Its clock is whatever `now` is given, in seconds.

    The n-th message of a crowd that comes at once is due after max(0, (n - burst) / per_s) seconds.
    """

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._spare_s = (burst - 1) / per_s
        self._due = float("-inf")

    def take(self, now: float) -> float:
        """Seconds to wait before the next message is taken. It has its place from now on."""
        due = max(self._due, now - self._spare_s)
        self._due = due + 1 / self._per_s
        return max(0.0, due - now)


class Paces:
    """The pace of each address, over all of its connections and over a reconnect."""

    def __init__(self, per_s: float | None, burst: int) -> None:
        """`per_s` None: nobody is slowed down."""
        self._per_s = per_s
        self._burst = burst
        self._known: OrderedDict[str, Pace] = OrderedDict()

    def of(self, address: str) -> Pace | None:
        """The pace of a peer; None when there is no limit."""
        if self._per_s is None:
            return None
        pace = self._known.setdefault(address, Pace(self._per_s, self._burst))
        self._known.move_to_end(address)
        if len(self._known) > REMEMBERED_PEERS:
            self._known.popitem(last=False)
        return pace
