from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.acceptance.fhir.clients import Client, FhirKit, Fhirpy, SmartClient
from tests.acceptance.installation import KEY, Installation, run_installation
from tests.connectors.node import Program, install

HOSPITAL = "soap-demo"


@pytest.fixture(scope="session")
def npm() -> Path:
    """Where the program of the folder npm runs."""
    return install(Path(__file__).parent / "npm")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Installation]:
    """The service with its simulated hospitals, on real sockets."""
    async with run_installation(tmp_path) as running:
        await running.fetched(HOSPITAL)
        yield running


@pytest.fixture(params=["fhirpy", "fhirclient", "fhir-kit-client"])
async def client(request: pytest.FixtureRequest, site: Installation) -> AsyncIterator[Client]:
    """Each foreign client, at one hospital's base."""
    base = f"{site.base_url}/fhir/R4/hospitals/{HOSPITAL}"
    made: Client
    match request.param:
        case "fhirpy":
            made = Fhirpy(base, KEY)
        case "fhirclient":
            made = SmartClient(base, KEY)
        case _:
            made = FhirKit(Program(request.getfixturevalue("npm"), "client.mjs"), base, KEY)
    yield made
    await made.close()
