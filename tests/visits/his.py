"""A small HIS with a truth of its own, and a fault for every call.

It knows seats, registrations, bills and refunds by its own rules, and shares no code with what is tested. What happens to the
next calls is said by `faults`, one for each; a call for which there is none is answered as it should be.
"""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from connectors.port import (
    Accepted,
    BillPayment,
    Capability,
    HisRefused,
    HisReplyInvalid,
    HisUnavailable,
    InboundHandler,
    Order,
    Outcome,
    QueryBack,
    RefundOrder,
    Rejected,
    Unknown,
    Verb,
    VerbTraits,
    Window,
)
from mappings.canonical import (
    AnyEvent,
    Attachment,
    Bill,
    BillIssued,
    BillStatus,
    Department,
    Observation,
    Patient,
    PatientMerged,
    Practitioner,
    Registration,
    RegistrationStatus,
    Report,
    ReportIssued,
    ReportKind,
    ReportStatus,
    Schedule,
    ScheduleStatus,
    ScheduleStopped,
    Settlement,
    Slot,
    StatementLine,
)
from tests.stores import Wall
from tests.visits.life import Life
from tests.visits.reached import REACHED

LATE_S = 20.0  # a slow HIS does it so long after the caller has given up; below `his_settle_s`
RELEASED, LOCKED, REGISTERED = RegistrationStatus.RELEASED, RegistrationStatus.LOCKED, RegistrationStatus.REGISTERED
SEEN = (RegistrationStatus.CHECKED_IN, RegistrationStatus.FULFILLED, RegistrationStatus.NO_SHOW)

FAULTS = (
    "lose_request", "lose_reply", "late", "reject", "busy", "exists", "not_sent", "break", "break_after", "die", "die_after",
    "silent", "garbage", "refuses",
)  # fmt: skip
READ_FAULTS = ("die", "die_after", "silent", "lose_reply", "garbage", "break", "refuses", "busy")
"""What a call does not know is no fault to it."""


@dataclass
class Visit:
    """What the HIS has under one order number. `trade_no`: the money that it has booked for it.

    `spared`: its session was stopped and all orders were said to be cancelled, but for this one, whose patient was there already.
    """

    order_no: str
    slot_id: str
    mrn: str | None
    status: RegistrationStatus
    trade_no: str | None = None
    amount_fen: int = 0
    at_window: bool = False
    was_registered: bool = False
    spared: bool = False
    locked_ms: int = 0

    @property
    def takes_seat(self) -> bool:
        return self.status != RELEASED


@dataclass
class Charge:
    """A bill. `paid_by`: the order number of whoever has settled it; "window" is one, too."""

    bill: Bill
    paid_by: str | None = None
    trade_no: str | None = None


@dataclass
class Late:
    """What a slow HIS will do at an instant."""

    at_ms: int
    verb: Verb
    argument: Any


@dataclass
class Told:
    """A message to us that has not been acknowledged yet."""

    number: int
    events: tuple[AnyEvent, ...]


