"""MLLP framing, apart from I/O: bytes in, events out.

    <VT> message <FS><CR>            VT = 0x0B, FS = 0x1C         HL7 v2.5.1 appendix C, "Minimal Lower Layer Protocol"

Neither VT nor FS can be part of a message in any character set that we accept (the trail bytes of GB18030 and Big5 start
at 0x30), so a VT inside a frame means that the peer gave up the frame before it, and a missing CR after FS is forgiven.
Line ends and byte-order marks between frames are forgiven too, and a frame with nothing else in it holds no message.

Whatever a peer sends costs time in proportion to its bytes, and however it is cut into reads, the same messages come out.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

VT = 0x0B
FS = 0x1C
CR = 0x0D
LF = 0x0A

HEAD_BYTES = 4096
"""How much of an oversized message is kept: enough for its MSH, so that the refusal can name it."""

EMPTY_AT_ONCE = 256
"""Whoever consumes the events of a read comes to its turn after so many frames that are no event."""

_BOM = b"\xef\xbb\xbf"
_BLANK = b"\r\n" + _BOM


class Frame(msgspec.Struct, frozen=True):
    """One complete message, without its envelope."""

    payload: bytes


class FrameTooLarge(msgspec.Struct, frozen=True):
    """A message of `size` bytes, more than the limit, has ended. `head` is how it began, cut after a whole field."""

    head: bytes
    size: int


class FrameTruncated(msgspec.Struct, frozen=True):
    """`count` messages were given up by the beginning of another; `size` bytes were dropped. Reported once per read."""

    size: int
    count: int = 1


class FrameEmpty(msgspec.Struct, frozen=True):
    """`count` frames held no message: some peers keep a connection alive so. Reported once per read, or per EMPTY_AT_ONCE."""

    count: int = 1


class Junk(msgspec.Struct, frozen=True):
    """`size` bytes arrived outside any frame and were dropped. Reported once per read."""

    size: int


FrameEvent = Frame | FrameTooLarge | FrameTruncated | FrameEmpty | Junk


def frame(message: bytes) -> bytes:
    """Wrap one message in its envelope."""
    return b"\x0b" + message + b"\x1c\x0d"


class Deframer:
    """Cuts a byte stream into messages, however the reads fall.

    Holds at most `max_bytes` of one message (HEAD_BYTES of one that is too large); every byte is looked at a few times.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._buffer = bytearray()
        self._size = 0
        self._inside = False
        self._given_up = self._given_up_size = self._empty = self._junk = 0

    @property
    def in_frame(self) -> bool:
        """True while a message has begun and not ended: the peer owes us bytes."""
        return self._inside

    def feed(self, data: bytes) -> Iterator[FrameEvent]:
        """Take what one read gave; yield what it completes, in order. Must be consumed to its end before the next feed."""
        position = 0
        while position < len(data):
            if not self._inside:
                position = self._seek(data, position)
                continue
            end = data.find(FS, position)
            stop = end if end >= 0 else len(data)
            position = self._give_up(data, position, stop)
            if end < 0:
                self._keep(data[position:])
                break
            if (done := self._end(data[position:stop])) is not None:
                yield done
            elif self._empty == EMPTY_AT_ONCE:
                yield FrameEmpty(EMPTY_AT_ONCE)
                self._empty = 0
            position = stop + 1
        yield from self._tell()

    def _seek(self, data: bytes, position: int) -> int:
        """Skip what is between frames; the place behind the next VT, or the end."""
        start = data.find(VT, position)
        stop = start if start >= 0 else len(data)
        if stop > position:
            self._junk += len(data[position:stop].translate(None, _BLANK))
        self._inside = start >= 0
        return stop + 1

    def _give_up(self, data: bytes, position: int, stop: int) -> int:
        """Drop all but the last message that has begun before `stop`. Of many VT only the last matters, at the cost of one."""
        last = data.rfind(VT, position, stop)
        if last < 0:
            return position
        count = data.count(VT, position, last + 1)
        self._given_up += count
        self._given_up_size += self._size + last - position - (count - 1)
        self._clear()
        return last + 1

    def _keep(self, content: bytes) -> None:
        self._size += len(content)
        if self._size <= self.max_bytes:
            self._buffer += content
            return
        if len(self._buffer) < HEAD_BYTES:
            self._buffer += content[: HEAD_BYTES - len(self._buffer)]
        del self._buffer[HEAD_BYTES:]

    def _end(self, content: bytes) -> Frame | FrameTooLarge | None:
        self._inside = False
        if self._size + len(content) > self.max_bytes:
            self._keep(content)
            large = FrameTooLarge(_whole_fields(bytes(self._buffer)), self._size)
            self._clear()
            return large
        if self._size:
            self._buffer += content
            content = bytes(self._buffer)
            self._clear()
        if content[:1] in _BLANK and not content.strip(_BLANK):
            self._empty += 1
            return None
        return Frame(content)

    def _clear(self) -> None:
        self._buffer.clear()
        self._size = 0

    def _tell(self) -> Iterator[FrameEvent]:
        if self._given_up:
            yield FrameTruncated(self._given_up_size, self._given_up)
        if self._empty:
            yield FrameEmpty(self._empty)
        if self._junk:
            yield Junk(self._junk)
        self._given_up = self._given_up_size = self._empty = self._junk = 0


def _whole_fields(head: bytes) -> bytes:
    """Without its last field where not even the first segment has ended: half a control id would name another message."""
    first = head.removeprefix(_BOM).lstrip(b"\r\n")
    separator = first[3:4]
    if not separator or b"\r" in first or b"\n" in first:
        return head
    return head[: head.rfind(separator)]
