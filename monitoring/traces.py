"""Traces: spans of our own, which cost nothing until `start_tracing` is called, and go to a `Collector` when they end.

    with working_for(row.trace), span("outbox lock_slot", kind=Kind.CONSUMER) as one:
        ...                                   # what is begun in here is its child; log lines carry its trace id
        if one is not None:
            one.set("hisbridge.verdict", "accepted")

A span that is not sampled is None: its name and attributes are never looked at. Whoever begins many (the API) keeps the Tracer.
Attributes hold names, codes, counts and ids of bookings: never anything of a patient, a key, or a text that somebody else wrote.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import IntEnum

from monitoring.trace_context import UNSAMPLED, TraceContext, here, read_traceparent

Value = str | int | bool | float


class Kind(IntEnum):
    """As numbered by OTLP (trace.proto, Span.SpanKind)."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


class Span:
    """Something that takes time. Its attributes are the names of the semantic conventions, or begin with `hisbridge.`."""

    __slots__ = ("attributes", "context", "ended_ns", "failed", "kind", "links", "name", "parent", "started_ns")

    def __init__(self, name: str, kind: Kind, context: TraceContext, parent: TraceContext | None) -> None:
        self.name = name
        self.kind = kind
        self.context = context
        self.parent = parent
        self.attributes: dict[str, Value] = {}
        self.links: list[TraceContext] = []
        self.failed = False
        self.started_ns = time.time_ns()
        self.ended_ns = 0

    def set(self, name: str, value: Value) -> None:
        self.attributes[name] = value

    def link(self, other: TraceContext) -> None:
        """Tie it to another span, which need not be of the same trace."""
        self.links.append(other)

    @property
    def exemplar(self) -> dict[str, str]:
        """What a metric's sample shows of it."""
        return {"trace_id": self.context.trace_id}


class Tracer:
    """Begins spans: a child follows its parent's decision; what has no parent is sampled at `ratio`."""

    def __init__(
        self, ratio: float, export: Callable[[Span], None], *, chance: Callable[[], float] = random.random
    ) -> None:
        self._ratio = ratio
        self._export = export
        self._chance = chance

    def begin(self, name: str, kind: Kind, parent: TraceContext | None) -> Span | None:
        """A span that must be ended, None where it is not sampled."""
        if parent is None:
            if self._chance() >= self._ratio:
                return None
            return Span(name, kind, TraceContext(_id(128), _id(64), True), None)
        if not parent.sampled:
            return None
        return Span(name, kind, TraceContext(parent.trace_id, _id(64), True, parent.state), parent)

    def end(self, span: Span) -> None:
        """It is over. Never blocks, never raises."""
        span.ended_ns = time.time_ns()
        self._export(span)


_tracer: Tracer | None = None


def start_tracing(ratio: float, export: Callable[[Span], None]) -> None:
    """From now on spans are begun, and given to `export` when they end."""
    global _tracer
    _tracer = Tracer(ratio, export)


def stop_tracing() -> None:
    """No span is begun any more. What has a Tracer goes on with it."""
    global _tracer
    _tracer = None


def tracer() -> Tracer | None:
    """The tracer of this process, None while tracing is off."""
    return _tracer


def is_tracing() -> bool:
    """Whether spans are begun at all."""
    return _tracer is not None


# --- where this task stands --------------------------------------------------------------------------------------------


_NOTHING = nullcontext(None)


def span(
    name: str,
    *,
    kind: Kind = Kind.INTERNAL,
    attributes: Mapping[str, Value] | None = None,
    links: Sequence[TraceContext] = (),
) -> AbstractContextManager[Span | None]:
    """A span for the block, child of what this task works for; what the block raises marks it as failed, by its type alone."""
    return _NOTHING if _tracer is None else _traced(_tracer, name, kind, attributes, links)


def working_for(stored: str | None) -> AbstractContextManager[None]:
    """What is done in the block belongs to the trace that was stored with a command or a question (`stored_here`)."""
    return _NOTHING if _tracer is None else _standing(read_traceparent(stored) or UNSAMPLED)


@contextmanager
def _traced(
    tracing: Tracer, name: str, kind: Kind, attributes: Mapping[str, Value] | None, links: Sequence[TraceContext]
) -> Iterator[Span | None]:
    parent = here.get()
    one = tracing.begin(name, kind, parent)
    if one is None:
        with nullcontext() if parent is not None else _standing(UNSAMPLED):  # what is begun in it is not sampled either
            yield None
        return
    if attributes is not None:
        one.attributes.update(attributes)
    one.links += links
    token = here.set(one.context)
    try:
        yield one
    except BaseException as error:
        one.failed = True
        one.attributes.setdefault("error.type", type(error).__name__)
        raise
    finally:
        here.reset(token)
        tracing.end(one)


@contextmanager
def _standing(context: TraceContext) -> Iterator[None]:
    token = here.set(context)
    try:
        yield
    finally:
        here.reset(token)


def stored_here() -> str | None:
    """What to store with a command, so that whoever carries it out goes on with the trace; None where it is not sampled."""
    context = here.get()
    return context.traceparent if context is not None and context.sampled else None


def headers_here() -> dict[str, str]:
    """The fields of a request to another program that belong to what this task works for."""
    context = here.get()
    if context is None or not context.trace_id:
        return {}
    fields = {"traceparent": context.traceparent}
    if context.state:
        fields["tracestate"] = context.state
    return fields


def _id(bits: int) -> str:
    """A random id as hexadecimal digits, never all zeros."""
    return f"{random.getrandbits(bits) or 1:0{bits // 4}x}"
