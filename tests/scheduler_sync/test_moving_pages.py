"""A FHIR hospital whose pages shift while they are read, through to the store: bookings and sessions stay as they are."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select

from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import schedules, slots
from connectors.fhir import FhirConnector
from loadtest.simulators import fhir
from loadtest.simulators.control import Fault
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.pull import Puller
from tests.booking.world import HOSPITAL, get, hold, make_hospital, put_patient
from tests.connectors.fhir.fhir_hospital import connected
from tests.stores import Wall

PAGE = 20
His = tuple[fhir.FhirSimulator, FhirConnector]


@pytest_asyncio.fixture
async def his(wall: Wall) -> AsyncIterator[His]:
    """A day of Slots on two pages; it has just begun."""
    simulator = await fhir.start(days=1, seats=1)
    first = min(dt.datetime.fromisoformat(one["start"]) for one in rows_of(simulator))
    wall.turn(first.replace(hour=0, minute=5).timestamp() - wall() / 1000)
    try:
        async with connected(simulator.base_url, connection={"page_size": PAGE}) as connector:
            yield simulator, connector
    finally:
        await simulator.close()


def rows_of(simulator: fhir.FhirSimulator) -> list[dict[str, Any]]:
    return simulator.store.search("Slot", []).matches


def puller(store: Store, hospital: Hospital, connector: FhirConnector) -> Puller:
    return Puller(store, hospital, HospitalLink(hospital, {"his": connector}))


async def seen(store: Store, his_schedule_id: str) -> tuple[Counter[str], Counter[tuple[str, int]]]:
    """The statuses of a schedule's sessions, and those of all slots with their seats."""
    async with store.read(HOSPITAL) as tx:
        sessions = await tx.all(select(schedules.c.status).where(schedules.c.his_id == his_schedule_id))
        found = await tx.all(select(slots.c.status, slots.c.his_left))
    return Counter(one["status"] for one in sessions), Counter((one["status"], one["his_left"]) for one in found)


@pytest.mark.parametrize("mode", ["list_shrinks", "list_grows"])
async def test_nothing_is_stopped_or_lost_when_pages_shift_while_they_are_read(
    store: Store, wall: Wall, his: His, mode: str
) -> None:
    """Of a session all Slots are unavailable but one, which the fault skips: it stands where the second page begins."""
    simulator, connector = his
    hospital = make_hospital()
    pull = puller(store, hospital, connector)
    skipped = rows_of(simulator)[PAGE]
    named = skipped["schedule"]["reference"]
    for one in rows_of(simulator):
        if one["schedule"]["reference"] == named and one["id"] != skipped["id"]:
            simulator.store.blocked[one["id"]] = "busy-unavailable"
    await pull.pull_once()
    before = await seen(store, named.removeprefix("Schedule/"))
    assert before[0]["open"] == 1
    async with store.read(HOSPITAL) as tx:
        [free] = [
            one["id"] for one in await tx.all(select(slots.c.id, slots.c.his_refs)) if skipped["id"] in one["his_refs"]
        ]
    booking = await hold(store, hospital, free, await put_patient(store))

    simulator.board.faults.append(Fault("fetch_slots", mode, None, 0.0))
    for _ in range(2):
        wall.turn(60)
        await pull.pull_once()
        assert (await seen(store, named.removeprefix("Schedule/")))[0]["open"] >= 1
        assert sum((await seen(store, named.removeprefix("Schedule/")))[1].values()) == before[1].total()
        assert (await get(store, booking.id)).state == "held"

    simulator.board.faults.clear()
    wall.turn(60)
    await pull.pull_once()
    assert await seen(store, named.removeprefix("Schedule/")) == before
    assert (await get(store, booking.id)).state == "held"
    simulator.store.blocked[skipped["id"]] = "busy-unavailable"
    wall.turn(60)
    await pull.pull_once()
    assert (await seen(store, named.removeprefix("Schedule/")))[0]["open"] == 0
    assert (await get(store, booking.id)).state == "stopped"


async def test_each_slot_is_read_once_when_a_hospital_is_synced(store: Store, his: His) -> None:
    """Schedules, seats and stops are three things of the same Slots."""
    simulator, connector = his
    await puller(store, make_hospital(), connector).pull_once()
    rows = len(rows_of(simulator))
    assert simulator.board.calls["fetch_slots"] == -(-rows // PAGE) > 1
    async with store.read(HOSPITAL) as tx:
        assert sum(one["his_left"] for one in await tx.all(select(slots.c.his_left))) == rows
