"""How messages are wrapped: HL7 v2.5.1 appendix C, "Minimal Lower Layer Protocol", and what peers make of it."""

from __future__ import annotations

import pytest

from .rows import Answer, Row, accepted, adt, framed, sent
from .runner import check, play

M1 = framed(adt("M1"))

ROWS = (
    Row("one message in one write", "framing", (M1,), accepted("M1"), handled=("M1",)),
    Row("one message in two writes", "framing", (M1[:30], M1[30:]), accepted("M1"), handled=("M1",)),
    Row(
        "one message byte by byte",
        "framing",
        tuple(M1[n : n + 1] for n in range(len(M1))),
        accepted("M1"),
        handled=("M1",),
    ),
    Row("two messages in one write", "framing", (sent("M1", "M2"),), accepted("M1", "M2"), handled=("M1", "M2")),
    Row(
        "the end of one and the beginning of the next in one write",
        "framing",
        (M1[:-20], M1[-20:] + sent("M2")[:40], sent("M2")[40:]),
        accepted("M1", "M2"),
        handled=("M1", "M2"),
    ),
    Row("CR cut off from FS", "framing", (M1[:-1], M1[-1:] + sent("M2")), accepted("M1", "M2"), handled=("M1", "M2")),
    Row("FS without CR", "framing", (M1[:-1] + sent("M2"),), accepted("M1", "M2"), handled=("M1", "M2")),
    Row("FS and LF", "framing", (M1[:-1] + b"\n" + sent("M2"),), accepted("M1", "M2"), handled=("M1", "M2")),
    Row("FS and CRLF", "framing", (M1 + b"\n" + sent("M2"),), accepted("M1", "M2"), handled=("M1", "M2")),
    Row(
        "junk between two messages",
        "framing",
        (M1 + b"hello" + sent("M2"),),
        accepted("M1", "M2"),
        handled=("M1", "M2"),
        counted={"inbound_messages/unreadable": 1},
    ),
    Row(
        "a message that has no end",
        "framing",
        (framed(adt("M1"), end=b"") + sent("M2"),),
        accepted("M2"),
        handled=("M2",),
        counted={"inbound_messages/unreadable": 1},
    ),
    Row(
        "a frame that holds no message",
        "framing",
        (framed("hello"),),
        (Answer("AR", "", "100"),),
        counted={"inbound_messages/unreadable": 1},
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_wire_row_comes_out_when_it_is_played(row: Row) -> None:
    check(row, await play(row))
