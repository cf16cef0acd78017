"""Routes as data, and the server made of them.

    routes = [
        Route("POST", "/v1/hospitals/{hospital_id}/bookings", hold, tag="bookings", summary="Hold a seat", status=201,
              request_class=RequestClass.HOLD, request=NewBooking, response=BookingView, scopes=("booking",), idempotent=True,
              errors=("slot_sold_out", "duplicate_booking")),
    ]
    server = build_server(routes, authenticator=..., hospital_known=settings.hospitals.__contains__)
    runner = web.ServerRunner(server)

A handler gets one `Call` and returns the response Struct, a `Reply` (another status, or headers), ready-made JSON bytes, a
`Ready` or a `web.StreamResponse`; it raises `ApiProblem` for every other answer. What a request passes, in this order:
request id, metrics and access log, problems, draining and load, key, hospital, scope, rate, Idempotency-Key, content type,
size, decoding.

Where the same bytes are sent again and again, make a `Ready` of them once, one for each form, and return the one that fits:

    plain = make_ready(body, headers=fields)
    packed = make_ready(gzip.compress(body), headers={**fields, "Content-Encoding": "gzip"})
    unchanged = make_ready(status=304, headers={"ETag": etag, "Vary": "Accept-Encoding"})

    async def slots(call: Call[SlotQuery, None]) -> Ready:
        headers = call.request.headers
        if etag_matches(headers.get("If-None-Match"), etag):
            return unchanged
        return packed if accepts_gzip(headers.get("Accept-Encoding")) else plain
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import web
from aiohttp.http import RawRequestMessage

from booking.api.auth import ApiClient
from booking.api.classes import RequestClass
from booking.api.problems import PROBLEMS, ApiProblem
from booking.api.rates import Left, RatePolicy
from booking.api.wire import Ready, make_ready
from monitoring.trace_context import TraceContext
from monitoring.traces import Span

__all__ = [
    "COMMON_ERRORS",
    "AtOnce",
    "Call",
    "Handler",
    "Pending",
    "Ready",
    "Reply",
    "RequestClass",
    "Route",
    "make_ready",
    "parse_idempotency_key",
]

Q = TypeVar("Q")
B = TypeVar("B")

Handler = Callable[["Call[Any, Any]"], Awaitable[Any]]
AtOnce = Callable[["Call[Any, Any]"], Any]
"""Returns what a handler would, a `Pending`, or None where the handler itself must be asked; nothing has been done then."""
_PATH_PARAMETER = re.compile(r"\{(\w+)\}")
_IDEMPOTENCY_KEY = re.compile(r'"?([!#-~]{1,200})"?')

# What any route with a key may answer; `Route.errors` adds its own.
COMMON_ERRORS = (
    "unauthenticated",
    "forbidden_scope",
    "rate_limited",
    "overloaded",
    "store_unavailable",
    "draining",
    "internal_error",
)
_HOSPITAL_ERRORS = ("hospital_unknown", "forbidden_hospital")
_BODY_ERRORS = (
    "malformed_json",
    "unknown_field",
    "invalid_field",
    "unsupported_media_type",
    "too_large",
    "request_timeout",
)
_IDEMPOTENCY_ERRORS = (
    "idempotency_key_missing",
    "idempotency_key_invalid",
    "idempotency_key_reused",
    "request_in_progress",
)


class Reply(msgspec.Struct, frozen=True):
    """A response with another status than the route's, or with headers of its own (ETag, Location ...)."""

    body: Any
    status: int | None = None
    headers: Mapping[str, str] = {}


class Pending(msgspec.Struct, frozen=True):
    """A request that waits for one `outcome`. `told` makes of it what a handler would return, or raises.

    Where more has to be awaited then, it returns another one.
    """

    outcome: asyncio.Future[Any]
    told: Callable[[Any], Any]


