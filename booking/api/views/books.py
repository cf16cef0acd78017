"""The money of a day: the merchant's bill, and its comparison with ours and the hospital's."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from msgspec import Meta

from booking.api.views.base import Body, Fen, Instant, Query, View, check_years


class MerchantLine(Body, frozen=True):
    """One line of the merchant's bill of a day."""

    kind: Annotated[str, Meta(pattern="^(payment|refund)$")]
    channel: Annotated[str, Meta(min_length=1, max_length=32)]
    trade_no: Annotated[str, Meta(min_length=1, max_length=128)]
    amount_fen: Fen
    at: Instant | None = None

    def __post_init__(self) -> None:
        check_years(self.at)


class MerchantBill(Body, frozen=True):
    """The merchant's bill of one day, whole; sent again it replaces the one before."""

    lines: Annotated[list[MerchantLine], Meta(max_length=100_000)]


class MerchantBillView(View, frozen=True):
    """What was taken over. `foreign_lines` of `lines` are of other businesses under the number; `amount_fen` is without them."""

    date: dt.date
    lines: int
    amount_fen: int
    foreign_lines: int = 0


class Difference(View, frozen=True):
    """One difference. `kind`: long (money we cannot place), short (money that is missing), amount, his_missing, his_only,
    status (a refund that is not done on one side), moved_fee (the hospital has the fee of the session to which the booking was
    moved), timing (it went over midnight).
    """

    kind: str
    channel: str | None
    trade_no: str | None
    merchant_fen: int | None
    ours_fen: int | None
    his_fen: int | None


class ReconciliationView(View, frozen=True):
    """The three-way comparison of one day: merchant bill, our payments, the hospital's statement (if it has one).

    `total` differences; `next` is the cursor of those that are not in `differences`.
    """

    date: dt.date
    merchant_lines: int
    our_lines: int
    his_lines: int | None
    differences: list[Difference]
    total: int
    compared_at: dt.datetime
    next: str | None


class ReconciliationQuery(Query, frozen=True):
    """Without a cursor the books are compared anew; with one, that comparison is read on."""

    limit: Annotated[int, Meta(ge=1, le=10_000)] = 10_000
    cursor: str | None = None
