"""Messages that were good once: what broken software, cables and ill will make of them. The envelope stays whole."""

from __future__ import annotations

import re
from collections.abc import Callable

from hypothesis import strategies as st

ENVELOPE = re.compile(rb"[\x0b\x1c]")
HEADERS = re.compile(rb"(?:\A|[\r\n])(?:\xef\xbb\xbf)?(?:MSH|MSA|FHS|BHS|FTS|BTS)")

MOST_BYTES = 150_000

Change = Callable[[bytes, int, int], bytes]
"""A message, and two numbers of any size that say where and how."""


def _flip(text: bytes, where: int, how: int) -> bytes:
    if not text:
        return text
    at = where % len(text)
    return text[:at] + bytes([text[at] ^ (1 << how % 8)]) + text[at + 1 :]


def _put(text: bytes, where: int, how: int) -> bytes:
    at = where % (len(text) + 1)
    return text[:at] + bytes([how % 256]) + text[at:]


def _cut(text: bytes, where: int, how: int) -> bytes:
    at = where % (len(text) + 1)
    return text[:at] + text[at + how % 64 :]


def _truncate(text: bytes, where: int, how: int) -> bytes:
    return text[: where % (len(text) + 1)]


def _drop_segment(text: bytes, where: int, how: int) -> bytes:
    lines = text.split(b"\r")
    del lines[where % len(lines)]
    return b"\r".join(lines)


def _repeat_segment(text: bytes, where: int, how: int) -> bytes:
    lines = text.split(b"\r")
    at = where % len(lines)
    lines[at:at] = [lines[at]] * (1, 2, 50, 2000)[how % 4]
    return b"\r".join(lines)


def _swap_segments(text: bytes, where: int, how: int) -> bytes:
    lines = text.split(b"\r")
    a, b = where % len(lines), how % len(lines)
    lines[a], lines[b] = lines[b], lines[a]
    return b"\r".join(lines)


def _blow_up(text: bytes, where: int, how: int) -> bytes:
    """One character of the grammar, or a harmless one, very often."""
    at = where % (len(text) + 1)
    return (
        text[:at]
        + (b"|", b"^", b"~", b"&", b"\\", b"x", b"\r", b"\n", b"\\X41\\", b"~1", b'""')[how % 11]
        * ((40, 1000, 9000, 70_000)[how // 11 % 4])
        + text[at:]
    )


def _other_marks(text: bytes, where: int, how: int) -> bytes:
    """Another delimiter, everywhere or nearly."""
    theirs, ours = (
        b"|^~\\&"[where % 5 : where % 5 + 1],
        (b"#", b"*", b"!", b"1", b"A", b"|", b" ", b"\xb0", b"\x00")[how % 9],
    )
    return text.replace(theirs, ours, -1 if how % 2 else 20)


def _other_ends(text: bytes, where: int, how: int) -> bytes:
    return text.replace(b"\r", (b"\n", b"\r\n", b"\r\r", b"\n\r", b"")[how % 5])


def _other_set(text: bytes, where: int, how: int) -> bytes:
    """Characters in a set, whatever MSH-18 says."""
    at = where % (len(text) + 1)
    return text[:at] + "中文".encode(("utf-8", "gb18030", "big5", "utf-16", "iso2022_jp_2")[how % 5]) + text[at:]


CHANGES: tuple[Change, ...] = (
    _flip, _put, _cut, _truncate, _drop_segment, _repeat_segment, _swap_segments, _blow_up, _other_marks, _other_ends, _other_set,
)  # fmt: skip

Steps = list[tuple[Change, int, int]]

changes: st.SearchStrategy[Steps] = st.lists(
    st.tuples(st.sampled_from(CHANGES), st.integers(0, 2**20), st.integers(0, 2**20)), min_size=1, max_size=4
)


def changed(text: bytes, steps: Steps) -> bytes:
    """Changed anywhere."""
    for change, where, how in steps:
        text = change(text, where, how)[:MOST_BYTES]
    return ENVELOPE.sub(b"?", text)


def changed_body(text: bytes, steps: Steps) -> bytes:
    """Changed behind the line of MSH."""
    head = head_of(text)
    return head + changed(text[len(head) :], steps)


def head_of(text: bytes) -> bytes:
    """The line of MSH with its end."""
    found = re.match(rb"[^\r\n]*(?:\r\n?|\n)?", text)
    return b"" if found is None else found[0]


def has_other_header(text: bytes) -> bool:
    """Whether something behind the line of MSH makes it several messages, or an answer."""
    return HEADERS.search(text[len(head_of(text)) :]) is not None
