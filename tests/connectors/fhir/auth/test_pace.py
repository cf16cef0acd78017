"""A server that wants to be left alone: how long is read, what waits, and what comes again later."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from connectors.port import Accepted, HisUnavailable, Rejected, Unknown, Verb
from connectors.retry_after import retry_after_s
from scheduler_sync.commands import judge
from tests.connectors.fhir.auth.conftest import Clock
from tests.connectors.fhir.fhir_hospital import canned, connected, fhir_json, hospital, order_for

NOTHING = '{"resourceType": "Bundle", "type": "searchset"}'
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"  # RFC 9110 section 5.6.7


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("120", None, 120.0),
        (" 7 ", None, 7.0),
        ("0", None, 0.0),
        ("86400", None, 300.0),
        ("9" * 400, None, 300.0),
        ("Sun, 06 Nov 1994 08:50:07 GMT", DATE, 30.0),
        ("Sunday, 06-Nov-94 08:50:07 GMT", DATE, 30.0),  # RFC 850
        ("Sun Nov  6 08:50:07 1994", DATE, 30.0),  # asctime
        ("Sun, 06 Nov 1994 08:00:00 GMT", DATE, 0.0),
        ("Sun, 06 Nov 2094 08:00:00 GMT", DATE, 300.0),
        ("Sun, 06 Nov 1994 08:50:07 GMT", None, 30.0),
        ("Sun, 06 Nov 1994 08:50:07 GMT", "never", 30.0),
        ("-5", None, None),
        ("1.5", None, None),
        ("٣", None, None),  # a digit, and none of HTTP
        ("soon", DATE, None),
        ("", DATE, None),
        (None, DATE, None),
        ("99 99 99 99", DATE, None),
        ("Sun, 99 Nov 99999999999 08:50:07 GMT", DATE, None),
    ],
)
def test_retry_after_is_bounded_seconds_when_it_can_be_read(
    value: str | None, date: str | None, seconds: float | None
) -> None:
    assert retry_after_s(value, date, now=784111777.0) == seconds  # DATE in seconds since the epoch


async def against(*replies: Any) -> tuple[list[Any], int]:
    """What each of two reads led to, and how many requests came."""
    left = [make() for make in replies]
    came = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal came
        came += 1
        return left.pop(0) if left else fhir_json(NOTHING)

    ends: list[Any] = []
    async with canned(handler) as base_url, connected(base_url) as connector:
        for _ in range(2):
            try:
                await connector.fetch_departments()
                ends.append("up")
            except HisUnavailable as error:
                ends.append(str(error))
    return ends, came


@pytest.mark.parametrize("status", [429, 503])
async def test_next_call_waits_when_the_server_wants_a_second(status: int) -> None:
    ends, came = await against(lambda: web.Response(status=status, headers={"Retry-After": "1"}))
    assert ends == [f"HTTP {status}", "up"]
    assert came == 2


async def test_next_call_is_not_sent_when_the_server_wants_a_minute() -> None:
    ends, came = await against(lambda: web.Response(status=429, headers={"Retry-After": "60"}))
    assert ends == ["HTTP 429", "the server wants to be left alone"]
    assert came == 1


async def test_next_call_goes_out_when_other_statuses_name_a_time() -> None:
    ends, came = await against(lambda: web.Response(status=504, headers={"Retry-After": "60"}, content_type="text/x"))
    assert came == 2
    assert ends[1] == "up"


@pytest.mark.parametrize("status", [429, 503])
async def test_write_is_rejected_with_the_time_when_the_server_names_one(status: int, clock: Clock) -> None:
    async with hospital() as (simulator, connector):
        order = await order_for(connector)
        simulator.busy = (status, "60")
        outcome = await connector.book(order)
        assert outcome == Rejected(code="busy", text=f"HTTP {status}", retryable=True, retry_after_s=60.0)
        verdict = judge(Verb.BOOK, outcome)
        assert (verdict.kind, verdict.pause_s) == ("again", 60.0)
        simulator.busy = None
        held = await connector.book(order)
        assert isinstance(held, Rejected)
        assert (held.code, held.retryable) == ("not_sent", True)
        assert 0 < (held.retry_after_s or 0) <= 60
        assert not simulator.hospital.visits
        clock.forward(61)
        assert isinstance(await connector.book(order), Accepted)


async def test_write_is_in_doubt_when_no_time_is_named() -> None:
    async with hospital() as (simulator, connector):
        order = await order_for(connector)
        simulator.busy = (503, None)
        assert isinstance(await connector.book(order), Unknown)


async def test_next_call_waits_when_the_server_says_why_it_refuses() -> None:
    body = json.dumps({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "throttled"}]})
    ends, _ = await against(lambda: fhir_json(body, 429, **{"Retry-After": "1"}))
    assert ends == ["HTTP 429: throttled", "up"]
