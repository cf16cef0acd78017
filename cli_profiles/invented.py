"""Invented requests for every verb: nobody's data, so that what a profile sends can be looked at without a hospital."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from connectors.port import BillPayment, Order, RefundOrder, Verb, Window
from mappings.canonical import (
    Attachment,
    Bill,
    BillItem,
    Department,
    Patient,
    Payment,
    Record,
    Refund,
    Registration,
    RegistrationStatus,
    Report,
    ReportKind,
    ReportStatus,
    Schedule,
    Session,
    Sex,
    Slot,
)
from mappings.context import Failure
from mappings.profile import Profile

_HIS_REF = re.compile(r"(?:^|\.)his_refs\.([A-Za-z0-9_-]+)$")

_PLAUSIBLE = (
    (re.compile(r"(end|stop|until|to)_?time", re.IGNORECASE), "11:30"),
    (re.compile(r"time|begin|start", re.IGNORECASE), "08:00"),
    (re.compile(r"date|day", re.IGNORECASE), "2026-01-05"),
)


def invented_request(verb: str, profile: Profile, zone: ZoneInfo, *, then: bool = False) -> Any:
    """The request of a verb as its mappings read it; of its follow-up (`then`) with a record. Every part is filled."""
    made = _Invented(references(profile.raw), zone)
    request = made.requests()[Verb(verb)]
    if not then:
        return request
    return {"record": made.records().get(Verb(verb), made.bill), "request": request}


def references(raw: Any) -> dict[str, str]:
    """The `his_refs` that a profile reads anywhere, with a value: one that a `when` asks for, or the name in capitals."""
    found: dict[str, str] = {}
    for name, wanted in _names(raw):
        match = _HIS_REF.search(name)
        if match is not None and (wanted is not None or match[1] not in found):
            found[match[1]] = wanted or _plausible(match[1])
    return found


def _plausible(name: str) -> str:
    """What a HIS may have kept under a name: a time or a date where it sounds like one."""
    return next((value for pattern, value in _PLAUSIBLE if pattern.search(name)), name.upper())


def _names(raw: Any) -> Iterator[tuple[str, str | None]]:
    """Every text that may be a name, and what it must be where a `when` says so."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            first = value[0] if isinstance(value, list) and value and isinstance(value[0], str) else None
            yield str(key), first
            yield from _names(value)
    elif isinstance(raw, list):
        for value in raw:
            yield from _names(value)
    elif isinstance(raw, str):
        yield raw, None


class Asked(dict[str, Any]):
    """What a read is asked with, where that is no record: a name that it does not have is an error, as it is of a record."""

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self:
            raise Failure(f"what this read is asked with has no {key}: it has {', '.join(self)}")
        return super().get(key, default)


