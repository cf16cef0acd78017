"""What the simulated hospital of the pipe string does for each trade: the values of the string in, rows of the reply out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loadtest.simulators.hospital import Charge, Hospital, Plan, Refusal, Segment, Visit
from loadtest.simulators.soap_dialects.speaking import Desk, Ledger, TradeRefused

Row = dict[str, Any]
Rows = list[Row]

# trade -> the port's verb, by which the switchboard names faults, and how many values follow it
TRADES: dict[str, tuple[str, int]] = {
    "FWQSJ": ("ping", 1),
    "KSLB": ("fetch_departments", 1),
    "YSLB": ("fetch_practitioners", 2),
    "PBCX": ("fetch_schedules", 4),
    "SDCX": ("fetch_slots", 2),
    "TZCX": ("fetch_stops", 3),
    "BRCX": ("find_patient", 4),
    "BRJD": ("create_patient", 7),
    "YY": ("book", 6),
    "GHJS": ("register", 6),
    "QXYY": ("cancel_registration", 2),
    "TH": ("cancel_registration", 5),
    "YYCX": ("fetch_registration", 2),
    "JFCX": ("fetch_bills", 2),
    "JF": ("settle_bill", 8),
    "JFJG": ("fetch_settlement", 4),
    "DZ": ("fetch_statement", 3),
    "BGCX": ("fetch_reports", 2),
}
_SESSIONS = {"am": "上午", "pm": "下午"}
_FLAGS = {"H": "↑", "L": "↓", "N": "正常"}
_NOTHING = TradeRefused("-1", "无数据")


class Trades:
    """All trades of one hospital. Its numbers of schedules have a dash where the hospital has ||."""

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self.hospital, self.ledger = hospital, ledger
        self._desk = Desk(hospital, ledger)

    def run(self, op: str, values: list[str]) -> Rows | Row:
        """Do it. Raises TradeRefused, with 无数据 where there is nothing to list."""
        campus, *rest = values
        if campus != "1":
            raise TradeRefused("-1", "参数错误:院区")
        handler: Callable[..., Rows | Row] = getattr(self, f"_{op}")
        try:
            found = handler(*rest)
        except Refusal as refusal:
            raise TradeRefused("-1", _text(op, refusal)) from None
        if not found:
            raise _NOTHING
        return found

    # master data and schedules -----------------------------------------------------------------------------------

    def _ping(self) -> Row:
        return {"服务器时间": f"{self._desk.now():%Y%m%d%H%M%S}"}

    def _fetch_departments(self) -> Rows:
        return [{"科室编码": code, "科室名称": name} for code, name in self.hospital.departments.items()]

    def _fetch_practitioners(self, dept: str) -> Rows:
        return [
            {"医生工号": d.code, "医生姓名": d.name, "职称": d.title, "科室编码": d.dept}
            for d in self.hospital.doctors.values()
            if dept in ("", d.dept)
        ]

    def _fetch_schedules(self, first: str, last: str, dept: str) -> Rows:
        return [self._schedule(plan) for plan in self._plans(first, last, dept)]

    def _plans(self, first: str, last: str, dept: str = "") -> list[Plan]:
        return self._desk.plans(_dashed(first), _dashed(last), dept)

    def _schedule(self, plan: Plan) -> Row:
        doctor = self.hospital.doctors[plan.doctor]
        return {
            "排班号": _number(plan),
            "日期": f"{plan.day:%Y%m%d}",
            "班次": _SESSIONS[plan.session],
            "科室编码": plan.dept,
            "科室名称": self.hospital.departments[plan.dept],
            "医生工号": doctor.code,
            "医生姓名": doctor.name,
            "号别": "普通号" if plan.fee_fen < 1000 else "专家号",
            "挂号费": plan.fee_fen,
            "状态": "停诊" if plan.stopped else "正常",
            "就诊地点": "门诊楼2层",
        }

    def _fetch_slots(self, number: str) -> Rows:
        plan = self._plan(number)
        return [
            {"排班号": number, "时段": _span(segment), "剩余号数": segment.left}
            for segment in self._desk.segments(plan.code)
        ]

    def _fetch_stops(self, first: str, last: str) -> Rows:
        return [
            {
                "排班号": _number(plan),
                "日期": f"{plan.day:%Y%m%d}",
                "班次": _SESSIONS[plan.session],
                "停诊原因": "医生停诊",
            }
            for plan in self._plans(first, last)
            if plan.stopped
        ]

    # people ------------------------------------------------------------------------------------------------------

    def _find_patient(self, mrn: str, id_number: str, name: str) -> Rows:
        people = self._desk.people(mrn=mrn, id_number=id_number)
        if not people:
            raise TradeRefused("-1", "病人不存在")
        if name and all(person.name != name for person in people):
            raise TradeRefused("-1", "姓名与证件号不符")
        return [
            {"病人ID": p.mrn, "姓名": p.name, "性别": p.sex, "证件号": p.id_number, "手机号": p.phone} for p in people
        ]

    def _create_patient(self, name: str, sex: str, born: str, id_number: str, phone: str, address: str) -> Row:
        if not name or not id_number:
            raise TradeRefused("-1", "参数错误:姓名,证件号")
        return {"病人ID": self.hospital.create_person(name, id_number, phone, sex, born).mrn}

    # visits ------------------------------------------------------------------------------------------------------

    def _book(self, key: str, mrn: str, number: str, span: str, amount: str) -> Row:
        plan = self._plan(number)
        if amount != str(plan.fee_fen):
            raise TradeRefused("-1", "金额不符")
        segment = next((s for s in self._desk.segments(plan.code) if _span(s) == span), None)
        if segment is None or not key:
            raise TradeRefused("-1", "参数错误:时段")
        return self._visit_row(self._desk.lock(key, mrn, segment))

    def _register(self, key: str, mode: str, amount: str, trade_no: str, paid_at: str) -> Row:
        return self._visit_row(self._desk.pay(self._visit(key).no, int(amount), trade_no))

    def _cancel_registration(self, key: str, trade_no: str = "", refund_no: str = "", amount: str = "") -> Row:
        visit = self._visit(key)
        if visit.state == "registered" and trade_no != visit.trade_no:
            raise TradeRefused("-1", "已挂号,请退号")
        self._desk.release(visit.no)
        return self._visit_row(visit)

    _refund = _cancel_registration

    def _fetch_registration(self, key: str) -> Rows:
        return [self._visit_row(self._visit(key))]

    def _visit_row(self, visit: Visit) -> Row:
        came = {"arrived": "已取号", "seen": "已就诊", "missed": "爽约"}
        status = came.get(visit.attended) or {"locked": "已预约", "registered": "已挂号"}.get(visit.state)
        segment = self.hospital.segments[visit.segment]
        return {
            "预约号": visit.no,
            "平台订单号": visit.key,
            "状态": status or ("已退号" if visit.paid_fen else "已取消"),
            "病人ID": visit.mrn,
            "排班号": _number(self.hospital.plans[segment.plan]),
            "时段": _span(segment),
            "序号": visit.queue_no,
            "门诊号": f"M{visit.no}" if visit.paid_fen else "",
            "金额": visit.fee_fen,
            "支付截止时间": f"{self.ledger.lock_ends[visit.no]:%Y%m%d%H%M%S}",
            "就诊地点": "门诊楼2层",
        }

    # money and reports -------------------------------------------------------------------------------------------

    def _fetch_bills(self, mrn: str) -> Rows:
        return [
            {
                "费用单号": c.no,
                "费用名称": "门诊费用",
                "金额": c.total_fen,
                "病人ID": c.mrn,
                "开单科室": "内科",
                "明细": [
                    {"项目编码": str(n), "项目名称": name, "金额": cost, "数量": 1, "单位": "次"}
                    for n, (name, cost) in enumerate(c.items, 1)
                ],
            }
            for c in self.hospital.charges.values()
            if c.mrn == mrn and c.state == "open"
        ]

    def _settle_bill(self, key: str, mrn: str, number: str, mode: str, amount: str, trade_no: str, paid_at: str) -> Row:
        charge = self.hospital.settle(number, int(amount), trade_no)
        self.ledger.paid_at[charge.no] = self._desk.now()
        return _settled(charge)

    def _fetch_settlement(self, key: str, number: str, trade_no: str) -> Row:
        charge = self.hospital.charges.get(number)
        if charge is None:
            raise _NOTHING
        return _settled(charge) if charge.state == "paid" else {"费用单号": charge.no, "状态": "未缴费"}

    def _fetch_statement(self, day: str, mode: str) -> Rows:
        paid = [(v.no, v.key, v.trade_no, v.paid_fen) for v in self.hospital.visits.values() if v.paid_fen]
        paid += [(c.no, c.no, c.trade_no, c.total_fen) for c in self.hospital.charges.values() if c.state == "paid"]
        return [
            {
                "交易类型": kind,
                "流水号": trade_no,
                "平台订单号": key,
                "金额": amount,
                "支付方式": mode,
                "交易时间": f"{at:%Y%m%d%H%M%S}",
            }
            for no, key, trade_no, amount in paid
            for kind, at in (("收费", self.ledger.paid_at.get(no)), ("退费", self.ledger.refunded_at.get(no)))
            if at is not None and f"{at:%Y%m%d}" == day
        ]

    def _fetch_reports(self, mrn: str) -> Rows:
        return [
            {
                "报告单号": r.no,
                "报告类型": "检验",
                "报告状态": {"preliminary": "未审核", "final": "已审核", "corrected": "已修改"}[r.status],
                "报告名称": r.name,
                "病人ID": r.mrn,
                "报告时间": f"{r.issued:%Y%m%d%H%M%S}",
                "结果": [
                    {
                        "项目编码": x["code"],
                        "项目名称": x["name"],
                        "结果值": x["value"],
                        "单位": x["unit"],
                        "参考范围": x["range"],
                        "提示": _FLAGS[x["flag"]],
                    }
                    for x in r.results
                ],
            }
            for r in self.hospital.reports.values()
            if r.mrn == mrn
        ]

    # looking things up -------------------------------------------------------------------------------------------

    def _plan(self, number: str) -> Plan:
        plan = next((p for p in self.hospital.plans.values() if _number(p) == number), None)
        if plan is None:
            raise TradeRefused("-1", "排班不存在")
        return plan

    def _visit(self, key: str) -> Visit:
        visit = self.hospital.visit_by_key(key)
        if visit is None:
            raise TradeRefused("-1", "订单不存在")
        return visit


def _dashed(day: str) -> str:
    return f"{day[:4]}-{day[4:6]}-{day[6:]}"


def _number(plan: Plan) -> str:
    return plan.code.replace("||", "-")


def _span(segment: Segment) -> str:
    return f"{segment.start:%H%M}-{segment.end:%H%M}"


def _settled(charge: Charge) -> Row:
    return {
        "费用单号": charge.no,
        "状态": "已缴费",
        "票据号": charge.receipt,
        "流水号": charge.trade_no,
        "金额": charge.total_fen,
    }


def _text(op: str, refusal: Refusal) -> str:
    match refusal.code:
        case "full":
            return "号源已满"
        case "exists":
            return "病人已存在" if op == "create_patient" else "订单已存在"
        case "stopped":
            return "医生停诊"
        case "state":
            return "订单已失效" if op == "register" else "该号已退"
        case "mismatch":
            return "姓名与证件号不符" if op == "create_patient" else "金额不符"
        case _:
            return "病人不存在" if "patient" in refusal.text else "记录不存在"
