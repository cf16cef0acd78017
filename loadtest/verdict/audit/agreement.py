"""We and the HIS agree: for each order number it holds what we say it holds, and nothing that we do not know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from loadtest.verdict.audit.findings import Check, Finding, in_order
from loadtest.verdict.audit.unanswered import unanswered
from loadtest.verdict.facts import Booking, His, Run, Visit


def check_agreement(run: Run) -> Check:
    """A hold without an answer may have been carried out, so that many visits may be unknown to the client."""
    findings: list[Finding] = []
    notes: list[str] = []
    may_be = unanswered(run, "hold")
    for hospital, his in run.his.items():
        ours = [b for b in run.bookings if b.hospital == hospital]
        findings += _differences(hospital, his, ours)
        strangers = list(_strangers(hospital, his, ours))
        if len(strangers) > may_be[hospital]:
            findings += strangers
        elif strangers:
            notes.append(
                f"{hospital}: visits unknown to the client {len(strangers):,}, holds without an answer {may_be[hospital]:,}"
            )
    visits = sum(len(his.visits) for his in run.his.values())
    return Check(
        "agreement", "We and the HIS say the same of each order", visits, "visits", in_order(findings), tuple(notes)
    )


def _differences(hospital: str, his: His, bookings: list[Booking]) -> Iterator[Finding]:
    by_key: dict[str, list[Visit]] = defaultdict(list)
    for visit in his.visits:
        by_key[visit.key].append(visit)
    for booking in bookings:
        if booking.final.status != 200:
            continue  # lost, and told as such
        visits = [v for no in sorted(booking.order_nos) for v in by_key[no]]
        text = _difference(booking.final.his_state or "", [v.state for v in visits])
        if text is not None:
            yield Finding(hospital, booking.order_no, text)


def _difference(ours: str, theirs: list[str]) -> str | None:
    live = [state for state in theirs if state != "released"]
    if len(live) > 1:
        return f"has {len(live)} visits at the HIS at once"
    if ours in ("locked", "registered"):
        return None if live == [ours] else f"is {ours} by our books, and {_said(theirs)} at the HIS"
    if live:
        return f"is {ours} by our books, and {live[0]} at the HIS"
    if ours == "released" and not theirs:
        return "is released by our books, and the HIS never had it"
    return None


def _said(states: list[str]) -> str:
    return " and ".join(states) or "unknown"


def _strangers(hospital: str, his: His, bookings: list[Booking]) -> Iterator[Finding]:
    known = {no for booking in bookings for no in booking.order_nos}
    for visit in his.visits:
        if visit.key not in known:
            yield Finding(
                hospital, visit.no, f"is {visit.state} for order {visit.key or '(none)'}, which nobody was told of"
            )
