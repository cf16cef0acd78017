"""Oversold: 0, by the HIS's own count and by ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from loadtest.verdict.audit.findings import Check, Finding, in_order
from loadtest.verdict.facts import Booking, His, Run


def check_seats(run: Run) -> Check:
    """Three counts that do not know of each other: the HIS's alarm, its visits by segment, our bookings by slot."""
    findings: list[Finding] = []
    for hospital, his in run.his.items():
        ours = [b for b in run.bookings if b.hospital == hospital]
        findings += [*_by_its_own_count(hospital, his), *_by_visits(hospital, his), *_by_slots(hospital, his, ours)]
    segments = sum(len(his.segments) for his in run.his.values())
    return Check("oversold", "No seat is sold twice", segments, "segments", in_order(findings))


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
    capacity = {s.code: s.capacity for s in his.segments}
    segment_of = {v.key: v.segment for v in his.visits}
    slots = {b.slot_id: segment_of[no] for b in bookings for no in b.order_nos if no in segment_of}
    for slot, booked in Counter(b.slot_id for b in bookings if _has_a_seat(b)).items():
        seats = capacity.get(slots.get(slot, ""))
        if seats is not None and booked > seats:
            yield Finding(hospital, slot, f"{booked} bookings hold one of {seats} seats")


def _has_a_seat(booking: Booking) -> bool:
    return booking.final.state in ("held", "booked") or booking.final.his_state in ("locked", "registered")
