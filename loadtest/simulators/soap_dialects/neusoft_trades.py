"""What the simulated Neusoft-style hospital does for each operation: arguments in, the data of the answer out."""

from __future__ import annotations

from collections.abc import Callable

from loadtest.simulators.hospital import Charge, Hospital, LabReport, Plan, Refusal, Segment, Visit
from loadtest.simulators.soap_dialects.speaking import Desk, Ledger, Reply, TradeRefused, fen, yuan

Given = dict[str, str]

NOONS = {"am": "1", "pm": "2"}
PLACE = "门诊楼4层"
EXAMS = ("CT", "MR", "超声", "X线")
"""What the name of an examination begins with or has in it; every other report is the laboratory's."""

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
            "getRecipeList": self._recipes,
            "getRecipeDetail": self._recipe_lines,
            "prePayRecipe": self._pre_pay,
            "payRecipe": self._pay_recipe,
            "getPayInfo": self._pay_info,
            "getCheckBill": self._check_bill,
            "getLisReportList": lambda given: self._reports(given, exams=False),
            "getPacsReportList": lambda given: self._reports(given, exams=True),
            "getLisReportDetail": lambda given: self._report(given, exam=False),
            "getPacsReportDetail": lambda given: self._report(given, exam=True),
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
        return _rows([[("DEPT_CODE", code), ("DEPT_NAME", name)] for code, name in self.hospital.departments.items()])

    def _doctors(self, given: Given) -> Reply:
        dept = _need(given, "deptCode")
        return _rows(
            [
                [("DOCT_CODE", d.code), ("DOCT_NAME", d.name), ("LEVL_NAME", d.title), ("DEPT_CODE", d.dept)]
                for d in self.hospital.doctors.values()
                if d.dept == dept
            ]
        )

    def _schemas(self, given: Given) -> Reply:
        dept, doctor = _need(given, "deptCode"), given.get("doctCode", "")
        return _rows([self._schema(p) for p in self._desk.plans(given["beginDate"], given["endDate"], dept, doctor)])

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
        plan = self.hospital.plans.get(_need(given, "schemaId"))
        if plan is None or given["seeDate"] != plan.day.isoformat() or given["noonCode"] != NOONS[plan.session]:
            raise TradeRefused("0", "排班不存在")
        return _rows(
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
        return _rows(
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
        return _rows(
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
        person = self.hospital.create_person(_need(given, "name"), _need(given, "idenNo"), *rest)
        return [("Data", [("CARD_NO", person.mrn)])]

    # visits ------------------------------------------------------------------------------------------------------

    def _taken(self, given: Given, number: str) -> Reply:
        visit = self._desk.lock(_need(given, "orderNo"), _need(given, "cardNo"), self._segment(given))
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
        segment = self.hospital.segments.get(_need(given, "timeId"))
        if segment is None or segment.plan != _need(given, "schemaId"):
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
        state = {"locked": "0", "registered": "1"}.get(visit.state) or ("4" if visit.paid_fen else "5")
        row: Reply = [
            ("ORDER_NO", visit.key),
            ("LOCK_ID", visit.no),
            ("CLINIC_CODE", f"C{visit.no}" if visit.paid_fen else ""),
            ("STATE", "2" if state == "1" and visit.no in self._checked_in else state),
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
        return _rows([row])

    def _visit(self, given: Given) -> Visit:
        visit = self.hospital.visit_by_key(_need(given, "orderNo"))
        if visit is None or visit.mrn != given.get("cardNo", visit.mrn):
            raise TradeRefused("0", "挂号记录不存在")
        return visit

    # money -------------------------------------------------------------------------------------------------------

    def _recipes(self, given: Given) -> Reply:
        mrn = _need(given, "cardNo")
        return _rows(
            [
                [
                    ("RECIPE_NO", c.no),
                    ("RECIPE_NAME", "门诊处方"),
                    ("TOTCOST", yuan(c.total_fen)),
                    ("CARD_NO", c.mrn),
                    ("CLINIC_CODE", f"C{c.no}"),
                    ("DEPT_NAME", "内科"),
                    ("PAY_FLAG", "0"),
                ]
                for c in self.hospital.charges.values()
                if c.mrn == mrn and c.state == "open"
            ]
        )

    def _recipe_lines(self, given: Given) -> Reply:
        lines = enumerate(self._charge(given).items, 1)
        return _rows(
            [
                [
                    ("ITEM_CODE", str(n)),
                    ("ITEM_NAME", name),
                    ("TOTCOST", yuan(cost)),
                    ("QTY", "1"),
                    ("PRICE_UNIT", "次"),
                ]
                for n, (name, cost) in lines
            ]
        )

    def _pre_pay(self, given: Given) -> Reply:
        charge = self._charge(given)
        if charge.state == "paid":
            raise TradeRefused("0", "该处方已收费")
        if fen(given["totCost"]) != charge.total_fen:
            raise TradeRefused("0", "金额不符")
        cost = yuan(charge.total_fen)
        return [
            (
                "Data",
                [
                    ("RECIPE_NO", charge.no),
                    ("PREPAY_NO", f"P{charge.no}"),
                    ("TOTCOST", cost),
                    ("PUB_COST", "0.00"),
                    ("PAY_COST", "0.00"),
                    ("OWN_COST", cost),
                ],
            )
        ]

    def _pay_recipe(self, given: Given) -> Reply:
        charge = self._charge(given)
        self.hospital.settle(charge.no, fen(given["totCost"]), given["tradeNo"])
        self.ledger.paid_at[charge.no] = self._desk.now()
        return [("Data", self._paid(charge))]

    def _pay_info(self, given: Given) -> Reply:
        charge = self._charge(given)
        if charge.state != "paid":
            raise TradeRefused("0", "未查询到收费记录")
        return _rows([self._paid(charge)])

    def _paid(self, charge: Charge) -> Reply:
        return [
            ("RECIPE_NO", charge.no),
            ("PAY_FLAG", "1"),
            ("RECEIPT_NO", charge.receipt),
            ("INVOICE_NO", ""),
            ("TRADE_NO", charge.trade_no),
            ("TOTCOST", yuan(charge.total_fen)),
        ]

    def _charge(self, given: Given) -> Charge:
        charge = self.hospital.charges.get(_need(given, "recipeNo"))
        if charge is None or charge.mrn != _need(given, "cardNo"):
            raise TradeRefused("0", "收费记录不存在")
        return charge

    def _check_bill(self, given: Given) -> Reply:
        moved = [(v.no, v.key, v.trade_no, v.paid_fen) for v in self.hospital.visits.values() if v.paid_fen]
        moved += [(c.no, "", c.trade_no, c.total_fen) for c in self.hospital.charges.values() if c.state == "paid"]
        rows: list[Reply] = []
        for no, key, trade_no, amount in moved:
            for kind, at in (("1", self.ledger.paid_at.get(no)), ("2", self.ledger.refunded_at.get(no))):
                if at is not None and at.date().isoformat() == given["billDate"]:
                    rows.append(
                        [
                            ("TRANS_TYPE", kind),
                            ("TRADE_NO", trade_no),
                            ("ORDER_NO", key),
                            ("TOTCOST", yuan(amount)),
                            ("PAY_MODE", "WX"),
                            ("OPER_DATE", f"{at:%Y-%m-%d %H:%M:%S}"),
                        ]
                    )
        return _rows(rows)

    # reports -----------------------------------------------------------------------------------------------------

    def _reports(self, given: Given, *, exams: bool) -> Reply:
        mrn, first, last = _need(given, "cardNo"), given["beginDate"], given["endDate"]
        found = [r for r in self.hospital.reports.values() if r.mrn == mrn and _is_exam(r) is exams]
        return _rows([_report_row(r) for r in found if r.issued and first <= r.issued.date().isoformat() <= last])

    def _report(self, given: Given, *, exam: bool) -> Reply:
        report = self.hospital.reports.get(_need(given, "reportNo"))
        if report is None or report.mrn != _need(given, "cardNo") or _is_exam(report) is not exam:
            raise TradeRefused("0", "报告不存在")
        if exam:
            url = f"http://127.0.0.1/pacs/{report.no}.pdf"
            words: Reply = [("EXAM_SEE", "未见异常密度影"), ("EXAM_RESULT", "未见异常"), ("PDF_URL", url)]
            return [("Data", [*_report_row(report), *words])]
        items: Reply = [
            (
                "Item",
                [
                    ("ITEM_CODE", line["code"]),
                    ("ITEM_NAME", line["name"]),
                    ("RESULT", line["value"]),
                    ("UNIT", line["unit"]),
                    ("REFER_RANGE", line["range"]),
                    ("RESULT_FLAG", {"H": "↑", "L": "↓"}.get(line["flag"], "")),
                ],
            )
            for line in report.results
        ]
        return [("Data", [*_report_row(report), ("Items", items)])]


def _rows(rows: list[Reply]) -> Reply:
    if not rows:
        raise TradeRefused("0", "未查询到数据")
    return [("Data", [("Row", row) for row in rows])]


def _is_exam(report: LabReport) -> bool:
    return any(word in report.name for word in EXAMS)


def _report_row(report: LabReport) -> Reply:
    return [
        ("REPORT_NO", report.no),
        ("REPORT_NAME", report.name),
        ("CARD_NO", report.mrn),
        ("REPORT_DATE", f"{report.issued:%Y-%m-%d %H:%M:%S}"),
        ("REPORT_STATE", {"preliminary": "1", "final": "2", "corrected": "3"}[report.status]),
        ("REPORT_OPER", "周敏"),
    ]


def _sentence(operation: str, refusal: Refusal) -> str:
    if operation == "createPatient":
        return {"exists": "患者已存在", "mismatch": "姓名与证件号不符"}.get(refusal.code, "建档失败")
    if refusal.code == "unknown" and "patient" in refusal.text:
        return "患者不存在"
    if operation == "payRecipe" and refusal.code == "exists":
        return "该处方已收费"
    return "订单已失效" if operation == "payRegister" and refusal.code == "state" else _SENTENCES[refusal.code]


def _need(given: Given, name: str) -> str:
    value = given.get(name, "").strip()
    if not value:
        raise TradeRefused("0", f"入参错误:{name}")
    return value
