"""How messages are wrapped: HL7 v2.5.1 appendix C, "Minimal Lower Layer Protocol", and what peers make of it."""

from __future__ import annotations

import pytest

from .rows import Answer, Pause, Row, accepted, adt, framed, sent
from .runner import check, play

M1 = framed(adt("M1"))
BOM = b"\xef\xbb\xbf"
LONG = framed(adt("M1") + "NTE|1||" + "x" * 300_000 + "\r")

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
        "junk that comes in two reads",
        "framing",
        (b"hello", Pause(0.2), b"hello" + M1),
        accepted("M1"),
        handled=("M1",),
        counted={"inbound_messages/unreadable": 2},
    ),
    Row("line ends before the first message", "framing", (b"\r\n\r\n" + M1,), accepted("M1"), handled=("M1",)),
    Row(
        "FS twice",
        "framing",
        (M1[:-1] + b"\x1c\r" + sent("M2"),),
        accepted("M1", "M2"),
        handled=("M1", "M2"),
        counted={"inbound_messages/unreadable": 1},
    ),
    Row(
        "VT twice",
        "framing",
        (b"\x0b" + M1,),
        accepted("M1"),
        handled=("M1",),
        counted={"inbound_messages/unreadable": 1},
    ),
    Row(
        "zeros between two messages",
        "framing",
        (M1 + bytes(20) + sent("M2"),),
        accepted("M1", "M2"),
        handled=("M1", "M2"),
        counted={"inbound_messages/unreadable": 1},
    ),
    Row(
        "a byte-order mark before VT",
        "framing",
        (BOM + M1 + BOM + sent("M2"),),
        accepted("M1", "M2"),
        handled=("M1", "M2"),
    ),
    Row(
        "a byte-order mark before MSH", "framing", (framed(BOM + adt("M1").encode()),), accepted("M1"), handled=("M1",)
    ),
    Row(
        "half a byte-order mark in each write",
        "framing",
        (BOM[:1], Pause(0.1), BOM[1:] + M1),
        accepted("M1"),
        handled=("M1",),
    ),
    Row("line ends before MSH", "framing", (framed("\r\n\n" + adt("M1")),), accepted("M1"), handled=("M1",)),
    Row(
        "a byte-order mark and a line end before MSH",
        "framing",
        (framed(BOM + b"\r\n" + adt("M1").encode()),),
        accepted("M1"),
        handled=("M1",),
    ),
    Row(
        "line ends before the first of two in one frame",
        "framing",
        (framed(BOM + b"\r\n" + adt("M1").encode() + adt("M2").encode()),),
        accepted("M1", "M2"),
        handled=("M1", "M2"),
    ),
    Row("LF as segment end", "framing", (framed(adt("M1").replace("\r", "\n")),), accepted("M1"), handled=("M1",)),
    Row("CRLF as segment end", "framing", (framed(adt("M1").replace("\r", "\r\n")),), accepted("M1"), handled=("M1",)),
    Row("no end of the last segment", "framing", (framed(adt("M1").rstrip("\r")),), accepted("M1"), handled=("M1",)),
    Row(
        "blank lines after the last segment",
        "framing",
        (framed(adt("M1") + "\r\r\n"),),
        accepted("M1"),
        handled=("M1",),
    ),
    Row(
        "an empty frame",
        "framing",
        (framed("") + M1,),
        accepted("M1"),
        handled=("M1",),
        counted={"inbound_messages/ignored": 1},
    ),
    Row(
        "frames with nothing but line ends and a byte-order mark",
        "framing",
        (framed("\r"), framed("\r\n") + framed(BOM), M1),
        accepted("M1"),
        handled=("M1",),
        counted={"inbound_messages/ignored": 3},
    ),
    Row(
        "a message given up in its middle",
        "framing",
        (M1[:40], sent("M2")),
        accepted("M2"),
        handled=("M2",),
        counted={"inbound_messages/unreadable": 1},
    ),
    Row(
        "three messages given up in one write",
        "framing",
        (M1[:40] + M1[:50] + M1[:60] + sent("M2"),),
        accepted("M2"),
        handled=("M2",),
        counted={"inbound_messages/unreadable": 1},
    ),
    Row(
        "fifty messages in one write",
        "framing",
        (sent(*(f"M{n}" for n in range(50))),),
        accepted(*(f"M{n}" for n in range(50))),
        handled=tuple(f"M{n}" for n in range(50)),
    ),
    Row(
        "a message of 300 KB in pieces of 1 KB",
        "framing",
        tuple(LONG[n : n + 1024] for n in range(0, len(LONG), 1024)),
        accepted("M1"),
        handled=("M1",),
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
