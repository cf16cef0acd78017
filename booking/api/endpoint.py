"""What one route does with a request before its handler sees it, and how what the handler returns becomes an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import msgspec
from aiohttp import hdrs, web
from aiohttp.streams import StreamReader
from multidict import istr

from booking.api.admission import Admission
from booking.api.auth import ApiClient, Authenticator, require_access
from booking.api.codec import convert_path, decode_body, decode_query
from booking.api.negotiation import read_wait
from booking.api.problems import ApiProblem
from booking.api.routing import Call, Pending, Reply, Route
from booking.api.wire import Ready, join_head, make_ready, render_head

_IDEMPOTENCY_KEY = istr("Idempotency-Key")
_PREFER = istr("Prefer")
_UTF8 = ("utf-8", "utf8")
_LONG_BODY_BYTES = 262_144  # decoded beside the event loop: a merchant's bill takes a tenth of a second and more
_MAX_CONTENT_TYPES = 64  # spellings of one content type that are remembered
_encode = msgspec.json.Encoder().encode


class ClientGone(Exception):
    """The caller hung up before its request was whole: there is nobody to answer."""


class Endpoint:
    """One route with its checks. `answer` takes a request from its key to its answer."""

    def __init__(
        self,
        route: Route,
        *,
        authenticator: Authenticator,
        hospital_known: Callable[[str], bool],
        hospital_of_key: Callable[[ApiClient], str | None],
        admission: Admission,
        max_body_bytes: int,
        body_timeout_s: float,
    ) -> None:
        self.route = route
        self._authenticator = authenticator
        self._hospital_known = hospital_known
        self._hospital_of_key = hospital_of_key
        self._admission = admission
        self._max_body_bytes = route.max_body_bytes or max_body_bytes
        self._body_timeout_s = body_timeout_s
        self._head = render_head(route.status, {"Content-Type": route.produces})
        self._content_types: dict[str | None, bool] = {}

    async def answer(self, call: Call[Any, Any], query: str) -> Ready | web.StreamResponse:
        """Check, decode, handle. Raises ApiProblem, ClientGone, and what the handler raises."""
        route, request = self.route, cast(web.BaseRequest, call.request)
        if route.scopes is not None and not self._is_public(call):
            authorization = request.headers.get(hdrs.AUTHORIZATION)
            client = self._authenticator.recall(authorization) or await self._authenticator.authenticate(authorization)
            self._admit(call, client)
        self._decode_head(call, query)
        if route.request is None:
            call.body = None
        else:
            data = await self._read(request)
            if len(data) > _LONG_BODY_BYTES:
                await asyncio.to_thread(self._decode_body, call, data)
            else:
                self._decode_body(call, data)
        if self._admission.counts_persons:
            call.admit_as = partial(self._admission.admit_as, call, route)
        self._admission.admit_identity(call, route)
        return self.ready(await route.handler(call))

    def answer_at_once(self, call: Call[Any, Any], query: str, content: StreamReader) -> Ready | Pending | None:
        """The same where nothing has to be awaited but perhaps one outcome; `content` has come as a whole.

        None: `answer` must be asked, and nothing was done; never for a route with a body, which would have been taken.
        """
        route, headers = self.route, call.request.headers
        client = self._authenticator.recall(headers.get(hdrs.AUTHORIZATION))
        if route.at_once is None or client is None:
            return None
        if route.request is not None and not self._content_types.get(headers.get(hdrs.CONTENT_TYPE)):
            return None
        self._admit(call, client)
        self._decode_head(call, query)
        if route.request is None:
            call.body = None
        else:
            data = content.read_nowait()
            if len(data) > self._max_body_bytes:
                raise self._too_large()
            self._decode_body(call, data)
        if self._admission.counts_persons:
            call.admit_as = partial(self._admission.admit_as, call, route)
        self._admission.admit_identity(call, route)
        result = route.at_once(call)
        if result is None:
            self._admission.forget(call)
            return None
        return result if isinstance(result, Pending) else cast(Ready, self.ready(result))

    def _is_public(self, call: Call[Any, Any]) -> bool:
        return self.route.public is not None and self.route.public(str(call.path.get("hospital_id", "")))

    def _admit(self, call: Call[Any, Any], client: ApiClient) -> None:
        """The hospital, the scope, the client's limits."""
        call.client = client
        hospital_id = self._only_hospital(call, client) if self.route.hospital_of_key else call.path.get("hospital_id")
        if hospital_id is not None and not self._hospital_known(hospital_id):
            raise ApiProblem("hospital_unknown")
        require_access(client, scopes=self.route.scopes or frozenset(), hospital_id=hospital_id)
        self._admission.admit_client(call, self.route, client)

    def _only_hospital(self, call: Call[Any, Any], client: ApiClient) -> str:
        hospital_id = self._hospital_of_key(client)
        if hospital_id is None:
            raise ApiProblem("hospital_ambiguous")
        call.path = {**call.path, "hospital_id": hospital_id}
        return hospital_id

    def _decode_head(self, call: Call[Any, Any], query: str) -> None:
        route = self.route
        call.idempotency_key = (
            route.read_idempotency_key(call.request.headers.get(_IDEMPOTENCY_KEY)) if route.idempotent else None
        )
        if route.heeds_wait:
            fields = call.request.headers.getall(_PREFER, ())
            wait_s = read_wait(", ".join(fields)) if fields else None
            call.waits_until_s = None if wait_s is None else time.monotonic() + wait_s
        if route.path_types:
            call.path = convert_path(call.path, route.path_types)
        if route.query is None:
            call.query = None
        else:
            call.query = query if route.query is str else decode_query(query, route.query)

    def _decode_body(self, call: Call[Any, Any], data: bytes) -> None:
        decoder = self.route.decoder
        call.data = data
        call.body = (
            data if decoder is None else decode_body(data or (b"{}" if self.route.body_optional else b""), decoder)
        )

    async def _read(self, request: web.BaseRequest) -> bytes:
        """The whole body, unpacked. Raises ApiProblem, ClientGone."""
        if not self._accepts(request) and not (self.route.body_optional and not request.can_read_body):
            raise ApiProblem("unsupported_media_type", f"expected {' or '.join(self.route.accepts)} in UTF-8")
        if request.content.is_eof():
            data = self._take(request)
        else:
            if (request.content_length or 0) > self._max_body_bytes:
                raise self._too_large()
            data = await self._wait(request)
        if len(data) > self._max_body_bytes:
            raise self._too_large()
        return data

    def _accepts(self, request: web.BaseRequest) -> bool:
        given = request.headers.get(hdrs.CONTENT_TYPE)
        known = self._content_types.get(given)
        if known is None:
            known = request.content_type in self.route.accepts and (request.charset or "utf-8").lower() in _UTF8
            if len(self._content_types) < _MAX_CONTENT_TYPES:
                self._content_types[given] = known
        return known

    def _take(self, request: web.BaseRequest) -> bytes:
        """A body that came with its head."""
        try:
            return request.content.read_nowait()
        except web.RequestPayloadError:
            raise _badly_packed() from None
        except OSError:  # the caller hung up before its turn came
            raise ClientGone from None

    async def _wait(self, request: web.BaseRequest) -> bytes:
        """A body that is still under way; asked for where the caller waits to be asked."""
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        data = bytearray()
        try:
            async with asyncio.timeout(self._body_timeout_s):
                while chunk := await request.content.readany():
                    data += chunk
                    if len(data) > self._max_body_bytes:
                        raise self._too_large()
        except (OSError, web.RequestPayloadError) as error:  # a time-out is an OSError too
            if request.transport is None:
                raise ClientGone from None
            if isinstance(error, TimeoutError):
                raise ApiProblem("request_timeout") from None
            raise _badly_packed() from None
        return bytes(data)

    def _too_large(self) -> ApiProblem:
        return ApiProblem("too_large", extra={"max_bytes": self._max_body_bytes})

    def ready(self, result: Any) -> Ready | web.StreamResponse:
        """What a handler returned, as an answer."""
        if isinstance(result, (Ready, web.StreamResponse)):
            return result
        status, headers = self.route.status, None
        if isinstance(result, Reply):
            status, headers, result = result.status or status, result.headers, result.body
        if result is None:
            return make_ready(status=204 if status == 200 else status, headers=headers or {})
        body = result if isinstance(result, bytes) else _encode(result)
        if headers or status != self.route.status:
            return make_ready(body, status=status, headers={"Content-Type": self.route.produces, **(headers or {})})
        return join_head(self._head, status, body)


def _badly_packed() -> ApiProblem:
    return ApiProblem("malformed_json", "the body is not packed as its Content-Encoding says")
