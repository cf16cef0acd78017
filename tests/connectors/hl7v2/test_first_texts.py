"""The short way to the first text at a path gives what the long way gives, whatever the message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7v2 import er7, segments
from connectors.hl7v2.escapes import STANDARD
from connectors.hl7v2.paths import ER7Paths

PATHS = ER7Paths()
SHORT = (
    "MSH-7",
    "MSH-9.2",
    "PID-3",
    "PID-3.1",
    "PID-3.4.2",
    "PID-3[5=MR].1",
    "PID-3[5=MR]",
    "PID-3[4.2=x].1.2",
    "PV1-2",
    "PID-3(*)",
    "PID-3(*).2",
    "PID-3(*).1.2",
    "PID(*)-3",
    "PID(*)-3.2",
    "PID(*)-3 until PV1",
    "PID(*)-3 until PID",
    "ZZZ(*)-3",
    "ZZZ-1",
)
LONG = (
    "MSH-1",
    "MSH-2",
    "/PID-3.1",
    "<PID-3.1",
    "PID-3(2).1",
    "PID-3[5=MR](*)",
    "PID[3=x]-5",
    "PID(2)-3",
    "PID[3=x](*)-1",
    "PV1-2 until PID",
)
MARKS = ("|^~\\&", "|^~\\", "|^", "#*!?%")

piece = st.text('ab5MRx |^~\\&"#*!?%FST甲', max_size=12)


@pytest.mark.parametrize("long", [0, segments.LONG], ids=["long", "short"])
@given(marks=st.sampled_from(MARKS), fields=st.lists(piece, max_size=6), more=st.lists(piece, max_size=6))
def test_first_text_is_that_of_all_nodes_when_it_is_looked_for_by_the_short_way(
    long: int, marks: str, fields: list[str], more: list[str]
) -> None:
    """`long`: from how many characters on a segment is not split: the two ways must read the same."""
    bar = marks[0]
    lines = [f"MSH{bar}{marks[1:]}{bar}A{bar}B{bar}C{bar}D{bar}2031", *(bar.join(("PID", *f)) for f in (fields, more))]
    text = "\r".join(line for line in lines if line[3:4] in ("", bar)) + "\r"
    for path in SHORT:
        find = PATHS.compile(path)
        message = er7.parse(text)
        texts = [PATHS.text(node) for node in find(message, message)]
        expected = next((text for text in texts if text and not text.isspace()), None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(segments, "LONG", long)
            other = er7.parse(text)
            assert find.first(other, other) == expected, path  # type: ignore[attr-defined]
            assert [PATHS.text(node) for node in find(other, other)] == texts, path


@given(raw=piece)
def test_first_text_of_a_part_is_that_of_the_long_way(raw: str) -> None:
    node = segments.Repetition(raw, STANDARD)
    for path in (".1", ".2", ".1.2"):
        find = PATHS.compile(path)
        expected = next((text for text in find(None, node) if not text.isspace()), None)
        assert find.first(None, node) == expected, path  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", LONG)
def test_path_has_no_short_way_when_it_means_more_than_a_field_of_the_first_segment(path: str) -> None:
    assert not hasattr(PATHS.compile(path), "first")


@given(
    st.lists(st.sampled_from(["PID|1", "PV1|2", "ZZZ", "NTE", "", " ", "pid|1", "PID^1", "P"]), max_size=6),
    st.booleans(),
)
def test_message_reads_the_same_when_it_is_taken_by_the_short_way(lines: list[str], ended: bool) -> None:
    """A line end of the other kind, added at the end, makes the reader take the long way."""
    text = "\r".join(["MSH|^~\\&|A", *lines]) + ("\r" if ended else "")

    def read(what: str) -> object:
        try:
            message = er7.parse(what)
        except er7.ER7Error as error:
            return (str(error), error.code)
        return ([segment.raw for segment in message.segments], message.render().rstrip("\r\n"))

    assert read(text) == read(text + "\r\n" * (not ended) + "\r\n")
