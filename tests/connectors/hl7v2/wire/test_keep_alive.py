"""The system probes a silent peer on every connection, the HIS's and ours: one that has vanished is not one at rest."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from connectors.hl7v2.wire import KEEP_ALIVE
from tests.connectors.hl7v2.scripted import FakeHis, answer_all, make_pool, request

from .listening import listening, peer_from

Run = Callable[[Coroutine[Any, Any, None]], None]
ESTABLISHED, PROBES = "01", "02"  # of /proc/net/tcp, as the kernel's proc_net_tcp.txt has them


def probed_within_s(*, ours: int = 0, theirs: int = 0) -> float | None:
    """When the system will probe the peer of the connection whose local port is `ours`, or whose remote one is `theirs`.

    None while it will not.
    """
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, local, remote, state, _, timer, *_ = line.split()
        ports = int(local.partition(":")[2], 16), int(remote.partition(":")[2], 16)
        if state == ESTABLISHED and (ports[0] == ours or ports[1] == theirs):
            kind, _, ticks = timer.partition(":")
            return int(ticks, 16) / os.sysconf("SC_CLK_TCK") if kind == PROBES else None
    return None


async def until_probed(**port: int) -> float:
    async with asyncio.timeout(10):
        while (within_s := probed_within_s(**port)) is None:  # noqa: ASYNC110  # the system tells nobody
            await asyncio.sleep(0.02)
    return within_s


async def _listen() -> None:
    async with listening("probed") as connector:
        peer = peer_from(connector, "127.0.0.1")
        await peer.connect()
        assert await peer.probe()
        assert 0 < await until_probed(ours=connector.listen_port) <= KEEP_ALIVE["TCP_KEEPIDLE"]
        await peer.close()


async def _ask() -> None:
    async with FakeHis(answer_all).listening() as his:
        pool = make_pool(his.port, [])
        await pool.request(request("M1"), 5.0)
        assert 0 < await until_probed(theirs=his.port) <= KEEP_ALIVE["TCP_KEEPIDLE"]
        await pool.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_system_probes_the_peer_when_a_his_has_connected(run: Run) -> None:
    run(_listen())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_system_probes_the_his_when_we_have_connected(run: Run) -> None:
    run(_ask())
