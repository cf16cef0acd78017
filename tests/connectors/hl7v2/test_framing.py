"""MLLP framing: whatever the reads are, the same messages come out."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7v2.framing import (
    EMPTY_AT_ONCE,
    HEAD_BYTES,
    Deframer,
    Frame,
    FrameEmpty,
    FrameEvent,
    FrameTooLarge,
    FrameTruncated,
    Junk,
    frame,
)

ENVELOPE = bytes([0x0B, 0x1C])
BLANK = b"\r\n\xef\xbb\xbf"  # line ends and the bytes of a byte-order mark: no message and no junk
PAYLOAD = st.binary(max_size=40).map(lambda data: b"M" + data.translate(None, ENVELOPE))
JUNK = st.binary(min_size=1, max_size=10).map(lambda data: b"x" + data.translate(None, ENVELOPE + BLANK))
STREAM = st.lists(
    st.one_of(PAYLOAD.map(frame), JUNK, st.sampled_from([b"\x0b", b"\x1c", b"\r", BLANK, frame(b""), frame(BLANK)]))
).map(b"".join)


def feed(deframer: Deframer, *reads: bytes) -> list[FrameEvent]:
    return [event for data in reads for event in deframer.feed(data)]


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(place, len(stream)) for place in cuts} | {0, len(stream)})
    return [stream[start:stop] for start, stop in pairwise(places)]


def summed(events: list[FrameEvent]) -> tuple[list[FrameEvent], list[int]]:
    """The messages in their order, and what was dropped: it is told once per read, so that only its sums stay the same."""
    messages: list[FrameEvent] = [event for event in events if isinstance(event, Frame | FrameTooLarge)]
    truncated = [event for event in events if isinstance(event, FrameTruncated)]
    return messages, [
        sum(event.size for event in truncated),
        sum(event.count for event in truncated),
        sum(event.count for event in events if isinstance(event, FrameEmpty)),
        sum(event.size for event in events if isinstance(event, Junk)),
    ]


@given(st.lists(PAYLOAD, max_size=6), st.lists(st.integers(0, 300), max_size=12))
def test_messages_come_out_whole_when_the_stream_is_cut_anywhere(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frame(payload) for payload in payloads)
    assert feed(Deframer(1000), *cut(stream, cuts)) == [Frame(payload) for payload in payloads]


@given(STREAM, st.lists(st.integers(0, 400), max_size=20), st.integers(1, 60))
def test_the_same_comes_out_of_the_same_bytes_when_they_are_read_differently(
    stream: bytes, cuts: list[int], max_bytes: int
) -> None:
    whole = summed(feed(Deframer(max_bytes), stream))
    assert summed(feed(Deframer(max_bytes), *cut(stream, cuts))) == whole
    assert summed(feed(Deframer(max_bytes), *(stream[n : n + 1] for n in range(len(stream))))) == whole


@given(st.lists(st.tuples(JUNK, PAYLOAD), max_size=5))
def test_junk_is_counted_and_costs_no_message_when_it_stands_between_frames(parts: list[tuple[bytes, bytes]]) -> None:
    stream = b"".join(junk + frame(payload) for junk, payload in parts)
    events = feed(Deframer(1000), stream)
    assert [event for event in events if isinstance(event, Frame)] == [Frame(payload) for _, payload in parts]
    assert sum(event.size for event in events if isinstance(event, Junk)) == sum(len(junk) for junk, _ in parts)


@given(st.binary(max_size=200))
def test_nothing_is_raised_and_nothing_grows_when_the_bytes_are_arbitrary(data: bytes) -> None:
    deframer = Deframer(16)
    for event in feed(deframer, data):
        if isinstance(event, Frame):
            assert len(event.payload) <= 16
    assert len(deframer._buffer) <= 16


@pytest.mark.parametrize("end", [b"\x1c\r", b"\x1c\r\n", b"\x1c", b"\x1c\n"])
def test_frame_ends_when_the_end_is_written_in_a_common_wrong_way(end: bytes) -> None:
    deframer = Deframer(100)
    assert feed(deframer, b"\x0bone" + end + b"\x0btwo" + end) == [Frame(b"one"), Frame(b"two")]


def test_frame_is_too_large_once_and_the_next_one_is_read_when_it_passes_the_limit() -> None:
    deframer = Deframer(10_000)
    head = b"MSH|^~\\&|A|B|C|D|||ADT^A08|77|P|2.5\r"
    reads = [b"\x0b" + head, *[b"x" * 1000] * 50, b"\x1c\r" + frame(b"next")]
    events: list[FrameEvent] = []
    for data in reads:
        events += feed(deframer, data)
        assert len(deframer._buffer) <= 10_000
    assert events == [FrameTooLarge((head + b"x" * HEAD_BYTES)[:HEAD_BYTES], len(head) + 50_000), Frame(b"next")]


def test_frame_may_have_exactly_the_limit() -> None:
    assert feed(Deframer(4), frame(b"1234")) == [Frame(b"1234")]
    assert feed(Deframer(4), frame(b"123\r5")) == [FrameTooLarge(b"123\r5", 5)]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_head_ends_with_a_whole_field_when_the_first_segment_is_longer_than_it(start: bytes) -> None:
    """Half of MSH-10 would be the control id of another message."""
    top = start + b"MSH|^~\\&|" + b"A" * (HEAD_BYTES - 30) + b"||||||ADT^A08"
    (event,) = feed(Deframer(5000), frame(top + b"|" + b"7" * 1000 + b"|P|2.5\r"))
    assert isinstance(event, FrameTooLarge)
    assert event.head == top


def test_first_message_is_truncated_when_a_second_begins_inside_it() -> None:
    assert feed(Deframer(100), b"\x0babc", b"\x0bdef\x1c\r") == [Frame(b"def"), FrameTruncated(3)]


def test_too_large_frame_gives_way_when_a_new_message_begins() -> None:
    assert feed(Deframer(3), b"\x0babcdefgh\x0bok\x1c\r") == [Frame(b"ok"), FrameTruncated(8)]
    deframer = Deframer(3)
    assert feed(deframer, b"\x0babcdefgh") == []
    assert feed(deframer, b"\x0bok\x1c\r") == [Frame(b"ok"), FrameTruncated(8)]


def test_flood_of_beginnings_is_told_once_for_each_read() -> None:
    deframer = Deframer(1000)
    assert feed(deframer, b"\x0b" * 10_000) == [FrameTruncated(0, 9_999)]
    assert feed(deframer, b"ab\x0bc\x0b") == [FrameTruncated(3, 2)]
    assert feed(deframer, b"ok\x1c\r") == [Frame(b"ok")]


@pytest.mark.parametrize("content", [b"", b"\r", b"\n", b"\r\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r"])
def test_frame_is_empty_when_there_is_no_message_in_it(content: bytes) -> None:
    assert feed(Deframer(100), frame(content) * 3 + frame(b"M")) == [Frame(b"M"), FrameEmpty(3)]


def test_consumer_comes_to_its_turn_when_a_read_holds_nothing_but_empty_frames() -> None:
    times, rest = divmod(1000, EMPTY_AT_ONCE)
    told = [FrameEmpty(EMPTY_AT_ONCE)] * times + [FrameEmpty(rest)]
    assert feed(Deframer(100), frame(b"") * 1000 + frame(b"M")) == [*told[:-1], Frame(b"M"), told[-1]]


def test_mark_of_utf_8_and_line_ends_are_no_junk_when_they_stand_before_a_frame() -> None:
    one = b"\xef\xbb\xbf" + frame(b"M") + b"\r\n"
    assert feed(Deframer(100), one + one, one[:1], one[1:]) == [Frame(b"M")] * 3


def test_memory_stays_small_when_a_message_without_an_end_comes_in_tiny_reads() -> None:
    deframer = Deframer(100_000)
    tracemalloc.start()
    try:
        feed(deframer, b"\x0b")
        for _ in range(80_000):
            feed(deframer, b"xy")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10_000  # of 160,000 bytes the head is kept
    assert peak < 400_000  # and what was kept until the limit was passed was kept once


def test_open_frame_is_known_while_its_end_is_missing() -> None:
    deframer = Deframer(100)
    seen = [deframer.in_frame]
    for data in (b"\x0babc", b"\x1c"):
        feed(deframer, data)
        seen.append(deframer.in_frame)
    assert seen == [False, True, False]
