"""What the API sends and takes: the Structs from which requests are decoded and the OpenAPI document is made.

Additive by contract: clients ignore fields and values that they do not know. Money is `_fen`, instants RFC 3339 with an
offset, dates ISO 8601.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mappings.canonical import Sex

# No control characters: they mean something else in every protocol behind us.
PLAIN = "^[^\\x00-\\x1f\\x7f]+$(?!\\n)"
Text = Annotated[str, Meta(min_length=1, max_length=200, pattern=PLAIN)]
Id = Annotated[str, Meta(min_length=1, max_length=64)]
Instant = Annotated[dt.datetime, Meta(tz=True)]
Fen = Annotated[int, Meta(ge=1, le=100_000_000)]
LARGEST = 9_007_199_254_740_991  # what JSON carries exactly everywhere (RFC 8259 section 6)
FIRST_YEAR, LAST_YEAR = 1900, 9000  # outside of these a date cannot be turned into every zone's instant


def check_years(*dates: dt.date | None) -> None:
    """Raises ValueError for a date that no calendar of ours reaches; msgspec makes a field's error of it."""
    if any(date is not None and not FIRST_YEAR <= date.year <= LAST_YEAR for date in dates):
        raise ValueError(f"expected years from {FIRST_YEAR} to {LAST_YEAR}")


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A response."""


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request body."""


class Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query string."""


# --- what can be booked --------------------------------------------------------------------------------------------


class CampusView(View, frozen=True):
    """One site of a hospital."""

    id: str
    name: str
    address: str | None = None


class HospitalView(View, frozen=True):
    """A hospital. `capabilities` says for every verb whether it is native, pushed or off; `his_status` up, degraded, down."""

    id: str
    name: str
    campuses: tuple[CampusView, ...]
    time_zone: str
    currency: str
    mode: str
    capabilities: dict[str, str]
    his_status: str


class HospitalList(View, frozen=True):
    """The hospitals that this key may use."""

    items: list[HospitalView]
    next: str | None = None


class DepartmentView(View, frozen=True):
    """A clinic."""

    id: str
    name: str
    parent_id: str | None = None
    campus: str | None = None


class DepartmentList(View, frozen=True):
    """Departments by id."""

    items: list[DepartmentView]
    next: str | None = None


class PractitionerQuery(Query, frozen=True):
    """Which practitioners."""

    department_id: str | None = None


class PractitionerView(View, frozen=True):
    """A doctor; `title` in the hospital's wording."""

    id: str
    name: str
    department_id: str | None = None
    title: str | None = None


class PractitionerList(View, frozen=True):
    """Practitioners by id."""

    items: list[PractitionerView]
    next: str | None = None


class SlotQuery(Query, frozen=True):
    """Which slots: days from `from` to `to`, both included (default: today and the hospital's horizon)."""

    from_: dt.date | None = msgspec.field(default=None, name="from")
    to: dt.date | None = None
    department_id: str | None = None
    practitioner_id: str | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 200
    cursor: str | None = None

    def __post_init__(self) -> None:
        check_years(self.from_, self.to)


class SlotView(View, frozen=True):
    """A bookable time segment. `status`: open, not_released, sold_out, stopped; `fee_fen` None: the hospital did not say."""

    id: str
    schedule_id: str
    department_id: str
    department_name: str | None
    practitioner_id: str | None
    practitioner_name: str | None
    starts_at: dt.datetime
    ends_at: dt.datetime
    session: str
    clinic_type: str | None
    fee_fen: int | None
    remaining: int
    status: str
    opens_at: dt.datetime | None


class SlotList(View, frozen=True):
    """Slots by start."""

    items: list[SlotView]
    next: str | None = None


# --- patients ------------------------------------------------------------------------------------------------------


class Card(Body, frozen=True):
    """A hospital or insurance card. `type` is `mrn` (the hospital's own patient number), `health_card`, `insurance_card`,
    `visit_card`, `e_health_code`, or the hospital's own code of at most 4 letters and digits."""

    type: Text
    number: Text


class Guardian(Body, frozen=True):
    """Who answers for a child: an adult, with a document as of `NewPatient`."""

    name: Text
    id_number: Text
    id_type: Text = "id_card"


class NewPatient(Body, frozen=True):
    """A patient of the portal's user `user_ref`. `id_type` is one of `id_card` (18 digits, GB 11643), `household_register`,
    `passport`, `military_id`, `hk_macau_permit`, `taiwan_permit`, `hmt_residence_permit`, `foreigner_permanent_id`,
    `birth_certificate`, `other`; common other names of these are understood. A child without a document leaves `id_type` and
    `id_number` out, and gives `birth_date` and `guardian`."""

    user_ref: Text
    name: Text
    phone: Annotated[str, Meta(min_length=3, max_length=30, pattern=PLAIN)]
    id_type: Text | None = None
    id_number: Annotated[str, Meta(min_length=1, max_length=40, pattern=PLAIN)] | None = None
    birth_date: dt.date | None = None
    sex: Sex | None = None
    card: Card | None = None
    guardian: Guardian | None = None


