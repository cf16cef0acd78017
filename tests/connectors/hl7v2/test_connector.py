"""The port over HL7 v2 against the simulated hospital: the good path, and everything a HIS can do wrong."""

from __future__ import annotations

import asyncio
import datetime as dt

import msgspec
import pytest

from connectors.hl7v2 import HL7v2Connector
from connectors.port import (
    Accepted,
    BillPayment,
    Capability,
    HisRefused,
    HisReplyInvalid,
    HisUnavailable,
    NotOffered,
    Order,
    Rejected,
    Unknown,
    Verb,
    Window,
)
from loadtest.simulators import hl7
from loadtest.simulators.control import Fault
from loadtest.simulators.hl7 import HL7Simulator
from loadtest.simulators.mllp import END, ER7, START, read_frame
from mappings.canonical import Bill, Patient, RegistrationStatus, ScheduleStatus, Settlement
from monitoring.metrics import REGISTRY

from .conftest import SHANGHAI, ZHANG, MakeConnector, MakeOrder, payment, window

KEY = "20260105000000000001"


async def test_schedules_and_slots_are_read_when_the_hospital_lists_openings(
    simulator: HL7Simulator, connector: HL7v2Connector
) -> None:
    schedules = await connector.fetch_schedules(window(simulator))
    assert {one.id for one in schedules} == set(simulator.hospital.plans)
    for one in schedules:
        plan = simulator.hospital.plans[one.id]
        assert (one.date, one.session.value, one.department_id) == (plan.day, plan.session, plan.dept)
        assert one.department_name == simulator.hospital.departments[plan.dept]
        assert (one.practitioner_id, one.fee_fen) == (plan.doctor, plan.fee_fen)
        assert one.practitioner_name == simulator.hospital.doctors[plan.doctor].name
    slots = await connector.fetch_slots(window(simulator), schedules)
    assert {slot.id for slot in slots} == set(simulator.hospital.segments)
    for slot in slots:
        part = simulator.hospital.segments[slot.id]
        assert (slot.starts_at, slot.ends_at, slot.seats_left) == (part.start, part.end, part.capacity)


async def test_only_one_department_is_read_when_the_window_names_it(
    simulator: HL7Simulator, connector: HL7v2Connector
) -> None:
    schedules = await connector.fetch_schedules(window(simulator, "200"))
    assert {one.department_id for one in schedules} == {"200"}


async def test_schedule_is_stopped_when_the_hospital_stopped_it(
    simulator: HL7Simulator, connector: HL7v2Connector
) -> None:
    stopped = next(iter(simulator.hospital.plans))
    simulator.hospital.stop(stopped)
    found = {one.id: one.status for one in await connector.fetch_schedules(window(simulator))}
    assert found.pop(stopped) is ScheduleStatus.STOPPED
    assert set(found.values()) == {ScheduleStatus.OPEN}


async def test_patient_has_a_number_when_created(simulator: HL7Simulator, connector: HL7v2Connector) -> None:
    outcome = await connector.create_patient(ZHANG)
    assert isinstance(outcome, Accepted)
    assert isinstance(outcome.record, Patient)
    (person,) = simulator.hospital.people.values()
    assert (outcome.record.mrn, outcome.record.name) == (person.mrn, "张伟")
    assert (person.name, person.id_number) == ("张伟", ZHANG.id_number)
    again = await connector.create_patient(ZHANG)
    assert isinstance(again, Rejected)
    assert again.code == "already_exists"


async def test_patient_is_refused_when_name_and_number_differ(connector: HL7v2Connector) -> None:
    await connector.create_patient(ZHANG)
    outcome = await connector.create_patient(msgspec.structs.replace(ZHANG, name="李四"))
    assert isinstance(outcome, Rejected)
    assert outcome.code == "patient_mismatch"


async def test_nobody_is_found_when_the_hospital_does_not_know_them(connector: HL7v2Connector) -> None:
    assert list(await connector.find_patient(ZHANG)) == []


async def test_booking_lives_through_lock_register_and_cancel(
    simulator: HL7Simulator, connector: HL7v2Connector, make_order: MakeOrder
) -> None:
    order = await make_order(KEY)
    assert await connector.fetch_registration(order) is None
    locked = await connector.lock_slot(order)
    assert isinstance(locked, Accepted)
    visit = simulator.hospital.visit_by_key(KEY)
    assert visit is not None
    assert locked.his_refs == {"appointment": visit.no}
    order = msgspec.structs.replace(order, his_refs=locked.his_refs)
    found = await connector.fetch_registration(order)
    assert found is not None
    assert (found.status, found.order_no, found.queue_no) == (RegistrationStatus.LOCKED, KEY, visit.queue_no)
    assert (found.starts_at, found.fee_fen) == (order.slot.starts_at, visit.fee_fen)

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


