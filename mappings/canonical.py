"""Canonical records: what a schedule, a booking, a bill or a report is to every part of hisbridge.

Shapes shared by all records
- Money is an integer in the minor unit of the hospital's currency and its name ends in `_fen`.
- Instants are timezone-aware datetimes; dates are plain dates; `24:00` is the next midnight.
- `his_refs` holds what the HIS calls the thing (transaction id, order id, SCH-2 ...). It is opaque to booking rules,
  is stored beside our own ids and can be read by the request mappings of later calls.
- Strings that a HIS did not send are `None`, never "".
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum

import msgspec

HisRefs = dict[str, str]


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The root of all canonical records: immutable, keyword-only, JSON-serialisable by msgspec."""


# --- people and places -------------------------------------------------------------------------------------------


class Department(Record, frozen=True, kw_only=True):
    """A clinic that patients book. `id` is the HIS's own code."""

    id: str
    name: str
    parent_id: str | None = None
    campus: str | None = None
    his_refs: HisRefs = {}


class Practitioner(Record, frozen=True, kw_only=True):
    """A doctor. `id` is the HIS's own code; `title` is the HIS's wording (主任医师 ...)."""

    id: str
    name: str
    department_id: str | None = None
    title: str | None = None
    his_refs: HisRefs = {}


class Sex(StrEnum):
    """Administrative sex, GB/T 2261.1 in words."""

    MALE = "male"
    FEMALE = "female"
    OTHER = "other"
    UNKNOWN = "unknown"


class Identifier(Record, frozen=True, kw_only=True):
    """One identifier of a person: `type` is a code of HL7 table 0203 (MR, NI, SS ...) or the site's own."""

    value: str
    type: str | None = None
    system: str | None = None


class Patient(Record, frozen=True, kw_only=True):
    """A person as hisbridge and the HIS know them. `mrn` is the HIS's patient id; None until the HIS has one."""

    name: str
    mrn: str | None = None
    id_type: str | None = None
    id_number: str | None = None
    phone: str | None = None
    birth_date: dt.date | None = None
    sex: Sex = Sex.UNKNOWN
    card_type: str | None = None
    card_number: str | None = None
    address: str | None = None
    guardian_name: str | None = None
    guardian_id_type: str | None = None
    guardian_id_number: str | None = None
    identifiers: tuple[Identifier, ...] = ()
    his_refs: HisRefs = {}


# --- what can be booked ------------------------------------------------------------------------------------------


class Session(StrEnum):
    """The part of the day a schedule covers."""

    AM = "am"
    PM = "pm"
    NIGHT = "night"
    ALL_DAY = "all_day"


class ScheduleStatus(StrEnum):
    """Whether the HIS offers a schedule or a slot at all. Selling out is not a status: it follows from the seats."""

    OPEN = "open"
    STOPPED = "stopped"


class Schedule(Record, frozen=True, kw_only=True):
    """A practitioner's (or, for 普通号, a department's) session on one day.

    The natural key is (`id`, `date`, `session`): some HIS reuse one schedule id for a whole session plan.
    `opens_at` is None when the HIS does not say and the hospital's release rule decides. `quota` is how many of its seats
    this channel may sell in all, sold ones included (TEL_LMT); None when only the slots limit it.
    """

    id: str
    date: dt.date
    session: Session
    department_id: str
    department_name: str | None = None
    practitioner_id: str | None = None
    practitioner_name: str | None = None
    clinic_type: str | None = None
    fee_fen: int | None = None
    status: ScheduleStatus = ScheduleStatus.OPEN
    opens_at: dt.datetime | None = None
    quota: int | None = None
    location: str | None = None
    his_refs: HisRefs = {}


class Slot(Record, frozen=True, kw_only=True, gc=False):
    """A bookable time segment of a schedule. `seats_left` is the HIS's own figure at the moment it answered.

    `practitioner_id`: who holds it, where the HIS says so of each segment; None says nothing, and it is the schedule's.
    There may be a hundred thousand at once, and none can be part of a cycle: the collector need not look at them.
    """

    id: str
    schedule_id: str
    date: dt.date
    session: Session
    starts_at: dt.datetime
    ends_at: dt.datetime
    seats_left: int
    status: ScheduleStatus = ScheduleStatus.OPEN
    practitioner_id: str | None = None
    practitioner_name: str | None = None
    his_refs: HisRefs = {}


