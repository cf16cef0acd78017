"""Peers that are silent, slow, or gone."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from .listening import counted, listening, peer_from, until
from .rows import Anew, Await, Close, HalfClose, Pause, Reset, Row, Step, accepted, adt, framed, sent
from .runner import HANG_S, check, play

UNREADABLE = {"inbound_messages/unreadable": 1}
SLOW = {"inbound_messages/unreadable": 1, "mllp_connections_ended/slow_message": 1}
M1 = framed(adt("M1"))


def dripped(data: bytes, times: int) -> tuple[Step, ...]:
    return (data, Pause(0.1)) * times


ROWS = (
    Row(
        "silent from the beginning",
        "idle",
        (),
        lives=False,
        counted={"mllp_connections_ended/idle": 1},
        options={"idle_timeout_s": 0.3},
    ),
    Row(
        "silent after a message",
        "idle",
        (sent("M1"),),
        accepted("M1"),
        lives=False,
        handled=("M1",),
        counted={"mllp_connections_ended/idle": 1},
        options={"idle_timeout_s": 0.5},
    ),
    Row(
        "a pause between two messages",
        "idle",
        (sent("M1"), Pause(0.6), sent("M2")),
        accepted("M1", "M2"),
        handled=("M1", "M2"),
        options={"frame_timeout_s": 0.3},
    ),
    Row(
        "empty frames that keep it alive",
        "idle",
        dripped(framed(""), 10),
        counted={"inbound_messages/ignored": 10},
        options={"idle_timeout_s": 0.7},
    ),
    Row(
        "line ends that keep it alive",
        "idle",
        dripped(b"\r\n", 10),
        options={"idle_timeout_s": 0.7},
    ),
    Row(
        "silent in a message",
        "idle",
        (M1[:30],),
        lives=False,
        counted=SLOW,
        options={"frame_timeout_s": 0.3},
    ),
    Row(
        "a message that drips without a pause and never ends",
        "idle",
        (b"\x0bMSH|", *dripped(b"x", 30)),
        lives=False,
        counted=SLOW,
        options={"frame_timeout_s": 0.5},
    ),
    Row(
        "messages that only begin",
        "idle",
        (b"\x0b", Pause(2.0)),
        lives=False,
        counted=SLOW,
        options={"frame_timeout_s": 0.5},
    ),
    Row(
        "a message too large that never ends",
        "idle",
        (framed(adt("M1"), end=b"") + b"x" * 5000, *dripped(b"x", 30)),
        lives=False,
        counted=SLOW,
        options={"frame_timeout_s": 0.5, "max_message_bytes": 3000},
    ),
    Row(
        "slow, and in time",
        "idle",
        (M1[:30], Pause(0.3), M1[30:60], Pause(0.3), M1[60:]),
        accepted("M1"),
        handled=("M1",),
        options={"frame_timeout_s": 5.0},
    ),
    Row(
        "half closed after its message", "idle", (sent("M1"), HalfClose()), accepted("M1"), lives=False, handled=("M1",)
    ),
    Row(
        "half closed after three messages",
        "idle",
        (sent("M1", "M2", "M3"), HalfClose()),
        accepted("M1", "M2", "M3"),
        lives=False,
        handled=("M1", "M2", "M3"),
    ),
    Row("half closed in a message", "idle", (M1[:30], HalfClose()), lives=False, counted=UNREADABLE),
    Row("half closed before anything", "idle", (HalfClose(),), lives=False),
    Row("closed in a message", "idle", (M1[:30], Pause(0.1), Close()), lives=False, counted=UNREADABLE),
    Row(
        "closed after its answer", "idle", (sent("M1"), Await(1), Close()), accepted("M1"), lives=False, handled=("M1",)
    ),
    Row(
        "reset in a message",
        "idle",
        (M1[:30], Pause(0.1), Reset()),
        lives=False,
        counted={"inbound_messages/unreadable": 1, "mllp_connections_ended/lost": 1},
    ),
    Row(
        "reset between messages",
        "idle",
        (sent("M1"), Await(1), Reset()),
        accepted("M1"),
        lives=False,
        handled=("M1",),
        counted={"mllp_connections_ended/lost": 1},
    ),
    Row(
        "a connection for each message",
        "idle",
        (sent("M1"), Await(1), Anew(), sent("M2"), Await(2), Anew(), sent("M3")),
        accepted("M1", "M2", "M3"),
        handled=("M1", "M2", "M3"),
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_wire_row_comes_out_when_it_is_played(row: Row) -> None:
    check(row, await play(row))


@pytest.mark.parametrize("both_ways", [False, True], ids=["a listener", "a listener that asks, too"])
async def test_connection_ends_when_its_message_drips_for_as_long_as_it_may(both_ways: bool) -> None:
    """A message has its time from its beginning, however often a byte of it comes."""
    hospital = f"idle-drip-{both_ways}"
    options = {"frame_timeout_s": 0.5, "both_ways": both_ways, "allow": ["127.0.0.1"]}
    async with listening(hospital, **options) as connector:
        peer = peer_from(connector, "127.0.0.1")
        await peer.connect()
        await peer.play((b"\x0bMSH|",))
        async with asyncio.timeout(HANG_S):
            while not peer.over:
                with contextlib.suppress(OSError):  # it may be closed while the byte is written
                    await peer.play((b"x", Pause(0.05)))
        await peer.close()
        await until(lambda: counted("mllp_connections_ended_total", hospital, reason="slow_message") == 1)