class Call(Generic[Q, B]):
    """One request, checked and decoded. `query` and `body` are the route's Structs (None where it has none)."""

    __slots__ = (
        "address", "admit_as", "body", "client", "counts_for", "data", "idempotency_key", "path", "place", "query", "rates",
        "request", "request_id", "span", "trace", "waits_until_s",
    )  # fmt: skip

    client: ApiClient | None
    admit_as: Callable[[str, str], None] | None
    """Counts it for somebody whom path and body do not name (`identified_by`), as ("user_ref", the user); raises ApiProblem. None
    where persons have no rate."""
    path: Mapping[str, Any]
    query: Q
    body: B
    data: bytes
    """The body as it came; for routes whose request type is `bytes`."""
    idempotency_key: str | None
    place: Route | None
    """Whose place it holds among those who are being answered; `counts_for` is the client whose count it is in."""
    counts_for: str | None
    rates: dict[str, tuple[RatePolicy, Left]] | None
    """What it has left of the limits that it fell under, by their names."""
    waits_until_s: float | None
    """When its caller will have given up, by `time.monotonic`; None: it has not said."""
    span: Span | None
    """Of this request, where it is traced."""
    trace: TraceContext | None
    """That of the span, or the caller's; None while tracing is off."""

    def __init__(
        self, request: web.BaseRequest | RawRequestMessage, request_id: str, address: str, path: Mapping[str, str]
    ) -> None:
        """As it arrives: the checks fill in the rest, in their order. `address` is the whole path, decoded."""
        self.request = request
        self.request_id = request_id
        self.address = address
        self.path = path
        self.client = None
        self.admit_as = None
        self.data = b""
        self.place = None
        self.counts_for = None
        self.rates = None
        self.waits_until_s = None
        self.span = self.trace = None

    @property
    def hospital_id(self) -> str:
        """The hospital of the path, or the key's only one; it exists, and the client may use it."""
        return str(self.path["hospital_id"])

    def left_s(self) -> float | None:
        """How long its caller still waits; None: it has not said."""
        return None if self.waits_until_s is None else max(0.0, self.waits_until_s - time.monotonic())

    @property
    def caller(self) -> ApiClient:
        """The API client. Only for routes with scopes."""
        if self.client is None:
            raise RuntimeError("a public route has no caller")
        return self.client

    def fingerprint(self) -> str:
        """What an Idempotency-Key is bound to: method, path and meaning of the body, whitespace and order aside."""
        meaning = self.data if isinstance(self.body, bytes) or self.body is None else _canonical.encode(self.body)
        head = f"{self.request.method} {self.address}\n".encode()
        return sha256(head + meaning).hexdigest()  # on a few hundred bytes faster than blake2b of hashlib: measured


_canonical = msgspec.json.Encoder(order="deterministic")


def _needs_fields(body: Any) -> bool:
    """Whether a body must say something; one that need not may be left out."""
    return not (isinstance(body, type) and issubclass(body, msgspec.Struct)) or any(
        field.required for field in msgspec.structs.fields(body)
    )


