"""What each verb is asked with in the golden requests: one patient, one order, one bill, all made up."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import msgspec

from connectors.port import BillPayment, Order, Verb, Window
from mappings.canonical import Bill, Patient, Payment, Schedule, Session, Sex, Slot

SHANGHAI = ZoneInfo("Asia/Shanghai")
DAY = dt.date(2026, 1, 6)
STARTS_AT = dt.datetime(2026, 1, 6, 8, 0, tzinfo=SHANGHAI)
PATIENT = Patient(
    name="王芳", mrn="P0001", id_type="id_card", id_number="110105194912310022", phone="13800000001",
    birth_date=dt.date(1949, 12, 31), sex=Sex.FEMALE,
)  # fmt: skip
STRANGER = msgspec.structs.replace(PATIENT, mrn=None)
SCHEDULE = Schedule(
    id="P12", date=DAY, session=Session.AM, department_id="100", department_name="内科&急诊",
    practitioner_id="D1", practitioner_name="李明", fee_fen=1250,
)  # fmt: skip
SLOT = Slot(
    id="P12||1", schedule_id="P12", date=DAY, session=Session.AM, starts_at=STARTS_AT,
    ends_at=STARTS_AT + dt.timedelta(minutes=30), seats_left=5,
)  # fmt: skip
PAYMENT = Payment(
    channel="WECHAT", trade_no="4200000001", amount_fen=1250, paid_at=dt.datetime(2026, 1, 5, 8, 0, tzinfo=SHANGHAI)
)
NEW = Order(order_no="20260105000000000001", schedule=SCHEDULE, slot=SLOT, patient=PATIENT, fee_fen=1250)
KNOWN = msgspec.structs.replace(NEW, his_refs={"appointment": "A7001"}, payment=PAYMENT)
BILL = Bill(id="B100", amount_fen=1250, currency="CNY", his_refs={"account": "AC77"})
BILL_PAYMENT = BillPayment(order_no="20260105000000000009", bill=BILL, patient=PATIENT, payment=PAYMENT)
WINDOW = Window(date_from=DAY, date_to=DAY + dt.timedelta(days=6))

ARGUMENTS: dict[Verb, tuple[object, ...]] = {
    Verb.FETCH_SCHEDULES: (WINDOW,),
    Verb.FETCH_SLOTS: (WINDOW, []),
    Verb.FIND_PATIENT: (STRANGER,),
    Verb.CREATE_PATIENT: (STRANGER,),
    Verb.LOCK_SLOT: (NEW,),
    Verb.BOOK: (NEW,),
    Verb.REGISTER: (KNOWN,),
    Verb.UNLOCK_SLOT: (KNOWN,),
    Verb.CANCEL_REGISTRATION: (KNOWN,),
    Verb.FETCH_REGISTRATION: (KNOWN,),
    Verb.FETCH_BILLS: (PATIENT,),
    Verb.SETTLE_BILL: (BILL_PAYMENT,),
    Verb.FETCH_SETTLEMENT: (BILL_PAYMENT,),
}