class PatientView(View, frozen=True):
    """A patient, masked. `his_state`: pending (being looked up at the hospital), linked, rejected (see `reject_code`).

    `reject_code`: `patient_mismatch` (the hospital knows name and number otherwise), `patient_ambiguous` (it has several records:
    the window must merge them), `patient_unknown` (the window must make one), or a code of the refusal.
    """

    id: str
    user_ref: str
    name: str
    id_type: str | None
    id_number: str | None
    phone: str | None
    his_state: str
    reject_code: str | None = None


# --- bookings ------------------------------------------------------------------------------------------------------


class NewBooking(Body, frozen=True):
    """Hold a seat. `fee_fen` is the price that the patient saw: another one now is refused with `price_changed`."""

    user_ref: Text
    slot_id: Id
    patient_id: Id
    fee_fen: Annotated[int, Meta(ge=0)] | None = None


class WaitingRoomView(View, frozen=True):
    """A hospital's waiting room: `closed`, `gathering` (before `opens_at`: join, the order is drawn) or `open`.

    `opened_by` is `release` or `load`; `closed_because` is `calm`, `sold_out` or `over`, of the last one while it is closed.
    """

    state: str
    opens_at: Instant | None
    opened_by: str | None
    waiting: int
    closed_because: str | None
    poll_after_s: float


class JoinWaitingRoom(Body, frozen=True):
    """Who wants to wait."""

    user_ref: Text
    patient_id: Id


class WaitView(View, frozen=True):
    """As quick and as slow as people were let in of late. `to_s` null: of late nobody was."""

    from_s: int
    to_s: int | None


class TicketView(View, frozen=True):
    """A place in the waiting room: `gathering`, `waiting`, `admitted` (hold before `admitted_until`), `expired`, or `closed` (no
    ticket is needed any more; `closed_because` says why).

    `position` people stand before it; null before the release. `estimated_wait_s` is null while nothing is measured.
    """

    ticket: str
    patient_id: str
    state: str
    opens_at: Instant | None
    position: int | None
    estimated_wait_s: WaitView | None
    poll_after_s: float
    admitted_until: Instant | None
    closed_because: str | None


class PaymentView(View, frozen=True):
    """Money reported for a booking or a bill. `unusable` says why it goes back, None when it pays."""

    channel: str
    trade_no: str
    amount_fen: int
    paid_at: dt.datetime
    settlement: str
    unusable: str | None = None


class RefundView(View, frozen=True):
    """A refund: the portal moves the money and reports back. `status` from refund_due to refunded.

    `his` says whether the hospital has been told that it went back: none (nothing to tell, or no way), pending, unknown, told,
    rejected.
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
    updated_at: dt.datetime | None = None


class VisitView(View, frozen=True):
    """Where and with whom a booking is now, after every move (改诊) and substitution (替诊)."""

    starts_at: dt.datetime
    ends_at: dt.datetime
    department_id: str
    department_name: str | None
    practitioner_id: str | None
    practitioner_name: str | None
    location: str | None


class BookingView(View, frozen=True):
    """A booking. `state` is what the patient may be told, `his_state` what the hospital has confirmed.

    `payable` says whether money makes sense now, until `pay_by`. `order_no` is what the hospital sees. `moved_at`: when the
    hospital last moved it, or gave it another practitioner. `visit` comes with `GET .../bookings/{booking_id}`.
    """

    id: str
    order_no: str
    version: int
    state: str
    his_state: str
    his_command: str
    his_command_status: str
    payment_state: str
    fee_fen: int
    payable: bool
    slot_id: str
    schedule_id: str
    patient_id: str
    user_ref: str
    created_at: dt.datetime
    updated_at: dt.datetime
    expires_at: dt.datetime | None = None
    pay_by: dt.datetime | None = None
    reason: str | None = None
    needs_attention: bool = False
    queue_no: str | None = None
    encounter_no: str | None = None
    check_in_place: str | None = None
    check_in_until: dt.datetime | None = None
    moved_at: dt.datetime | None = None
    visit: VisitView | None = None
    payments: list[PaymentView] = []
    refunds: list[RefundView] = []


class BookingQuery(Query, frozen=True):
    """Which bookings."""

    patient_id: str | None = None
    user_ref: str | None = None
    state: str | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: str | None = None


class BookingList(View, frozen=True):
    """Bookings, newest first, without payments and refunds."""

    items: list[BookingView]
    next: str | None = None


class WaitQuery(Query, frozen=True):
    """Wait up to `wait_s` seconds for a version above `since_version` (default: for the next change)."""

    wait_s: Annotated[float, Meta(ge=0, le=60)] = 0
    since_version: Annotated[int, Meta(ge=0)] | None = None


class NewPayment(Body, frozen=True):
    """Money that the portal has taken. (`channel`, `trade_no`) names it for ever, so that a repeat is harmless."""

    channel: Annotated[str, Meta(min_length=1, max_length=32)]
    trade_no: Annotated[str, Meta(min_length=1, max_length=128)]
    amount_fen: Fen
    paid_at: Instant

    def __post_init__(self) -> None:
        check_years(self.paid_at)


class Cancel(Body, frozen=True):
    """Why the patient cancels."""

    reason: Text


# --- bills and refunds ---------------------------------------------------------------------------------------------


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


class NewRefund(Body, frozen=True):
    """Some of what pays for a booking or a bill is to go back, at most all that is left of it."""

    amount_fen: Fen
    reason: Text


class RefundResult(Body, frozen=True):
    """How the portal's refund ended. `unknown` is for a time-out: it is never treated as failed."""

    status: Annotated[str, Meta(pattern="^(refunding|refunded|unknown|failed)$")]
    refund_trade_no: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


