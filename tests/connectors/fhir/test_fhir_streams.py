"""Long searches for Slots: page by page, in a process of their own, and what a bad Slot on any page means for the rest."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web

from connectors.fhir import FhirConnector, sifter
from connectors.port import Acknowledged, Direction, Exchanged, HisReplyInvalid, Passed, Recording
from mappings.canonical import Schedule, ScheduleStatus, Slot, StopScope
from tests.connectors.fhir.fhir_hospital import ZONE, canned, connected
from tests.connectors.fhir.test_fhir_replies import DAY, WINDOW, bundle, outcome

START = dt.datetime(2026, 1, 5, 8, tzinfo=ZONE)


def slot(number: int, schedule: str, status: str = "free", **changes: Any) -> dict[str, Any]:
    """Ten minutes each, 30 in a Schedule's morning and afternoon."""
    start = START + dt.timedelta(minutes=10 * (number % 30))
    return {
        "resourceType": "Slot",
        "id": f"{schedule}-{number}",
        "schedule": {"reference": f"Schedule/{schedule}"},
        "status": status,
        "start": start.isoformat(),
        "end": (start + dt.timedelta(minutes=10)).isoformat(),
        **changes,
    }


SCHEDULES = [
    {
        "resourceType": "Schedule",
        "id": f"s{number}",
        "contained": [{"resourceType": "Location", "id": "room", "name": f"room {number}"}],
        "actor": [
            {"reference": "HealthcareService/100", "display": "内科"},
            {"reference": f"Practitioner/D{number}", "display": f"doctor {number}"},
            {"reference": "#room"},
        ],
    }
    for number in range(4)
]


class Server:
    """Slots in pages of ten, and four Schedules. `asked` are the pages of Slots that were fetched."""

    def __init__(self, slots: Sequence[dict[str, Any]]) -> None:
        self.slots = list(slots)
        self.asked: list[int] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/Schedule"):
            return bundle(*SCHEDULES)
        page = int(request.query.get("page", "0"))
        self.asked.append(page)
        more = {"next": f"Slot?page={page + 1}"} if len(self.slots) > 10 * (page + 1) else {}
        total = len({one["id"] for one in self.slots if one["resourceType"] == "Slot"})
        return bundle(*self.slots[10 * page : 10 * (page + 1)], total=total, **more)


