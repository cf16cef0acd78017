"""FHIR over HTTP: one session to one server, with bounds on everything and no blind resending.

    ExchangeError
    |-- NotSent        nothing left this machine
    |-- ReplyLost      bytes left, and no whole reply came
    `-- ReplyInvalid   a reply came and is no FHIR JSON: HTML, garbage, truncated, too large

Every HTTP status comes back as a `Reply`; what it means is for `connectors.fhir.outcomes`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from connectors.clock import HisClock
from connectors.fhir.auth import Auth, AuthFailed, NoAuth
from connectors.fhir.deadlines import Deadline
from connectors.fhir.documents import Json, decode_json, encode_json
from connectors.fhir.kept import LARGEST_BYTES, Kept, pack, unpack
from connectors.fhir.pace import BUSY, Pace
from connectors.fhir.record import asking
from connectors.recording import WireRecord
from connectors.retry_after import retry_after_s
from connectors.tls import TLSContext
from monitoring.traces import headers_here

FHIR_JSON = "application/fhir+json"
_JSON_TYPES = frozenset({FHIR_JSON, "application/json", "text/json"})
_BOM = b"\xef\xbb\xbf"
_CHUNK = 65_536
# From so many bytes on, decoding takes longer than a turn of the event loop may (5 ms).
_OFF_LOOP_BYTES = 500_000
_OFF_LOOP_PACKED_BYTES = 20_000
# All pages of one search together, in bodies of the largest size allowed: decoded they take several times as much memory.
_MAX_BODIES = 4

Params = Sequence[tuple[str, str]]


class ExchangeError(Exception):
    """An exchange with the FHIR server gave no reply that can be used."""


class NotSent(ExchangeError):
    """Nothing left this machine. `retry_after_s`: the server wants to be left alone for so long."""

    def __init__(self, text: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class ReplyLost(ExchangeError):
    """Bytes left, and no whole reply came back."""


class ReplyInvalid(ExchangeError):
    """The reply cannot be read."""


class _ConnectionDropped(aiohttp.ClientError):
    """The peer closed after our bytes left; not one of those errors at which aiohttp sends again by itself."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server is and how much of it we take. `send_traceparent`: it is told traces."""

    base_url: str
    max_connections: int = 8
    max_body_bytes: int = 10_000_000
    max_pages: int = 2000
    connect_timeout_s: float = 5.0
    send_traceparent: bool = False


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP reply. `body` is decoded JSON, None when empty; `data` the bytes of an answer that need not be JSON.

    `size` is that of the body in bytes; `packed` the body again, where it may be kept. `retry_after_s`: with 429 and 503, how
    long the server wants to be left alone.
    """

    status: int
    body: Any = None
    etag: str | None = None
    location: str | None = None
    content_type: str = ""
    data: bytes = b""
    size: int = 0
    packed: bytes = b""
    retry_after_s: float | None = None


class FhirClient:
    """Requests to one FHIR server.

    `on_fallback` is told the decoder that read a mislabelled reply, `on_answer` whether the server answered at all; `clock` is
    the server's. `auth` is what each request shows, and no other server ever sees; `tls`: the context of https, where it is not
    the system's.
    """

    def __init__(
        self,
        settings: Settings,
        clock: HisClock,
        on_fallback: Callable[[str], None],
        on_answer: Callable[[bool], None],
        *,
        auth: Auth | None = None,
        tls: TLSContext | None = None,
        record: WireRecord | None = None,
    ) -> None:
        self.record = record or WireRecord("")
        self._settings = settings
        self._base = URL(settings.base_url.rstrip("/") + "/")
        self._clock = clock
        self._on_fallback = on_fallback
        self._on_answer = on_answer
        self._auth: Auth = auth or NoAuth()
        self._tls = tls
        self._pace = Pace()
        self.kept: Kept[URL] = Kept()
        self._session: aiohttp.ClientSession | None = None

    @property
    def peer(self) -> str:
        """The server, as it may be shown."""
        return f"{self._base.host}:{self._base.port}"

    async def open(self) -> None:
        """Make the session; connects to nothing yet."""
        if self._session is not None:
            return
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(_note_connected)
        trace.on_connection_reuseconn.append(_note_connected)
        headers = {"Accept": FHIR_JSON, "User-Agent": "hisbridge"}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._settings.max_connections),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[trace],
            middlewares=(_never_send_again,),
        )

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        await self._auth.close()

    async def read(self, path: str, params: Params = (), *, deadline: Deadline, fresh: bool = False) -> Reply:
        """GET `[base]/path`; `fresh` asks every cache on the way to look again. Raises ExchangeError.

        What was read before, and had an ETag, is asked for with If-None-Match (FHIR R4, http.html#cread); where the server says
        that it is the same (304), it is the reply of then.
        """
        return await self._get_again(self._url(path, params), {"Cache-Control": "no-cache"} if fresh else {}, deadline)

    async def pages(
        self, path: str, params: Params, *, deadline: Deadline, fresh: bool = False
    ) -> AsyncGenerator[Reply, None]:
        """GET a search and all its `next` links, exactly as given (FHIR R4, http.html#paging); all within `deadline`.

        Pages that need not be fresh are asked for with If-None-Match where they were read before. Stops after the first
        that is not 200. Raises ReplyInvalid for a link that leaves the server, a circle, or more pages than allowed: a part must
        never look like the whole.
        """
        url: URL | None = self._url(path, params)
        seen: set[URL] = set()
        try:
            while url is not None:
                if url in seen or len(seen) >= self._settings.max_pages:
                    raise ReplyInvalid(f"the search does not end within {self._settings.max_pages} pages")
                seen.add(url)
                if fresh:  # an outcome may hang on it: it is not left to an ETag
                    reply = await self._send("GET", url, {"Cache-Control": "no-cache"}, deadline)
                else:
                    reply = await self._get_again(url, {}, deadline)
                ended = reply.status == 200
                url = self._next_page(url, reply) if ended else None
                yield reply
            if ended:
                seen.clear()
        finally:
            for one in seen:  # a page of before may lead on to what the server has let go
                self.kept.drop(one)

    async def read_pages(self, path: str, params: Params, *, deadline: Deadline, fresh: bool = False) -> list[Reply]:
        """All `pages` of a search at once. Raises ReplyInvalid also where they are too large, taken together."""
        found: list[Reply] = []
        size = 0
        async with aclosing(self.pages(path, params, deadline=deadline, fresh=fresh)) as pages:
            async for reply in pages:
                found.append(reply)
                size += reply.size
                if size > self._settings.max_body_bytes * _MAX_BODIES:
                    raise ReplyInvalid("the pages of the search are larger than allowed, taken together")
        return found

    async def create(self, resource_type: str, body: Json, *, deadline: Deadline, if_none_exist: str = "") -> Reply:
        """POST a resource; `if_none_exist` is the query of a conditional create (http.html#ccreate)."""
        headers = {"If-None-Exist": if_none_exist} if if_none_exist else {}
        return await self._send("POST", self._url(resource_type, ()), headers, deadline, body)

    async def transact(self, bundle: Json, *, deadline: Deadline) -> Reply:
        """POST a transaction to [base] (http.html#transaction)."""
        return await self._send("POST", URL(self._settings.base_url.rstrip("/")), {}, deadline, bundle)

    async def update(self, path: str, body: Json, *, deadline: Deadline, if_match: str | None) -> Reply:
        """PUT a resource; `if_match` is the version it must still have (http.html#concurrency)."""
        return await self._send("PUT", self._url(path, ()), {"If-Match": if_match} if if_match else {}, deadline, body)

    async def download(self, address: str, accept: str, *, deadline: Deadline) -> Reply:
        """GET an attachment of this server, relative or absolute; the reply's bytes are in `data`."""
        url = self._own(self._base, address, encoded=False)
        return await self._send("GET", url, {"Accept": f"{accept}, {FHIR_JSON};q=0.9"}, deadline, any_type=True)

    async def _get_again(self, url: URL, headers: dict[str, str], deadline: Deadline) -> Reply:
        """GET, by the ETag where it was read before: a 304 is the reply of then."""
        known = self.kept.known(url)
        if known is not None:
            headers = headers | {"If-None-Match": known.etag}
        reply = await self._send("GET", url, headers, deadline)
        if reply.status == 304 and known is not None:
            self.kept.confirm(url)
            return await self._of_before(known.etag, known.packed)
        if reply.status == 200 and reply.etag is not None and reply.packed:
            self.kept.keep(url, reply.etag, reply.packed)
        else:
            self.kept.drop(url)
        return reply if not reply.packed else msgspec.structs.replace(reply, packed=b"")

    async def _of_before(self, etag: str, packed: bytes) -> Reply:
        def read() -> Reply:
            data = unpack(packed)
            return Reply(status=200, body=self._decode(data), etag=etag, content_type=FHIR_JSON, size=len(data))

        return read() if len(packed) < _OFF_LOOP_PACKED_BYTES else await asyncio.to_thread(read)

    def _url(self, path: str, params: Params) -> URL:
        return self._base.joinpath(path).with_query(list(params)) if params else self._base.joinpath(path)

    def _next_page(self, here: URL, reply: Reply) -> URL | None:
        links = reply.body.get("link") if isinstance(reply.body, dict) else None
        for link in links if isinstance(links, list) else ():
            if isinstance(link, dict) and link.get("relation") == "next" and isinstance(link.get("url"), str):
                return self._own(here, link["url"])
        return None

    def _own(self, here: URL, address: str, *, encoded: bool = True) -> URL:
        """Where a link leads. Raises ReplyInvalid for one that is no address, or leaves the server."""
        base = self._base
        try:
            url = here.join(URL(address, encoded=encoded))
        except ValueError as error:
            raise ReplyInvalid("a link is no address") from error
        if (
            url.scheme != base.scheme
            or url.raw_authority != base.raw_authority
            or not f"{url.path}/".startswith(base.path)
        ):
            raise ReplyInvalid("a link leads to another server than the configured one")
        return url

    async def _send(
        self,
        method: str,
        url: URL,
        headers: dict[str, str],
        deadline: Deadline,
        body: Json | None = None,
        *,
        any_type: bool = False,
    ) -> Reply:
        if self._session is None:
            raise NotSent("the connector is not started")
        if body is not None:
            headers = headers | {"Content-Type": FHIR_JSON, "Prefer": "return=representation"}
        data = encode_json(body) if body is not None else None
        await self._wait_for_turn(deadline)
        shown = await self._shown(deadline)
        reply = await self._send_once(method, url, headers, deadline, data, shown, any_type=any_type)
        if reply.status == 401 and await self._auth.renewed(shown, deadline):
            # Whoever was not let in has done nothing: a write may go out again too.
            shown = await self._shown(deadline)
            reply = await self._send_once(method, url, headers, deadline, data, shown, any_type=any_type)
        if reply.retry_after_s is not None:
            self._pace.hold(reply.retry_after_s)
        return reply

    async def _wait_for_turn(self, deadline: Deadline) -> None:
        left_s = await self._pace.wait(deadline)
        if left_s > 0:
            raise NotSent("the server wants to be left alone", retry_after_s=left_s)

    async def _shown(self, deadline: Deadline) -> str | None:
        try:
            return await self._auth.header(deadline)
        except AuthFailed as error:
            raise NotSent(str(error)) from error

    async def _send_once(
        self,
        method: str,
        url: URL,
        headers: dict[str, str],
        deadline: Deadline,
        body: bytes | None,
        shown: str | None,
        *,
        any_type: bool,
    ) -> Reply:
        if self._session is None:
            raise NotSent("the connector is not started")
        if shown is not None:
            headers = headers | {"Authorization": shown}
        if self._settings.send_traceparent:
            headers = headers | headers_here()
        how: dict[str, Any] = {} if self._tls is None else {"ssl": await self._tls.current()}
        timeout_s = deadline.left_s()
        if timeout_s <= 0:
            raise NotSent("no time is left for this request")
        progress = SimpleNamespace(connected=False)
        began = time.time()
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(self._settings.connect_timeout_s, timeout_s))
        path = url.path.removeprefix(self._base.path.rstrip("/"))
        with asking(self.record, method, path, url.raw_query_string, body, peer=self.peer, not_sent=NotSent) as asked:
            try:
                async with self._session.request(
                    method,
                    url,
                    data=body,
                    headers=headers,
                    timeout=timeout,
                    allow_redirects=False,
                    trace_request_ctx=progress,
                    **how,
                ) as response:
                    self._on_answer(True)
                    self._clock.note_http(response.headers.get("Date"), response.headers.get("Age"), began=began)
                    data = await self._read_body(response)
                    asked.answered(response.status, None if any_type else data)
                    if len(data) > _OFF_LOOP_BYTES:
                        reply = await asyncio.to_thread(self._reply, response, data, any_type=any_type)
                    else:
                        reply = self._reply(response, data, any_type=any_type)
                    asked.read()
                    return reply
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._on_answer(False)
                reason = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
                raise (ReplyLost if progress.connected else NotSent)(reason) from error

    async def _read_body(self, response: aiohttp.ClientResponse) -> bytes:
        chunks, size = [], 0
        async for chunk in response.content.iter_chunked(_CHUNK):
            size += len(chunk)
            if size > self._settings.max_body_bytes:
                raise ReplyInvalid(f"the reply is larger than {self._settings.max_body_bytes} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    def _reply(self, response: aiohttp.ClientResponse, data: bytes, *, any_type: bool) -> Reply:
        is_json = response.content_type in _JSON_TYPES
        body = None
        if data and is_json:
            body = self._decode(data)
        elif data and not any_type and response.status not in (401, 429, 503):
            raise ReplyInvalid(f"HTTP {response.status} with {_known_type(response.content_type)} instead of FHIR JSON")
        etag = response.headers.get("ETag")
        again = etag is not None and response.method == "GET" and body is not None and len(data) <= LARGEST_BYTES
        return Reply(
            status=response.status,
            body=body,
            etag=etag,
            location=response.headers.get("Location") or response.headers.get("Content-Location"),
            content_type=response.content_type,
            data=data if any_type else b"",
            size=len(data),
            packed=pack(data) if again and response.status == 200 else b"",
            retry_after_s=_retry_after_s(response),
        )

    def _decode(self, data: bytes) -> Any:
        """JSON is UTF-8 (RFC 8259 section 8.1); a server that sends GBK all the same is read and counted."""
        data = data.removeprefix(_BOM)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            try:
                text = data.decode("gb18030")
            except UnicodeDecodeError as error:
                raise ReplyInvalid("the reply is neither UTF-8 nor GB18030") from error
            value = _parse(text)
            self._on_fallback("gb18030")
            return value
        return _parse(text)


def _parse(text: str) -> Any:
    try:
        return decode_json(text)
    except (msgspec.DecodeError, RecursionError) as error:
        # The decoder's own text may quote the reply: it is not passed on.
        raise ReplyInvalid("the reply is no valid JSON, or is cut off") from error


def _known_type(content_type: str) -> str:
    return (
        content_type if content_type in ("text/html", "text/plain", "text/xml", "application/xml") else "another type"
    )


def _retry_after_s(response: aiohttp.ClientResponse) -> float | None:
    if response.status not in BUSY:
        return None
    return retry_after_s(response.headers.get("Retry-After"), response.headers.get("Date"))


async def _note_connected(_session: Any, context: SimpleNamespace, _params: Any) -> None:
    context.trace_request_ctx.connected = True


async def _never_send_again(
    request: aiohttp.ClientRequest, handler: Callable[[aiohttp.ClientRequest], Any]
) -> aiohttp.ClientResponse:
    """Turn a dropped connection into an error that aiohttp does not answer by sending a PUT a second time.

    It would do so for every idempotent method on a reused connection; a write in doubt is for the query-back.
    """
    try:
        response: aiohttp.ClientResponse = await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        if request.method == "GET":
            raise
        raise _ConnectionDropped(type(error).__name__) from error
    return response
