"""Structured logs: one JSON line an event on stderr, without patient data.

Our own events go through structlog, those of libraries (aiohttp, asyncio, SQLAlchemy ...) through the standard `logging`
module; both end in the same processors and the same stream, so that masking holds for either. Masking works by key (see
`monitoring.masking.PATIENT_KEYS`), by pattern in every string, and by type: a record, bytes or any other object that is not
plain data is shown as its type, never as its contents.

    log = get_logger(__name__)
    log.info("hold_accepted", hospital="hl7-demo", order_no=order_no)
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import datetime as dt
import decimal
import logging
import pathlib
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from enum import Enum
from types import TracebackType
from typing import Any, BinaryIO, cast

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from monitoring.masking import HIDDEN, PATIENT_KEYS, mask_text, mask_value
from monitoring.trace_context import here

LEVELS = ("debug", "info", "warning", "error", "critical")
MAX_STRING_CHARS = 2_000
MAX_TRACEBACK_CHARS = 8_000
MAX_ITEMS = 50
MAX_DEPTH = 6
GATHER_S = 0.02
MOST_GATHERED = 500  # lines

_NUMBERS = logging.getLevelNamesMapping()
_PLAIN = (bool, int, float, type(None))
_AS_TEXT = (uuid.UUID, dt.datetime, dt.date, dt.time, dt.timedelta, decimal.Decimal, pathlib.PurePath)
# Set by us or by structlog and free of patient data: not looked at again.
_OWN_KEYS = frozenset({"at", "level", "logger", "trace_id"})
# The texts of these errors quote bytes of a peer's message: only their type is told.
_QUOTING_MODULES = ("aiohttp.http_exceptions", "lxml.etree", "xml.", "json.decoder")

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The request being answered; every event logged meanwhile carries it. Cheaper than binding, and set on each request."""


def get_logger(name: str, **fields: Any) -> FilteringBoundLogger:
    """A logger whose lines carry `logger: name` and `fields`. May be called at import time: it binds on first use."""
    return cast(FilteringBoundLogger, structlog.get_logger(name, **fields))


def log_request(took_ms: float, request_id: str, about: bytes, *, level: str = "info") -> None:
    """One line of the access log, without the way through the processors, which takes longer than the rest of logging.

    `about` are all other members, made once for requests that are alike by `members_of`. Every value must be of our own making,
    or masked by the caller. Lines of a crowd are written together, at most GATHER_S late (a process that is killed loses so much
    of its access log, and nothing of any other).
    """
    if _NUMBERS[level.upper()] < _plain.least:
        return
    _plain.add(
        b'{"at":"%b","level":"%b","event":"request","took_ms":%.2f,"request_id":%b,%b%b}\n'
        % (_now(), level.encode(), took_ms, _encoder.encode(request_id), about, _plain.role)
    )


def members_of(fields: Mapping[str, Any]) -> bytes:
    """Members of a JSON object, for `log_request`."""
    return _encoder.encode(fields)[1:-1]


class _Clock:
    """Instants in UTC, the second formatted once."""

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def __call__(self) -> bytes:
        second, rest_ns = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%b.%06dZ" % (self._text, rest_ns // 1000)


_now = _Clock()


