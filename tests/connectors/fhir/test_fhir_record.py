"""What the message store is told of requests to a FHIR server, and of notifications that were not taken."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.fhir import FhirConnector
from connectors.port import Accepted, Acknowledged, Direction, Exchanged, HisError, Passed, Recording
from tests.connectors.fhir.fhir_hospital import ORDER_NO, PERSON, connected, hospital, order_for, switch, window
from tests.connectors.fhir.told.sent import backport
from tests.connectors.fhir.told.test_push import listening

Told = list[Exchanged | Acknowledged]


def exchanges(told: Told, message_type: str = "") -> list[Exchanged]:
    return [
        one for one in told if isinstance(one, Exchanged) and (not message_type or one.message_type == message_type)
    ]


def told_by(connector: FhirConnector) -> Told:
    told: Told = []
    assert isinstance(connector, Recording)
    connector.record_exchanges(told.append)
    return told


async def test_write_is_told_with_its_booking_and_its_answer() -> None:
    async with hospital(token=None) as (simulator, connector):
        order = await order_for(connector)
        told = told_by(connector)
        assert isinstance(await connector.book(order), Accepted)
        [one] = exchanges(told, "POST-Appointment")
        assert (one.direction, one.state, one.verb, one.connector) == (Direction.OUT, Passed.DONE, "book", "his")
        assert (one.order_no, one.mrn) == (ORDER_NO, order.patient.mrn)
        assert (one.peer, one.answer_code, one.error) == (f"127.0.0.1:{simulator.port}", "201", None)
        sent, answered = json.loads(one.request), json.loads(one.answer or b"")
        assert (sent["resourceType"], answered["resourceType"]) == ("Appointment", "Appointment")
        assert ORDER_NO in one.request.decode()


@pytest.mark.parametrize(
    ("mode", "state", "code", "error"),
    [
        ("refuse", Passed.FAILED, "422", "answered HTTP 422"),
        ("fault", Passed.UNKNOWN, "500", "answered HTTP 500"),
        ("lose_reply", Passed.UNKNOWN, None, "_ConnectionDropped"),
        ("truncated", Passed.UNKNOWN, "201", "the reply is no valid JSON, or is cut off"),
        ("html", Passed.UNKNOWN, "200", "HTTP 200 with text/html instead of FHIR JSON"),
    ],
)
async def test_end_of_a_write_is_told_with_a_reason_that_names_nobody(
    mode: str, state: Passed, code: str | None, error: str
) -> None:
    async with hospital() as (simulator, connector):
        order = await order_for(connector)
        told = told_by(connector)
        switch(simulator, "book", mode, times=1)
        await connector.book(order)
        one = exchanges(told, "POST-Appointment")[0]
    assert (one.state, one.answer_code, one.error, one.order_no) == (state, code, error, ORDER_NO)
    assert (one.answer is None) is (code is None)


async def test_request_is_told_as_failed_when_nothing_left() -> None:
    async with connected("http://127.0.0.1:9/fhir") as connector:
        told = told_by(connector)
        with pytest.raises(HisError):
            await connector.find_patient(PERSON)
    assert {(one.state, one.answer) for one in exchanges(told)} == {(Passed.FAILED, None)}


async def catalogue(connector: FhirConnector) -> None:
    await connector.fetch_departments()
    await connector.fetch_inventory(window())
    await connector.fetch_changes()


async def test_reads_of_the_catalogue_are_told_when_they_fail_and_not_else() -> None:
    async with hospital() as (simulator, connector):
        told = told_by(connector)
        await catalogue(connector)
        assert told == []
        switch(simulator, "fetch_slots", "fault", times=1)
        with pytest.raises(HisError):
            await connector.fetch_inventory(window())
        [one] = exchanges(told)
    assert (one.verb, one.message_type, one.state, one.answer_code) == (
        "fetch_slots", "GET-Slot", Passed.UNKNOWN, "500",
    )  # fmt: skip
    assert b"start=" in one.request


# --- notifications that were not taken -------------------------------------------------------------------------------

Send = Callable[[Any], Awaitable[int]]


@pytest.mark.parametrize(
    ("send", "status", "kept", "error"),
    [
        pytest.param(lambda us: us.send(b"", secret="x"), 401, b"", "the secret of the Subscription", id="stranger"),
        pytest.param(lambda us: us.send(b"<x/>"), 400, b"<x/>", "this is no notification: no JSON", id="garbage"),
        pytest.param(lambda us: us.send(b"x" * 200_001), 413, b"", "larger than max_message_bytes", id="large"),
    ],
)
async def test_notification_that_is_refused_is_told_with_its_reason(
    tmp_path: Path, send: Send, status: int, kept: bytes, error: str
) -> None:
    async with listening(tmp_path, max_message_bytes=200_000, changes_every_s=0) as us:
        told = told_by(us.connector)
        assert await send(us) == status
        [one] = exchanges(told)
    assert (one.direction, one.state, one.message_type) == (Direction.IN, Passed.REFUSED, "notification")
    assert (one.request, one.answer_code) == (kept, str(status))
    assert error in (one.error or "")
    assert one.peer.startswith("127.0.0.1")


async def test_notification_that_could_not_be_followed_is_told_with_its_reason(tmp_path: Path) -> None:
    async with listening(tmp_path) as us:
        told = told_by(us.connector)
        switch(us.simulator, "fetch_changes", "fault", times=1)
        body = backport("event-notification", since_start=1, events=[(1, f"Appointment/{us.appointment}")])
        assert await us.send(body) == 503
        failed, refused = exchanges(told)
    assert (failed.message_type, failed.verb, failed.answer_code) == ("GET-Appointment", None, "500")
    assert (refused.message_type, refused.request, refused.answer_code) == ("notification", body, "503")
    assert (refused.error or "").startswith("not fetched: ")
