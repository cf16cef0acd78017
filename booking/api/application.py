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

import uuid_utils
from aiohttp import hdrs, web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from multidict import istr

from booking.api.admission import Admission, AdmissionLimits, rate_fields
from booking.api.auth import ApiClient, Authenticator
from booking.api.endpoint import ClientGone, Endpoint
from booking.api.fhir.outcomes import answer_outcome, is_fhir
from booking.api.malformed import told_of
from booking.api.phases import ReleasePhases
from booking.api.problems import ApiProblem, answer_problem
from booking.api.router import Found, Router, split_plain, split_target
from booking.api.routing import Call, Pending, Route
from booking.api.server import ApiServer, Connection, ConnectionLimits
from booking.api.shedding import Shedding, SheddingLimits
from booking.api.spans import RequestSpans
from booking.api.tally import GONE, AnyRoute, Tally, path_of, sli_of
from booking.api.wire import Answer, Ready
from monitoring.health import Health
from monitoring.logs import get_logger, log_request, members_of
from monitoring.logs import request_id as current_request_id
from monitoring.masking import mask_text
from monitoring.metrics import http_requests_in_flight, method_label
from monitoring.traces import tracer

log = get_logger(__name__)

_CALLERS_REQUEST_ID = re.compile(r"[0-9A-Za-z-]{8,64}")
_REQUEST_ID = istr("X-Request-Id")
_TRACE_ID = "X-Trace-Id"
_NOBODY = Ready(GONE, b"")

Translate = Callable[[Exception], ApiProblem | None]
"""Turns an exception of the domain (store unavailable, HIS down) into a problem; None: it is a bug, answered 500."""


class ApiOptions(AdmissionLimits, frozen=True, kw_only=True):
    """Limits and logging of the API; the settings of the same names explain them."""

    max_body_bytes: int = 1_000_000
    body_timeout_s: float = 15.0
    access_log: str = "changes"
    slow_request_s: float = 2.0
    shedding: SheddingLimits = SheddingLimits()
    connections: ConnectionLimits = ConnectionLimits()


