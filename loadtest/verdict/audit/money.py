"""Money balances: what was acknowledged is at the HIS for this visit, or goes back, and never both."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import msgspec

from loadtest.verdict.audit.findings import Check, Finding, in_order
from loadtest.verdict.facts import Booking, Paid, Run, Visit

REFUNDS = ("refund_due", "refunding", "refunded", "refund_unknown", "refund_failed")
GIVEN_BACK = ("refund_due", "refunded")  # what a booking shows of its money then

Registered = Mapping[str, list[Visit]]
"""The registered visits of a hospital, by order number."""


class Balance(msgspec.Struct, frozen=True):
    """Sums in fen. `open_fen` is what was acknowledged and is neither at the HIS nor on its way back."""

    payments: int
    acknowledged_fen: int
    at_his_fen: int
    refunds_fen: dict[str, int]
    open_fen: int


def check_money(run: Run) -> Check:
    """Payment by payment; a surplus of one must not hide what another lacks."""
    registered = {hospital: _registered(run, hospital) for hospital in run.his}
    findings: list[Finding] = []
    for booking in run.bookings:
        visits = [v for no in booking.order_nos for v in registered[booking.hospital][no]]
        texts = _unpaid(booking, visits) if booking.paid is None else _paid(booking, booking.paid, visits)
        findings += [Finding(booking.hospital, booking.id, text) for text in texts]
    for hospital in run.his:
        findings += _used_twice(hospital, registered[hospital])
    payments = sum(b.paid is not None for b in run.bookings)
    promise = "Each payment is at the HIS for its visit, or goes back"
    return Check("money", promise, payments, "payments", in_order(findings))


def balance(run: Run, hospital: str) -> Balance:
    """Of one hospital's bookings."""
    registered = _registered(run, hospital)
    refunds: Counter[str] = Counter()
    payments = acknowledged_fen = at_his_fen = 0
    for booking in run.bookings:
        if booking.hospital != hospital or booking.paid is None:
            continue
        payments += 1
        acknowledged_fen += booking.paid.amount_fen
        at_his_fen += sum(v.paid_fen for no in booking.order_nos for v in registered[no])
        for refund in booking.final.refunds or ():
            refunds[refund.state] += refund.amount_fen
    open_fen = acknowledged_fen - at_his_fen - refunds.total()
    return Balance(payments, acknowledged_fen, at_his_fen, dict(sorted(refunds.items())), open_fen)


def _registered(run: Run, hospital: str) -> Registered:
    found: dict[str, list[Visit]] = defaultdict(list)
    for visit in run.his[hospital].visits:
        if visit.state == "registered":
            found[visit.key].append(visit)
    return found


def _paid(booking: Booking, paid: Paid, visits: list[Visit]) -> Iterator[str]:
    final = booking.final
    for refund in final.refunds or ():
        if refund.state not in REFUNDS:
            yield f"has a refund that is {refund.state}"
    if visits:
        for visit in visits:
            if (visit.paid_fen, visit.trade_no) != (paid.amount_fen, paid.trade_no):
                yield (
                    f"{paid.amount_fen} fen were paid by {paid.trade_no}; "
                    f"the HIS has {visit.paid_fen} fen by {visit.trade_no or 'no trade number'}"
                )
        if final.owed_fen:
            yield f"is registered and paid at the HIS, and {final.owed_fen} fen go back"
        elif final.status == 200 and final.payment_state != "paid":
            yield f"is registered and paid at the HIS, and shows its money as {final.payment_state}"
    elif final.owed_fen != paid.amount_fen:
        yield f"{paid.amount_fen} fen were paid and are not registered; {final.owed_fen} fen go back"
    elif final.payment_state not in GIVEN_BACK:
        yield f"its money goes back, and shows as {final.payment_state}"


def _unpaid(booking: Booking, visits: list[Visit]) -> Iterator[str]:
    """Its payment may have had no answer (see `histories`); even so it was the fee."""
    if booking.final.owed_fen > booking.fee_fen:
        yield f"{booking.final.owed_fen} fen go back, and at most {booking.fee_fen} can have been paid"
    for visit in visits:
        if visit.paid_fen != booking.fee_fen:
            yield f"is registered at the HIS with {visit.paid_fen} fen; its fee is {booking.fee_fen}"
    if visits and booking.final.owed_fen:
        yield f"is registered and paid at the HIS, and {booking.final.owed_fen} fen go back"


def _used_twice(hospital: str, registered: Registered) -> Iterator[Finding]:
    trades = Counter(v.trade_no for visits in registered.values() for v in visits if v.trade_no)
    for trade_no, visits in trades.items():
        if visits > 1:
            yield Finding(hospital, trade_no, f"one payment pays for {visits} visits at the HIS")
