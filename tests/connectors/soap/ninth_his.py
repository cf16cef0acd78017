"""A HIS that speaks a dialect which nobody has: written apart from its profile (made_up/ninth), and from every shipped dialect.

`Ask(who, what, words)` over SOAP 1.2: `what` is the trade, `words` a JSON object in a CDATA section. It answers in `Answer`, in a
CDATA section too: {"verdict": "YES", "data": {...}}, or {"verdict": "NO", "ground": "no-seat", "say": "..."}. Lists are packed
strings (`code^name@code^name`), money is in fen, days are 20260105, times 0800-0830.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web
from lxml import etree

from loadtest.simulators.hospital import Charge, Hospital, Refusal, Visit
from loadtest.simulators.soap_dialects.speaking import Called, Desk, Ledger, Unreadable

SOAP = "http://www.w3.org/2003/05/soap-envelope"
DESK = "urn:ninth:desk"
OPS = {
    "hello": "ping",
    "depts": "fetch_departments",
    "doctors": "fetch_practitioners",
    "plans": "fetch_schedules",
    "times": "fetch_slots",
    "person": "find_patient",
    "newcomer": "create_patient",
    "take": "book",
    "pay": "register",
    "back": "cancel_registration",
    "visit": "fetch_registration",
    "bills": "fetch_bills",
    "settle": "settle_bill",
    "bill": "fetch_settlement",
    "lines": "fetch_statement",
    "reports": "fetch_reports",
}
GROUNDS = {"full": "no-seat", "exists": "dup", "stopped": "stopped", "state": "undone"}
Data = dict[str, Any]


class No(Exception):
    """The HIS says no, on this ground."""


class Ninth:
    """The desk."""

    path = "/desk"

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self.hospital, self.ledger, self.desk = hospital, ledger, Desk(hospital, ledger)

    def wsdl(self, address: str) -> str | None:
        return None

    def read(self, request: web.Request, body: bytes) -> Called:
        try:
            ask = etree.fromstring(body).find(f"{{{SOAP}}}Body/{{{DESK}}}Ask")
            given = {} if ask is None else {etree.QName(part).localname: part.text or "" for part in ask}
            if given["who"] != "clinic-17" or b"<![CDATA[" not in body:
                raise Unreadable("who are you?")
            words = json.loads(given["words"])
        except (etree.XMLSyntaxError, ValueError, KeyError) as error:
            raise Unreadable(type(error).__name__) from None
        op = OPS.get(given["what"])
        return Called(given["what"], "refund" if op == "cancel_registration" and "refund" in words else op, words)

    def run(self, called: Called, habits: frozenset[str]) -> str:
        do: Callable[[Data], Data] = getattr(self, f"_{called.operation}")
        try:
            data = do(called.doc)
        except No as no:
            return _no(str(no))
        except KeyError:
            return _no("bad")
        except Refusal as refusal:
            if refusal.code == "mismatch":
                return _no("other-name" if called.operation == "newcomer" else "amount")
            return _no(GROUNDS.get(refusal.code) or ("nobody" if "patient" in refusal.text else "nothing"))
        if "collapse" in habits:
            data = {name: one[0] if isinstance(one, list) and len(one) == 1 else one for name, one in data.items()}
        return json.dumps({"verdict": "YES", "data": data}, ensure_ascii=False)

    def refusal(self, called: Called, kind: str) -> str:
        return _no({"full": "no-seat", "exists": "dup"}.get(kind, "too-many"))

    def reply(self, called: Called, text: str, encoding: str | None = None) -> web.Response:
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?><e:Envelope xmlns:e="{SOAP}"><e:Body><n:AskResponse xmlns:n="{DESK}">'
            f"<n:Seen>1</n:Seen><n:Answer><![CDATA[{text}]]></n:Answer></n:AskResponse></e:Body></e:Envelope>"
        )
        return web.Response(body=body.encode(encoding or "utf-8"), content_type="application/soap+xml", charset="utf-8")

    # what is there ------------------------------------------------------------------------------------------------

    def _hello(self, asked: Data) -> Data:
        return {}

    def _depts(self, asked: Data) -> Data:
        return {"depts": _packed(self.hospital.departments.items())}

    def _doctors(self, asked: Data) -> Data:
        return {"doctors": _packed((d.code, d.name, d.title, d.dept) for d in self.hospital.doctors.values())}

    def _plans(self, asked: Data) -> Data:
        return {
            "plans": _packed(
                (p.code, f"{p.day:%Y%m%d}", p.session[0].upper(), p.dept, p.doctor, p.fee_fen, 0 if p.stopped else 1)
                for p in self.hospital.plans.values()
                if asked["since"] <= f"{p.day:%Y%m%d}" <= asked["until"] and asked["dept"] in ("", p.dept)
            )
        }

    def _times(self, asked: Data) -> Data:
        plan = self.hospital.plans[asked["plan"]]
        spans = ((f"{s.start:%H%M}-{s.end:%H%M}", s.left) for s in self.desk.segments(plan.code))
        return {
            "plan": plan.code,
            "day": f"{plan.day:%Y%m%d}",
            "half": plan.session[0].upper(),
            "times": _packed(spans),
        }

    # people and visits --------------------------------------------------------------------------------------------

    def _person(self, asked: Data) -> Data:
        people = self.desk.people(mrn=asked["no"], id_number=asked["id"])
        if not people:
            raise No("nobody")
        return {"person": [{"no": p.mrn, "name": p.name, "sex": p.sex or "?"} for p in people]}

    def _newcomer(self, asked: Data) -> Data:
        person = self.hospital.create_person(asked["name"], asked["id"], asked["tel"], asked["sex"])
        return {"person": {"no": person.mrn, "name": person.name, "sex": person.sex}}

    def _take(self, asked: Data) -> Data:
        begin = asked["span"][:4]
        segment = self.desk.segment(asked["plan"], f"{begin[:2]}:{begin[2:]}")
        if segment is None:
            raise No("nothing")
        return {"visit": self._told(self.desk.lock(asked["key"], asked["person"], segment))}

    def _pay(self, asked: Data) -> Data:
        visit = self._found(asked)
        return {"visit": self._told(self.desk.pay(visit.no, asked["fen"], asked["trade"]))}

    def _back(self, asked: Data) -> Data:
        return {"visit": self._told(self.desk.release(self._found(asked).no))}

    def _visit(self, asked: Data) -> Data:
        return {"visit": [self._told(self._found(asked))]}

    def _found(self, asked: Data) -> Visit:
        visit = self.hospital.visit_by_key(asked["key"])
        if visit is None:
            raise No("nothing")
        return visit

    def _told(self, visit: Visit) -> Data:
        state = {"locked": "held", "registered": "paid"}.get(visit.state) or ("back" if visit.paid_fen else "free")
        plan = self.hospital.segments[visit.segment].plan
        told = {"no": visit.no, "key": visit.key, "state": state, "person": visit.mrn, "plan": plan}
        return {**told, "queue": visit.queue_no, "fen": visit.fee_fen}

    # money and reports --------------------------------------------------------------------------------------------

    def _bills(self, asked: Data) -> Data:
        open_ones = [c for c in self.hospital.charges.values() if c.mrn == asked["person"] and c.state == "open"]
        return {
            "bills": [
                {"no": c.no, "fen": c.total_fen, "rows": [{"name": name, "fen": fen} for name, fen in c.items]}
                for c in open_ones
            ]
        }

    def _settle(self, asked: Data) -> Data:
        charge = self.hospital.settle(asked["bill"], asked["fen"], asked["trade"])
        self.ledger.paid_at[charge.no] = self.desk.now()
        return {"bill": _bill(charge)}

    def _bill(self, asked: Data) -> Data:
        return {"bill": _bill(self.hospital.charges[asked["bill"]])}

    def _lines(self, asked: Data) -> Data:
        visits = [(v.no, v.paid_fen, v.trade_no, v.key) for v in self.hospital.visits.values() if v.paid_fen]
        charges = [(c.no, c.total_fen, c.trade_no, c.no) for c in self.hospital.charges.values() if c.state == "paid"]
        moved: list[tuple[Any, ...]] = []
        for no, *told in visits + charges:
            for way, at in (("in", self.ledger.paid_at.get(no)), ("out", self.ledger.refunded_at.get(no))):
                if at is not None and _compact(at)[:8] == asked["day"]:
                    moved.append((way, *told, _compact(at)))
        return {"lines": _packed(moved)}

    def _reports(self, asked: Data) -> Data:
        marks = {"H": "+", "L": "-", "N": "="}
        return {
            "reports": [
                {
                    "no": r.no,
                    "name": r.name,
                    "at": _compact(r.issued or self.desk.now()),
                    "rows": [{**row, "mark": marks[row["flag"]]} for row in r.results],
                }
                for r in self.hospital.reports.values()
                if r.mrn == asked["person"]
            ]
        }


def _bill(charge: Charge) -> Data:
    told = {"no": charge.no, "fen": charge.total_fen, "state": charge.state}
    return {**told, "receipt": charge.receipt, "trade": charge.trade_no}


def _compact(at: dt.datetime) -> str:
    return f"{at:%Y%m%d%H%M%S}"


def _packed(rows: Any) -> str:
    return "@".join("^".join(map(str, row)) for row in rows)


def _no(ground: str) -> str:
    return json.dumps({"verdict": "NO", "ground": ground, "say": "不行", "data": None}, ensure_ascii=False)