async def test_seat_is_free_again_when_unlocked(
    simulator: HL7Simulator, connector: HL7v2Connector, make_order: MakeOrder
) -> None:
    order = await make_order(KEY)
    await connector.lock_slot(order)
    part = simulator.hospital.segments[order.slot.id]
    assert part.taken == 1
    assert isinstance(await connector.unlock_slot(order), Accepted)
    assert part.taken == 0


@pytest.mark.parametrize(
    ("prepare", "code"),
    [("full", "full"), ("stopped", "stopped"), ("repeat", "already_exists"), ("stranger", "not_found")],
)
async def test_lock_is_rejected_with_its_reason(
    simulator: HL7Simulator, connector: HL7v2Connector, make_order: MakeOrder, prepare: str, code: str
) -> None:
    order = await make_order(KEY)
    part = simulator.hospital.segments[order.slot.id]
    if prepare == "full":
        part.taken = part.capacity
    elif prepare == "stopped":
        simulator.hospital.stop(part.plan)
    elif prepare == "repeat":
        await connector.lock_slot(order)
    else:
        order = msgspec.structs.replace(order, patient=msgspec.structs.replace(order.patient, mrn="NOBODY"))
    outcome = await connector.lock_slot(order)
    assert isinstance(outcome, Rejected)
    assert (outcome.code, outcome.retryable) == (code, False)


async def test_register_is_rejected_when_the_amount_differs(connector: HL7v2Connector, make_order: MakeOrder) -> None:
    order = await make_order(KEY)
    await connector.lock_slot(order)
    outcome = await connector.register(msgspec.structs.replace(order, payment=payment(1)))
    assert isinstance(outcome, Rejected)
    assert outcome.code == "price_changed"


async def test_bill_is_settled_once(simulator: HL7Simulator, connector: HL7v2Connector, make_order: MakeOrder) -> None:
    patient = (await make_order(KEY)).patient
    charge = simulator.hospital.charge(patient.mrn or "", [("血常规", 1250), ("尿常规", 800)])
    bill = Bill(id=charge.no, amount_fen=2050, currency="CNY", his_refs={"account": charge.no})
    paid = BillPayment(order_no=KEY, bill=bill, patient=patient, payment=payment(2050, "T9"))
    outcome = await connector.settle_bill(paid)
    assert isinstance(outcome, Accepted)
    assert outcome.record == Settlement(bill_id=charge.no)
    assert (charge.state, charge.trade_no) == ("paid", "T9")
    again = await connector.settle_bill(paid)
    assert isinstance(again, Rejected)
    assert again.code == "already_exists"


# --- dead and odd hospitals ------------------------------------------------------------------------------------------


async def test_booking_is_found_by_query_back_when_the_reply_was_lost(
    simulator: HL7Simulator, connector: HL7v2Connector, make_order: MakeOrder
) -> None:
    order = await make_order(KEY)
    simulator.board.faults.append(Fault("lock_slot", "lose_reply", times=1))
    assert isinstance(await connector.lock_slot(order), Unknown)
    found = await connector.fetch_registration(order)
    assert found is not None
    assert found.status is RegistrationStatus.LOCKED
    assert simulator.board.calls["lock_slot"] == 1


async def test_lock_is_unknown_and_appears_later_when_the_hospital_commits_late(
    simulator: HL7Simulator, connector: HL7v2Connector, make_order: MakeOrder
) -> None:
    order = await make_order(KEY)
    simulator.board.faults.append(Fault("lock_slot", "late_commit", times=1, delay_s=0.3))
    assert isinstance(await connector.lock_slot(order), Unknown)
    assert await connector.fetch_registration(order) is None
    await asyncio.sleep(0.4)
    found = await connector.fetch_registration(order)
    assert found is not None
    assert found.status is RegistrationStatus.LOCKED


