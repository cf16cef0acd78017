"""The connector port: everything that hisbridge can ask of a HIS, whatever protocol carries it.

Reads return canonical records or raise `HisError`. Writes never raise for what the HIS or the network did: they return
one of three outcomes, because a write whose reply never came has neither succeeded nor failed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import msgspec

from mappings.canonical import (
    AnyEvent,
    Attachment,
    Bill,
    Department,
    HisRefs,
    Patient,
    Payment,
    Practitioner,
    Record,
    Refund,
    RefundQuestion,
    RefundState,
    Registration,
    Report,
    Schedule,
    ScheduleStopped,
    Settlement,
    Slot,
    StatementLine,
)

# --- verbs and what a connector can do ----------------------------------------------------------------------------


class Verb(StrEnum):
    """The verbs of the port. Reads first, then writes."""

    PING = "ping"
    FETCH_DEPARTMENTS = "fetch_departments"
    FETCH_PRACTITIONERS = "fetch_practitioners"
    FETCH_SCHEDULES = "fetch_schedules"
    FETCH_SLOTS = "fetch_slots"
    FETCH_STOPS = "fetch_stops"
    FIND_PATIENT = "find_patient"
    FETCH_REGISTRATION = "fetch_registration"
    FETCH_BILLS = "fetch_bills"
    FETCH_SETTLEMENT = "fetch_settlement"
    FETCH_REFUND = "fetch_refund"
    FETCH_REPORTS = "fetch_reports"
    FETCH_REPORT = "fetch_report"
    FETCH_ATTACHMENT = "fetch_attachment"
    FETCH_STATEMENT = "fetch_statement"
    CREATE_PATIENT = "create_patient"
    LOCK_SLOT = "lock_slot"
    UNLOCK_SLOT = "unlock_slot"
    BOOK = "book"
    REGISTER = "register"
    CANCEL_REGISTRATION = "cancel_registration"
    CHECK_IN = "check_in"
    PRESETTLE_BILL = "presettle_bill"
    SETTLE_BILL = "settle_bill"
    REFUND = "refund"


class Capability(StrEnum):
    """How a connector offers a verb: asked for, told unasked, or not at all."""

    NATIVE = "native"
    PUSHED = "pushed"
    OFF = "off"


class QueryBack(StrEnum):
    """How the outcome of a write can be looked up again: by our key, in the patient's list, or not at all."""

    KEY = "key"
    PATIENT_LIST = "patient_list"
    NONE = "none"


class IdempotencyKey(StrEnum):
    """What makes the HIS recognise a repeat: our own key, patient + slot, or nothing."""

    CLIENT = "client"
    NATURAL = "natural"
    NONE = "none"


class VerbTraits(msgspec.Struct, frozen=True, kw_only=True):
    """What a profile declares about one verb."""

    capability: Capability = Capability.OFF
    query_back: QueryBack = QueryBack.NONE
    key: IdempotencyKey = IdempotencyKey.NONE
    timeout_s: float = 10.0


# --- requests -----------------------------------------------------------------------------------------------------


class Window(Record, frozen=True, kw_only=True):
    """The days to fetch, both ends included; `department_id` None means all."""

    date_from: dt.date
    date_to: dt.date
    department_id: str | None = None


class Order(Record, frozen=True, kw_only=True):
    """One booking as a HIS command needs it.

    `order_no` is the key that the HIS sees (20 digits); it never changes over the life of a booking. `his_refs` are
    those of the booking itself: what earlier replies kept. `payment` is set for `register` and afterwards.
    """

    order_no: str
    schedule: Schedule
    slot: Slot
    patient: Patient
    fee_fen: int
    payment: Payment | None = None
    refund: Refund | None = None
    reason: str | None = None
    his_refs: HisRefs = {}


class BillPayment(Record, frozen=True, kw_only=True):
    """Settle one bill with money already taken. `order_no` is the key that the HIS sees.

    `other_bills`: where the trade number has paid for several (合并支付), the HIS's numbers of the others; `payment` has the
    amount of this one.
    """

    order_no: str
    bill: Bill
    patient: Patient
    payment: Payment
    his_refs: HisRefs = {}
    other_bills: tuple[str, ...] = ()


class RefundOrder(Record, frozen=True, kw_only=True):
    """Tell the HIS of a refund of a registration or a bill."""

    refund: Refund
    patient: Patient
    order: Order | None = None
    bill: Bill | None = None


# --- the three outcomes of a write --------------------------------------------------------------------------------

