"""Spans as OTLP writes them: OpenTelemetry's own protocol classes. Imported only where tracing is on (`monitoring.collector`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2 as pb

from monitoring.trace_context import TraceContext
from monitoring.traces import Span, Value


def packer(resource: Mapping[str, str]) -> Callable[[Sequence[Span]], bytes]:
    """Packs spans of the process that `resource` describes, as the body of an export request."""
    ours = Resource(attributes=_pairs(resource))
    scope = InstrumentationScope(name="hisbridge", version=resource.get("service.version", ""))

    def pack(spans: Sequence[Span]) -> bytes:
        scoped = pb.ScopeSpans(scope=scope, spans=[_span(span) for span in spans])
        request = ExportTraceServiceRequest(resource_spans=[pb.ResourceSpans(resource=ours, scope_spans=[scoped])])
        packed: bytes = request.SerializeToString()
        return packed

    return pack


def _span(span: Span) -> pb.Span:
    context, parent = span.context, span.parent
    return pb.Span(
        trace_id=bytes.fromhex(context.trace_id),
        span_id=bytes.fromhex(context.span_id),
        parent_span_id=b"" if parent is None else bytes.fromhex(parent.span_id),
        name=span.name,
        kind=pb.Span.SpanKind.ValueType(span.kind),
        start_time_unix_nano=span.started_ns,
        end_time_unix_nano=max(span.ended_ns, span.started_ns),
        attributes=_pairs(span.attributes),
        links=[_link(other) for other in span.links],
        status=pb.Status(code=pb.Status.STATUS_CODE_ERROR if span.failed else pb.Status.STATUS_CODE_UNSET),
        flags=1,
    )


def _link(other: TraceContext) -> pb.Span.Link:
    return pb.Span.Link(trace_id=bytes.fromhex(other.trace_id), span_id=bytes.fromhex(other.span_id), flags=1)


def _pairs(values: Mapping[str, Value] | Mapping[str, str]) -> list[KeyValue]:
    return [KeyValue(key=name, value=_value(value)) for name, value in values.items()]


def _value(value: Value) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
    return AnyValue(string_value=value)