def configure_logging(level: str = "info", *, stream: BinaryIO | None = None) -> None:
    """Send every log line of this process, ours and the libraries', as JSON to `stream` (bytes; default: stderr).

    Call it once at start, before anything logs; a second call replaces the first.
    """
    sink = _Sink(stream)
    number = logging.getLevelNamesMapping()[level.upper()]
    _configure_structlog(number, sink)
    _plain.write()
    _plain.sink, _plain.least = sink, number
    handler = _StdlibHandler(sink)
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, _StdlibHandler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(number, logging.INFO))
    # One line a request of these would be ours a second time, or SQL with its parameters.
    for name in ("aiohttp.access", "sqlalchemy.engine", "sqlalchemy.pool", "hl7apy", "zeep", "asyncio", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def tell_role(role: str, worker: int | None = None) -> None:
    """Show on every line from now on which of several processes has written it."""
    told: dict[str, Any] = {"role": role} if worker is None else {"role": role, "worker": worker}
    _plain.role = b"," + members_of(told)
    structlog.contextvars.bind_contextvars(**told)


def _configure_structlog(level_number: int, sink: _Sink) -> None:
    structlog.configure(
        processors=[*_processors(), render_json],
        wrapper_class=structlog.make_filtering_bound_logger(level_number),
        logger_factory=sink.named,
        cache_logger_on_first_use=False,
    )


def _processors() -> list[structlog.typing.Processor]:
    """What every event passes, ours or a library's."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_origin,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        render_exception,
        mask_patient_data,
    ]


class _Sink:
    """Writes finished lines. One `write` per line, so that lines of several threads do not mix."""

    def __init__(self, stream: BinaryIO | None, name: str = "") -> None:
        self.name = name
        self._stream = stream
        self._lock = threading.Lock()

    def named(self, name: str = "") -> _Sink:
        """The same sink under a logger's name."""
        other = _Sink(self._stream, name)
        other._lock = self._lock
        return other

    def msg(self, line: bytes) -> None:
        stream = self._stream if self._stream is not None else sys.stderr.buffer
        # A line that cannot be written, as on a full disk, must not end the work that it tells of.
        with self._lock, contextlib.suppress(OSError):
            stream.write(line)
            stream.flush()

    debug = info = warning = error = critical = exception = log = msg


class _Plain:
    """Where the lines go that need no processors, from which level on, and what all of them carry."""

    def __init__(self) -> None:
        self.sink = _Sink(None)
        self.least = logging.INFO
        self.role = b""  # members of every line, with the comma before them
        self._lines: list[bytes] = []
        self._writes_on: asyncio.AbstractEventLoop | None = None  # where a timer runs

    def add(self, line: bytes) -> None:
        """Write a line soon; at once where nobody could do it later."""
        self._lines.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.write()
            return
        if len(self._lines) >= MOST_GATHERED:
            self.write()
        elif self._writes_on is not loop:
            self._writes_on = loop
            loop.call_later(GATHER_S, self.write)

    def write(self) -> None:
        """Write what waits."""
        self._writes_on = None
        lines, self._lines = self._lines, []
        if lines:
            self.sink.msg(b"".join(lines))


_plain = _Plain()
atexit.register(_plain.write)


class _StdlibHandler(logging.Handler):
    """Turns a record of the standard library into an event and runs it through the same processors."""

    def __init__(self, sink: _Sink) -> None:
        super().__init__()
        self._sink = sink
        self._processors = _processors()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except (TypeError, ValueError, KeyError):
            text = str(record.msg)  # arguments that do not fit their format string
        event: EventDict = {"event": text, "logger": record.name}
        if record.exc_info:
            event["exc_info"] = record.exc_info
        method = record.levelname.lower()
        for processor in self._processors:
            event = cast(EventDict, processor(None, method, event))
        self._sink.msg(render_json(None, method, event))


# --- processors ---------------------------------------------------------------------------------------------------


def _add_origin(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event.setdefault("logger", getattr(logger, "name", ""))
    current = request_id.get()
    if current is not None:
        event.setdefault("request_id", current)
    trace = here.get()
    if trace is not None and trace.trace_id:
        event.setdefault("trace_id", trace.trace_id)
    return event


def render_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace `exc_info` by `exception`: the traceback as text. Local variables are never shown."""
    exc_info = event.pop("exc_info", None)
    if exc_info is True:
        error = sys.exc_info()[1]
    elif isinstance(exc_info, tuple):
        error = exc_info[1]
    else:
        error = exc_info
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        event["exception"] = describe_exception(error)
    return event


def describe_exception(error: BaseException) -> str:
    """The traceback of `error` and of what caused it, masked, at most MAX_TRACEBACK_CHARS (its end, where the news is)."""
    text = "".join(traceback.format_exception(error, limit=-20))
    for quote in _quotes(error):
        text = text.replace(quote, HIDDEN)
    text = mask_text(text)
    return text if len(text) <= MAX_TRACEBACK_CHARS else "..." + text[-MAX_TRACEBACK_CHARS:]


def _quotes(error: BaseException | None) -> Iterator[str]:
    """The texts in the chain of causes that quote a peer's bytes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if _quotes_input(error):
            texts = (str(error), getattr(error, "msg", None), getattr(error, "message", None))
            yield from (text for text in texts if isinstance(text, str) and text)
        error = error.__cause__ or error.__context__


def _quotes_input(error: BaseException) -> bool:
    return type(error).__module__.startswith(_QUOTING_MODULES)


def mask_patient_data(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask every value of the event, by key, by pattern and by type."""
    return {key: value if key in _OWN_KEYS else _masked(key, value, 0) for key, value in event.items()}


def _masked(key: str, value: Any, depth: int) -> Any:
    if key.lower() in PATIENT_KEYS and value is not None:
        return mask_value(key, value) if isinstance(value, str) else HIDDEN
    if isinstance(value, str) and not isinstance(value, Enum):
        if key == "exception":
            return value  # masked where it was rendered, before it was cut
        text = mask_text(value[: MAX_STRING_CHARS + 32])
        return text if len(text) <= MAX_STRING_CHARS else text[:MAX_STRING_CHARS] + "..."
    if isinstance(value, Enum):
        return _masked(key, value.value, depth)
    if isinstance(value, _PLAIN):
        return mask_text(str(value)) if _looks_personal(value) else value
    if isinstance(value, _AS_TEXT):
        return str(value)
    if isinstance(value, BaseException):
        text = HIDDEN if _quotes_input(value) else mask_text(str(value))[:MAX_STRING_CHARS]
        return f"{type(value).__name__}: {text}"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if depth < MAX_DEPTH and isinstance(value, Mapping):
        pairs = list(value.items())[:MAX_ITEMS]
        return {mask_text(str(name)): _masked(str(name), item, depth + 1) for name, item in pairs}
    if depth < MAX_DEPTH and isinstance(value, (list, tuple, set, frozenset)):
        return [_masked(key, item, depth + 1) for item in list(value)[:MAX_ITEMS]]
    return f"<{type(value).__name__}>"


def _looks_personal(value: object) -> bool:
    """Whether a bare integer has the length of a phone or identity number."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 10_000_000_000


_encoder = msgspec.json.Encoder()


def render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    """One line of JSON: time, level and event first."""
    line = {key: event.pop(key, None) for key in ("at", "level", "event")}
    line.update(event)
    return _encoder.encode(line) + b"\n"


# --- what would otherwise reach stderr as a bare traceback -------------------------------------------------------


def _log_uncaught(_kind: type[BaseException], error: BaseException, _tb: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        return
    get_logger(__name__).critical("uncaught_exception", exc_info=error)


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        thread = args.thread.name if args.thread else ""
        get_logger(__name__).critical("uncaught_exception", thread=thread, exc_info=args.exc_value)


# structlog's own default prints whole objects and local variables: until configure_logging is called, and in a program that
# forgets to, events are masked all the same.
_configure_structlog(logging.INFO, _Sink(None))
