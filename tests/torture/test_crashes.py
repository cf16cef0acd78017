"""Somebody is killed at a random moment under load, and nothing acknowledged is lost, nothing is there twice.

`make test` plays a few short rounds, `make torture` 50 with each victim. ROUNDS and SEED choose how many and which: the same
seed kills at the same moment of the load and gives the patients the same wishes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import PostgresUnavailable
from tests.torture.round import run_round
from tests.torture.server import DurableServer, run_durable
from tests.torture.victims import Victim

ROUNDS = os.environ.get("ROUNDS")
SEED = int(os.environ.get("SEED", "1"))

pytestmark = pytest.mark.timeout(900)  # only ends a round that would never end


def seeds(short: int) -> range:
    return range(SEED, SEED + int(ROUNDS or short))


@pytest.fixture(scope="module")
def durable_server() -> Iterator[DurableServer]:
    """A PostgreSQL of these rounds' own: it is killed, and what it has committed must survive."""
    try:
        with run_durable() as server:
            yield server
    except PostgresUnavailable as error:
        pytest.skip(str(error))


async def play(folder: Path, victim: Victim, seed: int, server: DurableServer | None = None) -> None:
    print(f"{victim} seed {seed}: history and logs in {folder}")  # noqa: T201
    played = await run_round(folder, victim, seed, server)
    print(played)  # noqa: T201
    assert played.faults == [], f"{played}; look at {folder}"
    assert played.given > 0


@pytest.mark.parametrize("seed", seeds(2))
async def test_everything_acknowledged_is_there_once_when_the_service_is_killed(tmp_path: Path, seed: int) -> None:
    await play(tmp_path, Victim.SERVICE, seed)


@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize("victim", [Victim.API, Victim.SYNC, Victim.POSTGRES])
async def test_everything_acknowledged_is_there_once_when_a_process_is_killed_on_postgresql(
    tmp_path: Path, durable_server: DurableServer, victim: Victim, seed: int
) -> None:
    await play(tmp_path, victim, seed, durable_server)
