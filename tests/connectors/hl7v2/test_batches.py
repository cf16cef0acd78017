"""Several messages in one frame: how it is cut, and what the answer around the acknowledgements says."""

from __future__ import annotations

import datetime as dt
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7v2.batches import MOST_MESSAGES, TooMany, may_be_several, split_file, write_file

from .conftest import SHANGHAI
from .wire.rows import adt

NOW = dt.datetime(2026, 1, 5, 8, 0, tzinfo=SHANGHAI)
FHS = "FHS|^~\\&|HIS|H1|HB|X|20260105080000||night||F7\r"
BHS = "BHS|^~\\&|HIS|H1|HB|X|20260105080000||||B7\r"
ONE, TWO, THREE = (adt(f"M{n}") for n in (1, 2, 3))


def cut(text: str) -> list[list[str]]:
    """The messages of each batch."""
    payload = text.encode()
    return [[payload[start:stop].decode() for start, stop in batch.spans] for batch in split_file(payload).batches]


@pytest.mark.parametrize(
    ("text", "batches"),
    [
        (ONE + TWO, [[ONE, TWO]]),
        (BHS + ONE + TWO + "BTS|2\r", [[ONE, TWO]]),
        (FHS + BHS + ONE + "BTS|1\r" + BHS + TWO + THREE + "BTS|2\rFTS|2\r", [[ONE], [TWO, THREE]]),
        (FHS + ONE + TWO + "FTS|1\r", [[ONE, TWO]]),
        (BHS + "BTS|0\r", [[]]),
        (BHS + "BTS", [[]]),
        (FHS + "FTS|0\r", []),
        (BHS + ONE + TWO, [[ONE, TWO]]),  # no trailer
        (BHS + "PID|1||9\r" + ONE + "BTS|1\r", [["PID|1||9\r", ONE]]),
        ("hello\r" + ONE + TWO, [["hello\r", ONE, TWO]]),
        ("\r\n" + BHS + ONE + "BTS|1", [[ONE]]),
    ],
)
def test_frame_is_cut_into_batches_and_messages(text: str, batches: list[list[str]]) -> None:
    assert may_be_several(text.encode())
    assert cut(text) == batches


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_frame_is_cut_at_other_line_ends_when_the_peer_uses_them(end: str) -> None:
    text = (BHS + ONE + TWO + "BTS|2\r").replace("\r", end)
    assert cut(text) == [[ONE.replace("\r", end), TWO.replace("\r", end)]]


def test_line_feed_is_content_when_segments_end_with_cr() -> None:
    note = ONE + "NTE|1||one\nMSH|two\r"
    assert cut(note) == [[note]]


def test_byte_order_mark_stays_with_its_message() -> None:
    mark = "\ufeff"
    assert cut(mark + ONE + mark + TWO) == [[mark + ONE, mark + TWO]]
    assert cut(mark + BHS + ONE + "BTS|1\r") == [[ONE]]


def test_ordinary_message_is_not_looked_at_twice() -> None:
    assert not may_be_several(ONE.encode())
    assert not may_be_several(b"")


def test_as_many_messages_are_taken_as_the_limit_says() -> None:
    small = "MSH|^~\\&|A\r"
    assert split_file((small * MOST_MESSAGES).encode()).size == MOST_MESSAGES
    with pytest.raises(TooMany) as refused:
        split_file((BHS + small * (MOST_MESSAGES + 1)).encode())
    assert refused.value.first == len(BHS)


@pytest.mark.parametrize("piece", [b"BHS|\r", b"MSH|^\r", b"BTS\r", b"FHS\n"])
def test_frame_of_nothing_but_headers_is_refused_before_it_takes_memory(piece: bytes) -> None:
    payload = piece * 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(TooMany):
            split_file(payload)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 3 * len(payload)


def test_answer_names_what_it_answers_and_counts_what_it_holds() -> None:
    file = split_file((FHS + BHS + ONE + TWO + "BTS|2\rFTS|1\r").encode())
    lines = write_file(file, [[b"MSH|1\rMSA|AA|M1\r", b"MSH|2\rMSA|AR|M2\r"]], NOW).decode().split("\r")
    assert [line[:3] for line in lines] == ["FHS", "BHS", "MSH", "MSA", "MSH", "MSA", "BTS", "FTS", ""]
    for line, named in ((lines[0], "F7"), (lines[1], "B7")):
        fields = line.split("|")
        assert fields[1:7] == ["^~\\&", "HB", "X", "HIS", "H1", "20260105080000+0800"]  # back to the sender
        assert fields[11] == named  # FHS-12 and BHS-12, the reference to theirs
        assert fields[10] not in ("", named)
    assert lines[6:8] == ["BTS|2", "FTS|1"]


@pytest.mark.parametrize(
    ("trailers", "told"),
    [
        ("BTS|3\rFTS|1\r", ["BTS-1 says 3 and 2 messages came"]),
        ("BTS|2\rFTS|2\r", ["FTS-1 says 2 and 1 batches came"]),
        ("BTS|two\r", ["BTS-1 says no number and 2 messages came"]),
        ("BTS|\rFTS\r", []),
        ("BTS|002|text\rFTS|1\r", []),
    ],
)
def test_wrong_count_is_told(trailers: str, told: list[str]) -> None:
    file = split_file((FHS + BHS + ONE + TWO + trailers).encode())
    assert file.wrong_counts() == told
    answer = write_file(file, [[b"", b""]], NOW).decode()
    for text in told:
        assert f"|{text}\r" in answer


def test_header_is_answered_when_its_delimiters_are_others() -> None:
    file = split_file(b"BHS#*~\\&#H|S#a*b#X#Y#20260105####B^7\rBTS#0\r")
    (header, trailer, _) = write_file(file, [[]], NOW).decode().split("\r")
    assert header.split("|")[2:6] == ["X", "Y", "H\\F\\S", "a^b"]
    assert (header.split("|")[11], trailer) == ("B\\S\\7", "BTS|0")


PIECES = st.sampled_from(
    ["\r", "\n", "FHS|^~\\&|", "BHS", "BTS|9", "FTS|", "MSH|^~\\&|A", "\ufeff", "|", "x", "", "張"]
)


@given(st.lists(PIECES, max_size=40))
def test_every_byte_of_a_message_is_in_one_span_at_most_whatever_came(pieces: list[str]) -> None:
    payload = "".join(pieces).encode()
    file = split_file(payload)
    spans = [span for batch in file.batches for span in batch.spans]
    assert all(0 <= start <= stop <= len(payload) for start, stop in spans)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))
    write_file(file, [[] for _ in file.batches], NOW)


@pytest.mark.parametrize("between", ["", "NTE|1||" + "x" * 20_000 + "\r"])
@pytest.mark.parametrize("second", [TWO, "\ufeff" + TWO, ""])
def test_second_message_is_seen_however_long_the_frame_is(between: str, second: str) -> None:
    assert may_be_several((ONE + between + second).encode()) == bool(second)
