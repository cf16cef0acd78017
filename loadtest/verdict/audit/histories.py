"""Acknowledged and lost: 0. Each booking answers, and is where its own history may have led it.

A history is what was acknowledged: the hold, perhaps a payment, perhaps a cancel. A request without an answer (none, or a 5xx)
may have been carried out or not; so a booking may have been paid or cancelled that nobody got a yes for, but there cannot be
more of those than there were steps without an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum

from loadtest.verdict.audit.findings import Check, Finding, in_order
from loadtest.verdict.audit.unanswered import unanswered
from loadtest.verdict.facts import Booking, Final, Run

HIS_STATES = ("none", "locked", "registered", "released", "rejected")


class Fault(Enum):
    LOST = "lost"
    UNSETTLED = "unsettled"  # something is still under way, though the run waited for it
    UNASKED = "unasked"  # nobody is known to have asked for it


Complaint = tuple[Fault, str]


def check_kept(run: Run) -> Check:
    """What was acknowledged is still so."""
    return _check(run, Fault.LOST, "lost", "What was acknowledged is kept")


def check_settled(run: Run) -> Check:
    """Nothing is under way any more: a drain that ended too early proves nothing about what it left."""
    return _check(run, Fault.UNSETTLED, "unsettled", "After the drain nothing is under way")


def check_unasked(run: Run) -> Check:
    """Payments and cancels that were not acknowledged are no more than the steps without an answer."""
    may_be = unanswered(run, "step")
    found = list(_all(run, Fault.UNASKED))
    by_hospital = Counter(f.hospital for f in found)
    findings = [f for f in found if by_hospital[f.hospital] > may_be[f.hospital]]
    notes = tuple(
        f"{hospital}: paid or cancelled without an acknowledgement {count:,}, steps without an answer {may_be[hospital]:,}"
        for hospital, count in sorted(by_hospital.items())
        if count <= may_be[hospital]
    )
    promise = "Nothing is paid or cancelled that nobody asked for"
    return Check("unasked", promise, len(run.bookings), "bookings", in_order(findings), notes)


def _check(run: Run, fault: Fault, name: str, promise: str) -> Check:
    return Check(name, promise, len(run.bookings), "bookings", in_order(_all(run, fault)))


def _all(run: Run, fault: Fault) -> Iterator[Finding]:
    for booking in run.bookings:
        found = complaint(booking)
        if found is not None and found[0] == fault:
            yield Finding(booking.hospital, booking.id, found[1])


def complaint(booking: Booking) -> Complaint | None:
    """The first thing that is wrong with where a booking is."""
    final = booking.final
    if final.status != 200:
        return Fault.LOST, f"its last reading was answered by {final.status or 'nothing'}"
    if final.his_state not in HIS_STATES:
        return Fault.LOST, f"has no state at the HIS that we know: {final.his_state}"
    judge = _STATES.get(final.state or "")
    if judge is None:
        return Fault.LOST, f"is {final.state}, where nothing in this run leads"
    if booking.cancel is not None and final.state not in ("cancelled", "cancelling"):
        return Fault.LOST, f"its cancel was acknowledged, and it is {final.state}"
    return judge(booking, final)


def _held(booking: Booking, final: Final) -> Complaint | None:
    if booking.paid is not None or final.payment_state == "paid" or booking.fee_fen == 0:
        return Fault.UNSETTLED, "is paid or free, and not registered"
    if final.his_state != "locked":
        return Fault.UNSETTLED, f"still waits for its lock (at the HIS: {final.his_state})"
    return None


def _booked(booking: Booking, final: Final) -> Complaint | None:
    if final.his_state != "registered":
        return Fault.LOST, f"is said to be booked, and is {final.his_state} at the HIS"
    if booking.paid is not None or booking.fee_fen == 0:
        return None
    if final.payment_state == "paid":
        return Fault.UNASKED, "is paid by a payment that was not acknowledged"
    return Fault.LOST, f"is booked and not paid (money: {final.payment_state})"


def _cancelling(booking: Booking, final: Final) -> Complaint | None:
    return Fault.UNSETTLED, f"is still being cancelled (at the HIS: {final.his_state})"


def _cancelled(booking: Booking, final: Final) -> Complaint | None:
    return _ended(booking, final) or (
        None if booking.cancel is not None else (Fault.UNASKED, "is cancelled by a request that was not acknowledged")
    )


def _ended(booking: Booking, final: Final) -> Complaint | None:
    """Whether a rejection or an expiry was our fault is the availability's business; what it may not do is keep a seat."""
    if final.his_state in ("locked", "registered"):
        return Fault.UNSETTLED, f"is {final.state}, and its seat is still {final.his_state} at the HIS"
    if booking.paid is None and final.owed_fen:
        return Fault.UNASKED, f"{final.owed_fen} fen go back of a payment that was not acknowledged"
    return None


_STATES: dict[str, Callable[[Booking, Final], Complaint | None]] = {
    "held": _held,
    "booked": _booked,
    "cancelling": _cancelling,
    "cancelled": _cancelled,
    "expired": _ended,
    "rejected": _ended,
}
