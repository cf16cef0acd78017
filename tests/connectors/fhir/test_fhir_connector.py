"""The verbs of the port against the simulated FHIR hospital, over sockets."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import signal
import sys

import msgspec
import pytest

from connectors.port import (
    Accepted,
    Capability,
    Connector,
    HisRefused,
    HisUnavailable,
    IdempotencyKey,
    NotOffered,
    Order,
    QueryBack,
    RefundOrder,
    Rejected,
    Unknown,
    Verb,
)
from loadtest.simulators.fhir_store import Found, Params
from mappings.canonical import (
    Department,
    Patient,
    Practitioner,
    Refund,
    RegistrationStatus,
    ReportKind,
    ScheduleStatus,
    Session,
    Settlement,
    StopScope,
)
from monitoring.logs import configure_logging
from monitoring.metrics import REGISTRY
from tests.connectors.fhir.fhir_hospital import (
    ORDER_NO,
    PERSON,
    bill_payment,
    booked_order,
    connected,
    hospital,
    order_for,
    patient_of,
    payment,
    switch,
    window,
)


async def test_capabilities_are_those_of_the_interop_table() -> None:
    async with hospital() as (_, connector):
        port: Connector = connector
        off = {verb for verb in Verb if port.traits(verb).capability is Capability.OFF}
        assert off == {
            Verb.LOCK_SLOT, Verb.UNLOCK_SLOT, Verb.CHECK_IN, Verb.PRESETTLE_BILL, Verb.REFUND, Verb.FETCH_REFUND,
            Verb.FETCH_STATEMENT,
        }  # fmt: skip
        for verb in (Verb.BOOK, Verb.REGISTER, Verb.CANCEL_REGISTRATION, Verb.SETTLE_BILL, Verb.CREATE_PATIENT):
            traits = port.traits(verb)
            assert (traits.query_back, traits.key) == (QueryBack.KEY, IdempotencyKey.CLIENT)


async def test_what_is_off_is_not_offered_and_sends_nothing() -> None:
    async with hospital() as (simulator, connector):
        order = await order_for(connector)
        bill = await bill_payment(simulator, connector)
        money = payment(5000)
        refund = RefundOrder(refund=Refund(refund_no="R1", payment=money, amount_fen=1, reason="x"), patient=PERSON)
        before = sum(simulator.board.calls.values())
        for outcome in (
            await connector.lock_slot(order),
            await connector.unlock_slot(order),
            await connector.check_in(order),
            await connector.presettle_bill(bill),
            await connector.refund(refund),
        ):
            assert isinstance(outcome, Rejected)
            assert outcome.code == "not_offered"
        with pytest.raises(NotOffered):
            await connector.fetch_statement(dt.date(2026, 1, 5))
        with pytest.raises(NotOffered):
            await connector.fetch_refund(refund)
        assert sum(simulator.board.calls.values()) == before


async def test_departments_and_practitioners_are_read() -> None:
    async with hospital() as (_, connector):
        await connector.ping()
        assert list(await connector.fetch_departments()) == [
            Department(id="100", name="内科", his_refs={"identifier": "100"}),
            Department(id="200", name="外科", his_refs={"identifier": "200"}),
            Department(id="300", name="口腔科", his_refs={"identifier": "300"}),
        ]
        doctors = await connector.fetch_practitioners()
        assert doctors[1] == Practitioner(
            id="D2", name="王芳", department_id="100", title="副主任医师", his_refs={"role": "role-D2"}
        )


async def test_schedule_that_spans_days_is_told_apart_by_day_and_session() -> None:
    async with hospital(days=2, seats=5) as (simulator, connector):
        schedules = await connector.fetch_schedules(window())
        # four doctors with one FHIR Schedule each, on two days, morning and afternoon
        assert len(schedules) == 4 * 2 * 2
        assert {item.id for item in schedules} == {"sch-D1", "sch-D2", "sch-D3", "sch-D4"}
        assert len({(item.id, item.date, item.session) for item in schedules}) == 16
        first = schedules[0]
        tomorrow = window().date_from + dt.timedelta(days=1)
        assert (first.id, first.date, first.session, first.fee_fen) == ("sch-D1", tomorrow, Session.AM, 5000)
        assert (first.department_id, first.department_name) == ("100", "内科")
        assert (first.practitioner_id, first.practitioner_name) == ("D1", "李明")
        only = await connector.fetch_schedules(msgspec.structs.replace(window(), department_id="300"))
        assert {item.practitioner_id for item in only} == {"D4"}
        # 2 days x 4 doctors x 2 sessions x 4 segments x 5 seats = 320 Slots, at most 50 a page
        assert simulator.board.calls["fetch_slots"] == 2 * 7


async def test_seats_are_the_free_slots_of_a_segment() -> None:
    async with hospital(days=2, seats=5) as (simulator, connector):
        slots = await connector.fetch_slots(window(), [])
        assert len(slots) == 2 * 4 * 2 * 4
        assert {slot.seats_left for slot in slots} == {5}
        person = simulator.hospital.create_person("李四", "x")
        first = next(iter(simulator.hospital.segments.values()))
        simulator.hospital.take("window", person.mrn, first.code)
        again = await connector.fetch_slots(window(), [])
        assert [slot.id for slot in again] == [slot.id for slot in slots]
        assert [slot.seats_left for slot in again][:2] == [4, 5]
        assert again[0].ends_at - again[0].starts_at == dt.timedelta(minutes=30)
        assert len(again[0].his_refs["free"].split()) == 4


async def test_window_ends_at_local_midnight() -> None:
    async with hospital(days=2, seats=5) as (_, connector):
        tomorrow = window().date_from + dt.timedelta(days=1)
        day = msgspec.structs.replace(window(), date_from=tomorrow, date_to=tomorrow)
        assert {slot.date for slot in await connector.fetch_slots(day, [])} == {tomorrow}
        assert {item.date for item in await connector.fetch_schedules(day)} == {tomorrow}


async def test_stop_is_seen_as_a_stopped_session() -> None:
    async with hospital() as (simulator, connector):
        assert await connector.fetch_stops(window()) == []
        plan = next(iter(simulator.hospital.plans.values()))
        simulator.hospital.stop(plan.code)
        stops = await connector.fetch_stops(window())
        assert [(s.scope, s.schedule_id, s.date, s.session, s.starts_at) for s in stops] == [
            (StopScope.SCHEDULE, "sch-D1", plan.day, Session.AM, None)
        ]
        stopped = [item for item in await connector.fetch_schedules(window()) if item.status is ScheduleStatus.STOPPED]
        assert [(item.id, item.date, item.session) for item in stopped] == [("sch-D1", plan.day, Session.AM)]
        slots = await connector.fetch_slots(window(), stopped)
        assert sum(slot.seats_left for slot in slots if (slot.date, slot.session) == (plan.day, Session.AM)) == 0


async def test_patient_is_created_once_and_found() -> None:
    async with hospital() as (simulator, connector):
        assert await connector.find_patient(PERSON) == []
        first, second = await connector.create_patient(PERSON), await connector.create_patient(PERSON)
        assert isinstance(first, Accepted)
        assert first == second  # 201, then 200
        assert len(simulator.hospital.people) == 1
        assert list(await connector.find_patient(PERSON)) == [first.record]
        record = first.record
        assert isinstance(record, Patient)
        assert (record.name, record.id_number, record.phone) == ("张伟", PERSON.id_number, PERSON.phone)
        assert (record.birth_date, record.sex, record.mrn) == (PERSON.birth_date, PERSON.sex, first.his_refs["patient"])


async def test_patient_with_the_number_of_another_is_a_mismatch() -> None:
    async with hospital() as (_, connector):
        await connector.create_patient(PERSON)
        outcome = await connector.create_patient(msgspec.structs.replace(PERSON, name="王五"))
        assert isinstance(outcome, Rejected)
        assert outcome.code == "patient_mismatch"


async def test_patient_with_several_records_is_ambiguous() -> None:
    async with hospital() as (simulator, connector):
        await connector.create_patient(PERSON)
        original = next(iter(simulator.hospital.people.values()))
        simulator.hospital.people["P2"] = type(original)("P2", original.name, original.id_number)
        outcome = await connector.create_patient(PERSON)
        assert isinstance(outcome, Rejected)
        assert outcome.code == "patient_ambiguous"
        assert len(await connector.find_patient(PERSON)) == 2


async def test_request_about_nobody_is_never_sent() -> None:
    async with hospital() as (simulator, connector):
        nobody = Patient(name="张伟")
        for read in (connector.find_patient, connector.fetch_bills, connector.fetch_reports):
            with pytest.raises(HisRefused) as refused:
                await read(nobody)
            assert refused.value.code == "invalid_request"
        outcome = await connector.create_patient(nobody)
        assert isinstance(outcome, Rejected)
        assert outcome.code == "invalid_request"
        assert set(simulator.board.calls) <= {"ping"}


async def test_booking_lives_from_unpaid_to_registered_to_cancelled() -> None:
    async with hospital(days=2, seats=5) as (simulator, connector):
        order = await order_for(connector)
        assert await connector.fetch_registration(order) is None
        booked = await connector.book(order)
        assert isinstance(booked, Accepted)
        locked = await connector.fetch_registration(order)
        assert locked is not None
        assert (locked.status, locked.order_no, locked.queue_no) == (RegistrationStatus.LOCKED, ORDER_NO, "1")
        assert (locked.starts_at, locked.ends_at, locked.fee_fen) == (order.slot.starts_at, order.slot.ends_at, 5000)
        assert (locked.mrn, locked.practitioner_id) == (order.patient.mrn, "D1")
        slots = await connector.fetch_slots(window(), [order.schedule])
        assert slots[0].seats_left == 4  # unpaid, and taken

        paid = msgspec.structs.replace(order, his_refs=booked.his_refs, payment=payment(5000, "T77"))
        registered = await connector.register(paid)
        assert isinstance(registered, Accepted)
        assert registered.his_refs["payment_notice"]
        found = await connector.fetch_registration(paid)
        assert found is not None
        assert found.status is RegistrationStatus.REGISTERED
        [visit] = simulator.hospital.visits.values()
        assert (visit.state, visit.paid_fen, visit.trade_no) == ("registered", 5000, "T77")

        assert isinstance(await connector.cancel_registration(paid), Accepted)
        found = await connector.fetch_registration(paid)
        assert found is not None
        assert found.status is RegistrationStatus.RELEASED
        again = await connector.cancel_registration(paid)
        assert isinstance(again, Rejected)
        assert again.code == "already_done"
        assert (await connector.fetch_slots(window(), [order.schedule]))[0].seats_left == 5


async def test_register_and_cancel_work_when_no_his_refs_were_kept() -> None:
    async with hospital() as (_, connector):
        order = msgspec.structs.replace(await booked_order(connector), his_refs={})
        assert isinstance(await connector.register(order), Accepted)
        assert isinstance(await connector.cancel_registration(order), Accepted)


async def test_repeat_is_told_as_one_when_the_key_is_known() -> None:
    async with hospital() as (simulator, connector):
        order = await booked_order(connector)
        again = await connector.book(order)
        assert isinstance(again, Rejected)
        assert again.code == "already_exists"
        assert isinstance(await connector.register(order), Accepted)
        assert isinstance(await connector.register(order), Accepted)  # it is registered: nothing is sent twice
        assert simulator.board.calls["register"] == 1
        assert len(simulator.store.payments["PaymentNotice"]) == 1
        assert len(simulator.hospital.visits) == 1


async def test_no_seat_is_sold_twice_when_many_book_the_same_segment() -> None:
    async with hospital(days=2, seats=5) as (simulator, connector):
        order = await order_for(connector)
        orders = [msgspec.structs.replace(order, order_no=f"2026010500000000{number:04}") for number in range(8)]
        outcomes = await asyncio.gather(*(connector.book(item) for item in orders))
        assert sum(isinstance(outcome, Accepted) for outcome in outcomes) == 5
        refused = [outcome.code for outcome in outcomes if isinstance(outcome, Rejected)]
        assert refused == ["full"] * 3
        assert len({visit.segment for visit in simulator.hospital.visits.values()}) == 1
        assert len(simulator.store.seats) == 5
        assert simulator.hospital.oversold == 0


async def test_next_free_slot_is_taken_when_the_known_ones_are_gone() -> None:
    async with hospital(days=2, seats=5) as (simulator, connector):
        order = await order_for(connector)
        stale = msgspec.structs.replace(order.slot, his_refs={"free": order.slot.his_refs["free"].split()[0]})
        person = simulator.hospital.create_person("李四", "x")
        first = next(iter(simulator.hospital.segments.values()))
        visit = simulator.hospital.take("window", person.mrn, first.code)
        simulator.store.seats[stale.his_refs["free"]] = visit.no
        outcome = await connector.book(msgspec.structs.replace(order, slot=stale))
        assert isinstance(outcome, Accepted)
        assert outcome.his_refs["slot"] != f"Slot/{stale.his_refs['free']}"


async def test_stopped_schedule_cannot_be_booked() -> None:
    async with hospital() as (simulator, connector):
        order = await order_for(connector)
        simulator.hospital.stop(next(iter(simulator.hospital.plans)))
        outcome = await connector.book(order)
        assert isinstance(outcome, Rejected)
        assert outcome.code == "stopped"


async def test_register_reads_again_when_the_version_has_changed() -> None:
    async with hospital() as (simulator, connector):
        order = await booked_order(connector)
        kept = simulator.store.appointments[order.his_refs["appointment"]]
        work = simulator.store.update
        conflicts: list[str] = []

        def meddle(kind: str, key: str, body: dict[str, object], if_match: str) -> dict[str, object]:
            if kind == "Appointment" and not conflicts:
                conflicts.append(if_match)
                kept.version += 1  # somebody at the hospital edits the comment in between
            return work(kind, key, body, if_match)

        simulator.store.update = meddle  # type: ignore[method-assign]
        assert isinstance(await connector.register(order), Accepted)
        assert conflicts == ['W/"1"']
        assert simulator.board.calls["register"] == 2


async def test_register_is_refused_and_the_payment_taken_back_when_the_his_released_it_meanwhile() -> None:
    async with hospital() as (simulator, connector):
        order = await booked_order(connector)
        work = simulator.store.update

        def meddle(kind: str, key: str, body: dict[str, object], if_match: str) -> dict[str, object]:
            visit = simulator.hospital.visits[order.his_refs["appointment"]]
            if kind == "Appointment" and visit.state == "locked":
                simulator.hospital.release(visit.no)
                simulator.store.appointments[visit.no].version += 1
            return work(kind, key, body, if_match)

        simulator.store.update = meddle  # type: ignore[method-assign]
        outcome = await connector.register(order)
        assert isinstance(outcome, Rejected)
        assert outcome.code == "too_late"
        [notice] = simulator.store.payments["PaymentNotice"].values()
        assert notice.resource["status"] == "cancelled"


async def test_appointment_of_another_is_left_alone() -> None:
    async with hospital() as (_, connector):
        theirs = await booked_order(connector)
        ours = msgspec.structs.replace(theirs, order_no="20260105000000000099")
        for outcome in (await connector.register(ours), await connector.cancel_registration(ours)):
            assert isinstance(outcome, Rejected)
            assert outcome.code == "not_found"
        found = await connector.fetch_registration(theirs)
        assert found is not None
        assert found.status is RegistrationStatus.LOCKED


async def test_bill_is_settled_when_the_his_balances_it() -> None:
    async with hospital() as (simulator, connector):
        due = await bill_payment(simulator, connector)
        assert (due.bill.amount_fen, due.bill.currency) == (3550, "CNY")
        assert [(item.name, item.amount_fen) for item in due.bill.items] == [("血常规", 2500), ("挂号", 1050)]
        assert await connector.fetch_settlement(due) is None
        settled = await connector.settle_bill(due)
        assert isinstance(settled, Accepted)
        assert isinstance(settled.record, Settlement)
        assert settled.record.bill_id == due.bill.id
        assert await connector.fetch_settlement(due) == settled.record
        [charge] = simulator.hospital.charges.values()
        assert (charge.state, charge.trade_no) == ("paid", "4200001")
        assert await connector.fetch_bills(due.patient) == []
        again = await connector.settle_bill(due)
        assert isinstance(again, Rejected)
        assert again.code == "already_exists"


async def test_settlement_is_in_doubt_while_the_invoice_is_not_balanced() -> None:
    async with hospital(connection={"settle_wait_s": 0.2}) as (simulator, connector):
        due = await bill_payment(simulator, connector)
        simulator.store.balances = False
        assert isinstance(await connector.settle_bill(due), Unknown)
        assert await connector.fetch_settlement(due) is None
        simulator.hospital.settle(due.bill.id, 3550, "4200001")
        assert await connector.fetch_settlement(due) is not None


async def test_bill_paid_with_other_money_is_not_settled_by_us() -> None:
    async with hospital() as (simulator, connector):
        due = await bill_payment(simulator, connector)
        simulator.hospital.settle(due.bill.id, 3550, "at the window")
        outcome = await connector.settle_bill(due)
        assert isinstance(outcome, Rejected)
        assert outcome.code == "already_exists"
        with pytest.raises(HisRefused) as refused:
            await connector.fetch_settlement(due)
        assert (refused.value.code, refused.value.verb) == ("taken", "fetch_settlement")


async def test_settlement_is_refused_when_our_notice_is_over_another_amount() -> None:
    async with hospital(connection={"settle_wait_s": 0.2}) as (simulator, connector):
        due = await bill_payment(simulator, connector)
        assert isinstance(await connector.settle_bill(due), Accepted)
        [notice] = simulator.store.payments["PaymentNotice"].values()
        notice.resource["amount"]["value"] = 35.49
        with pytest.raises(HisRefused) as refused:
            await connector.fetch_settlement(due)
        assert refused.value.code == "price_changed"


async def test_bill_over_another_amount_is_not_paid() -> None:
    async with hospital() as (simulator, connector):
        due = await bill_payment(simulator, connector)
        outcome = await connector.settle_bill(msgspec.structs.replace(due, payment=payment(3549)))
        assert isinstance(outcome, Rejected)
        assert outcome.code == "price_changed"
        assert simulator.store.payments["PaymentReconciliation"] == {}


async def test_reports_come_with_results_and_documents() -> None:
    async with hospital() as (simulator, connector):
        patient = await patient_of(connector)
        assert patient.mrn is not None
        number = simulator.hospital.report(patient.mrn).no
        other = simulator.hospital.create_person("李四", "x")
        foreign = simulator.hospital.report(other.mrn).no
        [report] = await connector.fetch_reports(patient)
        assert (report.id, report.kind, report.name, report.mrn) == (number, ReportKind.LAB, "血常规", patient.mrn)
        assert [(o.name, o.code, o.value, o.unit, o.reference_range, o.flag) for o in report.observations] == [
            ("白细胞", "WBC", "11.2", "10*9/L", "3.5-9.5", "H"),
            ("血红蛋白", "HGB", "142", "g/L", "115-150", "N"),
        ]
        assert await connector.fetch_report(patient, number) == report
        assert await connector.fetch_report(patient, "none") is None
        assert await connector.fetch_report(patient, foreign) is None  # somebody else's
        [attachment] = report.attachments
        fetched = await connector.fetch_attachment(attachment)
        assert fetched.data is not None
        assert fetched.data.startswith(b"%PDF-1.4")


async def test_bearer_token_is_sent_and_a_missing_one_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_DEMO_TOKEN", "s3cret")
    async with hospital(token="s3cret", token_env="FHIR_DEMO_TOKEN") as (_, connector):
        assert len(await connector.fetch_departments()) == 3
    async with hospital(token="s3cret") as (_, connector):
        with pytest.raises(HisRefused) as refused:
            await connector.fetch_departments()
        assert refused.value.code == "busy"


async def test_writes_wait_and_one_error_is_logged_when_the_token_has_expired(
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure_logging()  # to this test's stderr, wherever an earlier test sent it
    async with hospital() as (simulator, connector):
        order = await booked_order(connector)
        other = msgspec.structs.replace(await order_for(connector, "20260105000000000007"), patient=order.patient)
        simulator._token = "renewed"
        for outcome in [await connector.book(other) for _ in range(3)] + [await connector.register(order)]:
            assert isinstance(outcome, Rejected)
            assert (outcome.code, outcome.retryable) == ("busy", True)
            assert "HTTP 401" in outcome.text
        told = capfd.readouterr().err
        assert told.count("fhir_not_authorised") == 2  # one for POST Appointment, one for GET Appointment
        simulator._token = None
        assert isinstance(await connector.book(other), Accepted)
        assert isinstance(await connector.register(order), Accepted)


async def test_booking_is_known_by_our_number_when_the_site_has_its_own_namespace() -> None:
    async with hospital(connection={"order_system": "urn:site:orders"}) as (simulator, connector):
        order = await booked_order(connector)
        [kept] = simulator.store.appointments.values()
        assert kept.resource["identifier"] == [{"system": "urn:site:orders", "value": ORDER_NO}]
        found = await connector.fetch_registration(order)
        assert found is not None
        assert (found.order_no, found.status) == (ORDER_NO, RegistrationStatus.LOCKED)
        assert isinstance(await connector.register(order), Accepted)


async def test_living_appointment_counts_when_the_server_ignores_the_condition() -> None:
    async with hospital(seats=3) as (simulator, connector):
        order = await order_for(connector)
        switch(simulator, "book", "ignore_condition")
        first, second = await connector.book(order), await connector.book(order)
        assert isinstance(first, Accepted)
        assert isinstance(second, Accepted)
        assert first.his_refs["appointment"] != second.his_refs["appointment"]
        simulator.hospital.release(first.his_refs["appointment"])
        found = await connector.fetch_registration(order)
        assert found is not None
        assert (found.his_id, found.status) == (second.his_refs["appointment"], RegistrationStatus.LOCKED)


async def test_register_reads_again_when_a_version_conflict_is_answered_409() -> None:
    async with hospital() as (simulator, connector):
        order = await booked_order(connector)
        switch(simulator, "register", "conflict_409")
        kept = simulator.store.appointments[order.his_refs["appointment"]]
        search = simulator.store.search
        edits: list[str] = []

        def edited_after(kind: str, params: Params) -> Found:
            found = search(kind, params)
            if kind == "Appointment" and not edits:
                edits.append(kind)
                kept.version += 1
            return found

        simulator.store.search = edited_after  # type: ignore[method-assign]
        assert isinstance(await connector.register(order), Accepted)
        assert simulator.board.calls["register"] == 2


async def test_his_is_unavailable_and_writes_are_not_sent_when_nobody_listens() -> None:
    async with hospital() as (simulator, connector):
        order: Order = await booked_order(connector)
        due = await bill_payment(simulator, connector)
        up = {"hospital": "fhir-demo", "connector": "his"}
        assert REGISTRY.get_sample_value("hisbridge_connector_up", up) == 1
        await simulator.close()
        with pytest.raises(HisUnavailable) as failed:
            await connector.fetch_slots(window(), [])
        assert (failed.value.hospital_id, failed.value.verb) == ("fhir-demo", "fetch_slots")
        for outcome in (
            await connector.book(order),
            await connector.register(order),
            await connector.cancel_registration(order),
            await connector.settle_bill(due),
            await connector.create_patient(PERSON),
        ):
            assert isinstance(outcome, Rejected)
            assert (outcome.code, outcome.retryable) == ("not_sent", True)
        assert REGISTRY.get_sample_value("hisbridge_connector_up", up) == 0


async def test_simulator_runs_as_a_program_and_ends_well_on_sigterm() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.simulators.fhir", "--days", "1", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    ready = json.loads(await process.stdout.readline())
    assert ready["ready"] is True
    async with connected(f"http://127.0.0.1:{ready['port']}/fhir") as connector:
        await connector.ping()
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
