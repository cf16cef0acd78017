"""Deletions, which no `_lastUpdated` shows: the daily look at all Appointments of ours."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from connectors.fhir import FhirConnector
from connectors.port import Order
from loadtest.simulators import fhir
from tests.connectors.fhir.fhir_hospital import booked_order, hospital, switch
from tests.connectors.fhir.told.desk import Desk

DAY_S = 86_400.0


class Days:
    """The clock of sweeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def days(monkeypatch: pytest.MonkeyPatch) -> Days:
    clock = Days()
    monkeypatch.setattr("connectors.fhir.changes.monotonic", clock)
    return clock


@contextlib.asynccontextmanager
async def swept(days: Days) -> AsyncIterator[tuple[fhir.FhirSimulator, FhirConnector, Desk, Order]]:
    """One Appointment of ours that a sweep has seen."""
    desk = Desk()
    async with hospital(days=1, connection={"sweep_days": 3}) as (simulator, connector):
        await connector.serve(desk.handle)
        order = await booked_order(connector)
        days.now += DAY_S
        await connector.fetch_changes()
        assert desk.statuses == ["locked"]
        yield simulator, connector, desk, order


@pytest.mark.parametrize("forgets", [False, True], ids=["410", "404"])
async def test_booking_is_released_when_its_appointment_was_deleted(forgets: bool, days: Days) -> None:
    async with swept(days) as (simulator, connector, desk, order):
        simulator.store.delete(order.his_refs["appointment"])
        if forgets:
            simulator.store.gone.clear()
        await connector.fetch_changes()
        assert desk.statuses == ["locked"]  # no _lastUpdated shows it
        days.now += DAY_S
        await connector.fetch_changes()
        assert desk.statuses == ["locked", "released"]
        assert desk.registrations[-1].his_id == order.his_refs["appointment"]


async def test_nothing_is_released_when_all_is_there_or_the_server_is_away(days: Days) -> None:
    async with swept(days) as (simulator, connector, desk, order):
        days.now += DAY_S
        await connector.fetch_changes()
        days.now += DAY_S
        simulator.store.delete(order.his_refs["appointment"])
        switch(simulator, "read_appointment", "down")
        await connector.fetch_changes()
        assert desk.statuses == ["locked"]


async def test_changes_go_on_when_the_sweep_fails_and_it_is_made_again_after_an_hour(days: Days) -> None:
    async with swept(days) as (simulator, connector, desk, order):
        simulator.store.delete(order.his_refs["appointment"])
        switch(simulator, "read_appointment", "fault", times=1)
        days.now += DAY_S
        await connector.fetch_changes()
        assert desk.statuses == ["locked"]
        another = await booked_order(connector)
        assert await connector.fetch_changes() == 1
        assert desk.registrations[-1].his_id == another.his_refs["appointment"]
        days.now += 3_600
        await connector.fetch_changes()
        assert desk.statuses[-1] == "released"


async def test_nothing_is_believed_when_most_appointments_are_missing_at_once(
    days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.fhir.changes.FEW", 0)
    async with swept(days) as (simulator, connector, desk, order):
        simulator.store.delete(order.his_refs["appointment"])
        days.now += DAY_S
        await connector.fetch_changes()
        assert desk.statuses == ["locked"]
