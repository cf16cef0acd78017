"""A HIS over HTTP gets as many calls at once as `his_concurrency` says: neither more nor, by a second limit, fewer."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from aiohttp import web

from connectors.config import HospitalContext

OPTIONS = {"soap": {"profile": "dhc@1"}, "fhir": {"profile": "fhir_demo@1"}}
ADDRESS = {"soap": "endpoint", "fhir": "base_url"}


class Full:
    """A HIS that answers nobody before `expected` calls are there, or a while has passed; `most`: that were there at once."""

    def __init__(self, expected: int) -> None:
        self.most = self.now = 0
        self._expected = expected
        self._there = asyncio.Event()

    async def hear(self, request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        if request.path.endswith("/metadata"):  # a FHIR server need not say what it can
            return web.Response(status=404)
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now >= self._expected:
            self._there.set()
        try:
            await asyncio.wait_for(self._there.wait(), 5)
        finally:
            self.now -= 1
        return web.Response(status=500)


async def most_at_once(protocol: str, *, bears: int, calls: int, **given: Any) -> int:
    """How many of so many calls stood at the HIS at once."""
    package = importlib.import_module(f"connectors.{protocol}")
    his = Full(min(bears, calls, given.get("max_connections", bears)))
    runner = web.ServerRunner(web.Server(his.hear))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}/his"
    options = package.Options(protocol=protocol, **OPTIONS[protocol], **{ADDRESS[protocol]: address}, **given)
    facts = HospitalContext(id="h1", zone=ZoneInfo("Asia/Shanghai"), calls_at_once=bears)
    connector = package.create(facts, "main", options)
    await connector.start()
    try:
        await asyncio.gather(*(connector.fetch_departments() for _ in range(calls)), return_exceptions=True)
    finally:
        await connector.close()
        await runner.cleanup()
    return his.most


@pytest.mark.parametrize("protocol", ["soap", "fhir"])
@pytest.mark.parametrize("bears", [2, 40])
async def test_his_gets_as_many_calls_at_once_as_it_bears(protocol: str, bears: int) -> None:
    assert await most_at_once(protocol, bears=bears, calls=50) == bears


@pytest.mark.parametrize("protocol", ["soap", "fhir"])
async def test_his_gets_fewer_calls_at_once_when_the_options_say_so(protocol: str) -> None:
    assert await most_at_once(protocol, bears=3, calls=10, max_connections=2) == 2
