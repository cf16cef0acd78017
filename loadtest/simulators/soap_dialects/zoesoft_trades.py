"""What the simulated zoesoft hospital does for each transaction code: a request document in, reply elements out.

It knows no lock: 4006 takes the seat as an unpaid booking, 4007 pays it. It has no codes for what is wrong, only sentences.
"""

from __future__ import annotations

from collections.abc import Callable

from lxml import etree

from loadtest.simulators.hospital import Hospital, Plan, Refusal, Segment, Visit
from loadtest.simulators.soap_dialects.speaking import Desk, Ledger, Reply, TradeRefused, fen, listed, text_in, yuan
from loadtest.simulators.soap_dialects.zoesoft_money import Money
from loadtest.simulators.soap_dialects.zoesoft_reports import Reports
from loadtest.simulators.soap_dialects.zoesoft_rows import need

NOONS = {"am": "1", "pm": "2"}
PLACE = "门诊楼3层"

OPS = {
    "1001": "ping",
    "2001": "find_patient",
    "2002": "create_patient",
    "3001": "fetch_bills",
    "3002": "fetch_bill_items",
    "3003": "fetch_settlement",
    "3004": "fetch_settlement",
    "3007": "settle_bill",
    "3008": "presettle_bill",
    "4001": "fetch_departments",
    "4003": "fetch_schedules",
    "4004": "fetch_slots",
    "4006": "book",
    "4007": "register",
    "4008": "check_in",
    "4009": "cancel_registration",
    "4010": "fetch_registration",
    "4011": "fetch_stops",
    "7001": "fetch_reports",
    "7002": "fetch_report",
    "7003": "fetch_reports",
    "7004": "fetch_report",
}
_SENTENCES = {
    "full": "号源已满",
    "exists": "订单已存在",
    "stopped": "医生停诊",
    "state": "该预约已取消",
    "mismatch": "金额不符",
    "unknown": "预约记录不存在",
}