class Route:
    """One operation of the API: how it is called, what it answers, who may call it, and the code behind it.

    `request_class` says what it costs, and with that what it is held to and when it is turned away. `request` is a Struct
    type, or `bytes` for a raw body of one of `accepts`; `query` one, or `str` for the query string as it was sent.
    `hospital_of_key`: the path names no hospital, it is the only one that the key is for. `scopes` None makes it public,
    `public` for the hospitals of which it says so. `path_types` converts path parameters (`{"date": dt.date}`); all others
    are texts. `errors` are the problem codes beyond the common ones. `idempotent` demands an Idempotency-Key. `identified_by`
    names the parameters of the path and the fields of the body that say for whom it is, each with a rate of its own.
    `examples` maps "request" and "response" to instances for the pages. `max_body_bytes` overrides the service's limit.
    `waits` marks a long poll: taking long is then not worth a line in the log. `heeds_wait`: nothing is begun for a caller
    who has given up (`Prefer: wait`, RFC 7240). `tagged`: its answers have an ETag, and one that is sent back gets 304 while
    nothing has changed. `at_once` answers without a task of its own where nothing has to be awaited, or one future alone
    (`Pending`): for what a crowd asks. `headers` tells the pages of optional headers that it reads, `repeated` of the status
    of an answer that was given before.
    """

    def __init__(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        summary: str,
        tag: str,
        request_class: RequestClass,
        description: str = "",
        request: Any = None,
        query: type[msgspec.Struct] | type[str] | None = None,
        response: Any = None,
        status: int = 200,
        scopes: Sequence[str] | None = (),
        errors: Sequence[str] = (),
        idempotent: bool = False,
        identified_by: Sequence[str] = (),
        path_types: Mapping[str, Any] | None = None,
        accepts: Sequence[str] = ("application/json",),
        produces: str = "application/json",
        max_body_bytes: int | None = None,
        waits: bool = False,
        heeds_wait: bool = False,
        tagged: bool = False,
        at_once: AtOnce | None = None,
        examples: Mapping[str, Any] | None = None,
        name: str | None = None,
        headers: Mapping[str, str] | None = None,
        repeated: int | None = None,
        hospital_of_key: bool = False,
        public: Callable[[str], bool] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.handler = handler
        self.summary = summary
        self.tag = tag
        self.request_class = request_class
        self.tagged = tagged
        self.at_once = at_once
        self.description = description
        self.request = request
        self.query = query
        self.response = response
        self.status = status
        self.scopes = None if scopes is None else frozenset(scopes)
        self.idempotent = idempotent
        self.identified_by = tuple(identified_by)
        self.path_types = dict(path_types or {})
        self.accepts = tuple(accepts)
        self.produces = produces
        self.max_body_bytes = max_body_bytes
        self.waits = waits
        self.heeds_wait = heeds_wait
        self.headers = dict(headers or {})
        self.repeated = repeated
        self.examples = dict(examples or {})
        self.name = name or getattr(handler, "__name__", f"{method} {path}")
        self.path_parameters = tuple(_PATH_PARAMETER.findall(path))
        self.hospital_of_key = hospital_of_key
        self.public = public
        self.of_hospital = hospital_of_key or "hospital_id" in self.path_parameters
        self.decoder = None if request in (None, bytes) else msgspec.json.Decoder(request)
        self.body_optional = self.decoder is not None and not _needs_fields(request)
        self.errors = self._all_errors(errors)
        unknown = [code for code in self.errors if code not in PROBLEMS]
        if unknown:
            raise ValueError(f"{method} {path}: no such problem codes: {unknown}")

    def _all_errors(self, own: Sequence[str]) -> tuple[str, ...]:
        codes = list(own)
        if self.request is not None:
            codes += _BODY_ERRORS
        elif self.query is not None or self.path_types:
            codes += ("invalid_field", "unknown_field")
        if self.path_parameters:
            codes += ("not_found",)
        if self.idempotent:
            codes += _IDEMPOTENCY_ERRORS
        if self.of_hospital:
            codes += _HOSPITAL_ERRORS
        if self.hospital_of_key:
            codes += ("hospital_ambiguous",)
        if self.scopes is not None:
            codes += COMMON_ERRORS
        return tuple(dict.fromkeys(codes))

    def read_idempotency_key(self, header: str | None) -> str | None:
        """The key of the request, without quotes. Raises ApiProblem where it must be there and is not, or is malformed."""
        if not self.idempotent:
            return None
        if header is None or not header.strip():
            raise ApiProblem("idempotency_key_missing")
        return parse_idempotency_key(header)


def parse_idempotency_key(header: str) -> str:
    """The key of the header's value, without quotes. Raises ApiProblem(idempotency_key_invalid)."""
    match = _IDEMPOTENCY_KEY.fullmatch(header.strip())
    if match is None:
        raise ApiProblem("idempotency_key_invalid")
    return match[1]
