r"""Escape sequences, both ways and in the message's own delimiters (v2.5.1 ch. 2.7; v2.7 ch. 2.5.5.2 for \P\)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7v2.charset import decode_message
from connectors.hl7v2.er7 import parse
from connectors.hl7v2.escapes import MAX_BREAKS, STANDARD, Delimiters

HEADERS = ("MSH|^~\\&|", "MSH#*~!@#", "MSH|^~\\&#|", "MSH$%?/+_$", "MSH|^~\\&", "MSH|^~\\|")
texts = st.text(
    alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]) | st.sampled_from("|^~\\&#*!@%?/+_$XEFH.")
)


def marks_of(header: str) -> Delimiters:
    marks = Delimiters.of_header(header)
    assert marks is not None
    return marks


@pytest.mark.parametrize("header", HEADERS)
@given(text=texts)
def test_text_comes_back_when_it_is_escaped_and_read(header: str, text: str) -> None:
    """All of it, control characters too; only the three kinds of line end become one, the line break of the standard."""
    marks = marks_of(header)
    written = marks.escaped(text)
    assert marks.unescape(written) == text.replace("\r\n", "\n").replace("\r", "\n")
    cutting = {marks.field, marks.component, marks.repetition, marks.subcomponent, marks.truncation} - {""}
    assert not cutting & set(written)
    assert not any(ord(character) < 32 and character != "\t" for character in written)


@pytest.mark.parametrize("header", ["MSH|^~|", "MSH|^|"])
@given(text=texts)
def test_text_is_refused_when_it_needs_an_escape_and_the_message_has_none(header: str, text: str) -> None:
    marks = marks_of(header)
    if set(text) & {"|", "^", marks.repetition} or any(ord(c) < 32 and c != "\t" for c in text):
        with pytest.raises(ValueError, match="declares no escape character"):
            marks.escaped(text)
    else:
        assert marks.escaped(text) == text


@pytest.mark.parametrize(
    ("written", "meaning"),
    [
        ("\\F\\\\S\\\\T\\\\R\\\\E\\", "|^&~\\"),
        ("\\H\\bold\\N\\ plain", "bold plain"),
        ("one\\.br\\two\\.sp2\\three\\.ce\\four", "one\ntwo\n\nthree\nfour"),
        ("one\\.sp+2\\two", "one\n\ntwo"),
        ("one\\.sk3\\two\\.sk 1\\three", "one   two three"),
        ("\\.in+4\\\\.ti-2\\\\.fi\\\\.nf\\text", "text"),
        ("\\X41\\\\X4243\\\\x41\\", "ABC\\x41\\"),
        ("\\XE5BCA0\\", "张"),
        ("\\XFF\\\\X4\\\\X\\\\XZZ\\", "\\XFF\\\\X4\\\\X\\\\XZZ\\"),
        ("\\C2842\\\\M244C31\\\\Zlocal\\", "\\C2842\\\\M244C31\\\\Zlocal\\"),  # kept: nobody here knows what they mean
        ("\\P\\", "\\P\\"),  # this message declares no truncation character
        ("50\\ of 100\\", "50\\ of 100\\"),
        ("C:\\\\F\\x", "C:\\|x"),
        ("\\\\", "\\\\"),
        ("\\.sp999999999\\", "\n" * MAX_BREAKS),
        ("\\.sk999999999\\", " " * MAX_BREAKS),
    ],
)
def test_sequence_means_what_the_standard_says(written: str, meaning: str) -> None:
    assert STANDARD.unescape(written) == meaning


def test_sequences_are_those_of_the_message_when_it_declares_other_delimiters() -> None:
    message = parse("MSH#*~!@#A\rNTE#1##!F!!S!!R!!E!!T! \\F\\ |^#x\r")
    assert message.value("NTE", 3) == "#*~!@ \\F\\ |^"


def test_truncation_character_cuts_nothing_when_a_v27_message_declares_it() -> None:
    message = parse("MSH|^~\\&#|A\rNTE|1||long tex#|\\P\\1|\\L\\2\r")
    assert [message.value("NTE", n) for n in (3, 4, 5)] == ["long tex#", "#1", "#2"]


@pytest.mark.parametrize(
    ("label", "name", "spelled"),
    [
        ("GBK", "张伟", "D5C5CEB0"),
        ("GB 18030-2000", "喆", "86B4"),
        ("BIG-5", "張", "B169"),
        ("8859/1", "é", "E9"),
        ("UNICODE UTF-8", "张", "E5BCA0"),
        ("GBK", "张", "E5BCA0"),  # no bytes of GBK: spelled in UTF-8 all the same
        ("ASCII", "张", "E5BCA0"),
    ],
)
def test_bytes_are_of_the_messages_character_set_when_they_are_escaped(label: str, name: str, spelled: str) -> None:
    raw = f"MSH|^~\\&|A|B|C|D|20260105||ADT^A08|1|P|2.5.1||||||{label}\rPID|1||9||\\X{spelled}\\\r".encode()
    decoded = decode_message(raw)
    assert parse(decoded.text, decoded.codec).value("PID", 5) == name
