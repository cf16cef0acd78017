"""Building what a HIS command needs from what the store knows."""

from __future__ import annotations

import datetime as dt

from booking.billing import BillRow, load_bill
from booking.catalog import load_slot
from booking.insured import CHANNEL as INSURANCE
from booking.insured import InsuredRow, standing_insured
from booking.lifecycle import HisState
from booking.money import PaymentRow, find_payment, find_payments, kept_payment
from booking.moves import load_booking
from booking.people import load_person, person_by_mrn
from booking.records import Booking, Person
from booking.refunds import load_refund
from booking.settings import Hospital
from booking.store.engine import Tx
from connectors.port import BillPayment, Order, RefundOrder
from mappings.canonical import HisRefs, Patient, Payment, Refund


def as_payment(row: PaymentRow, hospital: Hospital) -> Payment:
    """The canonical payment, its time in the hospital's zone."""
    return Payment(
        channel=row.channel,
        trade_no=row.trade_no,
        amount_fen=row.amount_fen,
        paid_at=dt.datetime.fromtimestamp(row.paid_at_ms / 1000, hospital.zone),
    )


async def order_of(tx: Tx, hospital: Hospital, booking_id: str) -> tuple[Booking, Order, Person]:
    """A booking and the order by which connectors know it."""
    booking = await load_booking(tx, booking_id)
    if booking is None:
        raise LookupError("a command's booking is gone")
    person = await load_person(tx, booking.person_id)
    if person is None:
        raise LookupError("a booking's person is gone")
    schedule, slot = await load_slot(tx, booking.slot_id, hospital.zone)
    paid = booking.payment_state not in ("due", "not_required", "void", "paid_at_window")
    payment = await kept_payment(tx, booking_id=booking.id) if paid else None
    order = Order(
        order_no=booking.order_no,
        schedule=schedule,
        slot=slot,
        patient=person.record,
        fee_fen=booking.fee_fen,
        payment=None if payment is None else as_payment(payment, hospital),
        reason=booking.reason,
        his_refs=booking.his_refs,
    )
    return booking, order, person


async def bill_payment_of(tx: Tx, hospital: Hospital, bill_id: str) -> tuple[BillRow, BillPayment]:
    """A bill and the settlement by which connectors know its payment."""
    bill = await load_bill(tx, bill_id)
    if bill is None:
        raise LookupError("a command's bill is gone")
    payment = await kept_payment(tx, bill_id=bill.id)
    if payment is not None:
        paid, at_ms = as_payment(payment, hospital), payment.created_ms
    elif (insured := await standing_insured(tx, bill.id)) is not None:
        paid, at_ms = _nothing_paid(bill, insured, hospital), insured.asked_ms
    else:
        raise LookupError("a command's payment is gone")
    return bill, BillPayment(
        order_no=bill.order_no,
        bill=bill.record,
        patient=await _patient_of(tx, bill),
        payment=paid,
        his_refs=_presettled(bill, paid.amount_fen, at_ms),
        other_bills=() if payment is None else await _other_bills(tx, payment),
    )


async def _other_bills(tx: Tx, payment: PaymentRow) -> tuple[str, ...]:
    """The HIS's numbers of the other bills that a merged payment is for."""
    if not payment.piece:
        return ()
    pieces = await find_payments(tx, payment.channel, payment.trade_no)
    others = [await load_bill(tx, row.piece) for row in pieces if row.piece != payment.piece]
    return tuple(bill.his_id for bill in others if bill is not None)


def _nothing_paid(bill: BillRow, insured: InsuredRow, hospital: Hospital) -> Payment:
    """The insurance pays all: 0 fen, under the number by which the HIS knows the settlement."""
    paid_at = dt.datetime.fromtimestamp(insured.asked_ms / 1000, hospital.zone)
    return Payment(channel=INSURANCE, trade_no=bill.order_no, amount_fen=0, paid_at=paid_at)


def _presettled(bill: BillRow, paid_fen: int, at_ms: int) -> HisRefs:
    """How the HIS calls the presettlement that a payment of that time follows, if it follows one."""
    split = bill.split
    if split is None or split.self_pay_fen != paid_fen or not split.holds(bill.amount_fen, at_ms):
        return {}
    return split.his_refs


async def _patient_of(tx: Tx, bill: BillRow) -> Patient:
    mrn = bill.record.mrn
    person = None if mrn is None else await person_by_mrn(tx, mrn)
    return person.record if person is not None else Patient(name="", mrn=mrn)


async def refund_order_of(tx: Tx, hospital: Hospital, refund_id: str) -> tuple[RefundOrder, bool]:
    """A refund as connectors know it, and whether what it was paid for is given back at the HIS; of a bill always."""
    row = await load_refund(tx, refund_id)
    payment = None if row is None else await find_payment(tx, row["channel"], row["trade_no"], row["piece"])
    if row is None or payment is None:
        raise LookupError("a command's refund or payment is gone")
    refund = Refund(
        refund_no=row["id"],
        payment=as_payment(payment, hospital),
        amount_fen=row["amount_fen"],
        reason=row["reason"],
    )
    if row["bill_id"] is not None:
        bill = await load_bill(tx, row["bill_id"])
        if bill is None:
            raise LookupError("a refund's bill is gone")
        return RefundOrder(refund=refund, patient=await _patient_of(tx, bill), bill=bill.record), True
    booking, order, person = await order_of(tx, hospital, row["booking_id"])
    return RefundOrder(refund=refund, patient=person.record, order=order), booking.his_state == HisState.RELEASED
