"""A message that could not be stored and may come again is not overtaken by what was sent behind it."""

from __future__ import annotations

import pytest

from .rows import AGAIN, NEVER, STORED, Answer, Await, Pause, Row, Step, accepted, adt, framed, sent
from .runner import check, play

STREAM = tuple(f"M{n}" for n in range(200))
LONG = b"".join(framed(adt(name) + "NTE|1||" + "x" * 8000 + "\r") for name in STREAM)  # far more than is read at once


def put_off(*control_ids: str) -> tuple[Answer, ...]:
    return tuple(Answer("AE", control_id, "207") for control_id in control_ids)


def row(
    name: str, steps: tuple[Step, ...], answers: tuple[Answer, ...], handled: tuple[str, ...], **rest: object
) -> Row:
    return Row(name, "order", steps, answers, handled=handled, **rest)  # type: ignore[arg-type]


ROWS = (
    row(
        "two behind it in the same write",
        (sent("M1", "M2", "M3"),),
        put_off("M1", "M2", "M3"),
        ("M1",),
        counted={"inbound_messages/refused": 3},
        results={"M1": (AGAIN,)},
    ),
    row(
        "all of them again, in their order",
        (sent("M1", "M2", "M3"), Await(3), sent("M1", "M2", "M3")),
        (*put_off("M1", "M2", "M3"), *accepted("M1", "M2", "M3")),
        ("M1", "M1", "M2", "M3"),
        counted={"inbound_messages/refused": 3},
        results={"M1": (AGAIN, STORED)},
    ),
    row(
        "those before it are stored",
        (sent("M1", "M2", "M3"),),
        (*accepted("M1"), *put_off("M2", "M3")),
        ("M1", "M2"),
        counted={"inbound_messages/refused": 2},
        results={"M2": (AGAIN,)},
    ),
    row(
        "a stream that fills every buffer",
        (LONG,),
        put_off(*STREAM),
        ("M0",),
        counted={"inbound_messages/refused": len(STREAM)},
        results={"M0": (AGAIN,)},
    ),
    row(
        "one behind it that has only begun",
        (sent("M1") + sent("M2")[:40], Await(1), sent("M2")[40:], Await(2), sent("M3")),
        (*put_off("M1", "M2"), *accepted("M3")),
        ("M1", "M3"),
        counted={"inbound_messages/refused": 2},
        results={"M1": (AGAIN,)},
    ),
    row(
        "a sender that waits for each answer goes on",
        (sent("M1"), Await(1), sent("M2"), Await(2), sent("M1")),
        (*put_off("M1"), *accepted("M2", "M1")),
        ("M1", "M2", "M1"),
        counted={"inbound_messages/refused": 1},
        results={"M1": (AGAIN, STORED)},
    ),
    row(
        "a rejected one is overtaken: it is not to come again",
        (sent("M1", "M2"),),
        (Answer("AR", "M1", "207"), *accepted("M2")),
        ("M1", "M2"),
        counted={"inbound_messages/refused": 1},
        results={"M1": (NEVER,)},
    ),
    row(
        "one behind it asks for a commit acknowledgement",
        (sent("M1") + framed(adt("M2", accept="AL", application="NE")),),
        (*put_off("M1"), Answer("CE", "M2", "207")),
        ("M1",),
        counted={"inbound_messages/refused": 2},
        results={"M1": (AGAIN,)},
    ),
    row(
        "one behind it asks for none, and is not stored all the same",
        (sent("M1") + framed(adt("M2", accept="NE", application="NE")), Pause(0.5)),
        put_off("M1"),
        ("M1",),
        counted={"inbound_messages/refused": 2},
        results={"M1": (AGAIN,)},
    ),
    row(
        "it asked for no acknowledgement itself",
        (framed(adt("M1", accept="NE", application="NE")) + sent("M2"),),
        put_off("M2"),
        ("M1",),
        counted={"inbound_messages/refused": 2},
        results={"M1": (AGAIN,)},
    ),
    row(
        "an acknowledgement behind it is not answered",
        (sent("M1") + framed("MSH|^~\\&|HIS|H|||20260105||ACK^A08^ACK|9|P|2.5.1\rMSA|AA|1\r") + sent("M2"),),
        put_off("M1", "M2"),
        ("M1",),
        counted={"inbound_messages/refused": 2, "inbound_messages/ignored": 1},
        results={"M1": (AGAIN,)},
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_wire_row_comes_out_when_it_is_played(row: Row) -> None:
    check(row, await play(row))