# What a refusal means, in the vocabulary of the booking rules. A profile's code table maps the HIS's own codes to these;
# a code that is in no table arrives as `refused` with the HIS's code in the text.
REJECT_CODES = frozenset(
    {
        "full",  # no seat left
        "taken",  # this very seat went to somebody else; of a bill: another payment than ours has settled it
        "already_exists",  # the HIS has done this before under the same key: ask what it has
        "already_done",  # a cancel, unlock or refund of something that is already undone
        "not_found",  # the HIS does not know what we speak of
        "not_open_yet",  # the HIS has not released the schedule
        "stopped",  # the schedule is stopped
        "too_late",  # past the HIS's own cutoff
        "limit_reached",  # the HIS's own limit for this patient
        "patient_unknown",  # no such patient at the HIS
        "patient_ambiguous",  # several records fit
        "several",  # the HIS has more than one thing under our key: which one stands is for a person to say
        "patient_mismatch",  # name and number differ
        "price_changed",  # the fee differs from the HIS's
        "charset",  # a character cannot be carried in the peer's character set
        "busy",  # the HIS asks to try again later
        "not_sent",  # nothing left our machine: no connection, no free place, breaker open
        "not_offered",  # the verb is off here
        "invalid_request",  # the HIS could not read or accept the request
        "refused",  # anything else
    }
)


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The HIS has done it. `his_refs` are merged into the booking's; `record` is what it told besides."""

    his_refs: HisRefs = {}
    record: Registration | Patient | Settlement | None = None


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """The HIS has certainly not done it. `code` is one of REJECT_CODES; `text` is the HIS's own, without patient data.

    `retry_after_s`: where it is retryable, how long the HIS wants to be left alone.
    """

    code: str
    text: str = ""
    retryable: bool = False
    retry_after_s: float | None = None


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """It may or may not have been done: bytes left, and no usable reply came."""

    reason: str


Outcome = Accepted | Rejected | Unknown


# --- errors of reads ----------------------------------------------------------------------------------------------
#
#   HisError
#   |-- HisUnavailable    no connection, time-out, breaker open: try again later
#   |-- HisRefused        the HIS answered with a refusal of its own
#   |-- HisReplyInvalid   the HIS answered something that cannot be read or mapped
#   `-- NotOffered        the verb is off at this hospital


class HisError(Exception):
    """A read from a HIS failed. `hospital_id` and `verb` say where; the text holds nothing of the patient who was asked for.

    `said` is what of the text the HIS said in words of its own: others may be named in it.
    """

    def __init__(self, text: str, *, hospital_id: str = "", verb: str = "", said: str = "") -> None:
        super().__init__(text)
        self.hospital_id = hospital_id
        self.verb = verb
        self.said = said


class HisUnavailable(HisError):
    """The HIS could not be reached or did not answer in time."""


class HisRefused(HisError):
    """The HIS answered with a business refusal; `code` is one of REJECT_CODES."""

    def __init__(
        self, text: str, *, code: str = "refused", hospital_id: str = "", verb: str = "", said: str = ""
    ) -> None:
        super().__init__(text, hospital_id=hospital_id, verb=verb, said=said)
        self.code = code


class HisReplyInvalid(HisError):
    """The HIS answered with something that cannot be read or mapped."""


class NotOffered(HisError):
    """The hospital's HIS has no honest way to do this."""


class CannotServe(ValueError):
    """What a connector is to listen with is no good; the text says what, and holds no secret. Raised by `serve`."""


# --- what a HIS tells us ------------------------------------------------------------------------------------------


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Where a message stands in its sender's own numbering, for connectors that check it (HL7 v2.5.1 ch. 2.10.1, MSH-13).

    `key` names the numbering among all of a hospital. `number`: positive, one more than that of the message before; 0 asks
    where we stand; -1 says that whatever comes next begins anew. `alone`: the message is not taken, only its number passes.
    """

    key: str
    number: int
    alone: bool = False


class Inbound(msgspec.Struct, frozen=True, kw_only=True):
    """One message that a HIS sent us, read and mapped but not yet applied.

    `dedup_key` names the message among all of the peer's (for HL7 v2: MSH-3/4/10 and a digest without MSH-7/8/13);
    `control_id` alone is what the peer calls it. `problem` is set, and `events` empty, where it could not be mapped: the
    handler then stores it for a person and answers `Stored`, because a negative answer would block the peer's queue. `mrn` and
    `order_no` then say whom it speaks of, where that can be seen, so that it is found by them. `same_id_key` is what
    `dedup_key` is without the content: another message of the same is told by the answer, and set aside where `same_id_apart`
    says so. `series`: its number is checked, and kept, in the commit that stores it.
    """

    hospital_id: str
    connector: str
    peer: str
    message_type: str
    control_id: str
    dedup_key: str
    raw: bytes
    events: tuple[AnyEvent, ...] = ()
    problem: str | None = None
    mrn: str | None = None
    order_no: str | None = None
    same_id_key: str | None = None
    same_id_apart: bool = False
    series: Series | None = None


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """On the disk, to be applied in the order of arrival; or stored before (`duplicate`); or set aside for a person at once
    (`quarantined`: it could not be mapped, or is a repeat of one that was set aside).

    `same_id`: another message had its `same_id_key`. `expected`: what to tell the sender of its numbering, where it has one.
    """

    duplicate: bool = False
    quarantined: bool = False
    same_id: bool = False
    expected: int | None = None


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Not stored. `retryable` says whether the peer should send it again (store down) or not (bad message).

    `out_of_series`: its number is not the one that is `expected`.
    """

    code: str
    text: str
    retryable: bool
    out_of_series: bool = False
    expected: int | None = None


