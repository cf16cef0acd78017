"""What the simulated Zysoft hospital does for each trade code: a request document in, reply elements out.

A schedule has no number: department, doctor, day and session are its name. 2306 takes the seat as an unpaid booking, 2058 makes a
visit of it, 2094 pays that, or the bills that 2095 has numbered. Everything that goes wrong is 9999 with a sentence.
"""

from __future__ import annotations

from collections.abc import Callable

from lxml import etree

from loadtest.simulators.hospital import Charge, Hospital, Plan, Refusal, Segment, Visit
from loadtest.simulators.soap_dialects.speaking import Desk, Ledger, Reply, TradeRefused, fen, listed, text_in, yuan

SESSIONS = {"am": "S", "pm": "X"}
PLACE = "门诊楼1层"

OPS = {
    "1012": "fetch_departments",
    "1013": "fetch_practitioners",
    "2058": "open_visit",
    "2090": "fetch_bills",
    "2094": "settle",
    "2095": "presettle_bill",
    "2108": "ping",
    "2113": "find_patient",
    "2131": "create_patient",
    "2304": "fetch_slots",
    "2305": "fetch_schedules",
    "2306": "book",
    "2309": "cancel_registration",
    "2310": "fetch_registration",
}
ORDER_STATUS = {"locked": "0", "registered": "1", "released": "2", "seen": "3", "missed": "4", "arrived": "1"}
_SENTENCES = {
    "full": "无有效号源",
    "exists": "该订单已存在",
    "stopped": "医生停诊",
    "state": "该预约已取消",
    "mismatch": "金额不一致",
    "unknown": "预约记录不存在",
}


def op_of(doc: etree._Element) -> str | None:
    """The port's verb of a request: 2094 pays a visit, or the bills whose numbers it names."""
    op = OPS.get(text_in(doc, "TradeCode"))
    if op == "settle":
        return "settle_bill" if text_in(doc, "SequenceNos/SequenceNo") else "register"
    return op