@pytest.fixture(params=["thread", "process"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where pages are sifted: in a thread, or from the second page on in the process."""
    if request.param == "process":
        monkeypatch.setattr(sifter, "ELSEWHERE_FROM", 10)
    return str(request.param)


def four_schedules() -> list[dict[str, Any]]:
    """30 Slots in each of four Schedules; all of the last one's are unavailable."""
    return [slot(n, f"s{k}", "busy-unavailable" if k == 3 else "free") for k in range(4) for n in range(30)]


def process_of(connector: FhirConnector) -> int | None:
    return connector._exchange.sifter.process_id


async def test_slots_of_many_pages_are_all_there_when_they_are_sifted(place: str) -> None:
    server = Server(four_schedules())
    async with canned(server.handle) as base_url, connected(base_url, validation="strict") as connector:
        slots = await connector.fetch_slots(WINDOW, [])
        assert (process_of(connector) is not None) == (place == "process")
    assert server.asked == list(range(12))
    assert len(slots) == 120
    assert slots[31] == Slot(
        id="s1@20260105T001000Z",
        schedule_id="s1",
        date=DAY,
        session=slots[0].session,
        starts_at=START + dt.timedelta(minutes=10),
        ends_at=START + dt.timedelta(minutes=20),
        seats_left=1,
        his_refs={"free": "s1-1"},
    )
    assert {one.schedule_id for one in slots if one.status is ScheduleStatus.STOPPED} == {"s3"}


async def test_schedules_are_known_on_every_page_when_they_come_from_a_search_of_their_own(place: str) -> None:
    server = Server(four_schedules())
    async with canned(server.handle) as base_url, connected(base_url, profile="fhir_r4@1") as connector:
        found = await connector.fetch_schedules(WINDOW)
    told = [(one.id, one.department_id, one.practitioner_name, one.location, one.status) for one in found]
    stopped = [ScheduleStatus.OPEN] * 3 + [ScheduleStatus.STOPPED]
    wanted = [(f"s{k}", "100", f"doctor {k}", f"room {k}", stopped[k]) for k in range(4)]
    assert sorted(set(told)) == wanted


async def test_stop_is_not_inferred_when_a_slot_on_a_later_page_cannot_be_read(place: str) -> None:
    flawed = [*four_schedules(), slot(0, "s3", "banana", id="last"), slot(1, "s9", "busy-unavailable")]
    async with canned(Server(flawed).handle) as base_url, connected(base_url) as connector:
        stops = await connector.fetch_stops(WINDOW)
    assert [(stop.schedule_id, stop.scope) for stop in stops] == [("s9", StopScope.SCHEDULE)]


async def test_nothing_is_stopped_when_a_slot_does_not_say_whose_it_is(place: str) -> None:
    homeless = slot(0, "s3", "banana", id="homeless")
    del homeless["schedule"]
    async with canned(Server([*four_schedules(), homeless]).handle) as base_url, connected(base_url) as connector:
        assert await connector.fetch_stops(WINDOW) == []
        assert len(await connector.fetch_slots(WINDOW, [])) == 120


async def test_slot_counts_once_when_pages_shift_while_they_are_read(place: str) -> None:
    slots = four_schedules()
    async with canned(Server([*slots[:40], *slots[35:]]).handle) as base_url, connected(base_url) as connector:
        found = await connector.fetch_slots(WINDOW, [])
    assert [one.seats_left for one in found if one.status is ScheduleStatus.OPEN] == [1] * 90


async def test_search_fails_and_asks_no_further_when_it_is_strict_and_a_slot_is_bad(place: str) -> None:
    slots = four_schedules()
    slots[25]["end"] = slots[25]["start"]
    server = Server(slots)
    async with canned(server.handle) as base_url, connected(base_url, validation="strict") as connector:
        with pytest.raises(HisReplyInvalid, match="end is not after start"):
            await connector.fetch_slots(WINDOW, [])
    assert server.asked in ([0, 1, 2], [0, 1, 2, 3])  # one page ahead at most


async def test_search_is_completed_here_when_the_process_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sifter, "ELSEWHERE_FROM", 10)
    server = Server(four_schedules())

    async with connected_killer(server) as (connector, killed):
        assert len(await connector.fetch_slots(WINDOW, [])) == 120
        assert len(killed) == 1


class connected_killer:
    """A connector whose process is killed when the eighth page is asked for."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def __aenter__(self) -> tuple[FhirConnector, list[int]]:
        killed: list[int] = []

        async def handle(request: web.Request) -> web.StreamResponse:
            process_id = process_of(self._connector)
            if request.query.get("page") == "8" and process_id is not None:
                killed.append(process_id)
                os.kill(process_id, signal.SIGKILL)
            return await self._server.handle(request)

        self._canned = canned(handle)
        base_url = await self._canned.__aenter__()
        self._connected = connected(base_url)
        self._connector = await self._connected.__aenter__()
        return self._connector, killed

    async def __aexit__(self, *error: Any) -> None:
        await self._connected.__aexit__(*error)
        await self._canned.__aexit__(*error)


async def test_process_ends_when_the_connector_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sifter, "ELSEWHERE_FROM", 10)
    async with canned(Server(four_schedules()).handle) as base_url, connected(base_url) as connector:
        await connector.fetch_slots(WINDOW, [])
        process_id = process_of(connector)
        assert process_id is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)


async def test_two_searches_get_what_is_theirs_when_they_share_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sifter, "ELSEWHERE_FROM", 0)
    async with (
        canned(Server(four_schedules()).handle) as base_url,
        connected(base_url, profile="fhir_r4@1") as connector,
    ):
        searches = [connector.fetch_schedules(WINDOW) for _ in range(7)]  # more than the process remembers
        slots, *found = await asyncio.gather(connector.fetch_slots(WINDOW, []), *searches)
    assert len(slots) == 120
    rooms = [{one.location for one in schedules if isinstance(one, Schedule)} for schedules in found]
    assert rooms == [{f"room {k}" for k in range(4)}] * 7


# --- what is set aside -----------------------------------------------------------------------------------------------


async def test_bad_resource_is_set_aside_once_with_place_and_reason_when_it_comes_with_every_fetch(place: str) -> None:
    slots = four_schedules()
    slots[25]["overbooked"] = "perhaps"
    server = Server(slots)
    told: list[Exchanged | Acknowledged] = []
    async with canned(server.handle) as base_url, connected(base_url) as connector:
        assert isinstance(connector, Recording)
        connector.record_exchanges(told.append)
        for _ in range(2):
            assert len(await connector.fetch_slots(WINDOW, [])) == 119
        slots[25]["overbooked"] = "never"
        await connector.fetch_slots(WINDOW, [])
    first, second = told
    assert isinstance(first, Exchanged)
    assert isinstance(second, Exchanged)
    assert (first.direction, first.state, first.message_type) == (Direction.IN, Passed.REFUSED, "Slot")
    assert first.control_id == "s0-25"
    assert first.error == "set aside: it departs from R4 at overbooked"
    assert json.loads(first.request)["overbooked"] == "perhaps"
    assert json.loads(second.request)["overbooked"] == "never"


async def test_id_that_may_be_a_person_s_is_not_shown_when_a_resource_is_set_aside() -> None:
    told: list[Exchanged | Acknowledged] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        flawed = {"resourceType": "Patient", "id": "11010519491231002X", "birthDate": ["1949"]}
        return bundle(flawed, {"resourceType": "HealthcareService", "id": "100", "name": "内科"})

    async with canned(handle) as base_url, connected(base_url) as connector:
        connector.record_exchanges(told.append)
        assert [one.name for one in await connector.fetch_departments()] == ["内科"]
    [one] = told
    assert isinstance(one, Exchanged)
    assert one.message_type == "Patient"
    assert "11010519491231002X" not in one.control_id


# --- what else comes in a Bundle --------------------------------------------------------------------------------------


async def test_outcome_among_the_entries_is_no_resource_when_it_is_a_remark(place: str) -> None:
    remark = {**outcome("warning", "processing"), "id": "o"}
    slots = [remark, *four_schedules(), {"resourceType": "Basic", "id": "b", "code": {"text": "unknown to us"}}]
    async with canned(Server(slots).handle) as base_url, connected(base_url, validation="strict") as connector:
        assert len(await connector.fetch_slots(WINDOW, [])) == 120


async def test_answer_is_partial_when_an_outcome_on_a_later_page_is_severe(place: str) -> None:
    slots = [*four_schedules(), outcome("error", "timeout")]
    async with canned(Server(slots).handle) as base_url, connected(base_url) as connector:
        with pytest.raises(HisReplyInvalid, match="in part"):
            await connector.fetch_slots(WINDOW, [])


async def test_entry_is_not_found_when_it_comes_as_an_outcome_of_the_search() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        entries = [
            {"resource": slot(0, "s0"), "search": {"mode": "match"}},
            {"resource": slot(1, "s0"), "search": {"mode": "outcome"}},
        ]
        return web.json_response({"resourceType": "Bundle", "type": "searchset", "entry": entries})

    async with canned(handle) as base_url, connected(base_url) as connector:
        assert [one.his_refs for one in await connector.fetch_slots(WINDOW, [])] == [{"free": "s0-0"}]


async def test_bundle_is_not_processed_when_its_rules_are_not_understood() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        body = {"resourceType": "Bundle", "implicitRules": "http://h.example/r", "entry": [{"resource": slot(0, "s0")}]}
        return web.json_response(body)

    async with canned(handle) as base_url, connected(base_url, validation="off") as connector:
        with pytest.raises(HisReplyInvalid, match="implicitRules"):
            await connector.fetch_slots(WINDOW, [])
        with pytest.raises(HisReplyInvalid, match="implicitRules"):
            await connector.fetch_departments()
