"""Every fault mode of the simulator, verb by verb: what the port says, and what the hospital really has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from connectors.fhir import FhirConnector
from connectors.port import (
    Accepted,
    HisError,
    HisRefused,
    HisReplyInvalid,
    HisUnavailable,
    Outcome,
    Rejected,
    Unknown,
)
from loadtest.simulators.fhir import FhirSimulator
from mappings.canonical import RegistrationStatus
from monitoring.metrics import REGISTRY
from tests.connectors.fhir.fhir_hospital import (
    PERSON,
    bill_payment,
    booked_order,
    hospital,
    order_for,
    patient_of,
    payment,
    switch,
    window,
)

Act = Callable[[], Awaitable[Outcome]]
TIMEOUTS = dict.fromkeys(
    ("book", "register", "cancel_registration", "settle_bill", "create_patient", "fetch_slots", "fetch_registration"),
    0.4,
)


async def prepared(op: str, simulator: FhirSimulator, connector: FhirConnector) -> Act:
    """Bring the hospital to where `op` comes next."""
    if op == "create_patient":
        return lambda: connector.create_patient(PERSON)
    if op == "settle_bill":
        due = await bill_payment(simulator, connector)
        return lambda: connector.settle_bill(due)
    if op == "book":
        order = await order_for(connector)
        return lambda: connector.book(order)
    order = await booked_order(connector)
    return (lambda: connector.register(order)) if op == "register" else (lambda: connector.cancel_registration(order))


WRITES = ("create_patient", "book", "register", "cancel_registration", "settle_bill")


@pytest.mark.parametrize("op", WRITES)
async def test_write_is_in_doubt_when_no_usable_reply_comes(op: str) -> None:
    async with hospital(timeout_s=TIMEOUTS) as (simulator, connector):
        act = await prepared(op, simulator, connector)
        for mode in ("hang", "fault", "html", "garbage", "late_commit", "lose_reply"):
            simulator.board.faults.clear()
            switch(simulator, op, mode, delay_s=30)
            outcome = await act()
            assert isinstance(outcome, Unknown), (mode, outcome)
            assert PERSON.name not in outcome.reason


@pytest.mark.parametrize("op", WRITES)
async def test_write_is_rejected_when_the_his_refuses(op: str) -> None:
    async with hospital() as (simulator, connector):
        act = await prepared(op, simulator, connector)
        switch(simulator, op, "refuse")
        outcome = await act()
        assert isinstance(outcome, Rejected), outcome
        assert (outcome.code, outcome.retryable) == ("refused", False)
        assert outcome.text == "HTTP 422: business-rule/refused"


@pytest.mark.parametrize("op", WRITES)
async def test_write_is_already_there_when_the_his_says_so(op: str) -> None:
    async with hospital() as (simulator, connector):
        act = await prepared(op, simulator, connector)
        switch(simulator, op, "already_exists")
        outcome = await act()
        assert isinstance(outcome, Rejected), outcome
        assert outcome.code == "already_exists"


@pytest.mark.parametrize("op", WRITES)
async def test_write_is_accepted_when_the_his_is_merely_slow(op: str) -> None:
    async with hospital() as (simulator, connector):
        act = await prepared(op, simulator, connector)
        switch(simulator, op, "slow", delay_s=0.1)
        assert isinstance(await act(), Accepted)


@pytest.mark.parametrize("mode", ["lose_reply", "fault_after", "truncated", "wrong_type"])
@pytest.mark.parametrize("op", ["book", "register", "cancel_registration"])
async def test_write_without_a_usable_reply_is_found_by_query_back_and_was_sent_once(op: str, mode: str) -> None:
    expected = {
        "book": RegistrationStatus.LOCKED,
        "register": RegistrationStatus.REGISTERED,
        "cancel_registration": RegistrationStatus.RELEASED,
    }
    async with hospital() as (simulator, connector):
        order = await order_for(connector) if op == "book" else await booked_order(connector)
        before = simulator.board.calls[op]
        switch(simulator, op, mode, times=1)
        outcome = await getattr(connector, op)(order)
        assert isinstance(outcome, Unknown)
        assert simulator.board.calls[op] == before + 1  # no library sends a second one behind our back
        found = await connector.fetch_registration(order)
        assert found is not None
        assert found.status is expected[op]
        assert len(simulator.hospital.visits) == 1
        asked = [headers for method, path, headers in simulator.requests if method == "GET" and "/Appointment?" in path]
        assert asked[-1]["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("mode", ["lose_reply", "fault_after", "truncated", "wrong_type"])
async def test_settlement_without_a_usable_reply_is_found_by_query_back(mode: str) -> None:
    async with hospital() as (simulator, connector):
        due = await bill_payment(simulator, connector)
        switch(simulator, "settle_bill", mode, times=1)
        assert isinstance(await connector.settle_bill(due), Unknown)
        found = await connector.fetch_settlement(due)
        assert found is not None
        assert (found.order_no, found.amount_fen) == (due.order_no, 3550)
        assert simulator.board.calls["settle_bill"] == 1


@pytest.mark.parametrize("op", ["register", "cancel_registration"])
async def test_change_is_refused_for_now_and_tried_three_times_when_versions_never_hold(op: str) -> None:
    """A storm of 412: each is read again, and must still be ours."""
    async with hospital() as (simulator, connector):
        order = await booked_order(connector)
        switch(simulator, op, "conflict")
        outcome = await getattr(connector, op)(order)
        assert isinstance(outcome, Rejected)
        assert (outcome.code, outcome.retryable) == ("busy", True)
        assert simulator.board.calls[op] == 3
        assert [visit.state for visit in simulator.hospital.visits.values()] == ["locked"]
        simulator.board.faults.clear()
        switch(simulator, op, "conflict", times=2)
        assert isinstance(await getattr(connector, op)(order), Accepted)
        assert len(simulator.store.payments["PaymentNotice"]) == (1 if op == "register" else 0)


async def test_one_seat_is_left_when_the_server_created_two() -> None:
    async with hospital(seats=3) as (simulator, connector):
        order = await order_for(connector)
        switch(simulator, "book", "double_create", times=1)
        booked = await connector.book(order)
        assert isinstance(booked, Accepted)
        assert sorted(visit.state for visit in simulator.hospital.visits.values()) == ["locked", "locked"]
        order = msgspec.structs.replace(order, his_refs=booked.his_refs, payment=payment(order.fee_fen))
        assert isinstance(await connector.register(order), Accepted)
        assert sorted(visit.state for visit in simulator.hospital.visits.values()) == ["registered", "released"]
        found = await connector.fetch_registration(order)
        assert found is not None
        assert (found.his_id, found.status) == (booked.his_refs["appointment"], RegistrationStatus.REGISTERED)


@pytest.mark.parametrize("op", WRITES)
async def test_write_waits_when_the_token_has_expired(op: str) -> None:
    async with hospital() as (simulator, connector):
        act = await prepared(op, simulator, connector)
        switch(simulator, op, "unauthorised")
        outcome = await act()
        assert isinstance(outcome, Rejected), outcome
        assert (outcome.code, outcome.retryable) == ("busy", True)
        simulator.board.faults.clear()
        assert isinstance(await act(), Accepted)


@pytest.mark.parametrize("mode", ["list_grows"])
async def test_list_that_changes_while_it_is_read_has_every_row_once(mode: str) -> None:
    async with hospital(seats=5) as (simulator, connector):
        before = sum(slot.seats_left for slot in await connector.fetch_slots(window(), []))
        switch(simulator, "fetch_slots", mode)
        assert sum(slot.seats_left for slot in await connector.fetch_slots(window(), [])) == before


async def test_document_of_ten_megabytes_is_read_whole_or_refused_by_its_size() -> None:
    async with hospital(max_message_bytes=11_000_000) as (simulator, connector):
        patient = await patient_of(connector)
        assert patient.mrn is not None
        simulator.hospital.report(patient.mrn)
        simulator.document_bytes = 10_000_000
        [report] = await connector.fetch_reports(patient)
        fetched = await connector.fetch_attachment(report.attachments[0])
        assert fetched.data is not None
        assert len(fetched.data) == 10_000_000
        simulator.document_bytes = 11_000_001
        with pytest.raises(HisReplyInvalid, match="larger than 11000000 bytes"):
            await connector.fetch_attachment(report.attachments[0])


async def test_late_commit_is_absent_first_and_there_once_in_the_end() -> None:
    async with hospital() as (simulator, connector):
        order = await order_for(connector)
        switch(simulator, "book", "late_commit", times=1, delay_s=0.2)
        assert isinstance(await connector.book(order), Unknown)
        assert await connector.fetch_registration(order) is None
        for _ in range(100):
            if simulator.hospital.visits:
                break
            await asyncio.sleep(0.02)
        again = await connector.book(order)  # even a repeat meets the first one's key
        assert isinstance(again, Rejected)
        assert again.code == "already_exists"
        found = await connector.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.LOCKED
        assert len(simulator.hospital.visits) == 1


async def test_refused_register_takes_its_payment_notice_back() -> None:
    async with hospital() as (simulator, connector):
        order = await booked_order(connector)
        switch(simulator, "register", "refuse")
        assert isinstance(await connector.register(order), Rejected)
        assert simulator.board.calls["withdraw_payment"] == 1
        [notice] = simulator.store.payments["PaymentNotice"].values()
        assert notice.resource["status"] == "cancelled"
        found = await connector.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.LOCKED


async def test_write_is_not_done_when_the_read_before_it_fails() -> None:
    async with hospital(timeout_s=TIMEOUTS) as (simulator, connector):
        order = await booked_order(connector)
        for mode in ("hang", "html", "fault", "lose_reply"):
            simulator.board.faults.clear()
            switch(simulator, "fetch_registration", mode)
            outcome = await connector.register(order)
            assert isinstance(outcome, Rejected), mode
            assert (outcome.code, outcome.retryable) == ("busy", True)
        assert simulator.board.calls["notify_payment"] == simulator.board.calls["register"] == 0


READ_FAULTS: dict[str, type[HisError]] = {
    "refuse": HisRefused,
    "fault": HisUnavailable,
    "hang": HisUnavailable,
    "lose_reply": HisUnavailable,
    "html": HisReplyInvalid,
    "garbage": HisReplyInvalid,
    "truncated": HisReplyInvalid,
    "wrong_type": HisReplyInvalid,
    "unauthorised": HisRefused,
}


@pytest.mark.parametrize("op", ["fetch_slots", "fetch_registration"])
async def test_read_fails_in_the_words_of_the_port(op: str) -> None:
    async with hospital(timeout_s=TIMEOUTS) as (simulator, connector):
        order = await order_for(connector)
        for mode, error in READ_FAULTS.items():
            simulator.board.faults.clear()
            switch(simulator, op, mode)
            with pytest.raises(error) as failed:
                await (
                    connector.fetch_slots(window(), []) if op == "fetch_slots" else connector.fetch_registration(order)
                )
            assert type(failed.value) is error
            assert (failed.value.hospital_id, failed.value.verb) == ("fhir-demo", op)


async def test_second_page_that_fails_is_no_short_list() -> None:
    async with hospital(seats=5) as (simulator, connector):
        await connector.fetch_slots(window(), [])
        pages = simulator.board.calls["fetch_slots"]
        assert pages > 1
        seen = 0

        class Second:
            """A fault of the second call only."""

            op, mode, times, delay_s = "fetch_slots", "fault", None, 0.0

        original = simulator.board.fault

        async def fault(op: str) -> object:
            nonlocal seen
            seen += 1
            return Second() if seen == 2 else await original(op)

        simulator.board.fault = fault  # type: ignore[method-assign,assignment]
        with pytest.raises(HisUnavailable):
            await connector.fetch_slots(window(), [])


async def test_gbk_under_a_utf8_label_is_read_and_counted() -> None:
    labels = {"hospital": "fhir-demo", "connector": "his", "kind": "gb18030"}
    async with hospital() as (simulator, connector):
        before = REGISTRY.get_sample_value("hisbridge_decode_fallbacks_total", labels) or 0
        switch(simulator, "*", "gbk")
        departments = await connector.fetch_departments()
        assert [item.name for item in departments] == ["内科", "外科", "口腔科"]
        assert REGISTRY.get_sample_value("hisbridge_decode_fallbacks_total", labels) == before + 1
