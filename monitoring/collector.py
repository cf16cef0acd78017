"""The way of spans to an OpenTelemetry collector: OTLP over HTTP, in batches, off the way of everything else.

`add` puts a span into a bounded queue and returns. One task sends what is there; packing happens in a thread, sending on the loop
with a bound on all of it. A collector that is away, slow or talks nonsense costs spans, which are counted, and nothing else.

OTLP 1.x: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import asyncio
import gzip
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import aiohttp
import msgspec

from monitoring.logs import get_logger
from monitoring.metrics import spans_exported, spans_waiting
from monitoring.traces import Span, start_tracing, stop_tracing

log = get_logger("traces")

MOST_WAITING = 4_096  # spans; about 1 KB each
MOST_AT_ONCE = 128  # packing more would keep the interpreter's lock from the loop for too long
EVERY_S = 1.0
MOST_TRIES = 5
LONGEST_PAUSE_S = 16.0
CLOSE_WITHIN_S = 2.0
COMPLAIN_EVERY_S = 60.0
MAX_ANSWER_BYTES = 65_536
_TRY_AGAIN = frozenset({429, 502, 503, 504})  # OTLP: these and no others may succeed later


class CollectorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where spans go, and as whose. `endpoint` is the whole URL, `headers` may hold a secret."""

    endpoint: str
    sample_ratio: float
    timeout_s: float = 5.0
    headers: Mapping[str, str] = {}
    resource: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return f"CollectorOptions(endpoint={self.endpoint!r}, headers={list(self.headers)})"


class Collector:
    """Tracing, from `start` to `close`: a part of the process. What ends after `close` has begun is sent if there is time."""

    def __init__(self, options: CollectorOptions, *, every_s: float = EVERY_S, first_pause_s: float = 1.0) -> None:
        self._options = options
        self._every_s = every_s
        self._first_pause_s = first_pause_s
        self._waiting: deque[Span] = deque()
        self._full = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._pack: Callable[[Sequence[Span]], bytes] | None = None
        self._complained_s = -COMPLAIN_EVERY_S
        self._exported, self._dropped, self._refused = (
            spans_exported.labels(result) for result in ("exported", "dropped", "refused")
        )

    async def start(self) -> None:
        """Begin to trace. Connects to nothing yet."""
        # What OTLP is written in takes memory and time at the start: only where tracing is on.
        from monitoring.otlp import packer

        self._pack = packer(self._options.resource)
        timeout = aiohttp.ClientTimeout(total=self._options.timeout_s)
        self._session = aiohttp.ClientSession(
            timeout=timeout, headers=dict(self._options.headers), cookie_jar=aiohttp.DummyCookieJar()
        )
        spans_waiting.set_function(lambda: float(len(self._waiting)))
        self._task = asyncio.create_task(self._run(), name="spans")
        start_tracing(self._options.sample_ratio, self.add)
        log.info("tracing", endpoint=self._options.endpoint, sample_ratio=self._options.sample_ratio)

    async def close(self) -> None:
        """Trace no more; send what waits, within CLOSE_WITHIN_S."""
        if self._task is None or self._session is None:
            return
        stop_tracing()
        self._closing.set()
        self._full.set()
        await asyncio.wait([self._task], timeout=CLOSE_WITHIN_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._dropped.inc(len(self._waiting))
        self._waiting.clear()
        await self._session.close()

    def add(self, span: Span) -> None:
        """Take a span that has ended."""
        if len(self._waiting) >= MOST_WAITING:
            self._dropped.inc()
            return
        self._waiting.append(span)
        if len(self._waiting) >= MOST_AT_ONCE:
            self._full.set()

    async def _run(self) -> None:
        while not (self._closing.is_set() and not self._waiting):
            await _wait(self._full, 0.0 if self._closing.is_set() else self._every_s)
            self._full.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(MOST_AT_ONCE, len(self._waiting)))]
                await self._deliver(batch)

    async def _deliver(self, batch: Sequence[Span]) -> None:
        """Send one batch, again where that may help. Raises nothing but its own cancellation."""
        result, reason = self._dropped, "cut off"
        try:
            body = await asyncio.to_thread(self._packed, batch)
            for attempt in range(MOST_TRIES):
                reason, again = await self._post(body)
                if not reason:
                    result = self._exported
                    return
                if not again:
                    result = self._refused
                if not again or self._closing.is_set():
                    break
                await _wait(self._closing, min(self._first_pause_s * 2**attempt, LONGEST_PAUSE_S))
            self._complain(len(batch), reason)
        except Exception as error:  # whatever it is, it is about spans: nothing else may suffer
            self._complain(len(batch), type(error).__name__)
        finally:
            result.inc(len(batch))

    def _packed(self, batch: Sequence[Span]) -> bytes:
        assert self._pack is not None  # noqa: S101 - start() has set it
        return gzip.compress(self._pack(batch), 1)

    async def _post(self, body: bytes) -> tuple[str, bool]:
        """Why it was not taken (empty: it was), and whether it may be later. What the collector says is not repeated anywhere."""
        assert self._session is not None  # noqa: S101
        headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
        try:
            async with self._session.post(
                self._options.endpoint, data=body, headers=headers, allow_redirects=False
            ) as response:
                # So much keeps the connection where the answer is as short as it should be. An end is not waited for.
                await response.content.read(MAX_ANSWER_BYTES)
                if 200 <= response.status < 300:
                    return "", False
                return f"HTTP {response.status}", response.status in _TRY_AGAIN
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return type(error).__name__, True

    def _complain(self, count: int, reason: str) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._complained_s >= COMPLAIN_EVERY_S:
            self._complained_s = now_s
            log.warning("spans_not_exported", endpoint=self._options.endpoint, spans=count, reason=reason)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """Until the event, at most so long."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