# --- registrations and reports -------------------------------------------------------------------------------------


class RegistrationView(View, frozen=True):
    """A visit as the hospital tells it, also one that was not booked here."""

    id: str
    status: str
    booking_id: str | None
    his_id: str | None
    starts_at: dt.datetime | None
    ends_at: dt.datetime | None
    department_name: str | None
    practitioner_name: str | None


class RegistrationList(View, frozen=True):
    """A patient's registrations, latest start first."""

    items: list[RegistrationView]
    next: str | None = None


class ObservationView(View, frozen=True):
    """One result. `flag` of HL7 table 0078: H, L, HH, LL, N, A ...; `note`: what the laboratory remarks on this value."""

    name: str
    code: str | None
    value: str | None
    unit: str | None
    reference_range: str | None
    flag: str | None
    status: str
    note: str | None = None


class AttachmentView(View, frozen=True):
    """A document of a report; fetch it under its number."""

    n: int
    content_type: str
    title: str | None


class ReportView(View, frozen=True):
    """A report. `version` grows with each correction."""

    id: str
    kind: str
    status: str
    version: int
    name: str | None
    issued_at: dt.datetime | None
    effective_at: dt.datetime | None
    conclusion: str | None = None
    observations: list[ObservationView] = []
    attachments: list[AttachmentView] = []


class ReportVersion(View, frozen=True):
    """What a report said at one time. `told_at` is when the hospital told it, by its own time or else by ours."""

    version: int
    status: str
    told_at: dt.datetime
    issued_at: dt.datetime | None
    conclusion: str | None
    observations: list[ObservationView]


class ReportHistory(View, frozen=True):
    """A report as it is and as it was, newest first."""

    items: list[ReportVersion]


class ReportList(View, frozen=True):
    """A patient's reports, newest first, without results."""

    items: list[ReportView]
    as_of: str
    next: str | None = None


# --- money of a day ------------------------------------------------------------------------------------------------


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
    status (a refund that is not done on one side), timing (it went over midnight).
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


# --- news ----------------------------------------------------------------------------------------------------------


class EventQuery(Query, frozen=True):
    """Events after the cursor `after` (0: from the oldest kept)."""

    after: Annotated[int, Meta(ge=0, le=LARGEST)] = 0
    limit: Annotated[int, Meta(ge=1, le=500)] = 100


class EventView(View, frozen=True):
    """One change. `data` holds ids and states; read the thing itself for the rest."""

    seq: int
    id: str
    type: str
    hospital_id: str
    at: dt.datetime
    data: dict[str, Any]


class EventList(View, frozen=True):
    """Events in order; go on with `next`."""

    items: list[EventView]
    next: int


class NewWebhook(Body, frozen=True):
    """Where to send events. Only events after this moment are sent."""

    url: Annotated[str, Meta(min_length=8, max_length=500, pattern="^https?://")]


class ResumedWebhook(Body, frozen=True):
    """Where a webhook goes on: with the event beyond `after`, by itself with the one that it could not deliver."""

    after: Annotated[int, Meta(ge=0, le=9_000_000_000_000_000)] | None = None


class WebhookView(View, frozen=True):
    """A webhook. `secret` (`whsec_...`, Standard Webhooks) is shown once, here."""

    id: str
    url: str
    secret: str
    status: str


class WebhookSummary(View, frozen=True):
    """A webhook, without its secret. `failures`: how often its next event has been tried in vain, `failing_since` when first.

    After 24 hours of that its `status` is `disabled`, no more `active`.
    """

    id: str
    url: str
    status: str
    failures: int
    failing_since: dt.datetime | None = None


class WebhookList(View, frozen=True):
    """The webhooks of this key's client."""

    items: list[WebhookSummary]
    next: str | None = None