# --- one booking -------------------------------------------------------------------------------------------------


class RegistrationStatus(StrEnum):
    """The HIS's word on one booking. `LOCKED` is a lock or an unpaid booking: taken, not paid."""

    PROPOSED = "proposed"
    WAITLISTED = "waitlisted"
    LOCKED = "locked"
    REGISTERED = "registered"
    CHECKED_IN = "checked_in"
    FULFILLED = "fulfilled"
    NO_SHOW = "no_show"
    RELEASED = "released"
    ENTERED_IN_ERROR = "entered_in_error"


class Registration(Record, frozen=True, kw_only=True):
    """The HIS's view of one booking.

    `order_no` is our own key where the HIS carries it (SCH-1, Appointment.identifier, DHC ExtOrderNo); `his_id` is the
    HIS's key. `sequence` orders events of one registration; None means that arrival order stands. `paid`: the HIS says
    that it has its fee, which "registered" alone does not say everywhere. `moved`: this word says that it was moved (改期), to
    `starts_at`.
    """

    status: RegistrationStatus
    order_no: str | None = None
    his_id: str | None = None
    mrn: str | None = None
    schedule_id: str | None = None
    slot_id: str | None = None
    department_id: str | None = None
    department_name: str | None = None
    practitioner_id: str | None = None
    practitioner_name: str | None = None
    starts_at: dt.datetime | None = None
    ends_at: dt.datetime | None = None
    queue_no: str | None = None
    encounter_no: str | None = None
    check_in_place: str | None = None
    check_in_until: dt.datetime | None = None
    fee_fen: int | None = None
    paid: bool | None = None
    moved: bool | None = None
    lock_expires_at: dt.datetime | None = None
    sequence: str | None = None
    his_refs: HisRefs = {}


# --- money -------------------------------------------------------------------------------------------------------


class Payment(Record, frozen=True, kw_only=True):
    """Money that a portal has taken. (`channel`, `trade_no`) names it for ever."""

    channel: str
    trade_no: str
    amount_fen: int
    paid_at: dt.datetime


class BillStatus(StrEnum):
    """Where an outpatient bill stands at the HIS."""

    OPEN = "open"
    PAID = "paid"
    CANCELLED = "cancelled"


class BillItem(Record, frozen=True, kw_only=True):
    """One line of a bill."""

    name: str
    amount_fen: int
    quantity: str | None = None
    unit: str | None = None
    code: str | None = None


class Bill(Record, frozen=True, kw_only=True):
    """An outpatient bill. `id` is the HIS's own number; `currency` is checked, never converted."""

    id: str
    amount_fen: int
    currency: str
    status: BillStatus = BillStatus.OPEN
    mrn: str | None = None
    title: str | None = None
    department_name: str | None = None
    issued_at: dt.datetime | None = None
    encounter_no: str | None = None
    items: tuple[BillItem, ...] = ()
    his_refs: HisRefs = {}


class Settlement(Record, frozen=True, kw_only=True):
    """The HIS's confirmation that a payment was booked there.

    `order_no`, `trade_no` and `amount_fen` say which payment that was, where the HIS tells: a bill may have been paid by
    another one. Of a presettlement (医保预结算) `amount_fen` is what the patient has to pay, `fund_fen` (统筹) and `account_fen`
    (个人账户) what the insurance does, None where the HIS does not tell.
    """

    bill_id: str | None = None
    receipt_no: str | None = None
    invoice_no: str | None = None
    order_no: str | None = None
    trade_no: str | None = None
    amount_fen: int | None = None
    fund_fen: int | None = None
    account_fen: int | None = None
    his_refs: HisRefs = {}


class Refund(Record, frozen=True, kw_only=True):
    """Money that goes back to a patient. `refund_no` is ours; `payment` is what it returns, in part or whole."""

    refund_no: str
    payment: Payment
    amount_fen: int
    reason: str
    his_refs: HisRefs = {}


