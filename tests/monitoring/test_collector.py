"""Spans on their way to a collector that is well, away, slow, or talks nonsense: a real HTTP server each time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from loadtest.ports import free_port
from monitoring import collector as collecting
from monitoring.collector import CLOSE_WITHIN_S, MOST_WAITING, Collector, CollectorOptions
from monitoring.metrics import REGISTRY
from monitoring.traces import Kind, is_tracing, span
from tests.acceptance.installation import until
from tests.otlp_receiver import otlp_receiver


def count(result: str) -> float:
    return REGISTRY.get_sample_value("hisbridge_spans_total", {"result": result}) or 0.0


class Counts:
    """What became of spans since this was made."""

    def __init__(self) -> None:
        self._before = {result: count(result) for result in ("exported", "dropped", "refused")}

    def now(self) -> dict[str, float]:
        return {result: count(result) - before for result, before in self._before.items() if count(result) != before}


@asynccontextmanager
async def tracing(endpoint: str, *, timeout_s: float = 5.0) -> AsyncIterator[Collector]:
    """Everything is traced; a batch is sent every 10 ms, and tried again after 10 ms."""
    options = CollectorOptions(
        endpoint=endpoint,
        sample_ratio=1.0,
        timeout_s=timeout_s,
        headers={"Authorization": "Bearer sesame"},
        resource={"service.name": "hisbridge", "service.version": "1.2"},
    )
    collector = Collector(options, every_s=0.01, first_pause_s=0.01)
    await collector.start()
    try:
        yield collector
    finally:
        await collector.close()


def make_spans(number: int) -> None:
    for n in range(number):
        with span("his ping", kind=Kind.CLIENT, attributes={"n": n, "ok": True, "share": 0.5, "text": "张"}):
            pass


async def becomes(counts: Counts, **wanted: float) -> None:
    async def look() -> dict[str, float]:
        return counts.now()

    await until(look, lambda seen: seen == wanted, what=f"spans {wanted}")


async def test_spans_arrive_whole_when_the_collector_is_well() -> None:
    counts = Counts()
    async with otlp_receiver() as receiver, tracing(receiver.endpoint):
        began_ns = time.time_ns()
        with (
            span("outer") as outer,
            span("inner", attributes={"n": 1, "ok": True, "share": 0.5, "text": "张"}) as inner,
        ):
            assert outer is not None
            assert inner is not None
            inner.link(outer.context)
        with pytest.raises(LookupError), span("failed"):
            raise LookupError
        spans = {one.name: one for one in await receiver.wait_for("outer", "inner", "failed")}
        await becomes(counts, exported=3)
    got = spans["inner"]
    assert got.attributes == {"n": 1, "ok": True, "share": 0.5, "text": "张"}
    assert got.parent_id == spans["outer"].id == outer.context.span_id
    assert got.trace_id == spans["outer"].trace_id == outer.context.trace_id
    assert got.links == [(outer.context.trace_id, outer.context.span_id)]
    assert (spans["outer"].parent_id, spans["failed"].failed, got.failed) == ("", True, False)
    assert began_ns <= got.span.start_time_unix_nano <= got.span.end_time_unix_nano <= time.time_ns()
    assert got.resource == {"service.name": "hisbridge", "service.version": "1.2"}
    assert receiver.headers[0]["authorization"] == "Bearer sesame"
    assert not is_tracing()


async def test_many_spans_arrive_when_they_come_at_once() -> None:
    async with otlp_receiver() as receiver, tracing(receiver.endpoint):
        make_spans(1_000)

        async def arrived() -> int:
            return len(receiver.spans)

        await until(arrived, lambda n: n == 1_000, what="every span")
    assert sorted(one.attributes["n"] for one in receiver.spans) == list(range(1_000))


async def test_last_spans_arrive_when_tracing_ends() -> None:
    async with otlp_receiver() as receiver:
        async with tracing(receiver.endpoint):
            make_spans(3)
        assert len(receiver.spans) == 3


@pytest.mark.parametrize("behaviour", ["busy", "silent", "hangs up"])
async def test_spans_are_dropped_and_counted_when_the_collector_takes_none(behaviour: str) -> None:
    counts = Counts()
    async with otlp_receiver(behaviour) as receiver, tracing(receiver.endpoint, timeout_s=0.05):
        make_spans(3)
        await becomes(counts, dropped=3)


async def test_spans_are_dropped_and_counted_when_nobody_listens() -> None:
    counts = Counts()
    async with tracing(f"http://127.0.0.1:{free_port()}/v1/traces"):
        make_spans(3)
        await becomes(counts, dropped=3)


async def test_batch_is_not_sent_again_when_the_collector_refuses_it() -> None:
    counts = Counts()
    async with otlp_receiver("refuses") as receiver, tracing(receiver.endpoint):
        make_spans(3)
        await becomes(counts, refused=3)
        assert len(receiver.headers) == 1


@pytest.mark.parametrize("behaviour", ["babbles", "drips"])
async def test_spans_count_as_taken_when_the_answer_is_nonsense_or_has_no_end(behaviour: str) -> None:
    """2xx is the whole of the word (OTLP/HTTP, success); the body is neither believed nor waited for."""
    counts = Counts()
    async with otlp_receiver(behaviour) as receiver, tracing(receiver.endpoint, timeout_s=60):
        make_spans(3)
        await becomes(counts, exported=3)


async def test_spans_arrive_after_all_when_the_collector_was_busy_for_a_moment() -> None:
    counts = Counts()
    async with otlp_receiver("busy") as receiver, tracing(receiver.endpoint):
        make_spans(3)

        async def asked() -> int:
            return len(receiver.headers)

        await until(asked, lambda n: n >= 1, what="a first try")
        receiver.behaviour = "well"
        await becomes(counts, exported=3)


async def test_queue_is_bounded_when_the_collector_is_stuck() -> None:
    counts = Counts()
    async with otlp_receiver("silent") as receiver, tracing(receiver.endpoint, timeout_s=60) as collector:
        make_spans(1)

        async def asked() -> int:
            return len(receiver.headers)

        await until(asked, lambda n: n == 1, what="the request that hangs")
        make_spans(MOST_WAITING + 7)
        assert counts.now() == {"dropped": 7}
        assert REGISTRY.get_sample_value("hisbridge_spans_waiting") == MOST_WAITING
        loop = asyncio.get_running_loop()
        began = loop.time()
        await collector.close()
        assert loop.time() - began < CLOSE_WITHIN_S + 5  # bounded, where the request itself has a minute
        assert counts.now() == {"dropped": MOST_WAITING + 8}


async def test_failure_is_logged_once_a_minute_and_names_no_secret_when_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[tuple[str, dict[str, object]]] = []

    class Log:
        def warning(self, event: str, **fields: object) -> None:
            said.append((event, fields))

        info = warning

    monkeypatch.setattr(collecting, "log", Log())
    counts = Counts()
    async with otlp_receiver("refuses") as receiver, tracing(receiver.endpoint):
        for _ in range(3):
            before = counts.now().get("refused", 0.0)
            make_spans(1)
            await becomes(counts, refused=before + 1)
    told = [fields for event, fields in said if event == "spans_not_exported"]
    assert told == [{"endpoint": receiver.endpoint, "spans": 1, "reason": "HTTP 400"}]
    assert "sesame" not in repr(said)
    assert "sesame" not in repr(CollectorOptions(endpoint="e", sample_ratio=1, headers={"Authorization": "sesame"}))