InboundAnswer = Stored | Refused
InboundHandler = Callable[[Inbound], Awaitable[InboundAnswer]]
InboundsHandler = Callable[[Sequence[Inbound]], Awaitable[Sequence[InboundAnswer]]]
"""Takes messages that came together, as `InboundHandler` would one after the other, and quicker. Its answers are theirs, in their
order, and end with the first that is retryable: nothing behind that one is stored."""

QuestionHandler = Callable[[RefundQuestion], Awaitable[Sequence[RefundState] | Refused]]
"""Answers what a HIS asks of us, from what is committed; nothing where there is none. Refused, retryable: the store is away."""


# --- what passed, for whoever looks for it later ------------------------------------------------------------------


class Direction(StrEnum):
    """Who spoke first."""

    IN = "in"
    OUT = "out"


class Passed(StrEnum):
    """How an exchange ended."""

    DONE = "done"  # answered, positively
    FAILED = "failed"  # certainly not done: nothing left our machine, or the HIS refused
    UNKNOWN = "unknown"  # bytes left, and no usable answer came
    REFUSED = "refused"  # a message of the HIS that was not taken, or an answer to nothing that waited
    DUPLICATE = "duplicate"  # a message of the HIS that is stored already


class Exchanged(msgspec.Struct, frozen=True, kw_only=True):
    """One message and what was answered to it, for the message store; handed on after the answer or the failure.

    `request` and `answer` are the bytes of the wire without their frame. `answer_code` is the protocol's own word for how it was
    taken (MSA-1, an HTTP status). `verb` is that of the port, None for what the HIS began. `order_no` and `mrn` name the booking
    and the patient, where the message does. `error` holds no patient data. `began` and `ended` are seconds since the epoch.
    """

    connector: str
    peer: str
    direction: Direction
    state: Passed
    message_type: str
    control_id: str
    request: bytes
    began: float
    ended: float
    verb: str | None = None
    answer: bytes | None = None
    answer_code: str | None = None
    order_no: str | None = None
    mrn: str | None = None
    error: str | None = None


