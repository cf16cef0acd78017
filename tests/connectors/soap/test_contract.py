"""One contract for every SOAP dialect: what the port promises, against a hospital that speaks it and fails in its ways."""

from __future__ import annotations

import asyncio
import datetime as dt

import msgspec
import pytest

from connectors.port import (
    Accepted,
    BillPayment,
    HisRefused,
    HisReplyInvalid,
    HisUnavailable,
    NotOffered,
    QueryBack,
    RefundOrder,
    Rejected,
    Unknown,
    Verb,
)
from mappings.canonical import Refund, RegistrationStatus, ScheduleStatus, Session, Sex, StatementKind
from tests.connectors.soap.soap_hospital import PERSON, ZONE, payment, switch, window
from tests.connectors.soap.spoken import SPOKEN, Spoken, offers, order_of, patient_of, take, taking, with_refs


@pytest.fixture(params=SPOKEN, ids=str)
def spoken(request: pytest.FixtureRequest) -> Spoken:
    it: Spoken = request.param
    return it


# --- reading --------------------------------------------------------------------------------------------------------


async def test_departments_and_practitioners_are_the_hospitals(spoken: Spoken) -> None:
    async with spoken.hospital() as (_, his):
        await his.ping()
        departments = await his.fetch_departments()
        assert {(d.id, d.name) for d in departments} == {("100", "内科"), ("200", "外科"), ("300", "口腔科")}
        doctors = {(p.id, p.name, p.title, p.department_id) for p in await his.fetch_practitioners()}
        assert doctors == {
            ("D1", "李明", "主任医师", "100"),
            ("D2", "王芳", "副主任医师", "100"),
            ("D3", "赵强", "主治医师", "200"),
            ("D4", "陈静", "主任医师", "300"),
        }


