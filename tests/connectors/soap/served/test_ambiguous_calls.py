"""Calls in which two things could be meant: what was checked must be what is read, so that none is taken."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from mappings.profile import ProfileError

from .his import PLATFORM, call, document, envelope, made, served

STOP = "<ORDER_ID>20260105000000000001</ORDER_ID>"
OTHER = "<ORDER_ID>20260105000000000002</ORDER_ID>"


async def test_call_is_a_fault_when_two_operations_stand_in_the_body(tmp_path: Path) -> None:
    good, second = call("5001", STOP).decode(), call("5001", OTHER).decode()
    inside = second[second.index("<PubService") : second.index("</s:Body>")]
    async with served(tmp_path) as us:
        said = await us.post(good.replace("</s:Body>", f"{inside}</s:Body>").encode())
        assert said.status == 500
        assert b"the Body must have one element" in said.body
        assert us.desk.asked == 0


async def test_call_is_unreadable_when_its_argument_stands_there_twice(tmp_path: Path) -> None:
    inner = "".join(f"<xml>{escape(document('5001', order))}</xml>" for order in (STOP, OTHER))
    async with served(tmp_path) as us:
        said = await us.post(envelope(inner).encode())
        assert (said.status, said.code) == (200, "10")
        assert us.desk.asked == 0


def test_profile_is_refused_when_it_answers_questions_of_whoever_asks(tmp_path: Path) -> None:
    question = (
        "    questions:\n      '5006':\n        ask: {record: RefundQuestion, fields: {order_no: {from: //ORDER_ID}}}\n"
        "        tree: {RES: {ID: {from: id, absent: empty}}}\n    answer:\n"
    )
    guarded = PLATFORM.replace("    answer:\n", question)
    assert made(tmp_path, guarded)
    lines = [line for line in guarded.splitlines() if not line.startswith("    sign:")]
    with pytest.raises(ProfileError, match=r"questions.5006: questions are answered only to who shows who it is"):
        made(tmp_path, "\n".join(lines))