async def test_lock_says_already_exists_when_the_hospital_does(
    simulator: HL7Simulator, connector: HL7v2Connector, make_order: MakeOrder
) -> None:
    order = await make_order(KEY)
    simulator.board.faults.append(Fault("lock_slot", "already_exists", times=1))
    outcome = await connector.lock_slot(order)
    assert isinstance(outcome, Rejected)
    assert outcome.code == "already_exists"
    assert simulator.hospital.visit_by_key(KEY) is not None


@pytest.mark.parametrize("mode", ["hang", "garbage", "html", "fault"])
async def test_write_is_unknown_and_the_next_one_works_when_no_usable_reply_comes(
    simulator: HL7Simulator, connector: HL7v2Connector, make_order: MakeOrder, mode: str
) -> None:
    order = await make_order(KEY)
    simulator.board.faults.append(Fault("lock_slot", mode, times=1))
    assert isinstance(await connector.lock_slot(order), Unknown)
    assert isinstance(await connector.lock_slot(order), Accepted)


@pytest.mark.parametrize("mode", ["hang", "garbage", "html", "fault", "lose_reply"])
async def test_read_is_unavailable_when_no_usable_reply_comes(
    simulator: HL7Simulator, connector: HL7v2Connector, make_order: MakeOrder, mode: str
) -> None:
    order = await make_order(KEY)
    simulator.board.faults.append(Fault("fetch_registration", mode, times=1))
    with pytest.raises(HisUnavailable):
        await connector.fetch_registration(order)


async def test_read_is_refused_when_the_hospital_refuses(simulator: HL7Simulator, connector: HL7v2Connector) -> None:
    simulator.board.faults.append(Fault("fetch_schedules", "refuse", times=1))
    with pytest.raises(HisRefused) as refused:
        await connector.fetch_schedules(window(simulator))
    assert refused.value.code == "refused"


async def test_reply_is_read_and_counted_when_it_is_gbk_labelled_utf8(
    simulator: HL7Simulator, connector: HL7v2Connector
) -> None:
    labels = {"hospital": "hl7-demo", "connector": "hl7", "kind": "gb18030"}
    before = REGISTRY.get_sample_value("hisbridge_decode_fallbacks_total", labels) or 0.0
    simulator.board.faults.append(Fault("fetch_schedules", "gbk", times=1))
    schedules = await connector.fetch_schedules(window(simulator))
    assert {one.practitioner_name for one in schedules} <= {"李明", "王芳", "赵强", "陈静"}
    assert REGISTRY.get_sample_value("hisbridge_decode_fallbacks_total", labels) == before + 1


async def test_write_is_not_sent_when_the_connection_is_refused(
    simulator: HL7Simulator, connector: HL7v2Connector, make_order: MakeOrder, make_connector: MakeConnector
) -> None:
    order = await make_order(KEY)
    gone = await hl7.start()
    port = gone.port
    await gone.close()
    dead = make_connector(host="127.0.0.1", port=port)
    outcome = await dead.lock_slot(order)
    assert isinstance(outcome, Rejected)
    assert (outcome.code, outcome.retryable) == ("not_sent", True)
    with pytest.raises(HisUnavailable):
        await dead.fetch_registration(order)
    with pytest.raises(HisUnavailable):
        await dead.ping()


async def test_calls_run_side_by_side_when_there_are_several_connections(
    simulator: HL7Simulator, connector: HL7v2Connector
) -> None:
    simulator.board.faults.append(Fault("fetch_schedules", "slow", delay_s=0.1))
    await asyncio.gather(*(connector.fetch_schedules(window(simulator)) for _ in range(6)))
    assert simulator.board.most_at_once == 4
    assert simulator.connections == 4


async def test_connection_is_kept_when_calls_follow_each_other(
    simulator: HL7Simulator, connector: HL7v2Connector
) -> None:
    await connector.ping()
    for _ in range(3):
        await connector.find_patient(ZHANG)
    assert simulator.connections == 1


async def test_verb_is_not_offered_when_the_profile_has_it_off(
    connector: HL7v2Connector, make_connector: MakeConnector, make_order: MakeOrder
) -> None:
    order = await make_order(KEY)
    assert connector.traits(Verb.BOOK).capability is Capability.OFF
    assert connector.traits(Verb.FETCH_BILLS).capability is Capability.OFF
    listening = make_connector(listen_port=0)
    assert listening.traits(Verb.FETCH_BILLS).capability is Capability.PUSHED
    assert listening.traits(Verb.LOCK_SLOT).capability is Capability.OFF  # there is no port to send it to
    outcome = await connector.book(order)
    assert isinstance(outcome, Rejected)
    assert outcome.code == "not_offered"
    with pytest.raises(NotOffered):
        await connector.fetch_bills(order.patient)
    with pytest.raises(NotOffered):
        await connector.fetch_departments()


