"""Peers that mean ill, or speak something else: they harm nobody but themselves."""

from __future__ import annotations

import asyncio
import gc
import itertools
import tracemalloc
from collections.abc import Coroutine, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from monitoring.logs import configure_logging

from .listening import counted, listening, peer_from
from .rows import Answer, Close, HalfClose, Pause, Reset, Row, accepted, adt, framed, sent
from .runner import HANG_S, Peer, check, play

T = TypeVar("T")
_numbers = itertools.count(1)

UNDECODABLE = Answer("AR", "", "102", "MSH^1^18")
JUNK = {"inbound_messages/unreadable": 1}
HELLO = bytes.fromhex("16030102000100") + b"\x01\xfc\x03\x03" + b"r" * 200  # TLS, without a byte that opens a frame

ROWS = (
    Row(
        "ten thousand beginnings",
        "hostile",
        (b"\x0b" * 10_000 + sent("M1"),),
        accepted("M1"),
        handled=("M1",),
        counted=JUNK,
    ),
    Row(
        "ten thousand ends", "hostile", (b"\x1c" * 10_000 + sent("M1"),), accepted("M1"), handled=("M1",), counted=JUNK
    ),
    Row(
        "beginnings and ends in turn",
        "hostile",
        (b"\x0b\x1c" * 5000 + sent("M1"),),
        accepted("M1"),
        handled=("M1",),
        counted={"inbound_messages/ignored": 5000},
    ),
    Row(
        "five hundred tiny frames",
        "hostile",
        (framed("x") * 500 + sent("M1"),),
        (*(Answer("AR", "", "100"),) * 500, *accepted("M1")),
        handled=("M1",),
        counted={"inbound_messages/unreadable": 500},
    ),
    Row(
        "a browser",
        "hostile",
        (b"GET / HTTP/1.1\r\nHost: his\r\n\r\n",),
        counted=JUNK,
    ),
    Row("TLS where there is none", "hostile", (HELLO,), counted=JUNK),
    Row(
        "every byte but the envelope, in a frame",
        "hostile",
        (framed(bytes(n for n in range(256) if n not in (0x0B, 0x1C))),),
        (UNDECODABLE,),
        counted=JUNK,
    ),
    Row("a frame of zeros", "hostile", (framed(bytes(5000)),), (UNDECODABLE,), counted=JUNK),
    Row(
        "a frame of nothing but segment ends",
        "hostile",
        (framed("\r" * 5000),),
        counted={"inbound_messages/ignored": 1},
    ),
    Row("three letters", "hostile", (framed("MSH"),), (Answer("AR", "", "100"),), counted=JUNK),
    Row(
        "a frame in a frame",
        "hostile",
        (b"\x0b" + sent("M1") + b"\x1c\r",),
        accepted("M1"),
        handled=("M1",),
        counted={"inbound_messages/unreadable": 2},
    ),
    Row(
        "a control id of 50 KB",
        "hostile",
        (framed(adt("7" * 50_000)),),
        (Answer("AR", "7" * 50_000, "102", "MSH^1^10"),),
        counted={"inbound_messages/refused": 1},
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_wire_row_comes_out_when_it_is_played(row: Row) -> None:
    check(row, await play(row))


async def test_quiet_peer_is_served_while_another_one_floods() -> None:
    """Turns of the loop are given in their order: the flood has not been answered when the quiet one is."""
    async with listening("hostile-flood") as connector:
        flooding, quiet = (peer_from(connector, "127.0.0.1") for _ in range(2))
        for peer in (flooding, quiet):
            await peer.connect()
        tiny = framed("x") * 5000
        flood = asyncio.create_task(flooding.play((tiny, tiny)))
        await flooding.wait_for(1)
        assert await quiet.probe()
        assert len(flooding.answers) < 10_000
        await flooding.wait_for(10_000)
        await flood
        assert len(flooding.answers) == 10_000
        assert await flooding.probe()
        for peer in (flooding, quiet):
            await peer.close()


async def test_log_is_not_flooded_when_a_peer_sends_rubbish(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging()  # to this test's stderr, wherever an earlier test sent it
    async with listening("hostile-log") as connector:
        peer = peer_from(connector, "127.0.0.1")
        await peer.connect()
        for _ in range(50):
            await peer.play((framed("x") + b"junk", Pause(0.002)))
        await peer.wait_for(50)
        await peer.close()
    lines = capfd.readouterr().err.splitlines()
    assert 1 <= sum("hl7_bytes_dropped" in line for line in lines) <= 2
    assert 1 <= sum("hl7_message_unreadable" in line for line in lines) <= 2


# --- whatever comes ------------------------------------------------------------------------------------------------------

SHARDS = st.one_of(
    st.integers(0, 9).map(lambda n: sent(f"M{n}")),
    st.sampled_from([b"\x0b", b"\x1c", b"\r", b"\x1c\r", b"MSH|^~\\&|", b"\xef\xbb\xbf", framed(""), framed(adt(""))]),
    st.binary(max_size=60),
    st.integers(0, 9).map(lambda n: framed(adt(f"L{n}") + "NTE|1||" + "x" * 9000 + "\r")),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A stream of messages and shards with some of its bytes cut out, changed or doubled."""
    stream = bytearray(b"".join(draw(st.lists(SHARDS, min_size=1, max_size=8))))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(stream)))
        match draw(st.sampled_from(["cut", "change", "double"])):
            case "cut":
                del stream[at : at + draw(st.integers(1, 20))]
            case "change":
                stream[at : at + 1] = draw(st.binary(min_size=1, max_size=3))
            case "double":
                stream[at:at] = stream[at : at + 30]
    return bytes(stream)


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    edges = sorted({min(place, len(stream)) for place in places} | {0, len(stream)})
    return [stream[start:stop] for start, stop in pairwise(edges)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated(), st.lists(st.integers(0, 4000), max_size=8))
def test_connection_lives_and_good_messages_are_answered_when_others_are_mutilated(
    stream: bytes, places: list[int]
) -> None:
    """Whatever came before, a whole message behind it is answered, by the same answers however the bytes are cut."""

    async def play_it() -> tuple[list[str], list[str]]:
        async with listening(f"hostile-{next(_numbers)}", max_message_bytes=5000) as connector:
            told = []
            for reads in ([stream], cut(stream, places)):
                peer = peer_from(connector, "127.0.0.1")
                await peer.connect()
                await peer.play(reads)
                assert await peer.probe()
                told.append([f"{answer.get('MSA', 1)} {answer.get('MSA', 2)}" for answer in peer.answers])
                await peer.close()
            return told[0], told[1]

    whole, pieces = asyncio.run(play_it())
    assert whole == pieces


class HostilePeers(RuleBasedStateMachine):
    """Several peers do what they like, in any order. All the while a plain one is served, and nothing is left of them."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._listening = listening(f"hostile-{next(_numbers)}", max_message_bytes=5000, max_connections=8)
        self._connector = self._run(self._listening.__aenter__())
        self._peers: list[Peer] = []

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(asyncio.wait_for(work, HANG_S))

    @precondition(lambda self: len(self._peers) < 6)
    @rule()
    def connect(self) -> None:
        peer = peer_from(self._connector, "127.0.0.1")
        self._run(peer.connect())
        self._peers.append(peer)

    @precondition(lambda self: self._peers)
    @rule(data=st.data(), stream=mutated())
    def send(self, data: st.DataObject, stream: bytes) -> None:
        self._run(data.draw(st.sampled_from(self._peers)).play((stream,)))

    @precondition(lambda self: self._peers)
    @rule(data=st.data(), how=st.sampled_from([Close(), Reset(), HalfClose()]))
    def leave(self, data: st.DataObject, how: Close | Reset | HalfClose) -> None:
        peer = data.draw(st.sampled_from(self._peers))
        self._run(peer.play((how,)))
        self._peers.remove(peer)
        if isinstance(how, HalfClose):
            self._run(peer.ended())
            self._run(peer.close())

    @rule()
    def serve_a_plain_peer(self) -> None:
        peer = peer_from(self._connector, "127.0.0.2")
        self._run(peer.connect())
        try:
            assert self._run(peer.probe())
        finally:
            self._run(peer.close())

    def teardown(self) -> None:
        for peer in self._peers:
            self._run(peer.close())
        self._run(self._listening.__aexit__(None, None, None))
        try:
            assert not asyncio.all_tasks(self._loop)
            assert counted("mllp_connections", self._connector.hospital_id) == 0
        finally:
            self._loop.close()


TestHostilePeers = HostilePeers.TestCase
TestHostilePeers.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


async def test_memory_does_not_grow_when_a_peer_sends_rubbish_without_end() -> None:
    async with listening("hostile-memory", max_message_bytes=100_000) as connector:
        peer = peer_from(connector, "127.0.0.1")
        await peer.connect()
        rubbish = b"junk" * 2000 + b"\x0b" * 2000 + b"MSH|" + b"x" * 60_000 + framed("") + framed(adt("M1", mode="X"))
        assert await peer.probe()

        async def round_of(times: int) -> int:
            del peer.answers[:]
            for _ in range(times):
                await peer.play((rubbish,))
            await peer.wait_for(times)
            del peer.answers[:]
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            warm = await round_of(20)
            assert await round_of(60) - warm < 300_000  # of 5 MB that were sent
        finally:
            tracemalloc.stop()
        await peer.close()
