"""Money that has gone back before it was known whether the HIS had booked it: 停诊 while a registration was under way.

When the registration shows itself after all, the HIS has a payment in its books of whose refund nobody has told it.
"""

from __future__ import annotations

from sqlalchemy import bindparam, select, update

from booking.commands import queue_command, wake_topic
from booking.money import PaymentRow, tell_refund
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.tables import refunds

_GONE_BACK = Fixed(
    select(refunds).where(
        refunds.c.hospital_id == bindparam("of_hospital"),
        refunds.c.booking_id == bindparam("of_booking"),
        refunds.c.channel == bindparam("of_channel"),
        refunds.c.trade_no == bindparam("of_trade_no"),
        refunds.c.status == "refunded",
        refunds.c.his == "none",
    )
)
_PENDING = Fixed(
    update(refunds)
    .where(refunds.c.hospital_id == bindparam("of_hospital"), refunds.c.id == bindparam("of_refund"))
    .values(his="pending")
)


async def tell_what_went_back(tx: Tx, payment: PaymentRow) -> None:
    """A booking's payment is settled at the HIS only now: queue the message for the refund of the whole of it, if it is done.

    It waits for the booking's own commands. Where the hospital cannot be told, the command finds that out.
    """
    of = {"of_hospital": tx.hospital_id, "of_booking": payment.booking_id}
    named = {"of_channel": payment.channel, "of_trade_no": payment.trade_no}
    for row in await tx.all(_GONE_BACK, {**of, **named}):
        if row["amount_fen"] != payment.amount_fen:
            continue  # as for every registration's fee: the message says nothing of parts
        await tx.run(_PENDING, {"of_hospital": tx.hospital_id, "of_refund": row["id"]})
        await tell_refund(tx, {**row, "his": "pending"})
        after = f"booking:{payment.booking_id}"
        await queue_command(tx, line=f"refund:{row['id']}", verb="refund", subject_id=row["id"], waits_for=after)
        tx.ring(wake_topic(tx.hospital_id))
