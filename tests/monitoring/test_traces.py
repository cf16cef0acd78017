"""Spans: who is sampled, whose child a span is, and what is left of all of it where tracing is off."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from monitoring import traces
from monitoring.trace_context import UNSAMPLED, TraceContext, here
from monitoring.traces import (
    Kind,
    Span,
    Tracer,
    headers_here,
    span,
    start_tracing,
    stop_tracing,
    stored_here,
    working_for,
)

CALLER = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True, "foo=1")
REFUSING = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", False, "foo=1")


@pytest.fixture
def ended() -> Iterator[list[Span]]:
    """Tracing of everything; the spans in the order in which they ended."""
    found: list[Span] = []
    start_tracing(1.0, found.append)
    yield found
    stop_tracing()


def chances(*values: float) -> Callable[[], float]:
    return iter(values).__next__


def test_every_fourth_request_is_sampled_when_the_ratio_says_so() -> None:
    tracer = Tracer(0.25, lambda _: None, chance=chances(*(n / 8 for n in range(8))))
    begun = [tracer.begin("x", Kind.SERVER, None) is not None for _ in range(8)]
    assert begun == [True, True, False, False, False, False, False, False]


@pytest.mark.parametrize(("ratio", "sampled"), [(0.0, False), (1.0, True)])
def test_all_or_nothing_is_sampled_when_the_ratio_is_at_an_end(ratio: float, sampled: bool) -> None:
    tracer = Tracer(ratio, lambda _: None, chance=chances(0.0, 0.999_999))
    assert [tracer.begin("x", Kind.SERVER, None) is not None for _ in range(2)] == [sampled] * 2


def test_the_callers_decision_is_followed_when_it_has_made_one() -> None:
    never_asked = chances()
    child = Tracer(0.0, lambda _: None, chance=never_asked).begin("x", Kind.SERVER, CALLER)
    assert child is not None
    assert child.context.trace_id == CALLER.trace_id
    assert child.context.span_id != CALLER.span_id
    assert child.parent == CALLER
    assert Tracer(1.0, lambda _: None, chance=never_asked).begin("x", Kind.SERVER, REFUSING) is None
    assert Tracer(1.0, lambda _: None, chance=never_asked).begin("x", Kind.SERVER, UNSAMPLED) is None


def test_spans_nest_when_one_begins_within_another(ended: list[Span]) -> None:
    with span("outer") as outer, span("inner", kind=Kind.CLIENT, attributes={"n": 1}):
        assert outer is not None
    inner, last = ended
    assert (inner.name, last.name) == ("inner", "outer")
    assert inner.parent == last.context
    assert last.parent is None
    assert inner.context.trace_id == last.context.trace_id
    assert inner.attributes == {"n": 1}
    assert last.started_ns <= inner.started_ns <= inner.ended_ns <= last.ended_ns
    assert here.get() is None


def test_span_has_failed_and_quotes_nothing_when_its_block_raises(ended: list[Span]) -> None:
    with pytest.raises(ValueError, match="张三"), span("bad"):
        raise ValueError("张三 110101199003070038")
    assert ended[0].failed
    assert ended[0].attributes == {"error.type": "ValueError"}


def test_nothing_within_is_a_root_when_its_parent_was_not_sampled() -> None:
    found: list[Span] = []
    start_tracing(0.0, found.append)
    try:
        with span("outer") as outer:
            assert outer is None
            assert here.get() is UNSAMPLED
            stop_tracing()
            start_tracing(1.0, found.append)
            with span("inner") as inner:
                assert inner is None
        assert here.get() is None
    finally:
        stop_tracing()
    assert found == []


def test_command_goes_on_with_the_trace_when_it_was_stored_with_it(ended: list[Span]) -> None:
    with span("request") as request:
        stored = stored_here()
    assert request is not None
    assert stored == f"00-{request.context.trace_id}-{request.context.span_id}-01"
    with working_for(stored), span("outbox"):
        pass
    assert ended[1].parent is not None
    assert ended[1].parent.span_id == request.context.span_id


def test_command_is_not_traced_when_nothing_was_stored_with_it(ended: list[Span]) -> None:
    with working_for(None), span("outbox") as one:
        assert one is None
        assert stored_here() is None
        assert headers_here() == {}
    assert ended == []


def test_another_program_is_told_when_there_is_a_trace_to_tell_of(ended: list[Span]) -> None:
    assert headers_here() == {}
    token = here.set(CALLER)
    with span("his") as one:
        assert one is not None
        assert headers_here() == {
            "traceparent": f"00-{CALLER.trace_id}-{one.context.span_id}-01",
            "tracestate": "foo=1",
        }
    here.set(REFUSING)  # not by us: passed on as it came
    assert headers_here() == {"traceparent": f"00-{CALLER.trace_id}-{CALLER.span_id}-00", "tracestate": "foo=1"}
    here.reset(token)


def test_nothing_happens_when_tracing_is_off() -> None:
    assert traces.tracer() is None
    with working_for(CALLER.traceparent), span("x") as one:
        assert one is None
        assert here.get() is None
