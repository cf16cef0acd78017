"""A connector that takes everything, and peers of it: for tests that are no row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from zoneinfo import ZoneInfo

from connectors.config import HospitalContext
from connectors.hl7v2 import HL7v2Connector, Options, create
from connectors.port import Inbound, Stored
from monitoring.metrics import REGISTRY

from .rows import Row
from .runner import Peer


@asynccontextmanager
async def listening(hospital: str, **options: object) -> AsyncIterator[HL7v2Connector]:
    settings = {"protocol": "hl7v2", "profile": "hl7v2", "listen_port": 0, **options}
    connector = create(HospitalContext(id=hospital, zone=ZoneInfo("UTC")), "his", Options(**settings))  # type: ignore[arg-type]

    async def take(inbound: Inbound) -> Stored:
        return Stored()

    await connector.serve(take)
    try:
        yield connector
    finally:
        await connector.close()


def counted(name: str, hospital: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"hisbridge_{name}", {"hospital": hospital, "connector": "his", **labels})


def peer_from(connector: HL7v2Connector, source: str) -> Peer:
    return Peer(connector.listen_port, Row("one of several", "hostile", (), source=source, codec="latin-1"), None)


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110  # a counter tells nobody
            await asyncio.sleep(0.01)
