"""What the simulated B-Soft hospital does for each service: the body of a request in, the body of the reply out."""

from __future__ import annotations

from collections.abc import Callable

from lxml import etree

from loadtest.simulators.hospital import Hospital, Plan, Refusal, Segment, Visit
from loadtest.simulators.soap_dialects.bsoft_money import Money
from loadtest.simulators.soap_dialects.bsoft_reports import Reports
from loadtest.simulators.soap_dialects.bsoft_rows import get, listed, need
from loadtest.simulators.soap_dialects.speaking import Desk, Ledger, Reply, TradeRefused, fen, yuan

# service -> the port's verb, by which the switchboard names faults
OPS = {
    "SystemTime": "ping",
    "DeptQuery": "fetch_departments",
    "DoctorQuery": "fetch_practitioners",
    "ScheduleQuery": "fetch_schedules",
    "SegmentQuery": "fetch_slots",
    "StopQuery": "fetch_stops",
    "PatientQuery": "find_patient",
    "PatientCreate": "create_patient",
    "NumberLock": "lock_slot",
    "NumberUnlock": "unlock_slot",
    "AppointBook": "book",
    "AppointCancel": "cancel_registration",
    "RegisterPay": "register",
    "RegisterReturn": "cancel_registration",
    "RegisterQuery": "fetch_registration",
    "CheckIn": "check_in",
    "ChargeQuery": "fetch_bills",
    "ChargeDetail": "fetch_bill_items",
    "ChargePreSettle": "presettle_bill",
    "ChargeSettle": "settle_bill",
    "ChargeResult": "fetch_settlement",
    "BillStatement": "fetch_statement",
    "ReportQuery": "fetch_reports",
    "ReportDetail": "fetch_report",
}
_SESSIONS = {"am": "1", "pm": "2"}