async def test_schedules_and_slots_are_the_hospitals(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        schedules = await his.fetch_schedules(window())
        tomorrow = dt.datetime.now(ZONE).date() + dt.timedelta(days=1)
        assert len({s.id for s in schedules}) == 8  # four doctors, two sessions, one day
        assert {s.date for s in schedules} == {tomorrow}
        assert {(s.department_id, s.practitioner_id, s.session) for s in schedules} == {
            (plan.dept, plan.doctor, Session(plan.session)) for plan in simulator.hospital.plans.values()
        }
        fees = {(plan.doctor, plan.session): plan.fee_fen for plan in simulator.hospital.plans.values()}
        assert {(str(s.practitioner_id), s.session.value): s.fee_fen for s in schedules} == fees
        assert {s.status for s in schedules} == {ScheduleStatus.OPEN}
        slots = await his.fetch_slots(window(), schedules)
        told = sorted((s.starts_at, s.ends_at, s.seats_left) for s in slots)
        assert told == sorted((s.start, s.end, s.left) for s in simulator.hospital.segments.values())
        assert {slot.schedule_id for slot in slots} == {s.id for s in schedules}
        assert len({slot.id for slot in slots}) == len(slots)


async def test_one_department_alone_is_told_when_the_window_names_it(spoken: Spoken) -> None:
    async with spoken.hospital() as (_, his):
        schedules = await his.fetch_schedules(msgspec.structs.replace(window(), department_id="300"))
        assert {s.department_id for s in schedules} == {"300"}
        assert len(schedules) == 2


async def test_stop_is_told_with_its_schedule_when_the_doctor_is_away(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        plan = simulator.hospital.plans[next(iter(simulator.hospital.plans))]
        simulator.hospital.stop(plan.code)
        if offers(his, Verb.FETCH_STOPS):
            (stop,) = await his.fetch_stops(window())
            assert (stop.schedule_id, stop.date) == (order.schedule.id, plan.day)
        stopped = {s.id for s in await his.fetch_schedules(window()) if s.status is ScheduleStatus.STOPPED}
        assert stopped in ({order.schedule.id}, set())  # or it is not listed any more
        refused = await take(his, order)
        assert isinstance(refused, Rejected)
        assert refused.code == "stopped"


# --- a visit ----------------------------------------------------------------------------------------------------------


async def test_seat_is_taken_registered_found_and_given_back(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        assert await his.fetch_registration(order) is None
        taken = await take(his, order)
        order = with_refs(order, taken)
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.LOCKED
        paid = payment(order.fee_fen)
        registered = await his.register(msgspec.structs.replace(order, payment=paid))
        order = with_refs(order, registered, payment=paid)
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.REGISTERED
        assert found.mrn in (None, order.patient.mrn)
        (visit,) = simulator.hospital.visits.values()
        assert (visit.state, visit.paid_fen, visit.trade_no) == ("registered", order.fee_fen, "4200001")
        assert isinstance(await his.cancel_registration(order), Accepted)
        again = await his.cancel_registration(order)
        # "cancel of something already done must answer success", or say that it is done
        assert isinstance(again, Accepted) or (isinstance(again, Rejected) and again.code == "already_done")
        found = await his.fetch_registration(order)
        assert found is None or found.status is RegistrationStatus.RELEASED
        assert visit.state == "released"


async def test_seat_is_free_again_when_it_was_taken_and_not_paid(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        order = with_refs(order, await take(his, order))
        (visit,) = simulator.hospital.visits.values()
        given_back = his.unlock_slot if offers(his, Verb.UNLOCK_SLOT) else his.cancel_registration
        assert isinstance(await given_back(order), Accepted)
        assert simulator.hospital.segments[visit.segment].taken == 0


async def test_sixth_is_refused_as_full_when_five_seats_are_taken(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        for n in range(5):
            assert isinstance(await take(his, msgspec.structs.replace(order, order_no=f"2{n:019d}")), Accepted)
        refused = await take(his, order)
        assert isinstance(refused, Rejected)
        assert refused.code == "full"
        assert simulator.hospital.oversold == 0


async def test_wrong_amount_is_refused_and_registers_nothing(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        order = with_refs(order, await take(his, order))
        refused = await his.register(msgspec.structs.replace(order, payment=payment(order.fee_fen + 1)))
        assert isinstance(refused, Rejected)
        assert [v.state for v in simulator.hospital.visits.values()] == ["locked"]


# --- three outcomes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["lose_reply", "already_exists"])
async def test_taking_is_found_by_our_number_when_the_hospital_did_it_and_did_not_say_so(
    spoken: Spoken, mode: str
) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        switch(simulator, taking(his).value, mode, times=1)
        outcome = await take(his, order)
        if mode == "lose_reply":
            assert isinstance(outcome, Unknown)
        else:
            assert isinstance(outcome, Rejected)
            assert outcome.code == "already_exists"
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.LOCKED
        # what was found is enough to go on with
        order = msgspec.structs.replace(order, his_refs=found.his_refs, payment=payment(order.fee_fen))
        switch(simulator, "register", "lose_reply", times=1)
        assert isinstance(await his.register(order), Unknown)
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.REGISTERED
        order = msgspec.structs.replace(order, his_refs=order.his_refs | found.his_refs)
        switch(simulator, "cancel_registration", "lose_reply", times=1)
        assert isinstance(await his.cancel_registration(order), Unknown)
        found = await his.fetch_registration(order)
        assert found is None or found.status is RegistrationStatus.RELEASED


async def test_repeated_taking_is_recognised_by_our_order_number(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        assert isinstance(await take(his, order), Accepted)
        again = await take(his, order)
        assert isinstance(again, Rejected)
        assert (again.code, again.retryable) == ("already_exists", False)
        assert len(simulator.hospital.visits) == 1


async def test_booking_is_never_taken_for_absent_when_the_hospital_does_not_repeat_our_number(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        taken = await take(his, order)
        switch(simulator, "*", "no_order_no")
        for asked in (with_refs(order, taken), order):
            try:
                found = await his.fetch_registration(asked)
            except HisReplyInvalid:  # it may be another's, and is not guessed at
                continue
            assert found is not None
            assert found.status is RegistrationStatus.LOCKED


async def test_taking_is_absent_first_and_found_afterwards_when_it_is_committed_late(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        switch(simulator, taking(his).value, "late_commit", times=1, delay_s=0.3)
        assert isinstance(await take(his, order), Unknown)
        assert await his.fetch_registration(order) is None
        await asyncio.sleep(0.4)
        assert await his.fetch_registration(order) is not None
        assert len(simulator.hospital.visits) == 1


@pytest.mark.parametrize("mode", ["fault", "html", "garbage", "diffgram", "hang"])
async def test_taking_is_unknown_when_no_usable_reply_comes(spoken: Spoken, mode: str) -> None:
    async with spoken.hospital(timeout_s={"lock_slot": 0.4, "book": 0.4}) as (simulator, his):
        order = await order_of(his, simulator)
        switch(simulator, taking(his).value, mode)
        assert isinstance(await take(his, order), Unknown)
        assert await his.fetch_registration(order) is None


@pytest.mark.parametrize("mode", ["slow", "junk", "gbk"])
async def test_taking_is_accepted_when_the_reply_is_only_odd(spoken: Spoken, mode: str) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        switch(simulator, taking(his).value, mode, delay_s=0.1)
        assert isinstance(await take(his, order), Accepted)


@pytest.mark.parametrize(("mode", "code"), [("refuse", "full"), ("bare_text", "invalid_request")])
async def test_taking_is_rejected_when_the_hospital_says_no(spoken: Spoken, mode: str, code: str) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        switch(simulator, taking(his).value, mode)
        outcome = await take(his, order)
        assert isinstance(outcome, Rejected)
        assert outcome.code == code


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("fault", HisReplyInvalid),
        ("html", HisUnavailable),  # status 502
        ("garbage", HisReplyInvalid),
        ("diffgram", HisReplyInvalid),
        ("refuse", HisRefused),
        ("bare_text", HisRefused),
        ("lose_reply", HisUnavailable),
        ("hang", HisUnavailable),
    ],
)
async def test_read_raises_its_own_error_when_the_hospital_fails(
    spoken: Spoken, mode: str, error: type[Exception]
) -> None:
    async with spoken.hospital(timeout_s={"fetch_schedules": 0.4}) as (simulator, his):
        switch(simulator, "fetch_schedules", mode)
        with pytest.raises(error):
            await his.fetch_schedules(msgspec.structs.replace(window(), department_id="100"))


async def test_names_are_whole_when_gbk_bytes_stand_under_another_label(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        switch(simulator, "fetch_departments", "gbk")
        assert {d.name for d in await his.fetch_departments()} == {"内科", "外科", "口腔科"}


async def test_records_are_the_same_when_a_list_of_one_collapses_to_an_object(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        order = with_refs(order, await take(his, order))
        before = (await his.find_patient(PERSON), await his.fetch_registration(order))
        switch(simulator, "*", "collapse")
        assert (await his.find_patient(PERSON), await his.fetch_registration(order)) == before


# --- people -------------------------------------------------------------------------------------------------------


async def test_patient_is_found_by_number_and_refused_by_another_name(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        assert await his.find_patient(PERSON) == []
        patient = await patient_of(his, simulator)
        (found,) = await his.find_patient(PERSON)
        assert (found.mrn, found.name) == (patient.mrn, "张伟")
        assert found.sex in (Sex.MALE, Sex.UNKNOWN, None)
        again = await his.create_patient(PERSON)
        assert isinstance(again, Rejected)
        assert again.code in ("already_exists", "not_offered")
        other = await his.create_patient(msgspec.structs.replace(PERSON, name="李四"))
        assert isinstance(other, Rejected)
        assert other.code in ("patient_mismatch", "not_offered")


# --- money --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [False, True], ids=["told", "reply lost"])
async def test_bill_is_settled_once_and_found_again(spoken: Spoken, lost: bool) -> None:
    async with spoken.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        assert patient.mrn is not None
        simulator.hospital.charge(patient.mrn, [("血常规", 2500), ("挂号费", 50)])
        if not offers(his, Verb.FETCH_BILLS):
            with pytest.raises(NotOffered):
                await his.fetch_bills(patient)
            return
        (bill,) = await his.fetch_bills(patient)
        assert (bill.amount_fen, bill.currency) == (2550, "CNY")
        assert [(item.name, item.amount_fen) for item in bill.items] == [("血常规", 2500), ("挂号费", 50)]
        paying = BillPayment(order_no="9" * 20, bill=bill, patient=patient, payment=payment(2550))
        if offers(his, Verb.PRESETTLE_BILL):
            presettled = await his.presettle_bill(paying)
            assert isinstance(presettled, Accepted)
            paying = msgspec.structs.replace(paying, his_refs=presettled.his_refs)
        if lost:
            switch(simulator, "settle_bill", "lose_reply", times=1)
        settled = await his.settle_bill(paying)
        assert isinstance(settled, Unknown if lost else Accepted)
        charge = simulator.hospital.charges[next(iter(simulator.hospital.charges))]
        assert (charge.state, charge.trade_no) == ("paid", "4200001")
        if offers(his, Verb.FETCH_SETTLEMENT):
            found = await his.fetch_settlement(paying)
            assert found is not None
            assert found.receipt_no == charge.receipt
        again = await his.settle_bill(paying)
        assert isinstance(again, Rejected)
        assert again.code == "already_exists"
        assert await his.fetch_bills(patient) == []


async def test_nothing_is_settled_when_nobody_has_paid(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        if not offers(his, Verb.FETCH_SETTLEMENT):
            return
        assert patient.mrn is not None
        simulator.hospital.charge(patient.mrn, [("血常规", 2500)])
        (bill,) = await his.fetch_bills(patient)
        paying = BillPayment(order_no="9" * 20, bill=bill, patient=patient, payment=payment(2500))
        assert await his.fetch_settlement(paying) is None


@pytest.mark.parametrize("lost", [False, True], ids=["told", "reply lost"])
async def test_refund_of_a_registration_is_found_again_and_stands_in_the_statement(spoken: Spoken, lost: bool) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        paid = payment(order.fee_fen)
        order = with_refs(order, await take(his, order), payment=paid)
        order = with_refs(order, await his.register(order))
        refund = Refund(refund_no="8" * 20, payment=paid, amount_fen=order.fee_fen, reason="停诊")
        asked = RefundOrder(refund=refund, patient=order.patient, order=order)
        if not offers(his, Verb.REFUND):
            refused = await his.refund(asked)
            assert isinstance(refused, Rejected)
            assert refused.code == "not_offered"
            return
        assert await his.fetch_refund(asked) is None
        if lost:
            switch(simulator, "refund", "lose_reply", times=1)
        assert isinstance(await his.refund(asked), Unknown if lost else Accepted)
        assert await his.fetch_refund(asked) is not None
        if not offers(his, Verb.FETCH_STATEMENT):
            return
        lines = await his.fetch_statement(dt.datetime.now(ZONE).date())
        assert [(x.kind, x.amount_fen, x.trade_no) for x in lines] == [
            (StatementKind.PAYMENT, order.fee_fen, "4200001"),
            (StatementKind.REFUND, order.fee_fen, "4200001"),
        ]
        assert await his.fetch_statement(dt.date(2020, 1, 1)) == []


# --- reports ------------------------------------------------------------------------------------------------------


async def test_report_is_told_with_its_results(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        if not offers(his, Verb.FETCH_REPORTS):
            with pytest.raises(NotOffered):
                await his.fetch_reports(patient)
            return
        assert await his.fetch_reports(patient) == []
        assert patient.mrn is not None
        issued = simulator.hospital.report(patient.mrn)
        (listed,) = await his.fetch_reports(patient)
        assert (listed.id, listed.name) == (issued.no, "血常规")
        whole = await his.fetch_report(patient, listed.id) if offers(his, Verb.FETCH_REPORT) else listed
        assert whole is not None
        results = [(r.name, r.value, r.unit) for r in whole.observations]
        assert results == [("白细胞", "11.2", "10*9/L"), ("血红蛋白", "142", "g/L")]


async def test_a_dialect_promises_to_look_up_only_what_it_can_read(spoken: Spoken) -> None:
    reads = {
        Verb.CREATE_PATIENT: Verb.FIND_PATIENT,
        Verb.SETTLE_BILL: Verb.FETCH_SETTLEMENT,
        Verb.REFUND: Verb.FETCH_REFUND,
    } | dict.fromkeys(
        (Verb.LOCK_SLOT, Verb.UNLOCK_SLOT, Verb.BOOK, Verb.REGISTER, Verb.CANCEL_REGISTRATION, Verb.CHECK_IN),
        Verb.FETCH_REGISTRATION,
    )
    async with spoken.hospital() as (_, his):
        for write, read in reads.items():
            if offers(his, write):
                assert (his.traits(write).query_back is not QueryBack.NONE) == offers(his, read), write


async def test_what_the_dialect_lacks_is_not_offered(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        for verb, write in (
            (Verb.LOCK_SLOT, his.lock_slot),
            (Verb.BOOK, his.book),
            (Verb.UNLOCK_SLOT, his.unlock_slot),
            (Verb.CHECK_IN, his.check_in),
        ):
            if not offers(his, verb):
                outcome = await write(order)
                assert isinstance(outcome, Rejected)
                assert outcome.code == "not_offered"
        assert not simulator.hospital.visits