class Trades:
    """All trades of one hospital."""

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self.hospital, self.ledger = hospital, ledger
        self._desk = Desk(hospital, ledger)

    def run(self, op: str, doc: etree._Element) -> Reply:
        """Do it. Raises TradeRefused."""
        handler: Callable[[etree._Element], Reply] = getattr(self, f"_{op}")
        try:
            return handler(doc)
        except Refusal as refusal:
            raise TradeRefused("9999", _sentence(op, refusal)) from None

    def _ping(self, doc: etree._Element) -> Reply:
        return [("HISDate", f"{self._desk.now():%Y%m%d%H%M%S}")]

    # master data and schedules -----------------------------------------------------------------------------------

    def _fetch_departments(self, doc: etree._Element) -> Reply:
        names = self.hospital.departments
        rows: list[Reply] = [[("DepartmentCode", code), ("DepartmentName", names[code])] for code in names]
        return _rows("Departments", "Department", rows)

    def _fetch_practitioners(self, doc: etree._Element) -> Reply:
        dept = _need(doc, "DepartmentCode")
        rows: list[Reply] = [
            [("DoctorCode", d.code), ("DoctorName", d.name), ("DoctorTitle", d.title), ("DepartmentCode", d.dept)]
            for d in self.hospital.doctors.values()
            if d.dept == dept
        ]
        return _rows("Doctors", "Doctor", rows)

    def _fetch_schedules(self, doc: etree._Element) -> Reply:
        session, doctor = text_in(doc, "SessionCode"), text_in(doc, "DoctorCode")
        plans = self._desk.plans(_need(doc, "StartDate"), _need(doc, "EndDate"), _need(doc, "DepartmentCode"), doctor)
        rows = [self._plan_row(p) for p in plans if not p.stopped and session in ("", SESSIONS[p.session])]
        return _rows("Schedules", "Schedule", rows)

    def _plan_row(self, plan: Plan) -> Reply:
        doctor = self.hospital.doctors[plan.doctor]
        expert = plan.fee_fen >= 1000
        return [
            ("ServiceDate", f"{plan.day.isoformat()} 00:00:00"),
            ("SessionCode", SESSIONS[plan.session]),
            ("DepartmentCode", plan.dept),
            ("DepartmentName", self.hospital.departments[plan.dept]),
            ("Doctor", f"{doctor.name}/{doctor.code}"),
            ("DoctorCode", doctor.code),
            ("DoctorName", doctor.name),
            ("DoctorTitle", doctor.title),
            ("DoctorSessType", "专家号" if expert else "普通号"),
            ("DoctorSessTypeCode", "2" if expert else "1"),
            ("Fee", yuan(plan.fee_fen)),
            ("AvailableNum", str(sum(s.left for s in self._desk.segments(plan.code)))),
        ]

    def _fetch_slots(self, doc: etree._Element) -> Reply:
        rows: list[Reply] = [
            [
                ("StartTime", f"{s.start:%H:%M}"),
                ("EndTime", f"{s.end:%H:%M}"),
                ("DoctorSeq", str(n)),
                ("AvailableNum", str(s.left)),
            ]
            for n, s in enumerate(self._desk.segments(self._plan(doc).code), 1)
        ]
        return _rows("TimeInfos", "TimeInfo", rows)

    def _plan(self, doc: etree._Element) -> Plan:
        day, session, doctor = _need(doc, "ServiceDate"), _need(doc, "SessionCode"), _need(doc, "Doctor")
        for plan in self._desk.plans(day, day, _need(doc, "DepartmentCode")):
            name = self.hospital.doctors[plan.doctor].name
            if SESSIONS[plan.session] == session and doctor == f"{name}/{plan.doctor}":
                return plan
        raise TradeRefused("9999", "排班不存在")

    # people ------------------------------------------------------------------------------------------------------

    def _find_patient(self, doc: etree._Element) -> Reply:
        name = text_in(doc, "PatientName")
        people = self._desk.people(mrn=text_in(doc, "PatientID"), id_number=text_in(doc, "IDCardNo"))
        if people and name and all(p.name != name for p in people):
            raise TradeRefused("9999", f"姓名与证件号不符:{name}")
        rows: list[Reply] = [
            [
                ("PatientID", p.mrn),
                ("PatientName", p.name),
                ("Sex", p.sex),
                ("Birthday", p.birth_date),
                ("IDCardNo", p.id_number),
                ("PhoneNo", p.phone),
            ]
            for p in people
        ]
        return _rows("CardInfos", "CardInfo", rows)

    def _create_patient(self, doc: etree._Element) -> Reply:
        given = [text_in(doc, name) for name in ("MobileNo", "Sex", "Birthday")]
        person = self.hospital.create_person(_need(doc, "PatientName"), _need(doc, "IDCardNo"), *given)
        return [("PatientID", person.mrn)]

    # visits ------------------------------------------------------------------------------------------------------

    def _book(self, doc: etree._Element) -> Reply:
        visit = self._desk.lock(_need(doc, "BankTradeNo"), _need(doc, "PatientID"), self._segment(doc))
        return [
            ("HISTradeNo", visit.no),
            ("OrderCode", visit.queue_no),
            ("Fee", yuan(visit.fee_fen)),
            ("AdmitAddress", PLACE),
            ("AdmitRange", ""),
        ]

    def _segment(self, doc: etree._Element) -> Segment:
        segments, number = self._desk.segments(self._plan(doc).code), _need(doc, "ReserveCode")
        if not number.isdecimal() or not 1 <= int(number) <= len(segments):
            raise TradeRefused("9999", "时段不存在")
        return segments[int(number) - 1]

    def _open_visit(self, doc: etree._Element) -> Reply:
        visit = self._visit(_need(doc, "OrgHISTradeNo"))
        if visit.state == "registered":
            raise TradeRefused("9999", "该预约已取号")
        if visit.state == "released":
            raise TradeRefused("9999", "该预约已取消")
        return [("VisitNo", f"V{visit.no}")]

    def _register(self, doc: etree._Element) -> Reply:
        visit = self._visit(text_in(doc, "VisitNo").removeprefix("V") or _need(doc, "OrgHISTradeNo"))
        self._desk.pay(visit.no, fen(_need(doc, "Charges")), _need(doc, "BankTradeNo"))
        return [
            ("VisitNo", f"V{visit.no}"),
            ("QueueNo", visit.queue_no),
            ("Charges", yuan(visit.paid_fen)),
            ("ReceiptNo", f"R{visit.no}"),
            ("SettleNo", f"S{visit.no}"),
            ("AdmitAddress", PLACE),
        ]

    def _cancel_registration(self, doc: etree._Element) -> Reply:
        visit = self._visit(_need(doc, "OrgHISTradeNo"))
        self._desk.release(visit.no)
        return [("HISTradeNo", visit.no)]

    def _fetch_registration(self, doc: etree._Element) -> Reply:
        visit = self.hospital.visit_by_key(_need(doc, "OrgBankTradeNo"))
        if visit is None:
            raise TradeRefused("9999", "预约记录不存在")
        segment = self.hospital.segments[visit.segment]
        plan = self.hospital.plans[segment.plan]
        row: Reply = [
            ("BankTradeNo", visit.key),
            ("HISTradeNo", visit.no),
            ("OrderCode", visit.queue_no),
            ("OrderStatus", ORDER_STATUS[visit.attended or visit.state]),
            ("PatientID", visit.mrn),
            ("DepartmentCode", plan.dept),
            ("DoctorCode", plan.doctor),
            ("ServiceDate", plan.day.isoformat()),
            ("StartTime", f"{segment.start:%H:%M}"),
            ("VisitNo", f"V{visit.no}" if visit.paid_fen else ""),
            ("Fee", yuan(visit.fee_fen)),
        ]
        return _rows("OrderInfos", "OrderInfo", [row])

    def _visit(self, no: str) -> Visit:
        visit = self.hospital.visits.get(no)
        if visit is None:
            raise TradeRefused("9999", "预约记录不存在")
        return visit

    # money -------------------------------------------------------------------------------------------------------

    def _fetch_bills(self, doc: etree._Element) -> Reply:
        mrn = _need(doc, "PatientID")
        charges = [c for c in self.hospital.charges.values() if c.mrn == mrn and c.state == "open"]
        visits: list[Reply] = [
            [("ResidenceNo", f"V{c.no}"), ("PatientID", c.mrn), ("ApplyDeptName", "内科")] for c in charges
        ]
        return [
            *_rows("VisitInfos", "VisitInfo", visits),
            listed("ApplyItems", "ApplyItem", [_bill(c) for c in charges]),
        ]

    def _presettle_bill(self, doc: etree._Element) -> Reply:
        charge = self._charge(text_in(doc, "ApplyItems/ApplyItem/ApplyNo"))
        if charge.mrn != _need(doc, "PatientID"):
            raise TradeRefused("9999", "划价单不存在")
        if charge.state == "paid":
            raise TradeRefused("9999", "该划价单已缴费")
        return [*_rows("SequenceNos", "SequenceNo", [f"Q{charge.no}"]), ("PreCost", yuan(charge.total_fen))]

    def _settle_bill(self, doc: etree._Element) -> Reply:
        charge = self._charge(text_in(doc, "SequenceNos/SequenceNo").removeprefix("Q"))
        self.hospital.settle(charge.no, fen(_need(doc, "Charges")), _need(doc, "BankTradeNo"))
        self.ledger.paid_at[charge.no] = self._desk.now()
        return [
            ("BankTradeNo", charge.trade_no),
            ("ReceiptNo", charge.receipt),
            ("SettleNo", f"S{charge.no}"),
            ("Charges", yuan(charge.total_fen)),
        ]

    def _charge(self, no: str) -> Charge:
        charge = self.hospital.charges.get(no)
        if charge is None:
            raise TradeRefused("9999", "划价单不存在")
        return charge


