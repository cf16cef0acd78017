"""Whose payment a settlement is, and which refund: a bill that is paid at the HIS need not have been paid with our money."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.port import BillPayment, HisRefused, HisReplyInvalid, RefundOrder
from mappings.canonical import Settlement


def settlement_of(payment: BillPayment, found: Sequence[Settlement]) -> Settlement | None:
    """The one of `found`, all of them of one bill, that is by `payment`; None where there is none at all.

    It is ours by our order number or by the payment's trade number, whichever the HIS repeats. A HIS that looks by the trade
    number alone may answer with another bill that was paid under it: that is none, and one which does not say of which bill it
    is settles nothing. Raises as `Connector.fetch_settlement` says.
    """
    found = [one for one in found if one.bill_id is None or one.bill_id not in payment.other_bills]
    ours = [one for one in found if one.order_no == payment.order_no or one.trade_no == payment.payment.trade_no]
    if ours:
        if payment.other_bills and ours[0].bill_id is None and ours[0].order_no != payment.order_no:
            raise HisReplyInvalid("the HIS does not say which of the bills of this payment it has settled")
        if ours[0].amount_fen not in (None, payment.payment.amount_fen):
            raise HisRefused("the HIS has booked another amount under our number", code="price_changed")
        return ours[0]
    if any(one.order_no is None and one.trade_no is None for one in found):
        raise HisReplyInvalid("the HIS does not say by which payment the bill is settled")
    if found:
        raise HisRefused("another payment has settled the bill", code="taken")
    return None


def refund_of(refund: RefundOrder, found: Sequence[Settlement]) -> Settlement | None:
    """The one of `found` that is this refund, by our number of it; None where it is not among them.

    A payment of the same bill is none. Raises HisRefused `price_changed` where the HIS has it over another amount.
    """
    ours = [one for one in found if one.order_no == refund.refund.refund_no]
    if ours and ours[0].amount_fen not in (None, refund.refund.amount_fen):
        raise HisRefused("the HIS has booked another amount under the refund's number", code="price_changed")
    return ours[0] if ours else None
