"""What the simulated DHC hospital does for each trade: a request document in, a list of reply elements out.

A reply is a nested list of (name, content) pairs; content is text or again such a list.
"""

from __future__ import annotations

from collections.abc import Callable

from lxml import etree

from loadtest.simulators.hospital import Charge, Hospital, Plan, Refusal, Segment, Visit
from loadtest.simulators.soap_dialects.speaking import Desk, Ledger, Reply, TradeRefused
from loadtest.simulators.soap_dialects.speaking import fen as _fen
from loadtest.simulators.soap_dialects.speaking import yuan as _yuan

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
        self._checked_in: set[str] = set()

    def op_of(self, operation: str, doc: etree._Element) -> str | None:
        op = OPS.get((operation, _get(doc, "TradeCode")))
        return "refund" if op == "cancel_registration" and _get(doc, "RefundType") == "TF" else op

    def run(self, op: str, doc: etree._Element) -> Reply:
        """Do it. Raises TradeRefused."""
        handler: Callable[[etree._Element], Reply] = getattr(self, f"_{op}")
        try:
            return handler(doc)
        except Refusal as refusal:
            raise TradeRefused(*_refusal(op, refusal)) from None

    # master data and schedules -----------------------------------------------------------------------------------

    def _fetch_departments(self, doc: etree._Element) -> Reply:
        rows: list[Reply] = [
            [("DepartmentCode", c), ("DepartmentName", n)] for c, n in self.hospital.departments.items()
        ]
        return _list("Departments", "Department", rows)

    def _fetch_practitioners(self, doc: etree._Element) -> Reply:
        dept = _need(doc, "DepartmentCode")
        rows: list[Reply] = [
            [("DoctorCode", d.code), ("DoctorName", d.name), ("DoctorTitle", d.title), ("DepartmentCode", d.dept)]
            for d in self.hospital.doctors.values()
            if d.dept == dept
        ]
        return _list("Doctors", "Doctor", rows)

    def _fetch_schedules(self, doc: etree._Element) -> Reply:
        dept, session = _need(doc, "DepartmentCode"), _get(doc, "RBASSessionCode")
        first, last = _need(doc, "StartDate"), _need(doc, "EndDate")
        doctor = _get(doc, "DoctorCode")
        plans = self._desk.plans(first, last, dept, doctor)
        plans = [p for p in plans if session in ("", SESSIONS[p.session][0])]
        return _list("Schedules", "Schedule", [self._plan_row(p) for p in plans])

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
            ("Fee", _yuan(plan.fee_fen)),
            ("RegFee", "1"),
            ("CheckupFee", _yuan(plan.fee_fen - 100)),
            ("AvailableNumStr", ",".join(str(n) for n in range(first, first + left))),
            ("TimeRangeFlag", "Y"),
            ("ScheduleStatus", "S" if plan.stopped else "N"),
            ("AvailableTotalNum", str(sum(s.capacity for s in segments))),
            ("AvailableLeftNum", str(left)),
            ("AdmitAddress", PLACE),
        ]

    def _fetch_slots(self, doc: etree._Element) -> Reply:
        plan = self._plan(_need(doc, "ScheduleItemCode"))
        rows: list[Reply] = [
            [
                ("ScheduleItemCode", plan.code),
                ("StartTime", f"{s.start:%H:%M}"),
                ("EndTime", f"{s.end:%H:%M}"),
                ("AvailableTotalNum", str(s.capacity)),
                ("AvailableLeftNum", str(s.left)),
                ("ScheduleStatus", "S" if plan.stopped else "N"),
            ]
            for s in self._desk.segments(plan.code)
        ]
        return _list("TimeRanges", "TimeRange", rows)

    def _fetch_stops(self, doc: etree._Element) -> Reply:
        first, last, dept = _need(doc, "StartDate"), _need(doc, "EndDate"), _get(doc, "DepartmentCode")
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
            ]
            for p in self._desk.plans(first, last, dept)
            if p.stopped
        ]
        return _list("StopSchedules", "StopSchedule", rows)

    # people ------------------------------------------------------------------------------------------------------

    def _find_patient(self, doc: etree._Element) -> Reply:
        mrn, number, name = _get(doc, "PatientID"), _get(doc, "IDNo"), _get(doc, "PatientName")
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
        return _list("PatInfos", "PatInfo", rows)

    def _create_patient(self, doc: etree._Element) -> Reply:
        person = self.hospital.create_person(
            _need(doc, "PatientName"), _need(doc, "IDNo"), _get(doc, "Mobile"), _get(doc, "Sex"), _get(doc, "DOB")
        )
        return [("PatientID", person.mrn)]

    # visits ------------------------------------------------------------------------------------------------------

    def _lock_slot(self, doc: etree._Element) -> Reply:
        segment = self._segment(_need(doc, "ScheduleItemCode"), _get(doc, "BeginTime"))
        visit = self._desk.lock(_need(doc, "ExtOrderNo"), _need(doc, "PatientID"), segment)
        return [
            ("TradeCode", "10015"),
            ("TransactionId", visit.no),
            ("LockQueueNo", visit.queue_no),
            ("ScheduleItemCode", segment.plan),
            ("RegFee", _yuan(visit.fee_fen)),
            ("AdmDate", segment.start.date().isoformat()),
            ("LockExpireTime", f"{self.ledger.lock_ends[visit.no]:%Y-%m-%d %H:%M:%S}"),
        ]

    def _book(self, doc: etree._Element) -> Reply:
        segment = self._segment(_need(doc, "ScheduleItemCode"), _get(doc, "AdmitRange").partition("-")[0])
        visit = self.hospital.take(_need(doc, "ExtOrderNo"), _need(doc, "PatientID"), segment.code)
        return [
            ("TransactionId", visit.no),
            ("OrderCode", f"{segment.plan}||{visit.no}"),
            ("SeqCode", visit.queue_no),
            ("RegFee", _yuan(visit.fee_fen)),
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
        if visit.no not in self.ledger.lock_ends and not _get(doc, "AppOrderCode").endswith(visit.no):
            raise TradeRefused("-100", "入参错误:AppOrderCode")
        self._desk.pay(visit.no, _fen(_need(doc, "PayFee")), doc.findtext("PayDetails/OutPayNo") or "")
        return [
            ("TransactionId", visit.no),
            ("AdmNo", f"A{visit.no}"),
            ("QueueNo", visit.queue_no),
            ("RegFee", _yuan(visit.fee_fen)),
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
        if _get(doc, "TradeCode") == "1001" and visit.state == "registered":
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
            ("RegFee", _yuan(visit.fee_fen)),
            ("AdmDate", segment.start.date().isoformat()),
            ("BeginTime", f"{segment.start:%H:%M}"),
            ("LockExpireTime", self._lock_end(visit)),
        ]
        return _list("RegInfos", "RegInfo", [row])

    def _status(self, visit: Visit) -> str:
        if visit.state == "locked":
            return "L" if visit.no in self.ledger.lock_ends else "B"
        if visit.state == "registered":
            return "A" if visit.no in self._checked_in else "R"
        return "T" if visit.paid_fen else "C"

    def _lock_end(self, visit: Visit) -> str:
        end = self.ledger.lock_ends.get(visit.no)
        return f"{end:%Y-%m-%d %H:%M:%S}" if end else ""

    # money -------------------------------------------------------------------------------------------------------

    def _fetch_bills(self, doc: etree._Element) -> Reply:
        mrn = _need(doc, "PatientID")
        rows: list[Reply] = [
            [
                ("OrderNo", c.no),
                ("OrderName", "门诊费用"),
                ("OrderSum", _yuan(c.total_fen)),
                ("PatientID", c.mrn),
                ("Adm", f"ADM{c.no}"),
                ("AdmDept", "内科"),
                ("ChargeStatus", "N"),
            ]
            for c in self.hospital.charges.values()
            if c.mrn == mrn and c.state == "open"
        ]
        return _list("Orders", "Order", rows)

    def _fetch_bill_items(self, doc: etree._Element) -> Reply:
        charge = self._charge(doc)
        rows: list[Reply] = [
            [("ArcmiCode", str(n)), ("ArcmiDesc", name), ("ItemSum", _yuan(fen)), ("Qty", "1"), ("UOM", "次")]
            for n, (name, fen) in enumerate(charge.items, 1)
        ]
        return _list("Items", "Item", rows)

    def _presettle_bill(self, doc: etree._Element) -> Reply:
        charge = self._charge(doc)
        if charge.state == "paid":
            raise TradeRefused("-1003", "该单已支付")
        if _fen(_need(doc, "OrderSum")) != charge.total_fen:
            raise TradeRefused("-1009", "金额不符")
        return [("OrderNo", charge.no), ("InvoiceNoStr", f"INV{charge.no}")]

    def _settle_bill(self, doc: etree._Element) -> Reply:
        amount = _fen(doc.findtext("PayDetails/PayAmt") or "")
        charge = self.hospital.settle(_need(doc, "OrderNo"), amount, doc.findtext("PayDetails/OutPayNo") or "")
        self.ledger.paid_at[charge.no] = self._desk.now()
        return self._settled(charge)

    def _fetch_settlement(self, doc: etree._Element) -> Reply:
        charge = self._charge(doc)
        if charge.state == "open":
            return [("OrderNo", charge.no), ("ChargeStatus", "N")]
        return self._settled(charge)

    def _settled(self, charge: Charge) -> Reply:
        return [
            ("OrderNo", charge.no),
            ("ChargeStatus", "P"),
            ("ReceiptNo", charge.receipt),
            ("InvoiceNo", ""),
            ("OutPayNo", charge.trade_no),
            ("PayAmt", _yuan(charge.total_fen)),
        ]

    def _fetch_statement(self, doc: etree._Element) -> Reply:
        day = _need(doc, "StDTime")[:10]
        rows: list[Reply] = []
        for v in self.hospital.visits.values():
            if v.paid_fen:
                rows += self._statement_rows(v.no, v.key, v.trade_no, v.paid_fen, day)
        for c in self.hospital.charges.values():
            if c.state == "paid":
                rows += self._statement_rows(c.no, c.no, c.trade_no, c.total_fen, day)
        return _list("Bills", "Bill", rows)

    def _statement_rows(self, no: str, key: str, trade_no: str, fen: int, day: str) -> list[Reply]:
        kinds = (("1", self.ledger.paid_at.get(no)), ("2", self.ledger.refunded_at.get(no)))
        return [
            [
                ("BalFlag", kind),
                ("OutPayNo", trade_no),
                ("PlatformNo", key),
                ("PayAmt", _yuan(fen)),
                ("TradeChannel", "WECHAT"),
                ("PayTime", f"{at:%Y-%m-%d %H:%M:%S}"),
            ]
            for kind, at in kinds
            if at is not None and at.date().isoformat() == day
        ]

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
        key, no = _get(doc, "ExtOrderNo"), _get(doc, "TransactionId") or _get(doc, "AdmNo").removeprefix("A")
        visit = self.hospital.visit_by_key(key) if key else self.hospital.visits.get(no)
        if visit is None:
            raise TradeRefused("-1006", "订单在系统中不存在")
        return visit

    def _charge(self, doc: etree._Element) -> Charge:
        charge = self.hospital.charges.get(_need(doc, "OrderNo"))
        if charge is None:
            raise TradeRefused("-1006", "缴费单不存在")
        return charge


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


def _list(outer: str, inner: str, rows: list[Reply]) -> Reply:
    return [("RecordCount", str(len(rows))), (outer, [(inner, row) for row in rows])]


def _get(doc: etree._Element, name: str) -> str:
    return (doc.findtext(name) or "").strip()


def _need(doc: etree._Element, name: str) -> str:
    value = _get(doc, name)
    if not value:
        raise TradeRefused("-100", f"入参错误:{name}")
    return value