class RefundStatus(StrEnum):
    """How far a refund is that we owe; the portal moves the money and reports."""

    DUE = "refund_due"
    REFUNDING = "refunding"
    REFUNDED = "refunded"
    UNKNOWN = "refund_unknown"
    FAILED = "refund_failed"


class RefundState(Record, frozen=True, kw_only=True):
    """What became of one refund. `refund_no` is ours, (`channel`, `trade_no`) the payment that it returns.

    `refund_trade_no` is the portal's number of the money that went back; `changed_at`: when we heard of it last.
    """

    refund_no: str
    status: RefundStatus
    amount_fen: int
    channel: str
    trade_no: str
    changed_at: dt.datetime
    refund_trade_no: str | None = None


class RefundQuestion(Record, frozen=True, kw_only=True):
    """A HIS asks what became of the refunds of one registration (`order_no`, else `his_id`) or one bill (`bill_id`).

    `trade_no`: only of this payment.
    """

    order_no: str | None = None
    his_id: str | None = None
    bill_id: str | None = None
    trade_no: str | None = None


class StatementKind(StrEnum):
    """A line of a daily statement is either money in or money back."""

    PAYMENT = "payment"
    REFUND = "refund"


class StatementLine(Record, frozen=True, kw_only=True):
    """One line of the HIS's daily statement (对账)."""

    kind: StatementKind
    amount_fen: int
    trade_no: str | None = None
    order_no: str | None = None
    channel: str | None = None
    at: dt.datetime | None = None
    his_refs: HisRefs = {}


# --- reports -----------------------------------------------------------------------------------------------------


class ReportKind(StrEnum):
    """检验 lab, 检查 exam."""

    LAB = "lab"
    EXAM = "exam"


class ReportStatus(StrEnum):
    """FHIR diagnostic-report-status, the part that patients are shown."""

    REGISTERED = "registered"
    PARTIAL = "partial"
    PRELIMINARY = "preliminary"
    FINAL = "final"
    AMENDED = "amended"
    CORRECTED = "corrected"
    CANCELLED = "cancelled"
    ENTERED_IN_ERROR = "entered_in_error"
    UNKNOWN = "unknown"


class Observation(Record, frozen=True, kw_only=True):
    """One result line. `flag` is a code of HL7 table 0078 (H, L, HH, LL, N, A ...)."""

    name: str
    code: str | None = None
    value: str | None = None
    unit: str | None = None
    reference_range: str | None = None
    flag: str | None = None
    status: ReportStatus = ReportStatus.UNKNOWN
    observed_at: dt.datetime | None = None
    note: str | None = None


class KeptDocument(Record, frozen=True, kw_only=True):
    """The bytes of a document that are kept apart: under which id, how many, and their SHA-256 as hexadecimal digits."""

    id: str
    size_bytes: int
    sha256: str


class Attachment(Record, frozen=True, kw_only=True):
    """A document that belongs to a report: bytes (`data`) or a place to fetch them from (`url`).

    `document` is ours, never a HIS's: where bytes that came with a message are kept since.
    """

    content_type: str
    title: str | None = None
    data: bytes | None = None
    url: str | None = None
    document: KeptDocument | None = None


