"""MLLP framing, apart from I/O: bytes in, events out.

    <VT> message <FS><CR>            VT = 0x0B, FS = 0x1C         HL7 v2.5.1 appendix C, "Minimal Lower Layer Protocol"

Neither VT nor FS can be part of a message in any character set that we accept (the trail bytes of GB18030 and Big5 start
at 0x30), so a VT inside a frame means that the peer gave up the frame before it, and a missing CR after FS is forgiven.
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


class Frame(msgspec.Struct, frozen=True):
    """One complete message, without its envelope."""

    payload: bytes


class FrameTooLarge(msgspec.Struct, frozen=True):
    """A message passed the limit. It is skipped to its end; `head` is how it began (at most HEAD_BYTES)."""

    head: bytes


class FrameTruncated(msgspec.Struct, frozen=True):
    """A new message began before this one ended; `size` bytes were dropped."""

    size: int


class Junk(msgspec.Struct, frozen=True):
    """`size` bytes arrived outside any frame and were dropped. Reported once per read."""

    size: int


FrameEvent = Frame | FrameTooLarge | FrameTruncated | Junk


def frame(message: bytes) -> bytes:
    """Wrap one message in its envelope."""
    return b"\x0b" + message + b"\x1c\x0d"


class Deframer:
    """Cuts a byte stream into messages, however the reads fall.

    Holds at most `max_bytes` of one message (HEAD_BYTES of one that is too large); every byte is looked at once.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._buffer = bytearray()
        self._inside = False
        self._skipping = False
        self._after_end = False

    @property
    def in_frame(self) -> bool:
        """True while a message has begun and not ended: the peer owes us bytes."""
        return self._inside

    def feed(self, data: bytes) -> Iterator[FrameEvent]:
        """Take what one read gave; yield what it completes. Must be consumed to its end before the next feed."""
        position = 0
        junk = 0
        while position < len(data):
            if self._inside:
                event, position = self._take_content(data, position)
                if event is not None:
                    yield event
            else:
                start = data.find(VT, position)
                stop = len(data) if start < 0 else start
                junk += self._count_junk(data, position, stop)
                if start < 0:
                    break
                self._inside, self._after_end, position = True, False, start + 1
        if junk:
            yield Junk(junk)

    def _take_content(self, data: bytes, position: int) -> tuple[FrameEvent | None, int]:
        end = data.find(FS, position)
        again = data.find(VT, position, end if end >= 0 else len(data))
        if again >= 0:
            size = len(self._buffer) + again - position
            event = None if self._skipping else FrameTruncated(size)
            self._reset(inside=True)
            return event, again + 1
        stop = end if end >= 0 else len(data)
        too_large = None if self._skipping else self._store(data, position, stop)
        if too_large is not None:
            # The end, if it is in this very read, is found by the next turn of the loop in `feed`.
            return too_large, stop
        if end < 0:
            return None, stop
        done = None if self._skipping else Frame(bytes(self._buffer))
        self._reset(inside=False)
        return done, end + 1

    def _store(self, data: bytes, position: int, stop: int) -> FrameTooLarge | None:
        if len(self._buffer) + stop - position <= self.max_bytes:
            self._buffer += data[position:stop]
            return None
        if len(self._buffer) < HEAD_BYTES:
            self._buffer += data[position : min(stop, position + HEAD_BYTES - len(self._buffer))]
        head = bytes(self._buffer[:HEAD_BYTES])
        self._buffer.clear()
        self._skipping = True
        return FrameTooLarge(head)

    def _reset(self, *, inside: bool) -> None:
        self._buffer.clear()
        self._inside, self._skipping, self._after_end = inside, False, not inside

    def _count_junk(self, data: bytes, position: int, stop: int) -> int:
        """Line ends between frames are no junk: CR belongs to the envelope, and some peers add LF."""
        if position == stop:
            return 0
        if self._after_end:
            rest = data[position:stop].lstrip(b"\r\n")
            if not rest:
                return 0
            self._after_end = False
            return len(rest)
        return stop - position
