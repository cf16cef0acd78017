"""The aiohttp application of a route table: one middleware around everything, one endpoint for each route.

One middleware, not seven: every layer of aiohttp costs microseconds on each request, and the order of the steps matters
enough to be read in one place (`_Pipeline.__call__`, then `_Endpoint.__call__`).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import uuid_utils
from aiohttp import web
from multidict import CIMultiDict
from prometheus_client import Counter, Histogram

from booking.api.auth import Authenticator, require_access
from booking.api.codec import convert_path, decode_body, decode_query
from booking.api.limits import ClientRate, InFlight
from booking.api.problems import ApiProblem, Sli, answer_problem
from booking.api.routing import Call, Reply, Route
from monitoring.health import Health
from monitoring.logs import get_logger
from monitoring.logs import request_id as current_request_id
from monitoring.metrics import http_request_seconds, http_requests, http_requests_in_flight, method_label

log = get_logger(__name__)

_JSON = "application/json"
_encode = msgspec.json.Encoder().encode
_CALLERS_REQUEST_ID = re.compile(r"[0-9A-Za-z-]{8,64}")
_REQUEST_ID = web.RequestKey("request_id", str)
_CLIENT_ID = web.RequestKey("client_id", str)
_WAITS = web.RequestKey("waits", bool)
_MAX_HEADER_BYTES = 8_190

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


def build_app(
    routes: Sequence[Route],
    *,
    authenticator: Authenticator,
    hospital_known: Callable[[str], bool] = lambda _id: True,
    translate: Translate = lambda _error: None,
    health: Health | None = None,
    options: ApiOptions | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> web.Application:
    """The application, ready for an `AppRunner`. Routes are matched in the given order: put the hot ones first."""
    options = options or ApiOptions()
    largest = max([options.max_body_bytes, *(route.max_body_bytes or 0 for route in routes)])
    pipeline = _Pipeline(health=health, options=options, translate=translate)
    app = web.Application(
        client_max_size=largest,
        middlewares=[pipeline.middleware()],
        handler_args={"max_line_size": _MAX_HEADER_BYTES, "max_field_size": _MAX_HEADER_BYTES, "access_log": None},
    )
    rate = ClientRate(options.client_rate_per_s, options.client_burst, clock=clock)
    for route in routes:
        endpoint = _Endpoint(route, authenticator, hospital_known, rate, options)
        app.router.add_route(route.method, route.path, endpoint.handle)
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, endpoint.handle)
    return app


class _Pipeline:
    """Around every request: its id, what is counted and logged, and every error turned into a problem."""

    def __init__(self, *, health: Health | None, options: ApiOptions, translate: Translate) -> None:
        self._health = health
        self._options = options
        self._translate = translate
        self._in_flight = InFlight(options.max_in_flight)
        http_requests_in_flight.set_function(lambda: float(self._in_flight.count))
        self._children: dict[tuple[str, str, int, str], tuple[Counter, Histogram]] = {}

    def middleware(self) -> Any:
        @web.middleware
        async def pipeline(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            return await self._answer(request, handler)

        return pipeline

    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        started_s = time.perf_counter()
        request_id = _request_id(request)
        request[_REQUEST_ID] = request_id
        current_request_id.set(request_id)  # a connection's requests share a context: the next one overwrites it
        code: str | None = None
        sli = Sli.OK
        try:
            response = await self._guarded(request, handler)
        except asyncio.CancelledError:
            self._count(request, 499, "gone", time.perf_counter() - started_s)
            raise
        except Exception as error:  # every error becomes an answer; a bug is logged in _problem_of
            problem = self._problem_of(error, request, request_id)
            code, sli = problem.code, problem.problem.sli
            response = answer_problem(
                problem, request_id=request_id, accept_language=request.headers.get("Accept-Language", "")
            )
        if not response.prepared:
            response.headers["X-Request-Id"] = request_id
            if self._health is not None and self._health.draining:
                response.force_close()
        took_s = time.perf_counter() - started_s
        self._count(request, response.status, sli.value, took_s)
        if self._worth_logging(request, response.status, took_s):
            self._log(request, request_id, response.status, code, took_s)
        return response

    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if self._health is not None and self._health.draining:
            raise ApiProblem("draining", retry_after_s=1)
        self._in_flight.enter()
        try:
            return await handler(request)
        finally:
            self._in_flight.leave()

    def _problem_of(self, error: Exception, request: web.Request, request_id: str) -> ApiProblem:
        if isinstance(error, ApiProblem):
            return error
        if isinstance(error, web.HTTPException):
            return _problem_of_http(error)
        problem = self._translate(error)
        if problem is not None:
            return problem
        log.error("request_failed", route=_route_of(request), request_id=request_id, exc_info=error)
        return ApiProblem("internal_error")

    def _count(self, request: web.Request, status: int, sli: str, took_s: float) -> None:
        key = (_route_of(request), method_label(request.method), status, sli)
        children = self._children.get(key)
        if children is None:
            route, method, _, _ = key
            children = self._children[key] = (
                http_requests.labels(route, method, str(status), sli),
                http_request_seconds.labels(route, method),
            )
        children[0].inc()
        children[1].observe(took_s)

    def _worth_logging(self, request: web.Request, status: int, took_s: float) -> bool:
        level = self._options.access_log
        if level == "all" or status >= 500 or status in (401, 403):
            return True
        if took_s >= self._options.slow_request_s and _WAITS not in request:
            return True
        return level == "changes" and status < 300 and request.method not in ("GET", "HEAD")

    def _log(self, request: web.Request, request_id: str, status: int, code: str | None, took_s: float) -> None:
        """Route template and ids only: neither path values other than the hospital nor the query are logged."""
        fields: dict[str, Any] = {
            "method": method_label(request.method),
            "route": _route_of(request),
            "status": status,
            "took_ms": round(took_s * 1000, 2),
            "request_id": request_id,
        }
        hospital_id = request.match_info.get("hospital_id")
        if hospital_id is not None and status != 404:
            fields["hospital"] = hospital_id[:40]
        if _CLIENT_ID in request:
            fields["client"] = request[_CLIENT_ID]
        if code is not None:
            fields["code"] = code
        (log.warning if status >= 500 else log.info)("request", **fields)


class _Endpoint:
    """What one route does with a request before its handler sees it."""

    def __init__(
        self,
        route: Route,
        authenticator: Authenticator,
        hospital_known: Callable[[str], bool],
        rate: ClientRate,
        options: ApiOptions,
    ) -> None:
        self._route = route
        self._authenticator = authenticator
        self._hospital_known = hospital_known
        self._rate = rate
        self._max_body_bytes = route.max_body_bytes or options.max_body_bytes
        self._body_timeout_s = options.body_timeout_s
        self._content_headers = CIMultiDict({"Content-Type": route.produces})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        route = self._route
        client = None
        values = request.match_info
        if route.waits:
            request[_WAITS] = True
        if route.scopes is not None:
            client = await self._authenticator.authenticate(request.headers.get("Authorization"))
            request[_CLIENT_ID] = client.id
            hospital_id = values.get("hospital_id")
            if hospital_id is not None and not self._hospital_known(hospital_id):
                raise ApiProblem("hospital_unknown")
            require_access(client, scopes=route.scopes, hospital_id=hospital_id)
            self._rate.take(client.id)
        if "%00" in request.rel_url.raw_path:  # no id has it, and PostgreSQL cannot compare with it
            raise ApiProblem("not_found")
        idempotency_key = route.read_idempotency_key(request.headers.get("Idempotency-Key"))
        path = convert_path(values, route.path_types) if route.path_types else values
        query = None if route.query is None else decode_query(request.rel_url.raw_query_string, route.query)
        data = b""
        body: Any = None
        if route.request is not None:
            data = await self._read(request)
            body = data if route.decoder is None else decode_body(data, route.decoder)
        call: Call[Any, Any] = Call(
            route=route,
            request=request,
            request_id=request[_REQUEST_ID],
            client=client,
            path=path,
            query=query,
            body=body,
            data=data,
            idempotency_key=idempotency_key,
        )
        return self._response(await route.handler(call))

    async def _read(self, request: web.Request) -> bytes:
        if request.content_type not in self._route.accepts or (request.charset or "utf-8").lower() not in (
            "utf-8",
            "utf8",
        ):
            raise ApiProblem("unsupported_media_type", f"expected {' or '.join(self._route.accepts)} in UTF-8")
        if (request.content_length or 0) > self._max_body_bytes:
            raise self._too_large()
        try:
            if request.content.is_eof():
                data = await request.read()
            else:
                async with asyncio.timeout(self._body_timeout_s):
                    data = await request.read()
        except TimeoutError:
            raise ApiProblem("request_timeout") from None
        except web.HTTPRequestEntityTooLarge:
            raise self._too_large() from None
        except web.RequestPayloadError:
            raise ApiProblem("malformed_json", "the body is not packed as its Content-Encoding says") from None
        if len(data) > self._max_body_bytes:
            raise self._too_large()
        return data

    def _too_large(self) -> ApiProblem:
        return ApiProblem("too_large", extra={"max_bytes": self._max_body_bytes})

    def _response(self, result: Any) -> web.StreamResponse:
        if isinstance(result, web.StreamResponse):
            return result
        status, headers = self._route.status, self._content_headers
        if isinstance(result, Reply):
            status = result.status or status
            if result.headers:
                headers = CIMultiDict(self._content_headers)
                headers.update(result.headers)
            result = result.body
        if result is None:
            return web.Response(status=204 if status == 200 else status, headers=_without_type(headers))
        body = result if isinstance(result, bytes) else _encode(result)
        return web.Response(body=body, status=status, headers=headers)


def _without_type(headers: CIMultiDict[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name != "Content-Type")


def _request_id(request: web.Request) -> str:
    """The caller's X-Request-Id where it is a plain one, else a new UUIDv7."""
    given = request.headers.get("X-Request-Id")
    if given is not None and _CALLERS_REQUEST_ID.fullmatch(given):
        return given
    return str(uuid_utils.uuid7())


def _route_of(request: web.Request) -> str:
    """The route's template; never the path, which a caller can choose freely."""
    resource = request.match_info.route.resource
    return "unmatched" if resource is None else resource.canonical


def _problem_of_http(error: web.HTTPException) -> ApiProblem:
    """aiohttp's own refusals in our words."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        return ApiProblem("method_not_allowed", headers={"Allow": ", ".join(sorted(error.allowed_methods))})
    if error.status == 413:
        return ApiProblem("too_large")
    if error.status == 404:
        return ApiProblem("not_found")
    if error.status < 500:
        return ApiProblem("invalid_field", f"HTTP {error.status}: {error.reason}")
    return ApiProblem("internal_error")