def build_server(
    routes: Sequence[Route],
    *,
    authenticator: Authenticator,
    hospital_known: Callable[[str], bool] = lambda _id: True,
    hospital_of_key: Callable[[ApiClient], str | None] = lambda _client: None,
    translate: Translate = lambda _error: None,
    health: Health | None = None,
    options: ApiOptions | None = None,
    phases: ReleasePhases | None = None,
    oldest_hold_s: Callable[[], float] = lambda: 0.0,
    clock: Callable[[], float] = time.monotonic,
) -> ApiServer:
    """The API, ready for a `web.ServerRunner`. Call it inside the running loop.

    `hospital_of_key` tells the hospital of a key that is for one only; `oldest_hold_s` how long the hold has waited that has
    waited longest.
    """
    options = options or ApiOptions()
    shedding = Shedding(options.shedding, oldest_hold_s=oldest_hold_s)
    admission = Admission(options, away=shedding.away, clock=clock)
    router: Router[Endpoint] = Router()
    for route in routes:
        endpoint = Endpoint(
            route,
            authenticator=authenticator,
            hospital_known=hospital_known,
            hospital_of_key=hospital_of_key,
            admission=admission,
            max_body_bytes=options.max_body_bytes,
            body_timeout_s=options.body_timeout_s,
        )
        router.add(route.method, route.path, endpoint)
        if route.method == "GET":
            router.add("HEAD", route.path, endpoint)
    tally = Tally(hospital_known, phases or ReleasePhases())
    tracing = tracer()
    spans = None if tracing is None else RequestSpans(tracing, hospital_known)
    application = _Application(
        router, admission, tally, health=health or Health(), options=options, translate=translate, spans=spans
    )
    shedding.start()
    return ApiServer(
        application.handle,
        application.handle_at_once,
        application.refuse_malformed,
        options.connections,
        on_refused=application.note_refused,
        on_shutdown=shedding.stop,
    )


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
        admission: Admission,
        tally: Tally,
        *,
        health: Health,
        options: ApiOptions,
        translate: Translate,
        spans: RequestSpans | None = None,
    ) -> None:
        self._router = router
        self._tally = tally
        self._spans = spans
        self._health = health
        self._options = options
        self._translate = translate
        self._admission = admission
        http_requests_in_flight.set_function(lambda: float(admission.in_flight))

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
        connection.begin(waits=found.endpoint is not None and found.endpoint.route.waits)
        try:
            answer = await self._guarded(found, call, query)
        except asyncio.CancelledError:
            self._count(_Asked(found, call, started_s), GONE, None, time.perf_counter() - started_s)
            self._end_span(found, call, GONE, None)
            raise
        except ClientGone:
            answer = _NOBODY
        except Exception as error:  # every error becomes an answer; a bug is logged in _problem_of
            answer, code = self._refuse(error, found, call)
        finally:
            connection.end()
        self._note(_Asked(found, call, started_s), answer.status, code, gone=request.transport is None)
        if isinstance(answer, Ready):
            close = (
                self._health.leaving or request.content.exception() is not None
            )  # where the next head begins is lost
            fields = rate_fields(call) + _trace_field(call)
            return Answer(answer, request, request_id, close=close, fields=fields).as_response()
        if not answer.prepared:
            answer.headers[_REQUEST_ID] = request_id
            for name, _, value in (line.partition(": ") for line in rate_fields(call).decode().splitlines()):
                answer.headers[name] = value
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
        if target is None or self._health.draining or self._health.leaving:
            return False
        found = self._router.find(message.method, target[0])
        endpoint = found.endpoint
        if endpoint is None or endpoint.route.at_once is None or message.method != endpoint.route.method:
            return False
        asked = _Asked(found, Call(message, _request_id(message.headers), target[0], found.values), time.perf_counter())
        current_request_id.set(asked.call.request_id)
        if self._spans is not None:
            self._spans.begin(asked.call)
        try:
            self._admission.enter(asked.call, endpoint.route)
            answer = endpoint.answer_at_once(asked.call, target[1], content)
        except Exception as error:
            self._conclude_soon(connection, asked, *self._refuse(error, found, asked.call))
            return True
        if answer is None:
            self._admission.leave(asked.call)
            return False
        if isinstance(answer, Pending):
            answer.outcome.add_done_callback(partial(self._conclude_pending, connection, asked, answer.told))
        else:
            self._conclude_soon(connection, asked, answer, None)
        return True

    def _conclude_soon(self, connection: Connection, asked: _Asked, answer: Ready, code: str | None) -> None:
        """When all who are there have been heard: answers that leave one by one wake their callers one by one."""
        asyncio.get_running_loop().call_soon(self._conclude, connection, asked, answer, code)

    def _conclude_pending(
        self, connection: Connection, asked: _Asked, told: Callable[[Any], Any], outcome: asyncio.Future[Any]
    ) -> None:
        endpoint = cast(Endpoint, asked.found.endpoint)
        try:
            result = told(outcome.result())
            if isinstance(result, Pending):
                result.outcome.add_done_callback(partial(self._conclude_pending, connection, asked, result.told))
                return
            answer = cast(Ready, endpoint.ready(result))
        except asyncio.CancelledError:  # nobody will ever know: what has been asked for goes on by itself
            self._conclude(connection, asked, *self._refuse(ApiProblem("draining"), asked.found, asked.call))
        except Exception as error:
            self._conclude(connection, asked, *self._refuse(error, asked.found, asked.call))
        else:
            self._conclude(connection, asked, answer, None)

    def _conclude(self, connection: Connection, asked: _Asked, answer: Ready, code: str | None) -> None:
        self._admission.leave(asked.call)
        self._note(asked, answer.status, code, gone=connection.transport is None)
        fields = rate_fields(asked.call) + _trace_field(asked.call)
        connection.conclude(answer, asked.call.request_id, close=self._health.leaving, fields=fields)

    def _note(self, asked: _Asked, status: int, code: str | None, *, gone: bool) -> None:
        """Count a request that has been answered, and log it where that is worth a line."""
        took_s = time.perf_counter() - asked.started_s
        method = asked.call.request.method
        counted = GONE if gone else status
        self._count(asked, counted, None if gone else code, took_s)
        self._end_span(asked.found, asked.call, counted, code)
        if self._worth_logging(asked.found, method, counted, status, took_s):
            self._log(asked.found, asked.call, status, code, took_s, gone=gone)

    def refuse_malformed(self, request: web.BaseRequest, error: BaseException | None) -> web.StreamResponse:
        """The answer to what is not HTTP, or not HTTP that we take. What was sent is neither repeated nor logged."""
        problem = ApiProblem("malformed_http", told_of(error))
        self._tally.count(None, "", problem.problem.status, problem.code, None, 0.0)
        request_id = str(uuid_utils.uuid7())
        return Answer(answer_problem(problem, request_id=request_id), request, request_id, close=True).as_response()

    def note_refused(self) -> None:
        """A connection beyond the limit was answered `overloaded`, whatever it would have asked."""
        self._tally.count(None, "", 503, "overloaded", None, 0.0)

    async def _guarded(self, found: Found[Endpoint], call: Call[Any, Any], query: str) -> Ready | web.StreamResponse:
        if self._health.draining:
            raise ApiProblem("draining", retry_after_s=1)
        if found.endpoint is None:
            raise _missing(found)
        try:
            self._admission.enter(call, found.endpoint.route)
            return await found.endpoint.answer(call, query)
        finally:
            self._admission.leave(call)

    def _refuse(self, error: Exception, found: Found[Endpoint], call: Call[Any, Any]) -> tuple[Ready, str]:
        """The answer and the code of an error.

        Apart from `handle`, which must not hold the error in a variable: its traceback holds the frame of `handle`, and of
        such rings the garbage collector took a twelfth of a refusal's time.
        """
        problem = self._problem_of(error, found, call.request_id)
        language = call.request.headers.get(hdrs.ACCEPT_LANGUAGE, "")
        address = call.address or cast(web.BaseRequest, call.request).raw_path  # a target that is no text has none
        if is_fhir(address):
            outcome = answer_outcome(problem, request_id=call.request_id, accept_language=language, address=address)
            return outcome, problem.code
        return answer_problem(problem, request_id=call.request_id, accept_language=language), problem.code

    def _problem_of(self, error: Exception, found: Found[Endpoint], request_id: str) -> ApiProblem:
        if isinstance(error, ApiProblem):
            return error
        problem = self._translate(error)
        if problem is not None:
            return problem
        log.error("request_failed", route=path_of(_route_of(found)), request_id=request_id, exc_info=error)
        return ApiProblem("internal_error")

    def _end_span(self, found: Found[Endpoint], call: Call[Any, Any], status: int, code: str | None) -> None:
        if self._spans is not None and call.span is not None:
            route = None if found.endpoint is None else found.endpoint.route.path
            self._spans.end(call.span, call, route, status, code, sli_of(code))

    def _count(self, asked: _Asked, status: int, code: str | None, took_s: float) -> None:
        call, route = asked.call, _route_of(asked.found)
        # Whoever waits for news is answered when there are some; a query that was refused has no such wish.
        wait_s = getattr(getattr(call, "query", None), "wait_s", 0.0) if route is not None and route.waits else 0.0
        exemplar = None if call.span is None else call.span.exemplar
        hospital_id = call.path.get("hospital_id")
        self._tally.count(route, call.request.method, status, code, hospital_id, took_s, wait_s, exemplar)

    def _worth_logging(self, found: Found[Endpoint], method: str, counted: int, status: int, took_s: float) -> bool:
        level = self._options.access_log
        if level == "all" or status in (401, 403) or (status >= 500 and counted != GONE):
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
            path_of(_route_of(found)),
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


def _route_of(found: Found[Endpoint]) -> AnyRoute:
    return None if found.endpoint is None else found.endpoint.route
