"""From rows of the store to what the API shows: masked, in the hospital's zone."""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from typing import Any

from booking.api.views.bookable import SlotView
from booking.api.views.bookings import BookingView, VisitView
from booking.api.views.money import BillItemView, BillView, PaymentView, RefundView, SplitView, UnsettledView
from booking.api.views.patients import PatientView
from booking.api.views.records import AttachmentView, ObservationView, RegistrationView, ReportVersion, ReportView
from booking.billing import BillRow
from booking.bookings import payable
from booking.catalog import remaining_of, slot_status
from booking.insured import InsuredRow
from booking.money import PaymentRow
from booking.records import Booking, Person
from booking.reporting import ReportRow
from booking.rescheduling.orders import seen
from booking.rescheduling.places import Place
from booking.splits import Split
from booking.visits import RegistrationRow
from mappings.canonical import Report
from monitoring.masking import mask_id_number, mask_name, mask_phone


def instant(ms: int | None, zone: dt.tzinfo) -> dt.datetime | None:
    """Epoch milliseconds as an instant in a zone."""
    return None if ms is None else _instant(ms, zone)


def of_his(at: dt.datetime | None, zone: dt.tzinfo) -> dt.datetime | None:
    """What a HIS has told, with whatever offset it likes, as we tell every instant of the hospital."""
    try:
        return None if at is None else at.astimezone(zone)
    except OverflowError:  # the ends of the calendar, by which some say "for ever": no other offset has them
        return at


@lru_cache(maxsize=1024)  # a batch of holds has three instants in all, and shows them for every booking
def _instant(ms: int, zone: dt.tzinfo) -> dt.datetime:
    return dt.datetime.fromtimestamp(ms / 1000, zone)


def slot_view(row: dict[str, Any], now_ms: int, zone: dt.tzinfo) -> SlotView:
    status = slot_status(row, now_ms)
    remaining = remaining_of(row)
    return SlotView(
        id=row["id"],
        schedule_id=row["schedule_id"],
        department_id=row["department_id"],
        department_name=row["department_name"],
        practitioner_id=row["practitioner_id"],
        practitioner_name=row["practitioner_name"],
        starts_at=_instant(row["starts_at_ms"], zone),
        ends_at=_instant(row["ends_at_ms"], zone),
        session=row["session"],
        clinic_type=row["clinic_type"],
        fee_fen=row["fee_fen"],
        remaining=0 if status == "stopped" else remaining,
        status=status,
        opens_at=instant(row["opens_at_ms"], zone),
    )


def patient_view(patient_id: str, user_ref: str, person: Person) -> PatientView:
    record = person.record
    return PatientView(
        id=patient_id,
        user_ref=user_ref,
        name=mask_name(record.name),
        id_type=record.id_type,
        id_number=None if record.id_number is None else mask_id_number(record.id_number),
        phone=None if record.phone is None else mask_phone(record.phone),
        his_state=person.his_state,
        reject_code=person.reject_code,
    )


def payment_view(row: PaymentRow, zone: dt.tzinfo) -> PaymentView:
    return PaymentView(
        channel=row.channel,
        trade_no=row.trade_no,
        amount_fen=row.amount_fen,
        paid_at=_instant(row.paid_at_ms, zone),
        settlement=row.settlement,
        unusable=row.unusable,
    )


def unsettled_view(row: PaymentRow, now_ms: int, zone: dt.tzinfo) -> UnsettledView:
    return UnsettledView(
        channel=row.channel,
        trade_no=row.trade_no,
        amount_fen=row.amount_fen,
        settlement=row.settlement,
        paid_at=_instant(row.paid_at_ms, zone),
        reported_at=_instant(row.created_ms, zone),
        age_s=max(0, now_ms - row.created_ms) // 1000,
        booking_id=row.booking_id,
        bill_id=row.bill_id,
    )


def refund_view(row: dict[str, Any], zone: dt.tzinfo) -> RefundView:
    return RefundView(
        id=row["id"],
        status=row["status"],
        amount_fen=row["amount_fen"],
        channel=row["channel"],
        trade_no=row["trade_no"],
        reason=row["reason"],
        booking_id=row["booking_id"],
        bill_id=row["bill_id"],
        refund_trade_no=row["refund_trade_no"],
        his=row["his"],
        his_code=row["his_code"],
        updated_at=instant(row["updated_ms"], zone),
    )


def booking_view(
    booking: Booking,
    now_ms: int,
    zone: dt.tzinfo,
    payments: list[PaymentRow] | None = None,
    refunds: list[dict[str, Any]] | None = None,
    place: Place | None = None,
) -> BookingView:
    registration = booking.registration
    return BookingView(
        id=booking.id,
        order_no=booking.order_no,
        version=booking.version,
        state=booking.state,
        his_state=booking.his_state,
        his_command=booking.his_command,
        his_command_status=booking.his_command_status,
        payment_state=booking.payment_state,
        fee_fen=booking.fee_fen,
        payable=payable(
            booking, now_ms, booking.payment_state == "paid" or (bool(payments) and any(p.kept for p in payments or ()))
        ),
        slot_id=booking.slot_id,
        schedule_id=booking.schedule_id,
        patient_id=booking.patient_id,
        user_ref=booking.user_ref,
        created_at=_instant(booking.created_ms, zone),
        updated_at=_instant(booking.updated_ms, zone),
        expires_at=instant(booking.expires_at_ms, zone),
        pay_by=instant(booking.pay_by_ms, zone),
        reason=booking.reason,
        needs_attention=booking.needs_attention,
        queue_no=registration.queue_no if registration else None,
        encounter_no=registration.encounter_no if registration else None,
        check_in_place=registration.check_in_place if registration else None,
        check_in_until=of_his(registration.check_in_until, zone) if registration else None,
        moved_at=instant(booking.moved_ms, zone),
        visit=None if place is None else visit_view(seen(place, registration), zone),
        payments=[payment_view(p, zone) for p in payments or ()],
        refunds=[refund_view(r, zone) for r in refunds or ()],
    )


