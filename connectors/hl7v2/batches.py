"""Several messages in one frame: files and batches (HL7 v2.5.1 ch. 2.10.3: FHS, BHS, BTS, FTS), or messages one behind the other.

The frame is cut on bytes: in every set that is read here a line end is a line end, and nothing else looks like one. Each message
is then read by its own MSH-18.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from itertools import islice

import msgspec

from connectors.hl7v2.acks import control_id
from connectors.hl7v2.escapes import Delimiters
from connectors.hl7v2.header import restated

MOST_MESSAGES = 10_000
MOST_PIECES = 4 * MOST_MESSAGES
"""With headers and trailers: a batch may hold one message, or none."""

SHORT_BYTES = 16_384
CODEC = "latin-1"
"""Of the lines around the messages: what they repeat of the peer's goes back as the bytes that came."""

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n?|\n")
_TOKEN = rb"((?:\xef\xbb\xbf)?(MSH(?=[^A-Za-z0-9\s])|(?:FHS|BHS|BTS|FTS)(?=[^A-Za-z0-9]|\Z)))"
_AFTER_CR = re.compile(rb"(?:\A|\r)" + _TOKEN)
_AFTER_ANY = re.compile(rb"(?:\A|[\r\n])" + _TOKEN)
_NO_HEADER = b""
_NOT_BLANK = re.compile(rb"[^\r\n]")


class TooMany(Exception):
    """More than MOST_MESSAGES in one frame. `first` is where the first one begins."""

    def __init__(self, first: int) -> None:
        super().__init__(f"more than {MOST_MESSAGES} messages in one frame")
        self.first = first


class Batch(msgspec.Struct, kw_only=True):
    """One batch: its BHS and BTS without their line ends, b"" where there is none, and where its messages are in the frame."""

    header: bytes = b""
    trailer: bytes = b""
    spans: list[tuple[int, int]] = []


class File(msgspec.Struct, kw_only=True):
    """What one frame holds. `header` and `trailer` are FHS and FTS, b"" where there is none."""

    header: bytes = b""
    trailer: bytes = b""
    batches: list[Batch] = []

    @property
    def has_batches(self) -> bool:
        """Whether it is answered by a batch: messages that only stand behind each other are not."""
        return bool(self.header) or any(batch.header for batch in self.batches)

    @property
    def size(self) -> int:
        """How many messages."""
        return sum(len(batch.spans) for batch in self.batches)

    def wrong_counts(self) -> list[str]:
        """What BTS-1 and FTS-1 say, and what came, where they differ."""
        counts = [("BTS-1", batch.trailer, len(batch.spans), "messages") for batch in self.batches]
        counts.append(("FTS-1", self.trailer, len(self.batches), "batches"))
        return [wrong for count in counts if (wrong := _wrong_count(*count))]


def may_be_several(payload: bytes) -> bool:
    """Whether `split_file` has to look: False for nearly every frame. Long ones are searched by lines: a document has few."""
    begin = payload[:16].lstrip(b"\r\n").removeprefix(_BOM)
    if begin.startswith((b"FHS", b"BHS")):
        return True
    if len(payload) <= SHORT_BYTES and payload.find(b"MSH", 4) < 0:
        return False
    for mark in (b"\r", b"\n"):
        place = payload.find(mark)
        while place >= 0:
            if payload.startswith((b"MSH", _BOM), place + 1):
                return True
            place = payload.find(mark, place + 1)
    return False


