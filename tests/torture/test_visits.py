"""The service is killed in the middle of visits: no fen is lost or doubled, no seat, no event, no document.

`make test` plays a short round on each store; `make torture` ROUNDS of them, which go through all moments. The same SEED kills at
the same moments and gives everybody the same wishes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.postgres import PostgresServer
from tests.torture.visits.round import run_round

ROUNDS = os.environ.get("ROUNDS")
SEED = int(os.environ.get("SEED", "1"))
BLOWS, BLOWS_ON_POSTGRESQL, LINES = (6, 6, 20_000) if ROUNDS else (2, 1, 1_000)

pytestmark = pytest.mark.timeout(900)  # only ends a round that would never end
seeds = pytest.mark.parametrize("seed", range(SEED, SEED + int(ROUNDS or 1)))


async def play(folder: Path, seed: int, server: PostgresServer | None = None) -> None:
    played = await run_round(folder, seed, BLOWS if server is None else BLOWS_ON_POSTGRESQL, LINES, server)
    print(played)  # noqa: T201
    assert played.faults == [], f"{played}; look at {folder}"
    assert played.told.held


@seeds
async def test_no_fen_and_no_seat_goes_astray_when_the_service_is_killed_in_a_visit(tmp_path: Path, seed: int) -> None:
    await play(tmp_path, seed)


@seeds
async def test_none_does_when_its_processes_are_killed_on_postgresql(
    tmp_path: Path, postgres_server: PostgresServer, seed: int
) -> None:
    await play(tmp_path, seed, postgres_server)
