"""(channel, trade_no) is one payment for ever: what a report of it is, by what was reported under that name before. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from booking.errors import Refusal
from booking.money import PaymentRow
from mappings.canonical import Payment


def is_repeat(payment: Payment, known: Sequence[PaymentRow], paid_for: Mapping[str, int], *, client_id: str) -> bool:
    """Whether the very same was reported before, False where nothing was.

    `known` is what is recorded under the payment's name, `paid_for` how much of it is for which booking or bill now. When it was
    paid is no part of the identity: portals round, and mend it. Raises Refusal: payment_of_another_portal, of which nothing else
    is told, and payment_conflict.
    """
    if not known:
        return False
    name = f"{payment.channel} {payment.trade_no}"
    if any(row.client_id != client_id for row in known):
        raise Refusal("payment_of_another_portal", f"{name} was reported before by another portal of this hospital.")
    if {row.booking_id or row.bill_id: row.amount_fen for row in known} != paid_for:
        raise Refusal("payment_conflict", f"{name} was reported before, for something else or with another amount.")
    return True