def split_file(payload: bytes) -> File:
    """Cut a frame. What stands where a message should and is none is a span like the others. Raises TooMany."""
    file = File(batches=[])
    batch: Batch | None = None
    pieces = _pieces(payload)
    if len(pieces) > MOST_PIECES or sum(name == b"MSH" for name, _, _ in pieces) > MOST_MESSAGES:
        raise TooMany(next((start for name, start, _ in pieces if name == b"MSH"), 0))
    for name, start, stop in pieces:
        line_end = _LINE_END.search(payload, start, stop)
        line = payload[start : line_end.start() if line_end else stop].removeprefix(_BOM)
        if name in (b"MSH", _NO_HEADER):
            spans = [(start, stop)]
        else:
            rest = line_end.end() if line_end else stop
            spans = [(rest, stop)] if payload[rest:stop].strip() else []
        if name == b"FHS":
            file.header = line
        elif name == b"FTS":
            file.trailer = line
        elif name == b"BHS":
            batch = Batch(header=line, spans=[])
            file.batches.append(batch)
        elif name == b"BTS" and batch is not None:
            batch.trailer = line
        if spans:
            if batch is None:
                batch = Batch(spans=[])
                file.batches.append(batch)
            batch.spans += spans
        if name == b"BTS":
            batch = None
    return file


def _pieces(payload: bytes) -> list[tuple[bytes, int, int]]:
    """From each header, trailer and MSH to the next. As in a message: where all lines end with CR, an LF is content."""
    begin = _NOT_BLANK.search(payload)
    first = _LINE_END.search(payload, begin.start() if begin else 0)
    only_cr = first is not None and first[0] == b"\r" and b"\r\n" not in payload
    tokens = (_AFTER_CR if only_cr else _AFTER_ANY).finditer(payload)
    found = [(one[2], one.start(1)) for one in islice(tokens, MOST_PIECES + 1)]  # a frame may hold millions
    if not found or payload[: found[0][1]].removeprefix(_BOM).strip():
        found.insert(0, (_NO_HEADER, 0))
    ends = [*(start for _, start in found[1:]), len(payload)]
    return [(name, start, end) for (name, start), end in zip(found, ends, strict=True)]


def write_file(file: File, acks: Sequence[Sequence[bytes]], now: dt.datetime) -> bytes:
    """The answer to a frame with batches: `acks` of each batch, in order, in batches and a file as they came."""
    parts = [_header("FHS", file.header, now)] if file.header else []
    for batch, answers in zip(file.batches, acks, strict=True):
        parts.append(_header("BHS", batch.header, now))
        parts += answers
        parts.append(_trailer("BTS", len(answers), _wrong_count("BTS-1", batch.trailer, len(batch.spans), "messages")))
    if file.header:
        wrong = _wrong_count("FTS-1", file.trailer, len(file.batches), "batches")
        parts.append(_trailer("FTS", len(file.batches), wrong))
    return b"".join(parts)


def _header(name: str, theirs: bytes, now: dt.datetime) -> bytes:
    """FHS or BHS back to whoever sent, naming theirs (FHS-11 or BHS-11) in the twelfth field."""
    text = theirs.decode(CODEC)
    marks = Delimiters.of_header(text) if text else None
    fields = text.split(marks.field) if marks else []
    # FHS-1 and BHS-1 are the separator, as MSH-1 is: field n is piece n - 1.
    given = [restated(fields[n - 1], marks) if marks and n <= len(fields) else "" for n in range(13)]
    stamp = now.strftime("%Y%m%d%H%M%S%z")
    line = f"{name}|^~\\&|{given[5]}|{given[6]}|{given[3]}|{given[4]}|{stamp}||||{control_id()}|{given[11]}"
    return f"{line.rstrip('|')}\r".encode(CODEC)


def _trailer(name: str, count: int, comment: str) -> bytes:
    return f"{name}|{count}|{comment}".rstrip("|").encode() + b"\r"


def _wrong_count(name: str, trailer: bytes, came: int, what: str) -> str:
    """What is wrong with a trailer's first field, "" for nothing; a field that is empty or not there says nothing."""
    said = trailer[4:].split(trailer[3:4], 1)[0].strip() if len(trailer) > 4 else b""
    if not said or (said.isdigit() and len(said) < 10 and int(said) == came):
        return ""
    return (
        f"{name} says {said[:9].decode('ascii', 'replace') if said.isdigit() else 'no number'} and {came} {what} came"
    )
