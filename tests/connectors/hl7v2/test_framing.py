"""MLLP framing: whatever the reads are, the same messages come out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7v2.framing import HEAD_BYTES, Deframer, Frame, FrameEvent, FrameTooLarge, FrameTruncated, Junk, frame

PAYLOAD = st.binary(max_size=40).map(lambda data: data.replace(b"\x0b", b"").replace(b"\x1c", b""))
JUNK = st.binary(min_size=1, max_size=10).map(lambda data: b"x" + data.replace(b"\x0b", b"").replace(b"\x1c", b""))


def feed(deframer: Deframer, *reads: bytes) -> list[FrameEvent]:
    return [event for data in reads for event in deframer.feed(data)]


@given(st.lists(PAYLOAD, max_size=6), st.lists(st.integers(0, 300), max_size=12))
def test_messages_come_out_whole_when_the_stream_is_cut_anywhere(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frame(payload) for payload in payloads)
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    reads = [stream[start:stop] for start, stop in pairwise(places)]
    assert feed(Deframer(1000), *reads) == [Frame(payload) for payload in payloads]


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
    assert len(events) == 2
    assert isinstance(events[0], FrameTooLarge)
    assert events[0].head.startswith(head)
    assert len(events[0].head) == HEAD_BYTES
    assert events[1] == Frame(b"next")


def test_frame_may_have_exactly_the_limit() -> None:
    assert feed(Deframer(4), frame(b"1234")) == [Frame(b"1234")]
    assert feed(Deframer(4), frame(b"12345")) == [FrameTooLarge(b"12345")]


def test_first_message_is_truncated_when_a_second_begins_inside_it() -> None:
    assert feed(Deframer(100), b"\x0babc", b"\x0bdef\x1c\r") == [FrameTruncated(3), Frame(b"def")]


def test_too_large_frame_gives_way_when_a_new_message_begins() -> None:
    assert feed(Deframer(3), b"\x0babcdefgh\x0bok\x1c\r") == [FrameTruncated(8), Frame(b"ok")]
    deframer = Deframer(3)
    assert feed(deframer, b"\x0babcdefgh") == [FrameTooLarge(b"abcdefgh")]
    assert feed(deframer, b"\x0bok\x1c\r") == [Frame(b"ok")]


def test_open_frame_is_known_while_its_end_is_missing() -> None:
    deframer = Deframer(100)
    seen = [deframer.in_frame]
    for data in (b"\x0babc", b"\x1c"):
        feed(deframer, data)
        seen.append(deframer.in_frame)
    assert seen == [False, True, False]