async def test_booking_is_made_at_once_when_the_hospital_books_directly(make_connector: MakeConnector) -> None:
    simulator = await hl7.start(direct=True)
    try:
        demo = make_connector(host="127.0.0.1", port=simulator.port)
        connector = make_connector("hl7v2", host="127.0.0.1", port=simulator.port)
        person = simulator.hospital.create_person("张伟", ZHANG.id_number or "")
        patient = (await connector.find_patient(ZHANG))[0]
        assert patient.mrn == person.mrn
        schedules = await demo.fetch_schedules(window(simulator))
        slots = await demo.fetch_slots(window(simulator), schedules[:1])
        order = Order(order_no=KEY, schedule=schedules[0], slot=slots[0], patient=patient, fee_fen=700)
        outcome = await connector.book(order)
        assert isinstance(outcome, Accepted)
        assert outcome.record is not None
        assert isinstance(await connector.cancel_registration(order), Accepted)
        # A hospital that answers Booked is not one that locks: the answer is no promise that we can rely on.
        other = msgspec.structs.replace(order, order_no="20260105000000000002")
        assert isinstance(await demo.lock_slot(other), Unknown)
    finally:
        await simulator.close()


async def test_name_is_rejected_when_the_peer_s_character_set_lacks_it(
    simulator: HL7Simulator, make_connector: MakeConnector
) -> None:
    connector = make_connector(host="127.0.0.1", port=simulator.port, charset="8859/1")
    outcome = await connector.create_patient(ZHANG)
    assert isinstance(outcome, Rejected)
    assert outcome.code == "charset"
    assert simulator.board.calls["create_patient"] == 0


async def test_chinese_names_survive_when_the_peer_speaks_gb18030(make_connector: MakeConnector) -> None:
    simulator = await hl7.start(charset="gb18030")
    try:
        connector = make_connector(host="127.0.0.1", port=simulator.port, charset="GB 18030-2000")
        # 東 is 96 7C in GBK: its second byte is a field separator.
        outcome = await connector.create_patient(msgspec.structs.replace(ZHANG, name="東镕喆"))
        assert isinstance(outcome, Accepted)
        assert [person.name for person in simulator.hospital.people.values()] == ["東镕喆"]
    finally:
        await simulator.close()


async def test_all_pages_are_read_when_the_reply_continues(make_connector: MakeConnector) -> None:
    asked: list[str] = []

    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (payload := await read_frame(reader)) is not None:
            query = ER7(payload.decode())
            asked.append(query.get("DSC", 1))
            n = len(asked)
            lines = [
                f"MSH|^~\\&|H|||||SQR^S25^SQR_S25|{n}|P|2.5.1",
                f"MSA|AA|{query.get('MSH', 10)}",
                f"SCH|||||S{n}^^L^PLAN^^L|ROUTINE",
                f"TQ1|1||||||202601050{n}0000+0800|202601050{n}3000+0800",
                "AIL|1||100^^^^^^^^Clinic",
                *(["DSC|NEXT"] if n == 1 else []),
            ]
            writer.write(START + ("\r".join(lines) + "\r").encode() + END)
        writer.close()

    server = await asyncio.start_server(page, "127.0.0.1", 0)
    connector = make_connector("hl7v2", host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    day = dt.date(2026, 1, 5)
    slots = await connector.fetch_slots(Window(date_from=day, date_to=day), [])
    assert [(slot.id, slot.schedule_id, slot.seats_left) for slot in slots] == [("S1", "PLAN", 1), ("S2", "PLAN", 1)]
    assert slots[1].starts_at == dt.datetime(2026, 1, 5, 2, 0, tzinfo=SHANGHAI)
    assert asked == ["", "NEXT"]
    # A connector that may not page refuses the part rather than take it for the whole.
    asked.clear()
    demo = make_connector("hl7v2", host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    demo._maps.verbs["fetch_slots"] = msgspec.structs.replace(demo._maps.verbs["fetch_slots"], cursor=None)
    with pytest.raises(HisReplyInvalid):
        await demo.fetch_slots(Window(date_from=day, date_to=day), [])
    await connector.close()
    await demo.close()
    server.close()
    await server.wait_closed()
