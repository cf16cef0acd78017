"""The seat rule (DESIGN section 4): two stored figures per slot, one derived, never a counter that is only incremented.

All functions are pure; times are epoch milliseconds of one hospital's clock.
"""

from __future__ import annotations

import msgspec


class Seats(msgspec.Struct, frozen=True):
    """`his_left` is the HIS's figure at the last applied fetch; `unreflected` what it did not know of.

    `remaining` is what may be sold. The difference may be negative: a HIS may say 2 while 5 of ours are under way.
    """

    his_left: int
    unreflected: int

    @property
    def remaining(self) -> int:
        return max(0, self.his_left - self.unreflected)


class Charge(msgspec.Struct, frozen=True):
    """What the rule needs to know of one booking that may occupy a seat."""

    lock_reply_ms: int | None
    charged: bool = True


def hold(seats: Seats) -> Seats | None:
    """Take one seat for a new booking, which is then charged; None when nothing is left to sell."""
    if seats.his_left - seats.unreflected <= 0:
        return None
    return Seats(seats.his_left, seats.unreflected + 1)


def give_back_unsent(seats: Seats, *, charged: bool) -> Seats:
    """The booking's lock never left our machine."""
    return Seats(seats.his_left, seats.unreflected - 1) if charged else seats


def refused(seats: Seats, *, charged: bool, seat_gone: bool) -> Seats:
    """The HIS refused the lock. `seat_gone` (full, taken): the seat went to somebody else, so `his_left` falls as well."""
    unreflected = seats.unreflected - 1 if charged else seats.unreflected
    return Seats(seats.his_left - 1 if seat_gone else seats.his_left, unreflected)


def released(seats: Seats, *, charged: bool, unlock_sent_ms: int | None, fetch_ended_ms: int) -> tuple[Seats, bool]:
    """An unlock or cancel was accepted. Returns the new figures, and whether only a fetch can show the seat.

    A charged booking is uncharged. One that the last fetch already counted as taken gives its seat back only if the unlock
    was sent after that fetch had ended: otherwise the fetch may have seen the seat free already.
    """
    if charged:
        return Seats(seats.his_left, seats.unreflected - 1), False
    if unlock_sent_ms is not None and unlock_sent_ms > fetch_ended_ms:
        return Seats(seats.his_left + 1, seats.unreflected), False
    return seats, True


def is_charged(lock_reply_ms: int | None, *, fetch_started_ms: int, his_cache_ms: int) -> bool:
    """Whether a fetch that began then may have missed this booking: unless the HIS had confirmed it long enough before.

    Equal milliseconds count as missed, which can undersell for one fetch and never oversells.
    """
    return lock_reply_ms is None or lock_reply_ms + his_cache_ms >= fetch_started_ms


def apply_fetch(
    his_left: int, bookings: list[Charge], *, fetch_started_ms: int, his_cache_ms: int
) -> tuple[Seats, list[bool]]:
    """Take over the HIS's figure and recount; returns the figures and, per booking, whether it is now charged."""
    charged = [
        is_charged(b.lock_reply_ms, fetch_started_ms=fetch_started_ms, his_cache_ms=his_cache_ms) for b in bookings
    ]
    return Seats(max(0, his_left), sum(charged)), charged
