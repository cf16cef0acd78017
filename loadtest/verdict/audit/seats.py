"""Oversold: 0, by the HIS's own count and by ours; and nothing is called sold out whose seats were never given away."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from loadtest.verdict.audit.findings import Check, Finding, in_order
from loadtest.verdict.audit.unanswered import unanswered
from loadtest.verdict.facts import Booking, His, Run, SoldOut
from loadtest.verdict.samples import HOLD

NO_SEAT_LEFT = ("full", "taken")
OVERTAKES_S = 10.0
KEPT_BACK = 0.25


def check_seats(run: Run) -> Check:
    """Counts that do not know of each other: the HIS's alarm, its visits by segment, our bookings by slot.

    A HIS refuses what is more than its seats, so that a seat which we sold twice ends there as a refusal: "full" or "taken",
    where nobody else sells.
    """
    findings: list[Finding] = []
    for hospital, his in run.his.items():
        ours = [b for b in run.bookings if b.hospital == hospital]
        findings += [*_by_its_own_count(hospital, his), *_by_visits(hospital, his), *_by_slots(hospital, his, ours)]
        findings += _by_refusals(ours)
    segments = sum(len({visit.segment for visit in his.visits}) for his in run.his.values())
    return Check("oversold", "No seat is sold twice", segments, "segments", in_order(findings))


def check_unsold(run: Run) -> Check:
    """A slot of which somebody was told that it is sold out had as many holds by then as it has seats.

    Holds that were given back count: when their seats come back is the service's business. So do those that nobody heard of. A
    few seats of a slot are no finding: while it is not known whether a fetch has counted a lock, a second seat is kept back for
    it. So there are no more of them than holds, nor than a quarter of the seats; of a slot of two or three, one.
    """
    findings: list[Finding] = []
    notes: list[str] = []
    may_be = unanswered(run, HOLD)
    for hospital, his in run.his.items():
        ours = [b for b in run.bookings if b.hospital == hospital]
        few, missing = _unsold(his, ours, [told for told in run.sold_out if told.hospital == hospital])
        if few:
            notes.append(f"{hospital}: slots with a few seats kept back when they were sold out {few:,}")
        if sum(missing.values()) > may_be[hospital]:
            findings += [
                Finding(hospital, slot, f"was sold out for somebody, and {seats} of its seats were never held")
                for slot, seats in missing.items()
            ]
        elif missing:
            notes.append(
                f"{hospital}: seats nobody knows of {sum(missing.values())}, holds without an answer {may_be[hospital]}"
            )
    promise = "Nobody is told that a slot is sold out while it has seats"
    return Check("unsold", promise, len(run.sold_out), "slots", in_order(findings), tuple(notes))


def _unsold(his: His, bookings: list[Booking], told: list[SoldOut]) -> tuple[int, dict[str, int]]:
    """Of the slots that were sold out for somebody: how many lacked a few holds, and which lacked how many more."""
    few, missing = 0, dict[str, int]()
    capacity, slots = {s.code: s.capacity for s in his.segments}, _segments_of_slots(his, bookings)
    held_s: dict[str, list[float]] = defaultdict(list)
    for booking in bookings:
        held_s[booking.slot_id].append(booking.held_s)
    least = min(capacity.values(), default=1)
    for one in told:
        # Where the HIS had none of its holds, nobody says how many seats it has: not fewer than the smallest.
        seats = capacity.get(slots.get(one.slot_id, ""), least)
        # A hold and a refusal may overtake each other on their ways to the client.
        held = sum(at_s <= one.last_s + OVERTAKES_S for at_s in held_s[one.slot_id])
        if 0 < seats - held <= min(held, max(1.0, KEPT_BACK * seats)):
            few += 1
        elif held < seats:
            missing[one.slot_id] = seats - held
    return few, missing


def _by_its_own_count(hospital: str, his: His) -> Iterator[Finding]:
    if his.oversold:
        yield Finding(hospital, "the HIS", f"gave away {his.oversold} seats beyond the capacity of their segments")
    for segment in his.segments:
        if segment.taken > segment.capacity:
            yield Finding(hospital, segment.code, f"{segment.taken} taken of {segment.capacity}")


def _by_visits(hospital: str, his: His) -> Iterator[Finding]:
    capacity = {s.code: s.capacity for s in his.segments}
    for code, visits in Counter(v.segment for v in his.visits if v.occupies).items():
        if visits > capacity.get(code, 0):
            yield Finding(hospital, code, f"{visits} visits for {capacity.get(code, 0)} seats")


def _by_slots(hospital: str, his: His, bookings: list[Booking]) -> Iterator[Finding]:
    """A slot's capacity is that of the segment where the visits of its bookings are."""
    capacity, slots = {s.code: s.capacity for s in his.segments}, _segments_of_slots(his, bookings)
    for slot, booked in Counter(b.slot_id for b in bookings if _has_a_seat(b)).items():
        seats = capacity.get(slots.get(slot, ""))
        if seats is not None and booked > seats:
            yield Finding(hospital, slot, f"{booked} bookings hold one of {seats} seats")


def _segments_of_slots(his: His, bookings: list[Booking]) -> dict[str, str]:
    segment_of = {v.key: v.segment for v in his.visits}
    return {b.slot_id: segment_of[no] for b in bookings for no in b.order_nos if no in segment_of}


def _by_refusals(bookings: list[Booking]) -> Iterator[Finding]:
    for booking in bookings:
        if booking.final.state == "rejected" and booking.final.rejected_code in NO_SEAT_LEFT:
            yield Finding(
                booking.hospital, booking.id, f"was sold, and the HIS had no seat ({booking.final.rejected_code})"
            )


def _has_a_seat(booking: Booking) -> bool:
    return booking.final.state in ("held", "booked") or booking.final.his_state in ("locked", "registered")
