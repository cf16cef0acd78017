"""What a HIS asks of us: what became of a refund."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from booking.billing import bill_key
from booking.bookings import find_by_visit
from booking.money import refunds_of
from booking.store.engine import Store, StoreUnavailable, Tx
from connectors.port import Refused
from mappings.canonical import RefundQuestion, RefundState, RefundStatus, Registration, RegistrationStatus
from monitoring.logs import get_logger

log = get_logger("questions")


class Questions:
    """Answers the questions of one hospital; `refunds` is what connectors are given."""

    def __init__(self, store: Store, hospital_id: str) -> None:
        self._store = store
        self._hospital_id = hospital_id

    async def refunds(self, question: RefundQuestion) -> Sequence[RefundState] | Refused:
        """The refunds that are asked for, oldest first. Refused, retryable, while the store is away."""
        try:
            async with self._store.read(self._hospital_id) as tx:
                rows = await _rows(tx, question)
        except StoreUnavailable as e:
            log.error("store_unavailable", hospital=self._hospital_id, reason=str(e))
            return Refused(code="store_unavailable", text="what is asked cannot be looked up now", retryable=True)
        return [_state(row) for row in rows if question.trade_no in (None, row["trade_no"])]


async def _rows(tx: Tx, question: RefundQuestion) -> list[dict[str, Any]]:
    if question.order_no is not None or question.his_id is not None:
        # Its status says nothing here: a visit is found by its numbers.
        named = Registration(status=RegistrationStatus.RELEASED, order_no=question.order_no, his_id=question.his_id)
        booking = await find_by_visit(tx, named)
        return [] if booking is None else await refunds_of(tx, booking_id=booking.id)
    if question.bill_id is not None:
        return await refunds_of(tx, bill_id=bill_key(tx.hospital_id, question.bill_id))
    return []


def _state(row: dict[str, Any]) -> RefundState:
    return RefundState(
        refund_no=row["id"],
        status=RefundStatus(row["status"]),
        amount_fen=row["amount_fen"],
        channel=row["channel"],
        trade_no=row["trade_no"],
        refund_trade_no=row["refund_trade_no"],
        changed_at=dt.datetime.fromtimestamp(row["updated_ms"] / 1000, dt.UTC),
    )
