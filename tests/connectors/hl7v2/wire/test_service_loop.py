"""The same rows on uvloop, on which the service runs: its transports, its TLS and its turns are not asyncio's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import uvloop

from . import test_framing, test_idle, test_limits, test_overtaking, test_tls
from .rows import Row
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


def test_every_row_named_here_is_there() -> None:
    assert {row.name for row in PLAIN} == NAMES
