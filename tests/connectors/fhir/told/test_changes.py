"""What has changed at the server, asked for by `_lastUpdated`: seen once, seen late, seen in parts."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from connectors.fhir import FhirConnector, Options, create
from connectors.port import HisReplyInvalid, HisUnavailable, Inbound, Order, Stored
from loadtest.simulators import fhir
from mappings.canonical import RegistrationChanged, ScheduleChanged
from mappings.yaml_source import ProfileError
from tests.connectors.fhir.fhir_hospital import HOSPITAL, ORDER_NO, booked_order, canned, connected, fhir_json, hospital
from tests.connectors.fhir.told.desk import Desk


@contextlib.asynccontextmanager
async def watched(**given: Any) -> AsyncIterator[tuple[fhir.FhirSimulator, FhirConnector, Desk, Order]]:
    """A hospital, and one Appointment of ours that is known already."""
    desk = Desk()
    async with hospital(**given) as (simulator, connector):
        await connector.serve(desk.handle)
        order = await booked_order(connector)
        await connector.fetch_changes()
        assert desk.statuses == ["locked"]
        yield simulator, connector, desk, order


@pytest.mark.parametrize(
    ("status", "told"),
    [("cancelled", "released"), ("arrived", "checked_in"), ("noshow", "no_show"), ("fulfilled", "fulfilled")],
)
async def test_change_of_an_appointment_is_handed_on_once_when_the_hospital_makes_it(status: str, told: str) -> None:
    async with watched() as (simulator, connector, desk, order):
        simulator.store.change(order.his_refs["appointment"], status=status)
        assert await connector.fetch_changes() == 1
        assert await connector.fetch_changes() == 0
        last = desk.registrations[-1]
        assert (last.status.value, last.order_no, last.his_id) == (told, ORDER_NO, order.his_refs["appointment"])
        assert desk.asked == 2
        event = desk.events[-1]
        assert isinstance(event, RegistrationChanged)
        assert event.occurred_at is not None
        assert abs((dt.datetime.now(dt.UTC) - event.occurred_at).total_seconds()) < 60


async def test_new_time_is_told_when_the_hospital_moves_an_appointment() -> None:
    later = dt.datetime(2026, 7, 1, 15, 30, tzinfo=dt.UTC)
    async with watched() as (simulator, connector, desk, order):
        simulator.store.change(order.his_refs["appointment"], start=later)
        await connector.fetch_changes()
        assert desk.registrations[-1].starts_at == later


async def test_change_is_known_for_the_same_when_the_connector_was_restarted() -> None:
    async with watched() as (simulator, _, desk, _order), connected(simulator.base_url) as another:
        await another.serve(desk.handle)
        assert await another.fetch_changes() == 1
        assert desk.asked == 2
        assert len(desk.taken) == 1


async def test_change_comes_again_when_it_could_not_be_stored() -> None:
    async with watched() as (simulator, connector, desk, order):
        simulator.store.change(order.his_refs["appointment"], status="cancelled")
        desk.away = True
        with pytest.raises(HisUnavailable, match="stored"):
            await connector.fetch_changes()
        desk.away = False
        assert await connector.fetch_changes() == 1
        assert desk.statuses == ["locked", "released"]


async def test_change_is_seen_when_it_was_committed_late_with_an_old_time() -> None:
    async with watched() as (simulator, connector, desk, order):
        simulator.store.change(order.his_refs["appointment"], status="arrived")
        simulator.store.appointments[order.his_refs["appointment"]].updated -= dt.timedelta(seconds=100)
        assert await connector.fetch_changes() == 1
        assert desk.statuses[-1] == "checked_in"


async def test_stored_change_can_be_read_again() -> None:
    async with watched() as (_, connector, desk, _order):
        (taken,) = desk.taken
        again = connector.read_again(taken.raw, taken.peer)
        assert isinstance(again, Inbound)
        assert (again.dedup_key, again.events) == (taken.dedup_key, taken.events)
        for raw in (b"", b"[]", b"\xff", b'{"resourceType": "Basic"}', b'{"resourceType": "Bundle", "entry": [{}]}'):
            assert not isinstance(connector.read_again(raw, "x"), Inbound)


# --- against a server that answers as it likes -----------------------------------------------------------------------


def appointment(number: int, **more: Any) -> dict[str, Any]:
    patient = {"actor": {"reference": "Patient/1"}, "status": "accepted"}
    return {
        "resourceType": "Appointment", "id": f"a{number}", "status": "booked", "participant": [patient],
        "meta": {"versionId": "1", "lastUpdated": dt.datetime.now(dt.UTC).isoformat()}, **more,
    }  # fmt: skip


def bundle(*resources: dict[str, Any]) -> web.Response:
    entries = [{"resource": resource} for resource in resources]
    return fhir_json(json.dumps({"resourceType": "Bundle", "type": "searchset", "entry": entries}))


async def test_first_look_is_made_in_parts_when_one_search_cannot_give_all() -> None:
    """Every whole window of over six hours is refused; the parts that are asked for leave no gap."""
    asked: list[tuple[dt.datetime, dt.datetime | None]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        times = [dt.datetime.fromisoformat(value[2:]) for value in request.query.getall("_lastUpdated")]
        since, until = times[0], times[1] if len(times) > 1 else None
        if (until or dt.datetime.now(dt.UTC)) - since > dt.timedelta(hours=6, minutes=1):
            return web.Response(text="too much", content_type="text/plain")
        asked.append((since, until))
        return bundle(appointment(len(asked)))

    desk = Desk()
    async with canned(handler) as base_url, connected(base_url) as connector:
        await connector.serve(desk.handle)
        assert await connector.fetch_changes() == len(asked)
    assert len(asked) >= 4
    assert asked[-1][1] is None
    assert all(before[1] == after[0] for before, after in itertools.pairwise(asked))
    assert dt.datetime.now(dt.UTC) - asked[0][0] > dt.timedelta(days=1)


async def test_others_have_the_loop_between_any_two_changes_when_many_come_at_once() -> None:
    """Beside a quick disk the inbox stores a message without waiting for anything: a crowd would wait for all of them."""
    turns = 0
    at: list[int] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        return bundle(*(appointment(number) for number in range(50)))

    async def store(inbound: Inbound) -> Stored:
        at.append(turns)
        return Stored()

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with canned(handler) as base_url, connected(base_url, validation="off") as connector:
        await connector.serve(store)
        crowd = asyncio.create_task(others())
        try:
            assert await connector.fetch_changes() == 50
        finally:
            crowd.cancel()
    assert len(at) == 50
    assert all(before < after for before, after in itertools.pairwise(at))


async def test_look_fails_and_ends_when_the_server_never_gives_a_part() -> None:
    asked = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return web.Response(text="too much", content_type="text/plain")

    async with canned(handler) as base_url, connected(base_url) as connector:
        await connector.serve(Desk().handle)
        with pytest.raises(HisReplyInvalid):
            await connector.fetch_changes()
    assert asked < 20


@pytest.mark.parametrize(
    "last_updated", ["2999-01-01T00:00:00Z", "yesterday", "2026-01-01", 7, None, "9999-12-31T23:59:59-14:00"]
)
async def test_next_change_is_seen_when_a_resource_has_a_time_that_cannot_be(last_updated: Any) -> None:
    replies = [appointment(1, meta={"versionId": "1", "lastUpdated": last_updated})]
    since: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        since.append(request.query["_lastUpdated"])
        return bundle(*replies)

    desk = Desk()
    async with canned(handler) as base_url, connected(base_url, validation="off") as connector:
        await connector.serve(desk.handle)
        await connector.fetch_changes()
        replies.append(appointment(2))
        assert await connector.fetch_changes() == 1
    assert {inbound.control_id for inbound in desk.taken} == {"Appointment/a1", "Appointment/a2"}
    assert all(dt.datetime.fromisoformat(one[2:]) < dt.datetime.now(dt.UTC) for one in since)


async def test_one_cue_asks_for_a_fetch_when_many_slots_have_changed() -> None:
    def slot(number: int) -> dict[str, Any]:
        meta = {"versionId": "2", "lastUpdated": dt.datetime.now(dt.UTC).isoformat()}
        return {
            "resourceType": "Slot", "id": f"s{number}", "meta": meta, "schedule": {"reference": "Schedule/1"},
            "status": "busy", "start": "2026-07-01T08:00:00Z", "end": "2026-07-01T08:10:00Z",
        }  # fmt: skip

    async def handler(request: web.Request) -> web.StreamResponse:
        return bundle(*(slot(number) for number in range(50)))

    desk = Desk()
    async with (
        canned(handler) as base_url,
        connected(base_url, connection={"changes": {"Slot": "status=busy"}}) as connector,
    ):
        await connector.serve(desk.handle)
        assert await connector.fetch_changes() == 1
        assert await connector.fetch_changes() == 0
    assert desk.events == [ScheduleChanged()]
    assert len(desk.taken[0].raw) < 10_000


async def test_appointment_that_cannot_be_mapped_is_set_aside_and_the_others_go_on() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return bundle(appointment(1, status="dreamt"), appointment(2))

    desk = Desk()
    async with canned(handler) as base_url, connected(base_url, validation="off") as connector:
        await connector.serve(desk.handle)
        await connector.fetch_changes()
    assert [inbound.control_id for inbound in desk.taken] == ["Appointment/a2"]


@pytest.mark.parametrize("changes", [{"Basic": ""}, ["Appointment"], {"Slot": 7}])
def test_profile_is_refused_when_it_watches_what_cannot_be(changes: Any) -> None:
    options = Options(protocol="fhir", profile="fhir_r4@1", base_url="http://h/f", connection={"changes": changes})
    with pytest.raises(ProfileError, match="changes"):
        create(HOSPITAL, "his", options)