class Trades:
    """All services of one hospital."""

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self.hospital, self.ledger = hospital, ledger
        self._desk = Desk(hospital, ledger)
        self._money = Money(hospital, ledger)
        self._reports = Reports(hospital)
        self._checked_in: set[str] = set()

    def run(self, op: str, body: etree._Element) -> Reply:
        """Do it. Raises TradeRefused."""
        handler: Callable[[etree._Element], Reply] = (
            getattr(self._money, op, None) or getattr(self._reports, op, None) or getattr(self, f"_{op}")
        )
        if not get(body, "JGID"):
            raise TradeRefused("1000", "入参错误:JGID")
        try:
            return handler(body)
        except Refusal as refusal:
            raise TradeRefused(*_refusal(op, refusal)) from None

    # master data and schedules -----------------------------------------------------------------------------------

    def _ping(self, body: etree._Element) -> Reply:
        return [("XTSJ", f"{self._desk.now():%Y-%m-%d %H:%M:%S}")]

    def _fetch_departments(self, body: etree._Element) -> Reply:
        return listed([[("KSDM", code), ("KSMC", name)] for code, name in self.hospital.departments.items()])

    def _fetch_practitioners(self, body: etree._Element) -> Reply:
        return listed(
            [
                [("YGDM", d.code), ("YGXM", d.name), ("YGJB", d.title), ("KSDM", d.dept)]
                for d in self.hospital.doctors.values()
            ]
        )

    def _fetch_schedules(self, body: etree._Element) -> Reply:
        plans = self._desk.plans(need(body, "KSRQ"), need(body, "JSRQ"), get(body, "KSDM"), get(body, "YSDM"))
        return listed([self._plan_row(plan) for plan in plans])

    def _plan_row(self, plan: Plan) -> Reply:
        doctor = self.hospital.doctors[plan.doctor]
        return [
            ("PBXH", plan.code),
            ("GZRQ", plan.day.isoformat()),
            ("ZBLB", _SESSIONS[plan.session]),
            ("KSDM", plan.dept),
            ("KSMC", self.hospital.departments[plan.dept]),
            ("YSDM", doctor.code),
            ("YSXM", doctor.name),
            ("HYLB", "普通" if plan.fee_fen < 1000 else "专家"),
            ("GHF", "1.00"),
            ("ZLF", yuan(plan.fee_fen - 100)),
            ("FYHJ", yuan(plan.fee_fen)),
            ("YYXE", str(sum(s.capacity for s in self._desk.segments(plan.code)))),
            ("TGBZ", "1" if plan.stopped else "0"),
            ("JZDZ", "门诊楼2层"),
        ]

    def _fetch_slots(self, body: etree._Element) -> Reply:
        plan = self._plan(need(body, "PBXH"))
        return listed(
            [
                [
                    ("SDXH", str(n)),
                    ("PBXH", plan.code),
                    ("JZSD", f"{s.start:%H:%M}-{s.end:%H:%M}"),
                    ("SYHS", str(s.left)),
                    ("TGBZ", "1" if plan.stopped else "0"),
                ]
                for n, s in enumerate(self._desk.segments(plan.code), 1)
            ]
        )

    def _fetch_stops(self, body: etree._Element) -> Reply:
        plans = self._desk.plans(need(body, "KSRQ"), need(body, "JSRQ"), get(body, "KSDM"))
        return listed(
            [
                [
                    ("PBXH", plan.code),
                    ("GZRQ", plan.day.isoformat()),
                    ("ZBLB", _SESSIONS[plan.session]),
                    ("YSDM", plan.doctor),
                    ("TZYY", "医生停诊"),
                ]
                for plan in plans
                if plan.stopped
            ]
        )

    # people ------------------------------------------------------------------------------------------------------

    def _find_patient(self, body: etree._Element) -> Reply:
        name = get(body, "BRXM")
        people = self._desk.people(mrn=get(body, "BRID"), id_number=get(body, "SFZH"))
        if not people:
            raise TradeRefused("2001", "病人不存在")
        if name and all(person.name != name for person in people):
            raise TradeRefused("2003", "姓名与证件号不符")
        return listed(
            [
                [
                    ("BRID", p.mrn),
                    ("BRXM", p.name),
                    ("BRXB", p.sex),
                    ("CSNY", p.birth_date),
                    ("SFZH", p.id_number),
                    ("LXDH", p.phone[:3] + "****" + p.phone[7:]),
                ]
                for p in people
            ]
        )

    def _create_patient(self, body: etree._Element) -> Reply:
        given = (need(body, "BRXM"), need(body, "SFZH"), get(body, "LXDH"), get(body, "BRXB"), get(body, "CSNY"))
        return [("BRID", self.hospital.create_person(*given).mrn)]

    # visits ------------------------------------------------------------------------------------------------------

    def _lock_slot(self, body: etree._Element) -> Reply:
        plan = self._plan(need(body, "PBXH"))
        if fen(need(body, "FYHJ")) != plan.fee_fen:
            raise TradeRefused("3009", "金额不符")
        visit = self._desk.lock(need(body, "WBDDH"), need(body, "BRID"), self._segment(plan, need(body, "SDXH")))
        return [
            ("DDXH", visit.no),
            ("JZXH", visit.queue_no),
            ("FYHJ", yuan(visit.fee_fen)),
            ("SHSJ", f"{self.ledger.lock_ends[visit.no]:%Y-%m-%d %H:%M:%S}"),
        ]

    _book = _lock_slot

    def _unlock_slot(self, body: etree._Element) -> Reply:
        visit = self._visit(body)
        if visit.state == "registered":
            raise TradeRefused("3008", "已挂号,请退号")
        self.hospital.release(visit.no)
        return [("DDXH", visit.no)]

    def _register(self, body: etree._Element) -> Reply:
        visit = self._visit(body)
        self._desk.pay(visit.no, fen(need(body, "ZFJE")), get(body, "JYLSH"))
        return [
            ("DDXH", visit.no),
            ("MZXH", f"M{visit.no}"),
            ("JZXH", visit.queue_no),
            ("FYHJ", yuan(visit.fee_fen)),
            ("JZDZ", "门诊楼2层"),
        ]

    def _cancel_registration(self, body: etree._Element) -> Reply:
        visit = self._visit(body)
        if visit.no in self._checked_in:
            raise TradeRefused("3008", "已签到,请到窗口办理")
        if visit.state == "registered" and not get(body, "JYLSH"):
            raise TradeRefused("3008", "已缴费,请退号")
        self._desk.release(visit.no)
        return [("DDXH", visit.no)]

    _refund = _cancel_registration

    def _check_in(self, body: etree._Element) -> Reply:
        visit = self._visit(body)
        if visit.state != "registered":
            raise TradeRefused("3006", "订单不存在")
        self._checked_in.add(visit.no)
        return [("DDXH", visit.no), ("JZXH", visit.queue_no)]

    def _fetch_registration(self, body: etree._Element) -> Reply:
        visit = self._visit(body)
        segment = self.hospital.segments[visit.segment]
        return listed(
            [
                [
                    ("DDXH", visit.no),
                    ("WBDDH", visit.key),
                    ("DDZT", self._status(visit)),
                    ("BRID", visit.mrn),
                    ("PBXH", segment.plan),
                    ("GZRQ", segment.start.date().isoformat()),
                    ("JZSD", f"{segment.start:%H:%M}-{segment.end:%H:%M}"),
                    ("JZXH", visit.queue_no),
                    ("MZXH", f"M{visit.no}" if visit.paid_fen else ""),
                    ("FYHJ", yuan(visit.fee_fen)),
                    ("SHSJ", f"{self.ledger.lock_ends[visit.no]:%Y-%m-%d %H:%M:%S}"),
                ]
            ]
        )

    def _status(self, visit: Visit) -> str:
        if visit.state == "released":
            return "9" if visit.paid_fen else "8"
        if visit.attended:
            return {"arrived": "2", "seen": "3", "missed": "4"}[visit.attended]
        return "2" if visit.no in self._checked_in else {"locked": "0", "registered": "1"}[visit.state]

    # looking things up -------------------------------------------------------------------------------------------

    def _plan(self, code: str) -> Plan:
        plan = self.hospital.plans.get(code)
        if plan is None:
            raise TradeRefused("3006", "排班不存在")
        return plan

    def _segment(self, plan: Plan, number: str) -> Segment:
        segments = self._desk.segments(plan.code)
        if not number.isdigit() or not 1 <= int(number) <= len(segments):
            raise TradeRefused("3006", "时段不存在")
        return segments[int(number) - 1]

    def _visit(self, body: etree._Element) -> Visit:
        key, no = get(body, "WBDDH"), get(body, "DDXH")
        visit = self.hospital.visit_by_key(key) if key else self.hospital.visits.get(no)
        if visit is None:
            raise TradeRefused("3006", "订单不存在")
        return visit


def _refusal(op: str, refusal: Refusal) -> tuple[str, str]:
    match refusal.code:
        case "full":
            return "3001", "号源已满"
        case "exists":
            return ("2004", "病人已存在") if op == "create_patient" else ("3003", "订单已存在")
        case "stopped":
            return "3004", "医生停诊"
        case "state":
            return ("3006", "订单已失效") if op == "register" else ("3007", "该号已退")
        case "mismatch":
            return ("2003", "姓名与证件号不符") if op == "create_patient" else ("3009", "金额不符")
        case _:
            return ("2001", "病人不存在") if "patient" in refusal.text else ("3006", "记录不存在")
