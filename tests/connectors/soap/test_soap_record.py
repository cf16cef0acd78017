"""What the message store is told of the calls to a HIS over SOAP."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web

from connectors.config import HospitalContext
from connectors.port import Acknowledged, Direction, Exchanged, HisError, Passed, Recording
from connectors.soap import SoapConnector, create
from tests.connectors.soap.soap_hospital import PERSON, ZONE, canned, enveloped, golden_order, options, window

DONE = "<Response><ResultCode>0</ResultCode></Response>"
FULL = "<Response><ResultCode>-1001</ResultCode><ResultContent>张伟：号源已满</ResultContent></Response>"
Told = list[Exchanged | Acknowledged]
Ask = Callable[[SoapConnector], Coroutine[Any, Any, object]]


def lock(his: SoapConnector) -> Coroutine[Any, Any, object]:
    return his.lock_slot(golden_order())


def find(his: SoapConnector) -> Coroutine[Any, Any, object]:
    return his.find_patient(PERSON)


async def told_of(reply: Any, ask: Ask, **given: Any) -> tuple[Exchanged, bytes]:
    """The one exchange, and the bytes that the HIS got."""
    async with canned(reply, **given) as (peer, his):
        told: Told = []
        assert isinstance(his, Recording)
        his.record_exchanges(told.append)
        with suppress(HisError):
            await ask(his)
        (one,) = told
        assert isinstance(one, Exchanged)
        return one, peer.requests[0][1] if peer.requests else b""


async def test_call_and_answer_are_told_when_the_his_has_answered() -> None:
    one, received = await told_of(DONE, lock)
    assert (one.direction, one.state, one.verb, one.message_type) == (Direction.OUT, Passed.DONE, "lock_slot", "10015")
    assert (one.order_no, one.mrn, one.connector) == ("20260105000000000001", "0000012345", "his")
    assert one.peer.startswith("127.0.0.1:")
    assert (one.request, one.answer, one.answer_code) == (received, enveloped(DONE).encode(), "200")
    assert one.error is None
    assert 0 <= one.ended - one.began < 60


@pytest.mark.parametrize(
    ("reply", "state", "code", "error"),
    [
        (FULL, Passed.FAILED, "200", "answered full"),
        ("<Response><Other/></Response>", Passed.UNKNOWN, "200", "answered unknown"),
        ("<Response>", Passed.UNKNOWN, "200", "answered not well-formed"),
        (web.Response(status=404), Passed.FAILED, "404", "answered HTTP 404"),
        (web.Response(status=503), Passed.UNKNOWN, "503", "answered HTTP 503"),
    ],
)
async def test_end_of_a_call_is_told_with_a_reason_that_names_nobody(
    reply: Any, state: Passed, code: str, error: str
) -> None:
    one, _ = await told_of(reply, lock)
    assert (one.state, one.answer_code) == (state, code)
    assert (one.error or "").startswith(error)
    assert "张伟" not in (one.error or "")


async def test_call_is_told_as_unknown_when_no_answer_came() -> None:
    one, received = await told_of(DONE, lock, max_message_bytes=100)
    assert (one.state, one.answer, one.answer_code) == (Passed.UNKNOWN, None, None)
    assert one.request == received
    assert "larger than 100 bytes" in (one.error or "")


async def test_call_is_told_as_failed_when_nothing_left() -> None:
    async with canned(DONE) as (peer, _):
        gone = peer.url
    his = create(HospitalContext(id="h", zone=ZONE), "his", options(endpoint=gone))
    told: Told = []
    his.record_exchanges(told.append)
    await his.start()
    try:
        await lock(his)
    finally:
        await his.close()
    (one,) = told
    assert isinstance(one, Exchanged)
    assert (one.state, one.answer) == (Passed.FAILED, None)


async def test_catalogue_is_told_only_where_it_failed() -> None:
    departments = "<Response><ResultCode>0</ResultCode><Departments/></Response>"
    async with canned(departments, DONE, FULL) as (_, his):
        told: Told = []
        his.record_exchanges(told.append)
        await his.fetch_departments()
        await find(his)
        with suppress(HisError):
            await his.fetch_stops(window())
    assert [(one.verb, one.state) for one in told if isinstance(one, Exchanged)] == [
        ("find_patient", Passed.DONE), ("fetch_stops", Passed.FAILED),
    ]  # fmt: skip


async def test_arguments_are_told_when_they_travel_in_an_address() -> None:
    settings = {"transport": "get"}
    async with canned(DONE, settings=settings) as (_, his):  # the peer has nothing at that address
        told: Told = []
        his.record_exchanges(told.append)
        await lock(his)
    (one,) = told
    assert isinstance(one, Exchanged)
    assert one.request.startswith(b"XMLRequest=%3CRequest%3E%3CTradeCode%3E10015")
    assert one.answer_code == "404"
