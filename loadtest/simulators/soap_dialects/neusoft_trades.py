"""What the simulated Neusoft-style hospital does for each operation: arguments in, the data of the answer out."""

from __future__ import annotations

from collections.abc import Callable

from loadtest.simulators.hospital import Hospital, Plan, Refusal, Segment, Visit
from loadtest.simulators.soap_dialects.neusoft_money import Money
from loadtest.simulators.soap_dialects.neusoft_reports import Reports
from loadtest.simulators.soap_dialects.neusoft_rows import Given, listed, need
from loadtest.simulators.soap_dialects.speaking import Desk, Ledger, Reply, TradeRefused, fen, yuan

NOONS = {"am": "1", "pm": "2"}
PLACE = "门诊楼4层"

_SENTENCES = {
    "full": "号源已满",
    "exists": "订单已存在",
    "stopped": "医生停诊",
    "state": "该号已退号",
    "mismatch": "金额不符",
    "unknown": "挂号记录不存在",
}


class Trades:
    """All operations of one hospital. A list that would be empty is a refusal: 未查询到数据."""

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self.hospital, self.ledger = hospital, ledger
        self._desk = Desk(hospital, ledger)
        self._checked_in: set[str] = set()
        self._refund_nos: dict[str, str] = {}
        money, reports = Money(hospital, ledger), Reports(hospital)
        self._handlers: dict[str, Callable[[Given], Reply]] = {
            "testConnection": self._test,
            "getDeptList": self._depts,
            "getDoctList": self._doctors,
            "getSchemaList": self._schemas,
            "getSchemaTimeList": self._times,
            "getStopSchemaList": self._stops,
            "getPatientInfo": self._people,
            "createPatient": self._create,
            "lockSource": self._lock,
            "unlockSource": self._unlock,
            "bookRegister": self._book,
            "cancelBook": self._cancel_book,
            "payRegister": self._pay,
            "returnRegister": self._give_back,
            "checkIn": self._check_in,
            "getRegisterInfo": self._register_info,
            "getRecipeList": money.recipes,
            "getRecipeDetail": money.recipe_lines,
            "prePayRecipe": money.pre_pay,
            "payRecipe": money.pay_recipe,
            "getPayInfo": money.pay_info,
            "getCheckBill": money.check_bill,
            "getLisReportList": lambda given: reports.reports(given, exams=False),
            "getPacsReportList": lambda given: reports.reports(given, exams=True),
            "getLisReportDetail": lambda given: reports.report(given, exam=False),
            "getPacsReportDetail": lambda given: reports.report(given, exam=True),
        }

    def run(self, operation: str, given: Given) -> Reply:
        """Do it. Raises TradeRefused."""
        try:
            return self._handlers[operation](given)
        except Refusal as refusal:
            raise TradeRefused("0", _sentence(operation, refusal)) from None

    def _test(self, given: Given) -> Reply:
        return [("Data", [("SYS_DATE", f"{self._desk.now():%Y-%m-%d %H:%M:%S}")])]

    # master data and schedules -----------------------------------------------------------------------------------

    def _depts(self, given: Given) -> Reply:
        return listed([[("DEPT_CODE", code), ("DEPT_NAME", name)] for code, name in self.hospital.departments.items()])

    def _doctors(self, given: Given) -> Reply:
        dept = need(given, "deptCode")
        return listed(
            [
                [("DOCT_CODE", d.code), ("DOCT_NAME", d.name), ("LEVL_NAME", d.title), ("DEPT_CODE", d.dept)]
                for d in self.hospital.doctors.values()
                if d.dept == dept
            ]
        )

    def _schemas(self, given: Given) -> Reply:
        dept, doctor = need(given, "deptCode"), given.get("doctCode", "")
        return listed([self._schema(p) for p in self._desk.plans(given["beginDate"], given["endDate"], dept, doctor)])

    def _schema(self, plan: Plan) -> Reply:
        doctor, segments = self.hospital.doctors[plan.doctor], self._desk.segments(plan.code)
        return [
            ("ID", plan.code),
            ("SEE_DATE", plan.day.isoformat()),
            ("NOONCODE", NOONS[plan.session]),
            ("BEGIN_TIME", f"{segments[0].start:%H:%M}"),
            ("END_TIME", f"{segments[-1].end:%H:%M}"),
            ("DEPT_CODE", plan.dept),
            ("DEPT_NAME", self.hospital.departments[plan.dept]),
            ("DOCT_CODE", doctor.code),
            ("DOCT_NAME", doctor.name),
            ("REGLEVL_CODE", "1" if plan.fee_fen < 1000 else "2"),
            ("REGLEVL_NAME", "普通号" if plan.fee_fen < 1000 else "专家号"),
            ("TOTCOST", yuan(plan.fee_fen)),
            ("CANREG", "0" if plan.stopped else "1"),
            ("TIME_FLAG", "1"),
            ("TEL_LMT", str(sum(s.capacity for s in segments))),
            ("TEL_REGED", str(sum(s.taken for s in segments))),
            ("ADDRESS", PLACE),
        ]

    def _times(self, given: Given) -> Reply:
        plan = self.hospital.plans.get(need(given, "schemaId"))
        if plan is None or given["seeDate"] != plan.day.isoformat() or given["noonCode"] != NOONS[plan.session]:
            raise TradeRefused("0", "排班不存在")
        return listed(
            [
                [
                    ("ID", s.code),
                    ("SCHEMA_ID", plan.code),
                    ("BEGIN_TIME", f"{s.start:%H:%M}"),
                    ("END_TIME", f"{s.end:%H:%M}"),
                    ("TEL_LMT", str(s.capacity)),
                    ("TEL_REGED", str(s.taken)),
                ]
                for s in self._desk.segments(plan.code)
            ]
        )

    def _stops(self, given: Given) -> Reply:
        return listed(
            [
                [
                    ("ID", p.code),
                    ("SEE_DATE", p.day.isoformat()),
                    ("NOONCODE", NOONS[p.session]),
                    ("DEPT_CODE", p.dept),
                    ("DOCT_CODE", p.doctor),
                    ("STOP_REASON", "医生停诊"),
                ]
                for p in self._desk.plans(given["beginDate"], given["endDate"], given.get("deptCode", ""))
                if p.stopped
            ]
        )

    # people ------------------------------------------------------------------------------------------------------

    def _people(self, given: Given) -> Reply:
        name = given.get("name", "")
        people = self._desk.people(mrn=given.get("cardNo", ""), id_number=given.get("idenNo", ""))
        if not people:
            raise TradeRefused("0", "未查询到患者信息")
        if name and all(p.name != name for p in people):
            raise TradeRefused("0", f"姓名与证件号不符:{name}")
        return listed(
            [
                [
                    ("CARD_NO", p.mrn),
                    ("NAME", p.name),
                    ("SEX_CODE", p.sex),
                    ("BIRTHDAY", p.birth_date),
                    ("IDENNO", p.id_number),
                    ("HOME_TEL", p.phone),
                ]
                for p in people
            ]
        )

    def _create(self, given: Given) -> Reply:
        rest = [given.get(name, "") for name in ("homeTel", "sexCode", "birthday")]
        person = self.hospital.create_person(need(given, "name"), need(given, "idenNo"), *rest)
        return [("Data", [("CARD_NO", person.mrn)])]

    # visits ------------------------------------------------------------------------------------------------------

    def _taken(self, given: Given, number: str) -> Reply:
        visit = self._desk.lock(need(given, "orderNo"), need(given, "cardNo"), self._segment(given))
        return [
            (
                "Data",
                [
                    ("ORDER_NO", visit.key),
                    (number, visit.no),
                    ("SEENO", visit.queue_no),
                    ("TOTCOST", yuan(visit.fee_fen)),
                    ("END_DATE", f"{self.ledger.lock_ends[visit.no]:%Y-%m-%d %H:%M:%S}"),
                ],
            )
        ]

    def _lock(self, given: Given) -> Reply:
        return self._taken(given, "LOCK_ID")

    def _book(self, given: Given) -> Reply:
        return self._taken(given, "BOOK_ID")

    def _segment(self, given: Given) -> Segment:
        segment = self.hospital.segments.get(need(given, "timeId"))
        if segment is None or segment.plan != need(given, "schemaId"):
            raise TradeRefused("0", "排班不存在")
        return segment

    def _unlock(self, given: Given) -> Reply:
        visit = self._visit(given)
        if visit.state == "registered":
            raise TradeRefused("0", "已挂号,请到窗口办理")
        self.hospital.release(visit.no)
        return [("Data", [("ORDER_NO", visit.key)])]

    _cancel_book = _unlock

    def _pay(self, given: Given) -> Reply:
        visit = self._visit(given)
        self._desk.pay(visit.no, fen(given["totCost"]), given.get("tradeNo", ""))
        return [
            (
                "Data",
                [
                    ("ORDER_NO", visit.key),
                    ("CLINIC_CODE", f"C{visit.no}"),
                    ("SEENO", visit.queue_no),
                    ("INVOICE_NO", f"F{visit.no}"),
                    ("TOTCOST", yuan(visit.paid_fen)),
                    ("ADDRESS", PLACE),
                ],
            )
        ]

    def _give_back(self, given: Given) -> Reply:
        visit = self._visit(given)
        if visit.no in self._checked_in:
            raise TradeRefused("0", "已签到,请到窗口退号")
        self._desk.release(visit.no)
        self._refund_nos[visit.no] = given.get("refundNo", "")
        return [("Data", [("ORDER_NO", visit.key), ("CLINIC_CODE", f"C{visit.no}")])]

    def _check_in(self, given: Given) -> Reply:
        visit = self._visit(given)
        if visit.state != "registered":
            raise TradeRefused("0", "未缴费,不能签到")
        if visit.no in self._checked_in:
            raise TradeRefused("0", "该号已签到")
        self._checked_in.add(visit.no)
        return [
            (
                "Data",
                [
                    ("ORDER_NO", visit.key),
                    ("CLINIC_CODE", f"C{visit.no}"),
                    ("SEENO", visit.queue_no),
                    ("ADDRESS", PLACE),
                ],
            )
        ]

    def _register_info(self, given: Given) -> Reply:
        visit = self._visit(given)
        segment = self.hospital.segments[visit.segment]
        came = {"arrived": "2", "seen": "3", "missed": "6"}
        state = {"locked": "0", "registered": "1"}.get(visit.state) or ("4" if visit.paid_fen else "5")
        row: Reply = [
            ("ORDER_NO", visit.key),
            ("LOCK_ID", visit.no),
            ("CLINIC_CODE", f"C{visit.no}" if visit.paid_fen else ""),
            ("STATE", came.get(visit.attended, "2" if state == "1" and visit.no in self._checked_in else state)),
            ("CARD_NO", visit.mrn),
            ("SCHEMA_ID", segment.plan),
            ("TIME_ID", segment.code),
            ("SEE_DATE", segment.start.date().isoformat()),
            ("BEGIN_TIME", f"{segment.start:%H:%M}"),
            ("SEENO", visit.queue_no),
            ("TOTCOST", yuan(visit.fee_fen)),
            ("REFUND_NO", self._refund_nos.get(visit.no, "")),
            ("END_DATE", f"{self.ledger.lock_ends[visit.no]:%Y-%m-%d %H:%M:%S}"),
        ]
        return listed([row])

    def _visit(self, given: Given) -> Visit:
        visit = self.hospital.visit_by_key(need(given, "orderNo"))
        if visit is None or visit.mrn != given.get("cardNo", visit.mrn):
            raise TradeRefused("0", "挂号记录不存在")
        return visit


def _sentence(operation: str, refusal: Refusal) -> str:
    if operation == "createPatient":
        return {"exists": "患者已存在", "mismatch": "姓名与证件号不符"}.get(refusal.code, "建档失败")
    if refusal.code == "unknown" and "patient" in refusal.text:
        return "患者不存在"
    if operation == "payRecipe" and refusal.code == "exists":
        return "该处方已收费"
    return "订单已失效" if operation == "payRegister" and refusal.code == "state" else _SENTENCES[refusal.code]
