"""Payments, refunds and bills."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from msgspec import Meta

from booking.api.views.base import Body, Fen, Id, Instant, Text, View, check_years
from booking.merged_payments import MOST_BILLS


class NewPayment(Body, frozen=True):
    """Money that the portal has taken. (`channel`, `trade_no`) names it for ever, so that a repeat is harmless."""

    channel: Annotated[str, Meta(min_length=1, max_length=32)]
    trade_no: Annotated[str, Meta(min_length=1, max_length=128)]
    amount_fen: Fen
    paid_at: Instant

    def __post_init__(self) -> None:
        check_years(self.paid_at)


class BillPiece(Body, frozen=True):
    """How much of a payment is for one bill: what is to be paid of it, as for a payment of its own."""

    bill_id: Id
    amount_fen: Fen


class NewMergedPayment(NewPayment, frozen=True):
    """合并支付: money that the portal has taken once, under one trade number, for several bills of a patient.

    `amount_fen` is what the channel has moved, and the sum of the pieces.
    """

    bills: Annotated[list[BillPiece], Meta(min_length=1, max_length=MOST_BILLS)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len({piece.bill_id for piece in self.bills}) < len(self.bills):
            raise ValueError("expected each bill once")
        if sum(piece.amount_fen for piece in self.bills) != self.amount_fen:
            raise ValueError("expected pieces that come to amount_fen")


class PaymentView(View, frozen=True):
    """Money reported for a booking or a bill. `unusable` says why it goes back, None when it pays.

    Of a payment for several bills it is this bill's piece.
    """

    channel: str
    trade_no: str
    amount_fen: int
    paid_at: dt.datetime
    settlement: str
    unusable: str | None = None


class NewRefund(Body, frozen=True):
    """Some of what pays for a booking or a bill is to go back, at most all that is left of it."""

    amount_fen: Fen
    reason: Text


class RefundResult(Body, frozen=True):
    """How the portal's refund ended. `unknown` is for a time-out: it is never treated as failed."""

    status: Annotated[str, Meta(pattern="^(refunding|refunded|unknown|failed)$")]
    refund_trade_no: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


class RefundView(View, frozen=True):
    """A refund: the portal moves the money and reports back. `status` from refund_due to refunded.

    `his` says whether the hospital has been told that it went back: none (nothing to tell), pending, unknown, told, or rejected:
    it did not hear of it, as `his_code` says, and a person has to have it booked at its window.
    """

    id: str
    status: str
    amount_fen: int
    channel: str
    trade_no: str
    reason: str
    booking_id: str | None = None
    bill_id: str | None = None
    refund_trade_no: str | None = None
    his: str = "none"
    his_code: str | None = None
    updated_at: dt.datetime | None = None


class RefundList(View, frozen=True):
    """The oldest of them, 200 at the most."""

    items: list[RefundView]


class BillItemView(View, frozen=True):
    """One line of a bill."""

    name: str
    amount_fen: int
    quantity: str | None = None
    unit: str | None = None


class SplitView(View, frozen=True):
    """医保预结算: what the insurance pays of a bill and what the patient, until `valid_until`. None: the hospital does not say.

    `fund_fen` 统筹, `account_fen` 个人账户, `self_pay_fen` what is to be paid now.
    """

    total_fen: int
    self_pay_fen: int
    fund_fen: int | None
    account_fen: int | None
    valid_until: dt.datetime


class BillView(View, frozen=True):
    """An outpatient bill. `status` open, paid, cancelled; `settlement` is how far a reported payment has got.

    `invoice_no` is the hospital's number of the e-invoice (电子票据), `split` its last presettlement while the bill is open.
    `payments` and `refunds` are your own: another portal of the patient's does not see them, nor you its.
    """

    id: str
    amount_fen: int
    currency: str
    status: str
    settlement: str
    title: str | None = None
    department_name: str | None = None
    issued_at: dt.datetime | None = None
    receipt_no: str | None = None
    invoice_no: str | None = None
    split: SplitView | None = None
    items: list[BillItemView] = []
    payments: list[PaymentView] = []
    refunds: list[RefundView] = []


class MergedPaymentView(View, frozen=True):
    """A payment for several bills: each with its own piece of it among `payments`, in the order in which they were named."""

    channel: str
    trade_no: str
    amount_fen: int
    bills: list[BillView]


class BillList(View, frozen=True):
    """A patient's bills. `as_of` says whether they were read from the hospital just now (live) or are what it sent (stored)."""

    items: list[BillView]
    as_of: str
    next: str | None = None


class UnsettledView(View, frozen=True):
    """Money that was reported and that the hospital has not booked. `settlement`: pending, or unknown while it is looked up."""

    channel: str
    trade_no: str
    amount_fen: int
    settlement: str
    paid_at: dt.datetime
    reported_at: dt.datetime
    age_s: int
    booking_id: str | None = None
    bill_id: str | None = None


class UnsettledList(View, frozen=True):
    """The oldest of them, 200 at the most."""

    items: list[UnsettledView]