@dataclass
class ModelHis:
    """The HIS, as the connector port shows it. It outlives our process: `life` is that of the caller of the moment."""

    wall: Wall
    life: Life
    hospital_id: str
    name: str = "model"
    seats: dict[str, int] = field(default_factory=dict)
    slots: dict[str, Slot] = field(default_factory=dict)
    schedules: dict[str, Schedule] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    visits: dict[str, Visit] = field(default_factory=dict)
    people: dict[str, Patient] = field(default_factory=dict)
    charges: dict[str, Charge] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    words: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # of each report: status and value, in order
    refunded: dict[str, RefundOrder] = field(default_factory=dict)
    faults: deque[str] = field(default_factory=deque)
    late: list[Late] = field(default_factory=list)
    news: deque[Told] = field(default_factory=deque)
    wrong: list[str] = field(default_factory=list)
    unwilling: set[str] = field(default_factory=set)  # orders of which it has refused to give back what it has
    told: int = 0
    merges: int = 0
    quota: bool = False  # the seats are the portals': they are registered without a lock, and no window sells one
    lock_s: float | None = None

    # --- what the hospital does by itself ---------------------------------------------------------------------------

    def open_slot(self, schedule: Schedule, slot: Slot) -> None:
        """A segment with as many seats as it says."""
        self.schedules[schedule.id] = schedule
        self.slots[slot.id] = slot
        self.seats[slot.id] = slot.seats_left

    def left(self, slot_id: str) -> int:
        """Seats of a segment that nobody has."""
        return self.seats[slot_id] - sum(v.takes_seat for v in self.visits.values() if v.slot_id == slot_id)

    def sell(self, slot_id: str) -> bool:
        """The window sells a seat, if there is one of its own."""
        if self.left(slot_id) > 0 and not self.quota:
            self.seats[slot_id] -= 1
            return True
        return False

    def stop(self, slot_id: str, *, cancels: bool) -> None:
        """A segment does not take place; the HIS cancels its visits itself, or leaves that to us."""
        self.stopped.add(slot_id)
        if not cancels:
            return
        for visit in self.visits.values():
            if visit.slot_id == slot_id and visit.status in (LOCKED, REGISTERED):
                visit.status = RELEASED
            elif visit.slot_id == slot_id and visit.status in SEEN:
                visit.spared = True

    def see_patients(self) -> None:
        """Of three who are registered the first is seen, the second does not come, and nothing is entered about the third."""
        there = [visit for visit in self.visits.values() if visit.status == REGISTERED]
        for number, visit in enumerate(there):
            if number % 3 < 2:
                visit.status = (RegistrationStatus.FULFILLED, RegistrationStatus.NO_SHOW)[number % 3]

    def merge(self, surviving: str, retired: str) -> None:
        """Two records are one person."""
        self.merges += 1
        for number, person in self.people.items():
            if person.mrn == retired:
                self.people[number] = msgspec.structs.replace(person, mrn=surviving)
        for visit in self.visits.values():
            if visit.mrn == retired:
                visit.mrn = surviving
        for charge in self.charges.values():
            if charge.bill.mrn == retired:
                charge.bill = msgspec.structs.replace(charge.bill, mrn=surviving)
        for number, report in self.reports.items():
            if report.mrn == retired:
                self.reports[number] = msgspec.structs.replace(report, mrn=surviving)
        self.tell(PatientMerged(surviving_mrn=surviving, retired_mrn=retired, occurred_at=self.now()))

    def charge(self, bill_id: str, mrn: str, amount_fen: int) -> None:
        """A new bill, which we hear of."""
        self.charges[bill_id] = Charge(Bill(id=bill_id, amount_fen=amount_fen, currency="CNY", mrn=mrn))
        self.tell_bill(bill_id)

    def tell_bill(self, bill_id: str) -> None:
        """A bill as it stands."""
        self.tell(BillIssued(bill=self.charges[bill_id].bill, occurred_at=self.now()))

    def word_on_report(self, report_id: str, mrn: str, status: ReportStatus, *, tells: bool) -> None:
        """A new report, or the next word on one. Of each the only value is its number among the words on it."""
        words = self.words.setdefault(report_id, [])
        value = str(len(words) + 1)
        words.append((status.value, value))
        self.reports[report_id] = Report(
            id=report_id, kind=ReportKind.LAB, status=status, name=report_id, mrn=mrn, issued_at=self.now(),
            observations=(Observation(name="WBC", value=value),),
        )  # fmt: skip
        if tells:
            self.tell(ReportIssued(report=self.reports[report_id], occurred_at=self.now()))

    def put_bill(self, bill_id: str, status: BillStatus) -> None:
        """It is paid at the window, or cancelled."""
        charge = self.charges[bill_id]
        charge.bill = msgspec.structs.replace(charge.bill, status=status)
        if status == BillStatus.PAID:
            charge.paid_by = "window"
        self.tell_bill(bill_id)

    def tell(self, *events: AnyEvent) -> None:
        """Something that we shall hear."""
        self.told += 1
        self.news.append(Told(self.told, events))

    def now(self) -> dt.datetime:
        """The HIS's clock."""
        return dt.datetime.fromtimestamp(self.wall() / 1000, dt.UTC)

    def registration(self, visit: Visit) -> Registration:
        """A visit as the HIS tells it."""
        return Registration(
            status=visit.status,
            order_no=visit.order_no,
            mrn=visit.mrn,
            paid=visit.status != LOCKED and visit.was_registered,
            his_refs={"seen": visit.order_no[-4:]},
        )

    def catch_up(self) -> None:
        """Do what slow calls have left to do by now, and let locks lapse."""
        due = [one for one in self.late if one.at_ms <= self.wall()]
        self.late = [one for one in self.late if one.at_ms > self.wall()]
        for one in due:
            self.commit(one.verb, one.argument)
        for visit in self.visits.values():
            if (
                self.lock_s is not None
                and visit.status == LOCKED
                and self.wall() >= visit.locked_ms + self.lock_s * 1000
            ):
                visit.status = RELEASED

    # --- what a request does -----------------------------------------------------------------------------------------

    def commit(self, verb: Verb, argument: Any) -> Outcome:
        """What the HIS does when a request reaches it."""
        match argument:
            case Order():
                does: dict[Verb, Callable[[Order, Visit | None], Outcome]] = {
                    Verb.LOCK_SLOT: self._take,
                    Verb.BOOK: self._take,
                    Verb.REGISTER: self._register,
                    Verb.UNLOCK_SLOT: self._give_back,
                    Verb.CANCEL_REGISTRATION: self._give_back,
                }
                visit = self.visits.get(argument.order_no)
                if verb == Verb.UNLOCK_SLOT and visit is not None and visit.status == REGISTERED:
                    if visit.at_window:
                        self.unwilling.add(visit.order_no)
                    return Rejected(code="refused")
                return does[verb](argument, visit)
            case Patient():
                return self._create(argument)
            case BillPayment():
                return self._settle(argument)
            case RefundOrder():
                return self._hear_refund(argument)
        raise AssertionError(f"nobody asks for {verb}")

    def _take(self, order: Order, visit: Visit | None) -> Outcome:
        if visit is not None:
            return Rejected(code="already_exists")
        if order.slot.id in self.stopped:
            return Rejected(code="stopped")
        if self.left(order.slot.id) <= 0:
            return Rejected(code="full")
        visit = Visit(order.order_no, order.slot.id, order.patient.mrn, LOCKED, locked_ms=self.wall())
        self.visits[order.order_no] = visit
        return Accepted(record=self.registration(visit), his_refs={"lock": order.order_no[-4:]})

    def _register(self, order: Order, visit: Visit | None) -> Outcome:
        if visit is None and self.quota:
            taken = self._take(order, visit)
            if isinstance(taken, Rejected):
                return taken
            visit = self.visits[order.order_no]
        if visit is None:
            return Rejected(code="not_found")
        if visit.status == RELEASED:
            return Rejected(code="refused")
        if visit.status != LOCKED:
            return Rejected(code="already_exists")
        if visit.slot_id in self.stopped:
            return Rejected(code="stopped")
        if order.fee_fen and order.payment is None:
            self.wrong.append("a registration without the money that is due")
        visit.status, visit.was_registered = REGISTERED, True
        if order.payment is not None:
            visit.trade_no, visit.amount_fen = order.payment.trade_no, order.payment.amount_fen
        return Accepted(record=self.registration(visit))

    def _give_back(self, order: Order, visit: Visit | None) -> Outcome:
        if visit is None:
            return Rejected(code="not_found")
        if visit.status == RELEASED:
            return Rejected(code="already_done")
        if visit.status in SEEN:
            self.unwilling.add(visit.order_no)
            return Rejected(code="too_late")
        visit.status = RELEASED
        return Accepted()

    def _create(self, patient: Patient) -> Outcome:
        number = str(patient.id_number)
        if number not in self.people:
            self.people[number] = Patient(
                name=patient.name, mrn=f"M{len(self.people) + 1}", id_type=patient.id_type, id_number=number
            )
        return Accepted(record=self.people[number])

    def _settle(self, payment: BillPayment) -> Outcome:
        charge = self.charges[payment.bill.id]
        if charge.paid_by == payment.order_no:
            return Rejected(code="already_exists")
        if charge.paid_by is not None:
            return Rejected(code="taken")
        if charge.bill.status != BillStatus.OPEN or payment.payment.amount_fen != charge.bill.amount_fen:
            return Rejected(code="refused")
        charge.paid_by, charge.trade_no = payment.order_no, payment.payment.trade_no
        charge.bill = msgspec.structs.replace(charge.bill, status=BillStatus.PAID)
        return Accepted(record=Settlement(receipt_no=f"R{payment.order_no}"))

    def _hear_refund(self, told: RefundOrder) -> Outcome:
        if told.refund.refund_no in self.refunded:
            return Rejected(code="already_done")
        if told.order is not None:
            visit = self.visits.get(told.order.order_no)
            if visit is not None and visit.takes_seat and not visit.spared:
                self.wrong.append("a refund was told of a visit that stands")
        self.refunded[told.refund.refund_no] = told
        return Accepted()

    # --- the port ----------------------------------------------------------------------------------------------------

    def traits(self, verb: Verb) -> VerbTraits:
        return VerbTraits(capability=Capability.NATIVE, query_back=QueryBack.KEY, timeout_s=1.0)

    async def start(self) -> None: ...
    async def close(self) -> None: ...
    async def serve(self, handler: InboundHandler) -> None: ...

    def _fault(self, verb: str, known: tuple[str, ...]) -> str:
        self.life.check()
        self.catch_up()
        fault = self.faults.popleft() if self.faults else ""
        REACHED.note(verb, fault if fault in known else "well")
        return fault

    async def _write(self, verb: Verb, argument: Any) -> Outcome:
        match self._fault(verb.value, FAULTS):
            case "lose_request" | "silent":
                return Unknown(reason="time-out")
            case "lose_reply" | "garbage":
                self.commit(verb, argument)
                return Unknown(reason="time-out")
            case "late":
                self.late.append(Late(self.wall() + round(LATE_S * 1000), verb, argument))
                return Unknown(reason="time-out")
            case "reject" | "refuses":
                if verb in (Verb.UNLOCK_SLOT, Verb.CANCEL_REGISTRATION):
                    self.unwilling.add(argument.order_no)
                return Rejected(code="refused")
            case "busy":
                return Rejected(code="busy", retryable=True)
            case "exists":
                outcome = self.commit(verb, argument)
                again = self.commit(verb, argument)
                return again if isinstance(again, Rejected) else outcome
            case "not_sent":
                return Rejected(code="not_sent", retryable=True)
            case "break":
                raise RuntimeError("a fault of the connector")
            case "break_after":
                self.commit(verb, argument)
                raise RuntimeError("a fault of the connector")
            case "die":
                raise self.life.end("before a write of the HIS")
            case "die_after":
                self.commit(verb, argument)
                raise self.life.end("after a write of the HIS")
            case _:
                return self.commit(verb, argument)

    def _read(self, verb: str) -> None:
        match self._fault(verb, READ_FAULTS):
            case "die" | "die_after":
                raise self.life.end("in a read of the HIS")
            case "silent" | "lose_reply":
                raise HisUnavailable("no answer")
            case "garbage" | "break":
                raise HisReplyInvalid("cannot be read")
            case "refuses" | "busy":
                raise HisRefused("busy", code="busy")

    async def ping(self) -> None:
        self._read("ping")

    async def fetch_departments(self) -> Sequence[Department]:
        self._read("fetch_departments")
        return [Department(id="D1", name="内科")]

    async def fetch_practitioners(self) -> Sequence[Practitioner]:
        self._read("fetch_practitioners")
        return [Practitioner(id="P1", name="王医生", department_id="D1")]

    async def fetch_schedules(self, window: Window) -> Sequence[Schedule]:
        self._read("fetch_schedules")
        return list(self.schedules.values())

    async def fetch_slots(self, window: Window, schedules: Sequence[Schedule]) -> Sequence[Slot]:
        self._read("fetch_slots")
        return [
            msgspec.structs.replace(
                slot,
                seats_left=max(0, self.left(slot.id)),
                status=ScheduleStatus.STOPPED if slot.id in self.stopped else ScheduleStatus.OPEN,
            )
            for slot in self.slots.values()
        ]

    async def fetch_stops(self, window: Window) -> Sequence[ScheduleStopped]:
        self._read("fetch_stops")
        return []

    async def find_patient(self, patient: Patient) -> Sequence[Patient]:
        self._read("find_patient")
        found = self.people.get(str(patient.id_number))
        return [] if found is None else [found]

    async def fetch_registration(self, order: Order) -> Registration | None:
        self._read("fetch_registration")
        visit = self.visits.get(order.order_no)
        return None if visit is None else self.registration(visit)

    async def fetch_bills(self, patient: Patient) -> Sequence[Bill]:
        self._read("fetch_bills")
        return [charge.bill for charge in self.charges.values() if charge.bill.mrn == patient.mrn]

    async def fetch_settlement(self, payment: BillPayment) -> Settlement | None:
        self._read("fetch_settlement")
        charge = self.charges[payment.bill.id]
        if charge.paid_by == payment.order_no:
            return Settlement(receipt_no=f"R{payment.order_no}")
        if charge.paid_by is not None:
            raise HisRefused("another payment has settled it", code="taken")
        return None

    async def fetch_refund(self, refund: RefundOrder) -> Settlement | None:
        self._read("fetch_refund")
        return Settlement() if refund.refund.refund_no in self.refunded else None

    async def fetch_reports(self, patient: Patient) -> Sequence[Report]:
        self._read("fetch_reports")
        return [report for report in self.reports.values() if report.mrn == patient.mrn]

    async def fetch_report(self, patient: Patient, report_id: str) -> Report | None:
        self._read("fetch_report")
        report = self.reports.get(report_id)
        return report if report is not None and report.mrn == patient.mrn else None

    async def fetch_attachment(self, attachment: Attachment) -> Attachment:
        return attachment

    async def fetch_statement(self, date: dt.date) -> Sequence[StatementLine]:
        return []

    async def create_patient(self, patient: Patient) -> Outcome:
        return await self._write(Verb.CREATE_PATIENT, patient)

    async def lock_slot(self, order: Order) -> Outcome:
        return await self._write(Verb.LOCK_SLOT, order)

    async def unlock_slot(self, order: Order) -> Outcome:
        return await self._write(Verb.UNLOCK_SLOT, order)

    async def book(self, order: Order) -> Outcome:
        return await self._write(Verb.BOOK, order)

    async def register(self, order: Order) -> Outcome:
        return await self._write(Verb.REGISTER, order)

    async def cancel_registration(self, order: Order) -> Outcome:
        return await self._write(Verb.CANCEL_REGISTRATION, order)

    async def check_in(self, order: Order) -> Outcome:
        return await self._write(Verb.CHECK_IN, order)

    async def presettle_bill(self, payment: BillPayment) -> Outcome:
        return await self._write(Verb.PRESETTLE_BILL, payment)

    async def settle_bill(self, payment: BillPayment) -> Outcome:
        return await self._write(Verb.SETTLE_BILL, payment)

    async def refund(self, refund: RefundOrder) -> Outcome:
        return await self._write(Verb.REFUND, refund)
