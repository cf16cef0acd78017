"""One contract for every FHIR profile: what the port promises, against a hospital that is spoken to so and fails in its ways."""

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
    Rejected,
    Unknown,
    Verb,
)
from mappings.canonical import RegistrationStatus, ScheduleStatus, Session, StatementKind
from tests.connectors.fhir.fhir_hospital import PERSON, ZONE, payment, switch, window
from tests.connectors.fhir.spoken import (
    SPOKEN,
    Spoken,
    give_back,
    giving_back,
    offers,
    order_of,
    patient_of,
    take,
    taking,
    with_refs,
)


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
        assert {s.date for s in schedules} == {tomorrow}
        assert {(s.department_id, s.practitioner_id, s.session) for s in schedules} == {
            (plan.dept, plan.doctor, Session(plan.session)) for plan in simulator.hospital.plans.values()
        }
        fees = {(plan.doctor, plan.session): plan.fee_fen for plan in simulator.hospital.plans.values()}
        assert {(str(s.practitioner_id), s.session.value): s.fee_fen for s in schedules} == fees
        slots = await his.fetch_slots(window(), schedules)
        told = sorted((s.starts_at, s.ends_at, s.seats_left) for s in slots)
        assert told == sorted((s.start, s.end, s.left) for s in simulator.hospital.segments.values())
        assert len({slot.id for slot in slots}) == len(slots)


async def test_stop_is_told_and_its_seats_cannot_be_taken_when_the_doctor_is_away(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his)
        plan = simulator.hospital.plans[next(iter(simulator.hospital.plans))]
        simulator.hospital.stop(plan.code)
        [stop] = await his.fetch_stops(window())
        assert (stop.schedule_id, stop.date, stop.session) == (order.schedule.id, plan.day, Session(plan.session))
        stopped = [s for s in await his.fetch_schedules(window()) if s.status is ScheduleStatus.STOPPED]
        assert [(s.id, s.session) for s in stopped] == [(order.schedule.id, Session(plan.session))]
        refused = await take(his, order)
        assert isinstance(refused, Rejected)
        assert refused.code in ("stopped", "full")  # a Slot that is busy-unavailable is not free
        assert not simulator.hospital.visits


# --- a visit ----------------------------------------------------------------------------------------------------------


async def test_seat_is_taken_registered_found_and_given_back(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his)
        assert await his.fetch_registration(order) is None
        order = with_refs(order, await take(his, order))
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.LOCKED
        [slot] = [one for one in await his.fetch_slots(window(), []) if one.id == order.slot.id]
        assert slot.seats_left == 4
        paid = payment(order.fee_fen)
        order = with_refs(order, await his.register(msgspec.structs.replace(order, payment=paid)), payment=paid)
        found = await his.fetch_registration(order)
        assert found is not None
        assert (found.status, found.order_no) == (RegistrationStatus.REGISTERED, order.order_no)
        assert found.mrn == order.patient.mrn
        [visit] = simulator.hospital.visits.values()
        assert (visit.state, visit.paid_fen, visit.trade_no) == ("registered", order.fee_fen, "4200001")
        assert (visit.key, visit.mrn) == (order.order_no, order.patient.mrn)
        assert isinstance(await his.cancel_registration(order), Accepted)
        again = await his.cancel_registration(order)
        assert isinstance(again, Rejected)
        assert again.code == "already_done"
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.RELEASED
        assert visit.state == "released"
        [slot] = [one for one in await his.fetch_slots(window(), []) if one.id == order.slot.id]
        assert slot.seats_left == 5


async def test_seat_is_free_again_when_it_was_taken_and_not_paid(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his)
        order = with_refs(order, await take(his, order))
        [visit] = simulator.hospital.visits.values()
        assert isinstance(await give_back(his, order), Accepted)
        assert simulator.hospital.segments[visit.segment].taken == 0
        [slot] = [one for one in await his.fetch_slots(window(), []) if one.id == order.slot.id]
        assert slot.seats_left == 5


async def test_sixth_is_refused_as_full_when_five_take_the_last_seats_together(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his)
        orders = [msgspec.structs.replace(order, order_no=f"2{n:019d}") for n in range(6)]
        outcomes = await asyncio.gather(*(take(his, one) for one in orders))
        for _ in range(3):  # "taken", or "busy": tried again by the outbox
            late = [n for n, one in enumerate(outcomes) if isinstance(one, Rejected) and one.retryable]
            for n in late:
                outcomes[n] = await take(his, orders[n])
        assert sum(isinstance(outcome, Accepted) for outcome in outcomes) == 5
        assert [outcome.code for outcome in outcomes if isinstance(outcome, Rejected)] == ["full"]
        assert simulator.hospital.oversold == 0
        assert len(simulator.hospital.visits) == 5


async def test_wrong_amount_is_refused_and_registers_nothing(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his)
        order = with_refs(order, await take(his, order))
        refused = await his.register(msgspec.structs.replace(order, payment=payment(order.fee_fen + 1)))
        assert isinstance(refused, Rejected)
        assert refused.code == "price_changed"
        assert [v.state for v in simulator.hospital.visits.values()] == ["locked"]


