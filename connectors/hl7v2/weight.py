"""Whether reading and mapping a message may hold the event loop: judged by its bytes, before anything is read.

Both cost about 1 ms for 4 KB of an ordinary message. A segment, a repetition or an escape costs up to 25 us, and 16 KB can have
thousands of them.
"""

from __future__ import annotations

from connectors.hl7v2.er7 import Message

OFF_LOOP_BYTES = 16_384
OFF_LOOP_PARTS = 200


def is_heavy(payload: bytes) -> bool:
    """Whether a message is to be read in a thread."""
    if len(payload) > OFF_LOOP_BYTES:
        return True
    marks = (b"\r", b"\n", payload[5:6], payload[6:7])  # MSH-2: the repetition and the escape of this message
    return sum(payload.count(mark) for mark in marks if mark) > OFF_LOOP_PARTS


def is_heavy_to_map(message: Message) -> bool:
    """Whether one that was read is to be mapped in a thread; a document in it does not count."""
    marks = (message.delimiters.repetition, message.delimiters.escape)
    return len(message.spans) + sum(message.text.count(mark) for mark in marks if mark) > OFF_LOOP_PARTS