class Report(Record, frozen=True, kw_only=True):
    """A lab or exam report. `id` is the HIS's own number (OBR-3, DiagnosticReport.identifier)."""

    id: str
    kind: ReportKind
    status: ReportStatus
    name: str | None = None
    mrn: str | None = None
    code: str | None = None
    issued_at: dt.datetime | None = None
    effective_at: dt.datetime | None = None
    conclusion: str | None = None
    interpreter: str | None = None
    observations: tuple[Observation, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    his_refs: HisRefs = {}


# --- inbound events ----------------------------------------------------------------------------------------------


class Event(Record, frozen=True, kw_only=True, tag_field="type"):
    """Something that a HIS told us unasked. `occurred_at` is the HIS's own time of the event, None if it gave none."""

    occurred_at: dt.datetime | None = None


class StopScope(StrEnum):
    """What a 停诊 hits: the whole schedule, one segment of it, or one order."""

    SCHEDULE = "schedule"
    SEGMENT = "segment"
    ORDER = "order"


class NewPlace(Record, frozen=True, kw_only=True):
    """Where a session, a segment or an order is instead: what is None stays as it was.

    Another schedule, day, session, start or slot is 改诊; only another practitioner (替诊) or `location` leaves it in its place.
    """

    schedule_id: str | None = None
    date: dt.date | None = None
    session: Session | None = None
    starts_at: dt.datetime | None = None
    slot_id: str | None = None
    practitioner_id: str | None = None
    practitioner_name: str | None = None
    location: str | None = None


class ScheduleStopped(Event, frozen=True, kw_only=True, tag="schedule_stopped"):
    """停诊, or with `moved_to` 改诊 and 替诊: it does not take place as it was planned.

    `orders_cancelled` says that the HIS has already cancelled the orders itself. `moved_to` says where they are instead: the HIS
    has moved them itself. One that names nothing is none.
    A stop of a segment hits the one that begins at `starts_at`, with an `ends_at` all that begin from then until before it: half
    a session, or the hours of the whole one.
    """

    scope: StopScope
    schedule_id: str | None = None
    date: dt.date | None = None
    session: Session | None = None
    starts_at: dt.datetime | None = None
    ends_at: dt.datetime | None = None
    order_no: str | None = None
    reason: str | None = None
    orders_cancelled: bool = False
    moved_to: NewPlace | None = None

    def __post_init__(self) -> None:
        if self.moved_to == NewPlace():
            msgspec.structs.force_setattr(self, "moved_to", None)

    def hits_start(self, starts_at: dt.datetime) -> bool:
        """Whether a segment that begins then is one that a stop of segments names."""
        if self.starts_at is None:
            return False
        return starts_at == self.starts_at or (self.ends_at is not None and self.starts_at < starts_at < self.ends_at)


class ScheduleChanged(Event, frozen=True, kw_only=True, tag="schedule_changed"):
    """A schedule was opened again or altered; `schedule_id` None asks for a fetch of everything."""

    schedule_id: str | None = None


class RegistrationChanged(Event, frozen=True, kw_only=True, tag="registration_changed"):
    """The HIS's view of one booking, or of one it made itself, has changed."""

    registration: Registration


class PatientChanged(Event, frozen=True, kw_only=True, tag="patient_changed"):
    """A person was registered or their details changed at the HIS."""

    patient: Patient


class PatientMerged(Event, frozen=True, kw_only=True, tag="patient_merged"):
    """The HIS found that two records are one person: `retired_mrn` now means `surviving_mrn`."""

    surviving_mrn: str
    retired_mrn: str


class PatientUnlinked(Event, frozen=True, kw_only=True, tag="patient_unlinked"):
    """The HIS takes a merge back: this number is a patient of its own again. One for each number that the message names."""

    mrn: str


class ReportIssued(Event, frozen=True, kw_only=True, tag="report_issued"):
    """A report appeared or changed."""

    report: Report


class BillIssued(Event, frozen=True, kw_only=True, tag="bill_issued"):
    """A bill appeared or changed."""

    bill: Bill


class RefundAsked(Event, frozen=True, kw_only=True, tag="refund_asked"):
    """The HIS has taken back money that it had booked, and the portal is to return it; nothing else changes by it.

    It is that of one registration (`order_no`, else `his_id`) or one bill (`bill_id`). `amount_fen` None: all of it.
    `his_refund_no` is the HIS's own number of this refund, by which a second call is the same one: a part must have it.
    """

    order_no: str | None = None
    his_id: str | None = None
    bill_id: str | None = None
    mrn: str | None = None
    trade_no: str | None = None
    amount_fen: int | None = None
    his_refund_no: str | None = None


class DepartmentChanged(Event, frozen=True, kw_only=True, tag="department_changed"):
    """Master data: a department was added or altered."""

    department: Department


class PractitionerChanged(Event, frozen=True, kw_only=True, tag="practitioner_changed"):
    """Master data: a practitioner was added or altered."""

    practitioner: Practitioner


AnyEvent = (
    ScheduleStopped
    | ScheduleChanged
    | RegistrationChanged
    | PatientChanged
    | PatientMerged
    | PatientUnlinked
    | ReportIssued
    | BillIssued
    | RefundAsked
    | DepartmentChanged
    | PractitionerChanged
)
