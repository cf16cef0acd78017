"""The span of a request to the API, by OpenTelemetry's conventions for HTTP servers.

Of those, what a caller can choose freely is left out: path, query, user agent and addresses. The route's template stays, and the
hospital where it is one of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from multidict import CIMultiDictProxy, istr

from booking.api.problems import Sli
from booking.api.routing import Call
from monitoring.metrics import method_label
from monitoring.trace_context import UNSAMPLED, TraceContext, here, read_context
from monitoring.traces import Kind, Span, Tracer

_PARENT, _STATE = istr("traceparent"), istr("tracestate")


class RequestSpans:
    """Begins and ends the spans of requests while tracing is on."""

    def __init__(self, tracer: Tracer, hospital_known: Callable[[str], bool]) -> None:
        self._tracer = tracer
        self._hospital_known = hospital_known

    def begin(self, call: Call[Any, Any]) -> None:
        """Decide whether this request is traced, and let all that is done for it know."""
        headers = call.request.headers
        parent = _read(headers) if _PARENT in headers else None
        span = self._tracer.begin("", Kind.SERVER, parent)
        call.span = span
        call.trace = context = parent or UNSAMPLED if span is None else span.context
        here.set(context)

    def end(self, span: Span, call: Call[Any, Any], route: str | None, status: int, code: str | None, sli: Sli) -> None:
        """The answer has been given. `route` is the template, None where the path fits none."""
        method = method_label(call.request.method)
        method = "_OTHER" if method == "OTHER" else method
        shown = "HTTP" if method == "_OTHER" else method
        span.name = shown if route is None else f"{shown} {route}"
        attributes = span.attributes
        attributes["http.request.method"] = method
        if route is not None:
            attributes["http.route"] = route
        attributes["http.response.status_code"] = status
        hospital_id = call.path.get("hospital_id")
        if hospital_id is not None and self._hospital_known(hospital_id):
            attributes["hisbridge.hospital"] = hospital_id
        if call.client is not None:
            attributes["hisbridge.client"] = call.client.id
        if code is not None:
            attributes["hisbridge.code"] = code
        if sli in (Sli.SERVER_ERROR, Sli.SHED):
            span.failed = True
            attributes["error.type"] = code or str(status)
        self._tracer.end(span)


def _read(headers: Any) -> TraceContext | None:
    given: CIMultiDictProxy[str] = headers
    return read_context(given.getall(_PARENT), given.getall(_STATE, ()))
