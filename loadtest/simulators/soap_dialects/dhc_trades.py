"""What the simulated DHC hospital does for each trade: a request document in, a list of reply elements out.

A reply is a nested list of (name, content) pairs; content is text or again such a list.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from lxml import etree

from loadtest.simulators.hospital import Hospital, Plan, Refusal, Segment, Visit
from loadtest.simulators.soap_dialects.dhc_money import Money
from loadtest.simulators.soap_dialects.dhc_rows import get, listed, need
from loadtest.simulators.soap_dialects.speaking import Desk, Ledger, Reply, TradeRefused, fen, yuan

PLACE = "门诊楼2层"
SESSIONS = {"am": ("S", "上午"), "pm": ("X", "下午")}

# (operation, trade code, refund type) -> the port's verb, by which the switchboard names faults
OPS = {
    ("QueryDepartment", "1012"): "fetch_departments",
    ("QueryDoctor", "1013"): "fetch_practitioners",
    ("QueryAdmSchedule", "1004"): "fetch_schedules",
    ("QueryScheduleTimeInfo", "10041"): "fetch_slots",
    ("QueryStopDoctor", "1107"): "fetch_stops",
    ("GetPatInfo", "3300"): "find_patient",
    ("SavePatientCard", "3014"): "create_patient",
    ("LockOrder", "10015"): "lock_slot",
    ("UnLockOrder", "10016"): "unlock_slot",
    ("BookService", "1000"): "book",
    ("OPRegister", "1101"): "register",
    ("OPAllocAutoReport", "1301"): "check_in",
    ("CancelOrder", "1001"): "cancel_registration",
    ("OPRegReturn", "1003"): "cancel_registration",
    ("QueryRegStatus", "1108"): "fetch_registration",
    ("ZZJCommonPay", "4902"): "fetch_bills",
    ("ZZJCommonPay", "4904"): "fetch_bill_items",
    ("ZZJCommonPay", "4905"): "presettle_bill",
    ("ZZJCommonPay", "4906"): "settle_bill",
    ("ZZJCommonPay", "9999"): "fetch_statement",
    ("CheckCharge", "CheckCharge"): "fetch_settlement",
}


class Trades:
    """All trades of one hospital."""

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self.hospital, self.ledger = hospital, ledger
        self._desk = Desk(hospital, ledger)
        self._money = Money(hospital, ledger)
        self._checked_in: set[str] = set()

    def op_of(self, operation: str, doc: etree._Element) -> str | None:
        op = OPS.get((operation, get(doc, "TradeCode")))
        return "refund" if op == "cancel_registration" and get(doc, "RefundType") == "TF" else op

    def run(self, op: str, doc: etree._Element) -> Reply:
        """Do it. Raises TradeRefused."""
        handler: Callable[[etree._Element], Reply] = getattr(self._money, op, None) or getattr(self, f"_{op}")
        try:
            return handler(doc)
        except Refusal as refusal:
            raise TradeRefused(*_refusal(op, refusal)) from None

    # master data and schedules -----------------------------------------------------------------------------------

    def _fetch_departments(self, doc: etree._Element) -> Reply:
        rows: list[Reply] = [
            [("DepartmentCode", c), ("DepartmentName", n)] for c, n in self.hospital.departments.items()
        ]
        return listed("Departments", "Department", rows)

    def _fetch_practitioners(self, doc: etree._Element) -> Reply:
        dept = need(doc, "DepartmentCode")
        rows: list[Reply] = [
            [("DoctorCode", d.code), ("DoctorName", d.name), ("DoctorTitle", d.title), ("DepartmentCode", d.dept)]
            for d in self.hospital.doctors.values()
            if d.dept == dept
        ]
        return listed("Doctors", "Doctor", rows)

    def _fetch_schedules(self, doc: etree._Element) -> Reply:
        dept, session = need(doc, "DepartmentCode"), get(doc, "RBASSessionCode")
        first, last = need(doc, "StartDate"), need(doc, "EndDate")
        doctor = get(doc, "DoctorCode")
        plans = self._desk.plans(first, last, dept, doctor)
        plans = [p for p in plans if session in ("", SESSIONS[p.session][0])]
        return listed("Schedules", "Schedule", [self._plan_row(p) for p in plans])

    def _plan_row(self, plan: Plan) -> Reply:
        doctor, segments = self.hospital.doctors[plan.doctor], self._desk.segments(plan.code)
        left = sum(s.left for s in segments)
        first = 1 + sum(s.taken for s in segments)
        return [
            ("ScheduleItemCode", plan.code),
            ("ServiceDate", plan.day.isoformat()),
            ("SessionCode", SESSIONS[plan.session][0]),
            ("SessionName", SESSIONS[plan.session][1]),
            ("StartTime", f"{segments[0].start:%H:%M}"),
            ("EndTime", f"{segments[-1].end:%H:%M}"),
            ("DepartmentCode", plan.dept),
            ("DepartmentName", self.hospital.departments[plan.dept]),
            ("DoctorCode", doctor.code),
            ("DoctorName", doctor.name),
            ("DoctorTitle", doctor.title),
            ("DoctorSessType", "普通号" if plan.fee_fen < 1000 else "专家号"),
            ("Fee", yuan(plan.fee_fen)),
            ("RegFee", "1"),
            ("CheckupFee", yuan(plan.fee_fen - 100)),
            ("AvailableNumStr", ",".join(str(n) for n in range(first, first + left))),
            ("TimeRangeFlag", "Y"),
            ("ScheduleStatus", "S" if plan.stopped else "N"),
            ("AvailableTotalNum", str(sum(s.capacity for s in segments))),
            ("AvailableLeftNum", str(left)),
            ("AdmitAddress", PLACE),
        ]

    def _fetch_slots(self, doc: etree._Element) -> Reply:
        plan = self._plan(need(doc, "ScheduleItemCode"))
        rows: list[Reply] = [
            [
                ("ScheduleItemCode", plan.code),
                ("StartTime", f"{s.start:%H:%M}"),
                ("EndTime", f"{s.end:%H:%M}"),
                ("AvailableTotalNum", str(s.capacity)),
                ("AvailableLeftNum", str(s.left)),
                ("ScheduleStatus", "S" if self.hospital.stops(s) else "N"),
            ]
            for s in self._desk.segments(plan.code)
        ]
        return listed("TimeRanges", "TimeRange", rows)

    def _fetch_stops(self, doc: etree._Element) -> Reply:
        first, last, dept = need(doc, "StartDate"), need(doc, "EndDate"), get(doc, "DepartmentCode")
        rows: list[Reply] = [
            [
                ("ScheduleCode", p.code),
                ("ServiceDate", p.day.isoformat()),
                ("TimeRangeCode", SESSIONS[p.session][0]),
                ("StartTime", ""),
                ("EndTime", ""),
                ("DepartmentCode", p.dept),
                ("DoctorCode", p.doctor),
                ("StopReason", "医生停诊"),
                *self._instead(p),
            ]
            for p in self._desk.plans(first, last, dept)
            if p.stopped or p.was_doctors
        ]
        rows += [row for p in self._desk.plans(first, last, dept) for row in self._parts_stopped(p)]
        return listed("StopSchedules", "StopSchedule", rows)

    def _parts_stopped(self, plan: Plan) -> Iterator[Reply]:
        """Segments of a session; those that follow each other and fare alike are one row, from the first to the last."""
        for (stopped, moved_to, doctor), alike in itertools.groupby(
            self._desk.segments(plan.code), lambda s: (s.stopped, s.moved_to, s.doctor)
        ):
            parts = list(alike)
            if not (stopped or moved_to or doctor):
                continue
            row: Reply = [
                ("ScheduleCode", plan.code),
                ("ServiceDate", plan.day.isoformat()),
                ("TimeRangeCode", SESSIONS[plan.session][0]),
                ("StartTime", f"{parts[0].start:%H:%M}"),
                ("EndTime", f"{parts[-1].end:%H:%M}"),
                ("DepartmentCode", plan.dept),
                ("DoctorCode", plan.doctor),
                ("StopReason", "医生停诊"),
            ]
            if moved_to:
                new = self.hospital.segments[moved_to]
                to = self.hospital.plans[new.plan]
                row += [
                    ("ReplaceScheduleCode", to.code),
                    ("ReplaceServiceDate", to.day.isoformat()),
                    ("ReplaceSessionCode", SESSIONS[to.session][0]),
                    ("ReplaceStartTime", f"{new.start:%H:%M}"),
                ]
            elif doctor:
                row += [("ReplaceDoctorCode", doctor), ("ReplaceDoctorName", self.hospital.doctors[doctor].name)]
            yield row

    def _instead(self, plan: Plan) -> Reply:
        """改诊 names the session that it takes place in, 替诊 the doctor who holds it."""
        if plan.moved_to:
            new = self.hospital.plans[plan.moved_to]
            return [
                ("ReplaceScheduleCode", new.code),
                ("ReplaceServiceDate", new.day.isoformat()),
                ("ReplaceSessionCode", SESSIONS[new.session][0]),
            ]
        if plan.was_doctors:
            doctor = self.hospital.doctors[plan.doctor]
            return [("ReplaceDoctorCode", doctor.code), ("ReplaceDoctorName", doctor.name)]
        return []

    # people ------------------------------------------------------------------------------------------------------

    def _find_patient(self, doc: etree._Element) -> Reply:
        mrn, number, name = get(doc, "PatientID"), get(doc, "IDNo"), get(doc, "PatientName")
        people = self._desk.people(mrn=mrn, id_number=number)
        if not people:
            raise TradeRefused("-201", "患者信息不存在")
        if name and all(p.name != name for p in people):
            raise TradeRefused("-203", f"证件号{number}与姓名{name}不符")
        rows: list[Reply] = [
            [
                ("PatientID", p.mrn),
                ("PatientName", p.name),
                ("Sex", p.sex),
                ("DOB", p.birth_date),
                ("IDTypeCode", "01"),
                ("IDNo", p.id_number),
                ("Mobile", p.phone),
            ]
            for p in people
        ]
        return listed("PatInfos", "PatInfo", rows)

    def _create_patient(self, doc: etree._Element) -> Reply:
        person = self.hospital.create_person(
            need(doc, "PatientName"), need(doc, "IDNo"), get(doc, "Mobile"), get(doc, "Sex"), get(doc, "DOB")
        )
        return [("PatientID", person.mrn)]

    # visits ------------------------------------------------------------------------------------------------------

    def _lock_slot(self, doc: etree._Element) -> Reply:
        segment = self._segment(need(doc, "ScheduleItemCode"), get(doc, "BeginTime"))
        visit = self._desk.lock(need(doc, "ExtOrderNo"), need(doc, "PatientID"), segment)
        return [
            ("TradeCode", "10015"),
            ("TransactionId", visit.no),
            ("LockQueueNo", visit.queue_no),
            ("ScheduleItemCode", segment.plan),
            ("RegFee", yuan(visit.fee_fen)),
            ("AdmDate", segment.start.date().isoformat()),
            ("LockExpireTime", f"{self.ledger.lock_ends[visit.no]:%Y-%m-%d %H:%M:%S}"),
        ]

    def _book(self, doc: etree._Element) -> Reply:
        segment = self._segment(need(doc, "ScheduleItemCode"), get(doc, "AdmitRange").partition("-")[0])
        visit = self.hospital.take(need(doc, "ExtOrderNo"), need(doc, "PatientID"), segment.code)
        return [
            ("TransactionId", visit.no),
            ("OrderCode", f"{segment.plan}||{visit.no}"),
            ("SeqCode", visit.queue_no),
            ("RegFee", yuan(visit.fee_fen)),
            ("AdmitRange", f"{segment.start:%H:%M}-{segment.end:%H:%M}"),
            ("AdmitAddress", PLACE),
        ]

    def _unlock_slot(self, doc: etree._Element) -> Reply:
        visit = self._visit(doc)
        if visit.state == "registered":
            raise TradeRefused("-1008", "已挂号,不能解锁")
        self.hospital.release(visit.no)
        return [("TransactionId", visit.no)]

    def _register(self, doc: etree._Element) -> Reply:
        visit = self._visit(doc)
        if visit.no not in self.ledger.lock_ends and not get(doc, "AppOrderCode").endswith(visit.no):
            raise TradeRefused("-100", "入参错误:AppOrderCode")
        self._desk.pay(visit.no, fen(need(doc, "PayFee")), doc.findtext("PayDetails/OutPayNo") or "")
        return [
            ("TransactionId", visit.no),
            ("AdmNo", f"A{visit.no}"),
            ("QueueNo", visit.queue_no),
            ("RegFee", yuan(visit.fee_fen)),
            ("AdmitAddress", PLACE),
        ]

    def _check_in(self, doc: etree._Element) -> Reply:
        visit = self._visit(doc)
        if visit.state != "registered":
            raise TradeRefused("-1006", "未找到有效的挂号记录")
        if visit.no in self._checked_in:
            raise TradeRefused("-1", "该患者已报到")
        self._checked_in.add(visit.no)
        return [("QueueNo", visit.queue_no), ("AdmitAddress", PLACE)]

    def _cancel_registration(self, doc: etree._Element) -> Reply:
        visit = self._visit(doc)
        if visit.no in self._checked_in:
            raise TradeRefused("-1008", "已报到,请到窗口退号")
        if get(doc, "TradeCode") == "1001" and visit.state == "registered":
            raise TradeRefused("-1008", "已缴费,请退号")
        self._desk.release(visit.no)
        return [("TransactionId", visit.no)]

    _refund = _cancel_registration

    def _fetch_registration(self, doc: etree._Element) -> Reply:
        visit = self._visit(doc)
        segment = self.hospital.segments[visit.segment]
        row: Reply = [
            ("TransactionId", visit.no),
            ("OrderCode", "" if visit.no in self.ledger.lock_ends else f"{segment.plan}||{visit.no}"),
            ("ExtOrderNo", visit.key),
            ("RegStatus", self._status(visit)),
            ("PatientID", visit.mrn),
            ("ScheduleItemCode", segment.plan),
            ("LockQueueNo", visit.queue_no),
            ("QueueNo", visit.queue_no),
            ("AdmNo", f"A{visit.no}" if visit.paid_fen else ""),
            ("RegFee", yuan(visit.fee_fen)),
            ("AdmDate", segment.start.date().isoformat()),
            ("BeginTime", f"{segment.start:%H:%M}"),
            ("LockExpireTime", self._lock_end(visit)),
        ]
        return listed("RegInfos", "RegInfo", [row])

    def _status(self, visit: Visit) -> str:
        if visit.state == "locked":
            return "L" if visit.no in self.ledger.lock_ends else "B"
        if visit.state == "registered":
            came = {"arrived": "A", "seen": "F", "missed": "N"}
            return came.get(visit.attended, "A" if visit.no in self._checked_in else "R")
        return "T" if visit.paid_fen else "C"

    def _lock_end(self, visit: Visit) -> str:
        end = self.ledger.lock_ends.get(visit.no)
        return f"{end:%Y-%m-%d %H:%M:%S}" if end else ""

    # looking things up -------------------------------------------------------------------------------------------

    def _plan(self, code: str) -> Plan:
        plan = self.hospital.plans.get(code)
        if plan is None:
            raise TradeRefused("-1006", "排班不存在")
        return plan

    def _segment(self, plan: str, begin: str) -> Segment:
        self._plan(plan)
        segment = self._desk.segment(plan, begin)
        if segment is None:
            raise TradeRefused("-1006", "时段不存在")
        return segment

    def _visit(self, doc: etree._Element) -> Visit:
        key, no = get(doc, "ExtOrderNo"), get(doc, "TransactionId") or get(doc, "AdmNo").removeprefix("A")
        visit = self.hospital.visit_by_key(key) if key else self.hospital.visits.get(no)
        if visit is None:
            raise TradeRefused("-1006", "订单在系统中不存在")
        return visit


def _refusal(op: str, refusal: Refusal) -> tuple[str, str]:
    match refusal.code:
        case "full":
            return "-1001", "号源已满"
        case "exists":
            return ("-204", "患者已存在") if op == "create_patient" else ("-1003", "订单已存在")
        case "stopped":
            return "-1004", "医生停诊"
        case "state":
            return ("-1006", "订单已失效") if op == "register" else ("-1007", "该号已退")
        case "mismatch":
            return ("-203", "姓名与证件号不符") if op == "create_patient" else ("-1009", "金额不符")
        case _:
            return ("-201", "患者不存在") if "patient" in refusal.text else ("-1006", "记录不存在")
