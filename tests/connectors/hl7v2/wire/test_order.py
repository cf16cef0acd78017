"""In which order messages are dealt with: as they come, and by their own numbers (HL7 v2.5.1 ch. 2.10.1, MSH-13 and MSA-4)."""

from __future__ import annotations

import dataclasses

import pytest

from connectors.port import Refused, Stored

from .rows import AGAIN, PID, STORED, Answer, Await, Row, accepted, adt, framed, sent
from .runner import check, play

CHECK = {"sequence": "check"}
REFUSED = {"inbound_messages/refused": 1}
NOT_NEXT = Refused(code="out_of_series", text="not next", retryable=True, out_of_series=True, expected=8)


def numbered(number: str, control_id: str = "M1", *, mode: str = "P", kind: str = "ADT^A08") -> bytes:
    return framed(adt(control_id, sequence=number, mode=mode, kind=kind))


def expecting(
    number: str, code: str = "AA", named: str = "M1", error: str | None = None, place: str | None = None
) -> Answer:
    """An answer with MSA-4."""
    return Answer(code, named, error, place, fields=(("MSA", 4, 1, number),))


ROWS = (
    Row(
        "ten messages in one write",
        "order",
        (sent(*(f"M{n}" for n in range(10))),),
        accepted(*(f"M{n}" for n in range(10))),
        handled=tuple(f"M{n}" for n in range(10)),
    ),
    Row(
        "an error does not let the next one pass it by",
        "order",
        (sent("M1", "M2"), Await(2), sent("M1", "M2")),
        (Answer("AE", "M1", "207"), Answer("AE", "M2", "207"), *accepted("M1", "M2")),
        handled=("M1", "M1", "M2"),
        counted={"inbound_messages/refused": 2},
        results={"M1": (AGAIN, STORED)},
    ),
    Row(
        "commit and application answers of two messages",
        "order",
        (framed(adt("M1", accept="AL", application="AL")) + framed(adt("M2", accept="AL", application="AL")),),
        tuple(Answer(code, name) for name in ("M1", "M2") for code in ("CA", "AA")),
        handled=("M1", "M2"),
    ),
    Row(
        "a rejected one between two",
        "order",
        (sent("M1") + framed(adt("M2", mode="T")) + sent("M3"),),
        (Answer("AA", "M1"), Answer("AR", "M2", "202", "MSH^1^11"), Answer("AA", "M3")),
        handled=("M1", "M3"),
        counted=REFUSED,
    ),
    Row(
        "a repeat gets the first answer",
        "order",
        (sent("M1", "M1"),),
        accepted("M1", "M1"),
        handled=("M1", "M1"),
        counted={"inbound_messages/duplicate": 1},
        results={"M1": (STORED, Stored(duplicate=True))},
    ),
    Row(
        "another message of the same control id",
        "order",
        (sent("M1"),),
        accepted("M1"),
        handled=("M1",),
        counted={"inbound_oddities/same_id": 1},
        results={"M1": (Stored(same_id=True),)},
    ),
    Row(
        "a small message does not pass a large one by",
        "order",
        (framed(adt("BIG", body="PID|1||100^^^H^MR||Z\r" + "NTE|1||" + "x" * 300_000 + "\r")) + sent("M2"),),
        accepted("BIG", "M2"),
        handled=("BIG", "M2"),
    ),
    Row("numbers are not looked at", "order", (numbered("x"),), (expecting(""),), handled=("M1",)),
    Row(
        "the next number",
        "order",
        (numbered("7"),),
        (expecting("7"),),
        handled=("M1",),
        results={"M1": (Stored(expected=7),)},
        options=CHECK,
    ),
    Row(
        "a number after a gap",
        "order",
        (numbered("9"),),
        (expecting("8", "AE", "M1", "207", "MSH^1^13"),),
        handled=("M1",),
        counted={**REFUSED, "inbound_oddities/out_of_series": 1},
        results={"M1": (NOT_NEXT,)},
        options=CHECK,
    ),
    Row(
        "a repeated number",
        "order",
        (numbered("7"),),
        (expecting("8"),),
        handled=("M1",),
        counted={"inbound_messages/duplicate": 1},
        results={"M1": (Stored(duplicate=True, expected=8),)},
        options=CHECK,
    ),
    Row(
        "the question where we stand, of a header alone",
        "order",
        (framed(adt("M1", sequence="0", body="")),),
        (expecting("8"),),
        handled=("M1",),
        counted={"inbound_messages/ignored": 1},
        results={"M1": (Stored(expected=8),)},
        options=CHECK,
    ),
    Row(
        "a new beginning",
        "order",
        (framed(adt("M1", sequence="-1", body="")),),
        (expecting("-1"),),
        handled=("M1",),
        counted={"inbound_messages/ignored": 1, "inbound_oddities/series_anew": 1},
        results={"M1": (Stored(expected=-1),)},
        options=CHECK,
    ),
    Row(
        "a rejected message whose number passes",
        "order",
        (numbered("7", mode="T"),),
        (expecting("7", "AR", "M1", "202", "MSH^1^11"),),
        handled=("M1",),
        counted=REFUSED,
        results={"M1": (Stored(expected=7),)},
        options=CHECK,
    ),
    Row(
        "a message that is too large, whose number passes",
        "order",
        (framed(adt("M1", sequence="7", body=PID * 100)),),
        (expecting("7", "AR", "M1", "207"),),
        handled=("M1",),
        counted=REFUSED,
        results={"M1": (Stored(expected=7),)},
        options={**CHECK, "max_message_bytes": 1000},
    ),
    Row(
        "a message in a set that is refused, whose number passes",
        "order",
        (framed(adt("M1", sequence="7", charset="KLINGON")),),
        (expecting("7", "AR", "M1", "102", "MSH^1^18"),),
        handled=("M1",),
        counted=REFUSED,
        results={"M1": (Stored(expected=7),)},
        options=CHECK,
    ),
    Row(
        "a rejected message whose number could not be kept comes again",
        "order",
        (numbered("7", mode="T"),),
        (expecting("", "AE", "M1", "207"),),
        handled=("M1",),
        counted=REFUSED,
        results={"M1": (AGAIN,)},
        options=CHECK,
    ),
    Row(
        "what is no number",
        "order",
        (numbered("seven"),),
        (expecting("", "AR", "M1", "102", "MSH^1^13"),),
        counted=REFUSED,
        options=CHECK,
    ),
    Row(
        "no number where numbers are checked", "order", (sent("M1"),), (expecting(""),), handled=("M1",), options=CHECK
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_wire_row_comes_out_when_it_is_played(row: Row) -> None:
    check(row, await play(row))


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.name == "the question where we stand, of a header alone"], ids=str
)
async def test_question_is_answered_when_its_type_is_one_that_nobody_maps(row: Row) -> None:
    message = framed(adt("M1", sequence="0", body="", kind="ZZZ^Z01"))
    check(row, await play(dataclasses.replace(row, steps=(message,))))