class Acknowledged(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered to a message that the handler has stored: `dedup_key` is that of its `Inbound`."""

    connector: str
    dedup_key: str
    answer_code: str


Recorder = Callable[[Exchanged | Acknowledged], None]
"""Takes a record and returns at once; never raises. What it cannot keep it counts."""


@runtime_checkable
class Recording(Protocol):
    """A connector that can tell what passes on its wire."""

    def record_exchanges(self, recorder: Recorder) -> None:
        """Hand every exchange to `recorder` from now on. Called before `start`."""
        ...


@runtime_checkable
class HandsOnTogether(Protocol):
    """A connector to which several messages come in one piece."""

    def hand_on_together(self, handler: InboundsHandler) -> None:
        """Hand those on to `handler`, and not one by one to that of `serve`. Called before `serve`."""
        ...


@runtime_checkable
class TakesQuestions(Protocol):
    """A connector whose HIS may ask us something."""

    def take_questions(self, handler: QuestionHandler) -> None:
        """Ask `handler` from now on. Called before `serve`."""
        ...


@runtime_checkable
class FetchesChanges(Protocol):
    """A connector that asks its HIS what has changed, where it is not told, or not of everything."""

    @property
    def changes_every_s(self) -> float:
        """How often it wants to be asked for `fetch_changes`; 0 never."""
        ...

    @property
    def tells_registrations(self) -> bool:
        """Whether registrations are among what it asks for: then nobody needs to ask for them one by one."""
        ...

    async def fetch_changes(self) -> int:
        """Ask, and hand to the handler of `serve` what has changed since the last time; how many changes. Raises HisError."""
        ...


Gate = Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Makes a call when there is a place for it, and counts it under a name. Raises HisError, also where there is none in time."""


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What can be booked in a window, as one reading of the HIS shows it."""

    schedules: Sequence[Schedule]
    slots: Sequence[Slot]
    stops: Sequence[ScheduleStopped]


@runtime_checkable
class FetchesInventory(Protocol):
    """A connector whose HIS tells schedules, slots and stops in one: asked one by one it would tell the same thrice."""

    async def fetch_inventory(self, window: Window) -> Inventory:
        """What `fetch_schedules`, `fetch_slots` of all schedules and `fetch_stops` give together. Raises HisError."""
        ...


@runtime_checkable
class AsksByItself(Protocol):
    """A connector that asks its HIS something that nobody has called it for: what it was told of, for one."""

    def ask_through(self, gate: Gate) -> None:
        """Make such calls through `gate` from now on. Called before `serve`."""
        ...


@runtime_checkable
class ReadsAgain(Protocol):
    """A connector that can read and map a message anew that it once handed to its handler."""

    def read_again(self, raw: bytes, peer: str) -> Inbound | Refused:
        """The message as the present profile maps it; Refused where it would not be taken at all. Opens nothing."""
        ...


@runtime_checkable
class ChecksListener(Protocol):
    """A connector that listens with files of the settings: certificates, keys, authorities."""

    def check_listener(self) -> None:
        """Read them, and open nothing. Raises CannotServe."""
        ...


# --- the port -----------------------------------------------------------------------------------------------------


class Connector(Protocol):
    """One connection to one HIS of one hospital.

    Every method may be called concurrently. A read raises `HisError`; a write returns an `Outcome` and raises only
    `asyncio.CancelledError`. After `CancelledError` in a write the outcome is unknown to the caller, who must treat it so.
    Timeouts are the connector's own, per verb, from its profile.
    """

    hospital_id: str
    name: str

    def traits(self, verb: Verb) -> VerbTraits:
        """What this connector can do for `verb`."""
        ...

    async def start(self) -> None:
        """Open what must be open before the first call. Must not fail because the HIS is down."""
        ...

    async def close(self) -> None:
        """Finish what is in flight and close every socket. Idempotent."""
        ...

    async def serve(self, handler: InboundHandler) -> None:
        """Begin to accept what the HIS sends unasked; returns at once. A no-op for connectors that are only clients.

        Each message is acknowledged only after `handler` has returned, which it does after our commit. Raises OSError when the
        port is taken, CannotServe.
        """
        ...

    # reads
    async def ping(self) -> None: ...
    async def fetch_departments(self) -> Sequence[Department]: ...
    async def fetch_practitioners(self) -> Sequence[Practitioner]: ...
    async def fetch_schedules(self, window: Window) -> Sequence[Schedule]: ...
    async def fetch_slots(self, window: Window, schedules: Sequence[Schedule]) -> Sequence[Slot]: ...
    async def fetch_stops(self, window: Window) -> Sequence[ScheduleStopped]: ...
    async def find_patient(self, patient: Patient) -> Sequence[Patient]: ...
    async def fetch_registration(self, order: Order) -> Registration | None: ...
    async def fetch_bills(self, patient: Patient) -> Sequence[Bill]: ...
    async def fetch_settlement(self, payment: BillPayment) -> Settlement | None:
        """The settlement by this very payment; None while the bill is not settled.

        Raises HisRefused `taken` where another payment has settled the bill, so that ours must go back (believe it, like
        an absence, only on two looks: an index may lag), HisRefused `price_changed` where the HIS has booked another amount
        under our number, HisReplyInvalid where it says that the bill is settled and not by whom.
        """
        ...

    async def fetch_refund(self, refund: RefundOrder) -> Settlement | None: ...
    async def fetch_reports(self, patient: Patient) -> Sequence[Report]: ...
    async def fetch_report(self, patient: Patient, report_id: str) -> Report | None: ...
    async def fetch_attachment(self, attachment: Attachment) -> Attachment: ...
    async def fetch_statement(self, date: dt.date) -> Sequence[StatementLine]: ...

    # writes
    async def create_patient(self, patient: Patient) -> Outcome: ...
    async def lock_slot(self, order: Order) -> Outcome: ...
    async def unlock_slot(self, order: Order) -> Outcome: ...
    async def book(self, order: Order) -> Outcome: ...
    async def register(self, order: Order) -> Outcome: ...
    async def cancel_registration(self, order: Order) -> Outcome: ...
    async def check_in(self, order: Order) -> Outcome: ...
    async def presettle_bill(self, payment: BillPayment) -> Outcome: ...
    async def settle_bill(self, payment: BillPayment) -> Outcome: ...
    async def refund(self, refund: RefundOrder) -> Outcome: ...
