"""The hospital behind every simulator: who works there, what can be booked, who booked it and who owes what.

It is deliberately its own little HIS, with its own words and rules, and is linearizable: every change happens in one
synchronous method, so that a test can count what the hospital really sold.
"""

from __future__ import annotations

import datetime as dt
import itertools
import random
from dataclasses import dataclass, field, replace
from zoneinfo import ZoneInfo


@dataclass
class Doctor:
    code: str
    name: str
    title: str
    dept: str


@dataclass
class Plan:
    """One doctor's session on one day. `stopped` is 停诊."""

    code: str
    day: dt.date
    session: str  # am | pm
    dept: str
    doctor: str
    fee_fen: int
    stopped: bool = False
    moved_to: str = ""  # 改诊: the plan that it takes place in
    was_doctors: str = ""  # 替诊: whose it was


@dataclass
class Segment:
    """A bookable time segment of a plan."""

    code: str
    plan: str
    start: dt.datetime
    end: dt.datetime
    capacity: int
    taken: int = 0
    moved_to: str = ""  # 改诊 of this segment alone: which one it is held in; nothing of it is left
    stopped: bool = False  # 停诊 of this segment alone
    doctor: str = ""  # 替诊 of this segment alone: who holds it

    @property
    def left(self) -> int:
        return 0 if self.moved_to or self.stopped else max(0, self.capacity - self.taken)


@dataclass
class Person:
    mrn: str
    name: str
    id_number: str
    phone: str = ""
    sex: str = ""
    birth_date: str = ""


@dataclass
class Visit:
    """A lock, an unpaid booking or a registration. `key` is the caller's own order number."""

    no: str
    key: str
    mrn: str
    segment: str
    state: str  # locked | registered | released
    queue_no: str
    fee_fen: int
    paid_fen: int = 0
    trade_no: str = ""
    attended: str = ""  # of a registration: arrived | seen | missed, or nobody knows yet


@dataclass
class Charge:
    """An outpatient bill."""

    no: str
    mrn: str
    items: list[tuple[str, int]]
    state: str = "open"  # open | paid
    trade_no: str = ""
    receipt: str = ""
    fund_fen: int = 0
    account_fen: int = 0
    returned: dict[str, int] = field(default_factory=dict)  # what went back, by the number of each refund

    @property
    def total_fen(self) -> int:
        return sum(fen for _, fen in self.items)

    @property
    def own_fen(self) -> int:
        """What the insurance leaves to the patient."""
        return self.total_fen - self.fund_fen - self.account_fen


@dataclass
class LabReport:
    no: str
    mrn: str
    name: str
    status: str  # preliminary | final | corrected
    results: list[dict[str, str]] = field(default_factory=list)
    issued: dt.datetime | None = None