def _bill(charge: Charge) -> Reply:
    items: list[Reply] = [
        [("ItemCode", str(n)), ("ItemName", name), ("Charges", yuan(cost)), ("Amount", "1"), ("Units", "次")]
        for n, (name, cost) in enumerate(charge.items, 1)
    ]
    return [
        ("ApplyNo", charge.no),
        ("ApplyName", "门诊处方"),
        ("ResidenceNo", f"V{charge.no}"),
        ("ItemCost", yuan(charge.total_fen)),
        listed("Items", "Item", items),
    ]


def _rows(outer: str, inner: str, rows: list[Reply] | list[str]) -> Reply:
    return [("CycleNum", str(len(rows))), (outer, [(inner, row) for row in rows])]


def _sentence(op: str, refusal: Refusal) -> str:
    if op == "create_patient":
        return {"exists": "患者已存在", "mismatch": "姓名与证件号不符"}.get(refusal.code, "建档失败")
    if refusal.code == "unknown" and "patient" in refusal.text:
        return "患者不存在"
    if refusal.code == "exists" and op in ("register", "settle_bill"):
        return "该费用已支付"
    return _SENTENCES[refusal.code]


def _need(doc: etree._Element, name: str) -> str:
    value = text_in(doc, name)
    if not value:
        raise TradeRefused("9999", f"入参错误:{name}")
    return value