# --- three outcomes -----------------------------------------------------------------------------------------------

LOST = ("lose_reply", "fault_after", "truncated", "wrong_type")


@pytest.mark.parametrize("mode", [*LOST, "already_exists"])
async def test_each_step_is_found_again_when_the_hospital_did_it_and_did_not_say_so(spoken: Spoken, mode: str) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his)
        if spoken.has_key:
            switch(simulator, taking(his).value, mode, times=1)
            outcome = await take(his, order)
            if mode == "already_exists":
                assert isinstance(outcome, Rejected)
                assert outcome.code == "already_exists"
            else:
                assert isinstance(outcome, Unknown)
            found = await his.fetch_registration(order)
            assert found is not None
            assert found.status is RegistrationStatus.LOCKED
            order = msgspec.structs.replace(order, his_refs=found.his_refs)  # what was found is enough to go on with
        else:
            order = with_refs(order, await take(his, order))
        order = msgspec.structs.replace(order, payment=payment(order.fee_fen))
        lost = mode if mode in LOST else "lose_reply"
        switch(simulator, "register", lost, times=1)
        assert isinstance(await his.register(order), Unknown)
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.REGISTERED
        order = msgspec.structs.replace(order, his_refs=order.his_refs | found.his_refs)
        switch(simulator, "cancel_registration", lost, times=1)
        assert isinstance(await his.cancel_registration(order), Unknown)
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.RELEASED


@pytest.mark.parametrize("mode", LOST)
async def test_given_back_seat_is_found_so_when_the_answer_is_lost(spoken: Spoken, mode: str) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his)
        order = with_refs(order, await take(his, order))
        switch(simulator, giving_back(his).value, mode, times=1)
        assert isinstance(await give_back(his, order), Unknown)
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.RELEASED


async def test_lost_hold_is_said_not_to_be_found_again_when_it_carries_no_number(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his)
        assert (his.traits(taking(his)).query_back is QueryBack.NONE) == (not spoken.has_key)
        if spoken.has_key:
            return
        switch(simulator, "lock_slot", "lose_reply", times=1)
        assert isinstance(await take(his, order), Unknown)
        assert len(simulator.hospital.visits) == 1


async def test_repeated_taking_is_recognised_by_our_order_number(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his)
        assert isinstance(await take(his, order), Accepted)
        again = await take(his, order)
        if spoken.has_key:
            assert isinstance(again, Rejected)
            assert (again.code, again.retryable) == ("already_exists", False)
        assert len(simulator.hospital.visits) == (1 if spoken.has_key else 2)


@pytest.mark.parametrize("op", ["take", "register", "give_back"])
@pytest.mark.parametrize("mode", ["hang", "fault", "html", "garbage", "refuse", "unauthorised", "slow", "conflict"])
async def test_write_has_its_outcome_and_the_seat_is_where_it_says(spoken: Spoken, op: str, mode: str) -> None:
    timeouts = dict.fromkeys(("lock_slot", "book", "register", "unlock_slot", "cancel_registration"), 0.5)
    async with spoken.hospital(timeout_s=timeouts) as (simulator, his):
        order = await order_of(his)
        if op == "take":
            verb, before = taking(his), []
        else:
            order = with_refs(order, await take(his, order), payment=payment(order.fee_fen))
            verb, before = (Verb.REGISTER if op == "register" else giving_back(his)), ["locked"]
        # Of a seat that is not paid the simulator cannot tell an unlock from a cancellation by PUT.
        asked = "cancel_registration" if op == "give_back" and "transaction" not in spoken.offers else verb.value
        asked = "unlock_slot" if op == "give_back" and spoken.offers else asked
        switch(simulator, asked, mode, delay_s=0.05)
        act = {"take": take, "register": lambda h, o: h.register(o), "give_back": give_back}[op]
        outcome = await act(his, order)
        done = {"take": ["locked"], "register": ["registered"], "give_back": ["released"]}[op]
        seen = [visit.state for visit in simulator.hospital.visits.values()]
        if mode in ("hang", "fault", "html", "garbage"):
            assert isinstance(outcome, Unknown), outcome
            assert seen == before
        elif mode in ("refuse", "unauthorised"):
            assert isinstance(outcome, Rejected), outcome
            assert (outcome.code, outcome.retryable) == (("refused", False) if mode == "refuse" else ("busy", True))
            assert seen == before
        elif mode == "slow":
            assert isinstance(outcome, Accepted), outcome
            assert seen == done
        else:  # what is changed by a PUT, or a transaction, is never done on a version that has changed
            assert seen in (before, done)
            assert isinstance(outcome, Accepted) == (seen == done)
        assert PERSON.name not in str(outcome)


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("fault", HisUnavailable),
        ("html", HisReplyInvalid),
        ("garbage", HisReplyInvalid),
        ("truncated", HisReplyInvalid),
        ("wrong_type", HisReplyInvalid),
        ("refuse", HisRefused),
        ("unauthorised", HisRefused),
        ("lose_reply", HisUnavailable),
        ("hang", HisUnavailable),
    ],
)
async def test_read_raises_its_own_error_when_the_hospital_fails(
    spoken: Spoken, mode: str, error: type[Exception]
) -> None:
    async with spoken.hospital(timeout_s={"fetch_schedules": 0.5}) as (simulator, his):
        switch(simulator, "fetch_schedules", mode)
        with pytest.raises(error) as failed:
            await his.fetch_schedules(window())
        assert type(failed.value) is error