def split_view(split: Split, zone: dt.tzinfo) -> SplitView:
    return SplitView(
        total_fen=split.total_fen,
        self_pay_fen=split.self_pay_fen,
        fund_fen=split.fund_fen,
        account_fen=split.account_fen,
        valid_until=_instant(split.valid_until_ms, zone),
    )


def visit_view(place: Place, zone: dt.tzinfo) -> VisitView:
    return VisitView(
        starts_at=_instant(place.starts_at_ms, zone),
        ends_at=_instant(place.ends_at_ms, zone),
        department_id=place.department_id,
        department_name=place.department_name,
        practitioner_id=place.practitioner_id,
        practitioner_name=place.practitioner_name,
        location=place.location,
    )


def bill_view(
    bill: BillRow,
    zone: dt.tzinfo,
    payments: list[PaymentRow],
    refunds: list[dict[str, Any]],
    insured: InsuredRow | None,
    *,
    client_id: str,
) -> BillView:
    """A bill is the patient's, and every portal of theirs sees how it stands; whose money that is, only whoever took it."""
    # The payment that counts, or the last that the hospital was asked to take.
    sent = (
        next((p for p in payments if p.kept), None)
        or insured
        or next((p for p in reversed(payments) if p.settlement != "none"), None)
    )
    record = bill.record
    return BillView(
        id=bill.id,
        amount_fen=bill.amount_fen,
        currency=bill.currency,
        status=bill.status,
        settlement="none" if sent is None else sent.settlement,
        title=record.title,
        department_name=record.department_name,
        issued_at=of_his(record.issued_at, zone),
        receipt_no=None if bill.settlement is None else bill.settlement.receipt_no,
        invoice_no=None if bill.settlement is None else bill.settlement.invoice_no,
        split=None if bill.split is None or bill.status != "open" else split_view(bill.split, zone),
        items=[
            BillItemView(name=i.name, amount_fen=i.amount_fen, quantity=i.quantity, unit=i.unit) for i in record.items
        ],
        payments=[payment_view(p, zone) for p in payments if p.client_id == client_id],
        refunds=[refund_view(r, zone) for r in refunds if r["client_id"] == client_id],
    )


def without_contents(bill: BillView) -> BillView:
    """A bill for who may know of its money alone."""
    return BillView(
        id=bill.id,
        amount_fen=bill.amount_fen,
        currency=bill.currency,
        status=bill.status,
        settlement=bill.settlement,
        payments=bill.payments,
        refunds=bill.refunds,
    )


def registration_view(row: RegistrationRow, zone: dt.tzinfo) -> RegistrationView:
    return RegistrationView(
        id=row.id,
        status=row.status,
        booking_id=row.booking_id,
        his_id=row.his_id,
        starts_at=of_his(row.record.starts_at, zone),
        ends_at=of_his(row.record.ends_at, zone),
        department_name=row.record.department_name,
        practitioner_name=row.record.practitioner_name,
    )


def report_version(row: ReportRow, zone: dt.tzinfo) -> ReportVersion:
    record = row.record
    told_ms = row.updated_ms if row.occurred_ms is None else row.occurred_ms
    return ReportVersion(
        version=row.version,
        status=record.status,
        told_at=_instant(told_ms, zone),
        issued_at=of_his(record.issued_at, zone),
        conclusion=record.conclusion,
        observations=_observations(record),
        attachments=_attachments(record),
    )


def _attachments(record: Report) -> list[AttachmentView]:
    return [
        AttachmentView(n=n, content_type=a.content_type, title=a.title) for n, a in enumerate(record.attachments, 1)
    ]


def _observations(record: Report) -> list[ObservationView]:
    return [
        ObservationView(
            name=o.name,
            code=o.code,
            value=o.value,
            unit=o.unit,
            reference_range=o.reference_range,
            flag=o.flag,
            status=o.status,
            note=o.note,
        )
        for o in record.observations
    ]


def report_view(row: ReportRow, zone: dt.tzinfo, *, whole: bool) -> ReportView:
    record = row.record
    return ReportView(
        id=row.id,
        kind=record.kind,
        status=record.status,
        version=row.version,
        name=record.name,
        issued_at=of_his(record.issued_at, zone),
        effective_at=of_his(record.effective_at, zone),
        conclusion=record.conclusion if whole else None,
        observations=_observations(record) if whole else [],
        attachments=_attachments(record) if whole else [],
    )
