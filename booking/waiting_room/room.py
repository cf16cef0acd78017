"""What one process knows of a room, and what it tells those who wait. Pure; time and chance are handed in.

It may be half a second behind the store. A rank only ever moves towards the front, so that what was told is late, never wrong.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from enum import StrEnum
from itertools import pairwise

import msgspec

from booking.waiting_room.ranks import NONE_YET, Ranks
from booking.waiting_room.rules import ClosedBecause, OpenedBy, WaitingRoomRule

WINDOW_MS = 10_000  # over which a rate of admission is measured
WINDOWS = 6
SOONEST_S, LATEST_S = 1.0, 120.0  # between two questions of one who waits
GATHERING_S = (30.0, 60.0)
# How many who ask for the first time after the release may come in a second.
FIRST_ASKS_PER_S = 1_000.0
ADMITTED_S, OVER_S = 30.0, 60.0
# Whoever may have been admitted since we last looked is judged by the store.
SLACK_S, SLACK = 2.0, 50


class Phase(StrEnum):
    """gathering: before the release; holds are free. open: holds need an admitted ticket. closed: they need none."""

    CLOSED = "closed"
    GATHERING = "gathering"
    OPEN = "open"


class TicketState(StrEnum):
    """What a ticket is worth now. expired: it was admitted, and its time is over. closed: the room is, no ticket is needed."""

    GATHERING = "gathering"
    WAITING = "waiting"
    ADMITTED = "admitted"
    EXPIRED = "expired"
    CLOSED = "closed"


class Wait(msgspec.Struct, frozen=True):
    """From and to how many seconds it will take at the slowest and quickest of late. `to_s` None: of late nobody was admitted."""

    from_s: int
    to_s: int | None


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a ticket stands. `position` people who are not admitted stand before it; None: not known yet, or no matter."""

    state: TicketState
    poll_after_s: float
    position: int | None = None
    wait: Wait | None = None
    admitted_until_ms: int | None = None


class Room:
    """One hospital's room of one release."""

    def __init__(self, hospital_id: str, release_ms: int) -> None:
        self.hospital_id = hospital_id
        self.release_ms = release_ms
        self.opened_by = OpenedBy.RELEASE
        self.closed_because: ClosedBecause | None = None
        self.rate_milli = 0
        self.busy_ms = 0
        self.is_open = True
        self.watermark = NONE_YET
        self.ranks = Ranks()
        self.changed = 0
        """The last write whose early ranks are known."""
        self.is_complete = False
        """Whether no early rank can come any more."""
        self._marks: list[int] = []
        self._at_ms: list[int] = []
        self._admitted: list[int] = []

    def note_steps(self, steps: Iterable[tuple[int, int, int]]) -> None:
        """The watermark has come there, at that instant, and so many were admitted then in all; in order."""
        for watermark, at_ms, admitted in steps:
            if watermark > self.watermark:
                self.watermark = watermark
                self._marks.append(watermark)
                self._at_ms.append(at_ms)
                self._admitted.append(admitted)

    def phase(self, now_ms: int) -> Phase:
        """What holds need now."""
        if not self.is_open:
            return Phase.CLOSED
        return Phase.GATHERING if now_ms < self.release_ms else Phase.OPEN

    @property
    def waiting(self) -> int:
        """How many are not admitted."""
        return self.ranks.waiting(self.watermark)

    def admitted_ms(self, rank: int) -> int | None:
        """When this rank was admitted; None: it is not."""
        at = bisect_left(self._marks, rank)
        return self._at_ms[at] if at < len(self._marks) else None

    def may_be_admitted(self, rank: int) -> bool:
        """False only where it is certain that this rank is not admitted yet, as far as half a second can tell."""
        if rank <= self.watermark:
            return True
        return self.ranks.before(rank, self.watermark) <= SLACK + SLACK_S * self.rate_milli / 1000

    def rates_per_s(self, now_ms: int) -> list[float]:
        """How many were admitted a second in each of the last full windows since the release, the newest first."""
        if not self._marks:
            return []
        first_ms = max(self.release_ms, self._at_ms[0] - WINDOW_MS)
        edges = [now_ms - n * WINDOW_MS for n in range(WINDOWS + 1) if now_ms - n * WINDOW_MS >= first_ms]
        totals = [self._admitted_by(edge) for edge in edges]
        return [(later - earlier) * 1000 / WINDOW_MS for later, earlier in pairwise(totals)]

    def _admitted_by(self, at_ms: int) -> int:
        at = bisect_right(self._at_ms, at_ms)
        return self._admitted[at - 1] if at else 0

    def standing(
        self, rank: int, rule: WaitingRoomRule, *, now_ms: int, expires_ms: int, chance: Callable[[], float]
    ) -> Standing:
        """What the holder of this rank is told. `chance` gives numbers from 0 to 1."""
        phase = self.phase(now_ms)
        if phase is Phase.CLOSED:
            return Standing(state=TicketState.CLOSED, poll_after_s=OVER_S)
        if phase is Phase.GATHERING:
            return Standing(state=TicketState.GATHERING, poll_after_s=self.gathering_poll_s(now_ms, chance))
        admitted_ms = self.admitted_ms(rank)
        if admitted_ms is None:
            if now_ms >= expires_ms:
                return Standing(state=TicketState.EXPIRED, poll_after_s=OVER_S)
            position = self.ranks.before(rank, self.watermark)
            rates = self.rates_per_s(now_ms)
            return Standing(
                state=TicketState.WAITING,
                position=position,
                wait=wait_of(position, rates),
                poll_after_s=waiting_poll_s(position, rates[0] if rates else rule.rate_per_s, chance),
            )
        until_ms = admitted_ms + int(rule.admitted_s * 1000)
        if now_ms >= until_ms:
            return Standing(state=TicketState.EXPIRED, poll_after_s=OVER_S)
        return Standing(state=TicketState.ADMITTED, admitted_until_ms=until_ms, poll_after_s=ADMITTED_S)

    def gathering_poll_s(self, now_ms: int, chance: Callable[[], float]) -> float:
        """Seldom; and the first questions after the release spread, so that the crowd does not come in one second."""
        left_s = (self.release_ms - now_ms) / 1000
        shortest_s, longest_s = GATHERING_S
        if left_s > longest_s:
            return _rounded(shortest_s + (longest_s - shortest_s) * chance())
        spread_s = min(LATEST_S, max(SOONEST_S, len(self.ranks) / FIRST_ASKS_PER_S))
        return _rounded(left_s + SOONEST_S + spread_s * chance())


def wait_of(position: int, rates_per_s: list[float]) -> Wait | None:
    """How long it takes at the quickest and the slowest of these rates; None where none was measured."""
    if not rates_per_s or max(rates_per_s) <= 0:
        return None
    slowest = min(rates_per_s)
    ahead = position + 1
    return Wait(math.floor(ahead / max(rates_per_s)), math.ceil(ahead / slowest) if slowest > 0 else None)


def waiting_poll_s(position: int, rate_per_s: float, chance: Callable[[], float]) -> float:
    """Half of the expected wait, so that the questions of all who wait grow with the rate and not with the crowd.

    With a quarter they are nearly twice as many, and cost the core that the holds of those who are admitted need.
    """
    wait_s = (position + 1) / max(rate_per_s, 0.1)
    return _rounded(min(LATEST_S, max(SOONEST_S, wait_s / 2)) * (0.75 + 0.5 * chance()))


def _rounded(seconds: float) -> float:
    return round(seconds, 1)
