"""The booking API of a route table: one function around every request, one endpoint for each route.

Not a `web.Application`: its resolver, its middlewares and their objects are a fifth to a quarter of a bare request's cost.
The order of the steps matters enough to be read in one place (`_Application.handle`, then `Endpoint.answer`).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, cast

import msgspec
import uuid_utils
from aiohttp import hdrs, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader
from multidict import istr
from prometheus_client import Counter, Histogram

from booking.api.auth import Authenticator
from booking.api.endpoint import ClientGone, Endpoint
from booking.api.limits import ClientRate, InFlight
from booking.api.problems import ApiProblem, Sli, answer_problem
from booking.api.router import Found, Router, split_plain, split_target
from booking.api.routing import Call, Pending, Route
from booking.api.server import ApiServer, Connection, ConnectionLimits
from booking.api.spans import RequestSpans
from booking.api.wire import Answer, Ready
from monitoring.health import Health
from monitoring.logs import get_logger, log_request, members_of
from monitoring.logs import request_id as current_request_id
from monitoring.masking import mask_text
from monitoring.metrics import http_request_seconds, http_requests, http_requests_in_flight, method_label
from monitoring.traces import Span, tracer

log = get_logger(__name__)

_CALLERS_REQUEST_ID = re.compile(r"[0-9A-Za-z-]{8,64}")
_REQUEST_ID = istr("X-Request-Id")
_TRACE_ID = "X-Trace-Id"
_GONE = 499  # in metrics only: the caller hung up, and no status reached it
_NOBODY = Ready(_GONE, b"")

Translate = Callable[[Exception], ApiProblem | None]
"""Turns an exception of the domain (store unavailable, HIS down) into a problem; None: it is a bug, answered 500."""


class ApiOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and logging of the API; the settings of the same names explain them."""

    max_body_bytes: int = 1_000_000
    body_timeout_s: float = 15.0
    max_in_flight: int = 2_000
    client_rate_per_s: float = 0.0
    client_burst: int = 200
    access_log: str = "changes"
    slow_request_s: float = 2.0
    connections: ConnectionLimits = ConnectionLimits()