class Trades:
    """All trades of one hospital."""

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self.hospital, self.ledger = hospital, ledger
        self._desk = Desk(hospital, ledger)
        self._money = Money(hospital, ledger)
        self._reports = Reports(hospital)
        self._checked_in: set[str] = set()

    def run(self, op: str, doc: etree._Element) -> Reply:
        """Do it. Raises TradeRefused."""
        handler: Callable[[etree._Element], Reply] = (
            getattr(self._money, op, None) or getattr(self._reports, op, None) or getattr(self, f"_{op}")
        )
        try:
            return handler(doc)
        except Refusal as refusal:
            raise TradeRefused("-1", _sentence(op, refusal)) from None

    def _ping(self, doc: etree._Element) -> Reply:
        return [("ServerTime", f"{self._desk.now():%Y-%m-%d %H:%M:%S}")]

    # master data and schedules -----------------------------------------------------------------------------------

    def _fetch_departments(self, doc: etree._Element) -> Reply:
        names = self.hospital.departments
        return [listed("Depts", "Dept", [[("DeptCode", code), ("DeptName", names[code])] for code in names])]

    def _fetch_schedules(self, doc: etree._Element) -> Reply:
        plans = self._desk.plans(
            need(doc, "StartDate"), need(doc, "EndDate"), need(doc, "DeptCode"), text_in(doc, "DoctorCode")
        )
        return [listed("Schedules", "Schedule", [self._plan_row(plan) for plan in plans])]

    def _plan_row(self, plan: Plan) -> Reply:
        doctor, segments = self.hospital.doctors[plan.doctor], self._desk.segments(plan.code)
        return [
            ("ScheduleId", plan.code),
            ("SeeDate", plan.day.isoformat()),
            ("Noon", NOONS[plan.session]),
            ("BeginTime", f"{segments[0].start:%H:%M}"),
            ("EndTime", f"{segments[-1].end:%H:%M}"),
            ("DeptCode", plan.dept),
            ("DeptName", self.hospital.departments[plan.dept]),
            ("DoctorCode", doctor.code),
            ("DoctorName", doctor.name),
            ("DoctorTitle", doctor.title),
            ("RegTypeName", "普通号" if plan.fee_fen < 1000 else "专家号"),
            ("TotalFee", yuan(plan.fee_fen)),
            ("TimeFlag", "1"),
            ("Status", "0" if plan.stopped else "1"),
            ("TotalNum", str(sum(s.capacity for s in segments))),
            ("LeftNum", str(sum(s.left for s in segments))),
            ("Address", PLACE),
        ]

    def _fetch_slots(self, doc: etree._Element) -> Reply:
        plan = self.hospital.plans.get(need(doc, "ScheduleId"))
        if plan is None:
            raise TradeRefused("-1", "排班不存在")
        rows: list[Reply] = [
            [
                ("ScheduleId", plan.code),
                ("SegmentId", s.code),
                ("SeeDate", plan.day.isoformat()),
                ("BeginTime", f"{s.start:%H:%M}"),
                ("EndTime", f"{s.end:%H:%M}"),
                ("TotalNum", str(s.capacity)),
                ("LeftNum", str(s.left)),
            ]
            for s in self._desk.segments(plan.code)
        ]
        return [listed("Segments", "Segment", rows)]

    def _fetch_stops(self, doc: etree._Element) -> Reply:
        plans = self._desk.plans(need(doc, "StartDate"), need(doc, "EndDate"), text_in(doc, "DeptCode"))
        rows: list[Reply] = [
            [
                ("ScheduleId", p.code),
                ("SeeDate", p.day.isoformat()),
                ("Noon", NOONS[p.session]),
                ("DeptCode", p.dept),
                ("DoctorCode", p.doctor),
                ("Reason", "医生停诊"),
            ]
            for p in plans
            if p.stopped
        ]
        return [listed("Stops", "Stop", rows)]

    # people ------------------------------------------------------------------------------------------------------

    def _find_patient(self, doc: etree._Element) -> Reply:
        name, number = text_in(doc, "PatientName"), text_in(doc, "IdNo")
        people = self._desk.people(mrn=text_in(doc, "PatientId"), id_number=number)
        if not people:
            raise TradeRefused("-1", "未查询到患者信息")
        if name and all(p.name != name for p in people):
            raise TradeRefused("-1", f"姓名与证件号不符:{name}")
        rows: list[Reply] = [
            [
                ("PatientId", p.mrn),
                ("PatientName", p.name),
                ("Sex", p.sex),
                ("Birthday", p.birth_date),
                ("IdNo", p.id_number),
                ("Phone", p.phone),
            ]
            for p in people
        ]
        return [listed("Patients", "Patient", rows)]

    def _create_patient(self, doc: etree._Element) -> Reply:
        given = [text_in(doc, name) for name in ("Phone", "Sex", "Birthday")]
        person = self.hospital.create_person(need(doc, "PatientName"), need(doc, "IdNo"), *given)
        return [("PatientId", person.mrn)]

    # visits ------------------------------------------------------------------------------------------------------

    def _book(self, doc: etree._Element) -> Reply:
        key, mrn, segment = need(doc, "OutOrderNo"), need(doc, "PatientId"), self._segment(doc)
        visit = self._desk.lock(key, mrn, segment)
        return [
            ("OutOrderNo", visit.key),
            ("OrderId", visit.no),
            ("QueueNo", visit.queue_no),
            ("TotalFee", yuan(visit.fee_fen)),
            ("PayBefore", f"{self.ledger.lock_ends[visit.no]:%Y-%m-%d %H:%M:%S}"),
            ("Address", PLACE),
        ]

    def _segment(self, doc: etree._Element) -> Segment:
        segment = self.hospital.segments.get(need(doc, "SegmentId"))
        if segment is None or segment.plan != need(doc, "ScheduleId"):
            raise TradeRefused("-1", "排班不存在")
        return segment

    def _register(self, doc: etree._Element) -> Reply:
        visit = self._visit(doc)
        self._desk.pay(visit.no, fen(need(doc, "PayAmount")), text_in(doc, "TradeNo"))
        return [
            ("OutOrderNo", visit.key),
            ("OrderId", visit.no),
            ("VisitNo", f"V{visit.no}"),
            ("QueueNo", visit.queue_no),
            ("PayAmount", yuan(visit.paid_fen)),
            ("ReceiptNo", f"R{visit.no}"),
            ("Address", PLACE),
        ]

    def _check_in(self, doc: etree._Element) -> Reply:
        visit = self._visit(doc)
        if visit.state != "registered":
            raise TradeRefused("-1", "未缴费,不能取号")
        if visit.no in self._checked_in:
            raise TradeRefused("-1", "该号已取号")
        self._checked_in.add(visit.no)
        return [("OutOrderNo", visit.key), ("OrderId", visit.no), ("QueueNo", visit.queue_no), ("Address", PLACE)]

    def _cancel_registration(self, doc: etree._Element) -> Reply:
        visit = self._visit(doc)
        if visit.no in self._checked_in:
            raise TradeRefused("-1", "请到窗口退号")
        self._desk.release(visit.no)
        return [("OrderId", visit.no)]

    def _fetch_registration(self, doc: etree._Element) -> Reply:
        visit = self._visit(doc)
        segment = self.hospital.segments[visit.segment]
        came = {"arrived": "2", "seen": "6", "missed": "5"}
        status = {"locked": "0", "registered": "1", "released": "3"}[visit.state]
        row: Reply = [
            ("OutOrderNo", visit.key),
            ("OrderId", visit.no),
            ("Status", came.get(visit.attended, "2" if visit.no in self._checked_in else status)),
            ("PatientId", visit.mrn),
            ("ScheduleId", segment.plan),
            ("SegmentId", segment.code),
            ("SeeDate", segment.start.date().isoformat()),
            ("BeginTime", f"{segment.start:%H:%M}"),
            ("QueueNo", visit.queue_no),
            ("VisitNo", f"V{visit.no}" if visit.paid_fen else ""),
            ("TotalFee", yuan(visit.fee_fen)),
            ("PayBefore", f"{self.ledger.lock_ends[visit.no]:%Y-%m-%d %H:%M:%S}"),
        ]
        return [listed("Orders", "Order", [row])]

    def _visit(self, doc: etree._Element) -> Visit:
        key = text_in(doc, "OutOrderNo")
        visit = self.hospital.visit_by_key(key) if key else self.hospital.visits.get(text_in(doc, "OrderId"))
        if visit is None or visit.mrn != need(doc, "PatientId"):
            raise TradeRefused("-1", "预约记录不存在")
        return visit


def _sentence(op: str, refusal: Refusal) -> str:
    if op == "create_patient":
        return {"exists": "患者已存在", "mismatch": "姓名与证件号不符"}.get(refusal.code, "建档失败")
    if refusal.code == "unknown" and "patient" in refusal.text:
        return "患者不存在"
    return "订单已失效" if op == "register" and refusal.code == "state" else _SENTENCES[refusal.code]
