"""The product's seat rule as the search calls it, and rules that look right and are not.

A rule is asked about a `Slot` of tests/model/slot.py and answers with new figures. Times are given to the product's functions as
they would be stored: now is 0, the applied fetch ended at 0, a reply of age 3 came at -3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from booking import seats
from booking.seats import Charge, Seats

if TYPE_CHECKING:
    from tests.model.slot import Held, Slot

OCCUPIES = "QSDKXUEZ"
"""Phases that may hold a seat at the HIS: until the answer to the unlock is here, nobody knows better."""


@dataclass(frozen=True)
class Rule:
    """The product's rule; `cache_ms` is what it has been told about the HIS's cache (his_cache_s)."""

    cache_ms: int = 0
    trusts_the_first_look: bool = False

    def hold(self, slot: Slot) -> Seats | None:
        return seats.hold(slot.figures)

    def give_back_unsent(self, slot: Slot, held: Held) -> Seats:
        return _stored(seats.give_back_unsent(slot.figures, charged=held.charged))

    def refused(self, slot: Slot, held: Held, *, seat_gone: bool) -> Seats:
        return _stored(seats.refused(slot.figures, charged=held.charged, seat_gone=seat_gone))

    def released(self, slot: Slot, held: Held, *, gone_already: bool) -> Seats:
        sent_ms = None if gone_already else (1 if held.unlock == 2 else 0)
        figures, _ = seats.released(slot.figures, charged=held.charged, unlock_sent_ms=sent_ms, fetch_ended_ms=0)
        return _stored(figures)

    def may_be_missed(self, reply_age: int, *, began: int = 0) -> bool:
        """Whether a fetch may not have counted a booking whose reply is so old now (-1: none yet); it begins or `began` now."""
        reply_ms = None if reply_age < 0 else -reply_age
        return seats.is_charged(reply_ms, fetch_started_ms=began, his_cache_ms=self.cache_ms)

    def recount(self, slot: Slot, read: int) -> tuple[Seats, list[bool]]:
        """Apply a fetch. What the running fetch had covered is told to the product as a reply that is old enough."""
        long_ago = -self.cache_ms - 1
        occupying = [Charge(long_ago if b.covered else None) for b in slot.bookings if b.phase in OCCUPIES]
        figures, charged = seats.apply_fetch(read, occupying, fetch_started_ms=0, his_cache_ms=self.cache_ms)
        marks = iter(charged)
        return figures, [next(marks) if b.phase in OCCUPIES else False for b in slot.bookings]

    def expected_free(self, slot: Slot) -> int:
        """What is on sale when nothing is under way and a fetch has just been applied."""
        return slot.free


def _stored(figures: Seats) -> Seats:
    """As booking.moves.save_seats writes them."""
    return Seats(max(0, figures.his_left), max(0, figures.unreflected))


@dataclass(frozen=True)
class QuotaRule(Rule):
    """reserve_by quota: the seats are ours; what is left is the quota less every booking that may occupy one.

    `counts` are the phases that a fetch counts as occupying.
    """

    counts: str = OCCUPIES

    def refused(self, slot: Slot, held: Held, *, seat_gone: bool) -> Seats:
        return super().refused(slot, held, seat_gone=False)

    def recount(self, slot: Slot, read: int) -> tuple[Seats, list[bool]]:
        """As booking.fetches does for a hospital whose seats are ours: a larger figure of the HIS raises the quota."""
        charged = [b.phase in self.counts for b in slot.bookings]
        return Seats(max(read, slot.figures.his_left), sum(charged)), charged

    def expected_free(self, slot: Slot) -> int:
        """What the HIS has free of our quota, less what only a person can give back: refused to unlock, lapsed later."""
        return slot.free - sum(b.phase == "Z" and b.his == "G" for b in slot.bookings)


# --- what looks right -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CreditsEveryUnlock(Rule):
    """A seat is back whenever its unlock was accepted."""

    def released(self, slot: Slot, held: Held, *, gone_already: bool) -> Seats:
        if held.charged:
            return Seats(slot.figures.his_left, slot.figures.unreflected - 1)
        return Seats(slot.figures.his_left + 1, slot.figures.unreflected)


@dataclass(frozen=True)
class CreditsWhatWasGone(Rule):
    """A seat is back also when the HIS says that it was free already."""

    def released(self, slot: Slot, held: Held, *, gone_already: bool) -> Seats:
        return super().released(slot, held, gone_already=False)


@dataclass(frozen=True)
class CountsTheLiving(Rule):
    """A booking that nobody wants any more is not counted by a fetch."""

    def recount(self, slot: Slot, read: int) -> tuple[Seats, list[bool]]:
        marks = [b.promised and not b.covered for b in slot.bookings]
        return Seats(read, sum(marks)), marks


@dataclass(frozen=True)
class TiesCountAsSeen(Rule):
    """A reply in the millisecond in which the fetch began counts as covered by it."""

    def may_be_missed(self, reply_age: int, *, began: int = 0) -> bool:
        return reply_age < 0 or -reply_age > began


@dataclass(frozen=True)
class NeverUncharges(Rule):
    """Safe, and useless: what was once charged stays charged over every fetch."""

    def recount(self, slot: Slot, read: int) -> tuple[Seats, list[bool]]:
        marks = [b.phase in OCCUPIES for b in slot.bookings]
        return Seats(read, sum(marks)), marks