def build_server(
    routes: Sequence[Route],
    *,
    authenticator: Authenticator,
    hospital_known: Callable[[str], bool] = lambda _id: True,
    translate: Translate = lambda _error: None,
    health: Health | None = None,
    options: ApiOptions | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> ApiServer:
    """The API, ready for a `web.ServerRunner`. Call it inside the running loop."""
    options = options or ApiOptions()
    rate = ClientRate(options.client_rate_per_s, options.client_burst, clock=clock)
    router: Router[Endpoint] = Router()
    for route in routes:
        endpoint = Endpoint(
            route,
            authenticator=authenticator,
            hospital_known=hospital_known,
            rate=rate,
            max_body_bytes=options.max_body_bytes,
            body_timeout_s=options.body_timeout_s,
        )
        router.add(route.method, route.path, endpoint)
        if route.method == "GET":
            router.add("HEAD", route.path, endpoint)
    tracing = tracer()
    spans = None if tracing is None else RequestSpans(tracing, hospital_known)
    application = _Application(router, health=health or Health(), options=options, translate=translate, spans=spans)
    return ApiServer(application.handle, application.handle_at_once, application.refuse_malformed, options.connections)


class _Asked(NamedTuple):
    """A request: where it leads, what was read of it, and since when (`time.perf_counter`)."""

    found: Found[Endpoint]
    call: Call[Any, Any]
    started_s: float


class _Application:
    """Around every request: its id, what is counted and logged, and every error turned into a problem."""

    def __init__(
        self,
        router: Router[Endpoint],
        *,
        health: Health,
        options: ApiOptions,
        translate: Translate,
        spans: RequestSpans | None = None,
    ) -> None:
        self._router = router
        self._spans = spans
        self._health = health
        self._options = options
        self._translate = translate
        self._in_flight = InFlight(options.max_in_flight)
        http_requests_in_flight.set_function(lambda: float(self._in_flight.count))
        self._children: dict[tuple[str, str, int, Sli | None], tuple[Counter, Histogram]] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. Raises nothing but its own cancellation."""
        started_s = time.perf_counter()
        request_id = _request_id(request.headers)
        current_request_id.set(request_id)
        address, query = split_target(request)
        found = self._router.find(request.method, address)
        call: Call[Any, Any] = Call(request, request_id, address, found.values)
        if self._spans is not None:
            self._spans.begin(call)
        connection = cast(Connection, request.protocol)
        code: str | None = None
        sli: Sli = Sli.OK
        connection.begin(waits=found.endpoint is not None and found.endpoint.route.waits)
        try:
            answer = await self._guarded(found, call, query)
        except asyncio.CancelledError:
            self._count(found, request.method, _GONE, None, time.perf_counter() - started_s, call.span)
            self._end_span(found, call, _GONE, None, sli)
            raise
        except ClientGone:
            answer = _NOBODY
        except Exception as error:  # every error becomes an answer; a bug is logged in _problem_of
            answer, code, sli = self._refuse(error, found, call)
        finally:
            connection.end()
        self._note(_Asked(found, call, started_s), answer.status, code, sli, gone=request.transport is None)
        if isinstance(answer, Ready):
            close = (
                self._health.leaving or request.content.exception() is not None
            )  # where the next head begins is lost
            return Answer(answer, request, request_id, close=close, more=_trace_field(call)).as_response()
        if not answer.prepared:
            answer.headers[_REQUEST_ID] = request_id
            if call.span is not None:
                answer.headers[_TRACE_ID] = call.span.context.trace_id
            if self._health.leaving:
                answer.force_close()
        return answer

    def handle_at_once(self, connection: Connection, message: RawRequestMessage, content: StreamReader) -> bool:
        """Answer a whole request that needs no task: the answer goes to `connection.conclude`, now or later.

        False: `handle` must be asked; nothing was done.
        """
        target = split_plain(message.path)
        if target is None or self._health.draining or self._health.leaving or self._in_flight.is_full:
            return False
        found = self._router.find(message.method, target[0])
        endpoint = found.endpoint
        if endpoint is None or endpoint.route.at_once is None or message.method != endpoint.route.method:
            return False
        asked = _Asked(found, Call(message, _request_id(message.headers), target[0], found.values), time.perf_counter())
        current_request_id.set(asked.call.request_id)
        if self._spans is not None:
            self._spans.begin(asked.call)
        self._in_flight.enter()
        try:
            answer = endpoint.answer_at_once(asked.call, target[1], content)
        except Exception as error:
            self._conclude_soon(connection, asked, *self._refuse(error, found, asked.call))
            return True
        if answer is None:
            self._in_flight.leave()
            return False
        if isinstance(answer, Pending):
            answer.outcome.add_done_callback(partial(self._conclude_pending, connection, asked, answer.told))
        else:
            self._conclude_soon(connection, asked, answer, None, Sli.OK)
        return True

    def _conclude_soon(self, connection: Connection, asked: _Asked, answer: Ready, code: str | None, sli: Sli) -> None:
        """When all who are there have been heard: answers that leave one by one wake their callers one by one."""
        asyncio.get_running_loop().call_soon(self._conclude, connection, asked, answer, code, sli)

    def _conclude_pending(
        self, connection: Connection, asked: _Asked, told: Callable[[Any], Any], outcome: asyncio.Future[Any]
    ) -> None:
        endpoint = cast(Endpoint, asked.found.endpoint)
        try:
            answer = cast(Ready, endpoint.ready(told(outcome.result())))
        except asyncio.CancelledError:  # nobody will ever know: what has been asked for goes on by itself
            self._conclude(connection, asked, *self._refuse(ApiProblem("draining"), asked.found, asked.call))
        except Exception as error:
            self._conclude(connection, asked, *self._refuse(error, asked.found, asked.call))
        else:
            self._conclude(connection, asked, answer, None, Sli.OK)

    def _conclude(self, connection: Connection, asked: _Asked, answer: Ready, code: str | None, sli: Sli) -> None:
        self._in_flight.leave()
        self._note(asked, answer.status, code, sli, gone=connection.transport is None)
        connection.conclude(answer, asked.call.request_id, close=self._health.leaving, more=_trace_field(asked.call))

    def _note(self, asked: _Asked, status: int, code: str | None, sli: Sli, *, gone: bool) -> None:
        """Count a request that has been answered, and log it where that is worth a line."""
        took_s = time.perf_counter() - asked.started_s
        method = asked.call.request.method
        counted = _GONE if gone else status
        self._count(asked.found, method, counted, None if gone else sli, took_s, asked.call.span)
        self._end_span(asked.found, asked.call, counted, code, sli)
        if self._worth_logging(asked.found, method, counted, status, took_s):
            self._log(asked.found, asked.call, status, code, took_s, gone=gone)

    def refuse_malformed(self, request: web.BaseRequest, error: BaseException | None) -> web.StreamResponse:
        """The answer to what is not HTTP, or not HTTP that we take. What was sent is neither repeated nor logged."""
        detail = "A line of the head is too long." if isinstance(error, LineTooLong) else None
        problem = ApiProblem("malformed_http", detail)
        self._count(_NOWHERE, "", problem.problem.status, problem.problem.sli, 0.0)
        request_id = str(uuid_utils.uuid7())
        return Answer(answer_problem(problem, request_id=request_id), request, request_id, close=True).as_response()

    async def _guarded(self, found: Found[Endpoint], call: Call[Any, Any], query: str) -> Ready | web.StreamResponse:
        if self._health.draining:
            raise ApiProblem("draining", retry_after_s=1)
        self._in_flight.enter()
        try:
            if found.endpoint is None:
                raise _missing(found)
            return await found.endpoint.answer(call, query)
        finally:
            self._in_flight.leave()

    def _refuse(self, error: Exception, found: Found[Endpoint], call: Call[Any, Any]) -> tuple[Ready, str, Sli]:
        """The answer, the code and the class of an error.

        Apart from `handle`, which must not hold the error in a variable: its traceback holds the frame of `handle`, and of
        such rings the garbage collector took a twelfth of a refusal's time.
        """
        problem = self._problem_of(error, found, call.request_id)
        language = call.request.headers.get(hdrs.ACCEPT_LANGUAGE, "")
        answer = answer_problem(problem, request_id=call.request_id, accept_language=language)
        return answer, problem.code, problem.problem.sli

    def _problem_of(self, error: Exception, found: Found[Endpoint], request_id: str) -> ApiProblem:
        if isinstance(error, ApiProblem):
            return error
        problem = self._translate(error)
        if problem is not None:
            return problem
        log.error("request_failed", route=_route_of(found), request_id=request_id, exc_info=error)
        return ApiProblem("internal_error")

    def _end_span(self, found: Found[Endpoint], call: Call[Any, Any], status: int, code: str | None, sli: Sli) -> None:
        if self._spans is not None and call.span is not None:
            route = None if found.endpoint is None else found.endpoint.route.path
            self._spans.end(call.span, call, route, status, code, sli)

    def _count(
        self, found: Found[Endpoint], method: str, status: int, sli: Sli | None, took_s: float, span: Span | None = None
    ) -> None:
        key = (_route_of(found), method, status, sli)
        children = self._children.get(key)
        if children is None:
            children = self._children_of(*key)
        children[0].inc()
        children[1].observe(took_s, None if span is None else span.exemplar)

    def _children_of(self, route: str, method: str, status: int, sli: Sli | None) -> tuple[Counter, Histogram]:
        """The series of one kind of request. The kinds are few: methods that nobody knows are one."""
        label = method_label(method)
        children = (
            http_requests.labels(route, label, str(status), "gone" if sli is None else sli.value),
            http_request_seconds.labels(route, label),
        )
        if label == method:
            self._children[route, method, status, sli] = children
        return children

    def _worth_logging(self, found: Found[Endpoint], method: str, counted: int, status: int, took_s: float) -> bool:
        level = self._options.access_log
        if level == "all" or status in (401, 403) or (status >= 500 and counted != _GONE):
            return True
        if took_s >= self._options.slow_request_s and not (found.endpoint is not None and found.endpoint.route.waits):
            return True
        return level == "changes" and status < 300 and method not in ("GET", "HEAD")

    def _log(
        self, found: Found[Endpoint], call: Call[Any, Any], status: int, code: str | None, took_s: float, *, gone: bool
    ) -> None:
        """Route template and ids only: neither path values other than the hospital nor the query are logged."""
        hospital_id = call.path.get("hospital_id")
        about = _members(
            method_label(call.request.method),
            _route_of(found),
            status,
            hospital_id[:40] if hospital_id is not None and status != 404 else None,
            call.client.id if call.client is not None else None,
            code,
            gone,
        )
        if call.trace is not None and call.trace.trace_id:
            about += b',"trace_id":"%b"' % call.trace.trace_id.encode()
        # A caller may have chosen it.
        request_id = mask_text(call.request_id) if _REQUEST_ID in call.request.headers else call.request_id
        log_request(took_s * 1000, request_id, about, level="warning" if status >= 500 else "info")


@lru_cache(maxsize=1024)
def _members(
    method: str, route: str, status: int, hospital_id: str | None, client_id: str | None, code: str | None, gone: bool
) -> bytes:
    """What the log says of requests that are alike."""
    fields: dict[str, Any] = {"logger": __name__, "method": method, "route": route, "status": status}
    if hospital_id is not None:
        fields["hospital"] = mask_text(hospital_id)  # a caller may have chosen it, in a path that was refused
    if client_id is not None:
        fields["client"] = client_id
    if code is not None:
        fields["code"] = code
    if gone:
        fields["gone"] = True  # done all the same: nobody read the answer
    return members_of(fields)


_NOWHERE: Found[Endpoint] = Found(None, {})


def _trace_field(call: Call[Any, Any]) -> bytes:
    """The field of an answer that names its trace, with its CRLF; empty where the request is not traced."""
    return b"" if call.span is None else b"X-Trace-Id: %b\r\n" % call.span.context.trace_id.encode()


def _missing(found: Found[Endpoint]) -> ApiProblem:
    if not found.allow:
        return ApiProblem("not_found")
    return ApiProblem("method_not_allowed", headers={"Allow": ", ".join(found.allow)})


def _request_id(headers: Mapping[str, str]) -> str:
    """The caller's X-Request-Id where it is a plain one, else a new UUIDv7."""
    given = headers.get(_REQUEST_ID)
    if given is not None and _CALLERS_REQUEST_ID.fullmatch(given):
        return given
    return str(uuid_utils.uuid7())


def _route_of(found: Found[Endpoint]) -> str:
    """The route's template; never the path, which a caller can choose freely."""
    return "unmatched" if found.endpoint is None else found.endpoint.route.path
