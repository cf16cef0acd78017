"""Several things at a server under one key of ours: what is sent, what is kept, and what goes to a person."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from aiohttp import web

from connectors.fhir import Options, create
from connectors.fhir.abilities import Abilities
from connectors.fhir.statement import read_statement
from connectors.port import Accepted, HisRefused, Rejected, Unknown
from loadtest.simulators.fhir_store import Found
from mappings.canonical import RegistrationStatus
from tests.connectors.fhir.fhir_hospital import (
    HOSPITAL,
    ORDER_NO,
    PERSON,
    STATEMENT,
    booked_order,
    canned,
    connected,
    fhir_json,
    hospital,
    order_for,
    payment,
    switch,
)
from tests.connectors.fhir.test_fhir_odd_servers import appointment
from tests.connectors.fhir.test_fhir_replies import ORDER, bundle, outcome

UNDECLARED = {**STATEMENT, "rest": [{"mode": "server", "resource": [{"type": "Appointment"}]}]}


class Plain:
    """A server that keeps what is created, and knows no conditions."""

    def __init__(self, *there: dict[str, Any]) -> None:
        self.kept = list(there)
        self.asked: list[tuple[str, str | None]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.headers.get("If-None-Exist")))
        if request.method == "GET":
            return bundle(*self.kept)
        made = {**await request.json(), "id": f"a{len(self.kept) + 1}", "meta": {"versionId": "1"}}
        self.kept.append(made)
        return fhir_json(json.dumps(made), 201)


@pytest.mark.parametrize(
    "statement",
    [UNDECLARED, {}, {"resourceType": "CapabilityStatement", "rest": "none"}, outcome("error", "not-supported")],
    ids=["undeclared", "nothing", "garbage", "outcome"],
)
async def test_server_is_looked_at_first_when_it_does_not_declare_conditional_create(statement: dict[str, Any]) -> None:
    # One that ignores the search parameter answers with other people's, too.
    foreign = {**appointment(), "id": "a0", "identifier": [{"system": "urn:other", "value": ORDER_NO}]}
    server = Plain(foreign)
    async with canned(server.answer, statement=statement) as base_url, connected(base_url) as connector:
        assert isinstance(await connector.book(ORDER), Accepted)
        again = await connector.book(ORDER)
    assert isinstance(again, Rejected)
    assert again.code == "already_exists"
    assert server.asked == [("GET", None), ("POST", None), ("GET", None)]
    assert len(server.kept) == 2


async def test_condition_is_sent_when_the_site_says_that_its_server_honours_it() -> None:
    server = Plain()
    assumed = {"assumed": "conditional-create"}
    async with canned(server.answer, statement={}) as base_url, connected(base_url, connection=assumed) as connector:
        assert isinstance(await connector.book(ORDER), Accepted)
    assert server.asked == [("POST", f"identifier=urn%3Ahisbridge%3Aorder-no%7C{ORDER_NO}")]


async def test_booking_goes_to_a_person_when_several_are_there_already() -> None:
    server = Plain(appointment(), {**appointment(), "id": "a2"})
    async with canned(server.answer, statement=UNDECLARED) as base_url, connected(base_url) as connector:
        result = await connector.book(ORDER)
    assert isinstance(result, Rejected)
    assert (result.code, result.retryable) == ("several", False)
    assert server.asked == [("GET", None)]


async def test_patient_is_ambiguous_when_several_records_fit_the_condition() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return fhir_json(json.dumps(outcome("error", "multiple-matches")), 412)

    assumed = {"assumed": "conditional-create"}
    async with canned(handler, statement={}) as base_url, connected(base_url, connection=assumed) as connector:
        result = await connector.create_patient(PERSON)
    assert isinstance(result, Rejected)
    assert result.code == "patient_ambiguous"


async def test_statement_is_asked_for_once_and_writes_wait_when_nobody_is_there() -> None:
    asked = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return fhir_json(json.dumps(STATEMENT)) if request.path.endswith("metadata") else web.Response(status=500)

    async with canned(handler, statement=None) as base_url, connected(base_url) as connector:
        for _ in range(3):
            assert isinstance(await connector.book(ORDER), Unknown)
    assert asked == ["/fhir/metadata", *["/fhir/Appointment"] * 3]
    async with connected(base_url) as connector:
        result = await connector.book(ORDER)
    assert isinstance(result, Rejected)
    assert (result.code, result.retryable) == ("not_sent", True)


# --- surplus ------------------------------------------------------------------------------------------------------------


async def test_surplus_is_cancelled_when_ours_is_registered() -> None:
    async with hospital(seats=3) as (simulator, connector):
        order = await order_for(connector)
        switch(simulator, "book", "ignore_condition")
        first, second = await connector.book(order), await connector.book(order)
        assert isinstance(first, Accepted)
        assert isinstance(second, Accepted)
        order = msgspec.structs.replace(order, his_refs=second.his_refs, payment=payment(order.fee_fen))
        assert isinstance(await connector.register(order), Accepted)
        states = {no: visit.state for no, visit in simulator.hospital.visits.items()}
        assert states[first.his_refs["appointment"]] == "released"


async def test_every_one_is_cancelled_when_ours_is() -> None:
    async with hospital(seats=3) as (simulator, connector):
        order = await order_for(connector)
        switch(simulator, "book", "ignore_condition")
        for _ in range(2):
            assert isinstance(await connector.book(order), Accepted)
        assert isinstance(await connector.cancel_registration(order), Accepted)
        assert {visit.state for visit in simulator.hospital.visits.values()} == {"released"}
        again = await connector.cancel_registration(order)
        assert isinstance(again, Rejected)
        assert again.code == "already_done"


async def test_doubled_booking_goes_to_a_person_when_both_are_booked() -> None:
    server = Plain(appointment("booked"), {**appointment("booked"), "id": "a2"})
    async with canned(server.answer) as base_url, connected(base_url) as connector:
        with pytest.raises(HisRefused) as refused:
            await connector.fetch_registration(ORDER)
        assert refused.value.code == "several"
        for result in (await connector.register(ORDER), await connector.cancel_registration(ORDER)):
            assert isinstance(result, Rejected)
            assert (result.code, result.retryable) == ("several", False)
    assert {method for method, _ in server.asked} == {"GET"}


async def test_paid_one_counts_when_another_is_pending() -> None:
    server = Plain(appointment(), {**appointment("booked"), "id": "a2"})
    async with canned(server.answer) as base_url, connected(base_url) as connector:
        found = await connector.fetch_registration(ORDER)
    assert found is not None
    assert (found.his_id, found.status) == ("a2", RegistrationStatus.REGISTERED)


async def test_our_appointment_is_found_by_its_id_when_the_index_lags() -> None:
    async with hospital() as (simulator, connector):
        order = await booked_order(connector)
        simulator.store.search = lambda kind, params: Found([])  # type: ignore[method-assign]
        found = await connector.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.LOCKED
        assert isinstance(await connector.register(order), Accepted)


# --- the statement --------------------------------------------------------------------------------------------------------


def test_abilities_are_those_that_the_statement_declares() -> None:
    appointments = {
        "type": "Appointment",
        "conditionalCreate": True,
        "interaction": [{"code": "create"}, {"code": "update"}],
        "operation": [{"name": "hold"}, {"name": "$book"}],
    }
    slots = {"type": "Slot", "interaction": [{"code": "read"}]}
    server = {
        "mode": "server",
        "resource": [appointments, slots, 7],
        "interaction": [{"code": "transaction"}],
        "operation": [{"name": "find"}],
    }
    client = {"mode": "client", "resource": [{"type": "Patient", "conditionalCreate": True}]}
    declared = read_statement({"resourceType": "CapabilityStatement", "rest": [server, client, None]})
    found = Abilities(statement=declared)
    assert found.transacts("Appointment")
    assert not found.transacts("Appointment", "Slot")
    assert found.creates_conditionally("Appointment")
    assert not found.creates_conditionally("Patient")
    assert all(found.operates("Appointment", name) for name in ("find", "hold", "book"))
    assert not found.operates("Patient", "hold")


@pytest.mark.parametrize("rest", [None, "x", [{"resource": 1}], [{"mode": "server", "interaction": {"code": 1}}]])
def test_server_can_do_nothing_more_when_its_statement_does_not_say_so(rest: Any) -> None:
    found = Abilities(statement=read_statement({"resourceType": "CapabilityStatement", "rest": rest}))
    assert not found.transacts()
    assert not found.creates_conditionally("Appointment")
    assert not found.operates("Appointment", "hold")
    everything = Abilities(assumed=frozenset({"conditional-create", "transaction", "$hold"}))
    assert everything.transacts("Slot")
    assert everything.creates_conditionally("Appointment")
    assert everything.operates("Appointment", "hold")


def test_unknown_word_of_what_is_assumed_stops_the_start() -> None:
    given = Options(protocol="fhir", profile="fhir_r4@1", base_url="http://h/", connection={"assumed": "$hold magic"})
    with pytest.raises(ValueError, match=r"connection\.assumed: magic"):
        create(HOSPITAL, "his", given)