# --- people, money, reports -----------------------------------------------------------------------------------------


async def test_patient_is_found_by_number_and_refused_by_another_name(spoken: Spoken) -> None:
    async with spoken.hospital() as (_, his):
        assert await his.find_patient(PERSON) == []
        patient = await patient_of(his)
        [found] = await his.find_patient(PERSON)
        assert (found.mrn, found.name) == (patient.mrn, "张伟")
        again = await his.create_patient(PERSON)
        assert isinstance(again, Accepted)
        other = await his.create_patient(msgspec.structs.replace(PERSON, name="李四"))
        assert isinstance(other, Rejected)
        assert other.code == "patient_mismatch"


@pytest.mark.parametrize("mode", [None, *LOST])
async def test_bill_is_settled_once_and_found_again(spoken: Spoken, mode: str | None) -> None:
    async with spoken.hospital() as (simulator, his):
        patient = await patient_of(his)
        assert patient.mrn is not None
        charge = simulator.hospital.charge(patient.mrn, [("血常规", 2500), ("挂号费", 50)])
        [bill] = await his.fetch_bills(patient)
        assert (bill.amount_fen, bill.currency) == (2550, "CNY")
        assert [(item.name, item.amount_fen) for item in bill.items] == [("血常规", 2500), ("挂号费", 50)]
        paying = BillPayment(order_no="9" * 20, bill=bill, patient=patient, payment=payment(2550))
        assert await his.fetch_settlement(paying) is None
        if mode is not None:
            switch(simulator, "settle_bill", mode, times=1)
        settled = await his.settle_bill(paying)
        assert isinstance(settled, Unknown if mode else Accepted)
        assert (charge.state, charge.trade_no) == ("paid", "4200001")
        found = await his.fetch_settlement(paying)
        assert found is not None
        assert (found.order_no, found.amount_fen) == (paying.order_no, 2550)
        again = await his.settle_bill(paying)
        assert isinstance(again, Rejected)
        assert again.code == "already_exists"
        assert await his.fetch_bills(patient) == []
        if offers(his, Verb.FETCH_STATEMENT):
            lines = await his.fetch_statement(dt.datetime.now(ZONE).date())
            assert [(x.kind, x.amount_fen, x.trade_no, x.order_no) for x in lines] == [
                (StatementKind.PAYMENT, 2550, "4200001", "9" * 20)
            ]
            assert await his.fetch_statement(dt.date(2020, 1, 1)) == []


async def test_report_is_told_with_its_results(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        patient = await patient_of(his)
        assert await his.fetch_reports(patient) == []
        assert patient.mrn is not None
        issued = simulator.hospital.report(patient.mrn)
        [listed] = await his.fetch_reports(patient)
        assert (listed.id, listed.name) == (issued.no, "血常规")
        results = [(r.name, r.value, r.unit) for r in listed.observations]
        assert results == [("白细胞", "11.2", "10*9/L"), ("血红蛋白", "142", "g/L")]
        assert await his.fetch_report(patient, listed.id) == listed


# --- what is promised -----------------------------------------------------------------------------------------------


async def test_a_profile_promises_to_look_up_only_what_it_can_read(spoken: Spoken) -> None:
    reads = {Verb.CREATE_PATIENT: Verb.FIND_PATIENT, Verb.SETTLE_BILL: Verb.FETCH_SETTLEMENT}
    reads |= dict.fromkeys(
        (Verb.LOCK_SLOT, Verb.UNLOCK_SLOT, Verb.BOOK, Verb.REGISTER, Verb.CANCEL_REGISTRATION), Verb.FETCH_REGISTRATION
    )
    async with spoken.hospital() as (_, his):
        for write, read in reads.items():
            if offers(his, write) and his.traits(write).query_back is not QueryBack.NONE:
                assert offers(his, read), write


async def test_what_the_profile_lacks_is_not_offered(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his)
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
        if not offers(his, Verb.FETCH_STATEMENT):
            with pytest.raises(NotOffered):
                await his.fetch_statement(dt.date(2026, 1, 5))
        assert not simulator.hospital.visits


async def test_nothing_is_locked_when_the_server_does_not_declare_how(spoken: Spoken) -> None:
    async with spoken.hospital(offers=()) as (simulator, his):
        if not offers(his, Verb.LOCK_SLOT):
            return
        refused = await his.lock_slot(await order_of(his))
        assert isinstance(refused, Rejected)
        assert (refused.code, refused.retryable) == ("not_offered", False)
        assert "does not declare" in refused.text
        assert not simulator.hospital.visits