class Refusal(Exception):
    """The hospital says no. `code`: full, exists, unknown, stopped, state, several, mismatch."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


DEPARTMENTS = {"100": "内科", "200": "外科", "300": "口腔科"}
DOCTORS = [
    Doctor("D1", "李明", "主任医师", "100"),
    Doctor("D2", "王芳", "副主任医师", "100"),
    Doctor("D3", "赵强", "主治医师", "200"),
    Doctor("D4", "陈静", "主任医师", "300"),
]


class Hospital:
    """All of a simulated hospital's state. `prefix` keeps the numbers of several hospitals apart."""

    def __init__(
        self,
        prefix: str,
        *,
        days: int = 3,
        seats: int = 5,
        zone: str = "Asia/Shanghai",
        seed: int = 7,
        departments: dict[str, str] | None = None,
        doctors: list[Doctor] | None = None,
    ) -> None:
        self.prefix = prefix
        self.zone = ZoneInfo(zone)
        self.departments = dict(departments or DEPARTMENTS)
        self.doctors = {d.code: d for d in doctors or DOCTORS}
        self.plans: dict[str, Plan] = {}
        self.segments: dict[str, Segment] = {}
        self.people: dict[str, Person] = {}
        self.visits: dict[str, Visit] = {}
        self._by_key: dict[str, Visit] = {}
        self.charges: dict[str, Charge] = {}
        self.reports: dict[str, LabReport] = {}
        self.oversold = 0
        self.oversells = False
        self._numbers = itertools.count(1)
        self._random = random.Random(seed)
        today = dt.datetime.now(self.zone).date()
        for offset in range(1, days + 1):
            for doctor in self.doctors.values():
                self._plan_day(doctor, today + dt.timedelta(days=offset), seats)

    def _plan_day(self, doctor: Doctor, day: dt.date, seats: int) -> None:
        for session, first_hour in (("am", 8), ("pm", 14)):
            plan = Plan(
                code=f"{doctor.dept}||{doctor.code[1:]}{day:%m%d}{session[0]}",
                day=day,
                session=session,
                dept=doctor.dept,
                doctor=doctor.code,
                fee_fen=700 if doctor.title != "主任医师" else 5000,
            )
            self.plans[plan.code] = plan
            start = dt.datetime.combine(day, dt.time(first_hour), self.zone)
            for n in range(4):
                segment = Segment(
                    code=f"{plan.code}||{n + 1}",
                    plan=plan.code,
                    start=start + dt.timedelta(minutes=30 * n),
                    end=start + dt.timedelta(minutes=30 * (n + 1)),
                    capacity=seats,
                )
                self.segments[segment.code] = segment

    def number(self, kind: str) -> str:
        return f"{self.prefix}{kind}{next(self._numbers):06d}"

    # people ------------------------------------------------------------------------------------------------------

    def find_people(self, *, id_number: str = "", name: str = "", mrn: str = "") -> list[Person]:
        if mrn:
            return [self.people[mrn]] if mrn in self.people else []
        return [p for p in self.people.values() if p.id_number == id_number and (not name or p.name == name)]

    def create_person(self, name: str, id_number: str, phone: str = "", sex: str = "", birth_date: str = "") -> Person:
        same = self.find_people(id_number=id_number)
        if same and same[0].name != name:
            raise Refusal("mismatch", "name and number differ")
        if same:
            raise Refusal("exists", "record exists")
        person = Person(self.number("P"), name, id_number, phone, sex, birth_date)
        self.people[person.mrn] = person
        return person

    # visits ------------------------------------------------------------------------------------------------------

    def visit_by_key(self, key: str) -> Visit | None:
        return self._by_key.get(key)

    def take(self, key: str, mrn: str, segment_code: str) -> Visit:
        """Lock a seat, or book it unpaid. A repeated key is refused with `exists`; `mrn` "" is a lock that names nobody yet."""
        if self.visit_by_key(key) is not None:
            raise Refusal("exists", "order exists")
        if mrn and mrn not in self.people:
            raise Refusal("unknown", "no such patient")
        segment = self.segments.get(segment_code)
        if segment is None:
            raise Refusal("unknown", "no such segment")
        if self.stops(segment):
            raise Refusal("stopped", "schedule stopped")
        if segment.left <= 0 and not self.oversells:
            raise Refusal("full", "no seat left")
        segment.taken += 1
        if segment.taken > segment.capacity:
            self.oversold += 1
        visit = Visit(
            no=self.number("T"),
            key=key,
            mrn=mrn,
            segment=segment_code,
            state="locked",
            queue_no=str(segment.taken),
            fee_fen=self.plans[segment.plan].fee_fen,
        )
        self.visits[visit.no] = self._by_key[key] = visit
        return visit

    def name(self, no: str, key: str, mrn: str) -> None:
        """Say whose a lock is that named nobody yet."""
        visit = self.visits[no]
        if mrn not in self.people:
            raise Refusal("unknown", "no such patient")
        if key and key != visit.key:
            self._by_key[key] = self._by_key.pop(visit.key)
            visit.key = key
        visit.mrn = mrn

    def pay(self, no: str, paid_fen: int, trade_no: str) -> Visit:
        """Turn a lock or an unpaid booking into a registration."""
        visit = self.visits.get(no)
        if visit is None:
            raise Refusal("unknown", "no such order")
        if visit.state == "registered":
            raise Refusal("exists", "already registered")
        if visit.state != "locked":
            raise Refusal("state", "order was released")
        if paid_fen != visit.fee_fen:
            raise Refusal("mismatch", "amount differs")
        visit.state, visit.paid_fen, visit.trade_no = "registered", paid_fen, trade_no
        return visit

    def release(self, no: str) -> Visit:
        """Unlock, cancel or refund a visit: its seat is free again."""
        visit = self.visits.get(no)
        if visit is None:
            raise Refusal("unknown", "no such order")
        if visit.state == "released":
            raise Refusal("state", "already released")
        visit.state = "released"
        self.segments[visit.segment].taken -= 1
        return visit

    def visits_of(self, plan_code: str) -> list[Visit]:
        """Who has a seat in a session."""
        living = [visit for visit in self.visits.values() if visit.state != "released"]
        return [visit for visit in living if self.segments[visit.segment].plan == plan_code]

    def visits_in(self, segment_code: str) -> list[Visit]:
        """Who has a seat in a segment."""
        return [visit for visit in self.visits.values() if visit.state != "released" and visit.segment == segment_code]

    def attend(self, no: str, how: str) -> Visit:
        """Write down who came: `arrived`, `seen` or `missed`; a later word corrects an earlier one."""
        visit = self.visits[no]
        if visit.state != "registered":
            raise Refusal("state", "not registered")
        visit.attended = how
        return visit

    def move(self, plan_code: str, to_plan: str) -> Plan:
        """改诊: who has a seat in a session has one in another, segment by segment; the old one does not take place."""
        for visit in self.visits_of(plan_code):
            self.move_visit(visit.no, visit.segment.replace(plan_code, to_plan))
        plan = self.stop(plan_code)
        plan.moved_to = to_plan
        return plan

    def move_segment(self, segment_code: str, to_segment: str) -> Segment:
        """改诊 of one segment of a session."""
        for visit in self.visits_in(segment_code):
            self.move_visit(visit.no, to_segment)
        segment = self.segments[segment_code]
        segment.moved_to = to_segment
        return segment

    def move_visit(self, no: str, segment_code: str) -> Visit:
        """改期 of one visit, paid or not; there is always a chair for whom the hospital itself moves."""
        visit = self.visits[no]
        self.segments[visit.segment].taken -= 1
        visit.segment = segment_code
        self.segments[segment_code].taken += 1
        return visit

    def substitute(self, plan_code: str, doctor: str) -> Plan:
        """替诊: another doctor holds the session."""
        plan = self.plans[plan_code]
        plan.was_doctors, plan.doctor = plan.was_doctors or plan.doctor, doctor
        return plan

    def substitute_segment(self, segment_code: str, doctor: str) -> Segment:
        """替诊 of one segment of a session: half a session is two of them."""
        segment = self.segments[segment_code]
        segment.doctor = doctor
        return segment

    def doctor_of(self, segment: Segment) -> Doctor:
        """Who holds a segment."""
        return self.doctors[segment.doctor or self.plans[segment.plan].doctor]

    def sell_at_window(self, plan_code: str) -> Plan:
        """The hospital's own window sells all that is left of a session."""
        for segment in self.segments.values():
            if segment.plan == plan_code:
                segment.taken = max(segment.taken, segment.capacity)
        return self.plans[plan_code]

    def stop(self, plan_code: str) -> Plan:
        plan = self.plans[plan_code]
        plan.stopped = True
        return plan

    def stop_segment(self, segment_code: str) -> Segment:
        """停诊 of one segment of a session."""
        segment = self.segments[segment_code]
        segment.stopped = True
        return segment

    def stops(self, segment: Segment) -> bool:
        """Whether a segment does not take place, alone or with its session."""
        return segment.stopped or self.plans[segment.plan].stopped

    # money and reports -------------------------------------------------------------------------------------------

    def charge(self, mrn: str, items: list[tuple[str, int]], *, fund_fen: int = 0, account_fen: int = 0) -> Charge:
        """A bill, of which the insurance pays so much: from its fund and from the patient's account there."""
        charge = Charge(self.number("B"), mrn, items, fund_fen=fund_fen, account_fen=account_fen)
        self.charges[charge.no] = charge
        return charge

    def settle(self, no: str, paid_fen: int, trade_no: str) -> Charge:
        charge = self.charges.get(no)
        if charge is None:
            raise Refusal("unknown", "no such bill")
        if charge.state == "paid":
            raise Refusal("exists", "bill is paid")
        if paid_fen != charge.own_fen:
            raise Refusal("mismatch", "amount differs")
        charge.state, charge.trade_no, charge.receipt = "paid", trade_no, self.number("R")
        return charge

    def give_back(self, no: str, returned_fen: int, number: str, trade_no: str) -> Charge:
        """Book that a part of a paid bill has gone back, or all of it, under a number of the portal's."""
        charge = self.charges.get(no)
        if charge is None:
            raise Refusal("unknown", "no such bill")
        if number in charge.returned:
            raise Refusal("exists", "refund is booked")
        if charge.state != "paid" or charge.trade_no != trade_no:
            raise Refusal("state", "not paid by this")
        if not 0 < returned_fen <= charge.own_fen - sum(charge.returned.values()):
            raise Refusal("mismatch", "more than is left")
        charge.returned[number] = returned_fen
        return charge

    def report(self, mrn: str, name: str = "血常规", status: str = "final") -> LabReport:
        report = LabReport(
            no=self.number("L"),
            mrn=mrn,
            name=name,
            status=status,
            issued=dt.datetime.now(self.zone).replace(microsecond=0),
            results=[
                {"code": "WBC", "name": "白细胞", "value": "11.2", "unit": "10*9/L", "range": "3.5-9.5", "flag": "H"},
                {"code": "HGB", "name": "血红蛋白", "value": "142", "unit": "g/L", "range": "115-150", "flag": "N"},
            ],
        )
        self.reports[report.no] = report
        return report

    def correct(self, no: str) -> LabReport:
        """A report is issued again with another first result (更正报告)."""
        known = self.reports[no]
        first = {**known.results[0], "value": "9.2", "flag": "N"}
        report = replace(
            known,
            status="corrected",
            issued=dt.datetime.now(self.zone).replace(microsecond=0),
            results=[first, *known.results[1:]],
        )
        self.reports[no] = report
        return report

    # for tests ---------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, object]:
        """What a test may count: never more, so that no test leans on the inside."""
        return {
            "oversold": self.oversold,
            "visits": [
                {
                    "no": v.no, "key": v.key, "mrn": v.mrn, "segment": v.segment, "state": v.state, "trade_no": v.trade_no,
                    "attended": v.attended,
                }
                for v in self.visits.values()
            ],
            "charges": [
                {
                    "no": c.no,
                    "state": c.state,
                    "trade_no": c.trade_no,
                    "own_fen": c.own_fen,
                    "returned": dict(c.returned),
                }
                for c in self.charges.values()
            ],
            "people": [{"mrn": p.mrn, "name": p.name} for p in self.people.values()],
            "plans": [{"code": p.code, "stopped": p.stopped} for p in self.plans.values()],
        }  # fmt: skip

    def books(self) -> dict[str, object]:
        """What an auditor of a load test reads: every seat and every visit, with its money."""
        return {
            "oversold": self.oversold,
            "segments": [{"code": s.code, "capacity": s.capacity, "taken": s.taken} for s in self.segments.values()],
            "visits": [
                {
                    "no": v.no, "key": v.key, "segment": v.segment, "state": v.state, "fee_fen": v.fee_fen,
                    "paid_fen": v.paid_fen, "trade_no": v.trade_no,
                }
                for v in self.visits.values()
            ],
        }  # fmt: skip

    def seats_left(self, day: str = "") -> int:
        """Seats that nobody has taken, of one day (ISO 8601) or of all."""
        return sum(s.left for s in self.segments.values() if not day or f"{s.start:%Y-%m-%d}" == day)
