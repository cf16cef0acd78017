"""合并支付: one payment of the channel's for several bills of a patient.

Each bill has its piece of the money, a payment of its own in everything that follows: it is settled at the HIS by itself, may
turn out to be unusable by itself, and goes back by itself. What the pieces share is the name, (channel, trade_no), under which
the merchant's bill has their sum.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from booking.billing import BillRow, own_bill, record_bill_payment
from booking.money import find_payments
from booking.records import Person
from booking.reported import is_repeat
from booking.settings import Mode
from booking.store.engine import Tx
from mappings.canonical import Payment

MOST_BILLS = 20
"""Of one payment: they are recorded in one transaction, which others wait for."""


async def pay_bills(
    tx: Tx,
    person: Person,
    payment: Payment,
    pieces_fen: Mapping[str, int],
    *,
    client_id: str,
    offered: bool,
    mode: Mode = Mode.LIVE,
) -> list[BillRow]:
    """Record one payment for several bills, all of it or nothing, and queue each one's settlement; the bills in that order.

    `pieces_fen`: how much of it is for which bill, by our ids; together it is `payment.amount_fen`. `offered` and `mode` as for
    `pay_bill`. The same report again changes nothing. Raises Refusal: bill_unknown, and as `pay_bill`.
    """
    if sum(pieces_fen.values()) != payment.amount_fen:
        raise ValueError("the pieces are not the payment")
    bills = [await own_bill(tx, person, bill_id) for bill_id in pieces_fen]
    known = await find_payments(tx, payment.channel, payment.trade_no)
    if is_repeat(payment, known, pieces_fen, client_id=client_id):
        return bills
    for bill in bills:
        await record_bill_payment(
            tx,
            bill,
            msgspec.structs.replace(payment, amount_fen=pieces_fen[bill.id]),
            client_id=client_id,
            offered=offered,
            mode=mode,
            piece=bill.id if len(bills) > 1 else "",
        )
    return bills
