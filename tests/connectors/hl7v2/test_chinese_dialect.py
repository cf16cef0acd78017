"""The port over the Chinese dialect against its simulated hospital: the good path, and everything a HIS can do wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from connectors.hl7v2 import HL7v2Connector
from connectors.port import (
    Accepted,
    BillPayment,
    Capability,
    HisError,
    HisRefused,
    HisUnavailable,
    Order,
    Rejected,
    Unknown,
    Verb,
    Window,
)
from loadtest.simulators import hl7_cn
from loadtest.simulators.control import Fault
from loadtest.simulators.hl7_cn import ChineseSimulator
from mappings.canonical import Bill, BillItem, Patient, RegistrationStatus, ScheduleStatus, Settlement, Sex
from monitoring.metrics import REGISTRY

from .conftest import ZHANG, MakeConnector, payment

KEY = "20260105000000000001"
WRITES = ("book", "register", "cancel_registration", "settle_bill", "create_patient")
READS = ("fetch_registration", "fetch_settlement", "fetch_bills")


@pytest.fixture
async def simulator() -> AsyncIterator[ChineseSimulator]:
    running = await hl7_cn.start()
    yield running
    await running.close()


@pytest.fixture
def connector(simulator: ChineseSimulator, make_connector: MakeConnector) -> HL7v2Connector:
    return make_connector(
        "hl7v2_cn", host="127.0.0.1", port=simulator.port, timeout_s=dict.fromkeys((*WRITES, *READS), 0.5)
    )


def all_days(simulator: ChineseSimulator, department_id: str | None = None) -> Window:
    days = sorted(plan.day for plan in simulator.hospital.plans.values())
    return Window(date_from=days[0], date_to=days[-1], department_id=department_id)


async def an_order(simulator: ChineseSimulator, connector: HL7v2Connector, order_no: str = KEY) -> Order:
    await connector.create_patient(ZHANG)
    (patient,) = await connector.find_patient(ZHANG)
    schedules = await connector.fetch_schedules(all_days(simulator))
    slots = await connector.fetch_slots(all_days(simulator), schedules)
    schedule = next(one for one in schedules if one.id == slots[0].schedule_id)
    return Order(order_no=order_no, schedule=schedule, slot=slots[0], patient=patient, fee_fen=schedule.fee_fen or 0)


# --- the good path ---------------------------------------------------------------------------------------------------


async def test_number_sources_are_schedules_and_slots(simulator: ChineseSimulator, connector: HL7v2Connector) -> None:
    stopped = next(iter(simulator.hospital.plans))
    simulator.hospital.stop(stopped)
    schedules = await connector.fetch_schedules(all_days(simulator))
    assert {one.id for one in schedules} == set(simulator.hospital.plans)
    for one in schedules:
        plan = simulator.hospital.plans[one.id]
        doctor = simulator.hospital.doctors[plan.doctor]
        assert (one.date, one.session.value, one.department_id) == (plan.day, plan.session, plan.dept)
        assert one.department_name == simulator.hospital.departments[plan.dept]
        assert (one.practitioner_id, one.practitioner_name, one.clinic_type) == (doctor.code, doctor.name, doctor.title)
        assert one.fee_fen == plan.fee_fen
        assert one.status is (ScheduleStatus.STOPPED if one.id == stopped else ScheduleStatus.OPEN)
    slots = await connector.fetch_slots(all_days(simulator), schedules)
    assert {slot.id for slot in slots} == set(simulator.hospital.segments)
    for slot in slots:
        part = simulator.hospital.segments[slot.id]
        assert (slot.starts_at, slot.ends_at, slot.seats_left) == (part.start, part.end, part.capacity)
    some = await connector.fetch_schedules(all_days(simulator, "200"))
    assert {one.department_id for one in some} == {"200"}


@pytest.mark.parametrize("name", ["张伟", "東镕", "东方|朔^~\\&"])
async def test_person_is_created_and_found_when_the_name_is_any_of_gbk(
    simulator: ChineseSimulator, connector: HL7v2Connector, name: str
) -> None:
    # 東 is 96 7C in GBK: its second byte is a field separator. 镕 is not in GB 2312.
    person = msgspec.structs.replace(ZHANG, name=name, sex=Sex.FEMALE)
    created = await connector.create_patient(person)
    assert isinstance(created, Accepted)
    assert isinstance(created.record, Patient)
    (known,) = simulator.hospital.people.values()
    assert (known.name, known.id_number, known.sex) == (name, ZHANG.id_number, "2")
    found = created.record
    assert (found.name, found.mrn, found.sex, found.phone) == (name, known.mrn, Sex.FEMALE, ZHANG.phone)
    assert (found.id_type, found.id_number) == ("id_card", ZHANG.id_number)
    by_number = await connector.find_patient(Patient(name=name, mrn=known.mrn))
    assert [one.mrn for one in by_number] == [known.mrn]
    again = await connector.create_patient(person)
    assert isinstance(again, Rejected)
    assert again.code == "already_exists"
    other = await connector.create_patient(msgspec.structs.replace(person, name="李四"))
    assert isinstance(other, Rejected)
    assert other.code == "patient_mismatch"


@pytest.mark.parametrize("name", ["Zoë", "𠮷田", "张䶮"])
async def test_name_is_rejected_when_gbk_lacks_it(
    simulator: ChineseSimulator, connector: HL7v2Connector, name: str
) -> None:
    # GB 18030 has them in four bytes each, which a system that speaks GBK cannot read.
    outcome = await connector.create_patient(msgspec.structs.replace(ZHANG, name=name))
    assert isinstance(outcome, Rejected)
    assert outcome.code == "charset"
    assert simulator.board.calls["create_patient"] == 0


async def test_nobody_is_found_when_the_hospital_does_not_know_them(connector: HL7v2Connector) -> None:
    assert list(await connector.find_patient(ZHANG)) == []


async def test_booking_lives_through_book_register_and_cancel(
    simulator: ChineseSimulator, connector: HL7v2Connector
) -> None:
    order = await an_order(simulator, connector)
    assert await connector.fetch_registration(order) is None
    booked = await connector.book(order)
    assert isinstance(booked, Accepted)
    visit = simulator.hospital.visit_by_key(KEY)
    assert visit is not None
    assert (visit.state, booked.his_refs) == ("locked", {"appointment": visit.no})
    order = msgspec.structs.replace(order, his_refs=booked.his_refs)
    found = await connector.fetch_registration(order)
    assert found is not None
    assert (found.status, found.order_no, found.his_id) == (RegistrationStatus.LOCKED, KEY, visit.no)
    assert (found.queue_no, found.fee_fen, found.encounter_no) == (visit.queue_no, visit.fee_fen, f"V{visit.no}")
    assert (found.starts_at, found.ends_at) == (order.slot.starts_at, order.slot.ends_at)
    assert (found.slot_id, found.schedule_id, found.mrn) == (order.slot.id, order.schedule.id, order.patient.mrn)

    paid = msgspec.structs.replace(order, payment=payment(order.fee_fen))
    assert isinstance(await connector.register(paid), Accepted)
    assert (visit.state, visit.paid_fen, visit.trade_no) == ("registered", order.fee_fen, "4200000001")
    found = await connector.fetch_registration(order)
    assert found is not None
    assert found.status is RegistrationStatus.REGISTERED

    assert isinstance(await connector.cancel_registration(paid), Accepted)
    assert visit.state == "released"
    found = await connector.fetch_registration(order)
    assert found is not None
    assert found.status is RegistrationStatus.RELEASED
    again = await connector.cancel_registration(paid)
    assert isinstance(again, Rejected)
    assert again.code == "already_done"


async def test_bill_is_read_settled_and_found_settled(simulator: ChineseSimulator, connector: HL7v2Connector) -> None:
    patient = (await an_order(simulator, connector)).patient
    assert list(await connector.fetch_bills(patient)) == []
    charge = simulator.hospital.charge(patient.mrn or "", [("血常规", 1250), ("尿常规", 805)])
    simulator.hospital.charge("SOMEBODY", [("X", 1)])
    (bill,) = await connector.fetch_bills(patient)
    assert bill == Bill(
        id=charge.no,
        amount_fen=2055,
        currency="CNY",
        mrn=patient.mrn,
        title="门诊费用",
        items=(
            BillItem(name="血常规", amount_fen=1250, quantity="1", code="ITEM1"),
            BillItem(name="尿常规", amount_fen=805, quantity="1", code="ITEM2"),
        ),
        his_refs={"bill": charge.no},
    )
    paid = BillPayment(order_no=KEY, bill=bill, patient=patient, payment=payment(2055, "T9"))
    assert await connector.fetch_settlement(paid) is None
    wrong = await connector.settle_bill(msgspec.structs.replace(paid, payment=payment(2054, "T8")))
    assert isinstance(wrong, Rejected)
    assert wrong.code == "price_changed"
    outcome = await connector.settle_bill(paid)
    assert isinstance(outcome, Accepted)
    receipt = Settlement(
        bill_id=charge.no, receipt_no=charge.receipt, invoice_no=f"INV{charge.receipt}", trade_no="T9", amount_fen=2055
    )
    assert outcome.record == receipt
    assert (charge.state, charge.trade_no) == ("paid", "T9")
    assert await connector.fetch_settlement(paid) == receipt
    assert list(await connector.fetch_bills(patient)) == []
    again = await connector.settle_bill(paid)
    assert isinstance(again, Rejected)
    assert again.code == "already_exists"
    with pytest.raises(HisRefused) as taken:
        await connector.fetch_settlement(msgspec.structs.replace(paid, payment=payment(2055, "T10")))
    assert taken.value.code == "taken"


# --- refusals, dead and odd hospitals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prepare", "code"),
    [("full", "full"), ("stopped", "stopped"), ("repeat", "already_exists"), ("stranger", "not_found")],
)
async def test_booking_is_rejected_with_its_reason(
    simulator: ChineseSimulator, connector: HL7v2Connector, prepare: str, code: str
) -> None:
    order = await an_order(simulator, connector)
    part = simulator.hospital.segments[order.slot.id]
    if prepare == "full":
        part.taken = part.capacity
    elif prepare == "stopped":
        simulator.hospital.stop(part.plan)
    elif prepare == "repeat":
        await connector.book(order)
    else:
        order = msgspec.structs.replace(order, patient=msgspec.structs.replace(order.patient, mrn="NOBODY"))
    outcome = await connector.book(order)
    assert isinstance(outcome, Rejected)
    assert (outcome.code, outcome.retryable) == (code, False)


async def test_register_is_rejected_when_the_amount_differs_or_the_booking_is_gone(
    simulator: ChineseSimulator, connector: HL7v2Connector
) -> None:
    order = await an_order(simulator, connector)
    await connector.book(order)
    wrong = await connector.register(msgspec.structs.replace(order, payment=payment(1)))
    assert isinstance(wrong, Rejected)
    assert wrong.code == "price_changed"
    await connector.cancel_registration(order)
    gone = await connector.register(msgspec.structs.replace(order, payment=payment(order.fee_fen)))
    assert isinstance(gone, Rejected)
    assert gone.code == "not_found"


@pytest.mark.parametrize("verb", ["book", "register", "cancel_registration"])
async def test_outcome_is_found_by_query_back_when_the_reply_was_lost(
    simulator: ChineseSimulator, connector: HL7v2Connector, verb: str
) -> None:
    order = await an_order(simulator, connector)
    order = msgspec.structs.replace(order, payment=payment(order.fee_fen))
    if verb != "book":
        await connector.book(order)
    simulator.board.faults.append(Fault(verb, "lose_reply", times=1))
    assert isinstance(await getattr(connector, verb)(order), Unknown)
    found = await connector.fetch_registration(order)
    assert found is not None
    states = {
        "book": RegistrationStatus.LOCKED,
        "register": RegistrationStatus.REGISTERED,
        "cancel_registration": RegistrationStatus.RELEASED,
    }
    assert found.status is states[verb]
    assert simulator.board.calls[verb] == 1


async def test_payment_is_not_taken_for_done_when_the_reply_to_register_was_lost_before_it_was_done(
    simulator: ChineseSimulator, connector: HL7v2Connector
) -> None:
    order = await an_order(simulator, connector)
    await connector.book(order)
    simulator.board.faults.append(Fault("register", "hang", times=1))
    assert isinstance(await connector.register(msgspec.structs.replace(order, payment=payment(order.fee_fen))), Unknown)
    found = await connector.fetch_registration(order)
    assert found is not None
    assert found.status is RegistrationStatus.LOCKED  # booked, not paid


async def test_booking_is_unknown_and_appears_later_when_the_hospital_commits_late(
    simulator: ChineseSimulator, connector: HL7v2Connector
) -> None:
    order = await an_order(simulator, connector)
    simulator.board.faults.append(Fault("book", "late_commit", times=1, delay_s=0.3))
    assert isinstance(await connector.book(order), Unknown)
    assert await connector.fetch_registration(order) is None
    await asyncio.sleep(0.4)
    found = await connector.fetch_registration(order)
    assert found is not None
    assert found.status is RegistrationStatus.LOCKED


async def test_slow_success_is_unknown_at_the_time_out_and_found_afterwards(
    simulator: ChineseSimulator, connector: HL7v2Connector
) -> None:
    order = await an_order(simulator, connector)
    simulator.board.faults.append(Fault("book", "slow", times=1, delay_s=0.8))
    assert isinstance(await connector.book(order), Unknown)  # CA came at once, and AA too late
    await asyncio.sleep(0.6)
    found = await connector.fetch_registration(order)
    assert found is not None
    assert found.order_no == KEY
    again = await connector.book(order)
    assert isinstance(again, Rejected)
    assert again.code == "already_exists"


async def test_booking_says_already_exists_when_the_hospital_does(
    simulator: ChineseSimulator, connector: HL7v2Connector
) -> None:
    order = await an_order(simulator, connector)
    simulator.board.faults.append(Fault("book", "already_exists", times=1))
    outcome = await connector.book(order)
    assert isinstance(outcome, Rejected)
    assert outcome.code == "already_exists"
    assert simulator.hospital.visit_by_key(KEY) is not None


@pytest.mark.parametrize("mode", ["hang", "garbage", "html", "fault"])
async def test_write_is_unknown_and_the_next_one_works_when_no_usable_reply_comes(
    simulator: ChineseSimulator, connector: HL7v2Connector, mode: str
) -> None:
    order = await an_order(simulator, connector)
    simulator.board.faults.append(Fault("book", mode, times=1))
    assert isinstance(await connector.book(order), Unknown)
    assert isinstance(await connector.book(order), Accepted)


@pytest.mark.parametrize("mode", ["hang", "garbage", "html", "fault", "lose_reply"])
@pytest.mark.parametrize("verb", ["fetch_registration", "fetch_bills"])
async def test_read_is_unavailable_when_no_usable_reply_comes(
    simulator: ChineseSimulator, connector: HL7v2Connector, verb: str, mode: str
) -> None:
    order = await an_order(simulator, connector)
    simulator.board.faults.append(Fault(verb, mode, times=1))
    with pytest.raises(HisUnavailable):
        await getattr(connector, verb)(order if verb == "fetch_registration" else order.patient)


async def test_read_is_refused_when_the_hospital_refuses(
    simulator: ChineseSimulator, connector: HL7v2Connector
) -> None:
    simulator.board.faults.append(Fault("fetch_slots", "refuse", times=1))
    with pytest.raises(HisRefused) as refused:
        await connector.fetch_schedules(all_days(simulator))
    assert refused.value.code == "refused"


async def test_reply_is_read_and_counted_when_it_is_utf8_labelled_gbk(
    simulator: ChineseSimulator, connector: HL7v2Connector
) -> None:
    def fallbacks() -> float:
        labels = {"hospital": "hl7-demo", "connector": "hl7", "kind": "utf-8"}
        return REGISTRY.get_sample_value("hisbridge_decode_fallbacks_total", labels) or 0.0

    before = fallbacks()
    simulator.board.faults.append(Fault("fetch_slots", "utf8", times=1))
    schedules = await connector.fetch_schedules(all_days(simulator))
    assert {one.practitioner_name for one in schedules} == {"李明", "王芳", "赵强", "陈静"}
    assert fallbacks() == before + 1


async def test_write_is_not_sent_when_the_connection_is_refused(
    simulator: ChineseSimulator, connector: HL7v2Connector
) -> None:
    order = await an_order(simulator, connector)
    await simulator.board.begin(Fault("*", "down"))
    outcome = await connector.book(order)
    assert isinstance(outcome, Rejected | Unknown)  # the connection that was open may have taken the bytes
    outcome = await connector.book(order)
    assert isinstance(outcome, Rejected)
    assert (outcome.code, outcome.retryable) == ("not_sent", True)
    with pytest.raises(HisError):
        await connector.fetch_registration(order)


def test_what_the_dialect_offers(connector: HL7v2Connector, make_connector: MakeConnector) -> None:
    off = {Verb.LOCK_SLOT, Verb.UNLOCK_SLOT, Verb.REFUND, Verb.FETCH_STATEMENT, Verb.PRESETTLE_BILL, Verb.FETCH_STOPS}
    assert {connector.traits(verb).capability for verb in off} == {Capability.OFF}
    listening = make_connector("hl7v2_cn", host="127.0.0.1", port=1, listen_port=0)
    pushed = {Verb.FETCH_DEPARTMENTS, Verb.FETCH_PRACTITIONERS, Verb.FETCH_REPORTS, Verb.CHECK_IN}
    assert {listening.traits(verb).capability for verb in pushed} == {Capability.PUSHED}
