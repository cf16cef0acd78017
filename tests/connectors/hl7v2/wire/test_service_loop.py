"""The same rows on uvloop, on which the service runs: its transports, its TLS and its turns are not asyncio's own."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import uvloop

from connectors.config import HospitalContext
from connectors.hl7v2 import Options, create
from connectors.port import Inbound, Stored

from . import test_framing, test_idle, test_limits, test_overtaking, test_tls
from .listening import counted, until
from .rows import Row, adt, framed
from .runner import check, play

NAMES = {
    "fifty messages in one write",
    "a message of 300 KB in pieces of 1 KB",
    "far more, in many writes",
    "a peer whom nobody allowed",
    "half closed after three messages",
    "reset in a message",
    "silent in a message",
    "those before it are stored",
}
PLAIN = [
    row for table in (test_framing, test_idle, test_limits, test_overtaking) for row in table.ROWS if row.name in NAMES
]


@pytest.mark.parametrize("row", PLAIN, ids=str)
def test_wire_row_comes_out_when_it_is_played_on_uvloop(row: Row) -> None:
    check(row, uvloop.run(play(row)))


def test_rows_of_tls_come_out_when_they_are_played_on_uvloop(tmp_path: Path) -> None:
    site = test_tls.Site(tmp_path)
    for kind, row in test_tls.MUTUAL:
        options, known = site.options(mutual=True), site.peer("known")
        check(row, uvloop.run(play(row, server_tls=options, tls=site.peer(kind), served_tls=known)))
    (large,) = (row for _, row in test_tls.ONE_WAY if row.name == "300 KB")
    check(large, uvloop.run(play(large, server_tls=site.options(mutual=False), tls=site.peer("trusting"))))


def test_connection_ends_as_lost_and_nothing_fails_when_the_peer_is_gone_before_it_is_answered() -> None:
    """Two answers are written: the first finds out that nobody is there, the second has no connection any more."""

    async def pulled() -> list[dict[str, object]]:
        failures: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        taking = asyncio.Event()

        async def take(inbound: Inbound) -> Stored:
            taking.set()
            await asyncio.sleep(0.1)
            return Stored()

        options = Options(protocol="hl7v2", profile="hl7v2", listen_port=0)
        connector = create(HospitalContext(id="loop-gone", zone=ZoneInfo("UTC")), "his", options)
        await connector.serve(take)
        _, writer = await asyncio.open_connection("127.0.0.1", connector.listen_port)
        writer.write(framed(adt("M1")) + framed(adt("M2")) + framed(adt("M3")))
        await taking.wait()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        writer.transport.abort()
        await until(lambda: counted("mllp_connections", "loop-gone") == 0)
        await connector.close()
        return failures

    assert uvloop.run(pulled()) == []
    assert counted("mllp_connections_ended_total", "loop-gone", reason="lost") == 1


def test_every_row_named_here_is_there() -> None:
    assert {row.name for row in PLAIN} == NAMES
