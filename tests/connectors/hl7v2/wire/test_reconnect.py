"""Connections to the HIS that end, and what that means for a request: not sent, in doubt, or nothing at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from .his import DONE, Hear, HearPart, HisRow, answer, check, play, unknown
from .rows import Close, HalfClose, Pause, Reset

GROUP = "reconnect"
CLOSED = unknown("connection closed by the HIS")
RESET = unknown("connection lost: ConnectionResetError")
TIMED_OUT = unknown("no answer within the time-out")
GOOD = (Hear(), answer())

ROWS = (
    HisRow("one connection for all", GROUP, ((*GOOD, *GOOD, *GOOD),), (DONE, DONE, DONE), heard=3, connections=1),
    HisRow("closed while nothing was asked", GROUP, ((*GOOD, Close()),), (DONE, DONE), 2, 2, pauses_s=0.2),
    HisRow("reset while nothing was asked", GROUP, ((*GOOD, Reset()),), (DONE, DONE), 2, 2, pauses_s=0.2),
    HisRow("half closed while nothing was asked", GROUP, ((*GOOD, HalfClose()),), (DONE, DONE), 2, 2, pauses_s=0.2),
    HisRow("closed after each answer", GROUP, ((*GOOD, Close()),) * 3, (DONE, DONE, DONE), 3, 3, pauses_s=0.1),
    HisRow("closed inside the request", GROUP, ((HearPart(), Close()),), (CLOSED, DONE), 1, 2),
    HisRow("reset inside the request", GROUP, ((HearPart(), Reset()),), (RESET, DONE), 1, 2),
    HisRow("closed after the request", GROUP, ((Hear(), Close()),), (CLOSED, DONE), 2, 2),
    HisRow("reset after the request", GROUP, ((Hear(), Reset()),), (RESET, DONE), 2, 2),
    HisRow(
        "half closed after the request, and no answer", GROUP, ((Hear(), HalfClose(), Pause(5)),), (CLOSED, DONE), 2, 2
    ),
    HisRow("closed inside the answer", GROUP, ((Hear(), answer()[:60], Close()),), (CLOSED, DONE), 2, 2),
    HisRow("reset inside the answer", GROUP, ((Hear(), answer()[:60], Reset()),), (RESET, DONE), 2, 2),
    HisRow(
        "an answer that begins and does not end", GROUP, ((Hear(), answer()[:60], Pause(5)),), (TIMED_OUT, DONE), 2, 2
    ),
    HisRow(
        "an answer that does not end within the time of a frame",
        GROUP,
        ((Hear(), answer()[:60], Pause(5)),),
        (unknown("a message that had begun did not end"), DONE),
        2,
        2,
        options={"frame_timeout_s": 0.2},
    ),
    HisRow("no answer, and another connection for the next", GROUP, ((Hear(), Pause(5)),), (TIMED_OUT, DONE), 2, 2),
    HisRow(
        "a connection for each message",
        GROUP,
        (GOOD, GOOD, GOOD),
        (DONE, DONE, DONE),
        3,
        3,
        options={"persistent": False},
    ),
    HisRow(
        "a connection for each message, closed by the HIS first",
        GROUP,
        ((*GOOD, Close()),) * 3,
        (DONE, DONE, DONE),
        3,
        3,
        options={"persistent": False},
    ),
    HisRow(
        "idle for longer than it may be",
        GROUP,
        (GOOD, GOOD),
        (DONE, DONE),
        2,
        2,
        pauses_s=1.5,
        options={"reuse_within_s": 1.0},
    ),
    HisRow(
        "idle for less than it may be",
        GROUP,
        ((*GOOD, *GOOD),),
        (DONE, DONE),
        2,
        1,
        pauses_s=0.1,
        options={"reuse_within_s": 5.0},
    ),
    HisRow("a connection that is there before it is needed", GROUP, (GOOD,), (DONE,), 1, 1, kept=True, pauses_s=0.2),
    HisRow(
        "closed while nothing was asked, and another one made beside the work",
        GROUP,
        ((*GOOD, Close()), GOOD),
        (DONE, DONE),
        2,
        2,
        kept=True,
        pauses_s=0.3,
    ),
    HisRow(
        "closed at once, again and again, while nothing is asked",
        GROUP,
        ((Close(),),) * 3,
        (DONE,),
        heard=1,
        kept=True,
        pauses_s=2.0,  # pauses of 0.2, 0.4 and 0.8 s at most between them
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_request_has_its_outcome_when_the_connection_ends_like_this(row: HisRow, tmp_path: Path) -> None:
    check(row, await play(row, tmp_path))
