"""The connector against the simulated hospital, over sockets: the whole walk, and what each verb brings back."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from connectors.port import (
    Accepted,
    BillPayment,
    Capability,
    IdempotencyKey,
    NotOffered,
    QueryBack,
    RefundOrder,
    Rejected,
    Verb,
)
from mappings.canonical import (
    Patient,
    Refund,
    Registration,
    RegistrationStatus,
    ScheduleStatus,
    Session,
    Settlement,
    StatementKind,
)
from tests.connectors.soap.soap_hospital import PERSON, ZONE, hospital, order_for, payment, switch, window


async def test_master_data_and_schedules_arrive_when_fetched() -> None:
    async with hospital() as (simulator, his):
        await his.ping()
        assert [(d.id, d.name) for d in await his.fetch_departments()] == [
            ("100", "内科"),
            ("200", "外科"),
            ("300", "口腔科"),
        ]
        doctors = await his.fetch_practitioners()
        assert [(d.id, d.name, d.department_id) for d in doctors][:2] == [("D1", "李明", "100"), ("D2", "王芳", "100")]
        schedules = await his.fetch_schedules(window())
        assert len(schedules) == 8  # four doctors, two sessions, one day
        first = schedules[0]
        assert (first.session, first.department_id, first.practitioner_id) == (Session.AM, "100", "D1")
        assert first.fee_fen == 5000
        assert first.status is ScheduleStatus.OPEN
        slots = await his.fetch_slots(window(), schedules)
        assert len(slots) == 32
        assert (slots[0].schedule_id, slots[0].session, slots[0].seats_left) == (first.id, Session.AM, 5)
        tomorrow = dt.datetime.now(ZONE).date() + dt.timedelta(days=1)
        assert slots[0].starts_at == dt.datetime.combine(tomorrow, dt.time(8), ZONE)
        assert slots[0].ends_at - slots[0].starts_at == dt.timedelta(minutes=30)
        assert simulator.board.calls["fetch_schedules"] == 3


async def test_one_department_is_asked_for_when_the_window_names_it() -> None:
    async with hospital() as (simulator, his):
        schedules = await his.fetch_schedules(msgspec.structs.replace(window(), department_id="300"))
        assert {s.department_id for s in schedules} == {"300"}
        assert simulator.board.calls["fetch_departments"] == 0


async def test_booking_is_registered_and_returned_when_paid_and_cancelled() -> None:
    async with hospital() as (simulator, his):
        order = await order_for(his)
        assert await his.fetch_registration(order) is None
        locked = await his.lock_slot(order)
        assert isinstance(locked, Accepted)
        assert isinstance(locked.record, Registration)
        assert locked.record.status is RegistrationStatus.LOCKED
        assert locked.record.lock_expires_at is not None
        assert locked.his_refs["transaction_id"] == locked.record.his_id

        order = msgspec.structs.replace(order, his_refs=locked.his_refs, payment=payment(order.fee_fen))
        registered = await his.register(order)
        assert isinstance(registered, Accepted)
        assert isinstance(registered.record, Registration)
        assert registered.record.status is RegistrationStatus.REGISTERED
        assert registered.record.encounter_no == registered.his_refs["adm_no"]
        found = await his.fetch_registration(order)
        assert found is not None
        assert (found.status, found.order_no, found.mrn) == (
            RegistrationStatus.REGISTERED,
            order.order_no,
            order.patient.mrn,
        )
        assert found.starts_at == order.slot.starts_at

        order = msgspec.structs.replace(order, his_refs=locked.his_refs | registered.his_refs)
        assert isinstance(await his.cancel_registration(order), Accepted)
        assert await his.cancel_registration(order) == Rejected(code="already_done", text="该号已退")
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.RELEASED
        assert [v.state for v in simulator.hospital.visits.values()] == ["released"]


async def test_lock_is_given_back_when_unlocked() -> None:
    async with hospital() as (simulator, his):
        order = await order_for(his)
        locked = await his.lock_slot(order)
        assert isinstance(locked, Accepted)
        assert isinstance(await his.unlock_slot(msgspec.structs.replace(order, his_refs=locked.his_refs)), Accepted)
        assert simulator.hospital.segments[next(iter(simulator.hospital.segments))].left == 5


async def test_unpaid_booking_is_cancelled_by_another_trade_when_it_has_no_payment() -> None:
    async with hospital() as (_, his):
        order = await order_for(his)
        locked = await his.lock_slot(order)
        assert isinstance(locked, Accepted)
        assert isinstance(
            await his.cancel_registration(msgspec.structs.replace(order, his_refs=locked.his_refs)), Accepted
        )
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.RELEASED


async def test_repeated_lock_is_recognised_by_our_order_number() -> None:
    async with hospital() as (simulator, his):
        order = await order_for(his)
        assert isinstance(await his.lock_slot(order), Accepted)
        again = await his.lock_slot(order)
        assert isinstance(again, Rejected)
        assert (again.code, again.retryable) == ("already_exists", False)
        assert len(simulator.hospital.visits) == 1


async def test_sixth_lock_is_refused_as_full_when_five_seats_are_taken() -> None:
    async with hospital() as (simulator, his):
        order = await order_for(his)
        for n in range(5):
            assert isinstance(await his.lock_slot(msgspec.structs.replace(order, order_no=f"{n:020d}")), Accepted)
        refused = await his.lock_slot(order)
        assert isinstance(refused, Rejected)
        assert refused.code == "full"
        assert simulator.hospital.oversold == 0


async def test_lock_ends_by_itself_when_the_hospitals_time_has_passed() -> None:
    async with hospital(lock_s=0.05) as (_, his):
        order = await order_for(his)
        assert isinstance(await his.lock_slot(order), Accepted)
        for _ in range(100):
            found = await his.fetch_registration(order)
            assert found is not None
            if found.status is RegistrationStatus.RELEASED:
                return
        pytest.fail("the lock never ended")


async def test_patient_is_found_by_number_and_refused_by_another_name() -> None:
    async with hospital() as (_, his):
        assert await his.find_patient(PERSON) == []
        created = await his.create_patient(PERSON)
        assert isinstance(created, Accepted)
        assert isinstance(created.record, Patient)
        (found,) = await his.find_patient(PERSON)
        assert (found.mrn, found.name, found.sex, found.phone) == (created.record.mrn, "张伟", "male", "13800000000")
        again = await his.create_patient(PERSON)
        assert isinstance(again, Rejected)
        assert again.code == "already_exists"
        other = await his.create_patient(msgspec.structs.replace(PERSON, name="李四"))
        assert isinstance(other, Rejected)
        assert other.code == "patient_mismatch"


async def test_stop_is_told_with_its_schedule_when_the_doctor_is_away() -> None:
    async with hospital() as (simulator, his):
        plan = next(iter(simulator.hospital.plans.values()))
        simulator.hospital.stop(plan.code)
        (stop,) = await his.fetch_stops(window())
        assert (stop.scope, stop.schedule_id, stop.date, stop.session) == ("schedule", plan.code, plan.day, Session.AM)
        schedules = {s.id: s for s in await his.fetch_schedules(window())}
        assert schedules[plan.code].status is ScheduleStatus.STOPPED
        refused = await his.lock_slot(await order_for(his))
        assert isinstance(refused, Rejected)
        assert refused.code == "stopped"


async def test_bill_is_settled_once_and_found_again() -> None:
    async with hospital() as (simulator, his):
        order = await order_for(his)
        assert order.patient.mrn is not None
        simulator.hospital.charge(order.patient.mrn, [("血常规", 2500), ("挂号费", 50)])
        (bill,) = await his.fetch_bills(order.patient)
        assert (bill.amount_fen, bill.currency, bill.mrn) == (2550, "CNY", order.patient.mrn)
        assert [(i.name, i.amount_fen) for i in bill.items] == [("血常规", 2500), ("挂号费", 50)]
        paying = BillPayment(order_no="9" * 20, bill=bill, patient=order.patient, payment=payment(2550))
        assert await his.fetch_settlement(paying) is None
        pre = await his.presettle_bill(paying)
        assert isinstance(pre, Accepted)
        settled = await his.settle_bill(msgspec.structs.replace(paying, his_refs=pre.his_refs))
        assert isinstance(settled, Accepted)
        assert isinstance(settled.record, Settlement)
        assert await his.fetch_settlement(paying) == settled.record
        again = await his.settle_bill(paying)
        assert isinstance(again, Rejected)
        assert again.code == "already_exists"
        assert await his.fetch_bills(order.patient) == []


async def test_refund_of_a_registration_is_found_again_and_stands_in_the_statement() -> None:
    async with hospital() as (_, his):
        order = await order_for(his)
        locked = await his.lock_slot(order)
        assert isinstance(locked, Accepted)
        order = msgspec.structs.replace(order, his_refs=locked.his_refs, payment=payment(order.fee_fen))
        assert order.payment is not None
        assert isinstance(await his.register(order), Accepted)
        refund = Refund(refund_no="8" * 20, payment=order.payment, amount_fen=order.fee_fen, reason="停诊")
        asked = RefundOrder(refund=refund, patient=order.patient, order=order)
        assert await his.fetch_refund(asked) is None
        assert isinstance(await his.refund(asked), Accepted)
        assert await his.fetch_refund(asked) is not None
        lines = await his.fetch_statement(dt.datetime.now(ZONE).date())
        assert [(x.kind, x.amount_fen, x.trade_no, x.order_no) for x in lines] == [
            (StatementKind.PAYMENT, 5000, "4200001", order.order_no),
            (StatementKind.REFUND, 5000, "4200001", order.order_no),
        ]
        assert await his.fetch_statement(dt.date(2020, 1, 1)) == []


async def test_what_the_dialect_lacks_is_not_offered() -> None:
    async with hospital() as (_, his):
        order = await order_for(his)
        with pytest.raises(NotOffered):
            await his.fetch_reports(order.patient)
        refund = Refund(refund_no="1", payment=payment(1), amount_fen=1, reason="bill")
        of_a_bill = await his.refund(RefundOrder(refund=refund, patient=order.patient))
        assert isinstance(of_a_bill, Rejected)
        assert of_a_bill.code == "not_offered"


async def test_records_are_the_same_when_a_list_of_one_collapses_to_an_object() -> None:
    async with hospital() as (simulator, his):
        order = await order_for(his)
        assert isinstance(await his.lock_slot(order), Accepted)
        before = (await his.find_patient(PERSON), await his.fetch_registration(order))
        switch(simulator, "*", "collapse")
        assert (await his.find_patient(PERSON), await his.fetch_registration(order)) == before


async def test_traits_come_from_the_profile_and_the_operators_time_outs() -> None:
    async with hospital(timeout_s={"lock_slot": 3.0}) as (_, his):
        lock = his.traits(Verb.LOCK_SLOT)
        assert (lock.capability, lock.query_back, lock.key) == (Capability.NATIVE, QueryBack.KEY, IdempotencyKey.CLIENT)
        assert lock.timeout_s == 3.0
        assert his.traits(Verb.FETCH_REPORTS).capability is Capability.OFF