class _Invented:
    def __init__(self, refs: dict[str, str], zone: ZoneInfo) -> None:
        self.day = dt.datetime.now(zone).date() + dt.timedelta(days=1)
        starts_at = dt.datetime.combine(self.day, dt.time(8), zone)
        self.window = Window(date_from=self.day, date_to=self.day, department_id="DEPT1")
        self.department = Department(id="DEPT1", name="样例科室", his_refs=refs)
        self.schedule = Schedule(
            id="SCHEDULE1", date=self.day, session=Session.AM, department_id="DEPT1", department_name="样例科室",
            practitioner_id="DOCTOR1", practitioner_name="样例医生", clinic_type="普通号", fee_fen=700, his_refs=refs,
        )  # fmt: skip
        self.slot = Slot(
            id="SLOT1", schedule_id="SCHEDULE1", date=self.day, session=Session.AM, starts_at=starts_at,
            ends_at=starts_at + dt.timedelta(minutes=30), seats_left=3, his_refs=refs,
        )  # fmt: skip
        self.patient = Patient(
            name="样例患者", mrn="MRN1", id_type="id_card", id_number="110101199003070000", phone="13800000000",
            birth_date=dt.date(1990, 3, 7), sex=Sex.FEMALE, card_type="card", card_number="CARD1", address="样例地址",
            guardian_name="样例监护人", guardian_id_number="110101196003070000", his_refs=refs,
        )  # fmt: skip
        self.payment = Payment(channel="WECHAT", trade_no="TRADE1", amount_fen=700, paid_at=starts_at)
        self.refund = Refund(refund_no="9" * 20, payment=self.payment, amount_fen=700, reason="样例原因", his_refs=refs)
        self.order = Order(
            order_no="1" * 20, schedule=self.schedule, slot=self.slot, patient=self.patient, fee_fen=700,
            payment=self.payment, refund=self.refund, reason="样例原因", his_refs=refs,
        )  # fmt: skip
        item = BillItem(name="样例项目", amount_fen=700, quantity="1", unit="次", code="ITEM1")
        self.bill = Bill(
            id="BILL1", amount_fen=700, currency="CNY", mrn="MRN1", title="样例费用", issued_at=starts_at,
            encounter_no="VISIT1", items=(item,), his_refs=refs,
        )  # fmt: skip
        self.report = Report(id="REPORT1", kind=ReportKind.LAB, status=ReportStatus.FINAL, mrn="MRN1", his_refs=refs)
        self.registration = Registration(
            status=RegistrationStatus.REGISTERED, order_no="1" * 20, his_id="HIS1", mrn="MRN1", his_refs=refs
        )
        self.paying = BillPayment(
            order_no="2" * 20, bill=self.bill, patient=self.patient, payment=self.payment, his_refs=refs
        )
        self.refunding = RefundOrder(refund=self.refund, patient=self.patient, order=self.order, bill=self.bill)

    def requests(self) -> dict[Verb, Any]:
        of_window = Asked(msgspec.structs.asdict(self.window), department=self.department, schedule=self.schedule)
        reads = dict.fromkeys(
            (Verb.PING, Verb.FETCH_DEPARTMENTS, Verb.FETCH_PRACTITIONERS, Verb.FETCH_SCHEDULES, Verb.FETCH_SLOTS,
             Verb.FETCH_STOPS),
            of_window,
        )  # fmt: skip
        of_orders: dict[Verb, Any] = dict.fromkeys(
            (Verb.FETCH_REGISTRATION, Verb.LOCK_SLOT, Verb.UNLOCK_SLOT, Verb.BOOK, Verb.REGISTER,
             Verb.CANCEL_REGISTRATION, Verb.CHECK_IN),
            self.order,
        )  # fmt: skip
        of_people: dict[Verb, Any] = dict.fromkeys(
            (Verb.FIND_PATIENT, Verb.CREATE_PATIENT, Verb.FETCH_BILLS, Verb.FETCH_REPORTS), self.patient
        )
        of_money: dict[Verb, Any] = {
            Verb.FETCH_SETTLEMENT: self.paying,
            Verb.PRESETTLE_BILL: self.paying,
            Verb.SETTLE_BILL: self.paying,
            Verb.FETCH_REFUND: self.refunding,
            Verb.REFUND: self.refunding,
            Verb.FETCH_STATEMENT: Asked(date=self.day),
        }
        return reads | of_orders | of_people | of_money | {
            Verb.FETCH_REPORT: Asked(patient=self.patient, report_id="REPORT1"),
            Verb.FETCH_ATTACHMENT: Attachment(content_type="application/pdf", url="http://his.invalid/report.pdf"),
        }  # fmt: skip

    def records(self) -> dict[Verb, Record]:
        """A record of the kind that a read gives."""
        return {
            Verb.FETCH_DEPARTMENTS: self.department,
            Verb.FETCH_SCHEDULES: self.schedule,
            Verb.FETCH_SLOTS: self.slot,
            Verb.FIND_PATIENT: self.patient,
            Verb.FETCH_REGISTRATION: self.registration,
            Verb.FETCH_BILLS: self.bill,
            Verb.FETCH_REPORTS: self.report,
            Verb.FETCH_REPORT: self.report,
        }
