"""What the simulated 12320 hospital does for each FUN_CODE: a `<REQ>` in, the elements of a `<RES>` out. Money is in fen.

A refusal's code is the FUN_CODE and two digits: 01 not found, 02 undone already, 03 wrong amount, 04 exists, 05 full, 06 taken,
07 stopped, 08 no such patient, 09 another name, 10 too late, 11 a limit; 100001 is a request that lacks something.
"""

from __future__ import annotations

from collections.abc import Callable

from lxml import etree

from loadtest.simulators.hospital import Hospital, Plan, Refusal, Segment, Visit
from loadtest.simulators.soap_dialects.jkt12320_money import Money
from loadtest.simulators.soap_dialects.jkt12320_reports import Reports
from loadtest.simulators.soap_dialects.jkt12320_rows import SESSIONS, get, listed, need
from loadtest.simulators.soap_dialects.speaking import Desk, Ledger, Reply, TradeRefused

LIMIT = "11"
REG_FEE_FEN = 100
"""Of every visit's fee this is for the registration; the rest is for the treatment."""

# FUN_CODE -> the port's verb, by which the switchboard names faults
OPS = {
    "1001": "ping",
    "1002": "create_patient",
    "1003": "find_patient",
    "2001": "fetch_departments",
    "2002": "fetch_practitioners",
    "2003": "fetch_schedules",
    "2004": "fetch_slots",
    "2005": "lock_slot",
    "2006": "unlock_slot",
    "2007": "book",
    "2008": "register",
    "2009": "cancel_registration",
    "2010": "cancel_registration",
    "2011": "check_in",
    "2012": "fetch_registration",
    "3001": "fetch_bills",
    "3002": "fetch_bill_items",
    "3003": "settle_bill",
    "3004": "fetch_settlement",
    "8001": "fetch_reports",
    "8002": "fetch_report",
    "8003": "fetch_report",
    "8004": "fetch_report",
    "9003": "fetch_statement",
}
_REFUSED = {
    "unknown": ("01", "记录不存在"),
    "state": ("02", "订单已取消"),
    "mismatch": ("03", "金额不符"),
    "exists": ("04", "记录已存在"),
    "full": ("05", "号源已满"),
    "stopped": ("07", "医生停诊"),
}


