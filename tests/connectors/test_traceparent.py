"""What a HIS over HTTP is told of a trace: nothing, unless its connector's options say so."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from aiohttp import web

from connectors.config import HospitalContext
from connectors.port import HisError
from monitoring.trace_context import TraceContext, here
from monitoring.traces import Kind, Span, span, start_tracing, stop_tracing

CALLER = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True, "foo=1")
OPTIONS = {"soap": {"profile": "dhc@1"}, "fhir": {"profile": "fhir_demo@1"}}
ADDRESS = {"soap": "endpoint", "fhir": "base_url"}


@pytest.fixture
def ended() -> Iterator[list[Span]]:
    found: list[Span] = []
    start_tracing(0.0, found.append)
    yield found
    stop_tracing()


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """A HIS that understands nothing: its address, and the fields of the requests that it gets."""
    heard: list[dict[str, str]] = []

    async def hear(request: web.BaseRequest) -> web.StreamResponse:
        heard.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(status=500)

    runner = web.ServerRunner(web.Server(hear))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/his", heard
    finally:
        await runner.cleanup()


async def fields_of_a_call(protocol: str, **given: Any) -> dict[str, str]:
    """What stood in the head of a call that was made within a span."""
    package = importlib.import_module(f"connectors.{protocol}")
    async with listening() as (address, heard):
        options = package.Options(protocol=protocol, **OPTIONS[protocol], **{ADDRESS[protocol]: address}, **given)
        connector = package.create(HospitalContext(id="h1", zone=ZoneInfo("Asia/Shanghai")), "main", options)
        await connector.start()
        try:
            with span("his fetch_departments", kind=Kind.CLIENT), suppress(HisError):
                await connector.fetch_departments()
        finally:
            await connector.close()
    return heard[0]


@pytest.mark.parametrize("protocol", ["soap", "fhir"])
async def test_his_is_told_the_span_of_the_call_when_the_options_say_so(protocol: str, ended: list[Span]) -> None:
    token = here.set(CALLER)
    fields = await fields_of_a_call(protocol, send_traceparent=True)
    here.reset(token)
    (call,) = ended
    assert fields["traceparent"] == f"00-{CALLER.trace_id}-{call.context.span_id}-01"
    assert fields["tracestate"] == "foo=1"


@pytest.mark.parametrize("protocol", ["soap", "fhir"])
async def test_his_is_told_nothing_when_the_options_do_not_say_so(protocol: str, ended: list[Span]) -> None:
    token = here.set(CALLER)
    fields = await fields_of_a_call(protocol)
    here.reset(token)
    assert len(ended) == 1
    assert {"traceparent", "tracestate"} & set(fields) == set()


@pytest.mark.parametrize("protocol", ["soap", "fhir"])
async def test_his_is_told_nothing_when_the_call_is_not_traced(protocol: str, ended: list[Span]) -> None:
    fields = await fields_of_a_call(protocol, send_traceparent=True)
    assert ended == []
    assert {"traceparent", "tracestate"} & set(fields) == set()
