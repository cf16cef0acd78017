"""Fixtures: every foreign client and server by turns, and the listener that the clients send to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from connectors.hl7v2 import HL7v2Connector
from connectors.port import Inbound, Stored
from mappings.canonical import AnyEvent
from tests.connectors.node import install

from ..conftest import MakeConnector
from .clients import Client, NodeClient, PythonHL7, PythonHL7Streams
from .servers import HL7apyServer, NodeServer, PythonHL7Server, Server

SERVERS = ("python-hl7", "hl7apy", "@medplum/hl7", "@medplum/hl7 enhanced", "simple-hl7")
CLIENTS = ("python-hl7", "python-hl7 streams", "@medplum/hl7", "simple-hl7")


@pytest.fixture(scope="session")
def npm() -> Path:
    """Where the programs of the folder npm run."""
    return install(Path(__file__).parent / "npm")


@pytest.fixture(params=CLIENTS)
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """A foreign client, not connected yet."""
    makers: dict[str, Callable[[], Client]] = {
        "python-hl7": PythonHL7,
        "python-hl7 streams": PythonHL7Streams,
        "@medplum/hl7": lambda: NodeClient(request.getfixturevalue("npm"), "medplum-client.mjs"),
        "simple-hl7": lambda: NodeClient(request.getfixturevalue("npm"), "simple-client.mjs"),
    }
    made = makers[request.param]()
    yield made
    await made.close()
    if isinstance(made, NodeClient):
        await asyncio.to_thread(made.end)


@pytest.fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """A foreign server that listens."""
    makers: dict[str, Callable[[], Server]] = {
        "python-hl7": PythonHL7Server,
        "hl7apy": HL7apyServer,
        "@medplum/hl7": lambda: NodeServer(request.getfixturevalue("npm"), "medplum-server.mjs"),
        # Sends a commit acknowledgement (CA) before each answer, asked for or not.
        "@medplum/hl7 enhanced": lambda: NodeServer(request.getfixturevalue("npm"), "medplum-server.mjs", commits=True),
        "simple-hl7": lambda: NodeServer(request.getfixturevalue("npm"), "simple-server.mjs"),
    }
    made = makers[request.param]()
    await made.start()
    yield made
    await made.close()


class Listener:
    """Our listener, and what it handed on."""

    def __init__(self, make_connector: MakeConnector) -> None:
        self._make = make_connector
        self.taken: list[Inbound] = []
        self.connector: HL7v2Connector | None = None

    @property
    def port(self) -> int:
        assert self.connector is not None
        return self.connector.listen_port

    @property
    def events(self) -> list[AnyEvent]:
        return [event for inbound in self.taken for event in inbound.events]

    async def open(self, port: int = 0, **options: object) -> int:
        """Listen; returns the port."""
        self.connector = self._make("hl7v2", listen_port=port, **options)
        await self.connector.serve(self._take)
        return self.port

    async def close(self) -> None:
        assert self.connector is not None
        await self.connector.close()

    async def _take(self, inbound: Inbound) -> Stored:
        self.taken.append(inbound)
        return Stored()


@pytest.fixture
def listener(make_connector: MakeConnector) -> Listener:
    return Listener(make_connector)
