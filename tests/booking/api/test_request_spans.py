"""The span of a request, its id in the answer, in the log and beside the metrics; and nothing that a caller has written."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from prometheus_client.openmetrics.exposition import generate_latest

from booking.api.application import ApiOptions
from monitoring.logs import GATHER_S, configure_logging
from monitoring.metrics import REGISTRY
from monitoring.trace_context import here
from monitoring.traces import Kind, Span, start_tracing, stop_tracing
from tests.booking.api.portal import BOOKINGS, SNAPSHOT, Portal, run_portal
from tests.booking.api.raw import call_raw, head

ROUTE = "/v1/hospitals/{hospital_id}/bookings"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLERS_SPAN = "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE_ID}-{CALLERS_SPAN}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE_ID}-{CALLERS_SPAN}-00"}
NAME, NUMBER = "张三丰", "110101199003071233"


@pytest.fixture
def ended() -> Iterator[list[Span]]:
    """What the caller has sampled is traced, and nothing else."""
    found: list[Span] = []
    start_tracing(0.0, found.append)
    yield found
    stop_tracing()


@pytest.fixture(params=[False, True], ids=["tasks", "at-once"])
async def traced(request: pytest.FixtureRequest, ended: list[Span]) -> AsyncIterator[Portal]:
    """The small API, made while tracing is on; its first request has brought the key into memory."""
    async with run_portal(at_once=request.param) as portal:
        await portal.get(f"{BOOKINGS}?from=2026-01-01&limit=1")
        assert ended == []
        yield portal


async def test_span_says_what_was_asked_and_answered_when_the_caller_has_sampled(
    traced: Portal, ended: list[Span]
) -> None:
    assert (await traced.post({"slot_id": "s1"}, **SAMPLED))[0] == 201
    (span,) = ended
    assert (span.name, span.kind) == (f"POST {ROUTE}", Kind.SERVER)
    assert span.parent is not None
    assert (span.context.trace_id, span.parent.span_id) == (TRACE_ID, CALLERS_SPAN)
    assert span.attributes == {
        "http.request.method": "POST",
        "http.route": ROUTE,
        "http.response.status_code": 201,
        "hisbridge.hospital": "hl7-demo",
        "hisbridge.client": "portal",
    }
    assert not span.failed


@pytest.mark.parametrize(
    ("slot_id", "status", "code", "failed"),
    [
        ("sold-out", 409, "slot_sold_out", False),
        ("store-down", 503, "store_unavailable", True),
        ("bug", 500, "internal_error", True),
    ],
)
async def test_span_has_failed_when_the_fault_is_ours(
    traced: Portal, ended: list[Span], slot_id: str, status: int, code: str, failed: bool
) -> None:
    assert (await traced.post({"slot_id": slot_id}, **SAMPLED))[0] == status
    (span,) = ended
    assert span.attributes["http.response.status_code"] == status
    assert span.attributes["hisbridge.code"] == code
    assert span.failed is failed
    assert span.attributes.get("error.type") == (code if failed else None)


async def test_answer_names_its_trace_when_it_has_one(traced: Portal) -> None:
    for headers, named in ((SAMPLED, TRACE_ID), (UNSAMPLED, None), ({}, None)):
        for path in (f"{BOOKINGS}?from=2026-01-01", SNAPSHOT, "/v1/nowhere", "/openapi.json"):
            async with traced.session.get(path, headers=headers) as response:
                assert response.headers.get("X-Trace-Id") == named, path


async def test_trace_of_one_request_is_not_that_of_the_next_when_they_share_a_connection(ended: list[Span]) -> None:
    async with run_portal(at_once=True) as portal, call_raw(portal) as caller:
        target = f"{BOOKINGS}?from=2026-01-01"
        for fields in (
            (),
            (f"traceparent: {SAMPLED['traceparent']}",),
            (),
            (f"traceparent: {UNSAMPLED['traceparent']}",),
        ):
            await caller.send(head("GET", target, *fields))
            answer = await caller.read()
            assert ("x-trace-id" in answer.fields) == (fields[:1] == (f"traceparent: {SAMPLED['traceparent']}",))
    assert len(ended) == 1


@pytest.mark.parametrize("value", ["", "00-0-0-01", f"ff-{TRACE_ID}-{CALLERS_SPAN}-01", NUMBER])
async def test_request_is_answered_as_ever_when_its_traceparent_is_none(
    traced: Portal, ended: list[Span], value: str
) -> None:
    assert (await traced.post({"slot_id": "s1"}, traceparent=value))[0] == 201
    assert ended == []


async def test_span_holds_nothing_that_the_caller_wrote_when_it_writes_of_a_patient(
    traced: Portal, ended: list[Span]
) -> None:
    headers = {**SAMPLED, "tracestate": f"portal={NUMBER}", "User-Agent": NUMBER, "X-Request-Id": NUMBER}
    for method, path in (
        ("GET", f"/v1/hospitals/{NUMBER}/bookings?from={NUMBER}"),
        ("GET", f"/v1/{NUMBER}"),
        ("GET", f"{BOOKINGS}?from={NUMBER}&{NAME}={NAME}"),
        ("PROPFIND", f"{BOOKINGS}/{NUMBER}"),
    ):
        async with traced.session.request(method, path, headers=headers) as response:
            assert response.status >= 400
    async with traced.session.get(
        f"/v1/hospitals/{NUMBER}/bookings", headers={**SAMPLED, "Authorization": "Bearer no"}
    ) as response:
        assert response.status == 401
    await traced.post({"slot_id": "bug", NAME: NUMBER}, **headers)
    await traced.post({"slot_id": "bug"}, **headers)  # its ValueError quotes a patient
    assert len(ended) == 7
    assert {span.name for span in ended} == {f"GET {ROUTE}", "GET", "HTTP", f"POST {ROUTE}"}
    shown = repr([(span.name, span.attributes, span.links) for span in ended])
    assert NUMBER not in shown
    assert NAME not in shown


async def test_work_of_a_request_knows_its_trace_when_a_handler_looks(ended: list[Span]) -> None:
    seen = []
    async with run_portal() as portal:

        async def look(_call: object) -> None:
            seen.append(here.get())

        next(r for r in portal.routes if r.method == "DELETE").handler = look
        async with portal.session.delete("/v1/hospitals/hl7-demo/x", headers=SAMPLED) as response:
            assert response.status == 204
    assert seen == [ended[0].context]


@asynccontextmanager
async def logged() -> AsyncIterator[list[dict[str, object]]]:
    """The lines of the access log, once the block has ended."""
    log = io.BytesIO()
    configure_logging(stream=log)
    lines: list[dict[str, object]] = []
    yield lines
    await asyncio.sleep(3 * GATHER_S)
    configure_logging()
    lines += [json.loads(line) for line in log.getvalue().splitlines()]


@pytest.mark.parametrize(("headers", "named"), [(SAMPLED, TRACE_ID), (UNSAMPLED, TRACE_ID), ({}, None)])
async def test_log_line_names_the_trace_when_the_caller_has_one(
    ended: list[Span], headers: dict[str, str], named: str | None
) -> None:
    async with logged() as lines, run_portal(ApiOptions(access_log="all")) as portal:
        await portal.post({"slot_id": "bug"}, **headers)
    told = {str(line["event"]): line.get("trace_id") for line in lines}
    assert told == {"request": named, "request_failed": named}


async def test_span_ends_when_the_caller_hangs_up(ended: list[Span]) -> None:
    async with run_portal() as portal:
        with pytest.raises(TimeoutError):
            await portal.session.get(
                "/v1/hospitals/hl7-demo/news", headers=SAMPLED, timeout=aiohttp.ClientTimeout(total=0.2)
            )
        for _ in range(500):
            if ended:
                break
            await asyncio.sleep(0.01)
    assert ended[0].attributes["http.response.status_code"] == 499


async def test_latency_shows_a_trace_when_the_scraper_asks_for_openmetrics(traced: Portal, ended: list[Span]) -> None:
    await traced.post({"slot_id": "s1"}, **SAMPLED)
    text = generate_latest(REGISTRY).decode()  # type: ignore[no-untyped-call]
    series = f'hisbridge_http_request_seconds_bucket{{le="[^"]*",method="POST",route="{re.escape(ROUTE)}"}}'
    assert re.search(series + rf' \S+ # {{trace_id="{TRACE_ID}"}} ', text)


async def test_nothing_is_traced_when_the_api_was_made_without(ended: list[Span]) -> None:
    stop_tracing()
    async with run_portal() as portal:
        assert (await portal.post({"slot_id": "s1"}, **SAMPLED))[0] == 201
        async with portal.session.get(SNAPSHOT, headers=SAMPLED) as response:
            assert "X-Trace-Id" not in response.headers
    assert ended == []