class Trades:
    """All trades of one hospital."""

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self.hospital, self.ledger = hospital, ledger
        self._desk = Desk(hospital, ledger)
        self._ordered: set[str] = set()  # visits that 2007 has made an order of
        self._arrived: set[str] = set()
        money, reports = Money(hospital, ledger), Reports(hospital)
        self._handlers: dict[str, Callable[[etree._Element], Reply]] = {
            "1001": self._test,
            "1002": self._create_patient,
            "1003": self._find_patient,
            "2001": self._departments,
            "2002": self._doctors,
            "2003": self._schedules,
            "2004": self._segments,
            "2005": self._lock,
            "2006": self._unlock,
            "2007": self._book,
            "2008": self._pay,
            "2009": self._cancel,
            "2010": self._refund,
            "2011": self._check_in,
            "2012": self._order,
            "3001": money.bills,
            "3002": money.items,
            "3003": money.settle,
            "3004": money.settlement,
            "8001": reports.listing,
            "8002": lambda doc: reports.one("8002", doc),
            "8003": lambda doc: reports.one("8003", doc),
            "8004": lambda doc: reports.one("8004", doc),
            "9003": money.statement,
        }

    def op_of(self, fun_code: str, doc: etree._Element) -> str | None:
        return "refund" if fun_code == "2010" and get(doc, "REFUND_TYPE") == "2" else OPS.get(fun_code)

    def run(self, fun_code: str, doc: etree._Element) -> Reply:
        """Do it. Raises TradeRefused."""
        try:
            return self._handlers[fun_code](doc)
        except Refusal as refusal:
            digits, text = _REFUSED[refusal.code]
            if "patient" in refusal.text:
                digits, text = "08", "患者不存在"
            elif refusal.code == "mismatch" and fun_code == "1002":
                digits, text = "09", "姓名与证件号不符"
            raise TradeRefused(fun_code + digits, text) from None

    def _test(self, doc: etree._Element) -> Reply:
        return [("SERVER_TIME", f"{self._desk.now():%Y-%m-%d %H:%M:%S}")]

    # people ------------------------------------------------------------------------------------------------------

    def _create_patient(self, doc: etree._Element) -> Reply:
        if get(doc, "SEX") not in ("0", "1", "2"):
            raise TradeRefused("100001", "入参错误:SEX")
        person = self.hospital.create_person(
            need(doc, "NAME"), need(doc, "IDCARD_NO"), get(doc, "MOBILE"), get(doc, "SEX"), get(doc, "BIRTHDAY")
        )
        return [("HOSP_PATIENT_ID", person.mrn)]

    def _find_patient(self, doc: etree._Element) -> Reply:
        people = self._desk.people(mrn=get(doc, "HOSP_PATIENT_ID"), id_number=get(doc, "IDCARD_NO"))
        name = get(doc, "NAME")
        if not people:
            raise TradeRefused("100301", "患者信息不存在")
        if name and all(p.name != name for p in people):
            raise TradeRefused("100309", f"证件号与姓名{name}不符")
        rows: list[Reply] = [
            [
                ("HOSP_PATIENT_ID", p.mrn),
                ("NAME", p.name),
                ("SEX", p.sex or "2"),
                ("BIRTHDAY", p.birth_date),
                ("IDCARD_TYPE", "1"),
                ("IDCARD_NO", p.id_number),
                ("MOBILE", p.phone),
            ]
            for p in people
        ]
        return listed("PATIENT", rows)

    # master data and schedules -----------------------------------------------------------------------------------

    def _departments(self, doc: etree._Element) -> Reply:
        rows: list[Reply] = [[("DEPT_ID", c), ("DEPT_NAME", n)] for c, n in self.hospital.departments.items()]
        return listed("DEPT", rows)

    def _doctors(self, doc: etree._Element) -> Reply:
        dept = need(doc, "DEPT_ID")
        rows: list[Reply] = [
            [("DOCTOR_ID", d.code), ("DOCTOR_NAME", d.name), ("TITLE", d.title), ("DEPT_ID", d.dept)]
            for d in self.hospital.doctors.values()
            if d.dept == dept
        ]
        return listed("DOCTOR", rows)

    def _schedules(self, doc: etree._Element) -> Reply:
        plans = self._desk.plans(
            need(doc, "START_DATE"), need(doc, "END_DATE"), need(doc, "DEPT_ID"), get(doc, "DOCTOR_ID")
        )
        return listed("REG", [self._plan_row(plan) for plan in plans])

    def _plan_row(self, plan: Plan) -> Reply:
        doctor, segments = self.hospital.doctors[plan.doctor], self._desk.segments(plan.code)
        return [
            ("REG_ID", plan.code),
            ("DEPT_ID", plan.dept),
            ("DEPT_NAME", self.hospital.departments[plan.dept]),
            ("DOCTOR_ID", doctor.code),
            ("DOCTOR_NAME", doctor.name),
            ("REG_LEVEL", "普通号" if plan.fee_fen < 1000 else "专家号"),
            ("REG_DATE", plan.day.isoformat()),
            ("TIME_FLAG", SESSIONS[plan.session]),
            ("BEGIN_TIME", f"{segments[0].start:%H:%M}"),
            ("END_TIME", f"{segments[-1].end:%H:%M}"),
            ("REG_STATUS", "2" if plan.stopped else "1"),
            ("ISTIME", "1"),
            ("TOTAL", str(sum(s.capacity for s in segments))),
            ("OVER_COUNT", str(sum(s.left for s in segments))),
            ("REG_FEE", str(REG_FEE_FEN)),
            ("TREAT_FEE", str(plan.fee_fen - REG_FEE_FEN)),
            ("ADDRESS", "门诊楼2层"),
        ]

    def _segments(self, doc: etree._Element) -> Reply:
        plan = need(doc, "REG_ID")
        if plan not in self.hospital.plans:
            raise TradeRefused("200401", "排班不存在")
        rows: list[Reply] = [
            [
                ("BEGIN_TIME", f"{s.start:%H:%M}"),
                ("END_TIME", f"{s.end:%H:%M}"),
                ("TOTAL", str(s.capacity)),
                ("OVER_COUNT", str(s.left)),
            ]
            for s in self._desk.segments(plan)
        ]
        return listed("TIME", rows)

    # visits ------------------------------------------------------------------------------------------------------

    def _lock(self, doc: etree._Element) -> Reply:
        """A lock names no patient: the order does."""
        need(doc, "CHANNEL_ID")
        visit = self._desk.lock(need(doc, "LOCK_ID"), "", self._segment("2005", doc))
        return [("LOCK_ID", visit.key), ("LOCK_EXPIRE_TIME", self._lock_ends(visit))]

    def _unlock(self, doc: etree._Element) -> Reply:
        visit = self._visit("2006", need(doc, "LOCK_ID"))
        if visit.no in self._ordered and visit.state != "released":
            raise TradeRefused("200610", "已生成订单,不能解锁")
        self.hospital.release(visit.no)
        return [("LOCK_ID", visit.key)]

    def _book(self, doc: etree._Element) -> Reply:
        key, mrn, is_reg = need(doc, "ORDER_ID"), need(doc, "HOSP_PATIENT_ID"), need(doc, "IS_REG")
        if mrn not in self.hospital.people:
            raise TradeRefused("200708", "患者不存在")
        if is_reg == "3":
            visit = self._visit("2007", key)
            if visit.no in self._ordered:
                raise TradeRefused("200704", "订单已存在")
            if visit.state != "locked":
                raise TradeRefused("200702", "锁号已失效")
            visit.mrn = mrn
        else:
            segment = self._segment("2007", doc)
            if is_reg != ("1" if segment.start.date() == self._desk.now().date() else "2"):
                raise TradeRefused("100001", "入参错误:IS_REG")
            visit = self._desk.lock(key, mrn, segment)
        self._ordered.add(visit.no)
        return [
            ("HOSP_ORDER_ID", visit.no),
            ("HOSP_SERIAL_NUM", visit.queue_no),
            ("HOSP_GETREG_DATE", f"{self.hospital.segments[visit.segment].start:%Y-%m-%d %H:%M:%S}"),
            ("CONCESSIONS", "0"),
        ]

    def _pay(self, doc: etree._Element) -> Reply:
        visit = self._visit("2008", need(doc, "ORDER_ID"))
        if visit.no not in self._ordered:
            raise TradeRefused("200801", "订单不存在")
        self._desk.pay(visit.no, int(need(doc, "TRADE_AMOUNT")), get(doc, "TRANSACTION_ID"))
        return [("HOSP_PAY_ID", f"J{visit.no}"), ("HOSP_SERIAL_NUM", visit.queue_no), ("ADDRESS", "门诊楼2层")]

    def _cancel(self, doc: etree._Element) -> Reply:
        visit = self._visit("2009", need(doc, "ORDER_ID"))
        if visit.no not in self._ordered:
            raise TradeRefused("200901", "订单不存在")
        if visit.state == "registered":
            raise TradeRefused("200910", "已缴费,请退号")
        self.hospital.release(visit.no)
        return []

    def _refund(self, doc: etree._Element) -> Reply:
        visit = self._visit("2010", need(doc, "ORDER_ID"))
        if not visit.paid_fen:
            raise TradeRefused("201001", "订单未缴费")
        if visit.no in self._arrived:
            raise TradeRefused("201010", "已取号,请到窗口办理")
        if int(need(doc, "REFUND_AMOUNT")) != visit.paid_fen:
            raise TradeRefused("201003", "金额不符")
        self._desk.release(visit.no)
        return [("HOSP_REFUND_ID", f"F{visit.no}")]

    def _check_in(self, doc: etree._Element) -> Reply:
        visit = self._visit("2011", need(doc, "ORDER_ID"))
        if visit.state != "registered":
            raise TradeRefused("201101", "订单不存在")
        if visit.no in self._arrived:
            raise TradeRefused("201104", "已取号")
        self._arrived.add(visit.no)
        return [("HOSP_SERIAL_NUM", visit.queue_no), ("ADDRESS", "门诊楼2层")]

    def _order(self, doc: etree._Element) -> Reply:
        visit = self._visit("2012", need(doc, "ORDER_ID"))
        segment = self.hospital.segments[visit.segment]
        ordered = visit.no in self._ordered
        row: Reply = [
            ("ORDER_ID", visit.key),
            ("HOSP_ORDER_ID", visit.no if ordered else ""),
            ("ORDER_STATUS", self._status(visit)),
            ("HOSP_PATIENT_ID", visit.mrn),
            ("REG_ID", segment.plan),
            ("HOSP_SERIAL_NUM", visit.queue_no if ordered else ""),
            ("HOSP_PAY_ID", f"J{visit.no}" if visit.paid_fen else ""),
            ("REG_DATE", segment.start.date().isoformat()),
            ("BEGIN_TIME", f"{segment.start:%H:%M}"),
            ("END_TIME", f"{segment.end:%H:%M}"),
            ("REG_FEE", str(REG_FEE_FEN)),
            ("TREAT_FEE", str(visit.fee_fen - REG_FEE_FEN)),
            ("LOCK_EXPIRE_TIME", self._lock_ends(visit)),
        ]
        return listed("ORDER", [row])

    def _status(self, visit: Visit) -> str:
        """0 locked, 1 ordered, 2 paid, 3 checked in, 4 seen, 5 cancelled, 6 refunded, 7 missed."""
        match visit.state:
            case "locked":
                return "1" if visit.no in self._ordered else "0"
            case "registered":
                came = {"arrived": "3", "seen": "4", "missed": "7"}
                return came.get(visit.attended, "3" if visit.no in self._arrived else "2")
            case _:
                return "6" if visit.paid_fen else "5"

    # looking things up -------------------------------------------------------------------------------------------

    def _segment(self, fun_code: str, doc: etree._Element) -> Segment:
        segment = self._desk.segment(need(doc, "REG_ID"), get(doc, "BEGIN_TIME"))
        if segment is None:
            raise TradeRefused(f"{fun_code}01", "排班不存在")
        plan = self.hospital.plans[segment.plan]
        if int(need(doc, "REG_FEE")) + int(need(doc, "TREAT_FEE")) != plan.fee_fen:
            raise TradeRefused(f"{fun_code}03", "金额不符")
        told = [get(doc, name) for name in ("DEPT_ID", "DOCTOR_ID", "REG_DATE", "TIME_FLAG")]
        if told != [plan.dept, plan.doctor, plan.day.isoformat(), SESSIONS[plan.session]]:
            raise TradeRefused("100001", "入参错误:排班信息不符")
        return segment

    def _visit(self, fun_code: str, key: str) -> Visit:
        visit = self.hospital.visit_by_key(key)
        if visit is None:
            raise TradeRefused(f"{fun_code}01", "订单不存在")
        return visit

    def _lock_ends(self, visit: Visit) -> str:
        return f"{self.ledger.lock_ends[visit.no]:%Y-%m-%d %H:%M:%S}"
