"""What the objectives measure of a booking: how long it took to be locked and registered, and which holds came to nothing.

Counted once the commit is certain, by the store's own instants, so that a restart between two steps loses nothing of them.
"""

from __future__ import annotations

from booking.lifecycle import Axes, HisState, State
from booking.money import PaymentRow
from booking.records import Booking
from booking.settings import Hospital
from booking.store.engine import Tx
from monitoring import metrics

SEAT_GONE = frozenset({"full", "taken"})
"""A refusal for one of these reasons means that somebody else has the seat."""

# Refusals of a lock that are no business of the patient's or the hospital's: it was never asked for in time, or not properly.
_OURS = frozenset({"abandoned", "charset", "invalid_request", "lock_expired", "not_offered", "settled_by_a_person"})


def count_end(tx: Tx, before: Axes, booking: Booking) -> None:
    """Count a hold that ended without its patient having had a say. One that was locked and not paid is not among them."""
    reason = why_failed(before, booking.state, booking.reason)
    if reason is not None:
        tx.count(lambda: metrics.holds_failed.labels(hospital=tx.hospital_id, reason=reason).inc())


def why_failed(before: Axes, state: State, reason: str | None) -> str | None:
    """The `reason` of `hisbridge_holds_failed_total`; None for an end in which the patient had a say. Pure."""
    if before.state != State.HELD or state not in (State.EXPIRED, State.REJECTED):
        return None
    if before.his_state != HisState.NONE:
        return "not_registered" if state == State.REJECTED else None
    if state == State.EXPIRED or reason in _OURS:
        return "never_locked"
    return "seat_gone" if reason in SEAT_GONE else "refused"


def count_lock(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    """The HIS has locked the seat of a hold, now."""
    seconds = (tx.now_ms - _held_ms(hospital, booking)) / 1000
    tx.count(lambda: metrics.lock_seconds.labels(hospital=tx.hospital_id).observe(seconds))


def count_registration(tx: Tx, hospital: Hospital, booking: Booking, payment: PaymentRow | None) -> None:
    """The HIS has registered a hold, now: the time from hold to lock, and from the money, or the lock if that came later."""
    locked_ms = booking.lock_reply_ms
    lock_ms = 0 if locked_ms is None else locked_ms - _held_ms(hospital, booking)
    since = [ms for ms in (locked_ms, None if payment is None else payment.created_ms) if ms is not None]
    seconds = (lock_ms + tx.now_ms - max(since, default=booking.created_ms)) / 1000
    tx.count(lambda: metrics.registration_seconds.labels(hospital=tx.hospital_id).observe(seconds))


def _held_ms(hospital: Hospital, booking: Booking) -> int:
    """When the lock began to be waited for: that of a booking that late money took up again begins anew."""
    if booking.lock_by_ms is None:
        return booking.created_ms
    return max(booking.created_ms, booking.lock_by_ms - int(hospital.lock_wait_s * 1000))
